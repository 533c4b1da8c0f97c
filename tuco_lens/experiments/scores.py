"""What the experiments read off each prompt: TuCo, TuCo at other places, and the simpler quantities beside it.

The paper reads one number, TuCo at the last token. Whether that says more than something cheaper is what the baselines
are for (`comparison.py` compares them). Definitions of TuCo, drift and OutputCo are in `engine/metrics.py` and
`engine/contributions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine import metrics
from tuco_lens.engine.batches import length_sorted_batches, right_pad
from tuco_lens.engine.contributions import BatchNorms, batch_norms
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.models.backends import blocks, run_logits
from tuco_lens.models.positions import length_kind
from tuco_lens.prompts.prompt import Prompt

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

MAX_BATCH_TOKENS: Final = 4096
"""Most tokens of a padded batch: the logits of all of them are held at once."""


@dataclass(frozen=True)
class Score:
    """One number that is read off a prompt."""

    key: str
    """Its name in tables and files."""
    label: str
    """Its name in figures."""
    meaning: str
    """What it is, in a sentence."""


SCORES: Final = (
    Score("tuco", "TuCo", "TuCo at the last token (the paper's)"),
    Score("tuco_user", "TuCo, user's tokens", "mean of TuCo over the tokens of the user, or of raw text"),
    Score("tuco_generated", "TuCo, first new token", "TuCo at the token that the tuned model adds, greedily"),
    Score("output_co", "OutputCo", "OutputCo at the last token (paper §5.5)"),
    Score("drift", "layer-mean drift", "drift of two independent runs at the last token, mean over layers"),
    Score("kl", "KL(tuned ‖ base)", "KL divergence of the next-token distributions, tuned from base, in nats"),
    Score("base_nll", "base's log perplexity", "mean −log p of the prompt's tokens under the base model"),
    Score("n_tokens", "prompt length", "tokens of the prompt"),
)
"""Everything that `score_prompts` reads, TuCo first."""
SCORE_KEYS: Final = tuple(score.key for score in SCORES)
PLACES: Final = ("tuco_user", "tuco_generated")
"""TuCo read at other places than the last token."""
BASELINES: Final = ("output_co", "drift", "kl", "base_nll", "n_tokens")
"""Simpler quantities, which TuCo must beat to be worth its name."""
LABELS: Final = {score.key: score.label for score in SCORES}


def score_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[dict[str, float]]:
    """All scores of each prompt, in input order; by key, see `SCORES`.

    A score that does not exist is NaN: what needs the base model's own embedding (OutputCo, drift, KL, perplexity)
    where the base model lacks a token of the prompt, `tuco_user` where no token is the user's, and `base_nll` of a
    single token. The cost is about four forward passes.
    """
    found: dict[int, dict[str, float]] = {}
    batches = _batches(pair, prompts, batch_size)
    for batch, rows in FittingBatches(batch_size).run(
        batches, lambda batch: _score_batch(pair, [prompts[i] for i in batch])
    ):
        found |= dict(zip(batch, rows, strict=True))
    return [found[i] for i in range(len(prompts))]


def tuco_of_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[float]:
    """TuCo alone, of each prompt, in input order; about two forward passes."""
    found: dict[int, float] = {}

    def at_end(batch: list[int]) -> list[float]:
        ids, last = _padded(pair, [prompts[i] for i in batch])
        tuco = _last_row(batch_norms(pair.base, pair.tuned, ids))  # [row, pos]
        return [tuco[row, last[row]].item() for row in range(len(batch))]

    for batch, values in FittingBatches(batch_size).run(_batches(pair, prompts, batch_size), at_end):
        found |= dict(zip(batch, values, strict=True))
    return [found[i] for i in range(len(prompts))]


def _batches(pair: ModelPair, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Rows that are of one kind as they are, and with the token that comes next."""
    lengths, kind = [prompt.n_tokens for prompt in prompts], length_kind(pair.base, pair.tuned)
    return length_sorted_batches(lengths, batch_size, MAX_BATCH_TOKENS, lambda n: (kind(n), kind(n + 1)))


@torch.no_grad()
def _score_batch(pair: ModelPair, prompts: list[Prompt]) -> list[dict[str, float]]:
    ids, last = _padded(pair, prompts)
    # An accelerator may not bound-check an embedding, so the ids are compared before the base model sees them.
    has_base = int(ids.max()) < pair.base.cfg.d_vocab
    tuned = _run(pair.tuned, ids, last)
    base = _run(pair.base, ids, last) if has_base else None
    rows = torch.arange(len(prompts))
    next_ids = tuned.logits[rows, last].argmax(dim=-1)
    tuco, has_next = _tuco_with_next(pair, ids, last, next_ids)
    scores: list[dict[str, float]] = []
    for row, prompt in enumerate(prompts):
        end = last[row]
        scores.append(
            {
                "tuco": tuco[row, end].item(),
                "tuco_user": _mean_of_user(tuco[row], prompt),
                "tuco_generated": tuco[row, end + 1].item() if has_next else math.nan,
                **_beside_base(tuned, base, ids, row, end),
                "n_tokens": float(prompt.n_tokens),
            }
        )
    return scores


