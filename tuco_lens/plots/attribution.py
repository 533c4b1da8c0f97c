"""Figures of what adds up to TuCo or to a logit: by layer and component, head, matrix, source token.

What is drawn is computed in `attribution/`. Blue adds, orange takes away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import SUBSCRIPT, colour_bar, largest, lay_out, map_height
from tuco_lens.plots.labels import plotly_text, readable, token_label
from tuco_lens.plots.lines import as_float32
from tuco_lens.plots.statistic import set_title
from tuco_lens.plots.template import Theme, look
from tuco_lens.plots.token_axis import HOVER_NAME, TokenAxis, add_band

if TYPE_CHECKING:
    from tuco_lens.attribution.components import Components
    from tuco_lens.attribution.integrated_gradients import IntegratedGradients
    from tuco_lens.attribution.logit_attribution import LogitAttribution
    from tuco_lens.attribution.sources import Sources

_FRAME: Final = 210  # px of titles and labels
_MOST_LABELS: Final = 16


@dataclass(frozen=True)
class _Grid:
    """One table of shares with the words around it."""

    values: Float[np.ndarray, "layer column"]
    columns: Sequence[str]
    kind: str
    """What a column is, for the axis and the hover text."""
    adds_up: str
    """What all of its values add up to."""
    unit: str = "share of TuCo"
    """What a value is."""


def components_figure(found: Components, theme: Theme = "light") -> go.Figure:
    """Draws the shares of TuCo by layer and component, with the two parts of the MLP's beside it."""
    own = [f"{'mlp' if 'mlp' in found.components else 'experts'}: {part}" for part in ("own", "passed on")]
    grid = _Grid(np.hstack([found.values, found.mlp_split]), [*found.components, *own], "component", _whole(found))
    figure = _figure(found, grid, "Where TuCo comes from", theme)
    # The two last columns are the MLP's once more, so they stand apart.
    figure.add_vline(x=len(found.components) - 0.5, line={"width": 3, "color": look(theme).paper})
    return figure


def heads_figure(found: Components, theme: Theme = "light") -> go.Figure:
    """Draws the shares of attention by layer and head; the bias is the last column."""
    if found.heads is None or found.head_bias is None:
        raise InputError("no heads to draw", "they were not asked for", "call components with heads=True")
    values = np.hstack([found.heads, found.head_bias[:, None]])
    attention = found.values[:, found.components.index("attention")].sum()
    names = [*map(str, range(found.heads.shape[1])), "bias"]
    grid = _Grid(values, names, "head", f"all heads together {attention:.4f} of TuCo {found.tuco:.4f}")
    return _figure(found, grid, "Heads that TuCo comes from", theme)


def modules_figure(found: Components, theme: Theme = "light") -> go.Figure:
    """Draws what goes from TuCo with each changed weight matrix."""
    if found.module_shares is None:
        raise InputError("no modules to draw", "they were not asked for", "call components with modules=True")
    grid = _Grid(found.module_shares, found.modules, "matrix", f"TuCo {found.tuco:.4f}; these do not add up to it")
    return _figure(found, grid, "What goes without one matrix", theme)


def logits_figure(found: LogitAttribution, theme: Theme = "light") -> go.Figure:
    """Draws what every part of each block adds to the logit."""
    rest = sum(found.outside.values())
    adds_up = f"PTC {found.of('PTC'):+.2f}, FTC {found.of('FTC'):+.2f}, rest {rest:+.2f}: {found.logit:+.2f} logits"
    capped = f", before the soft-cap at {found.soft_cap:g}" if found.soft_cap else ""
    grid = _Grid(found.values, found.terms, "term", adds_up + capped, "logits")
    return _figure(found, grid, f"What writes {plotly_text(found.question)}", theme)


def sources_figure(found: Sources, theme: Theme = "light") -> go.Figure:
    """Draws the shares of attention by layer and by the token that is read from."""
    whole = f"attention adds {found.attention.sum():+.4f} to TuCo {found.tuco:.4f} at position {found.position}"
    return _token_map(found, "Tokens that attention reads fine-tuning from", whole, "share of TuCo", theme)


def gradients_figure(found: IntegratedGradients, theme: Theme = "light") -> go.Figure:
    """Draws what FTC at each layer and token adds to the change of a metric."""
    change = f"{plotly_text(found.metric)}: {found.at_0:.3f} at α = 0, {found.at_1:.3f} at α = 1"
    return _token_map(found, f"What changed the answer by {found.change:+.3f}", change, "part of the change", theme)


def _token_map(found: Sources | IntegratedGradients, title: str, note: str, unit: str, theme: Theme) -> go.Figure:
    colours, z = look(theme), np.asarray(found.values, dtype=np.float32)
    n_layers, n_columns = z.shape
    axis = TokenAxis(found.tokens, tuple(map(str, range(n_columns))), None, found.roles)
    limit = largest(abs(z))
    figure: go.Figure = Figure(
        go.Heatmap(
            z=z,
            x=axis.names,
            y=as_float32(range(n_layers)),
            hovertemplate=f"{HOVER_NAME}<br>layer %{{y}}<br>{unit} %{{z:+.5f}}<extra></extra>",
            hoverongaps=False,
            zmin=-limit,
            zmax=limit,
            colorscale=colours.diverging,
            colorbar=colour_bar(unit),
        )
    )
    height = map_height(n_layers)
    lay_out(figure, axis, colours, rows=(0, n_layers), height=height)
    legend = add_band(figure, axis, colours, height)
    set_title(figure, title, note, legend)
    return figure


def _whole(found: Components) -> str:
    return f"TuCo {found.tuco:.4f} (L{SUBSCRIPT[found.norm]}), absolute shares {found.cancellation:.2f} times that"


def _figure(found: Components | LogitAttribution, grid: _Grid, title: str, theme: Theme) -> go.Figure:
    colours, z = look(theme), np.asarray(grid.values, dtype=np.float32)
    n_layers, n_columns = z.shape
    limit = largest(abs(z))
    told = f"{grid.kind} <b>%{{customdata}}</b><br>layer %{{y}}<br>{grid.unit} %{{z:+.5f}}<extra></extra>"
    figure: go.Figure = Figure(
        go.Heatmap(
            z=z,
            x=as_float32(range(n_columns)),
            y=as_float32(range(n_layers)),
            customdata=np.array([[plotly_text(readable(name, 60)) for name in grid.columns]] * n_layers),
            hovertemplate=told,
            hoverongaps=False,
            zmin=-limit,
            zmax=limit,
            colorscale=colours.diverging,
            colorbar=colour_bar(grid.unit),
            xgap=1,
        )
    )
    step = math.ceil(n_columns / _MOST_LABELS) if grid.kind == "head" else 1
    shown = [*range(0, n_columns - 1, step), n_columns - 1]
    names = [plotly_text(readable(grid.columns[column], 22)) for column in shown]
    figure.update_layout(
        template=colours.template,
        height=map_height(n_layers) + _FRAME,
        plot_bgcolor=colours.missing,
        xaxis={"tickvals": shown, "ticktext": names, "tickangle": 0 if grid.kind == "head" else -40},
        yaxis={"title": {"text": "layer"}, "dtick": math.ceil(n_layers / 12), "range": [-0.5, n_layers - 0.5]},
    )
    if grid.kind == "head":
        figure.update_xaxes(title_text="head")
    token = plotly_text(token_label(found.tokens[found.position], 24))
    set_title(figure, title, f"position {found.position} ({token})", grid.adds_up)
    return figure
