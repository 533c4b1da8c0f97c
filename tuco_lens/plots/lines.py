"""What figures of lines share: styles, names, bands, and the legend below (`roc.py`, `curves.py`, `groups.py` …)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any, Final, TypedDict

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float32
from numpy.typing import ArrayLike

from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.template import LOOKS, Look

NAME_CHARACTERS: Final = 28
"""Length at which the name of a line or group is cut."""
MAX_BANDS: Final = 7
"""Most lines that get a band; with more the bands hide each other, and the intervals are in the hover text alone."""
DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash")
HATCHES: Final = ("/", "\\", ".")
"""Of null controls behind the first."""
TITLE_CHARACTERS: Final = 42
"""Length at which a title goes on below."""
LEGEND_CHARACTERS: Final = 52
"""Most characters in a line of the legend."""
_LEGEND_LINE: Final = 19  # px


class LineStyle(TypedDict):
    """Colour and dash of a line."""

    color: str
    dash: str


def line_style(index: int, look: Look) -> LineStyle:
    """The style of a figure's line number `index`: every colour once, then again with other dashes."""
    colours = look.colorway
    return {"color": colours[index % len(colours)], "dash": DASHES[index // len(colours) % len(DASHES)]}


def null_style(index: int) -> dict[str, Any]:
    """Options of `band` for null control number `index`: behind the first hatched, which tells them where they meet."""
    if not index:
        return {}
    return {"fillpattern": {"shape": HATCHES[(index - 1) % len(HATCHES)], "size": 7, "solidity": 0.25}, "opacity": 0.35}


def shown_name(name: str) -> str:
    """A name from outside, cut and safe to draw."""
    return plotly_text(readable(name, NAME_CHARACTERS))


def title_lines(title: str) -> list[str]:
    """A title from outside in pieces that a phone shows whole and that are safe to draw; see `set_title`.

    What follows a colon, or does not fit, goes below it in small print.
    """
    shown = readable(title, 4 * TITLE_CHARACTERS)
    head, colon, rest = shown.partition(": ")
    if len(shown) > TITLE_CHARACTERS and colon and len(head) <= TITLE_CHARACTERS:
        pieces = [head, *textwrap.wrap(rest, TITLE_CHARACTERS)]
    else:
        pieces = textwrap.wrap(shown, TITLE_CHARACTERS)
    return [plotly_text(piece) for piece in pieces] or [""]


def as_float32(values: ArrayLike) -> Float32[np.ndarray, " value"]:
    """The values as figures are sent them: a flat array."""
    return np.asarray(values, dtype=np.float32).ravel()


def band(
    x: Float[np.ndarray, " point"],
    low: Float[np.ndarray, " point"],
    high: Float[np.ndarray, " point"],
    colour: str,
    look: Look,
    *,
    group: str | None = None,
    **options: Any,
) -> go.Scatter:
    """The area between two lines; where either is missing it has a gap, so that nothing is drawn across.

    Args:
        x: Positions, [n_points].
        low: Lower line, [n_points].
        high: Upper line, [n_points].
        colour: Of the area.
        look: Of the figure.
        group: Legend group, so that it is switched off together with its line.
        options: Of `go.Scatter`, such as a name of its own.
    """
    opacity = 0.18 if look is LOOKS["light"] else 0.26  # dark ground swallows more
    line = {"width": 0, "color": colour}
    shown = {"showlegend": False, "hoverinfo": "skip", "opacity": opacity, "line": line} | options
    outlines = [_outline(x[part], low[part], high[part]) for part in _stretches(np.isfinite(low) & np.isfinite(high))]
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([part for outline in outlines for part in (outline, gap)] or [gap])[:-1]
    return go.Scatter(
        x=as_float32(points[:, 0]),
        y=as_float32(points[:, 1]),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        legendgroup=group,
        **shown,
    )


def legend_text(name: str, numbers: str) -> str:
    """A line of the legend, in two lines where one would not fit on a phone; both are safe to draw."""
    return f"{name}:{'<br>' if len(name) + len(numbers) > LEGEND_CHARACTERS else ' '}{numbers}"


def legend_below(texts: Iterable[str], height: int) -> dict[str, Any]:
    """Layout of a figure with its legend below the plot, which takes the room that it needs at any width.

    Args:
        texts: Of the legend.
        height: Of the figure without its legend, in px.
    """
    lines = sum(text.count("<br>") + 1 for text in texts)
    return {
        "height": height + (_LEGEND_LINE * lines + 8 if lines else 0),
        "legend": {
            "orientation": "h",  # a vertical one would push the plot to the right
            "entrywidth": 330,  # one to a row on a phone, as many as fit elsewhere
            "entrywidthmode": "pixels",
            "font": {"size": 11},
            "xref": "container",
            "yref": "container",
            "x": 0,
            "y": 0,
            "xanchor": "left",
            "yanchor": "bottom",
            "tracegroupgap": 0,
        },
    }


def _outline(x: Any, low: Any, high: Any) -> Float[np.ndarray, "corner 2"]:
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])], axis=-1)


def _stretches(known: np.ndarray) -> Iterable[slice]:
    """The runs of known points."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
