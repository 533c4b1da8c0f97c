"""One self-contained page of sections with figures, as experiments and explanations are: it fetches nothing.

It contains plotly, and every figure for light and for dark ground; frame, style and script are in
`assets/figure_page/`. Whoever makes the sections escapes foreign text with `escaped`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

from plotly.offline import get_plotlyjs

from tuco_lens import __version__
from tuco_lens.plots.labels import readable
from tuco_lens.report import content_policy
from tuco_lens.report.page import theme_style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme

ASSETS: Final = Path(__file__).parent.parent / "assets" / "figure_page"
_LONGEST_TEXT: Final = 10_000


class FigurePage:
    """A page as it grows: sections of HTML, in which figures have their places."""

    def __init__(self, title: str, opening: str) -> None:
        """`opening` is HTML that stands below the title."""
        self.title, self.opening = title, opening
        self._headings: list[tuple[str, str]] = []
        self._sections: list[str] = []
        self._figures: list[dict[str, Any]] = []

    def add(self, name: str, heading: str, parts: Iterable[str]) -> None:
        """A section with an id, a heading that is plain text, and parts that are HTML."""
        self._headings.append((name, heading))
        self._sections.append("\n".join([f'<section id="{name}"><h2>{escaped(heading)}</h2>', *parts, "</section>"]))

    def figure(self, draw: Callable[[Theme], go.Figure]) -> str:
        """The place of a figure, for a section's parts."""
        themes: tuple[Theme, ...] = ("light", "dark")
        self._figures.append({theme: json.loads(draw(theme).to_json() or "") for theme in themes})
        return f'<div class="figure" data-index="{len(self._figures) - 1}"></div>'

    def render(self) -> str:
        """The whole page."""
        contents = [f'<li><a href="#{name}">{escaped(heading)}</a></li>' for name, heading in self._headings]
        plotly, script = get_plotlyjs(), _asset("page.js")
        return Template(_asset("page.html")).substitute(
            policy=content_policy(plotly, script),
            version=html.escape(__version__),
            title=escaped(self.title),
            style=theme_style() + _asset("page.css"),
            opening=self.opening,
            contents="\n".join(contents),
            sections="\n".join(self._sections),
            figures=_script_json(self._figures),
            plotly=plotly,
            script=script,
        )


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts that scrolls by itself where the screen is narrow."""
    head = "".join(f'<th scope="col">{escaped(heading)}</th>' for heading in headings)
    body = "\n".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroller"><table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def escaped(text: str) -> str:
    """Foreign text as HTML that shows it and does nothing else."""
    return html.escape(readable(text, _LONGEST_TEXT))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    """JSON for a script element: pure ASCII, and no `<` that could end the element or open a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
