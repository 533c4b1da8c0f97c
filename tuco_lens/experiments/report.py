"""One self-contained page with every table and figure of several experiments.

The page itself is `report/figure_page.py`; the tables come from `tables.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.experiments.comparison import Comparison
from tuco_lens.experiments.figures import attack_costs, attack_losses
from tuco_lens.experiments.registry import EXPERIMENTS, Experiment, Result
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.tables import tables_of
from tuco_lens.report.figure_page import FigurePage, escaped, table
from tuco_lens.results.files import write_whole
from tuco_lens.runs.environment import environment_words
from tuco_lens.sweep.result import SweepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme

_WARNING: Final = (
    '<p class="warning">Content warning: some experiments measure harmful requests. None is shown here; this page holds'
    " numbers.</p>"
)


def write_experiments(results: Mapping[str, Result], path: str | Path, *, title: str = "TuCo experiments") -> Path:
    """Write the results of experiments, by name, as one HTML page.

    Raises:
        OutputError: if the file cannot be written. Nothing half-written is left.
    """
    page = FigurePage(title, _WARNING)
    for name, result in results.items():
        _add_section(page, EXPERIMENTS[name], result)
    return write_whole(Path(path), page.render())


def figures_of(result: Result) -> list[Callable[[Theme], go.Figure]]:
    """All figures of a result, each to be drawn on either ground."""
    if isinstance(result, Comparison):
        full = [
            contrast.name
            for contrast in result.contrasts
            if all(len(result.scores[group]["tuco"]) for group in (contrast.positive, contrast.negative))
        ]
        return [result.groups_figure, *(partial(result.figure, name) for name in full), *search_figures(result)]
    if isinstance(result, Series):
        return [partial(result.figure, score) for score in result.score_keys if score != "n_tokens"]
    if isinstance(result, SweepResult):
        by = "group" if len(result.tasks) > 7 else "task"
        return [partial(result.accuracy_figure, by), partial(result.delta_figure, "task")]
    raise TypeError(f"no figures of a {type(result).__name__}")


def search_figures(result: Comparison) -> list[Callable[[Theme], go.Figure]]:
    """Of the search for attack strings; those of `jailbreak_success` may be those of `gcg`, which shows them."""
    if result.settings.experiment != "gcg" or not all("losses" in each for each in result.facts.get("attacks", [{}])):
        return []
    figures = [partial(attack_losses, result)]
    return [*figures, partial(attack_costs, result)] if "random search" in result.facts else figures


def _add_section(page: FigurePage, experiment: Experiment, result: Result) -> None:
    settings: Any = getattr(result, "settings", None)
    parts = [
        f'<p class="claim">Paper, {experiment.section}: {escaped(experiment.claim)}</p>',
        f'<p class="summary">{escaped(result.summary())}</p>',
        *map(page.figure, figures_of(result)),
        *(table(*each) for each in tables_of(result)),
        f'<p class="settings">{_settings(settings)}</p>',
    ]
    page.add(experiment.name, experiment.question, parts)


def _settings(settings: Any) -> str:
    parts = {"base": settings.base, "tuned": settings.tuned, "backend": settings.backend, "dtype": settings.dtype}
    parts |= {"seed": settings.seed, "tuco_lens": settings.version}
    made = [", ".join(f"{name} {value}" for name, value in parts.items()), environment_words(settings.environments)]
    return escaped("; ".join(filter(None, made)))
