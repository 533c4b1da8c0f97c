"""Integrated gradients along α: which layer and token's FTC changed the answer between α = 0 and α = 1.

With x_{l+1,t} = base + α_{l,t}·(tuned − base) and all α on the line from 0 to 1, the integrals of ∂m/∂α_{l,t} add up to
m(1) − m(0) for any differentiable metric m of the logits (Sundararajan et al. 2017, with α for the input). The integral
is by Gauss–Legendre nodes, all in one batch. `ModelPair.integrated_gradients` makes an `IntegratedGradients`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.answers import Answer, contrast, question, token_texts
from tuco_lens.attribution.recording import one_position
from tuco_lens.attribution.result import Attribution
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.lockstep import BlockWatch, SharedStates
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.engine.own_positions import OwnPositions
from tuco_lens.engine.use import using
from tuco_lens.errors import InputError
from tuco_lens.models.backends import blocks, device_of, run_logits
from tuco_lens.plots.labels import token_label

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt

Metric = Callable[[Float[Tensor, "row pos d_vocab"]], Float[Tensor, " row"]]
"""A differentiable function of the logits of every row, such as lambda logits: logits[:, -1, 7]."""
Steps = int | Literal["auto"]
GAP: Final = 1e-3
"""Of the change: "auto" takes more nodes until the sum is as near as this."""
_NODES: Final = (8, 16, 32, 64, 128)


@dataclass(frozen=True, eq=False)
class IntegratedGradients(Attribution):
    """The change of a metric between α = 0 and α = 1, by the layer and token whose FTC made it."""

    values: Float[np.ndarray, "layer token"] = field(repr=False)
    """What each adds to the change; they add up to it but for `gap`."""
    at_0: float
    """The metric at α = 0: the base model's blocks on the tuned embedding and unembedding."""
    at_1: float
    """The metric of the tuned model itself."""
    nodes: int
    """Number of Gauss–Legendre nodes."""
    metric: str
    """What the metric is, in words: "'a' over 'b'", or "metric" for a function of the user's."""
    position: int
    """Position whose logits are asked for, from 0."""
    tokens: tuple[str, ...] = field(repr=False)
    """The prompt's tokens."""
    roles: tuple[str, ...] = field(repr=False)
    """Span of each."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""

    @property
    def change(self) -> float:
        """metric(1) − metric(0)."""
        return self.at_1 - self.at_0

    @property
    def gap(self) -> float:
        """Sum of the values less the change: the error of the integral.

        More nodes make it smaller, but not where the metric jumps, as where a router chooses other experts on the way.
        """
        return float(self.values.sum()) - self.change

    def summary(self) -> str:
        """The change, the error of the sum, and the layers and tokens that made most of it."""
        begin = f"{self.metric}: {self.at_0:.3f} at α = 0, {self.at_1:.3f} at α = 1, a change of {self.change:+.3f}"
        sizes = self.values.sum(axis=0)
        tokens = ", ".join(
            f"{token_label(self.tokens[i], 24)} at {i} ({sizes[i]:+.3f})" for i in np.argsort(-np.abs(sizes))[:3]
        )
        by_layer = self.values.sum(axis=1)
        layers = ", ".join(f"{i} ({by_layer[i]:+.3f})" for i in np.argsort(-np.abs(by_layer))[:3])
        return f"{begin} (sum off by {self.gap:+.2g} with {self.nodes} nodes). Tokens: {tokens}. Layers: {layers}."

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and token: layer, position, token, role, value."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "position", "token", "role", "value"])

    def _rows(self) -> Iterator[tuple[int, int, str, str, float]]:
        for layer, row in enumerate(self.values):
            for position, value in enumerate(row):
                yield layer, position, self.tokens[position], self.roles[position], float(value)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the values by layer and token."""
        from tuco_lens.plots.attribution import gradients_figure

        return gradients_figure(self, theme)


@dataclass(frozen=True)
class GradientOptions:
    """What is asked, and how finely."""

    answer: Answer = None
    against: Answer = None
    metric: Metric | None = None
    position: int = -1
    steps: Steps = "auto"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.steps != "auto" and not (isinstance(self.steps, int) and self.steps >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"steps is {self.steps!r}", "it is no number of nodes", "give a number above 0, or 'auto'")
        if self.metric is not None and (self.answer is not None or self.against is not None):
            raise InputError("two questions", "a metric and an answer are given", "give one of them")


def integrated_gradients(pair: AttributedPair, prompt: Prompt, options: GradientOptions) -> IntegratedGradients:
    """The attribution on one prompt; see `ModelPair.integrated_gradients`.

    Raises:
        InputError: for an answer, position, metric or number of steps that cannot be, or while a scaling is on.
    """
    if pair.active_scalings:
        raise InputError("a scaling is on", "the gradients go from α = 0 to α = 1 themselves", "close it first")
    position = one_position(options.position, prompt.n_tokens)
    ids = torch.tensor([prompt.token_ids], device=device_of(pair.tuned))
    with using(pair.base, pair.tuned), torch.no_grad():
        logits = run_logits(pair.tuned, ids)
        metric, words = _metric(pair, prompt, options, position, logits)
        at_1 = float(_measured(metric, logits)[0])
    run = _Gradients(pair, ids, metric, options.batch_size)
    at_0 = run.at_0()
    for nodes in _NODES if options.steps == "auto" else [options.steps]:
        values = run.integral(nodes)
        if abs(float(values.sum()) - (at_1 - at_0)) <= GAP * abs(at_1 - at_0):
            break
    return IntegratedGradients(
        values=values,  # pyright: ignore[reportPossiblyUnboundVariable] - there is at least one number of nodes
        at_0=at_0,
        at_1=at_1,
        nodes=nodes,  # pyright: ignore[reportPossiblyUnboundVariable]
        metric=words,
        position=position,
        tokens=prompt.tokens,
        roles=prompt.roles,
        base=pair.base_name,
        tuned=pair.tuned_name,
    )


