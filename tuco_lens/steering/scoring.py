"""Logits of answer tokens behind many prompts, at one α; the beginning that the prompts share is computed once.

The α sweep (`sweep/`) asks which of a few answer tokens is the likeliest next token. The prompts of a task share a long
beginning (five worked examples, or a chat template's system part): it is found on the token ids, its keys and values
are kept, of the base blocks too, and every batch of questions goes on from there. The streams of two α differ from the
first block on, so each α has a beginning of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine.batches import length_sorted_batches
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.memory import FittingBatches, smaller_batch
from tuco_lens.models.backends import backend_of
from tuco_lens.models.positions import length_kind
from tuco_lens.steering.alpha import Alpha
from tuco_lens.steering.kv_caches import CachePairing, new_cache, shares_beginnings, with_rows
from tuco_lens.steering.scaling import Attachable, Method, Scaling, method_of, scaling_settings

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt


def shared_beginning(token_rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows share at their beginning; at least one token of every row is left over."""
    if len(token_rows) < 2:
        return 0
    length = min(len(row) for row in token_rows) - 1
    first, last = min(map(list, token_rows)), max(map(list, token_rows))  # what these two share, all share
    return next((i for i in range(length) if first[i] != last[i]), length)


def answer_logits(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    answer_ids: Sequence[Sequence[int]],
    alpha: Alpha = 1.0,
    *,
    method: Method = "ftc",
    batch_size: int = 8,
    share_prefix: bool = True,
    fitting: FittingBatches | None = None,
) -> list[Float[Tensor, " answer"]]:
    """Logits of each prompt's answer tokens as its next token, under the scaled model.

    Args:
        pair: the pair.
        prompts: the prompts of one task.
        answer_ids: for each prompt, the token ids of its answers.
        alpha: as in `ModelPair.scaled`.
        method: as in `ModelPair.scaled`.
        batch_size: prompts per batch, at most; halved and retried when memory runs out.
        share_prefix: compute what all prompts begin with once; the result is the same without.
        fitting: remembers from call to call which batches fit into memory; its size counts, not `batch_size`.

    Returns:
        For each prompt, in input order, the float32 logits of its answers, on the CPU.
    """
    acting = method_of(pair, scaling_settings(alpha, pair.n_layers, method=method))
    rows = [list(prompt.token_ids) for prompt in prompts]
    shares = share_prefix and shares_beginnings(pair.tuned) and shares_beginnings(pair.base)
    scorer = _Scorer(pair, acting, rows, shared_beginning(rows) if shares else 0)
    found: dict[int, Tensor] = {}
    with Scaling(pair, None, lambda: acting), torch.no_grad(), fast_path(pair.base, pair.tuned):
        fitting = fitting or FittingBatches(batch_size)
        try:
            scorer.begin()
        except Exception as error:
            smaller_batch(1, error, fitting.what)  # it is one row: there is no smaller one
            raise
        batches = length_sorted_batches([len(row) for row in rows], fitting.batch_size, kind=scorer.kind)
        for batch, logits in fitting.run(batches, scorer.last_logits):
            for i, row in zip(batch, logits, strict=True):
                found[i] = row[list(answer_ids[i])].float().cpu()
    return [found[i] for i in range(len(prompts))]


class _Scorer:
    """Runs batches of rows behind their shared beginning; the scaling is on while it runs."""

    def __init__(self, pair: ModelPair, acting: Attachable, rows: Sequence[list[int]], n_shared: int) -> None:
        self.pair, self.rows, self.n_shared = pair, rows, n_shared
        self.pairing: CachePairing = getattr(acting, "caches", None) or CachePairing()
        self.kind = length_kind(pair.base, pair.tuned)
        self.cache: Any = None

    def begin(self) -> None:
        """Compute the shared beginning."""
        if self.n_shared:
            self.cache = new_cache(self.pair.tuned, 1)
            self._run([self.rows[0][: self.n_shared]], self.cache, [0])

    def last_logits(self, batch: Sequence[int]) -> Float[Tensor, "row d_vocab"]:
        """Logits behind the last token of each row of the batch."""
        goes_on = self.cache is not None and self.kind(self.n_shared) == self.kind(len(self.rows[batch[0]]))
        rest = [self.rows[i][self.n_shared if goes_on else 0 :] for i in batch]
        cache = None
        if goes_on:
            which = torch.zeros(len(batch), dtype=torch.long)
            cache = with_rows(self.cache, which)
            self.pairing.follow(self.cache, cache, which)
        return self._run(rest, cache, [len(row) - 1 for row in rest])

    def _run(self, rows: Sequence[list[int]], cache: Any, last: Sequence[int]) -> Float[Tensor, "row d_vocab"]:
        width, pad = max(map(len, rows)), self.pair.pad_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.pair.device)
        return logits_behind(self.pair.tuned, ids, last, cache)


def logits_behind(
    model: Any, ids: Int[Tensor, "row pos"], last: Sequence[int], cache: Any
) -> Float[Tensor, "row d_vocab"]:
    """Logits at position `last` of each row, in a pass that goes on from a KV cache and adds to it, if there is one.

    Right padding needs no mask under causal attention.
    """
    options: dict[str, Any] = {"return_type": "logits"}
    columns = list(last)
    if backend_of(model) == "bridge":
        options |= {"use_cache": cache is not None}
        if cache is not None:
            options["past_key_values"] = cache
        if "logits_to_keep" in inspect.signature(model.original_model.forward).parameters:
            kept = sorted(set(last))
            options["logits_to_keep"] = torch.tensor(kept, device=ids.device)
            columns = [kept.index(position) for position in last]
    else:
        options["padding_side"] = "right"
        if cache is not None:
            options |= {"past_kv_cache": cache, "attention_mask": torch.ones_like(ids)}
    logits = model(ids, **options)
    return logits[torch.arange(len(ids)), torch.tensor(columns)]
