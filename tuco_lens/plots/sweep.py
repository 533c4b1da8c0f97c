"""Figures of an α sweep: accuracy against α, and Δ_CV as a heatmap (paper §5.1).

They draw the tables of `sweep/result.py`, where the numbers are explained. Each is returned and never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.grid import Grid
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.lines import MAX_BANDS, LineStyle, as_float32, band, legend_below, line_style
from tuco_lens.plots.statistic import set_title
from tuco_lens.plots.template import Theme, look

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.sweep.cross_validation import Goal
    from tuco_lens.sweep.result import By, SweepResult

LABEL_CHARACTERS: Final = 40
"""Length at which the name of a task or pair is cut."""
SIGNIFICANT: Final = 0.05
"""Corrected p-value below which a cell is starred."""
_SHORT: Final[dict[Goal, str]] = {"maximise": "max", "minimise": "min"}


@dataclass(frozen=True)
class _Cell:
    """One Δ_CV of a heatmap."""

    delta: float
    low: float
    high: float
    p: float
    p_holm: float

    @classmethod
    def of(cls, row: Any, goal: Goal) -> _Cell:
        """From a row of `SweepResult.cross_validated`."""
        return cls(*(float(row[f"{_SHORT[goal]}_{name}"]) for name in ("delta", "low", "high", "p", "p_holm")))

    @property
    def text(self) -> str:
        """What is written into the cell: points, starred where significant."""
        return f"{100 * self.delta:+.1f}" + ("*" if self.p_holm < SIGNIFICANT else "")

    @property
    def note(self) -> str:
        """What the hover text says beside Δ and its interval."""
        return f"p {self.p:.3g}, corrected {self.p_holm:.3g}"


def accuracy_figure(frame: pd.DataFrame, *, by: By = "task", theme: Theme = "light") -> go.Figure:
    """Draws accuracy against α: a line per task or group, with its 95 % band where there are few.

    Args:
        frame: of `SweepResult.to_frame`.
        by: what its rows are about.
        theme: "light" or "dark".
    """
    colours = look(theme)
    figure = Figure()
    lines: list[tuple[str, pd.DataFrame]] = [(str(name), rows) for name, rows in frame.groupby(by, sort=False)]
    if len(lines) <= MAX_BANDS:
        for i, (name, rows) in enumerate(lines):
            x, low, high = (as_float32(rows[column]) for column in ("alpha", "low", "high"))
            figure.add_trace(band(x, 100 * low, 100 * high, line_style(i, colours)["color"], colours, group=name))
    figure.add_traces([_line(name, rows, line_style(i, colours)) for i, (name, rows) in enumerate(lines)])
    alphas = sorted(set(frame["alpha"].tolist()))
    figure.add_vline(x=1.0, line={"color": colours.quiet, "width": 1, "dash": "dash"})
    figure.update_layout(
        template=colours.template,
        **legend_below([name for name, _ in lines], 420),
        hovermode="closest",
        xaxis={
            "title": {"text": "α (1 is the tuned model)"},
            "tickvals": alphas,
            "ticktext": [f"{a:g}" for a in alphas],
        },
        yaxis={"title": {"text": "accuracy (%)"}, "rangemode": "normal"},
    )
    shown = "95 % intervals" + ("" if len(lines) <= MAX_BANDS else " in the hover text")
    set_title(figure, "Accuracy against α", shown)
    return figure


def _line(name: str, rows: pd.DataFrame, style: LineStyle) -> go.Scatter:
    return go.Scatter(
        x=rows["alpha"].tolist(),
        y=(100 * rows["accuracy"]).tolist(),
        customdata=np.stack([100 * rows["low"], 100 * rows["high"], rows["n"]], axis=-1).tolist(),
        mode="lines+markers",
        line={**style, "width": 2},
        name=_label(name),
        legendgroup=name,
        hovertemplate=(
            "%{fullData.name}<br>α %{x}: %{y:.1f} %<br>"  # a name put in here itself would be read as a template
            "95 % interval %{customdata[0]:.1f} to %{customdata[1]:.1f}, %{customdata[2]} questions<extra></extra>"
        ),
    )


def delta_figure(frame: pd.DataFrame, *, by: By = "task", theme: Theme = "light") -> go.Figure:
    """Draws Δ_CV of one pair: task (or group) × {maximise, minimise}; a star is a corrected p below 0.05.

    Args:
        frame: of `SweepResult.cross_validated`.
        by: what its rows are about.
        theme: "light" or "dark".
    """
    goals: tuple[Goal, ...] = ("maximise", "minimise")
    cells = [[_Cell.of(row, goal) for goal in goals] for _, row in frame.iterrows()]
    names = [str(name) for name in frame[by]]
    title = "Change of accuracy, out of fold (Δ)"
    return _grid(cells, names, goals, title=title, across="α chosen to").figure(theme)


def pairs_figure(
    results: Mapping[str, SweepResult], *, goal: Goal = "maximise", by: By = "group", theme: Theme = "light"
) -> go.Figure:
    """Draws Δ_CV of several pairs: task (or group) × pair, as the paper does; what a pair was not asked is grey.

    Args:
        results: by what the figure is to call the pair.
        goal: whether α was chosen to maximise or to minimise accuracy.
        by: what the rows are.
        theme: "light" or "dark".

    Raises:
        InputError: if there are no results, or an unknown goal.
    """
    if not results:
        raise InputError("no results", "there is nothing to draw", "give at least one")
    if goal not in _SHORT:
        raise InputError(f"goal is {goal!r}", f"there are {', '.join(_SHORT)}", "name one of them")
    tables = {pair: result.cross_validated(by).set_index(by) for pair, result in results.items()}
    names = list(dict.fromkeys(str(name) for table in tables.values() for name in table.index))
    cells = [[_Cell.of(t.loc[name], goal) if name in t.index else None for t in tables.values()] for name in names]
    title = f"Δ, α chosen to {goal} accuracy"
    return _grid(cells, names, list(tables), title=title, across="pair").figure(theme)


def _grid(
    cells: Sequence[Sequence[_Cell | None]], rows: Sequence[str], columns: Sequence[str], *, title: str, across: str
) -> Grid:
    def points(side: str) -> Float[np.ndarray, "row column"]:
        return np.array([[100 * getattr(cell, side) if cell else np.nan for cell in row] for row in cells])

    return Grid(
        points("delta"),
        tuple(rows),
        tuple(columns),
        column_name=across,
        value="Δ",
        unit="points",
        low=points("low"),
        high=points("high"),
        texts=[[cell.text if cell else "" for cell in row] for row in cells],
        notes=[[cell.note if cell else "" for cell in row] for row in cells],
        form="+.2f",
        diverging=True,
        title=title,
        remark=f"* p < {SIGNIFICANT:g}, Holm-corrected",
    )


def _label(name: str) -> str:
    return plotly_text(readable(name, LABEL_CHARACTERS))
