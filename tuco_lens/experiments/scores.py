"""The scores that experiments compute for each prompt: TuCo, TuCo at other places, and simpler quantities.

The paper uses one number, TuCo at the last token. The simpler quantities are baselines: `comparison.py` shows whether
TuCo tells more than they do. TuCo, drift and OutputCo are defined in `engine/metrics.py` and `engine/contributions.py`.
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
from tuco_lens.engine.batches import MeasureOptions, length_sorted_batches, measured_maps, right_pad
from tuco_lens.engine.contributions import BatchNorms, batch_norms
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.models.backends import blocks, run_logits
from tuco_lens.models.positions import length_kind
from tuco_lens.prompts.prompt import Prompt

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

MAX_BATCH_TOKENS: Final = 4096
"""Most tokens of a padded batch, since the logits of all of them are held at once."""


@dataclass(frozen=True)
class Score:
    """One number that is computed for a prompt."""

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
"""Everything that `score_prompts` computes, TuCo first."""
SCORE_KEYS: Final = tuple(score.key for score in SCORES)
PLACES: Final = ("tuco_user", "tuco_generated")
"""TuCo at places other than the last token."""
BASELINES: Final = ("output_co", "drift", "kl", "base_nll", "n_tokens")
"""Simpler quantities, which TuCo must beat to be worth its cost."""
LABELS: Final = {score.key: score.label for score in SCORES}


def score_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[dict[str, float]]:
    """All scores of each prompt by key (see `SCORES`), in input order. The cost is about four forward passes.

    A score that does not exist is NaN: `tuco_user` where no token is the user's or of raw text, `base_nll` of a single
    token, `tuco_generated` of a prompt that fills the context, and `output_co`, `drift`, `kl` and `base_nll` of one
    with a token that the base model lacks. Batches hold at most `batch_size` prompts, fewer if memory runs out.
    """
    found: dict[int, dict[str, float]] = {}
    batches = _batches(pair, prompts, batch_size)
    for batch, rows in FittingBatches(batch_size).run(
        batches, lambda batch: _score_batch(pair, [prompts[i] for i in batch])
    ):
        found |= dict(zip(batch, rows, strict=True))
    return [found[i] for i in range(len(prompts))]


def tuco_of_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[float]:
    """TuCo at the last token of each prompt, in input order. The cost is about two forward passes."""
    options = MeasureOptions(keep="last", batch_size=batch_size, chunk_size=max(1, len(prompts)))
    found = measured_maps(pair.base, pair.tuned, prompts, options, pad_id=pair.pad_id)
    return [metrics.tuco(maps.cumulative_ptc, maps.cumulative_ftc).item() for _, maps in found]


def _batches(pair: ModelPair, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Batches of prompts of one `length_kind`, still so with the next token, all or none of which have room for it."""
    lengths, kind, n_ctx = [prompt.n_tokens for prompt in prompts], length_kind(pair.base, pair.tuned), pair.n_ctx
    return length_sorted_batches(lengths, batch_size, MAX_BATCH_TOKENS, lambda n: (kind(n), kind(n + 1), n < n_ctx))


@torch.no_grad()
def _score_batch(pair: ModelPair, prompts: list[Prompt]) -> list[dict[str, float]]:
    ids, last = _padded(pair, prompts)
    # An accelerator may not check the bounds of an embedding, so ids are checked before the base model sees them.
    d_vocab = pair.base.cfg.d_vocab
    has_base = [max(prompt.token_ids) < d_vocab for prompt in prompts]
    tuned = _run(pair.tuned, ids, last)
    base = _run(pair.base, ids.where(ids < d_vocab, 0), last) if any(has_base) else None
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
                **_beside_base(tuned, base if has_base[row] else None, ids, row, end),
                "n_tokens": float(prompt.n_tokens),
            }
        )
    return scores


def _padded(pair: ModelPair, prompts: Sequence[Prompt]) -> tuple[Int[Tensor, "row pos"], list[int]]:
    """The right-padded batch, and each row's last position."""
    return right_pad(prompts, pair.pad_id).to(pair.device), [prompt.n_tokens - 1 for prompt in prompts]


@dataclass(frozen=True)
class _OwnRun:
    """What is kept of a model's run on its own stream."""

    logits: Float[Tensor, "row pos d_vocab"]
    ends: Float[Tensor, "layer row d_model"]
    """The stream after each block at each row's last position; float32, or float64 for float64 models."""


def _run(model: Any, ids: Int[Tensor, "row pos"], last: list[int]) -> _OwnRun:
    with stream_ends(model, last) as ends, fast_path(model):
        logits = run_logits(model, ids)
    return _OwnRun(logits, torch.stack(ends))


@contextmanager
def stream_ends(model: Any, last: Sequence[int]) -> Generator[list[Float[Tensor, "row d_model"]]]:
    """While open, a forward pass appends to the list, after each block, the stream at each row's last position."""
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
    """‖Δ‖₁ / (‖x^PT‖₁ + ‖Δ‖₁) after each block, Δ = x^FT − x^PT of two independent runs; OutputCo in the last row."""
    return metrics.contribution_ratio(metrics.vector_norms(tuned - base, "l1"), metrics.vector_norms(base, "l1"))


def _beside_base(
    tuned: _OwnRun, base: _OwnRun | None, ids: Int[Tensor, "row pos"], row: int, end: int
) -> dict[str, float]:
    """The scores of one row that need the base model's own run; all NaN if there is none."""
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
    """TuCo of every token and of the next one, and whether the context has room for that one.

    No token sees those after it, so one pass over the longer rows gives both; if these are of another `length_kind`, it
    takes two passes.
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
    """TuCo of every token: the last layer of the cumulative norms."""
    return metrics.contribution_ratio(norms.cumulative_ftc[-1], norms.cumulative_ptc[-1])


def _mean_of_user(tuco: Float[Tensor, " pos"], prompt: Prompt) -> float:
    own = [i for i, role in enumerate(prompt.roles) if role in ("user", "text")]
    return tuco[own].double().mean().item() if own else math.nan


def _kl(tuned: Float[Tensor, " d_vocab"], base: Float[Tensor, " d_vocab"]) -> float:
    """KL(tuned ‖ base) in nats, over the tokens of both vocabularies, renormalised to these."""
    n = min(len(tuned), len(base))
    log_tuned, log_base = (logits[:n].double().log_softmax(dim=-1) for logits in (tuned, base))
    return (log_tuned.exp() * (log_tuned - log_base)).sum().item()


def _nll(logits: Float[Tensor, "pos d_vocab"], targets: Int[Tensor, " pos"]) -> float:
    if not len(targets):
        return math.nan
    return torch.nn.functional.cross_entropy(logits.float(), targets).double().item()
