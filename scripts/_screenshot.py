"""A plotly figure as a PNG, drawn by a headless Chromium: for the pictures of README and docs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PATIENCE = 300_000  # ms


def screenshot(figure: Any, out: Path, *, width: int, wait_for: str = ".main-svg") -> None:
    """Draw the figure `width` pixels wide, at double density, once `wait_for` is on the page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "figure.html"
        figure.update_layout(width=width).write_html(page_file, config={"displayModeBar": False})
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        page = browser.new_page(viewport={"width": width + 20, "height": 700}, device_scale_factor=2)
        page.set_default_timeout(PATIENCE)
        page.goto(page_file.as_uri())
        page.locator(wait_for).first.wait_for()
        page.locator(".plot-container").screenshot(path=out)
        browser.close()
