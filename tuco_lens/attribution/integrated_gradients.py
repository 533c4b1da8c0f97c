"""Integrated gradients along α: which layer and token's FTC changed the answer between α = 0 and α = 1.

With x_{l+1,t} = base + α_{l,t}·(tuned − base) and all α on the line from 0 to 1, the integrals of ∂m/∂α_{l,t} add up to
m(1) − m(0) for any differentiable metric m (Sundararajan et al. 2017, with α for the input). FTC is a sum, so each of
them is split over components or heads in the same way. The integral is by Gauss–Legendre nodes, all in one batch.
`ModelPair.integrated_gradients` makes an `IntegratedGradients`; metrics are in `metric.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.metric import Asked, Question, asked
from tuco_lens.attribution.mixing import mixed
from tuco_lens.attribution.pieces import WHOLE, PieceTaps
from tuco_lens.attribution.recording import record, rounding
from tuco_lens.attribution.result import AtPosition
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of
from tuco_lens.plots.labels import token_label
from tuco_lens.steering.alpha import Alpha, Positions, layer_alphas, layer_index, position_filter

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.engine.lockstep import Stream
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt

Steps = int | Literal["auto"]
Split = Literal["component", "head"] | None
GAP: Final = 1e-3
"""Of the change: "auto" takes more nodes until the sum is as near as this."""
_NODES: Final = (8, 16, 32, 64, 128)


@dataclass(frozen=True, eq=False)
class IntegratedGradients(AtPosition):
    """The change of a metric between α = 0 and α = 1, by the layer and token whose FTC made it."""

    values: Float[np.ndarray, "layer token"] = field(repr=False)
    """What each adds to the change; they add up to it but for `gap`."""
    split: Float[np.ndarray, "layer token part"] | None = field(repr=False)
    """The same by component or head, where asked for; they add up to `values`."""
    parts: tuple[str, ...]
    """Names of those: "attention", or the heads' numbers and "bias"; "mlp" or "experts"; empty if not asked for."""
    at_0: float
    """The metric at the beginning: with α = 0, the base model's blocks on the tuned embedding and unembedding."""
    at_1: float
    """The metric at the end: with α = 1, of the tuned model itself."""
    alpha: float | tuple[float, ...]
    """α at the end of the line; by layer, if it is not the same everywhere."""
    nodes: int
    """Number of Gauss–Legendre nodes."""
    metric: str
    """What the metric is, in words: "'a' over 'b'", or "metric" for a function of the user's."""
    roles: tuple[str, ...] = field(repr=False)
    """Span of each."""

    @property
    def change(self) -> float:
        """What the metric changed by along the line: metric(1) − metric(0)."""
        return self.at_1 - self.at_0

    @property
    def gap(self) -> float:
        """Sum of the values less the change: the error of the integral.

        More nodes make it smaller, but not where the metric jumps, as where a router chooses other experts on the way.
        """
        return float(self.values.sum()) - self.change

    def summary(self) -> str:
        """The change, the error of the sum, and the layers and tokens that made most of it."""
        ends = f"{self.at_0:.3f} at α = 0, {self.at_1:.3f} at {self.end}"
        begin = f"{self.metric}: {ends}, a change of {self.change:+.3f}"
        sizes = self.values.sum(axis=0)
        tokens = ", ".join(
            f"{token_label(self.tokens[i], 24)} at {i} ({sizes[i]:+.3f})" for i in np.argsort(-np.abs(sizes))[:3]
        )
        by_layer = self.values.sum(axis=1)
        layers = ", ".join(f"{i} ({by_layer[i]:+.3f})" for i in np.argsort(-np.abs(by_layer))[:3])
        found = f"{begin} (sum off by {self.gap:+.2g} with {self.nodes} nodes). Tokens: {tokens}. Layers: {layers}."
        return found if self.split is None else f"{found} {self._parts()}"

    def _parts(self) -> str:
        assert self.split is not None
        cells = self.split.sum(axis=1)  # [layer, part]
        order = np.argsort(-np.abs(cells), axis=None)[:3]
        largest = ", ".join(
            f"{self.part_name(column)} of layer {layer} ({cells[layer, column]:+.3f})"
            for layer, column in zip(*np.unravel_index(order, cells.shape), strict=True)
        )
        return f"Parts: {largest}."

    @property
    def end(self) -> str:
        """The end of the line in words: "α = 1"."""
        return "the α of each layer" if isinstance(self.alpha, tuple) else f"α = {self.alpha:g}"

    def part_name(self, column: int) -> str:
        """A part's name among words: "mlp", "head 3"."""
        name = self.parts[column]
        return f"head {name}" if name.isdigit() else "head bias" if name == "bias" else name

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and token, and per part if split: layer, position, token, role, part, value."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "position", "token", "role", "part", "value"])

    def _rows(self) -> Iterator[tuple[int, int, str, str, str, float]]:
        cells, parts = (self.values[..., None], (WHOLE,)) if self.split is None else (self.split, self.parts)
        for layer, rows in enumerate(cells):
            for position, row in enumerate(rows):
                for part, value in zip(parts, row, strict=True):
                    yield layer, position, self.tokens[position], self.roles[position], part, float(value)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the values by layer and token."""
        from tuco_lens.plots.attribution import gradients_figure

        return gradients_figure(self, theme)

    def parts_figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the values by layer and component or head, of all tokens together; `InputError` if not split."""
        from tuco_lens.plots.attribution import gradient_parts_figure

        return gradient_parts_figure(self, theme)


