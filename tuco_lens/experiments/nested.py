"""Scores of prompts that grow: what a prompt shares with the next one is computed once.

A question after k examples and the same one after 2k begin alike. What they share goes through the models once
(`engine/sharing.py`): the tuned model, the base blocks beside it on the tuned stream, and the base blocks on their own.
TuCo at the last token sums over layers and not over tokens, so the norms of earlier tokens are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief
from tuco_lens.engine import metrics
from tuco_lens.engine.contributions import BatchNorms, NormAccumulator
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.kv_caches import paired_caches
from tuco_lens.engine.lockstep import lockstep
from tuco_lens.engine.memory import FittingBatches, TokenBudget
from tuco_lens.engine.sharing import SharedRuns, Stretch
from tuco_lens.experiments.scores import MAX_BATCH_TOKENS
from tuco_lens.models.backends import run_embedding
from tuco_lens.steering.scoring import logits_behind

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

MAX_ROWS = 8
"""Prompts per batch: they are long, and few."""


@dataclass(frozen=True)
class EndScores(Brief):
    """Scores at the last token of a prompt."""

    tuco: float
    output_co: float
    """NaN, as is `drift`, if a token of the prompt is not in the base model's vocabulary, or it was not asked for."""
    drift: float
    """Drift of two independent runs, mean over layers."""
    logits: Float[Tensor, " d_vocab"]
    """The tuned model's logits of the next token, float32 on the CPU."""


def score_nested(pair: ModelPair, prompts: Sequence[Prompt], *, drift: bool = True) -> list[EndScores]:
    """Scores of each prompt, in input order: of any prompts, but fastest where they share much.

    Args:
        pair: the pair.
        prompts: what to score.
        drift: whether the base model runs on its own stream too, for OutputCo and drift: about half as much again.
    """
    rows = [prompt.token_ids for prompt in prompts]
    scorer = _Scorer(pair, drift=drift)
    runs = SharedRuns(
        (pair.base, pair.tuned),
        rows,
        scorer.run,
        fitting=FittingBatches(MAX_ROWS, budget=TokenBudget(MAX_BATCH_TOKENS)),
        pad_id=pair.pad_id,
        pairing=scorer.pairing,
    )
    found: dict[int, EndScores] = {}
    for i, pieces in runs.run():
        (norms, logits), row, _ = pieces[-1]
        found[i] = _end_scores(norms, row, logits[row].clone(), has_base=max(rows[i]) < pair.base.cfg.d_vocab)
    return [found[i] for i in range(len(rows))]


class _Scorer:
    """Runs one pass of the pair and keeps what the last tokens need."""

    def __init__(self, pair: ModelPair, *, drift: bool) -> None:
        self.pair, self.drift, self.pairing = pair, drift, paired_caches(pair.base, pair.tuned)

    @torch.no_grad()
    def run(self, stretch: Stretch) -> tuple[BatchNorms, Float[Tensor, "row d_vocab"]]:
        base, tuned = self.pair.base, self.pair.tuned
        own = self._own_stream(stretch) if self.drift else None
        norms = NormAccumulator("l1", own, stretch.last)
        pairing = None if stretch.cache is None else self.pairing
        with fast_path(base, tuned), lockstep(base, tuned, norms, pairing):
            logits = logits_behind(tuned, stretch.ids, stretch.last, stretch.cache)
        return norms.result(), logits.float().cpu()

    def _own_stream(self, stretch: Stretch) -> Float[Tensor, "row pos d_model"]:
        """The base model's embedding of what this pass runs."""
        base, ids = self.pair.base, stretch.whole_ids
        # An accelerator may not check the bounds of an embedding, and the base model may lack tokens.
        return run_embedding(base, ids.where(ids < base.cfg.d_vocab, 0))[:, len(stretch.before) :]


def _end_scores(norms: BatchNorms, row: int, logits: Tensor, *, has_base: bool) -> EndScores:
    tuco = metrics.contribution_ratio(norms.cumulative_ftc[-1, row, 0], norms.cumulative_ptc[-1, row, 0]).item()
    drift = norms.drift[:, row, 0] if norms.drift is not None and has_base else torch.full((1,), math.nan)
    return EndScores(tuco, drift[-1].item(), drift.mean().item(), logits)
