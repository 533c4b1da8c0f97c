"""The scores that experiments compute for each prompt: TuCo, TuCo at other places, and simpler quantities.

The paper uses one number, TuCo at the last token. The simpler quantities are baselines: `comparison.py` shows whether
TuCo tells more than they do. TuCo, drift and OutputCo are defined in `engine/metrics.py` and `engine/contributions.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine import metrics
from tuco_lens.engine.batches import MeasureOptions, maps_of_rows, measured_maps
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.memory import FittingBatches, TokenBudget
from tuco_lens.engine.sharing import Piece, SharedRuns, Stretch
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


@torch.no_grad()
def score_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[dict[str, float]]:
    """All scores of each prompt by key (see `SCORES`), in input order. The cost is about four forward passes.

    A score that does not exist is NaN: `tuco_user` where no token is the user's or of raw text, `base_nll` of a single
    token, `tuco_generated` of a prompt that fills the context, and `output_co`, `drift`, `kl` and `base_nll` of one
    with a token that the base model lacks. Batches hold at most `batch_size` prompts, fewer if memory runs out; what
    prompts begin with runs once.
    """
    fitting = FittingBatches(batch_size, budget=TokenBudget(MAX_BATCH_TOKENS))
    rows = [prompt.token_ids for prompt in prompts]
    tuned = _own_runs(pair.tuned, rows, fitting)
    # An accelerator may not check the bounds of an embedding, so ids are checked before the base model sees them.
    known = [i for i, row in enumerate(rows) if max(row) < pair.base.cfg.d_vocab]
    base = dict(zip(known, _own_runs(pair.base, [rows[i] for i in known], fitting), strict=True))
    tuco = _tuco_with_next(pair, rows, [int(run.logits.argmax()) for run in tuned], fitting)
    return [
        {
            "tuco": values[prompt.n_tokens - 1].item(),
            "tuco_user": _mean_of_user(values, prompt),
            "tuco_generated": values[prompt.n_tokens].item() if len(values) > prompt.n_tokens else math.nan,
            **_beside_base(tuned[i], base.get(i)),
            "n_tokens": float(prompt.n_tokens),
        }
        for i, (prompt, values) in enumerate(zip(prompts, tuco, strict=True))
    ]


def tuco_of_prompts(pair: ModelPair, prompts: Sequence[Prompt], *, batch_size: int = 8) -> list[float]:
    """TuCo at the last token of each prompt, in input order. The cost is about two forward passes."""
    options = MeasureOptions(keep="last", batch_size=batch_size, chunk_size=max(1, len(prompts)))
    found = measured_maps(pair.base, pair.tuned, prompts, options, pad_id=pair.pad_id)
    return [metrics.tuco(maps.cumulative_ptc, maps.cumulative_ftc).item() for _, maps in found]


@dataclass(frozen=True)
class _OwnRun:
    """What is kept of a prompt's run through one model on its own stream."""

    logits: Float[Tensor, " d_vocab"]
    """Behind the last token."""
    ends: Float[Tensor, "layer d_model"]
    """The stream after each block at the last token; float32, or float64 for float64 models."""
    nll: float
    """Mean −log p of the tokens after the first, in nats; NaN if there are none."""


@dataclass(frozen=True)
class _Pass:
    """What is kept of one pass."""

    first: Int[Tensor, " row"]
    """The first token of each row in it."""
    nll: Float[Tensor, " row"]
    """Sum of −log p of the tokens after that one."""
    logits: Float[Tensor, "row d_vocab"]
    ends: Float[Tensor, "row layer d_model"]


def _own_runs(model: Any, rows: Sequence[Sequence[int]], fitting: FittingBatches) -> list[_OwnRun]:
    """Each row's run, in input order; what the rows begin with runs once."""
    if not rows:
        return []
    runs = SharedRuns((model,), rows, functools.partial(_pass, model), fitting=fitting, pad_id=0)
    found = {i: _own_run(pieces, len(rows[i])) for i, pieces in runs.run()}
    return [found[i] for i in range(len(rows))]


def _pass(model: Any, stretch: Stretch) -> _Pass:
    with _stream_ends(model, stretch.last) as ends, fast_path(model):
        logits = run_logits(model, stretch.ids, stretch.cache)
    rows = range(len(stretch.ids))
    nll = [_nll(logits[row, :end], stretch.ids[row, 1 : end + 1]) for row, end in zip(rows, stretch.last, strict=True)]
    kept = logits[list(rows), stretch.last]
    return _Pass(stretch.ids[:, 0].cpu(), torch.tensor(nll).double(), kept.cpu(), torch.stack(ends, dim=1).cpu())


