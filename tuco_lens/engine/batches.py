"""From prompts to norms: chunks, batches of similar length, padding.

`measured_maps` takes any number of prompts and holds one chunk of them at a time. Within a chunk, prompts of similar
length share a batch. A batch goes through `contributions.py`; `memory.py` halves what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tuco_lens.engine.contributions import BatchNorms, NormMaps, batch_norms
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.engine.metrics import Norm, check_norm
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of
from tuco_lens.models.positions import LengthKind, length_kind
from tuco_lens.prompts.prompt import Prompt


@dataclass(frozen=True)
class MeasureOptions:
    """How prompts are measured; the same for every prompt of a run."""

    norm: Norm = "l1"
    """"l1" (the paper's) or "l2"."""
    drift: bool = False
    """Also run the base model on its own stream, for the drift map and OutputCo."""
    batch_size: int = 8
    """Prompts per batch, at most."""
    chunk_size: int = 256
    """Prompts held at a time; within a chunk they are sorted by length."""

    def __post_init__(self) -> None:
        check_norm(self.norm)
        for name in ("batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "it must be at least 1", "give a positive number")


def measured_maps(
    base: Any, tuned: Any, prompts: Iterable[Prompt], options: MeasureOptions, *, pad_id: int
) -> Iterator[tuple[Prompt, NormMaps]]:
    """Measure prompts, holding at most a chunk of them; yields each with its norms, in input order.

    Args:
        base: the base model.
        tuned: the tuned model.
        prompts: tokenised, and no longer than the context.
        options: how to measure them.
        pad_id: any token's id, to pad shorter prompts of a batch with.
    """
    rest, kind = iter(prompts), length_kind(base, tuned)
    fitting = FittingBatches(options.batch_size)
    while chunk := list(islice(rest, options.chunk_size)):

        def norms(batch: list[int], chunk: list[Prompt] = chunk) -> BatchNorms:
            ids = right_pad([chunk[i] for i in batch], pad_id).to(device_of(tuned))
            return batch_norms(base, tuned, ids, norm=options.norm, drift=options.drift)

        batches = length_sorted_batches([prompt.n_tokens for prompt in chunk], fitting.batch_size, kind=kind)
        results: dict[int, NormMaps] = {}
        for batch, found in fitting.run(batches, norms):
            results |= {i: found.of_prompt(row, chunk[i].n_tokens) for row, i in enumerate(batch)}
        yield from ((prompt, results[i]) for i, prompt in enumerate(chunk))


def length_sorted_batches(
    lengths: Sequence[int], batch_size: int, max_tokens: int | None = None, kind: LengthKind | None = None
) -> list[list[int]]:
    """Indices of prompts, in batches of similar lengths; every index is in exactly one batch.

    The longest come first, so that running out of memory shows at once. Prompts of equal length keep their order.

    Args:
        lengths: Tokens of each prompt, [n_prompts].
        batch_size: Most prompts of a batch; below 1 is an `InputError`.
        max_tokens: Most tokens of a padded batch (prompts × longest); a longer prompt is a batch of its own.
        kind: The kind of a length; a batch holds prompts of one kind. See `models/positions.py`.
    """
    if batch_size < 1:
        raise InputError("batch_size", f"it is {batch_size}", "give a whole number above 0")
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        batch = batches[-1] if batches else []
        # The first prompt of a batch is its longest.
        fits = 0 < len(batch) < batch_size and (kind is None or kind(lengths[batch[0]]) == kind(lengths[index]))
        if fits and (max_tokens is None or lengths[batch[0]] * (len(batch) + 1) <= max_tokens):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def right_pad(prompts: Sequence[Prompt], pad_id: int) -> Int[Tensor, "batch pos"]:
    """The token ids of the prompts as one tensor on the CPU, padded on the right with `pad_id`.

    Under causal attention no token sees the padding that follows, so no mask is needed; `pad_id` may be any token's.
    """
    longest = max(prompt.n_tokens for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)  # [batch, pos]
    for row, prompt in enumerate(prompts):
        ids[row, : prompt.n_tokens] = torch.tensor(prompt.token_ids)
    return ids
