"""The notebooks run from start to end, the saved ones are those of the scripts, and show nothing that they should not.

`scripts/notebooks.py` writes them. The two that read data sets are skipped where those are absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from scripts import notebooks
from tuco_lens.data import SETS, load

NAMES = notebooks.names()
HARMFUL = ("advbench", "advbench_strings", "advbench_translations", "jailbreakbench", "jailbreakbench_gcg")
SHOWN = (*HARMFUL, "openwebtext", "hh_rlhf")
RUN_OF_WORDS = 8
"""So many words in a row that are in a data set and in a notebook are taken for a quotation."""


def test_there_are_seven_notebooks_each_with_its_script() -> None:
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05", "06", "07"]
    assert sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_start_to_end(name: str) -> None:
    if name in notebooks.NEEDS_DATA and notebooks.data_folder() is None:
        pytest.skip("the development data sets are not there; set TUCO_LENS_DATA to their folder")
    ran = notebooks.executed(name, timeout=600)
    notebooks.tidy(ran)
    saved = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    assert list(kinds_of_outputs(ran)) == list(kinds_of_outputs(saved))


def kinds_of_outputs(notebook: Any) -> Iterator[list[str]]:
    """What each code cell shows: text, tables, figures. Numbers may differ in their last digits between machines."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = [kind for output in cell.outputs for kind in output.get("data", {output.get("name"): ""})]
            yield sorted({kind for kind in kinds if kind != "image/png"})


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_notebook_is_that_of_its_script_and_fit_to_be_read(name: str) -> None:
    assert notebooks.complaints(name) == []


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str) -> Iterator[tuple[str, ...]]:
    listed = words(text)
    return (tuple(listed[i : i + RUN_OF_WORDS]) for i in range(len(listed) - RUN_OF_WORDS + 1))


@pytest.mark.data
@pytest.mark.parametrize("data_set", SHOWN)
def test_no_text_of_a_data_set_is_in_a_saved_notebook(data_dir: Path, data_set: str) -> None:
    saved = [nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4) for name in NAMES]
    texts = [text for notebook in saved for text in notebooks.shown_text(notebook)]
    quoted = {run for text in texts for run in runs(text)}
    assert quoted
    data = load(data_set, folder=data_dir)
    found = sum(run in quoted for record in data for message in record.dialogue for run in runs(message["content"]))
    assert found == 0, f"{found} runs of {RUN_OF_WORDS} words of {data_set} are in the notebooks"
    # Short texts, and those of languages that put no spaces, as they are.
    whole = "\n".join(texts).lower()
    short = {str(record.prompt).lower() for record in data if len(words(str(record.prompt))) < RUN_OF_WORDS}
    assert sum(len(text) > 15 and text in whole for text in short) == 0


def test_every_data_set_that_a_notebook_reads_is_looked_for_in_it() -> None:
    sources = "".join((notebooks.FOLDER / f"{name}.py").read_text() for name in NAMES)
    assert {name for name in SETS if f'load("{name}"' in sources} <= set(SHOWN)


class TestWhatTheCheckFinds:
    """Each fault, put into a copy of a saved notebook, is complained of."""

    @pytest.fixture
    def copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for ending in (".py", ".ipynb"):
            name = f"01_quickstart{ending}"
            (tmp_path / name).write_bytes((notebooks.FOLDER / name).read_bytes())
        monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
        assert notebooks.complaints("01_quickstart") == []
        return tmp_path

    def complaints(self, folder: Path, change: Any) -> str:
        path = folder / "01_quickstart.ipynb"
        notebook = nbformat.read(path, as_version=4)
        change(notebook, [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs])
        nbformat.write(notebook, path)
        (complaint,) = notebooks.complaints("01_quickstart")
        return complaint

    @pytest.mark.parametrize(
        ("output", "said"),
        [
            (nbformat.v4.new_output("stream", text="see /home/somebody/models"), "shows a path of the machine"),
            (nbformat.v4.new_output("stream", name="stderr", text="warning"), "wrote to stderr"),
            (nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]), "failed"),
            (nbformat.v4.new_output("display_data", {"text/html": "<SCRIPT>x</script>"}), "has a script"),
            (nbformat.v4.new_output("display_data", {notebooks.PLOTLY: {"data": []}}), "a figure without a picture"),
        ],
    )
    def test_an_output_that_should_not_be_kept(self, copied: Path, output: Any, said: str) -> None:
        assert said in self.complaints(copied, lambda _, cells: cells[0].outputs.append(output))

    def test_a_cell_that_was_not_run(self, copied: Path) -> None:
        assert "was not run" in self.complaints(copied, lambda _, cells: cells[0].update(execution_count=None))

    def test_a_cell_that_the_script_has_not(self, copied: Path) -> None:
        change = "other cells than the .py"
        assert change in self.complaints(copied, lambda book, _: book.cells[3].update(source="x = 1"))

    def test_a_file_that_has_become_too_large(self, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notebooks, "MAX_BYTES", 10_000)
        assert "over 10000" in self.complaints(copied, lambda _, cells: None)

    def test_a_badge_that_opens_another_notebook(self, copied: Path) -> None:
        for ending in (".py", ".ipynb"):
            path = copied / f"01_quickstart{ending}"
            path.write_text(path.read_text().replace("notebooks/01_quickstart.ipynb", "notebooks/02_steering.ipynb"))
        assert "no badge" in "".join(notebooks.complaints("01_quickstart"))


def test_what_does_not_outlive_a_run_is_left_out() -> None:
    bar = nbformat.v4.new_output("display_data", {notebooks.WIDGET: {}, "text/plain": "bar"})
    noise = nbformat.v4.new_output("stream", name="stderr", text="warning")
    figure = nbformat.v4.new_output(
        "display_data", {notebooks.PLOTLY: {"data": [], "layout": {}}, "text/html": "<script>1</script>"}
    )
    tokens = nbformat.v4.new_output("display_data", {"text/html": "<b>kept</b><script>\nleft out\n</script>"})
    cell = nbformat.v4.new_code_cell("x", outputs=[bar, noise, figure, tokens])
    notebooks.tidy(nbformat.v4.new_notebook(cells=[cell]))
    assert [list(output.data) for output in cell.outputs] == [[notebooks.PLOTLY], ["text/html"]]
    assert cell.outputs[1].data["text/html"] == "<b>kept</b>"
