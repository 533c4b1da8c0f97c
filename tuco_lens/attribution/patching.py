"""Causal maps: what becomes of an answer if FTC is taken out in one cell, or put into one cell alone.

A cell is a layer, a layer at one token, a component, a head or a changed weight matrix. All that lies behind it is
computed anew. Ahead of it nothing changes, so its piece of FTC is that of the unpatched pass, which is recorded once; a
patched pass is the unpatched one with the piece taken off (or put on) at its layer, many cells in a batch.
`ModelPair.patching` makes a `Patching`; metrics are in `metric.py`, pieces in `pieces.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.components import ComponentOptions, components
from tuco_lens.attribution.metric import Asked, Question, asked
from tuco_lens.attribution.mixing import mixed
from tuco_lens.attribution.pieces import WHOLE, BlockPieces, Over, PieceTaps
from tuco_lens.attribution.recording import one_position, rounding
from tuco_lens.attribution.result import AtPosition
from tuco_lens.engine.contributions import decompose
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of
from tuco_lens.plots.labels import token_label
from tuco_lens.steering.alpha import finite_alpha, layer_index

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.engine.lockstep import BlockStep, Stream
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt

Way = Literal["out", "in"]


class InterruptedWarning(UserWarning):
    """A run was interrupted; what it had is returned, and can be gone on from."""


@dataclass(frozen=True, eq=False)
class Patching(AtPosition):
    """The causal effect of every cell's FTC on a metric, beside its gradient and its additive share."""

    values: Float[np.ndarray, "layer column"] = field(repr=False)
    """Way "out": the metric of the tuned model less that with the cell's FTC taken out. Way "in": the metric with that
    cell's FTC alone less that with none. NaN for cells that were not asked for, or not reached."""
    gradients: Float[np.ndarray, "layer column"] | None = field(repr=False)
    """The effect to first order: the metric's gradient at the unpatched pass times what is patched; None if the metric
    cannot be differentiated."""
    shares: Float[np.ndarray, "layer column"] = field(repr=False)
    """The cell's additive share of TuCo, at the metric's position (at each token of its own TuCo, over "layer_token");
    see `ModelPair.components`. The weight matrices' do not add up."""
    columns: tuple[str, ...] = field(repr=False)
    """Names of the columns: "FTC", tokens, components, heads' numbers and "bias", or weight matrices."""
    over: Over
    """What a cell is."""
    way: Way
    """"out": taken out of the tuned model; "in": put into the model that has FTC nowhere else."""
    alpha: float
    """What is left of FTC where it is out."""
    unpatched: float
    """The metric with no cell patched: of the tuned model, or of that at α."""
    all_patched: float
    """The metric with all of them patched: of the model at α, or the tuned one."""
    metric: str
    """What the metric is, in words."""
    roles: tuple[str, ...] = field(repr=False)
    """Span of each."""

    @property
    def whole(self) -> float:
        """What patching everything at once changes: metric at α = 1 less metric at α."""
        return (self.unpatched - self.all_patched) * (1 if self.way == "out" else -1)

    def rank_correlation(self, one: str, other: str) -> float:
        """Spearman's correlation over the cells of two of "effect", "gradient" and "share"; NaN for fewer than 3."""
        from scipy.stats import rankdata

        tables = [self._table(name) for name in (one, other)]
        there = np.isfinite(tables[0]) & np.isfinite(tables[1])
        ranks = [rankdata(table[there]) for table in tables]
        if there.sum() < 3 or any(np.ptp(rank) == 0 for rank in ranks):
            return float("nan")
        return float(np.corrcoef(*ranks)[0, 1])

    def _table(self, name: str) -> Float[np.ndarray, "layer column"]:
        tables = {"effect": self.values, "gradient": self.gradients, "share": self.shares}
        found = tables.get(name)
        if found is None:
            there = ", ".join(key for key, table in tables.items() if table is not None)
            raise InputError(f"no {name!r} of these cells", f"there are {there}", "name one of them")
        return found

    def summary(self) -> str:
        """What all cells together do, and those that do most; how well share and gradient foretell it."""
        done = np.isfinite(self.values)
        if not done.any():
            return f"{self.metric}: no cell of {self.values.size} was patched."
        what = "without FTC" if self.way == "out" else "with FTC alone"
        begin = f"{self.metric}: {self.unpatched:.3f} unpatched, {self.all_patched:.3f} with all patched"
        order = [i for i in np.argsort(-np.abs(np.where(done, self.values, 0)), axis=None) if done.flat[i]][:3]
        largest = ", ".join(
            f"{self.cell_name(layer, column)} ({self.values[layer, column]:+.3f})"
            for layer, column in zip(*np.unravel_index(order, self.values.shape), strict=True)
        )
        missing = "" if self.n_missing == 0 else f" {self.n_missing} cells were not patched."
        return f"{begin}. Most is changed {what} in: {largest}. Rank correlation of the effect: {self.ranks}.{missing}"

    @property
    def ranks(self) -> str:
        """The rank correlations of the effect, in words."""
        names = ["share"] if self.gradients is None else ["share", "gradient"]
        return ", ".join(f"{name} {self.rank_correlation('effect', name):+.2f}" for name in names)

    @property
    def n_missing(self) -> int:
        """Number of cells that have a share, but no effect yet."""
        return int((np.isnan(self.values) & np.isfinite(self.shares)).sum())

    def cell_name(self, layer: int, column: int) -> str:
        """A cell in words: "mlp of layer 3", "head 2 of layer 5", "layer 4 at 'x' (7)"."""
        if self.over == "layer":
            return f"layer {layer}"
        name = self.columns[column]
        if self.over == "layer_token":
            return f"layer {layer} at {token_label(name, 24)} ({column})"
        name = {"head": "head bias" if name == "bias" else f"head {name}"}.get(self.over, name)
        return f"{name} of layer {layer}"

    def to_frame(self) -> pd.DataFrame:
        """A row per cell: layer, column (its number), name, effect, gradient, share."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "column", "name", "effect", "gradient", "share"])

    def _rows(self) -> Iterator[tuple[int, int, str, float, float, float]]:
        gradients = np.full_like(self.values, np.nan) if self.gradients is None else self.gradients
        for layer, row in enumerate(self.values):
            for column, (name, effect) in enumerate(zip(self.columns, row, strict=True)):
                rest = float(gradients[layer, column]), float(self.shares[layer, column])
                yield layer, column, name, float(effect), *rest

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the effects by layer and column."""
        from tuco_lens.plots.attribution import effects_figure

        return effects_figure(self, theme)

    def comparison_figure(self, theme: Theme = "light") -> go.Figure:
        """Draws share, gradient and effect of the same cells side by side, with their rank correlation."""
        from tuco_lens.plots.attribution import comparison_figure

        return comparison_figure(self, theme)


