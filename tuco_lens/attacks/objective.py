"""How far attack strings are from their targets: the loss that GCG (`gcg.py`) lowers, and its one-hot gradient.

Both kinds of TransformerLens model are run alike: hooks of torch's own on embedding and unembedding give the gradient
and skip the logits that nobody reads; what stands before the string is computed once, its keys and values kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tuco_lens.attacks.framing import Frame
from tuco_lens.engine.memory import FittingBatches, token_budget
from tuco_lens.engine.sharing import Beginning, may_share
from tuco_lens.models.backends import device_of, pass_options, run_blocks
from tuco_lens.models.positions import stands_alone


class Objective:
    """The loss of attack strings: −log p of a frame's target tokens, mean over its tokens, then over the frames.

    Args:
        model: a HookedTransformer or TransformerBridge; it carries hooks during a pass, and no longer.
        frames: the chats that the strings stand in.
        batch_size: strings per pass, at most; fewer where they are long, or memory runs out.
        share_prefix: keep the keys and values of what stands before the string; the losses are the same without.
    """

    def __init__(self, model: Any, frames: Sequence[Frame], batch_size: int = 64, *, share_prefix: bool = True) -> None:
        self.model = model
        self.fitting = FittingBatches(batch_size, "string", token_budget(model, device_of(model), "auto"))
        share_prefix = share_prefix and not stands_alone(model) and may_share(model)
        self.frames = [(frame, self._beginning(frame) if share_prefix else None) for frame in frames]

    @torch.no_grad()
    def losses(self, rows: Int[Tensor, "row slot"]) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"]]:
        """Loss of each string, in nats per token, and whether every target is the greedy answer; on the CPU."""
        found = torch.empty(len(self.frames), len(rows), dtype=torch.float64)
        reached = torch.ones(len(rows), dtype=torch.bool)
        for of_frame, (frame, beginning) in zip(found, self.frames, strict=True):
            for batch, (losses, is_reached) in self._batches(rows, frame, beginning):
                of_frame[batch] = losses.double()
                reached[batch] &= is_reached
        return found.mean(0), reached

    def _batches(
        self, rows: Int[Tensor, "row slot"], frame: Frame, beginning: Beginning | None
    ) -> Iterator[tuple[list[int], tuple[Tensor, Tensor]]]:
        """The strings in batches of as many tokens as are good for the device, each with its losses in one frame."""

        def compute(batch: list[int]) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"]]:
            logits = self._target_logits(rows[batch], frame, beginning)
            target = torch.tensor(frame.target, device=logits.device).expand(len(batch), -1)
            losses = cross_entropy(logits.mT, target, reduction="none").mean(-1)
            return losses.cpu(), (logits.argmax(-1) == target).all(-1).cpu()

        n_tokens = frame.n_tokens(rows.shape[1]) - (0 if beginning is None else len(frame.before))
        lengths = dict.fromkeys(range(len(rows)), n_tokens)
        return self.fitting.run_by_length(lengths, compute, dict.fromkeys(lengths, 0), pass_tokens=0)

    def gradient(self, row: Int[Tensor, " slot"]) -> Float[Tensor, "slot d_vocab"]:
        """Derivative of the loss by the one-hot rows of a string's tokens; on the CPU.

        A token's embedding is what the embedding module makes of it, so scaled embeddings are taken as they are.
        Parameters get no gradient.
        """
        slopes: list[Tensor] = []
        for frame, beginning in self.frames:
            with torch.enable_grad(), _as_leaf(self.model.embed) as leaves:
                logits = self._target_logits(row[None], frame, beginning)
                loss = cross_entropy(logits[0], torch.tensor(frame.target, device=logits.device))
            (slope,) = torch.autograd.grad(loss, leaves)  # [1, pos, d_model]
            first = 0 if beginning is not None else len(frame.before)
            slopes.append(slope[0, first : first + len(row)])
        return (torch.stack(slopes).mean(0) @ self._embeddings().mT).cpu()

    @torch.no_grad()
    def _embeddings(self) -> Float[Tensor, "d_vocab d_model"]:
        ids = torch.arange(self.model.cfg.d_vocab, device=device_of(self.model))
        return self.model.embed(ids[None])[0]

    def _target_logits(
        self, rows: Int[Tensor, "row slot"], frame: Frame, beginning: Beginning | None
    ) -> Float[Tensor, "row target d_vocab"]:
        """Logits at the positions that predict the target, in float32 or wider."""
        before = frame.before if beginning is None else ()
        parts = [_repeated(before, len(rows)), rows, _repeated((*frame.after, *frame.target[:-1]), len(rows))]
        ids = torch.cat(parts, 1).to(device_of(self.model))
        cache = None if beginning is None else beginning.copies(len(rows))
        with _unembedding_last(self.model.unembed, len(frame.target)):
            logits = self.model(ids, return_type="logits", **pass_options(self.model, ids, cache))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def _beginning(self, frame: Frame) -> Beginning | None:
        if not frame.before:
            return None
        beginning = Beginning(self.model, ids=frame.before)
        ids = _repeated(frame.before, 1).to(device_of(self.model))
        run_blocks(self.model, ids, cache=beginning.cache)
        return beginning


def _repeated(ids: Sequence[int], n_rows: int) -> Int[Tensor, "row pos"]:
    return torch.tensor(ids, dtype=torch.long).expand(n_rows, -1)


@contextmanager
def _as_leaf(embedding: nn.Module) -> Generator[list[Tensor]]:
    """Cut the graph behind the embedding; yields the list that will hold its output, by which one can differentiate."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = embedding.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _unembedding_last(unembedding: nn.Module, n: int) -> Generator[None]:
    """Unembed the last n positions alone: the whole [row, pos, d_vocab] may be gigabytes."""
    handle = unembedding.register_forward_pre_hook(lambda _module, args: (args[0][:, -n:], *args[1:]))
    try:
        yield
    finally:
        handle.remove()
