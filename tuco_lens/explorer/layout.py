"""Pieces that the explorer's tabs are put together from: rows, texts, and a figure that is drawn again in its place.

ipywidgets is imported here, for all of them, so that one line says what to install where it is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tuco_lens.errors import LoadError

try:
    import anywidget  # noqa: F401  # pyright: ignore[reportUnusedImport] - FigureWidget is one, and says so too late
    import ipywidgets
except ImportError as error:
    raise LoadError(
        "the explorer", f"{error.name} is not installed", "install it with `pip install 'tuco_lens[notebook]'`"
    ) from error

_ROW: Final = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "overflow": "visible"}


class Picture:
    """A figure as a widget; drawn again it keeps its place on the page.

    Args:
        run: runs a callback on the thread that made the explorer.
    """

    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._run, self._is_fitted = run, False
        self.figure: Any = None
        """The FigureWidget; None before it is first drawn."""
        self.box = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%", overflow="visible"))

    def draw(self, drawn: Any) -> None:
        """Show a figure in place of the last one."""
        drawn.layout.autosize = True
        if self.figure is None:  # whole from the start: what is sent to a figure that is still loading is lost
            self.figure = _figure_widget(drawn)
            self.figure.observe(lambda change: change.new and self._run(self._fit), "_js2py_traceDeltas")
            self.box.children = (self.figure,)
            return
        n_old = len(self.figure.data)
        self.figure.add_traces(drawn.data)
        # Only what differs is sent; with a height, plotly.js would keep the width that it has.
        layout = {"shapes": [], "annotations": [], **drawn.layout.to_plotly_json()}
        with self.figure.batch_update():
            self.figure.update_layout(layout, overwrite=True)
        self.figure.data = self.figure.data[n_old:]

    def is_shown_anew(self) -> None:
        """It is about to be put on another page."""
        self._is_fitted = False

    def _fit(self) -> None:
        """Have it fill the width, once it is on a page: plotly.js first draws it before it has a place there."""
        if not self._is_fitted:
            self._is_fitted = True
            self.figure.layout.meta = (self.figure.layout.meta or 0) + 1  # any change makes it look at its place


def _figure_widget(drawn: Any) -> Any:
    import plotly.graph_objects as go
    from traitlets import observe

    widget: Any = go.FigureWidget

    class Listening(widget):
        """Hears a click after one that failed, or that named a trace which had just gone from a map drawn again."""

        @observe("_js2py_pointsCallback")
        def _handler_js2py_pointsCallback(self, change: Any) -> None:
            named = ((change["new"] or {}).get("points") or {}).get("trace_indexes", [])
            try:
                if all(index < len(self.data) for index in named):
                    super()._handler_js2py_pointsCallback(change)
            finally:
                # The page has the same state, and sends a click only where that changes: it would hide the next one.
                self._js2py_pointsCallback = None

    figure: Any = Listening(drawn)
    figure._config = {**figure._config, "responsive": True, "displaylogo": False}
    return figure


def row(*children: Any, **layout: str) -> Any:
    """Widgets beside one another, or below where there is no room."""
    return ipywidgets.Box(children, layout=ipywidgets.Layout(**{**_ROW, **layout}))


def column(*children: Any) -> Any:
    """Widgets below one another."""
    return ipywidgets.VBox(children, layout=ipywidgets.Layout(width="100%", overflow="visible"))


def fitted(width: str = "auto") -> Any:
    """The layout of a control."""
    return ipywidgets.Layout(width=width, max_width="100%", margin="2px 12px 2px 2px")


def text(name: str, width: int | None = None) -> Any:
    """A text; with a width it is a column, which takes its share of the row, or a row where it would be narrower."""
    flex = {} if width is None else {"flex": f"1 1 {width}px", "min_width": "0"}
    found = ipywidgets.HTML(layout=ipywidgets.Layout(overflow="visible", **flex))
    found.add_class(f"tuco-lens-{name}")
    return found
