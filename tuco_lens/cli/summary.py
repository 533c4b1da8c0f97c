"""What `tuco-lens measure` says on stdout about all its rows."""

from __future__ import annotations

from typing import Final

from tuco_lens.cli.terminal import complain, say, show_table
from tuco_lens.runs.summary import Spread, Summary

_NAMES: Final = {"tuco": "TuCo", "beta": "β", "output_co": "OutputCo"}


def show_summary(summary: Summary, dtype: str) -> None:
    """Prints counts and spreads; says on stderr if values are too small for the dtype of the weights."""
    say(f"{summary.n_prompts} prompts, {summary.n_tokens} tokens")
    rows = ([_NAMES[column], *_cells(spread)] for column, spread in summary.spreads.items())
    show_table([("", False), ("mean", True), ("min", True), ("max", True)], rows)
    if summary.n_below_floor:
        remedy = "read them as 0" if dtype in ("float32", "float64") else "measure with --dtype float32"
        few = f"{summary.n_below_floor} of {summary.n_prompts} TuCo values"
        complain("warning", f"{few} lie under the noise floor of {dtype}; {remedy}")


def _cells(spread: Spread) -> list[str]:
    if spread.n_values == 0:
        return ["–", "–", "–"]
    return [f"{value:.4f}" for value in (spread.mean, spread.low, spread.high)]
