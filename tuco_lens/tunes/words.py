"""What comparisons and trajectories say in words: no more than their intervals and corrected tests allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tuco_lens.plots.labels import readable
from tuco_lens.tunes.measured import half_step

if TYPE_CHECKING:
    from tuco_lens.tunes.comparison import TuneComparison
    from tuco_lens.tunes.trajectory import Trajectory

SIGNIFICANCE: Final = 0.05
"""Corrected p-value below which two tunes are told apart."""
NOT_APART: Final = "not told apart"
_NAME: Final = 60


def verdict(difference: float, p_holm: float) -> str:
    """What a corrected test allows to say of a difference, first minus second."""
    if not p_holm < SIGNIFICANCE:  # nor where there is no p
        return NOT_APART
    return "first is higher" if difference > 0 else "second is higher"


def comparison_summary(found: TuneComparison) -> str:
    """The means by group, which tunes are told apart, and how many were left out."""
    parts = [_means(found, group) for group in found.group_names]
    if len(found.names) > 1:
        parts.append(_told_apart(found))
    if found.left_out:
        names = ", ".join(readable(name, _NAME) for name in found.left_out)
        parts.append(f"{len(found.left_out)} left out: {names}.")
    return " ".join(parts)


def trajectory_summary(found: Trajectory) -> str:
    """For each group where TuCo is at the last step, and when half of that was reached; then what was left out."""
    table = found.table
    parts: list[str] = []
    for group in found.group_names:
        rows = table[table["group"] == group]
        last = rows.iloc[-1]
        half = half_step(rows["step"].to_numpy(), rows["mean"].to_numpy())
        when = f"half of that at step {half:.0f}" if np.isfinite(half) else "no half of that to be reached"
        ends = f"{last['mean']:.4f} [{last['low']:.4f}, {last['high']:.4f}]"
        parts.append(f"{readable(group, _NAME)} (n = {last['n']}): mean TuCo {ends} at step {last['step']}, {when}.")
    if found.left_out:
        parts.append(f"{len(found.left_out)} steps left out: {', '.join(found.left_out)}.")
    return " ".join(parts)


def _means(found: TuneComparison, group: str) -> str:
    rows = found.table[found.table["group"] == group].sort_values("mean", ascending=False, kind="stable")
    listed = [
        f"{readable(row['tune'], _NAME)} {row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        for row in rows.to_dict("records")
    ]
    return f"{readable(group, _NAME)} (n = {rows['n'].max()}): {', '.join(listed)}."


def _told_apart(found: TuneComparison) -> str:
    frame = found.differences
    apart: list[str] = []
    for row in frame[frame["verdict"] != NOT_APART].to_dict("records"):
        if row["group"] not in found.group_names:
            continue
        first, second = (readable(row[name], _NAME) for name in ("first", "second"))
        above, below = (first, second) if row["difference"] > 0 else (second, first)
        apart.append(f"{above} above {below} on {readable(row['group'], _NAME)}")
    tested = f"p < {SIGNIFICANCE:g}, Holm over {len(frame)} paired tests"
    return f"Told apart ({tested}): {', '.join(apart)}." if apart else f"No two tunes are told apart ({tested})."
