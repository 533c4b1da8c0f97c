"""The HTML that `jupyter nbconvert --to html --execute` writes shows results: figures are drawn, tokens coloured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.chromium import NEEDS_CHROMIUM

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.slow]
nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")

CELLS = [
    "import tuco_lens as tl\nfrom tuco_lens import plots\npair = tl.ModelPair.demo()\n"
    "m = pair.measure(['Name a river.', 'The <script>sea</script> is wide.'], progress=False)",
    "m.heatmap(0)",
    "m.map(1)",
    "m[1].colored_tokens()",
    "m",
    "pair",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    ExecutePreprocessor(timeout=300).preprocess(notebook, {})
    body, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    path = tmp_path_factory.mktemp("nbconvert") / "notebook.html"
    path.write_text(body, encoding="utf-8")
    return path


def test_figures_are_drawn_and_nothing_of_a_prompt_runs(page: Path, visit: Callable[..., Any]) -> None:
    shown = visit(page)
    shown.page.wait_for_function("document.querySelectorAll('.js-plotly-plot .heatmaplayer image').length >= 2")
    assert shown.page.locator(".js-plotly-plot").count() == 2
    assert shown.page.locator(".colored-tokens").count() == 1
    assert "run this notebook" not in shown.page.locator("body").inner_text()


def test_the_script_is_there_once(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("DecompressionStream") == 1
