"""What measuring costs on this machine, from a short run: a fixed cost of each batch, and one of each token."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuco_lens.brief import Brief
from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

ROUNDS: Final = 3
"""Times that each size is run; the median counts."""
MOST_SECONDS: Final = 6.0
"""About how long one batch may take: the large one is made smaller if it would take longer."""


@dataclass(frozen=True)
class Calibration(Brief):
    """Time of a batch = `seconds_per_batch` + tokens × `seconds_per_token`, at prompts of `length` tokens."""

    seconds_per_batch: float
    """Fixed cost."""
    seconds_per_token: float
    """Cost of a token, of both models."""
    length: int
    """Tokens of each prompt."""
    rows: tuple[int, int]
    """Prompts of the two batches that were timed."""
    load_seconds: float
    """Time that the pair took to load."""

    def seconds(self, n_batches: float, n_tokens: float) -> float:
        """Time of so many batches that hold so many tokens."""
        return n_batches * self.seconds_per_batch + n_tokens * self.seconds_per_token


def calibrated(choice: PairChoice, length: int, rows: int, *, drift: bool = False) -> Calibration:
    """Loads the pair and times two batches of random tokens.

    Args:
        choice: the pair.
        length: tokens of each prompt.
        rows: prompts of the larger batch; at least two are taken.
        drift: whether OutputCo is measured too.

    Raises:
        LoadError: if the pair cannot be loaded.
    """
    start = time.perf_counter()
    pair = choice.load()
    load_seconds = time.perf_counter() - start
    small = 1
    _batch_seconds(pair, length, small, drift=drift)  # the first pass of a process is slower
    once = _batch_seconds(pair, length, small, drift=drift)
    large = max(2, min(rows, round(MOST_SECONDS / once)))
    times = [[_batch_seconds(pair, length, n, drift=drift) for n in (small, large)] for _ in range(ROUNDS)]
    a, b = (statistics.median(found) for found in zip(*times, strict=True))
    per_token = max(0.0, (b - a) / ((large - small) * length))
    per_batch = max(0.0, a - per_token * small * length)
    if per_batch == 0.0:  # rounding, or a machine that was busy with the small one: all of it is by token
        per_token = b / (large * length)
    return Calibration(per_batch, per_token, length, (small, large), load_seconds)


def _batch_seconds(pair: ModelPair, length: int, rows: int, *, drift: bool) -> float:
    import torch

    ids = torch.randint(0, pair.tuned.cfg.d_vocab, (rows, length)).tolist()
    prompts = [pair.prompt(row) for row in ids]
    start = time.perf_counter()
    pair.measure(
        prompts, drift=drift, batch_size=rows, batch_tokens=rows * length, share_prefixes=False, progress=False
    )
    return time.perf_counter() - start