@dataclass(frozen=True)
class GradientOptions:
    """How finely the change is split, and along which line."""

    steps: Steps = "auto"
    over: Split = None
    alpha: Alpha = 1.0
    layers: Sequence[int] | None = None
    positions: Positions = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.steps != "auto" and not (isinstance(self.steps, int) and self.steps >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"steps is {self.steps!r}", "it is no number of nodes", "give a number above 0, or 'auto'")
        if self.over not in (None, "component", "head"):
            raise InputError(f"over {self.over!r}", "there are 'component' and 'head'", "name one, or leave it out")


def integrated_gradients(
    pair: AttributedPair, prompt: Prompt, what: Question, options: GradientOptions
) -> IntegratedGradients:
    """The attribution on one prompt; see `ModelPair.integrated_gradients`.

    Raises:
        InputError: for a question or an option that cannot be, or while a scaling is on.
    """
    if pair.active_scalings:
        raise InputError("a scaling is on", "the gradients go along α themselves", "close it, or give alpha=")
    if options.over is not None:  # refuses architectures whose parts do not add up
        record(pair, prompt, what.position, ("attention",) if options.over == "head" else ())
    question = asked(pair, prompt, what)
    prompt = question.prompt
    ends = layer_alphas(options.alpha, pair.n_layers)
    run = _Gradients(pair, question, options, ends)
    at_0, at_1 = run.at(0.0), run.at(1.0)
    for nodes in _NODES if options.steps == "auto" else [options.steps]:
        values = run.integral(nodes)
        if abs(float(values.sum()) - (at_1 - at_0)) <= GAP * abs(at_1 - at_0):
            break
    kept = _beyond_rounding(values, pair.dtype)  # pyright: ignore[reportPossiblyUnboundVariable] - there is at least one number of nodes
    return IntegratedGradients(
        values=values.sum(axis=-1),  # pyright: ignore[reportPossiblyUnboundVariable]
        split=values[..., kept] if options.over else None,  # pyright: ignore[reportPossiblyUnboundVariable]
        parts=tuple(run.columns[column] for column in kept) if options.over else (),
        at_0=at_0,
        at_1=at_1,
        alpha=ends[0] if len(set(ends)) == 1 else ends,
        nodes=nodes,  # pyright: ignore[reportPossiblyUnboundVariable]
        metric=question.words,
        position=question.position,
        tokens=prompt.tokens,
        roles=prompt.roles,
        base=pair.base_name,
        tuned=pair.tuned_name,
    )


