"""Debian's Chromium for tests: where it is, how it is started, and a page that notes whatever it should not have done.

The fixtures `browser` and `visit` are in `tests/browser/conftest.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
]
"""Set as `pytestmark` in a module of browser tests."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000
"""ms; far more than it takes, for machines busy with other work."""


class Visit:
    """A file opened in a page, and all that it should not have done meanwhile. The page may have shown others before.

    A page that opens one address again keeps the scripts that it has compiled there: plotly.js takes over a second, the
    first time only. Whoever wants that writes each file to the same `file`.
    """

    def __init__(self, page: Any, file: Path, width: int = 1280) -> None:
        self.page, self.file = page, file
        self.page.set_viewport_size({"width": width, "height": 900})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self._listeners = {
            "request": lambda request: self.requests.append(request.url),
            "pageerror": lambda error: self.complaints.append(str(error)),
            "console": lambda message: self.complaints.append(message.text),
            "dialog": lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()),
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)
        self.page.goto(file.as_uri())

    def leave(self) -> None:
        """Make the page as good as new for the next visit."""
        self.page.goto("about:blank")
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        self.page.emulate_media(media="null", color_scheme="light")
        self.page.mouse.move(0, 0)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def assert_innocent(self) -> None:
        """No request but the file itself, no console message, no dialog, and `window.ran` unset."""
        assert self.requests == [self.file.as_uri()]
        assert self.complaints == []
        assert self.dialogs == []
        assert self.page.evaluate("window.ran === undefined")
