"""Shares, means, paired differences and quantiles with their intervals, and Holm's correction of several p-values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from tuco_lens.errors import InputError
from tuco_lens.stats.classes import CONFIDENCE, finite
from tuco_lens.stats.words import Interval, with_ends


@dataclass(frozen=True)
class Estimate(Interval):
    """A number with its interval and the size of its sample."""

    n: int
    """Size of the sample."""

    @property
    def label(self) -> str:
        """Estimate, interval and n, for legends and tables."""
        return f"{with_ends(self)}, n = {self.n}"


@dataclass(frozen=True)
class Rate(Estimate):
    """A share in [0, 1]."""


@dataclass(frozen=True)
class PairedDifference(Estimate):
    """The mean difference of two values of the same cases, first minus second."""

    p: float
    """Two-sided p-value of a mean difference of 0; NaN for a single case, and 1 where all cases are equal."""

    @property
    def label(self) -> str:
        """Difference, interval and n, for legends and tables."""
        return f"{with_ends(self, sign='+')}, n = {self.n}"


@dataclass(frozen=True)
class Summary:
    """Mean and quantiles of the values that are there."""

    n: int
    """Values counted."""
    n_missing: int
    """Values that are NaN, counted nowhere else."""
    mean: float
    """Arithmetic mean."""
    minimum: float
    """Least value."""
    q25: float
    """First quartile, linearly interpolated."""
    median: float
    """Median."""
    q75: float
    """Third quartile."""
    maximum: float
    """Largest value."""


def rate(k: int, n: int, *, confidence: float = CONFIDENCE) -> Rate:
    """The share of `k` in `n` with Wilson's interval.

    Raises:
        InputError: if there is nothing to take a share of, or `k` is not in 0 … `n`.
    """
    low, high = rate_interval(k, n, confidence=confidence)
    return Rate(k / n, low, high, confidence, n)


def rate_interval(k: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share of `k` in `n` (Wilson 1927).

    Raises:
        InputError: if there is nothing to take a share of, or `k` is not in 0 … `n`.
    """
    if n < 1 or not 0 <= k <= n:
        raise InputError(f"no share of {k} in {n}", "it takes one or more cases", "give 0 ≤ k ≤ n with n of at least 1")
    return _wilson(k, n, confidence)


@lru_cache(maxsize=1 << 14)
def _wilson(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Kept, since scipy tests a hypothesis before it gives the interval, and a page of ROC bands asks for thousands."""
    from scipy.stats import binomtest

    interval: Any = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """The mean with Student's interval; of a single value the interval's ends are NaN.

    Raises:
        InputError: if there are no values, or one is not finite.
    """
    from scipy.stats import sem, t

    there = finite(values, "values")
    n, mean = len(there), float(there.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, confidence, n)
    half: float = float(t.ppf((1 + confidence) / 2, n - 1)) * float(sem(there))
    return Estimate(mean, mean - half, mean + half, confidence, n)


def paired_difference(first: ArrayLike, second: ArrayLike, *, confidence: float = CONFIDENCE) -> PairedDifference:
    """The mean of first − second over the same cases, with Student's interval and paired t-test.

    Args:
        first: one value per case, [n].
        second: the other value of the same cases, [n].
        confidence: of the interval.

    Raises:
        InputError: if the lengths differ, there are no cases, or a value is not finite.
    """
    from scipy.stats import t

    one, other = finite(first, "first values"), finite(second, "second values")
    if len(one) != len(other):
        raise InputError("no paired difference", f"{len(one)} and {len(other)} values", "give pairs of them")
    found = mean_interval(one - other, confidence=confidence)
    spread = float(np.std(one - other, ddof=1) / math.sqrt(found.n)) if found.n > 1 else math.nan
    if spread == 0:
        p = 1.0 if found.value == 0 else 0.0
    else:
        p = 2 * float(t.sf(abs(found.value) / spread, max(1, found.n - 1)))
    return PairedDifference(found.value, found.low, found.high, confidence, found.n, p)


def summarise(values: ArrayLike) -> Summary:
    """Mean and quartiles; NaN is missing and counted as such.

    Raises:
        InputError: if no value is left, or one is infinite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    missing: Bool[np.ndarray, " value"] = np.isnan(array)
    there = finite(array[~missing], "values")
    quantiles: list[float] = np.quantile(there, [0, 0.25, 0.5, 0.75, 1]).tolist()
    return Summary(len(there), int(missing.sum()), float(there.mean()), *quantiles)


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P-values after Holm's step-down correction, in the order given (Holm 1979); NaN is no test, and stays NaN."""
    there = np.flatnonzero(~np.isnan(p_values))
    n = len(there)
    order = there[np.argsort(p_values[there], kind="stable")]
    stepped = np.minimum(1.0, np.maximum.accumulate(p_values[order] * (n - np.arange(n))))
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = stepped
    return corrected
