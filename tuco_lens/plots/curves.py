"""Curves with bands: a number against α, against the number of shots, or along a generation.

Each curve brings its own interval and n; how they are computed is in `stats/`. Figures of a sweep are in `sweep.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.labels import plotly_text, readable, token_label
from tuco_lens.plots.lines import (
    MAX_BANDS,
    LineStyle,
    as_float32,
    band,
    legend_below,
    line_style,
    null_style,
    shown_name,
    title_lines,
)
from tuco_lens.plots.statistic import Statistic, check_range, missing_note, set_title
from tuco_lens.plots.template import Look, Theme, look

if TYPE_CHECKING:
    from tuco_lens.steering.generation import Generation

MAX_MARKERS: Final = 60
"""Most points of a curve that are marked one by one."""
NOTE_CHARACTERS: Final = 60
"""Length at which the note of a point is cut."""


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class Curve(Brief):
    """One line: y against x.

    Raises:
        InputError: if it has no points, or one of its fields has another number of them.
    """

    name: str
    """What it is called."""
    x: ArrayLike = field(repr=False)
    """Where the points are, ascending, [n_points]."""
    y: ArrayLike = field(repr=False)
    """The values, [n_points]; NaN is a missing value, and the line has a gap there."""
    low: ArrayLike | None = field(default=None, repr=False)
    """Lower ends of the intervals, [n_points]; NaN where there is none."""
    high: ArrayLike | None = field(default=None, repr=False)
    """Upper ends of the intervals, [n_points]."""
    n: int | Sequence[int] | None = field(default=None, repr=False)
    """Size of the sample, of all points or of each, [n_points]."""
    notes: Sequence[str] | None = field(default=None, repr=False)
    """What the hover text says of each point beside the numbers, such as its token, [n_points]."""

    def __post_init__(self) -> None:
        n_points = len(as_float32(self.x))
        if not n_points:
            raise InputError(f"nothing to draw of curve {readable(self.name, 40)!r}", "it is empty", "leave it out")
        if (self.low is None) != (self.high is None):
            raise InputError("cannot draw a band", "it has one end", "give both low and high, or neither")
        given = {"y": self.y, "low": self.low, "high": self.high, "notes": self.notes}
        given |= {} if self.n is None or np.ndim(self.n) == 0 else {"n": self.n}
        lengths = {name: np.size(values) for name, values in given.items() if values is not None}
        for name, length in lengths.items():
            if length != n_points:
                why = f"there are {n_points} x and {length} {name}"
                raise InputError(f"cannot draw curve {readable(self.name, 40)!r}", why, "give one for each x")

    @property
    def counts(self) -> tuple[int, ...]:
        """Size of the sample of each point; empty if not known."""
        if self.n is None:
            return ()
        return tuple(np.broadcast_to(self.n, len(as_float32(self.x))).tolist())

    @property
    def legend(self) -> str:
        """Name and n."""
        if not self.counts:
            return shown_name(self.name)
        low, high = min(self.counts), max(self.counts)
        return f"{shown_name(self.name)} (n = {low if low == high else f'{low} to {high}'})"


@dataclass(frozen=True, eq=False)
class Curves(Statistic):
    """Several curves over one axis.

    Raises:
        InputError: if there is no curve, or a logarithmic axis would have to show what is not above 0.
    """

    curves: tuple[Curve, ...]
    """The lines, in the order of the legend."""
    x_name: str
    """What x is."""
    y_name: str = "TuCo"
    """What y is."""
    x_unit: str = ""
    """Unit of x; empty if it has none."""
    y_unit: str = ""
    """Unit of y; empty if it has none."""
    title: str = ""
    """Above the figure; by default "y against x"."""
    interval: str = "95 % intervals"
    """What the bands are."""
    log2: bool = False
    """Whether x doubles from tick to tick."""
    reference: float | None = None
    """A value of y that is marked by a line, such as that without shots."""
    x_reference: float | None = None
    """A value of x that is marked by a line, such as α = 1."""
    nulls: tuple[Curve, ...] = ()
    """What null controls reach, as curves with low and high; drawn as grey bands."""
    low: float | None = None
    """Lower end of the y axis; None to let the data decide."""
    high: float | None = None
    """Its upper end."""
    x_form: str = ".4~g"
    """How the hover text writes x, as d3 reads it."""

    def __post_init__(self) -> None:
        if not self.curves:
            raise InputError("no curves", "there is nothing to draw", "give at least one")
        if any(null.low is None for null in self.nulls):
            raise InputError("cannot draw a null control", "it has no band", "give it low and high")
        if self.log2 and min(float(np.nanmin(as_float32(curve.x))) for curve in (*self.curves, *self.nulls)) <= 0:
            raise InputError("no logarithmic axis", "an x is not above 0", "leave it out, or use log2=False")

    def only(self, *names: str) -> Curves:
        """These curves, in this order, over the same null controls.

        Raises:
            InputError: if there is no such curve.
        """
        known = {curve.name: curve for curve in self.curves}
        for name in names:
            if name not in known:
                there = ", ".join(readable(each, 40) for each in known)
                raise InputError(f"no curve {readable(name, 40)!r}", f"there are {there}", "name one of them")
        return replace(self, curves=tuple(known[name] for name in names))

    def clip(self, low: float, high: float) -> Curves:
        """The same curves with a y axis from `low` to `high`."""
        check_range(low, high)
        return replace(self, low=low, high=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws them: lines, with bands where there are few, over the grey bands of null controls."""
        colours = look(theme)
        figure = Figure(list(self.traces(colours)))
        marked = {"color": colours.quiet, "width": 1, "dash": "dash"}
        if self.reference is not None:
            figure.add_hline(y=self.reference, line=marked)
        if self.x_reference is not None:
            figure.add_vline(x=self.x_reference, line=marked)
        self._lay_out(figure, colours)
        return figure

    def traces(self, colours: Look) -> Iterator[go.Scatter]:
        """What the figure holds: the bands of null controls, those of the curves, and the lines."""
        yield from self._null_traces(colours)
        yield from self._curve_traces(colours)

    def _null_traces(self, colours: Look) -> Iterator[go.Scatter]:
        for i, null in enumerate(self.nulls):
            options: dict[str, Any] = {"name": f"null, {null.legend}", "showlegend": True, **null_style(i)}
            yield band(*_ends(null), colours.quiet, colours, **options)

    def _curve_traces(self, colours: Look) -> Iterator[go.Scatter]:
        styles = [line_style(i, colours) for i in range(len(self.curves))]
        for curve, style in zip(self.curves, styles, strict=True):
            if self._has_bands and curve.low is not None:
                yield band(*_ends(curve), style["color"], colours, group=curve.name)
        yield from map(self._line, self.curves, styles)

    def _line(self, curve: Curve, style: LineStyle) -> go.Scatter:
        x = as_float32(curve.x)
        return go.Scatter(
            x=x,
            y=as_float32(curve.y),
            customdata=_said(curve),
            mode="lines+markers" if len(x) <= MAX_MARKERS else "lines",
            marker={"size": 6},
            line={**style, "width": 2},
            name=curve.legend,
            # Names put into the template itself would be read as a part of it.
            meta=[shown_name(curve.name), _axis_title(self.x_name, ""), _axis_title(self.y_name, "")],
            legendgroup=curve.name,
            hovertemplate=(
                f"<b>%{{meta[0]}}</b><br>%{{meta[1]}} %{{x:{self.x_form}}}<br>%{{meta[2]}} %{{y:.4~g}}%{{customdata}}"
                "<extra></extra>"
            ),
        )

    def _lay_out(self, figure: go.Figure, colours: Look) -> None:
        figure.update_layout(
            template=colours.template,
            hovermode="closest",
            xaxis={"title": {"text": _axis_title(self.x_name, self.x_unit)}, **self._x_ticks()},
            yaxis={"title": {"text": _axis_title(self.y_name, self.y_unit)}, **self._y_range()},
            **self.legend(420),
        )
        set_title(figure, *self.words())

    @property
    def _is_alone(self) -> bool:
        return len(self.curves) == 1 and not self.nulls

    def legend(self, height: int) -> dict[str, Any]:
        """The layout of a figure of these curves, `height` px without its legend; one curve needs none."""
        texts = [] if self._is_alone else [curve.legend for curve in (*self.nulls, *self.curves)]
        return {"showlegend": not self._is_alone, **legend_below(texts, height)}

    def words(self) -> Iterator[str]:
        """The title and the notes below it, for `set_title`."""
        yield from title_lines(self.title or f"{self.y_name} against {self.x_name}")
        if self._is_alone:
            yield self.curves[0].legend
        if any(curve.low is not None for curve in self.curves):
            yield plotly_text(readable(self.interval, NOTE_CHARACTERS)) + (
                "" if self._has_bands else " in the hover text"
            )
        yield missing_note(np.concatenate([as_float32(curve.y) for curve in self.curves]))

    @property
    def _has_bands(self) -> bool:
        return len(self.curves) <= MAX_BANDS

    def _x_ticks(self) -> dict[str, Any]:
        if not self.log2:
            return {}
        xs = np.concatenate([as_float32(curve.x) for curve in self.curves])
        low, high = math.floor(math.log2(xs.min())), math.ceil(math.log2(xs.max()))
        powers = [2.0**power for power in range(low, high + 1)]
        return {"type": "log", "tickvals": powers, "ticktext": [f"{power:g}" for power in powers]}

    def _y_range(self) -> dict[str, Any]:
        return {} if self.low is None or self.high is None else {"range": [self.low, self.high]}