def _own_run(pieces: Sequence[Piece[_Pass]], n_tokens: int) -> _OwnRun:
    """A row's run from the passes that its tokens went through."""
    nll = sum(piece.result.nll[piece.row].item() for piece in pieces)
    for (before, row, _), (behind, own, _) in pairwise(
        pieces
    ):  # the first token of a pass is predicted by the last one
        nll += _nll(before.logits[row : row + 1], behind.first[own : own + 1])
    last, row, _ = pieces[-1]
    return _OwnRun(last.logits[row].clone(), last.ends[row].clone(), nll / (n_tokens - 1) if n_tokens > 1 else math.nan)


@contextmanager
def _stream_ends(model: Any, last: Sequence[int]) -> Generator[list[Float[Tensor, "row d_model"]]]:
    """While open, a forward pass appends to the list, after each block, the stream at each row's last position."""
    rows, kept = torch.arange(len(last)), list[Tensor]()

    def keep(_module: Any, _args: Any, stream: Tensor) -> None:
        kept.append(stream[rows, list(last)].to(torch.promote_types(stream.dtype, torch.float32)))

    with ExitStack() as stack:
        for block in blocks(model):
            stack.callback(cast("Any", block.hook_resid_post).register_forward_hook(keep).remove)
        yield kept


def _drift(tuned: Float[Tensor, "layer d_model"], base: Float[Tensor, "layer d_model"]) -> Float[Tensor, " layer"]:
    """‖Δ‖₁ / (‖x^PT‖₁ + ‖Δ‖₁) after each block, Δ = x^FT − x^PT of two independent runs; OutputCo at the end."""
    return metrics.contribution_ratio(metrics.vector_norms(tuned - base, "l1"), metrics.vector_norms(base, "l1"))


def _beside_base(tuned: _OwnRun, base: _OwnRun | None) -> dict[str, float]:
    """The scores of one prompt that need the base model's own run; all NaN if there is none."""
    if base is None:
        return dict.fromkeys(("output_co", "drift", "kl", "base_nll"), math.nan)
    drift = _drift(tuned.ends, base.ends)
    kl = _kl(tuned.logits, base.logits)
    return {"output_co": drift[-1].item(), "drift": drift.mean().item(), "kl": kl, "base_nll": base.nll}


def _tuco_with_next(
    pair: ModelPair, rows: Sequence[Sequence[int]], next_ids: Sequence[int], fitting: FittingBatches
) -> list[Float[Tensor, " pos"]]:
    """TuCo of every token, and of the next one where the context has room for it.

    No token sees those after it, so one pass over the longer row gives both; if that is of another `length_kind`, its
    own tokens are run by themselves.
    """
    longer = [[*row, next_id][: pair.n_ctx] for row, next_id in zip(rows, next_ids, strict=True)]
    found = _tuco_of_rows(pair, longer, fitting)
    kind = length_kind(pair.base, pair.tuned)
    apart = [i for i, row in enumerate(rows) if kind(len(row)) != kind(len(longer[i]))]
    for i, own in zip(apart, _tuco_of_rows(pair, [rows[i] for i in apart], fitting), strict=True):
        found[i][: len(own)] = own
    return found


def _tuco_of_rows(
    pair: ModelPair, rows: Sequence[Sequence[int]], fitting: FittingBatches
) -> list[Float[Tensor, " pos"]]:
    """TuCo of every token: the last layer of the cumulative norms."""
    maps = maps_of_rows(pair.base, pair.tuned, rows, MeasureOptions(), fitting=fitting, pad_id=pair.pad_id)
    return [metrics.contribution_ratio(each.cumulative_ftc[-1], each.cumulative_ptc[-1]) for each in maps]


def _mean_of_user(tuco: Float[Tensor, " pos"], prompt: Prompt) -> float:
    own = [i for i, role in enumerate(prompt.roles) if role in ("user", "text")]
    return tuco[own].double().mean().item() if own else math.nan


def _kl(tuned: Float[Tensor, " d_vocab"], base: Float[Tensor, " d_vocab"]) -> float:
    """KL(tuned ‖ base) in nats, over the tokens of both vocabularies, renormalised to these."""
    n = min(len(tuned), len(base))
    log_tuned, log_base = (logits[:n].double().log_softmax(dim=-1) for logits in (tuned, base))
    return (log_tuned.exp() * (log_tuned - log_base)).sum().item()


def _nll(logits: Float[Tensor, "pos d_vocab"], targets: Int[Tensor, " pos"]) -> float:
    """Sum of −log p of the targets, in nats."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum").double().item()
