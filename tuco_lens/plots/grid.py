"""A labelled grid: one number for each row and column, such as TuCo by tune and prompt, or a share by layer and step.

The map of one prompt by layer and token, with its norms, is in `heatmap.py`; it knows tokens, and a grid knows labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float32
from numpy.typing import ArrayLike

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import colour_bar, largest, map_height
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.lines import line_style, shown_name, title_lines
from tuco_lens.plots.statistic import Statistic, check_range, missing_note, set_title
from tuco_lens.plots.template import SEQUENTIAL, Look, Theme, look
from tuco_lens.plots.token_axis import TICK_CHARACTERS, add_spans

ROW_CHARACTERS: Final = 36
"""Length at which the label of a row is cut on the axis."""
COLUMN_CHARACTERS: Final = 28
"""Length at which that of a column is."""
MANY_COLUMNS: Final = 12
"""Most columns of which that holds; the labels of more are cut as those of tokens are."""
HOVER_CHARACTERS: Final = 120
"""Length at which both are cut in the hover text."""
_WRITTEN_HEIGHT: Final = 26  # px of a row in whose cells something is written
_FRAME: Final = 110  # px of the titles of figure and axis
_CHARACTER: Final = 7  # px
_LEVEL: Final = 5  # most characters of labels that lie, where columns are many
_NARROW: Final = 120  # px that the columns have on a telephone

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Grid(Statistic):
    """One number for each row and column, with the labels of both.

    Raises:
        InputError: if `values` is not a non-empty matrix, the shape of another field differs from its, an interval has
            one end, or `form` is no format of a number.
    """

    values: ArrayLike = field(repr=False)
    """The numbers, [n_rows, n_columns]; NaN is a missing value."""
    rows: tuple[str, ...]
    """Label of each row, [n_rows]; figures show labels as they are, and those that recur stay apart."""
    columns: tuple[str, ...]
    """Label of each column, [n_columns]."""
    row_name: str = ""
    """What the rows are, such as "tune"."""
    column_name: str = ""
    """What the columns are, such as "prompt"."""
    value: str = "TuCo"
    """What the numbers are."""
    unit: str = ""
    """Their unit; empty if they have none."""
    low: ArrayLike | None = field(default=None, repr=False)
    """Lower ends of the intervals, [n_rows, n_columns]; NaN where there is none. The hover text says them."""
    high: ArrayLike | None = field(default=None, repr=False)
    """Upper ends of the intervals, [n_rows, n_columns]."""
    interval: str = "95 % interval"
    """What the intervals are."""
    groups: tuple[str, ...] | None = field(default=None, repr=False)
    """Group of each column, [n_columns], told by a band below the grid."""
    texts: Texts | None = field(default=None, repr=False)
    """What is written into the cells, [n_rows, n_columns]; None for nothing."""
    notes: Texts | None = field(default=None, repr=False)
    """What the hover text says of a cell beside its numbers, [n_rows, n_columns]."""
    form: str = ".4f"
    """How the hover text writes numbers, as Python and d3 both read it."""
    diverging: bool = False
    """Whether the colours tell the sign: orange below 0, blue above; else they go from 0 to the largest value."""
    upward: bool = False
    """Whether the first row is at the bottom, as the first layer is in maps."""
    title: str = ""
    """Above the figure; by default "value by row and column"."""
    remark: str = ""
    """Below the title, such as the number of prompts."""
    zmin: float | None = None
    """Value of the scale's first colour; None to let the values decide."""
    zmax: float | None = None
    """Value of its last."""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def z(self) -> Float32[np.ndarray, "row column"]:
        """The numbers as figures are sent them."""
        return np.asarray(self.values, dtype=np.float32)

    def only(self, *rows: str) -> Grid:
        """The rows with these labels, in this order.

        Raises:
            InputError: if there is no such row.
        """
        kept = [i for name in rows for i in _places(name, self.rows, "row")]
        return self._part(kept, range(len(self.columns)))

    def only_groups(self, *groups: str) -> Grid:
        """The columns of these groups, in this order.

        Raises:
            InputError: if there is no such group.
        """
        kept = [i for name in groups for i in _places(name, self.groups or (), "group")]
        return self._part(range(len(self.rows)), kept)

    def ordered(self) -> Grid:
        """The columns ascending by their mean over the rows, group by group; columns without a value come last."""
        z = self.z
        present = np.isfinite(z)
        means = np.where(present, z, 0).sum(axis=0) / np.maximum(1, present.sum(axis=0))
        means[~present.any(axis=0)] = np.inf
        ranks = {group: rank for rank, group in enumerate(dict.fromkeys(self.groups or ()))}
        place = [ranks[group] for group in self.groups] if self.groups else [0] * len(means)
        return self._part(range(len(self.rows)), np.lexsort([means, place]).tolist())

    def clip(self, low: float, high: float) -> Grid:
        """The same grid with colours from `low` to `high`; what is beyond has the colour of the end."""
        check_range(low, high)
        return replace(self, zmin=low, zmax=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: a cell for each value. Pointing at one tells both labels, the value, its interval and its note."""
        colours = look(theme)
        figure = Figure(self._heatmap(colours))
        height = max(_WRITTEN_HEIGHT * len(self.rows) if self.texts else 0, map_height(len(self.rows)))
        limit = COLUMN_CHARACTERS if len(self.columns) <= MANY_COLUMNS else TICK_CHARACTERS
        longest = min(limit, max(map(len, self.columns)))  # where there is little room the labels stand upright
        figure.update_layout(
            template=colours.template,
            height=height + _FRAME + max(40, _CHARACTER * longest),
            plot_bgcolor=colours.missing,
            xaxis=_axis(self.column_name, self.columns, [_cut(label, limit) for label in self.columns]),
            yaxis=_axis(self.row_name, self.rows, self._row_labels(), reverse=not self.upward),
        )
        if len(self.columns) > MANY_COLUMNS and longest > _LEVEL:
            figure.update_layout(xaxis={"tickangle": -90})
        legend = self._add_groups(figure, colours, height)
        set_title(
            figure,
            *title_lines(self._title),
            plotly_text(readable(self.remark, HOVER_CHARACTERS)),
            missing_note(self.z),
            legend,
        )
        return figure

    def _row_labels(self) -> list[str]:
        """What the axis says at each row: in two lines where there is room, which leaves more of a phone's width."""
        if map_height(len(self.rows)) / len(self.rows) < _WRITTEN_HEIGHT:
            return [_cut(label, ROW_CHARACTERS) for label in self.rows]
        lines = [textwrap.wrap(readable(label, ROW_CHARACTERS), ROW_CHARACTERS // 2) for label in self.rows]
        return ["<br>".join(map(plotly_text, each)) or "∅" for each in lines]

    def _heatmap(self, colours: Look) -> go.Heatmap:
        zmin, zmax = self._range
        said = self._said()
        written = {} if self.texts is None else {"text": _escaped(self.texts), "texttemplate": "%{text}"}
        return go.Heatmap(
            z=self.z,
            x=_categories(self.columns),
            y=_categories(self.rows),
            customdata=said,
            # Names put into the template itself would be read as a part of it.
            meta=[_before(self.row_name), _before(self.column_name), shown_name(self.value), _behind(self.unit)],
            hovertemplate=(
                f"<b>%{{meta[0]}}%{{y:c}}</b><br>%{{meta[1]}}%{{x:c}}<br>%{{meta[2]}} %{{z:{self.form}}}%{{meta[3]}}"
                f"{'' if said is None else '%{customdata}'}<extra></extra>"
            ),
            hoverongaps=False,
            zmin=zmin,
            zmax=zmax,
            colorscale=[list(stop) for stop in colours.diverging] if self.diverging else SEQUENTIAL,
            colorbar=colour_bar(shown_name(self.value) + (f" ({_behind(self.unit)[1:]})" if self.unit else ""))
            | {"nticks": 5},
            xgap=1 if len(self.columns) <= 60 else 0,
            ygap=1,
            **written,
        )

    def _said(self) -> list[list[str]] | None:
        """The end of each cell's hover text: interval and note; None where no cell has either."""
        if self.low is None and self.notes is None:
            return None
        lines = self._intervals()
        notes = self.notes or [[""] * len(self.columns)] * len(self.rows)
        return [
            [line + (f"<br>{plotly_text(readable(note, HOVER_CHARACTERS))}" if note else "") for line, note in both]
            for both in (zip(*row, strict=True) for row in zip(lines, notes, strict=True))
        ]

    def _intervals(self) -> list[list[str]]:
        nothing = np.full(self.z.shape, np.nan)
        low, high = (nothing if end is None else np.asarray(end, dtype=np.float64) for end in (self.low, self.high))
        name = plotly_text(readable(self.interval, HOVER_CHARACTERS))
        return [
            [
                f"<br>{name} {a:{self.form}} to {b:{self.form}}" if np.isfinite([a, b]).all() else ""
                for a, b in zip(*ends, strict=True)
            ]
            for ends in zip(low, high, strict=True)
        ]

    def _add_groups(self, figure: go.Figure, colours: Look, height: int) -> str:
        """Draws the band of the groups; returns a legend of those whose names found no room in it."""
        if self.groups is None:
            return ""
        names = [readable(group, COLUMN_CHARACTERS) or "∅" for group in self.groups]
        styles = {name: line_style(i, colours)["color"] for i, name in enumerate(dict.fromkeys(names))}
        return add_spans(figure, names, styles, height, _NARROW)

    @property
    def _title(self) -> str:
        across = " and ".join(name for name in (self.row_name, self.column_name) if name)
        return self.title or self.value + (f" by {across}" if across else "")

    @property
    def _range(self) -> tuple[float, float]:
        if self.zmin is not None and self.zmax is not None:
            return self.zmin, self.zmax
        if self.diverging:
            top = largest(np.abs(self.z))
            return -top, top
        return float(np.min(self.z, where=np.isfinite(self.z), initial=0.0)), largest(self.z)

    def _part(self, rows: Sequence[int], columns: Sequence[int]) -> Grid:
        picked = np.ix_(rows, columns)
        ends = {name: np.asarray(end)[picked] for name in ("low", "high") if (end := getattr(self, name)) is not None}
        words = {
            name: [[texts[row][column] for column in columns] for row in rows]
            for name in ("texts", "notes")
            if (texts := getattr(self, name)) is not None
        }
        return replace(
            self,
            values=np.asarray(self.values)[picked],
            rows=tuple(self.rows[row] for row in rows),
            columns=tuple(self.columns[column] for column in columns),
            groups=None if self.groups is None else tuple(self.groups[column] for column in columns),
            **ends,
            **words,
        )


def _places(name: str, names: Sequence[str], what: str) -> list[int]:
    found = [i for i, each in enumerate(names) if each == name]
    if not found:
        there = ", ".join(readable(each, 40) for each in dict.fromkeys(names)) or "none"
        raise InputError(f"no {what} {readable(name, 40)!r}", f"there are {there}", "name one of them")
    return found


def _axis(name: str, labels: Sequence[str], shown: Sequence[str], *, reverse: bool = False) -> dict[str, Any]:
    """Categories are what the hover text says; the axis shows them cut, as many as there is room for."""
    ends = [-0.5, len(labels) - 0.5]
    return {
        "type": "category",
        "title": {"text": shown_name(name)},
        "range": ends[::-1] if reverse else ends,
        "labelalias": dict(zip(_categories(labels), shown, strict=True)),
    }


def _cut(label: str, limit: int) -> str:
    return plotly_text(readable(label, limit)) or "∅"


def _categories(labels: Sequence[str]) -> list[str]:
    """The labels so that no two are alike, since equal categories would be one: with their places if any recurs."""
    names = [_cut(label, HOVER_CHARACTERS) for label in labels]
    return names if len(set(names)) == len(names) else [f"{i}: {name}" for i, name in enumerate(names)]


def _escaped(texts: Texts) -> list[list[str]]:
    return [[plotly_text(readable(text, COLUMN_CHARACTERS)) for text in row] for row in texts]


def _before(name: str) -> str:
    return f"{shown_name(name)} " if name else ""


def _behind(unit: str) -> str:
    return f" {plotly_text(readable(unit, 20))}" if unit else ""


def _check(grid: Grid) -> None:
    shape = grid.z.shape
    if len(shape) != 2 or not grid.z.size:
        raise InputError("cannot draw the grid", f"its shape is {shape}", "give [n_rows, n_columns]")
    lengths = {"rows": (len(grid.rows), shape[0]), "columns": (len(grid.columns), shape[1])}
    lengths |= {} if grid.groups is None else {"groups": (len(grid.groups), shape[1])}
    for name, (given, needed) in lengths.items():
        if given != needed:
            raise InputError("cannot draw the grid", f"its shape is {shape} and there are {given} {name}", "label each")
    if (grid.low is None) != (grid.high is None):
        raise InputError("cannot tell the intervals", "they have one end", "give both low and high, or neither")
    given = {"low": grid.low, "high": grid.high, "texts": grid.texts, "notes": grid.notes}
    for name, values in given.items():
        if values is not None and (other := _shape(values)) != shape:
            why = f"its shape is {shape} and that of {name} is {other}"
            raise InputError("cannot draw the grid", why, f"give one of {name} for each cell")
    _check_form(grid.form)


def _shape(values: Any) -> Any:
    try:
        return np.shape(values)
    except ValueError:  # numpy's, of lists of different lengths
        return "uneven"


def _check_form(form: str) -> None:
    try:
        format(0.0, form)
    except ValueError as error:
        raise InputError(f"cannot write numbers as {form!r}", str(error), "give a format such as .4f") from error
