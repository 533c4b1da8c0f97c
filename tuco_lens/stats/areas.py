"""How well a score tells two classes apart (AUC), whether another does it better, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from tuco_lens.errors import InputError
from tuco_lens.stats.classes import CONFIDENCE, N_RESAMPLES, Classes, Scores, check_options, classes_of, normal_quantile
from tuco_lens.stats.resampling import p_of_draws, quantiles, resampled_aucs
from tuco_lens.stats.words import Interval, in_words, p_text, with_ends

SMALL_CLASS: Final = 50
"""With fewer scores in a class than this, the interval of an AUC takes in Newcombe's; see `auc`."""

Method = Literal["delong", "bootstrap"]
IntervalMethod = Literal["delong", "bootstrap", "newcombe", "undefined"]
AucVerdict = Literal["separates", "reversed", "no separation shown", "undefined"]
DifferenceVerdict = Literal["first is higher", "second is higher", "no difference shown", "undefined"]
Paired = tuple[ArrayLike, ArrayLike]
"""Scores of the positive and of the negative class, each in the order of the prompts."""


@dataclass(frozen=True)
class Auc(Interval):
    """The area under a ROC curve: the probability that a positive's score is above a negative's, ties counting half.

    `value` is in [0, 1], and 0.5 where all scores are equal.
    """

    p: float
    """Mann-Whitney p-value, two-sided. It tests that both classes have one distribution, which is more than AUC 0.5."""
    n_positive: int
    """Number of positive scores."""
    n_negative: int
    """Number of negative scores."""
    method: IntervalMethod
    """How the interval was made, which may differ from what was asked for; see `auc`."""

    @property
    def is_defined(self) -> bool:
        """Whether the scores differ at all."""
        return self.method != "undefined"

    @property
    def verdict(self) -> AucVerdict:
        """What the interval allows to say."""
        if not self.is_defined:
            return "undefined"
        if self.low > 0.5:
            return "separates"
        return "reversed" if self.high < 0.5 else "no separation shown"

    @property
    def label(self) -> str:
        """AUC, interval and n of each class, for legends and tables."""
        n = f"n = {self.n_positive} + {self.n_negative}"
        return f"AUC {with_ends(self)}, {n}" if self.is_defined else f"AUC undefined, all scores equal, {n}"

    def summary(self, positive: str = "positive", negative: str = "negative") -> str:
        """A sentence that says no more than the interval allows; the classes by their names."""
        n = f"n = {self.n_positive} {positive} and {self.n_negative} {negative}"
        if not self.is_defined:
            return f"AUC undefined: all scores are equal ({n})."
        reading = {
            "separates": f"separates, scores are higher for {positive} than for {negative}",
            "reversed": f"reversed, scores are lower for {positive} than for {negative}",
        }.get(self.verdict, "no separation shown, the interval contains 0.5")
        return f"AUC {in_words(self)}, {n}, Mann-Whitney p {p_text(self.p)}: {reading}."


@dataclass(frozen=True)
class AucDifference(Interval):
    """The AUC of a first score minus that of a second on the same prompts, in [-1, 1]."""

    p: float
    """Two-sided p-value of a difference of 0, by the same method as the interval."""
    first: Auc
    """AUC of the first score."""
    second: Auc
    """AUC of the second score."""
    method: IntervalMethod
    """How the interval was made; see `auc_difference`."""

    @property
    def is_defined(self) -> bool:
        """Whether both AUCs are."""
        return self.method != "undefined"

    @property
    def verdict(self) -> DifferenceVerdict:
        """What the interval allows to say."""
        if not self.is_defined:
            return "undefined"
        if self.low > 0:
            return "first is higher"
        return "second is higher" if self.high < 0 else "no difference shown"

    @property
    def label(self) -> str:
        """Difference and interval, for tables."""
        return with_ends(self, sign="+") if self.is_defined else "undefined"

    def summary(self, first: str = "the first score", second: str = "the second score") -> str:
        """A sentence that says no more than the interval allows; the scores by their names."""
        n = f"n = {self.first.n_positive} + {self.first.n_negative}"
        if not self.is_defined:
            equal = second if self.first.is_defined else first
            return f"The difference of AUC between {first} and {second} is undefined: {equal} is constant ({n})."
        reading = {
            "first is higher": f"{first} separates better than {second}",
            "second is higher": f"{second} separates better than {first}",
        }.get(self.verdict, "no difference shown, the interval contains 0")
        return f"AUC of {first} minus {second} {in_words(self, sign='+')}, {n}, p {p_text(self.p)}: {reading}."


