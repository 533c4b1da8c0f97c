"""From prompts to norms: chunks, what their prompts share, batches of similar length, padding.

`measured_maps` takes any number of prompts and holds one chunk of them at a time. Within a chunk, what prompts begin
with is computed once (`sharing.py`), and prompts of similar length share a batch. A pass goes through
`contributions.py`; `memory.py` says how large a batch may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

from jaxtyping import Int
from torch import Tensor

from tuco_lens.engine.contributions import BatchNorms, NormMaps, stretch_norms
from tuco_lens.engine.kv_caches import paired_caches
from tuco_lens.engine.memory import BatchTokens, FittingBatches, check_batch_tokens, first_batch, token_budget
from tuco_lens.engine.metrics import Norm, check_norm
from tuco_lens.engine.sharing import Piece, SharedRuns, Stretch, padded
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of
from tuco_lens.models.positions import LengthKind
from tuco_lens.prompts.prompt import Prompt

Keep = Literal["maps", "last"]


@dataclass(frozen=True)
class MeasureOptions:
    """How prompts are measured; the same for every prompt of a run."""

    norm: Norm = "l1"
    """"l1" (the paper's) or "l2"."""
    drift: bool = False
    """Also run the base model on its own stream, for the drift map and OutputCo."""
    keep: Keep = "maps"
    """"maps" of every token, or the "last" token's norms alone: TuCo and OutputCo, but no β and no maps."""
    batch_size: int = 64
    """Prompts per batch, at most."""
    batch_tokens: BatchTokens = "auto"
    """Tokens per padded batch, at most; see `engine/memory.py`."""
    chunk_size: int = 256
    """Prompts held at a time; within a chunk they share beginnings and are sorted by length."""
    share_prefixes: bool = True
    """Compute what prompts of a chunk begin with once, where it pays and changes no number."""

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_batch_tokens(self.batch_tokens)
        if self.keep not in get_args(Keep):
            raise InputError(f"keep={self.keep!r}", "there are maps and last", "name one of them")
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
    rest = iter(prompts)
    fitting = FittingBatches(options.batch_size, budget=token_budget(tuned, device_of(tuned), options.batch_tokens))
    while chunk := list(islice(rest, options.chunk_size)):
        rows = [prompt.token_ids for prompt in chunk]
        yield from zip(chunk, maps_of_rows(base, tuned, rows, options, fitting=fitting, pad_id=pad_id), strict=True)


def maps_of_rows(
    base: Any,
    tuned: Any,
    rows: Sequence[Sequence[int]],
    options: MeasureOptions,
    *,
    fitting: FittingBatches,
    pad_id: int,
) -> list[NormMaps]:
    """The norms of token ids that are one chunk, in input order. `fitting` says which batches fit into memory."""
    pairing, last_only = paired_caches(base, tuned), options.keep == "last"

    def norms(stretch: Stretch) -> BatchNorms:
        how: dict[str, Any] = {"norm": options.norm, "drift": options.drift, "last_only": last_only}
        return stretch_norms(base, tuned, stretch, **how, pairing=pairing)

    how: dict[str, Any] = {"fitting": fitting, "pad_id": pad_id, "pairing": pairing, "share": options.share_prefixes}
    runs = SharedRuns((base, tuned), rows, norms, **how)
    found = {i: _joined(pieces, last_only=last_only) for i, pieces in runs.run()}
    return [found[i] for i in range(len(rows))]


def _joined(pieces: Sequence[Piece[BatchNorms]], *, last_only: bool) -> NormMaps:
    """One prompt's norms, from the passes that its tokens went through."""
    if last_only:
        return pieces[-1].result.of_prompt(pieces[-1].row, 1)
    return NormMaps.joined([piece.result.of_prompt(piece.row, piece.n_tokens) for piece in pieces])


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
    kinds = None if kind is None else {i: kind(length) for i, length in enumerate(lengths)}
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    while order:
        batches.append(first_batch(order, lengths, batch_size, max_tokens, kinds))
        order = order[len(batches[-1]) :]
    return batches


def right_pad(prompts: Sequence[Prompt], pad_id: int) -> Int[Tensor, "batch pos"]:
    """The token ids of the prompts as one tensor on the CPU; see `sharing.padded`."""
    return padded([prompt.token_ids for prompt in prompts], pad_id)
