"""One self-contained page with every table and figure of several experiments: it contains plotly and fetches nothing.

Template, style and script are in `assets/experiments/`; the tables come from `tables.py`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

from plotly.offline import get_plotlyjs

from tuco_lens import __version__
from tuco_lens.experiments.comparison import Comparison
from tuco_lens.experiments.registry import EXPERIMENTS, Experiment, Result
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.tables import Table, tables_of
from tuco_lens.plots.labels import readable
from tuco_lens.report import content_policy
from tuco_lens.results.files import write_whole
from tuco_lens.sweep.result import SweepResult

if TYPE_CHECKING:
    import plotly.graph_objects as go

ASSETS: Final = Path(__file__).parent.parent / "assets" / "experiments"
NAME_CHARACTERS: Final = 200


def write_experiments(results: Mapping[str, Result], path: str | Path, *, title: str = "TuCo experiments") -> Path:
    """Write the results of experiments, by name, as one HTML page.

    Raises:
        OutputError: if the file cannot be written. Nothing half-written is left.
    """
    figures: list[Any] = []
    sections = [_section(EXPERIMENTS[name], result, figures) for name, result in results.items()]
    contents = [f'<li><a href="#{name}">{_text(EXPERIMENTS[name].question)}</a></li>' for name in results]
    plotly, script = get_plotlyjs(), (ASSETS / "page.js").read_text(encoding="utf-8")
    text = Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        policy=content_policy(plotly, script),
        version=html.escape(__version__),
        title=_text(title),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        contents="\n".join(contents),
        sections="\n".join(sections),
        figures=_script_json(figures),
        plotly=plotly,
        script=script,
    )
    return write_whole(Path(path), text)


def figures_of(result: Result) -> list[go.Figure]:
    """All figures of a result."""
    if isinstance(result, Comparison):
        full = [
            contrast
            for contrast in result.contrasts
            if all(len(result.scores[group]["tuco"]) for group in (contrast.positive, contrast.negative))
        ]
        return [result.groups_figure(), *(result.figure(contrast.name) for contrast in full)]
    if isinstance(result, Series):
        return [result.figure(score) for score in result.score_keys if score != "n_tokens"]
    if isinstance(result, SweepResult):
        by = "group" if len(result.tasks) > 7 else "task"
        return [result.accuracy_figure(by), result.delta_figure()]
    raise TypeError(f"no figures of a {type(result).__name__}")


def _section(experiment: Experiment, result: Result, figures: list[Any]) -> str:
    divs: list[str] = []
    for figure in figures_of(result):
        divs.append(f'<div class="figure" data-index="{len(figures)}"></div>')
        figures.append(json.loads(figure.to_json() or ""))
    settings: Any = getattr(result, "settings", None)
    return "\n".join(
        [
            f'<section id="{experiment.name}"><h2>{_text(experiment.question)}</h2>',
            f'<p class="claim">Paper, {experiment.section}: {_text(experiment.claim)}</p>',
            f'<p class="summary">{_text(result.summary())}</p>',
            *divs,
            *map(_table, tables_of(result)),
            f'<p class="settings">{_settings(settings)}</p></section>',
        ]
    )


def _table(table: Table) -> str:
    caption, headings, rows = table
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in headings)
    body = "\n".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return (
        f'<div class="scroller"><table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(row: Sequence[str]) -> str:
    return "".join(f"<td>{_text(cell)}</td>" for cell in row)


def _settings(settings: Any) -> str:
    parts = {"base": settings.base, "tuned": settings.tuned, "backend": settings.backend, "dtype": settings.dtype}
    parts |= {"seed": settings.seed, "tuco_lens": settings.version}
    return ", ".join(f"{name} {_text(str(value))}" for name, value in parts.items())


def _script_json(value: Any) -> str:
    """JSON for a script element: pure ASCII, and no `<` that could end the element or open a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _text(text: str) -> str:
    return html.escape(readable(text, 10_000))
