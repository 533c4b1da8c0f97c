"""Whether one quantity rises or falls with another: Spearman's ρ with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tuco_lens.errors import InputError
from tuco_lens.stats.classes import CONFIDENCE, Scores, finite, normal_quantile
from tuco_lens.stats.words import Interval, in_words, p_text

TrendVerdict = Literal["rises", "falls", "no trend shown", "undefined"]


@dataclass(frozen=True)
class Trend(Interval):
    """Spearman's rank correlation: whether y rises or falls with x, in whatever shape.

    `value` is ρ, in [-1, 1], and 0 where x or y is constant.
    """

    p: float
    """Two-sided p-value of no association."""
    n: int
    """Number of points."""
    is_defined: bool
    """Whether there are two points or more, and x and y both vary."""

    @property
    def verdict(self) -> TrendVerdict:
        """What the interval allows to say."""
        if not self.is_defined:
            return "undefined"
        if self.low > 0:
            return "rises"
        return "falls" if self.high < 0 else "no trend shown"

    def summary(self, y: str = "y", x: str = "x") -> str:
        """A sentence that says no more than the interval allows."""
        if not self.is_defined:
            return f"No trend of {y} with {x} can be told: one of them does not vary (n = {self.n})."
        reading = {"rises": f"{y} rises with {x}", "falls": f"{y} falls with {x}"}.get(
            self.verdict, f"no trend of {y} with {x} shown, the interval contains 0"
        )
        return f"Spearman's ρ {in_words(self, sign='+')}, n = {self.n}, p {p_text(self.p)}: {reading}."


def trend(x: ArrayLike, y: ArrayLike, *, confidence: float = CONFIDENCE) -> Trend:
    """Whether y rises or falls with x: Spearman's ρ.

    The interval is that of Fisher's z with the variance of Bonett and Wright (2000). Where the order is perfect it
    would have no width: there z is taken at the last ρ below 1 that untied ranks can have. Of fewer than four points
    the interval is [-1, 1]. p is by all permutations up to seven points, and by Student's t beyond.

    Args:
        x: such as the number of shots, [n].
        y: such as TuCo, [n].
        confidence: of the interval.

    Raises:
        InputError: if the lengths differ, there are no points, or one is not finite.
    """
    xs, ys = finite(x, "x"), finite(y, "y")
    if len(xs) != len(ys):
        raise InputError("cannot tell a trend", f"there are {len(xs)} x and {len(ys)} y", "give pairs of them")
    n = len(xs)
    if np.ptp(xs) == 0 or np.ptp(ys) == 0:
        return Trend(0.0, -1.0, 1.0, confidence, 1.0, n, is_defined=False)
    rho, p = _spearman(xs, ys)
    low, high = _fisher_interval(rho, n, confidence) if n > 3 else (-1.0, 1.0)
    return Trend(rho, low, high, confidence, p, n, is_defined=True)


def _spearman(x: Scores, y: Scores) -> tuple[float, float]:
    from scipy.stats import permutation_test, rankdata, spearmanr

    n = len(x)
    found: Any = spearmanr(x, y)
    rho = min(1.0, max(-1.0, float(found.statistic)))
    if n > 7:
        return rho, max(float(found.pvalue), 2 / math.factorial(n))  # no permutation test could give less
    ranks = rankdata(x), rankdata(y)
    centred = ranks[1] - ranks[1].mean()

    def association(permuted: Any, axis: int = -1) -> Any:
        return (permuted * centred).sum(axis=axis)

    test: Any = permutation_test(
        (ranks[0] - ranks[0].mean(),), association, permutation_type="pairings", vectorized=True
    )
    return rho, float(test.pvalue)


def _fisher_interval(rho: float, n: int, confidence: float) -> tuple[float, float]:
    nearest = 1 - 12 / (n * (n**2 - 1))  # ρ of n untied ranks in order but for two neighbours
    z = math.atanh(max(-nearest, min(nearest, rho)))
    half = normal_quantile(confidence) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return min(rho, math.tanh(z - half)), max(rho, math.tanh(z + half))
