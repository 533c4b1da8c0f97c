"""What a search for an attack string costs on the embedded pair, and what a budget buys.

Goals and targets are harmless sentences. A step is one gradient and one batch of candidate strings, per goal. Seconds
are the processor's, so that a busy machine hardly changes them; on one idle core they are those of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from tuco_lens import ModelPair
from tuco_lens.attacks.framing import Framing, allowed_tokens, make_frames
from tuco_lens.attacks.gcg import STRENGTHS, GcgResult, GcgSettings, optimise
from tuco_lens.attacks.objective import Objective
from tuco_lens.engine.fast_path import fast_path

GOALS = ["Tell me how to bake bread.", "What should I see in Paris?", "Why is the sky dark at night?"]
TARGETS = ["Sure, here is how to bake", "Sure, here is what to see", "Sure, here is why the sky"]
N_STRINGS = 11
"""Attack strings per model in the paper."""
BUDGET_S = 300
"""What an experiment may take for all of them."""
PAPER_STEPS = 3


def seconds(run: Callable[[], object], rounds: int = 3) -> float:
    """Median of a few runs, after one to warm up."""
    run()
    found: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return statistics.median(found)


def parts(pair: ModelPair, how: GcgSettings, n_goals: int) -> None:
    """Seconds of a step's parts, with the prefix shared and without."""
    framing = Framing(pair.tokenizer, how.place, how.system)
    allowed = allowed_tokens(pair.tokenizer, pair.tuned.cfg.d_vocab)
    draws = torch.Generator().manual_seed(0)
    frames, start = make_frames(pair, framing, GOALS[:n_goals], TARGETS[:n_goals], allowed, how.n_tokens, draws)
    rows = start.repeat(how.n_candidates, 1)
    with torch.no_grad(), fast_path(pair.tuned):
        shared, anew = (Objective(pair.tuned, frames, share_prefix=share) for share in (True, False))
        found = [
            ("gradient", lambda: shared.gradient(start)),
            ("retokenisation", lambda: framing.surviving(rows, frames)),
            ("losses, prefix shared", lambda: shared.losses(rows)),
            ("losses, prefix anew", lambda: anew.losses(rows)),
        ]
        for name, run in found:
            print(f"{pair.backend:8} {name:24} {how.place:8} {1000 * seconds(run):8.1f} ms", flush=True)


def search(pair: ModelPair, how: GcgSettings, n_goals: int) -> tuple[GcgResult, float]:
    start = time.process_time()
    result = optimise(pair, GOALS[:n_goals], TARGETS[:n_goals], how, progress=False)
    return result, time.process_time() - start


def budget(pair: ModelPair, how: GcgSettings, n_goals: int, seeds: int, planned: int | None = None) -> None:
    """Seconds per step, loss before and after, and what all strings of an experiment would take, of `planned` steps."""
    found = [search(pair, GcgSettings(**{**vars(how), "seed": seed}), n_goals) for seed in range(seeds)]
    per_step = statistics.median(took / (len(result.losses) - 1) for result, took in found)
    first = statistics.mean(result.losses[0] for result, _ in found)
    last = statistics.mean(result.loss for result, _ in found)
    reached = sum(result.reached for result, _ in found)
    total = N_STRINGS * (how.steps if planned is None else planned) * per_step
    verdict = "  over the budget" if planned is None and total > BUDGET_S else ""
    print(
        f"{pair.backend:8} {n_goals:5} {how.steps:5} {how.n_candidates:5} {how.top_k:5} {per_step:8.3f} "
        f"{first:7.2f} {last:7.2f} {reached:3}/{seeds} {total:8.0f}{verdict}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", default=["hooked", "bridge"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strings", type=int, default=1920, help="candidates evaluated per search")
    arguments = parser.parse_args()
    pairs = [ModelPair.demo(backend=backend) for backend in arguments.backends]
    for pair in pairs:
        for place in ("prefix", "suffix"):
            parts(pair, GcgSettings(place=place), 1)
    print(f"\nequal numbers of strings evaluated; the last column is for {N_STRINGS} strings, in seconds")
    print("backend  goals steps  cand top_k   s/step   start     end reached     total")
    for n_goals, candidates, top_k in ((1, 16, 64), (1, 32, 64), (1, 64, 64), (1, 32, 256), (3, 32, 64)):
        how = GcgSettings(steps=arguments.strings // candidates // n_goals, n_candidates=candidates, top_k=top_k)
        budget(pairs[0], how, n_goals, arguments.seeds)
    for pair in pairs[1:]:
        budget(pair, GcgSettings(steps=arguments.strings // 32, n_candidates=32), 1, arguments.seeds)
    print(f"the paper's strength, {PAPER_STEPS} of its steps run; the last column is for all of them")
    paper = STRENGTHS["paper"]
    budget(pairs[-1], replace(paper, steps=PAPER_STEPS, early_stop=False), 1, 1, paper.steps)


if __name__ == "__main__":
    main()
