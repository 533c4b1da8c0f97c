"""The layer × token map of one prompt as a plotly heatmap: the picture that everything here draws (docs/maths.md).

What the maps are is in `measurement.py` (`PromptMeasurement.layer_token`); the HTML report draws the same figure, from
the same layout, in the browser (`report.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Float32

from tuco_lens.errors import InputError
from tuco_lens.plots.labels import plotly_text, token_label
from tuco_lens.plots.template import MISSING, SEQUENTIAL, TEMPLATE

if TYPE_CHECKING:
    from torch import Tensor

    from tuco_lens.measurement import MapKind, PromptMeasurement
    from tuco_lens.metrics import Norm

TICK_CHARACTERS: Final = 14
"""Length at which a token's label on the axis is cut."""
HOVER_CHARACTERS: Final = 60
"""Length at which a token is cut in the hover text."""
MAX_TICKS: Final = 40
"""Most tokens labelled on the axis; of a longer prompt every second, third … is."""

_MARK_COLOUR: Final = "#ff2d55"  # not on the Viridis scale
_SUBSCRIPT: Final[dict[str, str]] = {"l1": "₁", "l2": "₂"}


@dataclass(frozen=True)
class MapWords:
    """How one kind of map is called in a figure."""

    title: str
    """Above the figure."""
    value: str
    """The quantity, in the colour bar and the hover text."""
    ptc: str
    """The first norm of the ratio, in the hover text."""
    ftc: str
    """The second norm of the ratio."""


WORDS: Final[dict[str, MapWords]] = {
    "cumulative": MapWords("TuCo so far, by layer and token (cumulative)", "TuCo so far", "ΣPTC", "ΣFTC"),
    "local": MapWords("FTC's share of each single layer (local)", "FTC share of the layer", "PTC", "FTC"),
    "drift": MapWords("Drift of two independent runs", "drift", "PTC", "FTC"),
}


def layer_token_heatmap(
    values: Float[Tensor, "layer token"],
    tokens: Sequence[str],
    *,
    kind: MapKind = "cumulative",
    norm: Norm = "l1",
    roles: Sequence[str] | None = None,
    ptc: Float[Tensor, "layer token"] | None = None,
    ftc: Float[Tensor, "layer token"] | None = None,
    zmax: float | None = None,
) -> go.Figure:
    """Draws a layer × token map: layer 0 at the bottom, the first token at the left.

    In a cumulative map the last token's cell after the last layer is marked: it is the prompt's TuCo.

    Args:
        values: The map, [n_layers, n_tokens], in [0, 1]; NaN is drawn as missing.
        tokens: Text of each token, shown as it is, markup and control characters included, [n_tokens].
        kind: Which map it is, for the words in the figure.
        norm: The norm that it was made with.
        roles: Role of each token, for the hover text, [n_tokens].
        ptc: ‖PTC‖ (its sum, in a cumulative map), for the hover text; drawn only together with `ftc`.
        ftc: ‖FTC‖, as `ptc`.
        zmax: Upper end of the colour scale, which starts at 0; by default the largest value. Give several figures one
            `zmax` to compare them.

    Returns:
        The figure, not shown.

    Raises:
        InputError: if the map is not a non-empty matrix, or its shape differs from that of another argument.
    """
    z: Float32[np.ndarray, "layer token"] = _float32(values)
    _check_shapes(z, tokens, roles, ptc, ftc)
    n_layers, n_tokens = z.shape
    norms = (
        None if ptc is None or ftc is None else np.stack([_float32(ptc), _float32(ftc)], axis=-1)
    )  # [layer, token, 2]
    words = WORDS[kind]
    trace = go.Heatmap(
        z=z,
        x=np.arange(n_tokens, dtype=np.float32),
        y=np.arange(n_layers, dtype=np.float32),
        text=[_hover_texts(tokens, roles)] * n_layers,
        customdata=norms,
        hovertemplate=_hover_template(words, norm, norms is not None),
        hoverongaps=False,
        zmin=0.0,
        zmax=_largest(z) if zmax is None else zmax,
        colorscale=SEQUENTIAL,
        colorbar={"title": {"text": f"{words.value} ({norm.upper()})", "side": "right"}, "thickness": 12, "len": 1},
    )
    figure = go.Figure(trace)
    figure.update_layout(
        template=TEMPLATE,
        title=f"{words.title}, {norm.upper()}",
        height=190 + round(max(120, n_layers * min(28, max(9, 300 / n_layers)))),
        plot_bgcolor=MISSING,
        xaxis={"title": {"text": "token"}, "tickangle": -90, **_token_ticks(tokens)},
        yaxis={"title": {"text": "layer"}, "dtick": math.ceil(n_layers / 12), "range": [-0.5, n_layers - 0.5]},
    )
    if kind == "cumulative":
        _mark_tuco(figure, z)
    return figure