def auc(
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    method: Method = "delong",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Auc:
    """How well a score tells two classes apart.

    "delong": the variance of DeLong, DeLong and Clarke-Pearson (1988), on the logit scale, so that the interval stays
    in [0, 1], with Student's quantile at Satterthwaite's degrees of freedom, as in Brunner and Munzel's test (2000).
    "bootstrap": quantiles of the AUC of resamples, drawn with replacement within each class.

    Both are too narrow where one class is small, and have no width where it has a single score or no score is out of
    order (AUC 0 or 1). Newcombe's interval (2006, method 5) holds there: it solves |AUC − θ| = z·√V(θ), as Wilson's
    does for a share. It takes their place where they have no width; with fewer than 50 scores in a class the interval
    takes in both. Where all scores are equal nothing can be said: the AUC is 0.5 by definition, its interval [0, 1],
    and its verdict "undefined".

    The interval takes in 0.5 wherever the Mann-Whitney test, exact for few scores, does not reject that both classes
    have one distribution: three in order against three are not shown to be separated.

    Args:
        positive: scores of the positive class, [n_positive].
        negative: scores of the negative class, [n_negative].
        confidence: of the interval.
        method: "delong" or "bootstrap".
        seed: of the bootstrap.
        n_resamples: number of resamples of the bootstrap.

    Raises:
        InputError: for an empty class, a score that is not finite, or an unknown option.
    """
    check_options(confidence, n_resamples)
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}", "there are delong and bootstrap", "name one of them")
    classes = classes_of(positive, negative)
    value, p = _mann_whitney(classes)
    actual = _interval_method(classes, value, method)
    if actual == "undefined":
        low, high = 0.0, 1.0
    elif actual == "newcombe":
        low, high = _newcombe(value, classes, confidence)
    elif actual == "delong":
        low, high = _logit_interval(value, _delong(classes), confidence)
    else:
        low, high = quantiles(resampled_aucs([classes], n_resamples, seed)[0], confidence)
    sizes = len(classes.positive), len(classes.negative)
    if min(sizes) < SMALL_CLASS and actual in get_args(Method):
        wider = _newcombe(value, classes, confidence)
        low, high = min(low, wider[0]), max(high, wider[1])
    if p >= 1 - confidence:
        low, high = min(low, 0.5), max(high, 0.5)
    return Auc(value, min(low, value), max(high, value), confidence, p, *sizes, actual)


