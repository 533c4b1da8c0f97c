"""Every code block of README.md and docs/ runs, and what a page shows as output is what comes out.

How a block is run, and what its comments mean, is in `tests/doc_blocks.py`.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path

import plotly.graph_objects as go
import pytest

from tests.doc_blocks import PAGES, REPOSITORY, PageRun, assert_same_output, blocks_of, furnish, needs_of
from tuco_lens.pair import ModelPair

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH = "80"
"""Columns of the terminal that the pages show."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and files that the pages name."""
    pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    folder = tmp_path_factory.mktemp("shelf")
    furnish(folder)
    return folder


@pytest.fixture
def desk(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shelf as current folder, so that no page sees what another has written."""
    folder = tmp_path / "desk"
    shutil.copytree(shelf, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", WIDTH)
    monkeypatch.setenv("TERMINAL_WIDTH", WIDTH)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_blocks_of_the_page_do_what_it_says(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in needs_of(page):
        if importlib.util.find_spec(name) is None and shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    if "import lm_eval" in page.read_text(encoding="utf-8"):
        # The harness describes the machine after each evaluation, by programs that take seconds.
        monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    run = PageRun()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks_of(page):
            run.run(block)
    assert all(pair.active_scalings == [] for pair in vars(run.module).values() if isinstance(pair, ModelPair))


# --- Laws of the runner: a page that is wrong fails ------------------------------------------------------------------


def _run(text: str, folder: Path) -> PageRun:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    run = PageRun()
    vars(run.module)["figure"] = go.Figure()
    (folder / "a.png").touch()
    for block in blocks_of(page):
        run.run(block)
    return run


WRONG = {
    "an error": "```python\n1 / 0\n```",
    "a name that does not exist": "```python\nmissing\n```",
    "an unknown language": "```ruby\n1\n```",
    "no language": "```\n1\n```",
    "an indented block": "words\n\n    1\n",
    "data that is no file": "```json\n1\n```",
    "an output that differs": "```python\nprint('a')\n```\n\n```text\nb\n```",
    "a number that differs": "```python\nprint('x 0.312')\n```\n\n```text\nx 0.318\n```",
    "an output that goes on": "```python\nprint('a\\nb')\n```\n\n```text\na\n```",
    "an output of nothing": "```python\n1\n```\n\n```text\na\n```",
    "no exception": '<!-- block: raises KeyError "a" -->\n```python\n1\n```',
    "another exception": '<!-- block: raises KeyError "a" -->\n```python\n1 / 0\n```',
    "an exception of other words": '<!-- block: raises KeyError "a" -->\n```python\n{}["b"]\n```',
    "an exception only of another release": '<!-- block: raises KeyError "a" if torch<1 -->\n```python\n{}["a"]\n```',
    "a drawing that is no expression": "<!-- block: draws a.png -->\n```python\na = 1\n```\n![a](a.png)",
    "a drawing of nothing": "<!-- block: draws a.png -->\n```python\n1\n```\n![a](a.png)",
    "a drawing that is not there": "<!-- block: draws b.png -->\n```python\nfigure\n```\n![b](b.png)",
    "a drawing that is not shown": "<!-- block: draws a.png -->\n```python\nfigure\n```",
    "an unknown marker": "<!-- block: hidden -->\n```python\n1\n```",
    "an unknown command": "```sh\nrm x\n```",
    "a command that fails": "```sh\ntuco-lens measure\n```",
    "a command that does not fail": "<!-- block: fails 2 -->\n```sh\ntuco-lens pairs\n```",
    "an unknown target": "```sh\nmake nonsense\n```",
    "an unknown extra": "```sh\npip install 'tuco_lens[nonsense]'\n```",
    "another package": "```sh\npip install numpy\n```",
    "a script that is not there": "```sh\npython scripts/nonsense.py\n```",
    "no command": "```sh\n# nothing\n```",
    "a block within an admonition": "!!! note\n    words\n\n    ```python\n    1 / 0\n    ```\n",
    "a block within a list": "- words\n\n    ```python\n    1 / 0\n    ```\n",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_page_fails(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, ArithmeticError, NameError, KeyError)):
        _run(text, tmp_path)


def test_a_right_page_runs_its_blocks_in_one_namespace_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = _run(
        "```python\na = 1\nprint('x 0.312', a)\n```\n\n```text\nx 0.311 1\n```\n\n"
        "<!-- block: formula -->\n```text\na = b\n```\n\n"
        "<!-- block: draws a.png -->\n```python\nb = 1\nfigure\n```\n\n![a](a.png)\n\n"
        '<!-- block: file sub/a.json -->\n```json\n{"a": 2}\n```\n\n'
        '<!-- block: raises ZeroDivisionError "division" -->\n```python\na / 0\n```\n\n'
        "```python\nimport json\na += json.load(open('sub/a.json'))['a']\nfor i in range(9):\n    print(i)\n```\n\n"
        "```text\n0\n…\n8\n```\n\n"
        "```sh\nmake test  # the suite\npip install 'tuco_lens[peft]'\npython -m pytest tests/conftest.py\n```",
        tmp_path,
    )
    assert vars(run.module)["a"] == 3
    assert list(run.drawn) == [tmp_path / "a.png"]


def test_numbers_may_differ_by_rounding_and_nothing_else_may() -> None:
    assert_same_output("a 0.312, 3 tokens\n", "\na 0.314, 3 tokens   \n\n")
    for other in ("a 0.315, 3 tokens", "b 0.312, 3 tokens", "a 0.312, 4 tokens", "a 0.3, 3 tokens"):
        with pytest.raises(AssertionError):
            assert_same_output("a 0.312, 3 tokens", other)


def test_every_page_has_been_found() -> None:
    names = {str(page.relative_to(REPOSITORY)) for page in PAGES}
    assert {"README.md", "docs/index.md", "docs/steering.md", "docs/gotchas.md"} <= names
    assert all(block.code for page in PAGES for block in blocks_of(page))
