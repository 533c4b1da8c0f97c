"""A Chromium for each module of browser tests, and pages in it; see `tests/chromium.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import ARGUMENTS, CHROMIUM, PATIENCE, Visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def idle_pages() -> list[Any]:
    """Pages that wait for the next visit; they end with the browser."""
    return []


@pytest.fixture(scope="module")
def shown_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each file is put to be visited: scripts are compiled once for an address."""
    return tmp_path_factory.mktemp("shown") / "page.html"


@pytest.fixture
def visit(browser: Any, idle_pages: list[Any], shown_file: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def opened(file: Path, width: int = 1280) -> Visit:
        page = idle_pages.pop() if idle_pages else browser.new_page()
        page.set_default_timeout(PATIENCE)
        shutil.copyfile(file, shown_file)
        visits.append(Visit(page, shown_file, width))
        return visits[-1]

    yield opened
    for each in visits:
        each.leave()
        idle_pages.append(each.page)
