"""When memory runs out: go on with smaller batches. What such an error looks like is in `models/failures.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tuco_lens.errors import InputError
from tuco_lens.models.failures import is_out_of_memory

ResultT = TypeVar("ResultT")
RowT = TypeVar("RowT")


class FittingBatches:
    """Runs batches, and halves those that do not fit into memory; what follows is no larger.

    Args:
        batch_size: rows per batch at most, to begin with.
        what: what a row is, for the error.
    """

    def __init__(self, batch_size: int, what: str = "prompt") -> None:
        self.batch_size = batch_size
        self.what = what

    def run(
        self, batches: Sequence[list[int]], compute: Callable[[list[int]], ResultT]
    ) -> Iterator[tuple[list[int], ResultT]]:
        """The result of each batch, or of its parts, in their order.

        Args:
            batches: rows, by number.
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
            free_memory()  # only here, since the error held on to the frames and so to the tensors of the failed pass
            queue = [part for whole in (batch, *queue) for part in split(whole, self.batch_size)]


def smaller_batch(size: int, error: Exception, what: str) -> int:
    """How many rows to try after running out of memory with `size` of them; any other error is raised again.

    Raises:
        InputError: if it was a single row.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        remedy = "shorten it, load the pair with dtype='bfloat16', or use a device with more memory"
        raise InputError(f"out of memory with a single {what}", _first_line(error), remedy) from error
    return (size + 1) // 2


def split(rows: list[RowT], size: int) -> list[list[RowT]]:
    """The rows in parts of at most `size`."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def free_memory() -> None:
    """Give back what an accelerator's allocator keeps for later."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
