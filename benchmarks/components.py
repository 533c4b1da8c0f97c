"""What it costs to say where TuCo comes from: time of each method over that of `measure` on the same prompt.

Run as `python -m benchmarks.components`. On the demo pair, both backends, one thread; medians of ratios in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from tuco_lens import ModelPair

ROUNDS = 15
N_TOKENS = (32, 256)
BAR = 2.5
"""Of `components` without heads."""


def main() -> None:
    """Print a line per backend, length and method."""
    torch.set_num_threads(1)
    for backend in ("hooked", "bridge"):
        pair = ModelPair.demo(backend=backend)
        for n_tokens in N_TOKENS:
            ids = torch.randint(300, 4000, (n_tokens,), generator=torch.Generator().manual_seed(0)).tolist()
            methods: dict[str, Callable[[], Any]] = {
                "components": lambda pair=pair, ids=ids: pair.components(ids),
                "components, heads": lambda pair=pair, ids=ids: pair.components(ids, heads=True),
                "components, modules": lambda pair=pair, ids=ids: pair.components(ids, modules=True),
                "sources": lambda pair=pair, ids=ids: pair.sources(ids),
                "logit_lens": lambda pair=pair, ids=ids: pair.logit_lens(ids),
                "logit_attribution": lambda pair=pair, ids=ids: pair.logit_attribution(ids),
            }
            for name, method in methods.items():
                bar = f"  (bar {BAR})" if name == "components" else ""
                ratio = time_ratio(method, lambda pair=pair, ids=ids: pair.measure([ids], progress=False), ROUNDS)
                print(f"{backend:7s} {n_tokens:4d} tokens  {name:20s} {ratio:6.2f} × measure{bar}")


def time_ratio(method: Callable[[], Any], reference: Callable[[], Any], rounds: int) -> float:
    """Median over rounds, in each of which both run."""
    ratios: list[float] = []
    for _ in range(rounds + 1):
        times: list[float] = []
        for call in (reference, method):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
    return statistics.median(ratios[1:])  # the first warms up


if __name__ == "__main__":
    main()