def _beyond_rounding(values: Float[np.ndarray, "layer token part"], dtype: str) -> list[int]:
    """The parts that some block has; all of them where nothing changes."""
    sizes = np.abs(values).sum(axis=(0, 1))
    return [column for column, size in enumerate(sizes) if size >= rounding(dtype) * sizes.sum()]


class _Gradients:
    """The passes at nodes along the line, many rows in a batch."""

    def __init__(
        self, pair: AttributedPair, question: Asked, options: GradientOptions, ends: tuple[float, ...]
    ) -> None:
        self.pair, self.question = pair, question
        self.over: Split = options.over
        self.fitting = FittingBatches(options.batch_size, "node")
        self.columns: tuple[str, ...] = ()
        self.moves = self._moving(options)
        self.end = torch.tensor(ends).to(self.moves)[:, None]  # [layer, 1]

    def _moving(self, options: GradientOptions) -> Float[Tensor, "layer token"]:
        """1 where α goes along the line, 0 where it stays 1."""
        n_tokens, n_layers = self.question.prompt.n_tokens, self.pair.n_layers
        chosen = position_filter(options.positions, self.question.prompt.roles)
        tokens = torch.tensor(chosen.selects(0, n_tokens, n_tokens))
        layers = torch.zeros(n_layers, dtype=torch.bool)
        listed = range(n_layers) if options.layers is None else options.layers
        layers[[layer_index(layer, n_layers) for layer in listed]] = True
        wide = torch.float64 if self.pair.dtype == "float64" else torch.float32
        return (layers[:, None] & tokens).to(device=device_of(self.pair.tuned), dtype=wide)

    def at(self, point: float) -> float:
        """The metric at a point of the line, from 0 to 1."""
        with torch.no_grad(), mixed(self.pair, self._alphas(np.array([point]))):
            return float(self.question.of_pass(self.pair)[0])

    def integral(self, nodes: int) -> Float[np.ndarray, "layer token part"]:
        """∫ ∂m/∂α_{l,t} dα over the line, by Gauss–Legendre nodes; without a split there is one part."""
        points, weights = np.polynomial.legendre.leggauss(nodes)
        found = self.fitting.run([list(range(nodes))], lambda rows: self._of_nodes((points[rows] + 1) / 2))
        return sum(np.einsum("r,rltc->ltc", weights[rows] / 2, gradients) for rows, gradients in found)  # pyright: ignore[reportReturnType]

    def _of_nodes(self, points: Float[np.ndarray, " row"]) -> Float[np.ndarray, "row layer token part"]:
        with ExitStack() as stack:
            alphas = self._alphas(points).requires_grad_()
            change, by = None, alphas
            if self.over is not None:
                change = _Probe(PieceTaps(self.pair, self.over, stack), alphas)
                by, self.columns = change.weights, change.taps.columns
            with mixed(self.pair, alphas, change), torch.enable_grad():
                found = self.question.of_pass(self.pair, len(points)).sum()
                if not found.requires_grad:
                    why = "it cannot be differentiated"
                    raise InputError("not a metric", why, "compute it with torch from what it is given")
                gradients = torch.autograd.grad(found, by)[0].double()
        return (gradients.reshape(*alphas.shape, -1) * self._slope()[..., None]).cpu().numpy()

    def _slope(self) -> Float[Tensor, "layer token"]:
        """dα/ds, s being the point of the line."""
        return self.moves * self.end

    def _alphas(self, points: Float[np.ndarray, " row"]) -> Float[Tensor, "row layer token"]:
        each = torch.tensor(points).to(self.moves)[:, None, None]
        return torch.where(self.moves > 0, each * self.end, 1.0)


class _Probe:
    """Adds every piece of FTC times a weight of 0: the gradient by the weight is the piece's part of that by α."""

    def __init__(self, taps: PieceTaps, alphas: Float[Tensor, "row layer token"]) -> None:
        self.taps = taps
        self.weights = alphas.new_zeros(*alphas.shape, len(taps.columns), requires_grad=True)

    def __call__(self, layer: int, stream: Stream, tuned: Stream, base: Stream) -> Stream:
        return stream + self.taps.of_block(layer, tuned, base).added(self.weights[:, layer]).to(stream.dtype)