def _padded(pair: ModelPair, prompts: Sequence[Prompt]) -> tuple[Int[Tensor, "row pos"], list[int]]:
    """The batch, and each row's last position."""
    return right_pad(prompts, pair.pad_id).to(pair.device), [prompt.n_tokens - 1 for prompt in prompts]


@dataclass(frozen=True)
class _OwnRun:
    """What is kept of a model's run on its own stream."""

    logits: Float[Tensor, "row pos d_vocab"]
    ends: Float[Tensor, "layer row d_model"]
    """The stream behind each block, at each row's last position, at least in float32."""


def _run(model: Any, ids: Int[Tensor, "row pos"], last: list[int]) -> _OwnRun:
    with stream_ends(model, last) as ends, fast_path(model):
        logits = run_logits(model, ids)
    return _OwnRun(logits, torch.stack(ends))


@contextmanager
def stream_ends(model: Any, last: Sequence[int]) -> Generator[list[Float[Tensor, "row d_model"]]]:
    """While open, a pass leaves in the list the stream behind each block at each row's last position."""
    rows, kept = torch.arange(len(last)), list[Tensor]()

    def keep(_module: Any, _args: Any, stream: Tensor) -> None:
        kept.append(stream[rows, list(last)].to(torch.promote_types(stream.dtype, torch.float32)))

    with ExitStack() as stack:
        for block in blocks(model):
            stack.callback(cast("Any", block.hook_resid_post).register_forward_hook(keep).remove)
        yield kept


def drift_of_ends(
    tuned: Float[Tensor, "layer row d_model"], base: Float[Tensor, "layer row d_model"]
) -> Float[Tensor, "layer row"]:
    """‖Δ‖ / (‖x^PT‖ + ‖Δ‖) of two own runs, Δ = x^FT − x^PT, behind each block."""
    return metrics.contribution_ratio(metrics.vector_norms(tuned - base, "l1"), metrics.vector_norms(base, "l1"))


def _beside_base(
    tuned: _OwnRun, base: _OwnRun | None, ids: Int[Tensor, "row pos"], row: int, end: int
) -> dict[str, float]:
    """What takes the base model's own run, of one row; all NaN where there is none."""
    if base is None:
        return dict.fromkeys(("output_co", "drift", "kl", "base_nll"), math.nan)
    drift = drift_of_ends(tuned.ends, base.ends)[:, row]
    return {
        "output_co": drift[-1].item(),
        "drift": drift.mean().item(),
        "kl": _kl(tuned.logits[row, end], base.logits[row, end]),
        "base_nll": _nll(base.logits[row, :end], ids[row, 1 : end + 1]),
    }


def _tuco_with_next(
    pair: ModelPair, ids: Int[Tensor, "row pos"], last: list[int], next_ids: Int[Tensor, " row"]
) -> tuple[Float[Tensor, "row pos"], bool]:
    """TuCo of every token and of the one that comes next, and whether the context has room for that one.

    No token sees what follows it, so one pass over the longer rows gives both; unless the longer ones are of another
    kind, where it takes two.
    """
    if ids.shape[1] >= pair.n_ctx:
        return _last_row(batch_norms(pair.base, pair.tuned, ids)), False
    longer = torch.cat([ids, ids[:, :1]], dim=1)
    rows, places = torch.arange(len(last)), torch.tensor(last) + 1
    longer[rows, places] = next_ids
    tuco = _last_row(batch_norms(pair.base, pair.tuned, longer))
    kind = length_kind(pair.base, pair.tuned)
    if kind(last[0] + 1) != kind(last[0] + 2):
        own = _last_row(batch_norms(pair.base, pair.tuned, ids))
        tuco[:, :-1] = torch.where(torch.arange(ids.shape[1]) < places[:, None], own, tuco[:, :-1])
    return tuco, True


def _last_row(norms: BatchNorms) -> Float[Tensor, "row pos"]:
    """TuCo of every token: the cumulative map's last layer."""
    return metrics.contribution_ratio(norms.cumulative_ftc[-1], norms.cumulative_ptc[-1])


def _mean_of_user(tuco: Float[Tensor, " pos"], prompt: Prompt) -> float:
    own = [i for i, role in enumerate(prompt.roles) if role in ("user", "text")]
    return tuco[own].double().mean().item() if own else math.nan


def _kl(tuned: Float[Tensor, " d_vocab"], base: Float[Tensor, " d_vocab"]) -> float:
    """KL(tuned ‖ base) over the tokens that both know, renormalised to them."""
    n = min(len(tuned), len(base))
    log_tuned, log_base = (logits[:n].double().log_softmax(dim=-1) for logits in (tuned, base))
    return (log_tuned.exp() * (log_tuned - log_base)).sum().item()


def _nll(logits: Float[Tensor, "pos d_vocab"], targets: Int[Tensor, " pos"]) -> float:
    if not len(targets):
        return math.nan
    return torch.nn.functional.cross_entropy(logits.float(), targets).double().item()
