"""How figures show themselves in a notebook: JupyterLab, VS Code, the HTML that nbconvert writes, and static readers.

A `Figure` is a plotly figure that brings, whatever plotly's renderers are set to, its plotly form, a piece of HTML that
draws it with plotly's script, and a sentence that says what it shows. The script is in the page once, packed, and comes
with the first output (`Carrier`); nothing is fetched. Coloured tokens (`tokens.py`) carry their script in the same way.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import sys
from functools import cache
from itertools import count
from typing import Any, Final, cast

import plotly.graph_objects as go

_MIMETYPE: Final = "application/vnd.plotly.v1+json"
_PLOTLY: Final = "window.tucoLensPlotly"
_NUMBERS: Final = count()
_UNDRAWN: Final = "(run this notebook's cells in their order, or open it in JupyterLab, to draw it)"


class Figure(go.Figure):
    """A plotly figure that every kind of notebook page can show; else what plotly's own is."""

    _ipython_display_: Any = None
    """plotly's would come first, and give what its one renderer can show; `show()` is plotly's as ever."""

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        """What a notebook is given: plotly's form, HTML, a sentence, and a PNG if plotly's renderers ask for one."""
        parts = json.loads(cast("str", self.to_json()))
        bundle: dict[str, Any] = {_MIMETYPE: parts, "text/html": self._html(parts), "text/plain": described(self)}
        if _asks_for_png():
            bundle["image/png"] = base64.b64encode(self.to_image(format="png")).decode()
        return bundle

    def _html(self, parts: dict[str, Any]) -> str:
        name = f"tuco-lens-figure-{next(_NUMBERS)}"
        given = script_json([name, parts["data"], parts["layout"], {"responsive": True}])
        draw = f"({_PLOTLY} || Promise.reject()).then(plotly => {{ const note = document.getElementById({name!r});"
        draw += f" note.textContent = ''; plotly.newPlot(...{given}); }}, () => {{}});"
        scripts = [_plotly_script()] if _CARRIER.is_due() else []
        tags = "".join(f"<script>{source}</script>" for source in [*scripts, draw])
        return f'<div id="{name}"><p>{html.escape(described(self))} {_UNDRAWN}</p></div>{tags}'


def described(figure: go.Figure) -> str:
    """One sentence of what a figure shows, for readers that draw none: its title, its notes, and its traces."""
    layout: Any = figure.layout
    words = [_plain(layout.title.text), _plain(layout.title.subtitle.text)]
    kinds = [trace.type + (" of {} × {}".format(*shape) if (shape := _shape(trace)) else "") for trace in figure.data]  # pyright: ignore
    drawn = ", ".join(dict.fromkeys(kinds)) or "nothing"
    return f"Figure: {'; '.join(word for word in words if word) or 'without a title'} [{drawn}]"


def _plain(text: str | None) -> str:
    return html.unescape(" ".join(re.sub("<.*?>", " ", text or "").split()))


def _shape(trace: Any) -> tuple[int, int] | None:
    cells = getattr(trace, "z", None)
    return None if cells is None or not len(cells) else (len(cells), len(cells[0]))


def script_json(value: object) -> str:
    """JSON that can stand in a `<script>`: nothing in it ends the element or opens a comment."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _plotly_script() -> str:
    """The script that unpacks plotly's own, from the installed package, once in a page."""
    from plotly.offline import get_plotlyjs

    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return (
        f"{_PLOTLY} = {_PLOTLY} || (async () => {{"
        f' const bytes = Uint8Array.from(atob("{packed}"), letter => letter.charCodeAt(0));'
        ' const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));'
        ' const script = document.createElement("script");'
        " script.textContent = await new Response(unpacked).text();"
        " document.head.appendChild(script); return window.Plotly; })();"
    )


def _asks_for_png() -> bool:
    import plotly.io as pio

    return "png" in str(pio.renderers.default).split("+")


class Carrier:
    """Which output of a notebook carries a script: the first of the kernel, for as long as its cell stays.

    If that cell runs again, or is deleted, the next output carries it. Where outputs do not share a page (Colab), or
    there is no kernel, each carries its own.
    """

    def __init__(self) -> None:
        self.cell: str | None = None
        self.message: str | None = None
        """Id of the request that ran the cell; None before the first output."""

    def is_due(self) -> bool:
        """Whether the output that is being made is to carry the script; it is then taken to do so."""
        request = _request()
        if request is None or "google.colab" in sys.modules:
            return True
        message, metadata = str(request.get("header", {}).get("msg_id")), request.get("metadata", {})
        cell = metadata.get("cellId")
        is_gone = self.cell is not None and self.cell in metadata.get("deletedCells", ())
        runs_again = cell is not None and cell == self.cell and message != self.message
        if self.message is not None and not is_gone and not runs_again:
            return False
        self.cell, self.message = cell, message
        return True


_CARRIER: Final = Carrier()


def _request() -> dict[str, Any] | None:
    """The message by which a notebook asked this kernel to run the cell; None outside of a kernel."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell.get_parent() if hasattr(shell, "get_parent") else None
