"""Scores as `stats/` takes them: finite numbers, of two classes of which neither is empty."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

CONFIDENCE: Final = 0.95
"""Confidence of every interval unless another is asked for."""
N_RESAMPLES: Final = 2000
"""Bootstrap resamples unless another number is asked for."""

Scores = Float[np.ndarray, " score"]


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class Classes(Brief):
    """The scores of two classes."""

    positive: Float[np.ndarray, " positive"]
    """Scores of the positive class; finite, at least one."""
    negative: Float[np.ndarray, " negative"]
    """Scores of the negative class; finite, at least one."""

    @cached_property
    def _distinct(self) -> tuple[int, Int[np.ndarray, " score"]]:
        distinct, places = np.unique(np.concatenate([self.positive, self.negative]), return_inverse=True)
        return len(distinct), places

    @property
    def n_distinct(self) -> int:
        """Number of different scores."""
        return self._distinct[0]

    @property
    def places(self) -> tuple[Int[np.ndarray, " positive"], Int[np.ndarray, " negative"]]:
        """For each score its place among the distinct ones, ascending."""
        places = self._distinct[1]
        return places[: len(self.positive)], places[len(self.positive) :]


def classes_of(positive: ArrayLike, negative: ArrayLike) -> Classes:
    """Two classes of scores.

    Raises:
        InputError: if one is empty, or a score is not finite.
    """
    return Classes(finite(positive, "positive scores"), finite(negative, "negative scores"))


def finite(values: ArrayLike, what: str) -> Scores:
    """Values as a flat float64 array.

    Raises:
        InputError: if there are none, or one is not finite; `what` names them.
    """
    try:
        array = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the {what} are no numbers", str(error), "give a list or an array of numbers") from error
    if not array.size:
        raise InputError(f"there are no {what}", "the list is empty", "give at least one")
    n_bad = int((~np.isfinite(array)).sum())
    if n_bad:
        why = f"{n_bad} of {array.size} are NaN or infinite"
        raise InputError(f"the {what} are not all finite", why, "leave those out, and say how many")
    return array


def check_options(confidence: float, n_resamples: int) -> None:
    """Raises `InputError` for a confidence that is no probability, or no resamples."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}", "it is a probability", "give one between 0 and 1, such as 0.95")
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}", "quantiles need draws", "give at least 1")


def normal_quantile(confidence: float) -> float:
    """How many standard errors a two-sided normal interval reaches to each side."""
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))
