"""Figures of a pair's overview: change of the weights by layer and matrix, beside the mean FTC by layer.

What is drawn is computed in `attribution/overview.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import SUBSCRIPT, largest, map_height
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.lines import as_float32
from tuco_lens.plots.statistic import missing_note, set_title
from tuco_lens.plots.template import SEQUENTIAL, Look, Theme, look

if TYPE_CHECKING:
    from tuco_lens.attribution.overview import PairOverview, WeightChanges

_TITLE: Final = "Weights changed by fine-tuning"
_FRAME: Final = 250  # px of titles, labels and colour bar


def weights_figure(changes: WeightChanges, theme: Theme = "light") -> go.Figure:
    """Draws ‖ΔW‖/‖W‖ by layer and matrix."""
    colours = look(theme)
    figure = Figure(_heatmap(changes, 1.0))
    _lay_out(figure, changes, colours)
    set_title(figure, _TITLE, *_notes(changes))
    return figure


def overview_figure(overview: PairOverview, theme: Theme = "light") -> go.Figure:
    """Draws ‖ΔW‖/‖W‖ by layer and matrix, and beside it the mean ‖FTC‖ of each layer with its interval."""
    colours, changes = look(theme), overview.weights
    figure: go.Figure = make_subplots(1, 2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.03)
    figure.add_trace(_heatmap(changes, 0.58), 1, 1)
    figure.add_trace(_bars(overview, colours), 1, 2)
    _lay_out(figure, changes, colours)
    figure.update_xaxes(title_text=f"mean ‖FTC‖{SUBSCRIPT[overview.norm]}", rangemode="tozero", nticks=4, col=2)
    figure.update_layout(bargap=0.15, showlegend=False)
    # The colour of missing cells is that of the whole ground; under the bars it would say something else.
    ground = {"type": "rect", "xref": "x2 domain", "yref": "y2 domain", "x0": 0, "x1": 1, "y0": 0, "y1": 1}
    figure.update_layout(shapes=[{**ground, "layer": "below", "line": {"width": 0}, "fillcolor": colours.paper}])
    prompts = f"FTC of {overview.n_prompts} prompt{'s' if overview.n_prompts > 1 else ''}"
    interval = "95 % interval" if overview.n_prompts > 1 else "no interval"
    set_title(figure, f"{_TITLE}, and FTC", *_notes(changes), f"{prompts}, {interval}", missing_note(overview.ftc))
    return figure


def _heatmap(changes: WeightChanges, width: float) -> go.Heatmap:
    z = np.asarray(changes.values, dtype=np.float32)
    n_layers, n_matrices = z.shape
    return go.Heatmap(
        z=z,
        x=as_float32(range(n_matrices)),
        y=as_float32(range(changes.first_layer, changes.first_layer + n_layers)),
        customdata=np.array([[plotly_text(readable(name, 60)) for name in changes.matrices]] * n_layers),
        hovertemplate="<b>%{customdata}</b><br>layer %{y}<br>‖ΔW‖/‖W‖ %{z:.4g}<extra></extra>",
        hoverongaps=False,
        zmin=changes.zmin,
        zmax=largest(z) if changes.zmax is None else changes.zmax,
        colorscale=SEQUENTIAL,
        xgap=1,
        colorbar={
            "orientation": "h",  # its title is that of the axis above it: its own would lie on it
            "thickness": 10,
            "len": width,
            "x": 0,
            "xanchor": "left",
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
            "nticks": 4,
        },
    )


def _bars(overview: PairOverview, colours: Look) -> go.Bar:
    mean, low, high = (as_float32(side) for side in (overview.ftc, overview.ftc_low, overview.ftc_high))
    first = overview.weights.first_layer
    return go.Bar(
        x=mean,
        y=as_float32(range(first, first + len(mean))),
        orientation="h",
        marker={"color": colours.colorway[0]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high - mean,
            "arrayminus": mean - low,
            "color": colours.ink,
            "thickness": 1,
            "width": 2,
            "visible": overview.n_prompts > 1,
        },
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="layer %{y}<br>mean ‖FTC‖ %{x:.4g}"
        + ("<br>%{customdata[0]:.4g} to %{customdata[1]:.4g}" if overview.n_prompts > 1 else "")
        + "<extra></extra>",
    )


def _lay_out(figure: go.Figure, changes: WeightChanges, colours: Look) -> None:
    n_layers, first = changes.n_layers, changes.first_layer
    figure.update_layout(template=colours.template, height=map_height(n_layers) + _FRAME, plot_bgcolor=colours.missing)
    layers: dict[str, Any] = {"range": [first - 0.5, first + n_layers - 0.5], "dtick": math.ceil(n_layers / 12)}
    figure.update_yaxes(**layers)
    figure.update_layout(margin={"b": 130}, yaxis={"title": {"text": "layer"}})
    names = [plotly_text(readable(name, 22)) for name in changes.matrices]
    figure.update_layout(
        xaxis={"title": {"text": "‖ΔW‖/‖W‖"}, "tickvals": list(range(len(names))), "ticktext": names, "tickangle": -60}
    )


def _notes(changes: WeightChanges) -> list[str]:
    elsewhere = ", ".join(f"{plotly_text(readable(name, 22))} {value:.3g}" for name, value in changes.outside.items())
    n_missing = int(np.isnan(changes.values).sum())
    return [
        f"outside the blocks: {elsewhere}" if elsewhere else "",
        f"{n_missing} of {changes.values.size} matrices missing" if n_missing else "",
    ]