@dataclass(frozen=True)
class PatchingOptions:
    """Which cells are patched, and how."""

    over: Over = "layer"
    way: Way = "out"
    alpha: float = 0.0
    layers: Sequence[int] | None = None
    positions: Sequence[int] | None = None
    resume: Patching | None = None
    batch_size: int = 16
    progress: bool = True

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise InputError(f"way {self.way!r}", "there are 'out' and 'in'", "name one of them")
        if finite_alpha(self.alpha) == 1:
            raise InputError("alpha is 1", "that is the tuned model, and nothing is patched", "give another, such as 0")
        if self.positions is not None and self.over != "layer_token":
            raise InputError("positions given", "cells have one only over 'layer_token'", "leave them out")


def patching(pair: AttributedPair, prompt: Prompt, what: Question, options: PatchingOptions) -> Patching:
    """The effects on one prompt; see `ModelPair.patching`.

    Raises:
        InputError: for a question, a layer, a position or a piece that is not there, or while a scaling is on.
    """
    if pair.active_scalings:
        raise InputError("a scaling is on", "patching sets α itself", "close it, or give alpha=")
    question = asked(pair, prompt, what)
    run = _Patcher(pair, question, options)
    result = run.empty()
    if options.resume is not None:
        result = _gone_on(result, options.resume)
    wanted = run.wanted() & np.isnan(result.values)
    values = result.values.copy()
    try:
        for (layer, column), effect in run.effects(wanted):
            values[layer, column] = effect
    except KeyboardInterrupt:
        left = int((np.isnan(values) & wanted).sum())
        text = f"interrupted with {left} of {int(wanted.sum())} cells left; give this result as resume= to go on"
        warnings.warn(text, InterruptedWarning, stacklevel=3)
    return replace(result, values=values)


