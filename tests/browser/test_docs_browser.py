"""The built documentation in a real browser: it fetches nothing from elsewhere, and fits wide and narrow windows.

That it builds without a warning is `make docs`; what its code does is in `tests/integration/test_docs_blocks.py`.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chromium import NEEDS_CHROMIUM, PATIENCE
from tests.doc_blocks import REPOSITORY

TOOLS = ("mkdocs", "material", "mkdocstrings")
MISSING = [name for name in TOOLS if importlib.util.find_spec(name) is None]
pytestmark = [
    *NEEDS_CHROMIUM,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (make docs installs the extra docs)"),
]
WINDOWS = [(1280, "light"), (390, "dark")]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Not to stderr."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """Address of the built site, and its pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    pages = [path.parent.relative_to(folder).as_posix() for path in sorted(folder.rglob("index.html"))]
    yield f"http://127.0.0.1:{server.server_port}/", pages
    server.shutdown()
    thread.join()


@pytest.fixture
def window(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@pytest.mark.slow
def test_every_page_loads_from_its_own_host_alone_and_fits_the_window(site: tuple[str, list[str]], window: Any) -> None:
    address, pages = site
    hosts, failed, complaints = set[str](), list[str](), list[str]()
    window.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    window.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    window.on("console", lambda message: complaints.append(message.text))
    window.on("pageerror", lambda error: complaints.append(str(error)))
    too_wide: list[str] = []
    for page in pages:
        for number, (width, scheme) in enumerate(WINDOWS):
            window.set_viewport_size({"width": width, "height": 900})
            window.emulate_media(color_scheme=scheme)
            if number == 0:  # loaded wide, and then made narrow as a user would make it
                window.goto(address + page)
            if window.evaluate("document.documentElement.scrollWidth > innerWidth"):
                too_wide.append(f"{page} at {width}")
    assert hosts == {urlsplit(address).netloc}
    assert failed == []
    assert complaints == []
    assert too_wide == []
    assert len(pages) > 20


def test_the_search_finds_a_gotcha(site: tuple[str, list[str]], browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(site[0])
    # The page listens to keys: a text that fill() sets without any is seen or missed by chance.
    page.locator("input.md-search__input").press_sequentially("noise floor")
    page.locator(".md-search-result__item a").first.wait_for()
    found = [link.get_attribute("href") or "" for link in page.locator(".md-search-result__item a").all()]
    assert any("numerics" in link or "gotchas" in link for link in found)
    page.close()
