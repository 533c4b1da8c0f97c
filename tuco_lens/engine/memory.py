"""Smaller batches when memory runs out. How such an error is recognised is in `models/failures.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tuco_lens.errors import InputError
from tuco_lens.models.failures import is_out_of_memory

ResultT = TypeVar("ResultT")
RowT = TypeVar("RowT")


class FittingBatches:
    """Runs batches, and halves those that do not fit into memory; later batches are no larger.

    Args:
        batch_size: rows per batch at most, to begin with.
        what: what error messages call a row.
    """

    def __init__(self, batch_size: int, what: str = "prompt") -> None:
        self.batch_size = batch_size
        self.what = what

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