def generation_curve(generations: Generation | Sequence[Generation] | Mapping[str, Generation]) -> Curves:
    """TuCo of each token along one or several generations; pointing at a point tells its token.

    Args:
        generations: what `ModelPair.generate` returned; or by the names that the figure is to give them, else each
            goes by its α.

    Returns:
        TuCo at the position that predicted each token, against the token's place in the generated text. There is one
        value per point and so no interval.

    Raises:
        InputError: if there is none, or one was made without TuCo or has no tokens.
    """
    named = generations if isinstance(generations, Mapping) else _by_alpha(generations)
    curves = tuple(_generation_curve(name, generation) for name, generation in named.items())
    return Curves(curves, "generated token", title="TuCo along the generation")


def _by_alpha(generations: Generation | Sequence[Generation]) -> dict[str, Generation]:
    listed = generations if isinstance(generations, Sequence) else [generations]
    names = [f"α {g.alpha:g}" if isinstance(g.alpha, float) else "α by layer" for g in listed]
    numbered = [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]
    return dict(zip(numbered, listed, strict=True))


def _generation_curve(name: str, generation: Generation) -> Curve:
    if generation.tuco is None:
        raise InputError("this generation has no TuCo", "it was run with tuco=False", "generate with tuco=True")
    values = generation.tuco.float().cpu().numpy()
    return Curve(
        name, np.arange(len(values)), values, notes=[token_label(t, NOTE_CHARACTERS) for t in generation.tokens]
    )


def _ends(curve: Curve) -> tuple[Any, Any, Any]:
    low, high = (as_float32([] if end is None else end) for end in (curve.low, curve.high))
    return as_float32(curve.x), low, high


def _said(curve: Curve) -> list[str]:
    """The end of each point's hover text: interval, n and note."""
    lines = [""] * len(as_float32(curve.x))
    if curve.low is not None:
        _, low, high = _ends(curve)
        known = np.isfinite(low) & np.isfinite(high)
        lines = [f"<br>{a:.4g} to {b:.4g}" if k else "" for a, b, k in zip(low, high, known, strict=True)]
    if curve.counts:
        lines = [f"{line}<br>n = {n}" for line, n in zip(lines, curve.counts, strict=True)]
    if curve.notes is not None:
        # A line of its own: in one line with other text, right-to-left scripts would reorder that too.
        notes = [plotly_text(readable(note, NOTE_CHARACTERS)) for note in curve.notes]
        lines = [f"{line}<br>{note}" for line, note in zip(lines, notes, strict=True)]
    return lines


def _axis_title(name: str, unit: str) -> str:
    return plotly_text(readable(name, 40)) + (f" ({plotly_text(readable(unit, 20))})" if unit else "")
