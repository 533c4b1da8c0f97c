"""Draws the pictures of docs/ from the very code that stands above them, in a headless Chromium.

    .venv/bin/python -m scripts.docs_pictures [NAME …]

A block that the page marks with `<!-- block: draws images/NAME.png -->` ends in a figure, or in an object that
notebooks show as HTML (see `tests/doc_blocks.py`); that is drawn into docs/images/. NAME picks pictures; by default all
are made anew: these, and `report`, `explain`, `explorer` and `explorer-why`, the pages of `tuco-lens demo` and
`tuco-lens explain` and the widget in JupyterLab, as they are on a screen. Needs the `dev` extra and a `chromium` on
PATH. The pictures of scripts/steering_results.py, scripts/refusal_study.py, scripts/real_tunes.py and
scripts/readme_picture.py are those scripts' own.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from scripts._screenshot import PATIENCE, screenshot
from scripts.docs_outputs import desk
from tests.doc_blocks import PAGES, REPOSITORY, PageRun, blocks_of
from tuco_lens.cli.app import run

IMAGES = REPOSITORY / "docs" / "images"
WIDTH = 860  # CSS pixels; the text column of the site is a little narrower
PAGE_WIDTH = 1100


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("names", nargs="*", help="such as map-local; all by default")
    names: list[str] = parser.parse_args().names
    for page in PAGES:
        marks = [Path(block.marker).stem for block in blocks_of(page) if block.marker.startswith("draws ")]
        if set(marks) & set(names or marks):
            _draw_page(page, names)
    screens = {
        "report": draw_report,
        "explain": draw_explanation,
        "explorer": partial(draw_explorer, tab="Response"),
        "explorer-why": partial(draw_explorer, tab="Why"),
    }
    for name, draw in screens.items():
        if name in (names or [name]):
            _say(draw(IMAGES / f"{name}.png"))


def _draw_page(page: Path, names: list[str]) -> None:
    page_run = PageRun(is_drawing=True)
    with desk():
        for block in blocks_of(page):
            if block.language in ("python", "sh") or block.marker.startswith("file "):
                page_run.run(block)
    for place, drawn in page_run.drawn.items():
        if not names or place.stem in names:
            if hasattr(drawn, "to_html"):
                screenshot(drawn, place, width=WIDTH)
            else:
                screenshot_html(drawn._repr_html_(), place)
            _say(place)


def _say(place: Path) -> None:
    print(f"{place}: {place.stat().st_size / 1000:.0f} kB")


def screenshot_html(html: Any, out: Path) -> None:
    """Draws a piece of HTML, at double density."""
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        file = Path(folder) / "page.html"
        style = "body { margin: 0; padding: 8px; font: 15px system-ui, sans-serif; background: #fff; color: #111 }"
        file.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{html}", encoding="utf-8")
        page = browser.new_page(viewport={"width": WIDTH, "height": 60}, device_scale_factor=2)
        page.goto(file.as_uri())
        page.wait_for_timeout(1000)  # its script replaces the text that is there without it
        page.screenshot(path=out, full_page=True)


def draw_report(out: Path) -> Path:
    """The report of the bundled prompts, with a chat selected."""
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        run(["demo", "--out", folder, "--no-progress"])
        page = browser.new_page(viewport={"width": PAGE_WIDTH, "height": 900}, device_scale_factor=1.5)
        page.goto(f"{(Path(folder) / 'report.html').as_uri()}#prompt-13")
        page.locator("#heatmap .main-svg").first.wait_for()
        page.wait_for_timeout(1000)  # fonts and the transitions of the figures
        page.screenshot(path=out, full_page=True)
    return out


def draw_explanation(out: Path) -> Path:
    """The first screens of the page of `tuco-lens explain`."""
    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        file = Path(folder) / "why.html"
        asked = ["explain", "--pair", "demo", "--prompt", "How do I boil an egg?", "--chat", "--no-progress"]
        run([*asked, "--html", str(file)])
        page = browser.new_page(viewport={"width": PAGE_WIDTH, "height": 2100}, device_scale_factor=1)
        page.goto(file.as_uri())
        page.locator(".main-svg").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=out)
    return out


def draw_explorer(out: Path, tab: str) -> Path:
    """A tab of the explorer in JupyterLab, at an α other than 1."""
    from tests.browser.test_explorer_browser import SETTINGS, Lab, Notebook

    with tempfile.TemporaryDirectory() as folder, _browser() as browser:
        lab = Lab(Path(folder), SETTINGS)
        try:
            notebook = Notebook(browser, lab)
            notebook.set_alpha("0.5")
            notebook.shows("scaled", "0.5")
            notebook.page.set_viewport_size({"width": 1280, "height": 1500})
            if tab == "Why":
                notebook.explorer.locator(".lm-TabBar-tab", has_text=tab).click()
                notebook.shows("why-status", "a change of")
            notebook.page.wait_for_timeout(2000)
            notebook.explorer.screenshot(path=out)
        finally:
            lab.stop()
    return out


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )


if __name__ == "__main__":
    main()
