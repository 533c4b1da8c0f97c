"""The layer × token map of one prompt: the statistic and its heatmap, the picture that everything here draws.

What the maps are is in docs/maths.md and `results/measurement.py` (`PromptMeasurement.layer_token`); columns, labels
and spans are drawn by `token_axis.py`; the difference of two maps is in `difference.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float32, UInt16

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.statistic import Statistic, check_range, float32, missing_note, set_title, window
from tuco_lens.plots.template import SEQUENTIAL, Look, Theme, look
from tuco_lens.plots.token_axis import HOVER_NAME, TokenAxis, add_band

if TYPE_CHECKING:
    from torch import Tensor

    from tuco_lens.engine.metrics import Norm
    from tuco_lens.plots.difference import MapDifference
    from tuco_lens.results.measurement import MapKind, PromptMeasurement

MAX_EXACT_CELLS: Final = 20_000
"""Most cells of which values and both norms are sent in float32; of larger maps 16 bits of the values and of the norms'
sum."""
PACKED_UNIT: Final = 1e-4
"""Unit of the values sent of a larger map: as many digits as the hover text shows."""
SUBSCRIPT: Final[dict[str, str]] = {"l1": "₁", "l2": "₂"}
"""Behind ‖…‖."""


@dataclass(frozen=True)
class MapWords:
    """How one kind of map is called in a figure."""

    title: str
    """Above the figure."""
    value: str
    """The quantity, in the colour bar and the hover text."""
    ptc: str
    """The first norm of the ratio, in the hover text."""
    ftc: str
    """The second norm of the ratio."""


WORDS: Final[dict[str, MapWords]] = {
    "cumulative": MapWords("TuCo so far (cumulative)", "TuCo so far", "ΣPTC", "ΣFTC"),
    "local": MapWords("FTC's share of each layer (local)", "FTC share of the layer", "PTC", "FTC"),
    "drift": MapWords("Drift of two independent runs", "drift", "PTC", "FTC"),
}


@dataclass(frozen=True, eq=False)
class LayerTokenMap(Statistic):
    """‖F‖ / (‖P‖ + ‖F‖) of one prompt by layer and token, or a part of it.

    Raises:
        InputError: if `values` is not a non-empty matrix, or its shape differs from that of another field.
    """

    values: Float[Tensor, "layer token"] = field(repr=False)
    """The map, in [0, 1], row 0 the first block; NaN is a missing value."""
    token_texts: tuple[str, ...] = field(repr=False)
    """Text of each token, [n_tokens]; figures show it as it is, markup and control characters included."""
    kind: MapKind = "cumulative"
    """Which map it is."""
    norm: Norm = "l1"
    """The norm that it was made with."""
    token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    """Id of each token, [n_tokens]."""
    roles: tuple[str, ...] | None = field(default=None, repr=False)
    """Role of each token ("system", "user", "assistant", "template", "text"), [n_tokens]."""
    ptc: Float[Tensor, "layer token"] | None = field(default=None, repr=False)
    """‖PTC‖; of a cumulative map ‖ΣPTC‖. Drawn only together with `ftc`."""
    ftc: Float[Tensor, "layer token"] | None = field(default=None, repr=False)
    """‖FTC‖, as `ptc`."""
    first_layer: int = 0
    """Number of the first row's layer."""
    first_token: int = 0
    """Position of the first column's token in the prompt."""
    reaches_end: bool = True
    """Whether the last row and column are the last layer and token, where a cumulative map has the prompt's TuCo."""
    zmin: float = 0.0
    """Value of the scale's first colour."""
    zmax: float | None = None
    """Value of its last; None for the largest of the map. Give several maps one range (`clip`) to compare them."""

    def __post_init__(self) -> None:
        _check_shapes(self)

    @property
    def n_layers(self) -> int:
        """Rows."""
        return self.values.shape[0]

    @property
    def n_tokens(self) -> int:
        """Columns."""
        return self.values.shape[1]

    @property
    def tuco(self) -> float | None:
        """The prompt's TuCo, if this map holds it."""
        return self.values[-1, -1].item() if self.kind == "cumulative" and self.reaches_end else None

    @property
    def axis(self) -> TokenAxis:
        """The columns, for figures."""
        positions = tuple(str(self.first_token + column) for column in range(self.n_tokens))
        return TokenAxis(self.token_texts, positions, self.token_ids, self.roles)

    def layers(self, first: int | None = None, last: int | None = None) -> LayerTokenMap:
        """The same map from layer `first` up to, and without, layer `last`.

        Both are layer numbers as the axis shows them, also in a part of a map. As in slices, negative ones count from
        the end, and those beyond an end mean that end: `.layers(-4)` is the last four.

        Raises:
            InputError: if no layer is left.
        """
        rows = window(first, last, start=self.first_layer, size=self.n_layers, what="layers")
        return self._part(rows, slice(0, self.n_tokens))

    def tokens(self, first: int | None = None, last: int | None = None) -> LayerTokenMap:
        """The same map from position `first` up to, and without, position `last`, counted as in `layers`.

        Raises:
            InputError: if no token is left.
        """
        columns = window(first, last, start=self.first_token, size=self.n_tokens, what="tokens")
        return self._part(slice(0, self.n_layers), columns)

    def clip(self, low: float, high: float) -> LayerTokenMap:
        """The same map with colours from `low` to `high`; what is beyond has the colour of the end.

        Raises:
            InputError: unless `low` is the lower of two finite numbers.
        """
        check_range(low, high)
        return replace(self, zmin=low, zmax=high)

    def minus(self, other: LayerTokenMap) -> MapDifference:
        """This map less another one, aligned by token; see `difference.difference`."""
        from tuco_lens.plots.difference import difference

        return difference(self, other)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: layer 0 at the bottom, the first token at the left, each cell the value.

        Pointing at a cell tells the token's position, id, role and text, the layer, the value and both norms. The cell
        that is the prompt's TuCo is framed. A band below the map tells who speaks, if the prompt is a chat.

        Of a map of more than 20,000 cells the figure holds the values in units of 1/10,000 and the sum of the two norms
        (FTC's share of it is the value) in units of a power of ten, all in 16 bits, which keeps it small. A part of the
        map (`tokens`, `layers`) is drawn in float32 again. So is a large one with missing values, but for the norms.
        """
        colours = look(theme)
        words, sent = WORDS[self.kind], _Sent.of(self)
        z = float32(self.values)
        zmax = largest(z) if self.zmax is None else self.zmax
        figure = Figure(
            go.Heatmap(
                z=sent.z,
                x=self.axis.names,
                y=np.arange(self.first_layer, self.first_layer + self.n_layers, dtype=np.float32),
                customdata=sent.norms,
                hovertemplate=hover_template(f"{words.value} {sent.value}", *sent.lines),
                hoverongaps=False,
                zmin=self.zmin / sent.unit,
                zmax=zmax / sent.unit,
                colorscale=SEQUENTIAL,
                colorbar=colour_bar(f"{words.value} ({self.norm.upper()})") | _ticks(self.zmin, zmax, sent.unit),
            )
        )
        height = map_height(self.n_layers)
        lay_out(figure, self.axis, colours, rows=(self.first_layer, self.n_layers), height=height)
        legend = add_band(figure, self.axis, colours, height)
        set_title(figure, f"{words.title}, {self.norm.upper()}", missing_note(z), legend)
        _mark_tuco(figure, self, colours)
        return figure

    def _part(self, rows: slice, columns: slice) -> LayerTokenMap:
        return replace(
            self,
            values=self.values[rows, columns],
            token_texts=self.token_texts[columns],
            token_ids=self.token_ids and self.token_ids[columns],
            roles=self.roles and self.roles[columns],
            ptc=None if self.ptc is None else self.ptc[rows, columns],
            ftc=None if self.ftc is None else self.ftc[rows, columns],
            first_layer=self.first_layer + rows.start,
            first_token=self.first_token + columns.start,
            reaches_end=self.reaches_end and (rows.stop, columns.stop) == (self.n_layers, self.n_tokens),
        )


def layer_token_map(item: PromptMeasurement, kind: MapKind = "cumulative") -> LayerTokenMap:
    """A map of a measured prompt, with its tokens, roles and norms.

    Raises:
        InputError: for "drift" if it was not measured, or an unknown kind.
    """
    maps, prompt = item.maps, item.prompt
    norms = {"cumulative": (maps.cumulative_ptc, maps.cumulative_ftc), "local": (maps.ptc, maps.ftc)}
    ptc, ftc = norms.get(kind, (None, None))
    values = item.layer_token(kind)
    return LayerTokenMap(values, prompt.tokens, kind, item.norm, prompt.token_ids, prompt.roles, ptc, ftc)


def hover_template(*lines: str) -> str:
    """Hover text of a map: the column's name, the layer, and these lines."""
    return "<br>".join([HOVER_NAME, "layer %{y}", *lines]) + "<extra></extra>"


def colour_bar(title: str) -> dict[str, Any]:
    """The bar at the right of a map."""
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "len": 1}


