"""Scores of prompts that grow: what a prompt shares with the next one is computed once.

A question after k examples and the same one after 2k begin alike. The tokens that a prompt shares with the next one go
through the models once, into three KV caches: the tuned model's, that of the base blocks beside it (on the tuned
stream), and the base model's (on its own stream). From there each prompt is a short branch. TuCo at the last token
sums over layers and not over tokens, so the norms of earlier tokens are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief
from tuco_lens.engine import metrics
from tuco_lens.engine.contributions import NormAccumulator
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.lockstep import BlockStep, lockstep
from tuco_lens.experiments.scores import drift_of_ends, stream_ends
from tuco_lens.models.positions import length_kind
from tuco_lens.steering.kv_caches import new_cache, paired_caches, shares_beginnings, with_rows
from tuco_lens.steering.scoring import logits_behind, shared_beginning

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt


@dataclass(frozen=True)
class EndScores(Brief):
    """Scores at the last token of a prompt."""

    tuco: float
    output_co: float
    """NaN, as is `drift`, if a token of the prompt is not in the base model's vocabulary."""
    drift: float
    """Drift of two independent runs, mean over layers."""
    logits: Float[Tensor, " d_vocab"]
    """The tuned model's logits of the next token, float32 on the CPU."""


@torch.no_grad()
def score_nested(pair: ModelPair, prompts: Sequence[Prompt]) -> list[EndScores]:
    """Scores of each prompt, in input order: of any prompts, but fastest where each shares much with the next one."""
    rows = [list(prompt.token_ids) for prompt in prompts]
    trunk, found = _Trunk(pair), list[EndScores]()
    shares = shares_beginnings(pair.tuned) and shares_beginnings(pair.base)
    with fast_path(pair.base, pair.tuned):
        for i, row in enumerate(rows):
            trunk.grow(row, shared_beginning(rows[i : i + 2]) if shares else 0)
            found.append(trunk.branch(row))
    return found


class _Trunk:
    """Tokens that have gone through both models, and their KV caches."""

    def __init__(self, pair: ModelPair) -> None:
        self.pair = pair
        self.pairing = paired_caches(pair.base, pair.tuned)
        self.kind = length_kind(pair.base, pair.tuned)
        self._clear()

    def _clear(self) -> None:
        self.ids: list[int] = []
        self.tuned, self.base = (new_cache(model, 1) for model in (self.pair.tuned, self.pair.base))

    def grow(self, row: list[int], n_shared: int) -> None:
        """Add what the row shares with the next one; a trunk that the row cannot continue is dropped first."""
        n, kind = len(self.ids), self.kind(len(row))
        if row[:n] != self.ids or len(row) == n or self.kind(n) != kind:
            self._clear()
        if n_shared > len(self.ids) and self.kind(n_shared) == kind:
            self._run(row[len(self.ids) : n_shared], self.tuned, self.base)
            self.ids = row[:n_shared]

    def branch(self, row: list[int]) -> EndScores:
        """The scores of a row that begins with the trunk, which is left unchanged."""
        same = torch.zeros(1, dtype=torch.long)
        tuned, base = (with_rows(cache, same) for cache in (self.tuned, self.base))
        if self.ids:
            self.pairing.follow(self.tuned, tuned, same)
        return self._run(row[len(self.ids) :], tuned, base)

    def _run(self, new: list[int], tuned: Any, base: Any) -> EndScores:
        pair, last = self.pair, [len(new) - 1]
        ids = torch.tensor([new], device=pair.device)
        norms = _LastNorms()
        with stream_ends(pair.tuned, last) as ends, lockstep(pair.base, pair.tuned, norms, self.pairing):
            logits = logits_behind(pair.tuned, ids, last, tuned)[0]
        drift = torch.full((len(ends),), math.nan)
        if max(self.ids + new) < pair.base.cfg.d_vocab:
            with stream_ends(pair.base, last) as own:
                logits_behind(pair.base, ids, last, base)
            drift = drift_of_ends(torch.stack(ends), torch.stack(own))[:, 0]
        return EndScores(norms.tuco(), drift[-1].item(), drift.mean().item(), logits.float().cpu())


class _LastNorms:
    """Sums PTC and FTC over layers, at the last token of a pass."""

    def __init__(self) -> None:
        self.accumulate = NormAccumulator("l1")

    def __call__(self, step: BlockStep) -> None:
        cut = {name: getattr(step, name)[:, -1:] for name in ("resid_pre", "tuned_post", "base_post")}
        self.accumulate(BlockStep(step.layer, run_base=step.run_base, run_tuned=step.run_tuned, **cut))

    def tuco(self) -> float:
        norms = self.accumulate.result()
        return metrics.contribution_ratio(norms.cumulative_ftc[-1], norms.cumulative_ptc[-1])[0, -1].item()