def auc_difference(
    first: Paired,
    second: Paired,
    *,
    confidence: float = CONFIDENCE,
    method: Method = "delong",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> AucDifference:
    """Which of two scores tells the same prompts apart better.

    "delong": with DeLong's covariance of the two AUCs, and degrees of freedom as in `auc`. "bootstrap": quantiles over
    resamples of prompts, both scores of a prompt drawn together; p is twice the smaller share of resamples on either
    side of 0. Where the interval of one of the AUCs is Newcombe's alone, that of the difference is made of the two
    AUCs' own intervals as if they were independent (MOVER, Zou and Donner 2008), which is wider: method "newcombe".

    Args:
        first: scores of the positive and of the negative prompts, ([n_positive], [n_negative]).
        second: another score of the same prompts, in the same order.
        confidence: of the interval.
        method: "delong" or "bootstrap".
        seed: of the bootstrap.
        n_resamples: number of resamples of the bootstrap.

    Raises:
        InputError: as `auc`; and if the two do not have equally many scores in each class.
    """
    one, other = classes_of(*first), classes_of(*second)
    _check_paired(one, other)
    options: dict[str, Any] = {"confidence": confidence, "method": method, "seed": seed, "n_resamples": n_resamples}
    a, b = auc(one.positive, one.negative, **options), auc(other.positive, other.negative, **options)
    value = a.value - b.value
    actual: IntervalMethod = method if a.method == b.method == method else "newcombe"
    if not (a.is_defined and b.is_defined):
        actual, low, high, p = "undefined", -1.0, 1.0, 1.0
    elif actual == "newcombe":
        low, high, p = _independent_difference(a, b)
    elif actual == "delong":
        low, high, p = _student_difference(value, _delong(one, other), confidence)
    else:
        drawn = resampled_aucs([one, other], n_resamples, seed)
        low, high, p = *quantiles(drawn[0] - drawn[1], confidence), p_of_draws(drawn[0] - drawn[1])
    low, high = max(-1.0, min(low, value)), min(1.0, max(high, value))
    return AucDifference(value, low, high, confidence, p, a, b, actual)


def _check_paired(one: Classes, other: Classes) -> None:
    for name, a, b in (("positive", one.positive, other.positive), ("negative", one.negative, other.negative)):
        if len(a) != len(b):
            why = f"the first has {len(a)} {name} scores and the second {len(b)}"
            raise InputError("cannot compare the two scores", why, "give both scores of the same prompts, in one order")


def _mann_whitney(classes: Classes) -> tuple[float, float]:
    """AUC = U / (n_positive · n_negative), and the test's two-sided p-value."""
    from scipy.stats import mannwhitneyu

    result: Any = mannwhitneyu(classes.positive, classes.negative, alternative="two-sided")
    return float(result.statistic) / (len(classes.positive) * len(classes.negative)), float(result.pvalue)


def _interval_method(classes: Classes, value: float, asked: Method) -> IntervalMethod:
    if classes.n_distinct == 1:
        return "undefined"
    if value in (0.0, 1.0) or min(len(classes.positive), len(classes.negative)) < 2:
        return "newcombe"
    return asked


def _delong_components(classes: Classes) -> tuple[Scores, Scores]:
    """For each positive the share of negatives below it, for each negative that of positives above it.

    By ranks, after Sun and Xu (2014).
    """
    from scipy.stats import rankdata

    m, n = len(classes.positive), len(classes.negative)
    pooled = rankdata(np.concatenate([classes.positive, classes.negative]))
    above = (pooled[:m] - rankdata(classes.positive)) / n
    below = 1 - (pooled[m:] - rankdata(classes.negative)) / m
    return above, below


@dataclass(frozen=True)
class _Spread:
    """How far an AUC, or a difference of two, is from its expectation."""

    variance: float
    """DeLong's variance."""
    df: float
    """Satterthwaite's degrees of freedom."""

    def half_width(self, confidence: float) -> float:
        """Half the interval's width, on the scale of the AUC."""
        from scipy.stats import t

        return float(t.ppf((1 + confidence) / 2, self.df)) * math.sqrt(self.variance)


def _delong(first: Classes, second: Classes | None = None) -> _Spread:
    """Of an AUC, or of the difference of two AUCs on the same prompts; each class has two prompts or more.

    The variance of a difference of components is DeLong's var(first) + var(second) - 2 cov, without cancellation.
    """
    components = _delong_components(first)
    if second is not None:
        components = tuple(a - b for a, b in zip(components, _delong_components(second), strict=True))
    parts = [float(np.var(each, ddof=1)) / len(each) for each in components]  # of positives, of negatives
    if not any(parts):
        return _Spread(0.0, math.inf)
    df = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, components, strict=True))
    return _Spread(sum(parts), df)


def _logit_interval(value: float, spread: _Spread, confidence: float) -> tuple[float, float]:
    from scipy.special import expit, logit

    half = spread.half_width(confidence) / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def _newcombe(value: float, classes: Classes, confidence: float) -> tuple[float, float]:
    """Both solutions θ of |value − θ| = z·√V(θ), V being Hanley and McNeil's variance with equal mean class sizes."""
    from scipy.optimize import brentq

    m, n = len(classes.positive), len(classes.negative)
    z, other_pairs = normal_quantile(confidence), (m + n) / 2 - 1

    def lower(auc: float) -> float:
        def excess(theta: float) -> float:
            spread = 1 + other_pairs * ((1 - theta) / (2 - theta) + theta / (1 + theta))
            return auc - theta - z * math.sqrt(theta * (1 - theta) * spread / (m * n))

        # At θ = 1 = auc both sides are 0, which is not the solution that is meant.
        solution: Any = brentq(excess, 0.0, min(auc, 1 - 1e-12)) if auc > 0 else 0.0
        return float(solution)

    return lower(value), 1 - lower(1 - value)


def _student_difference(value: float, spread: _Spread, confidence: float) -> tuple[float, float, float]:
    """Interval and p-value of a difference with DeLong's variance."""
    from scipy.stats import t

    half = spread.half_width(confidence)
    if value == 0 or not spread.variance:
        return value - half, value + half, 1.0 if value == 0 else 0.0
    return value - half, value + half, float(2 * t.sf(abs(value) / math.sqrt(spread.variance), spread.df))


def _independent_difference(a: Auc, b: Auc) -> tuple[float, float, float]:
    """Interval and p-value of a difference, from the intervals of both AUCs."""
    from scipy.stats import norm

    value = a.value - b.value
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    # The p-value is below 1 - confidence just where the interval leaves out 0.
    p = 2 * norm.sf(normal_quantile(a.confidence) * abs(value) / (below if value > 0 else above)) if value else 1.0
    return value - below, value + above, float(p)
