"""FTC_α-scaling, the paper's method (§5.1): x_{l+1} = x_l + PTC(x_l, l) + α·FTC(x_l, l), x being the scaled stream.

Within each tuned block the base block runs on the same stream, and the mixture of the two outputs goes on. Which base
KV cache belongs to the pass is the business of `engine/kv_caches.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine.kv_caches import paired_caches
from tuco_lens.engine.lockstep import BlockStep, BlockWatch, SharedStates
from tuco_lens.engine.own_positions import OwnPositions
from tuco_lens.models.backends import blocks
from tuco_lens.steering.alpha import PositionFilter


class FtcScaling:
    """The hooks of FTC_α-scaling on one pair, from `attach` to `detach`.

    Args:
        base: the base model.
        tuned: the tuned model, which is scaled.
        alphas: α by layer and by row of the batch; one row stands for all.
        filters: where α acts, by row of the batch; one stands for all. Elsewhere α is 1.
        visit: takes each block's step. With it the base blocks run at every layer, else only where some α is not 1.
    """

    def __init__(
        self,
        base: Any,
        tuned: Any,
        alphas: Float[Tensor, "layer row"],
        filters: Sequence[PositionFilter] = (PositionFilter(),),
        visit: Callable[[BlockStep], None] | None = None,
    ) -> None:
        self.base, self.tuned, self.alphas, self.visit = base, tuned, alphas, visit
        self.filters = tuple(filters)
        self.caches = paired_caches(base, tuned)
        self.padding: Int[Tensor, " row"] | None = None
        """Pad tokens on the left of each row of the batch, in tokens; None for none."""
        self.prompt_length: int | None = None
        """Tokens of the prompts with their padding; None for those of the pass that began the KV cache."""
        self._stack = ExitStack()

    def attach(self) -> None:
        """Put the hooks on the tuned model's blocks; where nothing is to be done there are none."""
        with ExitStack() as stack:
            pairs = zip(blocks(self.tuned), blocks(self.base), strict=True)
            scaled = [bool((row != 1).any()) for row in self.alphas]
            watched = any(scaled) or self.visit is not None
            own = OwnPositions.where_needed(self.base, self.tuned, stack, self.caches.beside) if watched else None
            shared = SharedStates.where_needed(self.tuned) if watched else None
            for layer, (tuned_block, base_block) in enumerate(pairs):
                # What is read later must be whole: the cache, and what base blocks share.
                runs_base = scaled[layer] or self.visit is not None or own is not None or shared is not None
                # The first block is watched for the sake of the caches, whichever layers are scaled.
                if runs_base or (layer == 0 and any(scaled)):
                    mix = _Mixer(self, layer) if scaled[layer] else None
                    how: dict[str, Any] = {"visit": self.visit, "mix": mix, "arguments": self.caches}
                    watch = BlockWatch(layer, tuned_block, base_block, own=own, shared=shared, **how)
                    stack.callback(watch.close)
            self._stack = stack.pop_all()

    def detach(self) -> None:
        """Remove every hook."""
        self._stack.close()

    def weight(self, layer: int) -> Tensor | float:
        """α of a layer for the current pass: a number, or [row or 1, pos or 1, 1]."""
        alphas = self.alphas[layer]
        if all(chosen.is_everything for chosen in self.filters):
            return alphas.item() if len(alphas) == 1 else alphas[:, None, None]
        return torch.where(self._selected(), alphas[:, None], 1.0)[..., None]

    def _selected(self) -> Tensor:
        """Where α acts in the current pass, [row or 1, pos]."""
        now = self.caches
        prompt_length = now.prompt_length if self.prompt_length is None else self.prompt_length
        padding = [0] if self.padding is None else self.padding.tolist()
        rows = max(len(padding), len(self.filters))
        filters, padding = _of_length(self.filters, rows), _of_length(padding, rows)
        selected = [
            chosen.selects(now.offset - pad, now.offset + now.n_tokens - pad, prompt_length - pad)
            for chosen, pad in zip(filters, padding, strict=True)
        ]
        return torch.tensor(selected, device=self.alphas.device)


def _of_length(items: Sequence[Any], length: int) -> list[Any]:
    return list(items) * length if len(items) == 1 else list(items)


class _Mixer:
    """What one layer's watch puts into the stream."""

    def __init__(self, scaling: FtcScaling, layer: int) -> None:
        self.scaling, self.layer = scaling, layer

    def __call__(self, tuned: Tensor, base: Tensor) -> Tensor:
        # x_l + PTC + α·FTC = base output + α·(tuned output − base output); lerp is exact at α = 0 and at α = 1.
        wide = torch.promote_types(tuned.dtype, torch.float32)
        weight = self.scaling.weight(self.layer)
        if isinstance(weight, Tensor):
            weight = weight.to(device=tuned.device, dtype=wide)
        return torch.lerp(base.to(wide), tuned.to(wide), weight).to(tuned.dtype)
