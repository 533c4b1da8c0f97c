"""What shared beginnings save: `measure` over two transformers forwards that share the same way, and over itself.

First prompts that share 512 tokens of 536, as a ratio to two forwards that run the shared part once (`DynamicCache`,
repeated for the batch); then prompts that share nothing, with sharing on as a ratio to sharing off. Both sides of a
ratio run in turns in one process (SmolLM2's shape, bridge).
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks._shapes import VOCAB, model_pair, transformers_pair
from benchmarks.speed import seconds

SHARED, OWN, PROMPTS = 512, 24, 16
BARS = {"shared": 1.3, "nothing shared": 1.03}


def forward_once(model: Any, first: torch.Tensor, rest: torch.Tensor) -> None:
    """A forward of rows that begin alike, the beginning run once; without unembedding."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    model.model(first, use_cache=True, past_key_values=cache)
    cache.batch_repeat_interleave(len(rest))
    model.model(rest, use_cache=True, past_key_values=cache)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    models, pair = transformers_pair(), model_pair("bridge")
    first = torch.randint(3, VOCAB, (1, SHARED))
    rest = torch.randint(3, VOCAB, (PROMPTS, OWN))
    shared = [pair.prompt([*first[0].tolist(), *row.tolist()]) for row in rest]
    apart = [pair.prompt(torch.randint(3, VOCAB, (64,)).tolist()) for _ in range(PROMPTS)]

    def measure(prompts: list[Any], **options: Any) -> None:
        pair.measure(prompts, progress=False, **options)

    def floor() -> None:
        for model in models:
            forward_once(model, first, rest)

    cases = {
        "shared": (lambda: measure(shared), floor),
        "shared, over sharing off": (lambda: measure(shared), lambda: measure(shared, share_prefixes=False)),
        "nothing shared": (lambda: measure(apart), lambda: measure(apart, share_prefixes=False)),
    }
    for name, (run, other) in cases.items():
        run()  # a model is tried once
        found: list[float] = []
        for round_ in range(rounds if name != "shared, over sharing off" else 1):
            a, b = (seconds(each) for each in ((run, other) if round_ % 2 else (other, run)))
            found.append(a / b if round_ % 2 else b / a)
        bar = BARS.get(name)
        verdict = "" if bar is None else f", bar {bar}"
        print(f"{name}: {statistics.median(found):.3f} (of {len(found)}: {min(found):.3f}-{max(found):.3f}){verdict}")


if __name__ == "__main__":
    main()
