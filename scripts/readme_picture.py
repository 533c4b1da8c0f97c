"""Draws docs/images/heatmap.png, the picture of the README: one prompt of the demo pair, in a headless Chromium.

    .venv/bin/python scripts/readme_picture.py

Needs the `dev` extra and a `chromium` on PATH. Run it again when the demo pair or the look of the figures changes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import tuco_lens as tl
from tuco_lens.pair import DEMO_FOLDER

PROMPT = 15  # of the bundled ones: a chat of few enough tokens to label them all
WIDTH = 1000
PATIENCE = 300_000  # ms


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "images" / "heatmap.png")
    out: Path = parser.parse_args().out

    record = json.loads((DEMO_FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[PROMPT])
    measurement = tl.ModelPair.demo().measure([record["messages"]], progress=False)
    figure = measurement.heatmap(0)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "figure.html"
        figure.update_layout(width=WIDTH).write_html(page_file, config={"displayModeBar": False})
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        page = browser.new_page(viewport={"width": WIDTH + 20, "height": 700}, device_scale_factor=2)
        page.set_default_timeout(PATIENCE)
        page.goto(page_file.as_uri())
        page.locator(".heatmaplayer image").wait_for()
        page.locator(".plot-container").screenshot(path=out)
        browser.close()
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB, TuCo {measurement[0].tuco:.4f}")


if __name__ == "__main__":
    main()
