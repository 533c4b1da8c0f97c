"""Batches as large as memory allows. How running out of it is recognised is in `models/failures.py`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch

from tuco_lens.errors import InputError
from tuco_lens.models.failures import is_out_of_memory

ResultT = TypeVar("ResultT")
RowT = TypeVar("RowT")


BatchTokens = int | Literal["auto"]
"""Most tokens of a padded batch; "auto" takes what is good on a CPU, and finds what fits on an accelerator."""
CPU_TOKENS: Final = 2048
"""Tokens beyond which a CPU computes no faster (`benchmarks/batches.py`)."""
FIRST_TOKENS: Final = 4096
MOST_TOKENS: Final = 2**17
"""Where "auto" begins on an accelerator, and where it stops to grow."""


class TokenBudget:
    """Most tokens of a padded batch (rows × longest); one row is always allowed.

    Args:
        tokens: the budget to begin with.
        grows: double it whenever a batch of more than half of it fitted, until one does not.
    """

    def __init__(self, tokens: int, *, grows: bool = False) -> None:
        self.tokens, self.grows = tokens, grows

    def fitted(self, n_tokens: int) -> None:
        """A batch of so many tokens fitted."""
        if self.grows and 2 * n_tokens > self.tokens:
            self.tokens = min(2 * self.tokens, MOST_TOKENS)

    def failed(self, n_tokens: int) -> None:
        """Only batches of so many tokens are to be tried from now on."""
        self.tokens, self.grows = n_tokens, False


_FOUND: WeakKeyDictionary[Any, dict[str, TokenBudget]] = WeakKeyDictionary()


def token_budget(model: Any, device: torch.device, batch_tokens: BatchTokens) -> TokenBudget:
    """The budget that a user asks for; "auto" on an accelerator is remembered for each model and device.

    Raises:
        InputError: for anything but "auto" and whole numbers above 0.
    """
    if batch_tokens != "auto":
        check_batch_tokens(batch_tokens)
        return TokenBudget(batch_tokens)
    if device.type == "cpu":
        return TokenBudget(CPU_TOKENS)
    known = _FOUND.setdefault(model, {})
    return known.setdefault(str(device), TokenBudget(FIRST_TOKENS, grows=True))


def check_batch_tokens(batch_tokens: object) -> None:
    """Raises `InputError` for anything but "auto" and whole numbers above 0."""
    is_number = isinstance(batch_tokens, int) and not isinstance(batch_tokens, bool) and batch_tokens > 0
    if batch_tokens != "auto" and not is_number:
        raise InputError("batch_tokens", f"it is {batch_tokens!r}", 'give a whole number above 0, or "auto"')


class FittingBatches:
    """Runs batches, and halves those that do not fit into memory; later batches are no larger.

    Args:
        batch_size: rows per batch at most, to begin with.
        what: what error messages call a row.
        budget: tokens per batch at most; without one, only rows count.
    """

    def __init__(self, batch_size: int, what: str = "prompt", budget: TokenBudget | None = None) -> None:
        self.batch_size = batch_size
        self.what = what
        self.budget = budget

    def run_by_length(
        self,
        lengths: Mapping[int, int],
        compute: Callable[[list[int]], ResultT],
        kinds: Mapping[int, Hashable],
        pass_tokens: int,
    ) -> Iterator[tuple[list[int], ResultT]]:
        """Each batch of rows of similar length with its result; the longest come first, so that errors come at once.

        Args:
            lengths: tokens of each row, by its number.
            compute: makes the result of a batch, and leaves nothing behind if it fails.
            kinds: the kind of each row; a batch holds rows of one kind.
            pass_tokens: what one more pass costs, in tokens: padding that costs more is not done.

        Raises:
            InputError: if a single row does not fit.
        """
        order = sorted(lengths, key=lambda i: -lengths[i])
        while order:
            tokens = None if self.budget is None else self.budget.tokens
            batch = first_batch(order, lengths, self.batch_size, tokens, kinds)
            batch = batch[: worth_padding([lengths[i] for i in batch], pass_tokens)]
            longest = lengths[batch[0]]
            try:
                result = compute(batch)
            except Exception as error:
                smaller = smaller_batch(len(batch), error, self.what)
                if self.budget is None:
                    self.batch_size = smaller
                else:
                    self.budget.failed(smaller * longest)
            else:
                if self.budget is not None:
                    self.budget.fitted(len(batch) * longest)
                order = order[len(batch) :]
                yield batch, result
                continue
            free_memory()  # not in `except`, where the error keeps the tensors of the failed pass alive

    def run(
        self, batches: Sequence[list[int]], compute: Callable[[list[int]], ResultT]
    ) -> Iterator[tuple[list[int], ResultT]]:
        """Each batch, or each of its parts, with its result, in order.

        Args:
            batches: the row numbers of each batch.
            compute: makes the result of a batch, and leaves nothing behind if it fails.

        Raises:
            InputError: if a single row does not fit.
        """
        queue = [part for batch in batches for part in split(batch, self.batch_size)]
        while queue:
            batch = queue.pop(0)
            try:
                result = compute(batch)
            except Exception as error:
                self.batch_size = smaller_batch(len(batch), error, self.what)
            else:
                yield batch, result
                continue
            free_memory()  # not in `except`, where the error keeps the tensors of the failed pass alive
            queue = [part for whole in (batch, *queue) for part in split(whole, self.batch_size)]


def first_batch(
    order: Sequence[int],
    lengths: Mapping[int, int] | Sequence[int],
    batch_size: int,
    max_tokens: int | None,
    kinds: Mapping[int, Hashable] | None,
) -> list[int]:
    """The longest beginning of rows, sorted from the longest on, that makes one batch: at least one row.

    Args:
        order: numbers of rows.
        lengths: tokens of each row.
        batch_size: most rows of it.
        max_tokens: most tokens of the padded batch.
        kinds: the kind of each row; a batch holds rows of one kind.
    """
    first = order[0]
    if max_tokens is not None:
        batch_size = min(batch_size, max(1, max_tokens // lengths[first]))
    candidates = list(order[:batch_size])
    if kinds is None:
        return candidates
    other = next((place for place, i in enumerate(candidates) if kinds[i] != kinds[first]), None)
    return candidates[:other]


def worth_padding(lengths: Sequence[int], pass_tokens: int) -> int:
    """How many of these rows, sorted from the longest on, belong into one batch: the others need one of their own.

    A batch is cut in two, and its longer part again, as long as that saves more padding than one more pass costs.
    """
    n_rows = len(lengths)
    while True:
        saved = [(lengths[0] - lengths[place]) * (n_rows - place) for place in range(n_rows)]
        if max(saved) <= pass_tokens:
            return n_rows
        n_rows = saved.index(max(saved))


def smaller_batch(size: int, error: Exception, what: str) -> int:
    """How many rows to try after `size` of them failed with this error; raises it again if it is not about memory.

    Raises:
        InputError: if memory ran out for a single row, which the message calls `what`.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        remedy = "shorten it, load the pair with dtype='bfloat16', or use a device with more memory"
        raise InputError(f"out of memory with a single {what}", _first_line(error), remedy) from error
    return (size + 1) // 2


def split(rows: list[RowT], size: int) -> list[list[RowT]]:
    """The rows in parts of at most `size`, in order."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def free_memory() -> None:
    """Release the memory that an accelerator's allocator keeps for later."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