def _gone_on(new: Patching, old: Patching) -> Patching:
    """The new result with the old one's effects, if it is of the same question."""
    fields = ("over", "way", "alpha", "metric", "position", "tokens", "columns", "base", "tuned", "unpatched")
    for name in fields:
        mine, theirs = getattr(new, name), getattr(old, name)
        same = abs(mine - theirs) <= 1e-4 * max(1.0, abs(mine)) if name == "unpatched" else mine == theirs
        if not same:
            raise InputError("cannot go on from that result", f"its {name} is another", "give one of the same question")
    return replace(new, values=old.values)


class _Patcher:
    """The passes of one question."""

    def __init__(self, pair: AttributedPair, question: Asked, options: PatchingOptions) -> None:
        self.pair, self.question, self.options = pair, question, options
        self.fitting = FittingBatches(options.batch_size, "cell")
        self.by_token = options.over == "layer_token"
        self.n_tokens = question.prompt.n_tokens
        self.rest = 1.0 if options.way == "out" else options.alpha
        """α of all that is not patched."""
        self.amount = (options.alpha - 1.0) * (1 if options.way == "out" else -1)
        """What a patch adds of the cell's FTC."""
        self.shares, self.kept = self._shares()
        self.pieces, self.columns = self._record()
        self.unpatched = self._at(self.rest)

    def empty(self) -> Patching:
        """The result without effects."""
        pair, question = self.pair, self.question
        prompt = question.prompt
        return Patching(
            values=np.full(self.shares.shape, np.nan),
            gradients=self._gradients(),
            shares=self.shares,
            columns=prompt.tokens if self.by_token else self.kept,
            over=self.options.over,
            way=self.options.way,
            alpha=float(self.options.alpha),
            unpatched=self.unpatched,
            all_patched=self._at(1.0 if self.options.way == "in" else self.options.alpha),
            metric=question.words,
            position=question.position,
            tokens=prompt.tokens,
            roles=prompt.roles,
            base=pair.base_name,
            tuned=pair.tuned_name,
        )

    def wanted(self) -> np.ndarray:
        """The cells that were asked for and are there, [layer, column]."""
        options, n_layers = self.options, self.pair.n_layers
        layers = range(n_layers) if options.layers is None else options.layers
        columns = range(self.shares.shape[1]) if options.positions is None else options.positions
        chosen = np.zeros(self.shares.shape, dtype=bool)
        for layer in layers:
            for column in columns:
                chosen[layer_index(layer, n_layers), one_position(column, self.shares.shape[1])] = True
        return chosen & np.isfinite(self.shares)

    @torch.no_grad()
    def effects(self, wanted: np.ndarray) -> Iterator[tuple[tuple[int, int], float]]:
        """Every wanted cell with its effect, layer by layer."""
        cells = [(int(layer), int(column)) for layer, column in np.argwhere(wanted)]
        found = self._batches(cells)
        sign = 1 if self.options.way == "out" else -1
        show = self.options.progress
        for cell, metric in with_progress(found, total=len(cells), show=show, unit="cell", name="patching"):
            yield cell, sign * (self.unpatched - metric)

    def _batches(self, cells: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], float]]:
        batches = [list(range(len(cells)))]
        for rows, metrics in self.fitting.run(batches, lambda rows: self._of_cells([cells[row] for row in rows])):
            yield from ((cells[row], float(metric)) for row, metric in zip(rows, metrics, strict=True))

    def _of_cells(self, cells: list[tuple[int, int]]) -> Float[Tensor, " row"]:
        patch = _Patch(self, cells)
        with mixed(self.pair, self._alphas(self.rest), patch):
            return self.question.of_pass(self.pair, len(cells))

    def _at(self, alpha: float) -> float:
        with torch.no_grad(), mixed(self.pair, self._alphas(alpha)):
            return float(self.question.of_pass(self.pair)[0])

    def _alphas(self, alpha: float) -> Float[Tensor, "1 layer token"]:
        wide = torch.float64 if self.pair.dtype == "float64" else torch.float32
        shape = (1, self.pair.n_layers, self.n_tokens)
        return torch.full(shape, float(alpha), dtype=wide, device=device_of(self.pair.tuned))

    def _record(self) -> tuple[list[BlockPieces], tuple[str, ...]]:
        """The pieces of every block in the unpatched pass."""
        found: list[BlockPieces] = []
        with torch.no_grad(), ExitStack() as stack:
            taps = PieceTaps(self.pair, self.options.over, stack)

            def visit(step: BlockStep) -> None:
                found.append(taps.of_step(step))

            with mixed(self.pair, self._alphas(self.rest), visit=visit):
                self.question.of_pass(self.pair)
        return found, taps.columns

    def _gradients(self) -> Float[np.ndarray, "layer column"] | None:
        """The metric's gradient by the amount of every cell's piece, times the amount; None if it has none."""
        shape = (1, self.pair.n_layers, self.n_tokens, len(self.columns))
        weights = self._alphas(1.0).new_zeros(shape, requires_grad=True)

        def put(layer: int, stream: Stream, _tuned: Stream, _base: Stream) -> Stream:
            return stream + self.pieces[layer].added(weights[:, layer]).to(stream)

        with mixed(self.pair, self._alphas(self.rest), put), torch.enable_grad():
            found = self.question.of_pass(self.pair).sum()
            if not found.requires_grad:
                return None
            gradients = torch.autograd.grad(found, weights)[0][0]
        by_cell = gradients[..., 0] if self.by_token else gradients.sum(1)[:, self._numbers()]
        sign = -1 if self.options.way == "out" else 1
        table = (by_cell.double() * sign * self.amount).cpu().numpy()
        return np.where(np.isfinite(self.shares), table, np.nan)

    def _numbers(self) -> list[int]:
        return [self.columns.index(name) for name in self.kept]

    def weights(self, column: int) -> Float[Tensor, "1 token column"]:
        """What a patch of a cell adds of each piece of its layer."""
        weights = torch.zeros(1, self.n_tokens, len(self.columns))
        if self.by_token:
            weights[0, column, 0] = self.amount
        else:
            weights[0, :, self.columns.index(self.kept[column])] = self.amount
        return weights

    def _shares(self) -> tuple[Float[np.ndarray, "layer column"], tuple[str, ...]]:
        """Additive shares of TuCo, and the names of the columns that some layer has."""
        over, prompt, position = self.options.over, self.question.prompt, self.question.position
        if over not in get_args(Over):
            raise InputError(f"over {over!r}", f"there are {', '.join(get_args(Over))}", "name one of them")
        if over in ("layer", "layer_token"):  # blocks whole, whatever they are made of
            by_token = _shares_by_token(self.pair, prompt)
            return (by_token, ()) if over == "layer_token" else (by_token[:, [position]], (WHOLE,))
        what = ComponentOptions(position, heads=over == "head", modules=over == "module")
        found = components(self.pair, prompt, what)
        if over == "component":
            return found.values, found.components
        if over == "module":
            assert found.module_shares is not None
            return found.module_shares, found.modules
        assert found.heads is not None
        assert found.head_bias is not None
        names = tuple(map(str, range(found.heads.shape[1])))
        if np.abs(found.head_bias).sum() <= rounding(self.pair.dtype) * np.abs(found.heads).sum():
            return found.heads, names
        return np.hstack([found.heads, found.head_bias[:, None]]), (*names, "bias")


