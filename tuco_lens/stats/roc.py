"""ROC curves, their bands, and the true positive rate at a given false positive rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.stats.classes import CONFIDENCE, N_RESAMPLES, Classes, check_options, classes_of
from tuco_lens.stats.estimates import Rate, rate_interval
from tuco_lens.stats.resampling import quantiles, resampled_curves, resampled_tprs


@dataclass(frozen=True)
class TprAtFpr(Rate):
    """The true positive rate at a false positive rate; `value` is the rate and `n` the number of positives."""

    fpr: float
    """The highest false positive rate allowed."""
    threshold: float
    """Scores at or above it are called positive; infinite where only calling nothing positive keeps to `fpr`."""
    n_negative: int
    """Number of negatives."""


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class RocPoints(Brief):
    """A ROC curve's corners, from (0, 0) to (1, 1); a slanted line between two is a tie across the classes."""

    fpr: Float[np.ndarray, " threshold"]
    """False positive rate at each threshold, rising."""
    tpr: Float[np.ndarray, " threshold"]
    """True positive rate at each threshold, rising."""
    threshold: Float[np.ndarray, " threshold"]
    """Scores at or above it are called positive; falling, the first one infinite."""


@dataclass(frozen=True, eq=False)
class RocBand(Brief):
    """Pointwise intervals of the true positive rate along a ROC curve."""

    fpr: Float[np.ndarray, " point"]
    """False positive rates, rising from 0 to 1."""
    low: Float[np.ndarray, " point"]
    """Lower end of the TPR's interval."""
    high: Float[np.ndarray, " point"]
    """Upper end of the TPR's interval."""
    confidence: float
    """Confidence at each point by itself."""


def tpr_at_fpr(
    positive: ArrayLike,
    negative: ArrayLike,
    fpr: float = 0.05,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> TprAtFpr:
    """The share of positives found at a threshold that calls at most `fpr` of the negatives positive.

    It is the best rate of a threshold that exists; nothing is interpolated. With fewer than 1 / `fpr` negatives none
    may be called positive. The interval takes in both the quantiles over a bootstrap within each class, the threshold
    chosen anew in each resample, and Wilson's interval at the threshold found: the bootstrap alone has no width where
    the classes do not overlap.

    Args:
        positive: scores of the positive class, [n_positive].
        negative: scores of the negative class, [n_negative].
        fpr: the highest false positive rate, in [0, 1].
        confidence: of the interval.
        seed: of the bootstrap.
        n_resamples: number of resamples of the bootstrap.

    Raises:
        InputError: for an empty class, a score that is not finite, or an `fpr` outside [0, 1].
    """
    check_options(confidence, n_resamples)
    if not 0 <= fpr <= 1:
        raise InputError(f"fpr is {fpr}", "it is a share of the negatives", "give a number from 0 to 1")
    classes = classes_of(positive, negative)
    points = _points(classes, every_threshold=True)
    n_positive, n_negative = len(classes.positive), len(classes.negative)
    best = int(np.flatnonzero(points.fpr <= fpr + 1e-12)[-1])
    value = float(points.tpr[best])
    wilson = rate_interval(round(value * n_positive), n_positive, confidence=confidence)
    drawn = quantiles(resampled_tprs(classes, fpr, n_resamples, seed), confidence)
    low, high = min(wilson[0], drawn[0]), max(wilson[1], drawn[1])
    return TprAtFpr(value, low, high, confidence, n_positive, fpr, float(points.threshold[best]), n_negative)


def roc_points(positive: ArrayLike, negative: ArrayLike) -> RocPoints:
    """The ROC curve of two classes, its straight stretches without the points between.

    Raises:
        InputError: for an empty class, or a score that is not finite.
    """
    return _points(classes_of(positive, negative))


def roc_band(
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    n_points: int = 101,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> RocBand:
    """How sure a ROC curve is: at each false positive rate, an interval of the true positive rate.

    Pointwise quantiles over a bootstrap within each class, widened to Wilson's interval of the curve's own TPR, as in
    `tpr_at_fpr`; between thresholds the curves are straight.

    Args:
        positive: scores of the positive class, [n_positive].
        negative: scores of the negative class, [n_negative].
        n_points: number of false positive rates, evenly spaced from 0 to 1.
        confidence: of the interval at each point by itself; the whole curve lies within with less.
        seed: of the bootstrap.
        n_resamples: number of resamples.

    Raises:
        InputError: for an empty class, or a score that is not finite.
    """
    check_options(confidence, n_resamples)
    classes = classes_of(positive, negative)
    points = roc_points(positive, negative)
    grid = np.linspace(0, 1, n_points)
    n = len(classes.positive)
    found: list[float] = (np.interp(grid, points.fpr, points.tpr) * n).tolist()  # positives, in parts within a tie
    wilson_low = [rate_interval(math.floor(k + 1e-9), n, confidence=confidence)[0] for k in found]
    wilson_high = [rate_interval(math.ceil(k - 1e-9), n, confidence=confidence)[1] for k in found]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_curves(classes, grid, n_resamples, seed), [tail, 1 - tail], axis=0)
    return RocBand(grid, np.minimum(low, wilson_low), np.maximum(high, wilson_high), confidence)


def _points(classes: Classes, *, every_threshold: bool = False) -> RocPoints:
    from sklearn.metrics import roc_curve

    labels = np.repeat([1, 0], [len(classes.positive), len(classes.negative)])
    scores = np.concatenate([classes.positive, classes.negative])
    return RocPoints(*roc_curve(labels, scores, drop_intermediate=not every_threshold))
