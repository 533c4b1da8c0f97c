"""TuCo while a model is trained: against the step, by group, over what the trainer logged at the same steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from tuco_lens.errors import InputError
from tuco_lens.plots.curves import MAX_MARKERS, Curve, Curves
from tuco_lens.plots.display import Figure
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.lines import as_float32
from tuco_lens.plots.statistic import Statistic, set_title
from tuco_lens.plots.template import Look, Theme, look

LOGGED: Final[dict[str, dict[str, str]]] = {
    "loss": {"loss": "training", "eval_loss": "evaluation"},
    "learning rate": {"learning_rate": ""},
}
"""The panels below TuCo: what of a log each draws, by the name that transformers' trainers log it under."""
_DASHES: Final = ("solid", "dash")
_STROKES: Final = ("━━", "– –")
_HEIGHT: Final = 380  # px of TuCo, with the title and the axis of steps
_PANEL: Final = 130  # px


@dataclass(frozen=True, eq=False)
class Steps(Statistic):
    """TuCo of groups of prompts at the steps of one training run, beside its log.

    Raises:
        InputError: if there is no curve, the steps of one do not ascend from 0 or above, or something logged is not a
            number.
    """

    curves: tuple[Curve, ...]
    """One line per group, its `x` the steps, ascending; at step 0, the base model's, TuCo is 0."""
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """What was logged, record by record: `step`, and any of `loss`, `eval_loss` and `learning_rate`, as in the
    `log_history` of a `trainer_state.json`. What else it holds is not drawn."""
    y_name: str = "TuCo"
    """What the curves are of."""
    title: str = ""
    """Above the figure; by default "y against training step"."""
    interval: str = "95 % intervals over prompts"
    """What the bands are."""
    low: float | None = None
    """Lower end of the axis of the curves; None to let the data decide."""
    high: float | None = None
    """Its upper end."""

    def __post_init__(self) -> None:
        for curve in self.curves:
            _check_steps(curve)
        for record in self.log:
            for name in ("step", *(name for names in LOGGED.values() for name in names)):
                _number(record, name)
        _ = self.above

    @property
    def above(self) -> Curves:
        """The curves, as a figure of their own would draw them."""
        return Curves(
            self.curves,
            x_name="training step",
            y_name=self.y_name,
            title=self.title,
            interval=self.interval,
            low=self.low,
            high=self.high,
            x_form="d",
        )

    def logged(self, name: str) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
        """Steps, ascending, and values of what was logged under a name; a value that is not finite is NaN."""
        found = [
            (_number(record, "step"), _number(record, name)) for record in self.log if record.get(name) is not None
        ]
        points = np.array(sorted((p for p in found if math.isfinite(p[0])), key=lambda p: p[0]), dtype=np.float64)
        steps, values = points.reshape(-1, 2).T
        return steps, np.where(np.isfinite(values), values, np.nan)

    def only(self, *groups: str) -> Steps:
        """The curves of these groups, in this order, over the same log.

        Raises:
            InputError: if there is no such group.
        """
        return replace(self, curves=self.above.only(*groups).curves)

    def clip(self, low: float, high: float) -> Steps:
        """The same with an axis from `low` to `high` for the curves."""
        return replace(self, low=self.above.clip(low, high).low, high=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: the curves with their bands, and below them, on the same steps, loss and learning rate if logged.

        Each panel has a y axis of its own; zooming in on steps zooms in all of them.
        """
        colours, above = look(theme), self.above
        panels = {name: traces for name in LOGGED if (traces := list(self._traces(name, colours)))}
        heights = [_HEIGHT, *[_PANEL] * len(panels)]
        figure: Any = make_subplots(
            len(heights), 1, figure=Figure(), shared_xaxes=True, vertical_spacing=0.04, row_heights=heights
        )
        for row, traces in enumerate([above.traces(colours), *panels.values()], start=1):
            for trace in traces:
                figure.add_trace(trace, row, 1)
        figure.update_layout(template=colours.template, hovermode="closest", **above.legend(sum(heights)))
        for row, name in enumerate([self.y_name, *panels], start=1):
            figure.update_yaxes(title_text=_shown(name), exponentformat="power", nticks=6 if row == 1 else 4, row=row)
        figure.update_xaxes(showline=False)
        figure.update_xaxes(title_text="training step", row=len(heights))
        if self.low is not None:
            figure.update_yaxes(range=[self.low, self.high], row=1)
        set_title(figure, *above.words(), self._key(panels, colours))
        return figure

    def _traces(self, panel: str, colours: Look) -> Iterator[go.Scatter]:
        for (name, kind), dash, colour in zip(
            LOGGED[panel].items(), _DASHES, (colours.quiet, colours.ink), strict=False
        ):
            steps, values = self.logged(name)
            if not len(steps):
                continue
            yield go.Scatter(
                x=as_float32(steps),
                y=as_float32(values),
                mode="lines+markers" if len(steps) <= MAX_MARKERS else "lines",
                marker={"size": 4},
                line={"color": colour, "dash": dash, "width": 1.5},
                name=f"{panel}, {kind}" if kind else panel,
                showlegend=False,
                hovertemplate="<b>%{fullData.name}</b><br>step %{x:d}<br>%{y:.4~g}<extra></extra>",
            )

    def _key(self, panels: Mapping[str, list[go.Scatter]], colours: Look) -> str:
        """Which line of the loss is which, if there are two."""
        if len(panels.get("loss", ())) < 2:
            return ""
        kinds = zip(_STROKES, (colours.quiet, colours.ink), LOGGED["loss"].values(), strict=True)
        return "loss: " + " ".join(
            f'<span style="color:{colour}">{stroke}</span> {kind}' for stroke, colour, kind in kinds
        )


def _check_steps(curve: Curve) -> None:
    steps = as_float32(curve.x).tolist()
    if not (steps[0] >= 0 and all(a < b for a, b in pairwise(steps))):
        what = f"cannot draw {readable(curve.name, 40)!r} against its steps"
        raise InputError(what, "they do not ascend from 0 or above", "give each step once, the first one first")


def _number(record: Mapping[str, Any], name: str) -> float:
    """A number of a log; NaN where it is not there."""
    value = record.get(name)
    if value is None:
        return math.nan
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        why = f"its {name} is {readable(repr(value), 40)}"
        raise InputError("cannot draw the log", why, "give records of numbers, as in trainer_state.json")
    return float(value)


def _shown(name: str) -> str:
    return plotly_text(readable(name, 40))
