"""The HTML report of 500 prompts × 100 tokens × 30 layers: its size, and how long it takes to write, open and use.

    .venv/bin/python -m benchmarks.report

Opening is from the request for the file to the first prompt's map, drawn, in a headless Chromium that has just been
started. The numbers are random, which deflates worse than those of any model. Needs the `dev` extra and Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

from tests.chromium import ARGUMENTS, CHROMIUM, PATIENCE
from tests.measurements import a_measurement
from tuco_lens.results.measurement import Measurement

N_LAYERS = 30
N_TOKENS = 100
VOCAB = 50_000
SIZE_BAR = 12.0
"""Megabytes of 500 prompts."""
OPEN_BAR = 3.0
"""Seconds."""

# Answered by the page when the map is there, since asking it again and again would take its time.
DRAWN = """
new Promise((done) => {
  const drawn = () => document.querySelector("#heatmap .heatmaplayer image");
  const look = () => (drawn() ? done(performance.now()) : setTimeout(look, 10));
  look();
})
"""
# What the reader waits for: the change, and the layout that follows.
TIMED = (
    "(act) => { const start = performance.now(); %s; document.body.offsetHeight; return performance.now() - start; }"
)
SORT = TIMED % "document.querySelector('th[data-column=tuco] button').click()"
FILTER = TIMED % (
    "document.getElementById('needle').value = 'k77';"
    "document.getElementById('filters').dispatchEvent(new Event('input'))"
)


def random_measurement(n_prompts: int, n_tokens: int, n_layers: int) -> Measurement:
    ids = torch.randint(VOCAB, (n_prompts, n_tokens), generator=torch.Generator().manual_seed(0)).tolist()
    return a_measurement([tuple(f" tok{i}" for i in row) for row in ids], n_layers)


def show(what: str, value: float, unit: str, bar: float | None = None) -> None:
    verdict = "" if bar is None else f"  (bar {bar:g}{'' if value <= bar else ', MISSED'})"
    print(f"{what:52} {value:8.3f} {unit}{verdict}", flush=True)


def opened(playwright: Any, file: Path) -> tuple[float, Any, Page]:
    """Seconds until the map is drawn; the browser, which is the caller's to close; the page."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(file.as_uri(), wait_until="commit", timeout=PATIENCE)
    return page.evaluate(DRAWN) / 1000, browser, page


def bench_opening(playwright: Any, file: Path, rounds: int) -> None:
    times: list[float] = []
    for _ in range(rounds):
        seconds, browser, _ = opened(playwright, file)
        times.append(seconds)
        browser.close()
    show(f"open until the map is drawn, median of {rounds}", statistics.median(times), "s", OPEN_BAR)
    show("  fastest", min(times), "s")


def bench_table(playwright: Any, folder: Path, n_prompts: int) -> None:
    """Sorting and filtering many rows."""
    file = random_measurement(n_prompts, 10, 2).report(folder / "rows.html")
    seconds, browser, page = opened(playwright, file)
    show(f"{n_prompts} prompts of 10 tokens: open", seconds, "s")
    for name, script in {"sort": SORT, "filter": FILTER}.items():
        show(f"  {name}, median of 5", statistics.median(page.evaluate(script) for _ in range(5)), "ms")
    browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measurement = random_measurement(arguments.prompts, N_TOKENS, N_LAYERS)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        start = time.perf_counter()
        file = measurement.report(folder / "report.html")
        show(f"write {arguments.prompts} × {N_TOKENS} × {N_LAYERS}", time.perf_counter() - start, "s")
        show("size", file.stat().st_size / 1e6, "MB", SIZE_BAR)
        bench_opening(playwright, file, arguments.rounds)
        bench_table(playwright, folder, 5000)


if __name__ == "__main__":
    main()
