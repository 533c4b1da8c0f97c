"""An explanation as one self-contained page, from the one-line answer down to heads.

The frame is `report/figure_page.py`; what is told is in `explanation.py`. Works without the models.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from tuco_lens.plots.labels import token_label
from tuco_lens.report.figure_page import FigurePage, escaped, table

if TYPE_CHECKING:
    from tuco_lens.attribution.explanation import Explanation
    from tuco_lens.attribution.result import Attribution


def render_explanation(found: Explanation, title: str) -> str:
    """The page as text."""
    names = f"{escaped(found.components.tuned)} against {escaped(found.components.base)}"
    missing = "".join(f'<p class="warning">{escaped(reason)}</p>' for reason in found.missing.values())
    page = FigurePage(
        title, f'<p class="answer">{escaped(found.summary())}</p><p class="settings">{names}</p>{missing}'
    )
    page.add("next", "What it says", [_next_tokens(found)])
    gradients = found.gradients
    page.add("why", "Why the answer changed", _parts(page, gradients, gradients.figure, gradients.parts_figure))
    if found.patching is not None:
        page.add("causes", "What causes it", _parts(page, found.patching, found.patching.comparison_figure))
    shares = found.components
    heads = [shares.heads_figure] if shares.heads is not None else []
    page.add("components", "Where TuCo comes from", _parts(page, shares, shares.figure, *heads))
    if found.sources is not None:
        page.add("sources", "Which words bring it in", _parts(page, found.sources, found.sources.figure))
    page.add("words", "What fine-tuning writes", _parts(page, found.lens, found.lens.figure))
    page.add("logits", "What writes the answer", _parts(page, found.logits, found.logits.figure))
    return page.render()


def _parts(page: FigurePage, found: Attribution, *figures: object) -> list[str]:
    return [f'<p class="summary">{escaped(found.summary())}</p>', *(page.figure(draw) for draw in figures)]  # pyright: ignore[reportArgumentType]


def _next_tokens(found: Explanation) -> str:
    said = found.next_tokens
    rows = (
        [text for each in row for text in (("", "") if each is None else (token_label(each[0], 24), f"{each[1]:.3f}"))]
        for row in zip_longest(*said.values())
    )
    return table("Likeliest next tokens", [text for name in said for text in (name, "p")], rows)
