"""Profiles by layer: where in the model fine-tuning contributes, as median and quantile band over prompts.

A profile takes one number per prompt and layer from measurements: of a map its last token, or β.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import WORDS
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.statistic import Statistic, check_range, float32, missing_note, set_title, window
from tuco_lens.plots.template import Look, Theme, look

if TYPE_CHECKING:
    from tuco_lens.engine.metrics import Norm
    from tuco_lens.results.measurement import Measurement, PromptMeasurement

ProfileKind = Literal["cumulative", "local", "drift", "beta"]
NAME_CHARACTERS: Final = 40
"""Length at which the name of a group is cut."""
_DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash")
_TITLES: Final[dict[str, str]] = {
    "cumulative": "TuCo so far at the last token",
    "local": "FTC's share of each layer, last token",
    "drift": "Drift of two runs at the last token",
    "beta": "β by layer, all tokens",
}


@dataclass(frozen=True, eq=False)
class LayerProfile(Statistic):
    """One number per prompt and layer, for one or several groups of prompts.

    Raises:
        InputError: if there is no group, one has no prompts, layers differ in number, or quantiles are no range.
    """

    groups: Mapping[str, Float[Tensor, "prompt layer"]] = field(repr=False)
    """The values of each group; NaN is a missing value and left out of median and band."""
    kind: ProfileKind = "cumulative"
    """What the values are: a map at the last token, or β_l over all tokens."""
    norm: Norm = "l1"
    """The norm that they were made with."""
    quantiles: tuple[float, float] = (0.25, 0.75)
    """Ends of the band, in [0, 1]."""
    first_layer: int = 0
    """Number of the first layer."""
    low: float | None = None
    """Lower end of the axis; None to let the data decide."""
    high: float | None = None
    """Its upper end."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def n_layers(self) -> int:
        """Layers of each profile."""
        return next(iter(self.groups.values())).shape[1]

    def median(self, group: str) -> Float[Tensor, " layer"]:
        """The median over a group's prompts, [n_layers]; NaN where no prompt has a value."""
        return self.groups[group].float().nanquantile(0.5, dim=0)

    def band(self, group: str) -> tuple[Float[Tensor, " layer"], Float[Tensor, " layer"]]:
        """The two quantiles over a group's prompts, [n_layers] each."""
        values = self.groups[group].float()
        low, high = (values.nanquantile(share, dim=0) for share in self.quantiles)
        return low, high

    def layers(self, first: int | None = None, last: int | None = None) -> LayerProfile:
        """The same profile from layer `first` up to, and without, `last`; counted as in `LayerTokenMap.layers`."""
        kept = window(first, last, start=self.first_layer, size=self.n_layers, what="layers")
        groups = {name: values[:, kept] for name, values in self.groups.items()}
        return replace(self, groups=groups, first_layer=self.first_layer + kept.start)

    def clip(self, low: float, high: float) -> LayerProfile:
        """The same profile with an axis from `low` to `high`."""
        check_range(low, high)
        return replace(self, low=low, high=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: the median as a line, the quantiles as a band; a group of one prompt is a line without a band."""
        colours = look(theme)
        figure = Figure()
        for i, name in enumerate(self.groups):
            style = {"color": colours.colorway[i % len(colours.colorway)], "dash": _DASHES[i % len(_DASHES)]}
            figure.add_traces(list(self._traces(name, style)))
        self._lay_out(figure, colours)
        return figure

    def _traces(self, name: str, style: dict[str, str]) -> Iterator[go.Scatter]:
        layers = np.arange(self.first_layer, self.first_layer + self.n_layers, dtype=np.float32)
        low, high = (float32(side) for side in self.band(name))
        if self._n(name) > 1:
            yield _band(layers, low, high, style["color"], name)
        yield self._line(name, layers, np.stack([low, high], axis=-1), style)

    def _line(
        self, name: str, layers: Float32[np.ndarray, " layer"], ends: Float32[np.ndarray, "layer 2"], style: Any
    ) -> go.Scatter:
        said = ["<b>%{meta}</b>", "layer %{x}"]
        if self._n(name) > 1:
            said += ["median %{y:.4f}", f"{self._percents} %{{customdata[0]:.4f}} to %{{customdata[1]:.4f}}"]
        else:
            said += ["%{y:.4f}"]
        shown = plotly_text(readable(name, NAME_CHARACTERS))
        return go.Scatter(
            x=layers,
            y=float32(self.median(name)),
            customdata=ends,
            mode="lines+markers" if self.n_layers <= 40 else "lines",
            marker={"size": 5},
            line={**style, "width": 2},
            name=f"{shown} (n = {self._n(name)})",
            meta=shown,
            legendgroup=name,
            hovertemplate="<br>".join(said) + "<extra></extra>",
        )

    def _lay_out(self, figure: go.Figure, colours: Look) -> None:
        counts = [self._n(name) for name in self.groups]
        drawn = f"median, {self._percents} band" if max(counts) > 1 else "one prompt, no band"
        alone = "" if max(counts) == 1 or min(counts) > 1 else "no band for one prompt"
        total = f"n = {counts[0]}" if len(counts) == 1 and counts[0] > 1 else ""
        missing = missing_note(np.concatenate([float32(values).ravel() for values in self.groups.values()]))
        label = "β" if self.kind == "beta" else WORDS[self.kind].value
        bottom = {"rangemode": "tozero"} if self.low is None or self.high is None else {"range": [self.low, self.high]}
        figure.update_layout(
            template=colours.template,
            height=400,
            hovermode="closest",
            showlegend=len(counts) > 1,
            legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
            xaxis={
                "title": {"text": "layer"},
                "range": [self.first_layer - 0.5, self.first_layer + self.n_layers - 0.5],
            },
            yaxis={"title": {"text": f"{label} ({self.norm.upper()})"}, **bottom},
        )
        set_title(figure, f"{_TITLES[self.kind]}, {self.norm.upper()}", total, drawn, alone, missing)

    def _n(self, name: str) -> int:
        return self.groups[name].shape[0]

    @property
    def _percents(self) -> str:
        low, high = (f"{100 * share:g}" for share in self.quantiles)
        return f"{low}–{high} %"


def layer_profile(
    measured: Measurement | Mapping[str, Measurement],
    kind: ProfileKind = "cumulative",
    *,
    quantiles: tuple[float, float] = (0.25, 0.75),
) -> LayerProfile:
    """The profile of one measurement, or of several by name: `{"chat": …, "web": …}`.

    Args:
        measured: what `ModelPair.measure` returned.
        kind: "cumulative", "local" or "drift" for that map at each prompt's last token; "beta" for β_l.
        quantiles: ends of the band over prompts, in [0, 1].

    Raises:
        InputError: for a group without prompts, groups of different layers or norms, an unknown kind, or drift that
            was not measured.
    """
    named = measured if isinstance(measured, Mapping) else {"prompts": measured}
    if kind not in get_args(ProfileKind):
        kinds = ", ".join(get_args(ProfileKind))
        raise InputError(f"no profile {kind!r}", f"there are {kinds}", "name one of them")
    norms: set[Norm] = {group.settings.norm for group in named.values()}
    if len(norms) > 1:
        raise InputError("no profile", f"the groups have different norms: {', '.join(sorted(norms))}", "use one norm")
    groups = {name: _values(name, group, kind) for name, group in named.items()}
    return LayerProfile(groups, kind, *norms, quantiles=quantiles)


def _values(name: str, group: Measurement, kind: ProfileKind) -> Float[Tensor, "prompt layer"]:
    if not len(group):
        raise _empty(name)
    return torch.stack([_row(item, kind) for item in group])


def _row(item: PromptMeasurement, kind: ProfileKind) -> Float[Tensor, " layer"]:
    if kind != "beta":
        return item.last_token(kind)
    item.require_maps()
    return item.beta_by_layer


def _band(
    layers: Float32[np.ndarray, " layer"],
    low: Float32[np.ndarray, " layer"],
    high: Float32[np.ndarray, " layer"],
    colour: str,
    group: str,
) -> go.Scatter:
    known = np.isfinite(low) & np.isfinite(high)
    return go.Scatter(
        x=np.concatenate([layers[known], layers[known][::-1]]),
        y=np.concatenate([high[known], low[known][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        line={"width": 0},
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
    )


def _empty(name: str) -> InputError:
    shown = readable(name, NAME_CHARACTERS)
    return InputError("no profile", f"the group {shown!r} has no prompts", "measure some, or leave the group out")


def _check(profile: LayerProfile) -> None:
    if not profile.groups:
        raise InputError("no profile", "there is no group", "give at least one measurement")
    sizes = {name: tuple(values.shape) for name, values in profile.groups.items()}
    for name, shape in sizes.items():
        if len(shape) != 2 or not shape[1]:
            raise InputError("no profile", f"the shape of a group is {shape}", "give [n_prompts, n_layers]")
        if not shape[0]:
            raise _empty(name)
    if len({layers for _, layers in sizes.values()}) > 1:
        counts = ", ".join(str(layers) for _, layers in sizes.values())
        raise InputError(
            "no profile", f"the groups have different numbers of layers: {counts}", "use pairs of one size"
        )
    low, high = profile.quantiles
    if not 0 <= low < high <= 1:
        raise InputError("no band", f"{low} to {high} are no quantiles", "give two in [0, 1], the lower one first")
