"""What `tuco-lens measure` says on stdout about all rows, read one by one: mean and range, nothing per prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tuco_lens.cli.terminal import complain, say, show_table

NAMES: Final = {"tuco": "TuCo", "beta": "β", "output_co": "OutputCo"}


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
        """Counts a value; None is none."""
        if value is not None:
            self.n_values += 1
            self.total += value
            self.low, self.high = min(self.low, value), max(self.high, value)

    def cells(self) -> list[str]:
        """Mean, least and greatest, as shown."""
        if self.n_values == 0:
            return ["–", "–", "–"]
        return [f"{value:.4f}" for value in (self.total / self.n_values, self.low, self.high)]


@dataclass
class Summary:
    """Counts and spreads of the rows of a run."""

    n_prompts: int = 0
    """Rows."""
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
            summary.n_tokens += row["n_tokens"]
            summary.n_below_floor += row["tuco"] is not None and 0 < row["tuco"] < floor
            for column in NAMES:
                if column in row:
                    summary.spreads.setdefault(column, Spread()).add(row[column])
        return summary

    def show(self) -> None:
        """Prints counts and spreads."""
        say(f"{self.n_prompts} prompts, {self.n_tokens} tokens")
        rows = ([NAMES[column], *spread.cells()] for column, spread in self.spreads.items())
        show_table([("", False), ("mean", True), ("min", True), ("max", True)], rows)

    def warn_below_floor(self, dtype: str) -> None:
        """Says on stderr if values are too small for the dtype of the weights."""
        if self.n_below_floor:
            remedy = "read them as 0" if dtype in ("float32", "float64") else "measure with --dtype float32"
            text = (
                f"{self.n_below_floor} of {self.n_prompts} TuCo values lie under the noise floor of {dtype}; {remedy}"
            )
            complain("warning", text)
