"""How often the sweep's statistics are wrong where α changes nothing: random answers, cross-validated like real ones.

The interval and the p-value of Δ_CV take the chosen α as given, while the folds share most of the questions it was
chosen on. This prints what that costs: the share of intervals that miss 0 and of p-values below 0.05, which should be
0.05 each. docs/sweep.md quotes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tuco_lens.sweep.cross_validation import GOALS, Delta, cross_validate, delta_of

ALPHAS = np.array([0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25])
ACCURACY = 0.6
REPEATS = 400


def independent(draw: np.random.Generator, n: int) -> np.ndarray:
    """Answers that have nothing to do with each other from one α to the next."""
    return draw.random((len(ALPHAS), n)) < ACCURACY


def mostly_alike(draw: np.random.Generator, n: int) -> np.ndarray:
    """Answers that are the same under all α, but for one in twenty."""
    return (draw.random(n) < ACCURACY) ^ (draw.random((len(ALPHAS), n)) < 0.05)


def drifting(draw: np.random.Generator, n: int) -> np.ndarray:
    """Answers that change with α evenly, as many to right as to wrong."""
    margin, slope = draw.normal(size=n), draw.normal(size=n)
    return margin + np.outer(ALPHAS - 1, slope) > 0


def deltas(make: Callable[[np.random.Generator, int], np.ndarray], n: int) -> list[Delta]:
    found: list[Delta] = []
    for seed in range(REPEATS):
        correct = make(np.random.default_rng([seed, n]), n)
        found += [delta_of(cross_validate(correct, ALPHAS, goal, seed=seed).differences, seed=seed) for goal in GOALS]
    return found


def main() -> None:
    print(f"{'answers':14} {'questions':>9} {'misses 0':>9} {'p < 0.05':>9} {'mean Δ':>9}")
    for make in (independent, mostly_alike, drifting):
        for n in (50, 200, 1000):
            found = deltas(make, n)
            missed = np.mean([not delta.low <= 0 <= delta.high for delta in found])
            small = np.mean([delta.p < 0.05 for delta in found])
            mean = np.mean([delta.delta for delta in found])
            print(f"{make.__name__:14} {n:9} {missed:9.3f} {small:9.3f} {mean:+9.4f}", flush=True)


if __name__ == "__main__":
    main()
