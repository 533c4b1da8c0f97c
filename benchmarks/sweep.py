"""What an α sweep costs: sharing the worked examples of a task against computing them anew, and seven α against one.

Both sides of a ratio run in turns in one process, so that whatever else the machine does hits both. The prompts are
random ids in the lengths of a 5-shot MMLU task. A real task has a hundred questions or more, where sharing saves more
than on these few.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Sequence

import torch

from benchmarks._shapes import VOCAB, model_pair
from benchmarks.speed import seconds
from tuco_lens import ModelPair, Prompt
from tuco_lens.steering.scoring import answer_logits
from tuco_lens.sweep import PAPER_ALPHAS

N_SHARED = 500
"""Tokens of heading and five worked examples."""
N_OWN = (40, 120)
"""Least and most tokens of a question."""
N_ANSWERS = 4
ALPHA = 0.9
SHARING_BAR = 3.0
"""5-shot MMLU is at least so many times faster with its prefix shared."""
GRID_BAR = 7.5
"""The paper's seven α cost at most so many times one."""


def task(n_questions: int) -> list[Prompt]:
    """Prompts of random ids that begin alike."""
    draw = random.Random(0)
    shared = [draw.randrange(VOCAB) for _ in range(N_SHARED)]
    rows = [shared + [draw.randrange(VOCAB) for _ in range(draw.randint(*N_OWN))] for _ in range(n_questions)]
    return [Prompt(text="", token_ids=tuple(row), tokens=(), roles=()) for row in rows]


def measured(numerator: Callable[[], object], denominator: Callable[[], object], rounds: int) -> list[float]:
    """Ratio of the two in each round, in alternating order."""
    found: list[float] = []
    for round_ in range(rounds):
        first, second = (numerator, denominator) if round_ % 2 else (denominator, numerator)
        a, b = seconds(first), seconds(second)
        found.append(a / b if round_ % 2 else b / a)
    return found


def report(backend: str, what: str, ratios: Sequence[float], bar: str, *, kept: bool) -> None:
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    verdict = "" if kept else "  MISSES THE BAR"
    print(f"{backend:8} {what:32} {statistics.median(ratios):6.2f} {spread:>13} {bar:>7}{verdict}", flush=True)


def bench(pair: ModelPair, prompts: list[Prompt], rounds: int) -> None:
    answers = [list(range(N_ANSWERS))] * len(prompts)

    def run(alphas: Sequence[float], *, share_prefix: bool = True) -> None:
        for alpha in alphas:
            answer_logits(pair, prompts, answers, alpha, share_prefix=share_prefix)

    run([ALPHA])  # warm-up
    sharing = measured(lambda: run([ALPHA], share_prefix=False), lambda: run([ALPHA]), rounds)
    kept = statistics.median(sharing) >= SHARING_BAR
    report(pair.backend, "prefix anew / prefix shared", sharing, f">= {SHARING_BAR:g}", kept=kept)
    grid = measured(lambda: run(PAPER_ALPHAS), lambda: run([ALPHA]), rounds)
    kept = statistics.median(grid) <= GRID_BAR
    report(pair.backend, f"the paper's seven alphas / {ALPHA:g}", grid, f"<= {GRID_BAR:g}", kept=kept)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", nargs="+", default=["bridge", "hooked"])
    arguments = parser.parse_args()
    print(f"{arguments.questions} questions, {N_SHARED} shared tokens and {N_OWN[0]}-{N_OWN[1]} of their own")
    print(f"{'backend':8} {'ratio':32} {'median':>6} {'range':>13} {'bar':>7}")
    for backend in arguments.backends:
        bench(model_pair(backend), task(arguments.questions), arguments.rounds)


if __name__ == "__main__":
    main()
