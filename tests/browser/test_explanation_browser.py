"""The page of an explanation in a real browser: wide and narrow, light and dark, and hostile words as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import NEEDS_CHROMIUM, Visit
from tests.pairs import tiny_pair
from tuco_lens.attribution.explanation import Explanation
from tuco_lens.plots.template import LOOKS, Theme

pytestmark = NEEDS_CHROMIUM
HOSTILE = "</script><img src=x onerror=window.ran=1>\u202e"
N_FIGURES = 8


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    """Of a prompt, with tokens and names, that would run scripts."""
    found = tiny_pair("bridge").explain("<b>one</b> & two", answer="<", against="&")

    def poisoned(part: Any) -> Any:
        tokens = (HOSTILE, *part.tokens[1:])
        return replace(part, tokens=tokens, base=HOSTILE, tuned=HOSTILE)

    parts = {name: poisoned(getattr(found, name)) for name in Explanation.WITHIN}
    texts = dict.fromkeys(found.lens.texts, HOSTILE)
    said = {name: tuple((HOSTILE, p) for _, p in row) for name, row in found.next_tokens.items()}
    parts["lens"] = replace(parts["lens"], texts=texts)
    return replace(found, **parts, next_tokens=said, missing={"sources": HOSTILE})


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_draws_on_its_ground_and_nothing_hostile_runs(
    explanation: Explanation, tmp_path: Path, visit: Callable[..., Visit], width: int, theme: Theme
) -> None:
    page = visit(explanation.page(tmp_path / "page.html", title=HOSTILE), width)
    page.page.emulate_media(color_scheme=theme)
    divs = page.page.locator(".figure")
    assert divs.count() == N_FIGURES
    for i in range(N_FIGURES):
        divs.nth(i).scroll_into_view_if_needed()
        divs.nth(i).locator(".plot-container").first.wait_for()
        page.page.wait_for_function(
            "([i, paper]) => document.querySelectorAll('.figure')[i].layout.template.layout.paper_bgcolor === paper",
            arg=[i, LOOKS[theme].template.layout.paper_bgcolor],  # pyright: ignore
        )
    assert page.overflow() == 0
    assert "onerror=window.ran=1" in page.page.locator("h1").inner_text()
    assert "</script><img" in page.page.locator("#next td").first.inner_text()
    for link in page.page.locator("nav a").all():
        target = link.get_attribute("href")
        assert page.page.locator(f"section{target} h2").inner_text() == link.inner_text()
    page.assert_innocent()
