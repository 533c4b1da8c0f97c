"""The common look of the figures (`plots/`): one plotly template, legible in print and with any colour vision."""

from __future__ import annotations

from typing import Final

import plotly.graph_objects as go

SEQUENTIAL: Final = "Viridis"
"""Colour scale of every map: even in lightness, told apart with any colour vision and in grey."""

MISSING: Final = "#d9d9d9"
"""Colour of cells without a value."""

# Okabe & Ito (2008), without its yellow, which is lost on white.
_COLORWAY: Final = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

_AXIS: Final = {
    "showgrid": False,
    "zeroline": False,
    "ticks": "outside",
    "ticklen": 3,
    "automargin": True,
    "title": {"standoff": 8},
}

TEMPLATE: Final = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"},
        "title": {"font": {"size": 14}, "x": 0, "xref": "paper", "xanchor": "left"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": _COLORWAY,
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": "#222222"}},
        "margin": {"l": 48, "r": 16, "t": 56, "b": 48},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        # From version 7 on plotly.js has a button that uploads the figure, prompts and all, to its maker's server.
        "modebar": {"remove": ["sendChartToCloud"]},
    }
)
"""Template of every figure of the package; pass it to figures of your own to match them."""