def _shares_by_token(pair: AttributedPair, prompt: Prompt) -> Float[np.ndarray, "layer token"]:
    """sign(F_L)·FTC_l / (‖P_L‖₁ + ‖F_L‖₁) at every token."""
    _, cache = decompose(pair.base, pair.tuned, prompt.token_ids)
    ftc = cache.stack("ftc").double()  # [layer, token, d_model]
    sums = [cache[name, pair.n_layers].double() for name in ("cumulative_ptc", "cumulative_ftc")]
    total = sums[0].abs().sum(-1) + sums[1].abs().sum(-1)
    along = torch.einsum("ltd,td->lt", ftc, sums[1].sign())
    return torch.where(total > 0, along / total, 0.0).cpu().numpy()


class _Patch:
    """Adds to every row the piece of its own cell."""

    def __init__(self, patcher: _Patcher, cells: Sequence[tuple[int, int]]) -> None:
        self.patcher = patcher
        self.cells: dict[int, list[tuple[int, int]]] = {}
        for row, (layer, column) in enumerate(cells):
            self.cells.setdefault(layer, []).append((row, column))

    def __call__(self, layer: int, stream: Stream, _tuned: Stream, _base: Stream) -> Stream:
        if layer not in self.cells:
            return stream
        rows = [row for row, _ in self.cells[layer]]
        weights = torch.cat([self.patcher.weights(column) for _, column in self.cells[layer]])
        added = self.patcher.pieces[layer].added(weights).to(stream)
        return stream.index_add(0, torch.tensor(rows, device=stream.device), added)