def map_height(n_layers: int) -> int:
    """Height of the map alone, in px."""
    return round(max(120, n_layers * min(28, max(9, 300 / n_layers))))


def lay_out(figure: go.Figure, axis: TokenAxis, look: Look, *, rows: tuple[int, int], height: int) -> None:
    """The frame of every map: token axis, layer axis (`rows`: number of the first layer, and how many), ground."""
    first, n_layers = rows
    figure.update_layout(
        template=look.template,
        height=height + 190,
        plot_bgcolor=look.missing,
        xaxis=axis.layout(),
        yaxis={
            "title": {"text": "layer"},
            "dtick": math.ceil(n_layers / 12),
            "range": [first - 0.5, first + n_layers - 0.5],
        },
    )


@dataclass(frozen=True)
class _Sent:
    """What the browser is sent of a map, and how the hover text says it."""

    z: np.ndarray
    """The values, [layer, token]."""
    unit: float
    """What 1 in `z` stands for."""
    value: str
    """The value in a hover template."""
    norms: np.ndarray | None
    """Both norms, [layer, token, 2], or their sum, [layer, token]."""
    lines: list[str]
    """The norms in a hover template."""

    @classmethod
    def of(cls, drawn: LayerTokenMap) -> _Sent:
        """Everything in float32, or what a large map has room for."""
        values, norms, names = float32(drawn.values), _norms(drawn), _norm_names(drawn)
        if values.size > MAX_EXACT_CELLS:
            return cls._packed(values, norms, names)
        lines = [f"{name} %{{customdata[{i}]:.4g}}" for i, name in enumerate(names) if norms is not None]
        return cls(values, 1.0, "%{z:.4f}", norms, lines)

    @classmethod
    def _packed(cls, values: np.ndarray, norms: np.ndarray | None, names: list[str]) -> _Sent:
        # In float32 the values of 64,000 cells alone can be 0.47 MB: base64 is a third more than the bytes, and the
        # writer of figures spells each of its slashes, frequent in numbers above 0.5, in six characters.
        z, unit, value = values, 1.0, "%{z:.4f}"
        if np.all((values >= 0) & (values <= 1)):  # not so where one is missing, which 16 bits cannot tell
            digits = np.minimum(np.rint(values / PACKED_UNIT), 9999)  # four, behind "0."
            z, unit, value = digits.astype(np.uint16), PACKED_UNIT, "0.%{z:04d}"
        if norms is None:
            return cls(z, unit, value, None, [])
        sums, exponent = packed(norms.sum(axis=-1))
        return cls(z, unit, value, sums, [f"{' + '.join(names)} %{{customdata}} × 10<sup>{exponent}</sup>"])


