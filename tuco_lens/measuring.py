"""From prompts to measurements: batches, memory, progress.

`measure_prompts` takes any number of prompts and holds one chunk of them at a time. Within a
chunk, prompts of like length share a batch; results come back in input order. The engine
that a batch goes through is in `contributions.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from tuco_lens.contributions import BatchNorms, batch_norms
from tuco_lens.errors import InputError
from tuco_lens.measurement import NormMaps, PromptMeasurement
from tuco_lens.metrics import NORM_ORDERS, Norm
from tuco_lens.prompts import Prompt, length_sorted_batches, right_pad

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

Item = TypeVar("Item")


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
    """Prompts held at a time; they are sorted by length within."""

    def __post_init__(self) -> None:
        if self.norm not in NORM_ORDERS:
            raise InputError(f"no norm {self.norm!r}", f"there are {', '.join(NORM_ORDERS)}", "name one of them")
        for name in ("batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}", "it must be at least 1", "give a positive number")


def measure_prompts(pair: ModelPair, prompts: Iterable[Prompt], options: MeasureOptions) -> Iterator[PromptMeasurement]:
    """Measure prompts in input order, holding no more than a chunk of them."""
    rest = iter(prompts)
    batch_size = options.batch_size
    while chunk := list(islice(rest, options.chunk_size)):
        results: dict[int, PromptMeasurement] = {}
        queue = length_sorted_batches([prompt.n_tokens for prompt in chunk], batch_size)
        while queue:
            batch = queue.pop(0)
            try:
                norms = _measure_batch(pair, [chunk[i] for i in batch], options)
            except torch.OutOfMemoryError as error:
                batch_size = _halved(len(batch), chunk[batch[0]].n_tokens, error)
            else:
                for row, i in enumerate(batch):
                    results[i] = _of_row(norms, row, chunk[i], options.norm)
                continue
            _free_memory()  # only here, since the error held on to the frames and so to the tensors of the failed pass
            queue = [half for whole in (batch, *queue) for half in _split(whole, batch_size)]
        yield from (results[i] for i in range(len(chunk)))


def _measure_batch(pair: ModelPair, prompts: list[Prompt], options: MeasureOptions) -> BatchNorms:
    ids: Int[Tensor, "batch pos"] = right_pad(prompts, pair.pad_id).to(pair.device)
    return batch_norms(pair.base, pair.tuned, ids, norm=options.norm, drift=options.drift)


def _of_row(norms: BatchNorms, row: int, prompt: Prompt, norm: Norm) -> PromptMeasurement:
    n = prompt.n_tokens

    def cut(values: Tensor) -> Tensor:
        return values[:, row, :n].to(torch.float32, copy=True)  # a view would keep the whole batch alive

    maps = NormMaps(
        ptc=cut(norms.ptc),
        ftc=cut(norms.ftc),
        cumulative_ptc=cut(norms.cumulative_ptc),
        cumulative_ftc=cut(norms.cumulative_ftc),
        drift=None if norms.drift is None else cut(norms.drift),
    )
    return PromptMeasurement(prompt, maps, norm)


def _halved(size: int, n_tokens: int, error: Exception) -> int:
    if size == 1:
        raise InputError(
            "out of memory with a single prompt",
            f"it has about {n_tokens} tokens",
            "truncate it, load the pair with dtype='bfloat16', or use a device with more memory",
        ) from error
    return (size + 1) // 2


def _split(batch: list[int], size: int) -> list[list[int]]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_progress(
    items: Iterable[Item], *, total: int | None, show: bool, unit: str = "prompt", name: str = "TuCo"
) -> Iterator[Item]:
    """Pass items on behind a progress bar with units/s, on stderr; silent when not a terminal or notebook."""
    if not (show and (sys.stderr.isatty() or _in_notebook())):
        yield from items
        return
    from tqdm.auto import tqdm

    yield from tqdm(items, total=total, unit=unit, desc=name)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