def measurement_heatmap(
    item: PromptMeasurement, kind: MapKind = "cumulative", *, zmax: float | None = None
) -> go.Figure:
    """Draws a map of a measured prompt, with its roles and norms in the hover text; see `layer_token_heatmap`.

    Raises:
        InputError: for "drift" if it was not measured, or an unknown kind.
    """
    maps = item.maps
    norms = {"cumulative": (maps.cumulative_ptc, maps.cumulative_ftc), "local": (maps.ptc, maps.ftc)}
    values = item.layer_token(kind)
    ptc, ftc = norms.get(kind, (None, None))
    prompt = item.prompt
    return layer_token_heatmap(
        values, prompt.tokens, kind=kind, norm=item.norm, roles=prompt.roles, ptc=ptc, ftc=ftc, zmax=zmax
    )


def labelled_positions(n_tokens: int, max_ticks: int = MAX_TICKS) -> list[int]:
    """Positions that get a label: every k-th, with the smallest k that gives at most `max_ticks`, the last always."""
    step = math.ceil(n_tokens / max_ticks)
    return list(range((n_tokens - 1) % step, n_tokens, step))


def _token_ticks(tokens: Sequence[str]) -> dict[str, Any]:
    # The axis is numeric: as categories, repeated tokens would fall into one column.
    positions = labelled_positions(len(tokens))
    labels = [plotly_text(token_label(tokens[position], TICK_CHARACTERS)) for position in positions]
    return {"tickmode": "array", "tickvals": positions, "ticktext": labels, "range": [-0.5, len(tokens) - 0.5]}


def _hover_texts(tokens: Sequence[str], roles: Sequence[str] | None) -> list[str]:
    """Per token: its text, role and position, [n_tokens]."""
    shown = [plotly_text(token_label(token, HOVER_CHARACTERS)) for token in tokens]
    parts = [f"{plotly_text(role)}, " for role in roles] if roles is not None else [""] * len(tokens)
    # A fresh line for the token: in one line with other text, right-to-left scripts would reorder that too.
    return [f"<b>{token}</b><br>{part}position {i}" for i, (token, part) in enumerate(zip(shown, parts, strict=True))]


def _hover_template(words: MapWords, norm: Norm, has_norms: bool) -> str:
    lines = ["%{text}, layer %{y}", words.value + " %{z:.4f}"]
    if has_norms:
        lines += [
            f"‖{name}‖{_SUBSCRIPT[norm]} %{{customdata[{i}]:.4g}}" for i, name in enumerate((words.ptc, words.ftc))
        ]
    return "<br>".join(lines) + "<extra></extra>"


def _mark_tuco(figure: go.Figure, z: Float32[np.ndarray, "layer token"]) -> None:
    """Frames the last token's cell after the last layer, and says its value above it."""
    layer, token = z.shape[0] - 1, z.shape[1] - 1
    value = float(z[layer, token])
    figure.add_shape(
        type="rect",
        x0=token - 0.5,
        x1=token + 0.5,
        y0=layer - 0.5,
        y1=layer + 0.5,
        line={"color": _MARK_COLOUR, "width": 2},
    )
    figure.add_annotation(
        x=token + 0.5,
        y=1,
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        text=f"TuCo {value:.4f} ▾" if math.isfinite(value) else "TuCo missing ▾",
        font={"color": _MARK_COLOUR},
    )


def _largest(z: Float32[np.ndarray, "layer token"]) -> float:
    """The largest value, or 1 where none is above 0, since a colour scale of no width has no colours."""
    finite = z[np.isfinite(z)]
    largest = float(finite.max()) if finite.size else 0.0
    return largest if largest > 0 else 1.0


def _float32(tensor: Float[Tensor, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return tensor.detach().cpu().float().numpy()


def _check_shapes(
    z: Float32[np.ndarray, "*shape"],
    tokens: Sequence[str],
    roles: Sequence[str] | None,
    ptc: Float[Tensor, "*shape"] | None,
    ftc: Float[Tensor, "*shape"] | None,
) -> None:
    if z.ndim != 2 or not z.size:
        raise InputError("cannot draw the map", f"its shape is {tuple(z.shape)}", "give [n_layers, n_tokens]")
    counts = {"tokens": tokens, "roles": roles}
    for name, sequence in counts.items():
        if sequence is not None and len(sequence) != z.shape[1]:
            why = f"it has {z.shape[1]} columns and there are {len(sequence)} {name}"
            raise InputError("cannot draw the map", why, f"give one of {name} for each column")
    for name, norms in {"ptc": ptc, "ftc": ftc}.items():
        if norms is not None and tuple(norms.shape) != z.shape:
            why = f"its shape is {z.shape} and that of {name} is {tuple(norms.shape)}"
            raise InputError("cannot draw the map", why, "give norms of the same prompt")