def packed(values: Float32[np.ndarray, "*shape"]) -> tuple[UInt16[np.ndarray, "*shape"], int]:
    """Values as whole multiples of a power of ten in 16 bits, and its exponent; what is not finite becomes 0.

    The power is the smallest with which the largest value fits, so the error is below 1 in 13,000 of the largest.
    """
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    exponent = math.ceil(math.log10(finite.max() / np.iinfo(np.uint16).max)) if finite.max() > 0 else 0
    return np.rint(finite / 10.0**exponent).astype(np.uint16), exponent


def _norms(drawn: LayerTokenMap) -> Float32[np.ndarray, "layer token 2"] | None:
    if drawn.ptc is None or drawn.ftc is None:
        return None
    return np.stack([float32(drawn.ptc), float32(drawn.ftc)], axis=-1)


def _norm_names(drawn: LayerTokenMap) -> list[str]:
    words = WORDS[drawn.kind]
    return [f"‖{name}‖{SUBSCRIPT[drawn.norm]}" for name in (words.ptc, words.ftc)]


def _ticks(low: float, high: float, unit: float) -> dict[str, Any]:
    """Ticks of the colour bar, where they cannot be left to the browser since `z` counts units."""
    if unit == 1:
        return {}
    steps = (digit * 10.0**power for power in range(-4, 1) for digit in (1, 2, 5))
    step = next((step for step in steps if (high - low) / step <= 8), 1.0)
    ticks = step * np.arange(math.ceil(low / step), math.floor(high / step) + 1)
    return {"tickvals": (ticks / unit).tolist(), "ticktext": [f"{tick:.4g}" for tick in ticks]}


def _mark_tuco(figure: go.Figure, drawn: LayerTokenMap, look: Look) -> None:
    """Frames the last token's cell after the last layer, and says its value above it."""
    if drawn.tuco is None:
        return
    layer, token = drawn.first_layer + drawn.n_layers - 1, drawn.n_tokens - 1
    corners = {"x0": token - 0.5, "x1": token + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": look.mark, "width": 2})
    figure.add_annotation(
        x=token + 0.5,
        y=1,
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        text=f"TuCo {drawn.tuco:.4f} ▾" if math.isfinite(drawn.tuco) else "TuCo missing ▾",
        font={"color": look.mark},
    )


def largest(z: Float32[np.ndarray, "*shape"]) -> float:
    """The largest value, or 1 where none is above 0, since a colour scale of no width has no colours."""
    finite = z[np.isfinite(z)]
    top = float(finite.max()) if finite.size else 0.0
    return top if top > 0 else 1.0


def _check_shapes(drawn: LayerTokenMap) -> None:
    shape = tuple(drawn.values.shape)
    if len(shape) != 2 or not drawn.values.numel():
        raise InputError("cannot draw the map", f"its shape is {shape}", "give [n_layers, n_tokens]")
    counts: dict[str, Sequence[Any] | None]
    counts = {"tokens": drawn.token_texts, "token ids": drawn.token_ids, "roles": drawn.roles}
    for name, sequence in counts.items():
        if sequence is not None and len(sequence) != shape[1]:
            why = f"it has {shape[1]} columns and there are {len(sequence)} {name}"
            raise InputError("cannot draw the map", why, f"give one of {name} for each column")
    for name, norms in {"ptc": drawn.ptc, "ftc": drawn.ftc}.items():
        if norms is not None and tuple(norms.shape) != shape:
            why = f"its shape is {shape} and that of {name} is {tuple(norms.shape)}"
            raise InputError("cannot draw the map", why, "give norms of the same prompt")
