"""Runs the notebooks and writes them with their outputs: `python -m scripts.notebooks [NAME …]`.

The percent scripts `notebooks/*.py` are what is edited; the `.ipynb` beside each is written here: its cells, run from
start to end without a network, and outputs that read where no script runs (on GitHub): a PNG under each plotly figure,
coloured tokens without the script of the interactive view. `--check` runs nothing, and fails where a pair of files
disagrees or a saved output should not be there. The tests are `tests/integration/test_notebooks.py`.

Data sets are read from `TUCO_LENS_DATA` (default `../shared/data`). The pictures need Chrome or Chromium and kaleido.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NEEDS_DATA = ("03_web_text_and_chat", "04_jailbreaks")
REPOSITORY = "OWNER/tuco_lens"
"""On GitHub, for the badges that open a notebook in Colab."""
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
MAX_BYTES = 1_500_000
WIDTH, HEIGHT = 900, 450
"""Pixels of a picture, where the figure does not say."""
PRIVATE = re.compile(r"/(?:root|home|work|tmp|Users|mnt|opt|usr)/|site-packages|\.venv|C:\\\\Users")
"""Paths of the machine on which the notebooks ran."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


def data_folder() -> Path | None:
    """Where the development data sets are, if they are."""
    folder = Path(os.environ.get("TUCO_LENS_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def source(name: str) -> Any:
    """The notebook of a percent script, without outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"  # the same in each run, so that a diff shows what changed
    notebook.metadata.setdefault("kernelspec", {"display_name": "Python 3", "language": "python", "name": "python3"})
    return notebook


def executed(name: str, timeout: int = 600) -> Any:
    """The notebook, run in a kernel of this Python, without a network.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = source(name)
    folder = data_folder()
    added = {"HF_HUB_OFFLINE": "1", "PLOTLY_RENDERER": "plotly_mimetype", "TUCO_LENS_DATA": str(folder or "")}
    added["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    before = dict(os.environ)
    os.environ.update(added)  # which the kernel inherits
    try:
        NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(FOLDER)}}).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return notebook


def tidy(notebook: Any) -> None:
    """Leave out of the outputs what does not outlive the run: progress bars, times, scripts, the kernel's version."""
    notebook.metadata.pop("language_info", None)
    for cell in _code(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
        for output in cell.outputs:
            _make_static(output.get("data", {}))


def _is_passing(output: Any) -> bool:
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def _make_static(data: Any) -> None:
    if PLOTLY in data:
        data.pop("text/html", None)
        data[PLOTLY].pop("config", None)
    if "text/html" in data:
        data["text/html"] = re.sub(r"<script>.*?</script>\n?", "", data["text/html"], flags=re.DOTALL)


def add_pictures(notebook: Any) -> None:
    """A PNG beside each plotly figure, for readers that run no scripts."""
    import kaleido
    import plotly.graph_objects as go

    figures = [output.data for cell in _code(notebook) for output in cell.outputs if PLOTLY in output.get("data", {})]
    if not figures:
        return
    kaleido.start_sync_server(silence_warnings=True)
    try:
        for data in figures:
            layout = data[PLOTLY]["layout"]
            width, height = layout.get("width", WIDTH), layout.get("height", HEIGHT)
            image = go.Figure(data[PLOTLY]).to_image(format="png", width=width, height=height, scale=1)
            data["image/png"] = base64.b64encode(image).decode()
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def write(name: str) -> Path:
    """Run a notebook and write its .ipynb."""
    notebook = executed(name)
    tidy(notebook)
    add_pictures(notebook)
    path = FOLDER / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def complaints(name: str) -> list[str]:
    """What is wrong with the saved notebook; nothing of its text is quoted."""
    path = FOLDER / f"{name}.ipynb"
    if not path.is_file():
        return [f"{name}: there is no .ipynb"]
    notebook = nbformat.read(path, as_version=4)
    found = list(_complaints(name, notebook, path.stat().st_size))
    if _cells(notebook) != _cells(source(name)):
        found.append("the .ipynb has other cells than the .py")
    return [f"{name}: {complaint}; run python -m scripts.notebooks {name}" for complaint in found]


def _complaints(name: str, notebook: Any, size: int) -> Iterator[str]:
    if size > MAX_BYTES:
        yield f"the .ipynb has {size} bytes, over {MAX_BYTES}"
    badge = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name}.ipynb"
    if badge not in notebook.cells[0].source:
        yield "its first cell has no badge that opens it in Colab"
    for number, cell in enumerate(_code(notebook), 1):
        if cell.execution_count != number:
            yield f"code cell {number} was not run, or not in its turn"
        for output in cell.outputs:
            yield from (f"code cell {number} {complaint}" for complaint in _of_output(output))


def _of_output(output: Any) -> Iterator[str]:
    data = output.get("data", {})
    if output.output_type == "error":
        yield "failed"
    if output.get("name") == "stderr":
        yield "wrote to stderr"
    if PLOTLY in data and not _is_png(data.get("image/png", "")):
        yield "has a figure without a picture"
    shown = json.dumps({**data, "image/png": ""}) + str(output.get("text", ""))
    if "<script" in shown.lower():
        yield "has a script in its output"
    if PRIVATE.search(shown):
        yield "shows a path of the machine it ran on"


def _is_png(text: str) -> bool:
    return base64.b64decode(text)[:8] == b"\x89PNG\r\n\x1a\n"


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def shown_text(notebook: Any) -> Iterator[str]:
    """Every string that a reader of the notebook could come upon, those within figures included."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield from _strings({key: value for key, value in output.items() if key != "metadata"})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("image/png", "bdata"):
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as 01_quickstart; all by default")
    parser.add_argument("--check", action="store_true", help="run nothing, and say what is wrong")
    options = parser.parse_args(None if arguments is None else list(arguments))
    chosen = options.names or names()
    if not options.check:
        for name in chosen:
            path = write(name)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")
    found = [complaint for name in chosen for complaint in complaints(name)]
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
