"""Logits of answer tokens behind many prompts, at one α; what the prompts begin with is computed once.

The α sweep (`sweep/`) asks which of a few answer tokens is the likeliest next token. The prompts of a task share long
beginnings (five worked examples, or a chat template's system part); `engine/sharing.py` runs them once. The streams of
two α differ from the first block on, so each α has beginnings of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.kv_caches import CachePairing
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.engine.sharing import SharedRuns, Stretch
from tuco_lens.models.backends import pass_options
from tuco_lens.steering.alpha import Alpha
from tuco_lens.steering.scaling import Method, Scaling, method_of, scaling_settings

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt


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
    pairing: CachePairing = getattr(acting, "caches", None) or CachePairing()

    def last_logits(stretch: Stretch) -> Float[Tensor, "row d_vocab"]:
        return logits_behind(pair.tuned, stretch.ids, stretch.last, stretch.cache)

    runs = SharedRuns(
        (pair.base, pair.tuned),
        [prompt.token_ids for prompt in prompts],
        last_logits,
        fitting=fitting or FittingBatches(batch_size),
        pad_id=pair.pad_id,
        pairing=pairing,
        share=share_prefix,
    )
    found: dict[int, Tensor] = {}
    with Scaling(pair, None, lambda: acting), torch.no_grad(), fast_path(pair.base, pair.tuned):
        for i, pieces in runs.run():
            found[i] = pieces[-1].result[pieces[-1].row, list(answer_ids[i])].float().cpu()
    return [found[i] for i in range(len(prompts))]


def logits_behind(
    model: Any, ids: Int[Tensor, "row pos"], last: Sequence[int], cache: Any
) -> Float[Tensor, "row d_vocab"]:
    """Logits at position `last` of each row, in a pass that goes on from a KV cache and adds to it, if there is one."""
    options = {"return_type": "logits", **pass_options(model, ids, cache)}
    columns = list(last)
    inner = getattr(model, "original_model", None)  # of a bridge
    if inner is not None and "logits_to_keep" in inspect.signature(inner.forward).parameters:
        kept = sorted(set(last))
        options["logits_to_keep"] = torch.tensor(kept, device=ids.device)
        columns = [kept.index(position) for position in last]
    logits = model(ids, **options)
    return logits[torch.arange(len(ids)), torch.tensor(columns)]
