"""The token axis of the maps (`heatmap.py`, `difference.py`): a column per token, its labels, and the band of spans.

The band is also that of the grids (`grid.py`), where it tells the columns' groups.

The axis is one of categories, and a category is all that the hover text says about a token. So that text is sent once
per token, not once per cell. Positions of shapes and notes are column indices, counted from 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from tuco_lens.brief import Brief
from tuco_lens.plots.labels import plotly_text, token_label
from tuco_lens.plots.template import Look
from tuco_lens.plots.token_strip import ink

TICK_CHARACTERS: Final = 14
"""Length at which a token's label on the axis is cut."""
HOVER_CHARACTERS: Final = 60
"""Length at which a token is cut in the hover text."""
MAX_LABELLED: Final = 600
"""Most tokens of which every label is sent; the browser shows as many as there is room for, and more on zooming in."""
MAX_TICKS: Final = 16
"""Most labels of a longer prompt, so that they have room on a telephone."""
HOVER_NAME: Final = "<b>position %{x:c}</b>"
"""Place of a column's name in a hover template. The format `c` asks plotly for the category and not for its label."""

BAND_HEIGHT: Final = 13
"""px."""
_GAP: Final = 3  # px between the band and the map
_CHARACTER: Final = 6  # px, of a label in the band
_NARROW: Final = 240  # px that the columns have on a telephone: what has room there has room anywhere
_SPEAKERS: Final = ("system", "user", "assistant")


@dataclass(frozen=True)
class TokenAxis(Brief):
    """The columns of a map."""

    tokens: tuple[str, ...]
    """Text of each token, [n_columns]."""
    positions: tuple[str, ...]
    """How its place is written, no two alike: "12", or "12 and 14" in a difference."""
    token_ids: tuple[int, ...] | None = None
    """Its id."""
    roles: tuple[str, ...] | None = None
    """The span it belongs to."""

    @property
    def names(self) -> list[str]:
        """What the hover text says about each column: "12, id 262, user: ·the". The token comes last, since one of a
        right-to-left script would draw what follows it to its side."""
        return [self._name(column) for column in range(len(self.tokens))]

    def _name(self, column: int) -> str:
        said = [self.positions[column]]
        said += [] if self.token_ids is None else [f"id {self.token_ids[column]}"]
        said += [] if self.roles is None else [self.roles[column]]
        token = token_label(self.tokens[column], HOVER_CHARACTERS)
        return plotly_text(f"{', '.join(said)}: {token}")

    @property
    def labels(self) -> list[str]:
        """What the axis says at each column."""
        return [plotly_text(token_label(token, TICK_CHARACTERS)) for token in self.tokens]

    def layout(self, marks: Sequence[str] = ()) -> dict[str, Any]:
        """The axis as plotly is told it; `marks` are put before the labels."""
        n = len(self.tokens)
        labels = [mark + label for mark, label in zip(marks or [""] * n, self.labels, strict=True)]
        return {
            "type": "category",
            "title": {"text": "token"},
            "tickangle": -90,
            "range": [-0.5, n - 0.5],
            **(self._all_labels(labels) if n <= MAX_LABELLED else self._thinned(labels)),
        }

    def _all_labels(self, labels: Sequence[str]) -> dict[str, Any]:
        return {"labelalias": dict(zip(self.names, labels, strict=True))}

    def _thinned(self, labels: Sequence[str]) -> dict[str, Any]:
        shown = labelled_positions(len(labels))
        texts = [f"{self.positions[column]}: {labels[column]}" for column in shown]
        return {"tickmode": "array", "tickvals": shown, "ticktext": texts}

    @property
    def spans(self) -> list[tuple[int, int, str]]:
        """First column, column after the last, and role of each span; none where nobody speaks (plain text)."""
        if self.roles is None or not set(self.roles) & set(_SPEAKERS):
            return []
        return spans_of(self.roles)


def spans_of(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """First column, column after the last, and name of each run of columns that have one name."""
    starts = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]]
    return [(a, b, names[a]) for a, b in itertools.pairwise([*starts, len(names)])]


def labelled_positions(n_tokens: int, max_ticks: int = MAX_TICKS) -> list[int]:
    """Positions that get a label: every k-th, with the smallest k that gives at most `max_ticks`, the last always."""
    step = math.ceil(n_tokens / max_ticks)
    return list(range((n_tokens - 1) % step, n_tokens, step))


def add_band(figure: go.Figure, axis: TokenAxis, look: Look, height: int) -> str:
    """Draws the spans as a coloured band between a map and its labels, if the prompt has any; see `add_spans`."""
    return add_spans(figure, axis.roles or (), role_colours(look), height) if axis.spans else ""


def add_spans(
    figure: go.Figure, names: Sequence[str], colours: Mapping[str, str], height: int, room: int = _NARROW
) -> str:
    """Draws runs of columns that have one name as a coloured band between a map and its labels.

    Args:
        figure: with the map on x and y; `height` grows by what the band needs.
        names: of each column, [n_columns], as plain text.
        colours: of each name; what has none gets the last of them.
        height: of the map, in px.
        room: that the columns have on a telephone, in px.

    Returns:
        A legend of the names that found no room in the band; empty if all did.
    """
    figure.add_trace(_band(names, colours))
    total = height + BAND_HEIGHT + _GAP
    nothing: dict[str, Any] = {"ticks": "", "showticklabels": False, "showline": False, "fixedrange": True}
    figure.update_layout(
        height=figure.layout.height + BAND_HEIGHT + _GAP,  # pyright: ignore
        xaxis={"anchor": "y2", "ticks": ""},
        yaxis={"domain": [1 - height / total, 1]},
        yaxis2={"domain": [0, BAND_HEIGHT / total], "range": [-0.5, 0.5], **nothing},
    )
    width = room / len(names)
    spans = spans_of(names)
    named = [span for span in spans if len(span[2]) * _CHARACTER <= (span[1] - span[0]) * width and span[2] in colours]
    for first, after, name in named:
        figure.add_annotation(
            x=(first + after - 1) / 2,
            y=0,
            yref="y2",
            text=plotly_text(name),
            showarrow=False,
            font={"size": 10, "color": _ink_on(colours[name])},
        )
    unnamed = [name for name in colours if name in names and name not in {span[2] for span in named}]
    return "  ".join(f'<span style="color:{colours[name]}">■</span> {plotly_text(name)}' for name in unnamed)


def role_colours(look: Look) -> dict[str, str]:
    """Colour of each role in the band, told apart with any colour vision (Okabe & Ito)."""
    return {
        "system": look.colorway[3],
        "user": look.colorway[0],
        "assistant": look.colorway[4],
        "tool": look.colorway[2],
        "template": look.quiet,
        "text": look.missing,
    }


def _ink_on(colour: str) -> str:
    red, green, blue = hex_to_rgb(colour)
    return ink((red, green, blue))


def _band(names: Sequence[str], colours: Mapping[str, str]) -> go.Heatmap:
    """One row of cells. As shapes, the spans of a long chat would be more bytes than its map."""
    codes = {name: code for code, name in enumerate(colours)}
    row = [codes.get(name, len(codes) - 1) for name in names]
    steps = [(edge / len(codes), colours[name]) for name, i in codes.items() for edge in (i, i + 1)]
    return go.Heatmap(
        z=np.array([row], dtype=np.min_scalar_type(len(codes))),
        yaxis="y2",
        zmin=-0.5,
        zmax=len(codes) - 0.5,
        colorscale=steps,
        showscale=False,
        hoverinfo="skip",
        name="spans",
    )
