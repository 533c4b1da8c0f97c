"""Numbers as the summaries and labels of `stats/` write them: an interval never looks narrower than it is."""

from __future__ import annotations

import math
from typing import Protocol


class Interval(Protocol):
    """A number and its interval."""

    @property
    def value(self) -> float:
        """The number."""
        ...

    @property
    def low(self) -> float:
        """Lower end."""
        ...

    @property
    def high(self) -> float:
        """Upper end."""
        ...

    @property
    def confidence(self) -> float:
        """Confidence, such as 0.95."""
        ...


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
