"""Groups of prompts compared by one number: histogram, cumulative distribution and box, on one axis.

How well a number tells two groups apart is in `stats/`, drawn by `roc.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float32
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from tuco_lens.errors import InputError
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.lines import LineStyle, as_float32, legend_below, line_style, shown_name
from tuco_lens.plots.statistic import Statistic, check_range, missing_note, set_title
from tuco_lens.plots.template import Look, Theme, look

MIN_BINS: Final = 8
MAX_BINS: Final = 60
MAX_POINTS: Final = 30
"""Most values of a group that its box shows one by one; of larger groups it shows outliers."""


@dataclass(frozen=True, eq=False)
class Groups(Statistic):
    """One number for each prompt of several groups.

    Raises:
        InputError: if there is no group, or one without a value.
    """

    values: Mapping[str, ArrayLike] = field(repr=False)
    """The numbers of each group, [n_prompts]; NaN is a missing value."""
    name: str = "TuCo"
    """What the number is."""
    unit: str = ""
    """Its unit; empty for a share."""
    by: str = "group"
    """What a group is, for the title."""
    low: float | None = None
    """Lower end of the axis; None to let the data decide."""
    high: float | None = None
    """Its upper end."""

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError("no groups", "there is nothing to draw", "give at least one")
        for name in self.values:
            if not self.present(name).size:
                n_missing = self.n_missing(name)
                why = f"all its {n_missing} values are missing" if n_missing else "it is empty"
                shown = readable(name, 40)
                raise InputError(f"nothing to draw of group {shown!r}", why, "give it a value, or leave it out")

    def present(self, group: str) -> Float32[np.ndarray, " value"]:
        """The values of a group that are there, ascending."""
        values = as_float32(self.values[group])
        return np.sort(values[np.isfinite(values)])

    def n_missing(self, group: str) -> int:
        """How many values of a group are NaN or infinite."""
        return int((~np.isfinite(as_float32(self.values[group]))).sum())

    def ecdf(self, group: str) -> tuple[Float32[np.ndarray, " value"], Float32[np.ndarray, " value"]]:
        """The values of a group, ascending, and the share of the group at or below each."""
        present = self.present(group)
        return present, as_float32(np.arange(1, len(present) + 1) / len(present))

    def histogram(self, group: str) -> tuple[Float[np.ndarray, " edge"], Float32[np.ndarray, " bin"]]:
        """The bins' edges, which all groups share, and the share of the group in each bin."""
        edges = self._edges()
        counts, _ = np.histogram(self.present(group), edges)
        return edges, as_float32(counts / len(self.present(group)))

    def only(self, *groups: str) -> Groups:
        """These groups, in this order.

        Raises:
            InputError: if there is no such group.
        """
        for name in groups:
            if name not in self.values:
                there = ", ".join(readable(known, 40) for known in self.values)
                raise InputError(f"no group {readable(name, 40)!r}", f"there are {there}", "name one of them")
        return replace(self, values={name: self.values[name] for name in groups})

    def clip(self, low: float, high: float) -> Groups:
        """The same groups on an axis from `low` to `high`; shares, quartiles and curves stay those of all values."""
        check_range(low, high)
        return replace(self, low=low, high=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it, from above: shares by bin, the share at or below each value, and boxes of the quartiles."""
        colours = look(theme)
        figure = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.42, 0.36, 0.22])
        for i, group in enumerate(self.values):
            style = line_style(i, colours)
            for row, trace in enumerate(self._traces(group, i, style), start=1):
                figure.add_trace(trace, row, 1)
        self._lay_out(figure, colours)
        return figure

    def _traces(self, group: str, index: int, style: LineStyle) -> Iterator[go.Scatter | go.Box]:
        edges, shares = self.histogram(group)
        x, below = self.ecdf(group)
        common = {"name": self._legend(group), "legendgroup": group, "line": {**style, "width": 2}}
        yield go.Scatter(
            x=as_float32(edges),
            y=np.append(shares, shares[-1]),
            customdata=np.append(edges[1:], edges[-1]).astype(np.float32),
            mode="lines",
            line_shape="hv",
            fill="tozeroy",
            fillcolor=_faint(style["color"]),
            hovertemplate="%{fullData.name}<br>%{x:.4g} to %{customdata:.4g}: %{y:.1%}<extra></extra>",
            **common,
        )
        yield go.Scatter(
            x=np.concatenate([x[:1], x]),
            y=np.concatenate([as_float32([0]), below]),
            mode="lines" if len(x) > 1 else "lines+markers",
            line_shape="hv",
            showlegend=False,
            hovertemplate="%{fullData.name}<br>%{y:.1%} at or below %{x:.4g}<extra></extra>",
            **common,
        )
        yield go.Box(
            x=x,
            y0=index,
            orientation="h",
            boxpoints="all" if len(x) <= MAX_POINTS else "outliers",
            jitter=0.4,
            pointpos=0,
            marker={"size": 4, "color": style["color"], "opacity": 0.7},
            fillcolor=_faint(style["color"]),
            width=0.7,
            showlegend=False,
            hoverinfo="x",
            **{**common, "line": {"color": style["color"], "width": 1.5}},
        )

    def _lay_out(self, figure: go.Figure, colours: Look) -> None:
        n_groups = len(self.values)
        title = plotly_text(readable(self.name, 40))
        unit = f" ({plotly_text(readable(self.unit, 20))})" if self.unit else ""
        everything = np.concatenate([as_float32(values) for values in self.values.values()])
        figure.update_layout(
            template=colours.template,
            hovermode="closest",
            **legend_below(map(self._legend, self.values), 420 + 22 * n_groups),
        )
        figure.update_xaxes(range=list(self._range()), showline=False)
        figure.update_xaxes(title_text=title + unit, row=3)
        figure.update_yaxes(tickformat=".0%", rangemode="tozero", nticks=5)
        figure.update_yaxes(title_text="share", row=1)
        figure.update_yaxes(title_text="at or below", range=[0, 1.02], row=2)
        figure.update_yaxes(tickvals=[], autorange="reversed", row=3)
        set_title(
            figure,
            f"{title} by {plotly_text(readable(self.by, 40))}" if n_groups > 1 else title,
            missing_note(everything),
            self._outside(),
        )

    def _legend(self, group: str) -> str:
        missing = self.n_missing(group)
        counted = f"n = {len(self.present(group))}" + (f", {missing} missing" if missing else "")
        return f"{shown_name(group)} ({counted})"

    def _outside(self) -> str:
        pooled, (low, high) = self._pooled(), self._range()
        outside = int(((pooled < low) | (pooled > high)).sum())
        return f"{outside} of {len(pooled)} values beyond the axis" if outside else ""

    def _pooled(self) -> Float32[np.ndarray, " value"]:
        return np.concatenate([self.present(group) for group in self.values])

    def _range(self) -> tuple[float, float]:
        if self.low is not None and self.high is not None:
            return self.low, self.high
        edges = self._edges()
        margin = 0.03 * (edges[-1] - edges[0])
        return float(edges[0] - margin), float(edges[-1] + margin)

    def _edges(self) -> Float[np.ndarray, " edge"]:
        pooled = self._pooled().astype(np.float64)
        low, high = (pooled.min(), pooled.max()) if self.low is None or self.high is None else (self.low, self.high)
        if low == high:  # one value, or all alike: one bin around it
            half = 0.05 * abs(low) or 0.5
            return np.array([low - half, low + half])
        n_bins = len(np.histogram_bin_edges(pooled, bins="auto", range=(low, high))) - 1
        return np.linspace(low, high, min(MAX_BINS, max(MIN_BINS, n_bins)) + 1)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