def _metric(
    pair: AttributedPair, prompt: Prompt, options: GradientOptions, position: int, logits: Tensor
) -> tuple[Metric, str]:
    if options.metric is not None:
        return options.metric, "metric"
    asked = contrast(pair, options.answer, options.against, logits[0, position].float(), prompt, position)
    weights = asked.weights(logits.shape[-1])

    def difference(logits: Tensor) -> Tensor:
        return logits[:, position].double() @ weights.to(logits.device)

    sides = (token_texts(pair.tokenizer, side) for side in (asked.answer, asked.against))
    return difference, question(*sides)


def _measured(metric: Metric, logits: Tensor) -> Float[Tensor, " row"]:
    """What the metric says of every row; `InputError` if that is not a finite number each."""
    found: Any = metric(logits)
    if not (isinstance(found, Tensor) and found.shape == logits.shape[:1] and found.is_floating_point()):
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        why = f"it gives {what} for {len(logits)} rows"
        raise InputError("not a metric", why, "return one floating-point number per row, as logits[:, -1, 7] does")
    if not math.isfinite(float(found.detach().sum())):
        raise InputError("not a metric", "it gives values that are not finite", "return finite numbers")
    return found


class _Gradients:
    """The passes at nodes between α = 0 and α = 1, many rows in a batch."""

    def __init__(self, pair: AttributedPair, ids: Tensor, metric: Metric, batch_size: int) -> None:
        self.pair, self.ids, self.metric = pair, ids, metric
        self.fitting = FittingBatches(batch_size, "node")

    def at_0(self) -> float:
        """The metric with every α at 0."""
        with torch.no_grad(), _mixed(self.pair, self._alphas(np.zeros(1))):
            return float(_measured(self.metric, run_logits(self.pair.tuned, self.ids))[0])

    def integral(self, nodes: int) -> Float[np.ndarray, "layer token"]:
        """∫ ∂m/∂α_{l,t} dα over [0, 1], by Gauss–Legendre nodes."""
        points, weights = np.polynomial.legendre.leggauss(nodes)
        total = np.zeros((self.pair.n_layers, self.ids.shape[1]))
        for rows, gradients in self.fitting.run(
            [list(range(nodes))], lambda rows: self._of_nodes((points[rows] + 1) / 2)
        ):
            total += np.einsum("r,rlt->lt", weights[rows] / 2, gradients)
        return total

    def _of_nodes(self, points: Float[np.ndarray, " row"]) -> Float[np.ndarray, "row layer token"]:
        alphas = self._alphas(points).requires_grad_()
        with _mixed(self.pair, alphas), torch.enable_grad():
            logits = run_logits(self.pair.tuned, self.ids.expand(len(points), -1))
            found = _measured(self.metric, logits).sum()
            if not found.requires_grad:
                raise InputError("not a metric", "it cannot be differentiated", "compute it from the logits with torch")
            return torch.autograd.grad(found, alphas)[0].double().cpu().numpy()

    def _alphas(self, points: Float[np.ndarray, " row"]) -> Float[Tensor, "row layer token"]:
        wide = torch.float64 if self.pair.dtype == "float64" else torch.float32
        each = torch.tensor(points, dtype=wide, device=self.ids.device)
        return each[:, None, None].repeat(1, self.pair.n_layers, self.ids.shape[1])


@contextmanager
def _mixed(pair: AttributedPair, alphas: Float[Tensor, "row layer token"]) -> Generator[None]:
    """While open, the tuned model runs with an α of its own per row, layer and token; no weight takes gradients."""
    base, tuned = pair.base, pair.tuned
    with ExitStack() as stack:
        stack.enter_context(using(base, tuned))
        for model in (base, tuned):
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.requires_grad_(False)
                    stack.callback(weight.requires_grad_, True)
        own, shared = OwnPositions.where_needed(base, tuned, stack), SharedStates.where_needed(tuned)
        for layer, (ours, theirs) in enumerate(zip(blocks(tuned), blocks(base), strict=True)):
            watch = BlockWatch(layer, ours, theirs, mix=_Mix(alphas[:, layer, :, None]), own=own, shared=shared)
            stack.callback(watch.close)
        stack.enter_context(fast_path(base, tuned))
        yield


class _Mix:
    """base + α·(tuned − base), in float32 or wider."""

    def __init__(self, alphas: Float[Tensor, "row token 1"]) -> None:
        self.alphas = alphas

    def __call__(self, tuned: Tensor, base: Tensor) -> Tensor:
        wide = self.alphas.dtype
        return (base.to(wide) + self.alphas * (tuned.to(wide) - base.to(wide))).to(tuned.dtype)
