"""What every drawable result has in common: `figure(theme)` makes it a plotly figure, and notebooks show that figure.

A statistic is a frozen dataclass of data, labels and units; it computes before it draws. Its refinements
(`.layers(…)`, `.clip(…)`) return new objects; what they share is here too. The looks are in `template.py`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, Float32

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

    from tuco_lens.plots.template import Theme


NOTE_CHARACTERS: Final = 52
"""Length at which the notes below a title go on in a new line, so that they have room on a telephone."""


class Statistic(Brief, ABC):
    """A result that has one figure; a notebook shows the figure where it would show the object."""

    @abstractmethod
    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it on light or dark ground; the figure is returned and never shown."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        """What a notebook shows: the light figure, as plotly shows it."""
        # The name is Jupyter's protocol; it is not private to plotly.
        figure: Any = self.figure()
        return figure._repr_mimebundle_(include=include, exclude=exclude, **kwargs)


def window(first: int | None, last: int | None, *, start: int, size: int, what: str) -> slice:
    """Which of `size` rows the refinement `(first, last)` keeps, as a slice of row indices.

    Args:
        first: Number of the first row kept, as the axis shows it; None for the first there is.
        last: Number after the last row kept, as in Python's slices; None to keep all that follow. Negative numbers
            count from the end, and numbers beyond either end mean that end.
        start: The number that the axis shows at the first row.
        size: Number of rows.
        what: What the rows are, for the error.

    Raises:
        InputError: if nothing is left.
    """
    low, high = (_row(number, start, size, absent) for number, absent in ((first, 0), (last, size)))
    if low >= high:
        asked = f"{'' if first is None else first}:{'' if last is None else last}"
        there = f"there are {what} {start} to {start + size - 1}"
        raise InputError(f"no {what} left", f"{asked} keeps none; {there}", "choose among those; the last is not kept")
    return slice(low, high)


def _row(number: int | None, start: int, size: int, absent: int) -> int:
    if number is None:
        return absent
    return min(size, max(0, number + size if number < 0 else number - start))


def check_range(low: float, high: float) -> None:
    """Raises `InputError` unless the two are the ends of a range of some width."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError("cannot clip", f"{low} to {high} is no range", "give two numbers, the lower one first")


def missing_note(values: Float32[np.ndarray, "*shape"]) -> str:
    """Says how many values are missing, if any are: "3 of 40 values missing"."""
    missing = int(np.count_nonzero(~np.isfinite(values)))
    return f"{missing} of {values.size} values missing" if missing else ""


def float32(tensor: Float[Tensor, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """The tensor as figures are sent it."""
    return tensor.detach().cpu().float().numpy()


def set_title(figure: go.Figure, title: str, *notes: str) -> None:
    """The title, below it in small print those of the notes that say something, and room for both."""
    lines = _wrapped([note for note in notes if note])
    extra = 14 * max(0, len(lines) - 1)  # px
    height: int = figure.layout.height  # pyright: ignore
    figure.update_layout(
        title={"text": title, "subtitle": {"text": "<br>".join(lines)}, "y": 1, "yanchor": "top", "pad": {"t": 12}},
        margin={"t": (74 if lines else 56) + extra},
        height=height + extra,
    )


def _wrapped(notes: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for note in notes:
        longer = f"{lines[-1]} · {note}" if lines else ""
        if lines and len(re.sub("<.*?>", "", longer)) <= NOTE_CHARACTERS:
            lines[-1] = longer
        else:
            lines.append(note)
    return lines
