"""Figures of what adds up to TuCo or to a logit: by layer and component, head, matrix, source token.

What is drawn is computed in `attribution/`. Blue adds, orange takes away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
    from tuco_lens.attribution.features import Features
    from tuco_lens.attribution.integrated_gradients import IntegratedGradients
    from tuco_lens.attribution.logit_attribution import LogitAttribution
    from tuco_lens.attribution.patching import Patching
    from tuco_lens.attribution.result import AtPosition
    from tuco_lens.attribution.sources import Sources

_FRAME: Final = 210  # px of titles and labels
_MOST_LABELS: Final = 16
_SUBTITLE: Final = 20  # px


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
    title = f"What changed the answer by {found.change:+.3f}"
    return _token_map(found, title, _change(found), "part of the change", theme)


def gradient_parts_figure(found: IntegratedGradients, theme: Theme = "light") -> go.Figure:
    """Draws what each component or head adds to the change of a metric, all tokens together."""
    if found.split is None:
        raise InputError("no parts to draw", "they were not asked for", "call integrated_gradients with over='head'")
    kind = "head" if "attention" not in found.parts else "component"
    grid = _Grid(found.split.sum(axis=1), found.parts, kind, _change(found), "part of the change")
    return _figure(found, grid, f"The change by {kind}, all tokens together", theme)


def _change(found: IntegratedGradients) -> str:
    return f"{plotly_text(found.metric)}: {found.at_0:.3f} at α = 0, {found.at_1:.3f} at {found.end}"


def effects_figure(found: Patching, theme: Theme = "light") -> go.Figure:
    """Draws the causal effect of every cell on a metric."""
    title = f"What {'taking FTC out' if found.way == 'out' else 'FTC alone'} changes"
    if found.over == "layer_token":
        return _token_map(found, title, _patched(found), "effect", theme)
    grid = _Grid(found.values, found.columns, _KINDS[found.over], _patched(found), "effect")
    return _figure(found, grid, title, theme)


def comparison_figure(found: Patching, theme: Theme = "light") -> go.Figure:
    """Draws additive share, gradient and effect of the same cells; each map has a scale of its own."""
    from plotly.subplots import make_subplots

    tables = {"share": found.shares, "gradient": found.gradients, "effect": found.values}
    shown = {name: table for name, table in tables.items() if table is not None}
    colours, (n_layers, n_columns) = look(theme), found.values.shape
    is_stacked = n_columns > _MOST_LABELS
    titles = [f"{name} ±{_size(table):.2g}" for name, table in shown.items()]
    rows, columns = (len(shown), 1) if is_stacked else (1, len(shown))
    subplots = make_subplots(
        rows,
        columns,
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=titles,
        vertical_spacing=0.08,
        horizontal_spacing=0.04,
    )
    figure: go.Figure = Figure(subplots)
    names = [found.cell_name(layer, column) for layer in range(n_layers) for column in range(n_columns)]
    told = np.array([plotly_text(readable(name, 60)) for name in names]).reshape(n_layers, n_columns)
    for number, table in enumerate(shown.values()):
        z, limit = np.asarray(table, dtype=np.float32), _size(table)
        row, column = (number + 1, 1) if is_stacked else (1, number + 1)
        figure.add_trace(
            go.Heatmap(
                z=z,
                x=as_float32(range(n_columns)),
                y=as_float32(range(n_layers)),
                customdata=told,
                hovertemplate="<b>%{customdata}</b><br>%{z:+.5f}<extra></extra>",
                hoverongaps=False,
                zmin=-limit,
                zmax=limit,
                colorscale=colours.diverging,
                showscale=False,
            ),
            row,
            column,
        )
    height = map_height(n_layers) * (len(shown) if is_stacked else 1) + _FRAME
    figure.update_layout(template=colours.template, height=height, plot_bgcolor=colours.missing)
    figure.update_yaxes(dtick=math.ceil(n_layers / 12), range=[-0.5, n_layers - 0.5])
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_xaxes(**_ticks(found, n_columns))
    title = f"Share, {'' if found.gradients is None else 'gradient, '}effect on {plotly_text(found.metric)}"
    set_title(figure, title, f"rank correlation of the effect: {found.ranks}")
    above: int = figure.layout.margin.t  # pyright: ignore
    figure.update_layout(height=height + _SUBTITLE, margin={"t": above + _SUBTITLE})
    figure.update_annotations(font_size=12)
    return figure


def features_figure(found: Features, theme: Theme = "light", k: int = 10) -> go.Figure:
    """Draws the features that rise most, at the top, and those that fall most, with their intervals."""
    colours, top = look(theme), found.top(k)
    values, low, high = (each[top] for each in (found.values, found.low, found.high))
    told = [
        f"feature <b>{feature}</b><br>change {found.values[feature]:+.4f} ({found.low[feature]:+.4f} to"
        f" {found.high[feature]:+.4f})<br>base {found.base_means[feature]:.4f}, tuned"
        f" {found.tuned_means[feature]:.4f}<br>active in {100 * found.base_active[feature]:.0f} % of prompts, tuned"
        f" {100 * found.tuned_active[feature]:.0f} %<extra></extra>"
        for feature in top
    ]
    figure: go.Figure = Figure(
        go.Scatter(
            x=as_float32(values),
            y=list(range(len(top))),
            mode="markers",
            marker={"size": 8, "color": colours.colorway[0]},
            error_x={"array": as_float32(high - values), "arrayminus": as_float32(values - low), "thickness": 1.5},
            hovertemplate=told,
        )
    )
    figure.add_vline(x=0, line={"width": 1, "color": colours.quiet})
    figure.update_layout(
        template=colours.template,
        height=22 * len(top) + _FRAME,
        yaxis={"tickvals": list(range(len(top))), "ticktext": list(map(str, top)), "autorange": "reversed"},
    )
    figure.update_xaxes(title_text="change of the activation")
    figure.update_yaxes(title_text="feature")
    shares = f"{found.base_error:.2f} of base, {found.tuned_error:.2f} of tuned, {found.change_error:.2f} of FTC"
    intervals = f"{found.n_prompts} prompts, {100 * found.confidence:.0f} % for all features together"
    set_title(figure, f"What FTC of layer {found.layer} does to features", intervals, f"unexplained: {shares}")
    return figure


def _size(table: Float[np.ndarray, "layer column"]) -> float:
    return largest(abs(np.asarray(table, dtype=np.float32)))


def _ticks(found: Patching, n_columns: int) -> dict[str, Any]:
    step = math.ceil(n_columns / (3 * _MOST_LABELS if found.over == "layer_token" else _MOST_LABELS))
    shown = list(range(0, n_columns, step))
    return {
        "tickvals": shown,
        "ticktext": [plotly_text(token_label(found.columns[column], 12)) for column in shown],
        "tickangle": 0 if found.over in ("layer", "head") else -60,
        "title": {"text": "head" if found.over == "head" else ""},
    }


_KINDS: Final = {"layer": "piece", "component": "component", "head": "head", "module": "matrix"}
"""What a column is, for the axis and the hover text."""


def _patched(found: Patching) -> str:
    return f"{plotly_text(found.metric)}: {found.unpatched:.3f} unpatched, {found.all_patched:.3f} with all cells"


def _token_map(
    found: Sources | IntegratedGradients | Patching, title: str, note: str, unit: str, theme: Theme
) -> go.Figure:
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


def _figure(found: AtPosition, grid: _Grid, title: str, theme: Theme) -> go.Figure:
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
