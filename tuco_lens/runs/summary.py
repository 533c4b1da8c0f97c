"""All rows of a run in a few numbers, read one by one: counts, mean and range, nothing per prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SPREAD_COLUMNS: Final = ("tuco", "beta", "output_co")
"""Columns that a summary has a `Spread` of, where the rows have them."""


@dataclass
class Spread:
    """Mean and range of the finite values of a column."""

    n_values: int = 0
    """How many."""
    total: float = 0.0
    """Their sum."""
    low: float = math.inf
    """The least."""
    high: float = -math.inf
    """The greatest."""

    def add(self, value: float | None) -> None:
        """Counts a value; None is skipped."""
        if value is not None:
            self.n_values += 1
            self.total += value
            self.low, self.high = min(self.low, value), max(self.high, value)

    @property
    def mean(self) -> float:
        """NaN if there are no values."""
        return self.total / self.n_values if self.n_values else math.nan


@dataclass
class Summary:
    """Counts and spreads of the rows of a run."""

    n_prompts: int = 0
    """Rows."""
    n_failed: int = 0
    """Rows of prompts that could not be measured."""
    first_error: str | None = None
    """What the first of those says."""
    n_tokens: int = 0
    """Tokens of all prompts."""
    n_below_floor: int = 0
    """Positive TuCo values under the noise floor."""
    spreads: dict[str, Spread] = field(default_factory=dict[str, Spread])
    """By column."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], *, floor: float) -> Summary:
        """The summary of rows, which are not kept.

        Args:
            rows: As in a result file.
            floor: TuCo below which the dtype of the weights does not resolve it.
        """
        summary = cls()
        for row in rows:
            summary.n_prompts += 1
            if row.get("error") is not None:
                summary.n_failed += 1
                summary.first_error = summary.first_error or row["error"]
                continue
            summary.n_tokens += row["n_tokens"]
            summary.n_below_floor += row["tuco"] is not None and 0 < row["tuco"] < floor
            for column in SPREAD_COLUMNS:
                if column in row:
                    summary.spreads.setdefault(column, Spread()).add(row[column])
        return summary
