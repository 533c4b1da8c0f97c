"""The tuned model's passes with an α of their own for every row, layer and token, many of them in a batch.

`integrated_gradients.py` differentiates such passes by α, `patching.py` changes single pieces of FTC in them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.lockstep import BlockStep, BlockWatch, SharedStates, Stream
from tuco_lens.engine.own_positions import OwnPositions
from tuco_lens.engine.use import using
from tuco_lens.models.backends import blocks

if TYPE_CHECKING:
    from tuco_lens.attribution.methods import AttributedPair

Change = Callable[[int, Stream, Stream, Stream], Stream]
"""Takes the layer, the mixed stream, the tuned and the base block's output; returns the stream that goes on."""


@contextmanager
def mixed(
    pair: AttributedPair,
    alphas: Float[Tensor, "row layer token"],
    change: Change | None = None,
    visit: Callable[[BlockStep], None] | None = None,
) -> Generator[None]:
    """While open, x_{l+1} = base output + α_{l,t}·(tuned output − base output); no weight takes gradients.

    Where every α is 1, and nobody visits or differentiates by it, the base model does not run.

    Args:
        pair: the two models; users' hooks on the tuned one act.
        alphas: one row stands for all.
        change: what else is done to the stream, before users' hooks on `hook_resid_post`. Where the base model does not
            run, it gets the tuned block's output for the base block's.
        visit: takes each block's step, whose two outputs are those before they were mixed.
    """
    base, tuned = pair.base, pair.tuned
    needs_base = visit is not None or alphas.requires_grad or bool((alphas != 1).any())
    with ExitStack() as stack:
        stack.enter_context(using(base, tuned))
        for model in (base, tuned):
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.requires_grad_(False)
                    stack.callback(weight.requires_grad_, True)
        own = OwnPositions.where_needed(base, tuned, stack) if needs_base else None
        shared = SharedStates.where_needed(tuned) if needs_base else None
        for layer, (ours, theirs) in enumerate(zip(blocks(tuned), blocks(base), strict=True)):
            mix = _Mix(alphas[:, layer, :, None], None if change is None else partial(change, layer))
            if needs_base:
                seen = None if visit is None else partial(mix.report, visit)
                stack.callback(BlockWatch(layer, ours, theirs, visit=seen, mix=mix, own=own, shared=shared).close)
            elif change is not None:
                point: Any = ours.hook_resid_post
                stack.callback(point.register_forward_hook(mix.hook, prepend=True).remove)
        stack.enter_context(fast_path(base, tuned))
        yield


class _Mix:
    """What one block puts into the stream: base + α·(tuned − base), in float32 or wider, and then the change."""

    def __init__(self, alphas: Float[Tensor, "row token 1"], change: Callable[..., Stream] | None) -> None:
        self.alphas, self.change = alphas, change
        self._seen: tuple[Stream, ...] = ()
        self._is_asleep = False

    def __call__(self, tuned: Stream, base: Stream) -> Stream:
        if self._is_asleep:
            return tuned
        self._seen = (tuned, base)
        wide = self.alphas.dtype
        # lerp is exact at α = 0 and at α = 1.
        stream = torch.lerp(base.to(wide), tuned.to(wide), self.alphas.to(tuned.device))
        return (stream if self.change is None else self.change(stream, tuned, base)).to(tuned.dtype)

    def hook(self, _module: Any, _args: Any, tuned: Stream) -> Stream:
        """A hook on `hook_resid_post` where α is 1."""
        assert self.change is not None
        return self.change(tuned.to(self.alphas.dtype), tuned, tuned).to(tuned.dtype)

    def report(self, visit: Callable[[BlockStep], None], step: BlockStep) -> None:
        """Pass on a block's step with the two outputs as they were."""
        tuned, base = self._seen
        self._seen = ()
        visit(replace(step, tuned_post=tuned, base_post=base, run_tuned=partial(self._unmixed, step.run_tuned)))

    def _unmixed(self, run: Callable[[Stream], Stream], stream: Stream) -> Stream:
        self._is_asleep = True
        try:
            return run(stream)
        finally:
            self._is_asleep = False
