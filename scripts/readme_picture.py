"""Draws docs/images/heatmap.png, the picture of the README: one prompt of the demo pair, in a headless Chromium.

    .venv/bin/python scripts/readme_picture.py

Needs the `dev` extra and a `chromium` on PATH. Run it again when the demo pair or the look of the figures changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _screenshot import screenshot

import tuco_lens as tl
from tuco_lens.pair import DEMO_FOLDER

PROMPT = 15  # of the bundled ones: a chat of few enough tokens to label them all
WIDTH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "images" / "heatmap.png")
    out: Path = parser.parse_args().out

    record = json.loads((DEMO_FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[PROMPT])
    measurement = tl.ModelPair.demo().measure([record["messages"]], progress=False)
    screenshot(measurement.heatmap(0), out, width=WIDTH, wait_for=".heatmaplayer image")
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB, TuCo {measurement[0].tuco:.4f}")


if __name__ == "__main__":
    main()
