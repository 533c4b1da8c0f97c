"""Numbers with their intervals, and how summaries and labels write them: never narrower than they are."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A number and its interval."""

    value: float
    """The number."""
    low: float
    """Lower end of the interval; NaN where the sample is too small for one."""
    high: float
    """Upper end of the interval; NaN where the sample is too small for one."""
    confidence: float
    """Confidence of the interval, such as 0.95."""


def with_ends(estimate: Interval, sign: str = "") -> str:
    """Short: "0.930 [0.900, 0.951]"; with sign "+", positive numbers have one."""
    if math.isnan(estimate.low):
        return f"{estimate.value:{sign}.3f} (no interval)"
    low, high = outward(estimate.low, estimate.high)
    return f"{estimate.value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def in_words(estimate: Interval, sign: str = "") -> str:
    """Long: "0.930, 95 % interval 0.900 to 0.951"."""
    low, high = outward(estimate.low, estimate.high)
    interval = f"{100 * estimate.confidence:g} % interval {low:{sign}.3f} to {high:{sign}.3f}"
    return f"{estimate.value:{sign}.3f}, {interval}"


def outward(low: float, high: float, digits: int = 3) -> tuple[float, float]:
    """Rounded away from each other: a rounded interval must not leave out what the interval contains."""
    scale = 10**digits
    return math.floor(scale * low + 1e-9) / scale, math.ceil(scale * high - 1e-9) / scale


def p_text(p: float) -> str:
    """With its sign: "= 0.012", "< 1e-15"."""
    return "< 1e-15" if p < 1e-15 else f"= {p:.2g}"
