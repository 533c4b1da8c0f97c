"""The explorer's Why tab: what changed an answer between α = 0 and the α that is set, by layer and token.

A click on a cell tells the words that its FTC writes and its components. Numbers come from `attribution/`, HTML from
`html.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tuco_lens.brief import Brief
from tuco_lens.errors import TucoLensError
from tuco_lens.explorer import html as pages
from tuco_lens.explorer.layout import Picture, column, fitted, ipywidgets, row, text
from tuco_lens.plots.labels import token_label

if TYPE_CHECKING:
    from tuco_lens.attribution.integrated_gradients import IntegratedGradients
    from tuco_lens.explorer.view import ExplorerView
    from tuco_lens.pair import ModelPair
    from tuco_lens.plots.template import Theme


@dataclass(frozen=True)
class CellWhy(Brief):
    """What FTC does at one layer and token."""

    layer: int
    """The layer."""
    position: int
    """The token's position."""
    token: str
    """The token."""
    value: float
    """Its part of the change."""
    parts: dict[str, float]
    """The same by component."""
    promoted: tuple[str, ...]
    """Words that FTC writes there, the strongest first."""
    suppressed: tuple[str, ...]
    """Words that it takes back."""


def cell_why(pair: ModelPair, view: ExplorerView, found: IntegratedGradients, layer: int, position: int) -> CellWhy:
    """The words and components of one cell, of the model at the α of the view."""
    assert found.split is not None
    with pair.scaled(view.request.alphas):
        lens = pair.logit_lens(view.prompt, of="ftc", k=5, positions=[position])
    promoted, suppressed = (
        tuple(lens.text(int(each)) for each in ids[layer, 0]) for ids in (lens.promoted, lens.suppressed)
    )
    parts = {found.parts[i]: float(value) for i, value in enumerate(found.split[layer, position])}
    value = float(found.values[layer, position])
    return CellWhy(layer, position, found.tokens[position], value, parts, promoted, suppressed)


class WhyTab:
    """Two boxes, a map, and what a click on it tells.

    Args:
        pair: the pair.
        theme: of the map.
        run: runs a callback on the thread that made the explorer.
    """

    def __init__(self, pair: ModelPair, theme: Theme, run: Callable[[Callable[[], None]], None]) -> None:
        self.pair, self._run = pair, run
        self.theme: Theme = theme
        style = {"description_width": "initial"}
        box: dict[str, Any] = {"ensure_option": False, "style": style, "continuous_update": False}
        self.answer = ipywidgets.Combobox(description="answer", layout=fitted("220px"), **box)
        self.against = ipywidgets.Combobox(description="against", layout=fitted("220px"), **box)
        self.status, self.cell = text("why-status"), text("why-cell")
        self.picture = Picture(run)
        self.widget: Any = column(row(self.answer, self.against), self.status, self.picture.box, self.cell)
        self.found: IntegratedGradients | None = None
        """What the map shows; None before the first good answer."""
        self._view: ExplorerView | None = None
        self._ids: dict[str, int] = {}
        self._asked: object = None
        self._is_filling = False
        for control in (self.answer, self.against):
            control.observe(lambda _: None if self._is_filling else run(self._changed), "value")

    def update(self, view: ExplorerView) -> None:
        """Answer for a view; the boxes are filled anew where the prompt is another one."""
        if self._view is None or self._view.prompt != view.prompt:
            self._fill(view)
        self._view = view
        self._changed()

    def _fill(self, view: ExplorerView) -> None:
        table = view.next_tokens
        labels = [token_label(token, 24) for token in table.tokens]
        labels = [
            f"{label} ({token_id})" if labels.count(label) > 1 else label
            for label, token_id in zip(labels, table.token_ids, strict=True)
        ]
        self._ids = dict(zip(labels, table.token_ids, strict=True))
        tuned = np.argsort(-np.array(table.tuned), kind="stable")
        theirs = tuned if table.base is None else np.argsort(-np.nan_to_num(table.base, nan=-1), kind="stable")
        other = int(theirs[0]) if theirs[0] != tuned[0] else int(tuned[1])
        self._is_filling = True
        try:
            self.answer.options = self.against.options = labels
            self.answer.value, self.against.value = labels[int(tuned[0])], labels[other]
        finally:
            self._is_filling = False

    def _changed(self) -> None:
        """Answer what the boxes ask; an error is shown above the last good answer."""
        view, start = self._view, time.perf_counter()
        if view is None or (view, self.answer.value, self.against.value) == self._asked:
            return
        self.status.value = "working …"
        answer, against = (self._ids.get(box.value, box.value) for box in (self.answer, self.against))
        try:
            found = self.pair.integrated_gradients(
                view.prompt,
                answer=answer,
                against=None if against == "" else against,
                alpha=view.request.alphas,
                over="component",
            )
        except TucoLensError as error:
            self.status.value = pages.failure(str(error))
        except BaseException as error:  # an interrupt, or a defect: shown, and left to Jupyter's log
            self.status.value = pages.failure(f"{type(error).__name__}: {error}")
            raise
        else:
            self.found, self._asked = found, (view, self.answer.value, self.against.value)
            self.cell.value = pages.hint("Click a cell for the words that its FTC writes, and its components.")
            self.picture.draw(found.figure(self.theme))
            self.picture.figure.data[0].on_click(lambda _trace, points, _state: self._run(lambda: self._click(points)))
            self.status.value = pages.done(found.summary(), time.perf_counter() - start)

    def _click(self, points: Any) -> None:
        columns = list(self.picture.figure.data[0].x)
        if self.found is None or self._view is None or not points.xs or points.xs[0] not in columns:
            return  # nothing was clicked, or a map that has just gone
        position = columns.index(points.xs[0])
        cell = cell_why(self.pair, self._view, self.found, round(points.ys[0]), position)
        self.cell.value = pages.cell_html(cell)
