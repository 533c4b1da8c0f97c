"""One self-contained page with every figure and table of a comparison or a trajectory; the maps are in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.report.figure_page import FigurePage, escaped, table
from tuco_lens.results.files import write_whole
from tuco_lens.tunes.comparison import TuneComparison
from tuco_lens.tunes.figures import tuco_groups

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme
    from tuco_lens.tunes.trajectory import Trajectory

    Draw = Callable[[Theme], go.Figure]

MOST_ROWS: Final = 50
"""Most rows of a table; the files have all."""


def write_page(found: TuneComparison | Trajectory, path: str | Path, *, title: str) -> Path:
    """Write every figure and table as one HTML page.

    Raises:
        OutputError: if the file cannot be written. Nothing half-written is left.
    """
    page = FigurePage(title, f'<p class="summary">{escaped(found.summary())}</p>')
    sections = _of_comparison(found) if isinstance(found, TuneComparison) else _of_trajectory(found)
    for name, heading, figures, tables in sections:
        page.add(name, heading, [*map(page.figure, figures), *tables])
    return write_whole(Path(path), page.render())


Section = tuple[str, str, "Iterable[Draw]", Iterable[str]]


def _of_comparison(found: TuneComparison) -> Iterable[Section]:
    groups = found.group_names
    means = _table("Mean TuCo with its 95 % interval over prompts, and quantiles", found.table)
    yield "prompts", "TuCo by tune and prompt", [found.heatmap().figure], [means]
    yield "distributions", "Distributions", [partial(_distribution, found, group) for group in groups], []
    yield "layers", "Where in depth", [found.layer_profile().figure, found.layer_grid().figure], []
    if len(found.names) > 1:
        differences = _table("Differences, prompt by prompt: p by paired t-tests, corrected by Holm", found.differences)
        agreement = _table("Spearman's ρ between tunes, with its 95 % interval", found.agreement)
        yield "differences", "What tells the tunes apart", [], [differences]
        yield "agreement", "Do tunes rank prompts alike?", [found.agreement_grid().figure], [agreement]


def _of_trajectory(found: Trajectory) -> Iterable[Section]:
    means = _table("Mean TuCo by step, with its 95 % interval over prompts, and quantiles", found.table)
    movers = found.movers.assign(prompt=[_cut(text) for text in found.movers["prompt"]])
    yield "steps", "TuCo against training step", [found.curve().figure], [means]
    yield "layers", "Where in depth", [found.layer_grid().figure], []
    yield "prompts", "Which prompts move first", [found.prompt_grid().figure], [_table("By half of the last", movers)]


def _distribution(found: TuneComparison, group: str, theme: Theme) -> go.Figure:
    return tuco_groups(found.only(group), group).figure(theme)


def _table(caption: str, frame: pd.DataFrame) -> str:
    shown = frame.head(MOST_ROWS)
    more = f" (the first {MOST_ROWS} of {len(frame)} rows)" if len(frame) > MOST_ROWS else ""
    rows = ([_cell(value) for value in row] for row in shown.itertuples(index=False))
    return table(caption + more, [str(name) for name in frame.columns], rows)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
