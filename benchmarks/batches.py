"""How many tokens a batch should have on this processor, and what one more pass costs in tokens.

Prompts of one length are measured in batches of more and more tokens, up to all at once; each time is a ratio to that
of the budget that "auto" takes on a CPU, in turns in one process (SmolLM2's shape, bridge). The cost of a pass is
what more passes add to the time, in tokens of a large batch: `sharing.PASS_TOKENS` stands for it.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

import torch

from benchmarks._shapes import VOCAB, model_pair
from benchmarks.speed import seconds
from tuco_lens.engine.memory import CPU_TOKENS

TOTAL = CPU_TOKENS
LENGTHS = (16, 128)
BUDGETS = (64, 128, 256, 512, 1024, CPU_TOKENS)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    pair = model_pair("bridge")
    for length in LENGTHS:
        prompts = [pair.prompt(torch.randint(3, VOCAB, (length,)).tolist()) for _ in range(TOTAL // length)]
        taken: dict[int, list[float]] = {}
        for _ in range(rounds):
            for budget in BUDGETS:
                if budget >= length:
                    run = partial(pair.measure, prompts, batch_size=TOTAL, batch_tokens=budget, progress=False)
                    taken.setdefault(budget, []).append(seconds(partial(run, share_prefixes=False)))
        best = {budget: statistics.median(times) for budget, times in taken.items()}
        cells = [f"{budget}: {taken / best[CPU_TOKENS]:.2f}" for budget, taken in best.items()]
        least = min(best)
        more = TOTAL / least - TOTAL / CPU_TOKENS
        cost = (best[least] - best[CPU_TOKENS]) / more / (best[CPU_TOKENS] / TOTAL)
        print(
            f"prompts of {length} tokens, time by batch_tokens over that of {CPU_TOKENS}: {', '.join(cells)}; ", end=""
        )
        print(f"a pass costs {cost:.0f} tokens", flush=True)


if __name__ == "__main__":
    main()
