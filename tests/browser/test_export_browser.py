"""Images that kaleido draws with the real Chromium: right size, whole, text in SVG, and no request of the page."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from tests.chromium import NEEDS_CHROMIUM
from tuco_lens.errors import OutputError
from tuco_lens.plots.curves import Curve, Curves
from tuco_lens.plots.export import write_image

pytest.importorskip("kaleido", reason="the package kaleido (extra `images`) is not installed")
from kaleido._kaleido_tab import _KaleidoTab

pytestmark = NEEDS_CHROMIUM

HOSTILE = "</script><script>window.ran=1</script>$x$"


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What kaleido's page, a local file, requests of others; what the browser and its own pages ask does not count."""
    urls: list[str] = []
    navigate = _KaleidoTab.navigate

    async def note(message: dict[str, Any]) -> None:
        url, document = message["params"]["request"]["url"], message["params"]["documentURL"]
        if document.startswith("file:") and not url.startswith(("file:", "data:", "blob:")):
            urls.append(url)

    async def watched(tab: Any, url: Any = "") -> None:
        tab.tab.subscribe("Network.requestWillBeSent", note, repeating=True)
        await tab.tab.send_command("Network.enable")
        await navigate(tab, url)

    monkeypatch.setattr(_KaleidoTab, "navigate", watched)
    return urls


def curves() -> Curves:
    return Curves((Curve(HOSTILE, [1, 2, 3], [0.1, 0.2, 0.3]), Curve("b", [1, 2], [0.3, 0.1])), "shots")


def test_a_png_has_the_size_asked_for_and_nothing_is_requested(tmp_path: Path, requested: list[str]) -> None:
    data = write_image(curves(), tmp_path / "a.png", width=400, height=300, scale=2).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (800, 600)
    assert len(data) > 5000  # not an empty sheet
    assert requested == []


def test_a_request_of_the_page_would_be_noticed(tmp_path: Path, requested: list[str]) -> None:
    asking = go.Figure(layout={"images": [{"source": "http://127.0.0.1:9/x.png", "sizex": 1, "sizey": 1}]})
    with contextlib.suppress(OutputError):  # whether a picture that is not there fails is kaleido's affair
        write_image(asking, tmp_path / "a.png")
    assert "http://127.0.0.1:9/x.png" in requested


def test_svg_and_pdf_hold_the_text_and_no_markup_from_outside(tmp_path: Path) -> None:
    svg = write_image(curves().figure("dark"), tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "shots" in svg
    assert "<script" not in svg
    assert "&#60;/script&#62;&#60;script&#62;" in svg
    pdf = write_image(go.Figure(curves().figure()), tmp_path / "a.pdf").read_bytes()
    assert pdf[:5] == b"%PDF-"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pdf", "a.svg"]


def test_it_works_where_an_event_loop_is_running_as_in_notebooks(tmp_path: Path) -> None:
    async def within() -> Path:
        return write_image(curves(), tmp_path / "a.png")

    assert asyncio.run(within()).stat().st_size > 5000
