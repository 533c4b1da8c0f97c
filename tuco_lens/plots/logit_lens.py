"""The figure of a logit lens: a layer × token map with a token written in each cell.

What is drawn is computed in `attribution/logit_lens.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import colour_bar, largest, lay_out, map_height
from tuco_lens.plots.labels import plotly_text, token_label
from tuco_lens.plots.lines import as_float32
from tuco_lens.plots.statistic import set_title
from tuco_lens.plots.template import SEQUENTIAL, Theme, look
from tuco_lens.plots.token_axis import HOVER_NAME, TokenAxis, add_band

if TYPE_CHECKING:
    from tuco_lens.attribution.logit_lens import LogitLens

_CELL: Final = 58  # px that a written token needs
_CHARACTERS: Final = 8
_HOVERED: Final = 5
_WORDS: Final = {
    "ftc": "FTC promotes",
    "ptc": "PTC promotes",
    "cumulative_ftc": "FTC up to each layer promotes",
    "cumulative_ptc": "PTC up to each layer promotes",
    "resid_post": "the stream says",
}


def lens_figure(lens: LogitLens, theme: Theme = "light") -> go.Figure:
    """Draws the tokens that are promoted most; colour is their logit, or their probability for the stream."""
    colours, z = look(theme), np.asarray(lens.values, dtype=np.float32)
    n_layers, n_columns = z.shape
    axis = TokenAxis(lens.tokens, tuple(map(str, lens.positions)), None, lens.roles)
    unit = "probability" if lens.of == "resid_post" else "logit"
    hover = [
        _listed(lens, ids, logits)
        for ids, logits in ((lens.promoted, lens.promoted_logits), (lens.suppressed, lens.suppressed_logits))
    ]
    figure: go.Figure = Figure(
        go.Heatmap(
            z=z,
            x=axis.names,
            y=as_float32(range(lens.first_layer, lens.first_layer + n_layers)),
            text=[[_label(lens, each[0], _CHARACTERS) for each in row] for row in lens.promoted],
            texttemplate="%{text}",
            textfont={"size": 10},
            customdata=np.stack(hover, axis=-1),
            hovertemplate=f"{HOVER_NAME}<br>layer %{{y}}<br>{unit} %{{z:.4g}}<br><b>promoted</b>%{{customdata[0]}}"
            "<br><b>suppressed</b>%{customdata[1]}<extra></extra>",
            hoverongaps=False,
            zmin=0,
            zmax=1 if lens.of == "resid_post" else largest(z),
            colorscale=SEQUENTIAL,
            colorbar=colour_bar(unit),
        )
    )
    height = max(map_height(n_layers), 16 * n_layers)
    lay_out(figure, axis, colours, rows=(lens.first_layer, n_layers), height=height)
    legend = add_band(figure, axis, colours, height)
    if n_columns * _CELL > 640:
        figure.update_layout(width=n_columns * _CELL + 150)
    set_title(figure, f"What {_WORDS[lens.of]}", "through the final norm as it was", legend)
    return figure


def _listed(
    lens: LogitLens, ids: Int[np.ndarray, "layer position rank"], logits: Float[np.ndarray, "layer position rank"]
) -> np.ndarray:
    """The first tokens of each cell with their logits, as the hover text says them."""
    lines = [
        [
            "".join(
                f"<br>{logit:+.2f}  {_label(lens, each, 30)}"
                for each, logit in zip(of_cell[:_HOVERED], at_cell[:_HOVERED], strict=True)
            )
            for of_cell, at_cell in zip(of_row, at_row, strict=True)
        ]
        for of_row, at_row in zip(ids, logits, strict=True)
    ]
    return np.array(lines, dtype=object)


def _label(lens: LogitLens, token_id: int, limit: int) -> str:
    return plotly_text(token_label(lens.text(token_id), limit))
