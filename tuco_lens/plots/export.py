"""Figures as PNG, SVG or PDF, by kaleido, which drives a Chrome or Chromium that is on the machine.

The browser loads nothing but files of this machine: kaleido's page would take MathJax from a server, and browsers call
home of their own accord. plotly.js is the one that comes with plotly.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from tuco_lens.errors import OutputError
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tuco_lens.plots.statistic import Statistic

Format = Literal["png", "svg", "pdf"]
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Looked for on PATH, in this order; after these kaleido looks in the usual places."""
DEFAULT_WIDTH: Final = 1000
DEFAULT_HEIGHT: Final = 500

_NOWHERE: Final = "127.0.0.1:9"  # a proxy that is not there: files of this machine need none
_INSTALL_BROWSER: Final = "install Chromium or Chrome, or name one in the environment variable BROWSER_PATH"


def write_image(
    figure: go.Figure | Statistic,
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    scale: float = 2,
) -> Path:
    """Write a figure to a PNG, SVG or PDF file, by the file's ending; the file is whole whenever it exists.

    Needs the extra `images` and a Chrome or Chromium: the one that the environment variable BROWSER_PATH names, else
    one on PATH or in a usual place.

    Args:
        figure: A plotly figure, or a statistic, whose light figure is taken.
        path: The file, ending in .png, .svg or .pdf.
        width: Width in px; by default the figure's own, or 1000.
        height: Height in px; by default the figure's own, or 500.
        scale: Pixels of a PNG per px.

    Returns:
        The path.

    Raises:
        OutputError: for another ending; if kaleido is not installed or there is no browser; if drawing fails; or if the
            file cannot be written.
    """
    path = Path(path)
    kind = _format_of(path)
    drawn = cast("go.Figure", figure if hasattr(figure, "layout") else cast("Any", figure).figure())
    layout: Any = drawn.layout
    size = {"width": width or layout.width or DEFAULT_WIDTH, "height": height or layout.height or DEFAULT_HEIGHT}
    return write_whole(path, _rendered(drawn, path, {"format": kind, "scale": scale, **size}))


def _format_of(path: Path) -> Format:
    ending = path.suffix.lower().removeprefix(".")
    if ending not in get_args(Format):
        raise OutputError(f"cannot write {path}", f"no image format {ending!r}", "let it end in .png, .svg or .pdf")
    return cast("Format", ending)


def _rendered(figure: go.Figure, path: Path, options: dict[str, Any]) -> bytes:
    what = f"cannot write {path}"
    kaleido = _kaleido(what)
    from choreographer.errors import ChromeNotFoundError

    launch = {"mathjax": False, "proxy_server": _NOWHERE, **_browser(what)}

    def render() -> bytes:
        return asyncio.run(kaleido.calc_fig(figure, opts=options, kopts=launch))

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's own event loop is running in this one
            return thread.submit(render).result()
    except ChromeNotFoundError as error:
        raise OutputError(what, "no Chrome or Chromium was found", _INSTALL_BROWSER) from error
    except Exception as error:
        why = f"the browser could not draw it: {str(error)[:200] or type(error).__name__}"
        raise OutputError(what, why, "see that the browser starts, or write HTML with figure.write_html") from error


def _kaleido(what: str) -> Any:
    try:
        import kaleido
    except ImportError as error:
        raise OutputError(
            what, "the package 'kaleido' is not installed", "install it with `pip install 'tuco_lens[images]'`"
        ) from error
    if not hasattr(kaleido, "calc_fig"):
        raise OutputError(what, "kaleido is older than 1.0", "upgrade it with `pip install 'tuco_lens[images]'`")
    return kaleido


def _browser(what: str) -> dict[str, str]:
    """The browser to use, as kaleido's option; nothing if kaleido is to look for one."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        if not (Path(named).is_file() and os.access(named, os.X_OK)):
            raise OutputError(what, f"BROWSER_PATH names {named}, which is no program", _INSTALL_BROWSER)
        return {"path": named}
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return {"path": found} if found else {}
