"""What a measurement costs, as a ratio to its floor: two bare transformers forwards without unembedding.

Both sides run in turns in one process, so that whatever else the machine does hits both. The
figure is the median over rounds of the ratio of neighbouring runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks._shapes import VOCAB, model_pair, transformers_pair
from tuco_lens.engine.contributions import batch_norms

BARS = {
    ("bridge", 8, 64): 1.08,
    ("bridge", 1, 256): 1.12,
    ("bridge", 1, 32): 1.4,
    ("hooked", 8, 64): 2.0,
}
"""(backend, batch, tokens) → the ratio that the project promises not to exceed."""
ROUNDS = 25


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(run: Callable[[], object], floor: Callable[[], object]) -> list[float]:
    """Ratio of the two in each round, in alternating order, after two rounds of warm-up."""
    found: list[float] = []
    for round_ in range(ROUNDS + 2):
        first, second = (run, floor) if round_ % 2 else (floor, run)
        a, b = seconds(first), seconds(second)
        if round_ >= 2:
            found.append(a / b if round_ % 2 else b / a)
    return found


@torch.no_grad()
def main() -> None:
    base, tuned = transformers_pair()
    print(f"{'backend':8} {'batch':>5} {'tokens':>6} {'ratio':>7} {'quartiles':>13} {'bar':>6}")
    for backend in ("bridge", "hooked"):
        pair = model_pair(backend)
        for (name, batch, tokens), bar in BARS.items():
            if name != backend:
                continue
            ids = torch.randint(0, VOCAB, (batch, tokens))

            def floor(ids: torch.Tensor = ids) -> None:
                base.model(ids, use_cache=False)
                tuned.model(ids, use_cache=False)

            def run(ids: torch.Tensor = ids, pair: object = pair) -> None:
                batch_norms(pair.base, pair.tuned, ids)

            found = ratios(run, floor)
            low, middle, high = statistics.quantiles(found, n=4)
            verdict = "" if middle <= bar else "  OVER THE BAR"
            print(
                f"{backend:8} {batch:5} {tokens:6} {middle:7.3f} {low:6.3f}-{high:6.3f} {bar:6.2f}{verdict}", flush=True
            )


if __name__ == "__main__":
    main()
