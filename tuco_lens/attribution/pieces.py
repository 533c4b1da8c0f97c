"""What FTC of a block is made of, at every token of a pass: the whole, components, heads, or changed weight matrices.

`integrated_gradients.py` and `patching.py` weigh the pieces; `recording.py` keeps those of one position, in detail.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.modules import ChangedModules
from tuco_lens.attribution.taps import BlockTaps, wide
from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.models.backends import blocks
from tuco_lens.models.parts import UnitMap, experts_of, unit_map

if TYPE_CHECKING:
    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.engine.lockstep import BlockStep, Stream
    from tuco_lens.models.frozen_norm import FrozenNorm

Over = Literal["layer", "layer_token", "component", "head", "module"]
"""What a cell is: a layer at all tokens or at one, or a component, head or changed weight matrix of a layer."""
WHOLE: Final = "FTC"
"""The one piece where a layer is not split."""


@dataclass(frozen=True)
class BlockPieces(Brief):
    """FTC of one block as a sum of pieces, at every token; heads, if there are any, come first."""

    parts: Float[Tensor, "row token part d_model"]
    """The pieces that are kept as vectors."""
    heads: _Heads | None = None
    """Those that are kept as `hook_z`, which is narrower: every head, and the bias behind them."""

    def added(self, weights: Float[Tensor, "row token column"]) -> Float[Tensor, "row token d_model"]:
        """The pieces times their weights; one row of pieces stands for all. Differentiable by the weights alone."""
        weights = weights.to(self.parts)
        n_parts = self.parts.shape[2]
        whole = torch.einsum("rtc,rtcd->rtd", weights[..., weights.shape[-1] - n_parts :], self.parts)
        return whole if self.heads is None else whole + self.heads.added(weights[..., :-n_parts])


@dataclass(frozen=True)
class _Side(Brief):
    """The heads of one model's block."""

    map: UnitMap
    z: Float[Tensor, "row token unit"]
    frozen: FrozenNorm | None
    """The norm behind the map as it was at every token."""

    def added(self, weights: Float[Tensor, "row token column"]) -> Float[Tensor, "row token d_model"]:
        per_unit = weights[..., :-1].repeat_interleave(self.z.shape[-1] // (weights.shape[-1] - 1), dim=-1)
        return wide(self.map.apply(per_unit * self.z, self.frozen)) + weights[..., -1:] * wide(
            self.map.bias_added(self.frozen)
        )


@dataclass(frozen=True)
class _Heads(Brief):
    tuned: _Side
    base: _Side

    def added(self, weights: Float[Tensor, "row token column"]) -> Float[Tensor, "row token d_model"]:
        """Tuned minus base; the last column is the bias."""
        return self.tuned.added(weights) - self.base.added(weights)


class PieceTaps:
    """Sees the pieces of every block while a pass runs in lockstep.

    Args:
        pair: the two models.
        over: how finely blocks are split.
        stack: takes the hooks off when it closes.

    Raises:
        InputError: for an unknown `over`, and where the architecture has no such pieces.
    """

    def __init__(self, pair: AttributedPair, over: Over, stack: ExitStack) -> None:
        if over not in get_args(Over):
            raise InputError(f"over {over!r}", f"there are {', '.join(get_args(Over))}", "name one of them")
        self.pair, self.over = pair, over
        self.changed = ChangedModules(pair) if over == "module" else None
        units = ("attention",) if over == "head" else ()
        has_parts = over in ("component", "head")
        self.taps = [
            tuple(BlockTaps(block, units, False, stack) for block in both)
            for both in zip(blocks(pair.tuned), blocks(pair.base), strict=True)
            if has_parts
        ]
        self.maps = [
            tuple(unit_map(model, layer, "attention") for model in (pair.tuned, pair.base))
            for layer in range(pair.n_layers if units else 0)
        ]
        self.columns: tuple[str, ...] = self._columns()
        """Names of the pieces; not every block has all of them."""

    def _columns(self) -> tuple[str, ...]:
        if self.changed is not None:
            return self.changed.columns
        if not self.taps:
            return (WHOLE,)
        has_experts = [experts_of(block) is not None for block in blocks(self.pair.tuned)]
        mlp = [] if all(has_experts) else ["mlp"]
        experts = ["experts", "shared experts"] if any(has_experts) else []
        heads = [*map(str, range(self.pair.tuned.cfg.n_heads)), "bias"] if self.over == "head" else ["attention"]
        return (*heads, *mlp, *experts, "other")

    def of_block(self, layer: int, tuned: Stream, base: Stream) -> BlockPieces:
        """The pieces of the block that has just run, of tuned minus base output."""
        whole = wide(tuned.detach()) - wide(base.detach())
        if not self.taps:
            return BlockPieces(whole[:, :, None])
        found = self._parts(layer, whole)
        heads = None
        if self.over == "head":
            ours, theirs = (
                _side(through, taps.everywhere("units of attention", whole.shape))
                for through, taps in zip(self.maps[layer], self.taps[layer], strict=True)
            )
            heads = _Heads(ours, theirs)
            ones = whole.new_ones(*whole.shape[:2], self.pair.tuned.cfg.n_heads + 1)
            # Users' hooks behind the heads may change what attention adds.
            found["other"] = found["other"] + found.pop("attention") - heads.added(ones)
        for taps in self.taps[layer]:
            taps.forget()
        names = [name for name in self.columns if name in ("attention", "mlp", "experts", "shared experts", "other")]
        nothing = torch.zeros_like(whole)
        return BlockPieces(torch.stack([found.get(name, nothing) for name in names], dim=2), heads)

    def of_step(self, step: BlockStep) -> BlockPieces:
        """The same; runs the tuned block once more for each changed weight matrix, if those are asked for."""
        if self.changed is None:
            return self.of_block(step.layer, step.tuned_post, step.base_post)
        whole, there = wide(step.tuned_post), self.changed.of_layer(step.layer)
        parts: list[Tensor] = []
        for column in self.columns:
            with self.changed.without(step.layer, column):
                parts.append(whole - wide(step.run_tuned(step.resid_pre)) if column in there else 0 * whole)
        return BlockPieces(torch.stack(parts, dim=2))

    def _parts(self, layer: int, whole: Stream) -> dict[str, Stream]:
        tuned, base = self.taps[layer]

        def change(name: str) -> Tensor:
            return tuned.everywhere(name, whole.shape) - base.everywhere(name, whole.shape)

        found = {"attention": change("attention"), "mlp": change("mlp")}
        found["other"] = whole - found["attention"] - found["mlp"]
        if "experts" in tuned.seen:
            found["experts"] = change("experts")
            found["shared experts"] = found.pop("mlp") - found["experts"]
        return found


def _side(through: UnitMap, z: Float[Tensor, "row token unit"]) -> _Side:
    frozen = through.frozen(z.flatten(0, 1))
    if frozen is not None:
        frozen = replace(frozen, gain=frozen.gain.reshape(*z.shape[:2], -1))
    return _Side(through, z, frozen)
