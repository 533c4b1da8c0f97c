"""What a choice of α gains on questions that it was not chosen on: k-fold cross-validation, and how sure that is.

The paper's Δ_CV (§5.1): α is chosen on all folds but one, to maximise or to minimise accuracy, and the answers to the
one are counted; pooled over folds, that accuracy minus the accuracy at α = 1. Beside it an interval and a p-value,
which take the questions as the sample and the chosen α as given. All in numpy; `result.py` makes tables of it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

Goal = Literal["maximise", "minimise"]
GOALS: Final[tuple[Goal, ...]] = get_args(Goal)
N_RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class CrossValidation(Brief):
    """Out-of-fold answers of one task, for one goal."""

    differences: Int[np.ndarray, " question"]
    """For each question, right under the α of its fold minus right under α = 1: -1, 0 or 1."""
    alphas: tuple[float, ...]
    """The α chosen for each fold, from all others."""


@dataclass(frozen=True)
class Delta:
    """Δ_CV with its uncertainty; accuracies are shares, so 0.01 is a point."""

    delta: float
    """Out-of-fold accuracy minus accuracy at α = 1, in [-1, 1]."""
    low: float
    """Lower end of the bootstrap 95 % interval."""
    high: float
    """Upper end."""
    p: float
    """Paired permutation p-value, two-sided."""


def check_folds(n_questions: int, folds: int, name: str) -> None:
    """Raises `InputError` if so many questions cannot be cross-validated in so many folds."""
    if folds < 2:
        raise InputError(f"folds is {folds}", "α is chosen on all folds but one", "give at least 2")
    if n_questions < folds:
        why = f"it has {n_questions} questions, fewer than the {folds} folds"
        raise InputError(f"task {name}", why, "give more questions, or fewer folds")


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of a task: they depend on the seed and its name, and not on the tasks beside it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def cross_validate(
    correct: Bool[np.ndarray, "alpha question"],
    alphas: Float[np.ndarray, " alpha"],
    goal: Goal,
    *,
    folds: int = 5,
    seed: int = 0,
    name: str = "",
) -> CrossValidation:
    """Choose α on all folds but one, for each fold in turn.

    Of several α that are equally good, the one nearest to 1 is taken, and of two equally near the smaller: fine-tuning
    is changed only where that is seen to help.

    Args:
        correct: whether each question was answered right under each α.
        alphas: the α, with 1 among them.
        goal: whether α is to maximise or to minimise accuracy.
        folds: number of folds, into which the questions are shuffled.
        seed: of the shuffle.
        name: the task's name, which the shuffle depends on too.

    Raises:
        InputError: if there are fewer questions than folds.
    """
    n = correct.shape[1]
    check_folds(n, folds, name)
    parts = np.array_split(generator(seed, name).permutation(n), folds)
    totals = correct.sum(axis=1)  # [alpha]
    by_nearness = np.lexsort((alphas, np.round(np.abs(alphas - 1), 9)))  # indices of α, the nearest to 1 first
    sign = 1 if goal == "maximise" else -1
    at_one = correct[int(by_nearness[0])]
    differences = np.zeros(n, dtype=np.int64)
    chosen: list[float] = []
    for part in parts:
        elsewhere = sign * (totals - correct[:, part].sum(axis=1))
        best = int(by_nearness[np.argmax(elsewhere[by_nearness])])  # argmax takes the first of equals
        differences[part] = correct[best, part].astype(np.int64) - at_one[part]
        chosen.append(float(alphas[best]))
    return CrossValidation(differences, tuple(chosen))


def delta_of(differences: Int[np.ndarray, " question"], *, seed: int = 0, name: str = "") -> Delta:
    """Δ_CV of pooled questions, its bootstrap interval over questions, and its permutation p-value.

    Args:
        differences: for each question -1, 0 or 1, see `CrossValidation`.
        seed: of the bootstrap.
        name: of the task or group, which the draws depend on too.
    """
    n = len(differences)
    counts = np.array([(differences == value).sum() for value in (-1, 0, 1)])
    # Resampling n questions with replacement draws their three kinds of outcome from a multinomial, exactly.
    drawn = generator(seed, name).multinomial(n, counts / n, size=N_RESAMPLES)  # [resample, 3]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / n, [tail, 1 - tail])
    delta = (counts[2] - counts[0]) / n
    return Delta(float(delta), float(low), float(high), sign_flip_p(int(counts[2]), int(counts[0])))


def sign_flip_p(n_gained: int, n_lost: int) -> float:
    """Two-sided p-value of the paired permutation test: how often random signs give a sum as far from 0.

    Differences are -1, 0 or 1, so the sum over all sign flips follows a binomial law and the test needs no draws: this
    is its limit for ever more of them (and McNemar's exact test). It is above 0: the signs observed are among all.
    """
    if n_gained + n_lost == 0:
        return 1.0
    from scipy.stats import binomtest

    result: Any = binomtest(n_gained, n_gained + n_lost, 0.5)
    return float(result.pvalue)
