"""The figures of comparisons and trajectories: statistics of `plots/grid.py` and `plots/steps.py`, drawn there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tuco_lens.plots.curves import Curve
from tuco_lens.plots.grid import Grid
from tuco_lens.plots.groups import Groups
from tuco_lens.plots.steps import Steps
from tuco_lens.report.page import spoken
from tuco_lens.tunes.measured import ALL, group_masks, layer_means, tuco_array

if TYPE_CHECKING:
    from tuco_lens.results.measurement import Measurement
    from tuco_lens.tunes.comparison import TuneComparison
    from tuco_lens.tunes.trajectory import Trajectory


def prompt_grid(measurements: Mapping[Any, Measurement], groups: Sequence[str], key: str) -> Grid:
    """Tune (or step) × prompt: TuCo, prompts by group."""
    prompts = [spoken(item.prompt) for item in next(iter(measurements.values()))]
    order = [i for mask in _masks(groups).values() for i in np.flatnonzero(mask).tolist()]
    return Grid(
        tuco_array(measurements)[:, order],
        rows=tuple(map(str, measurements)),
        columns=tuple(prompts[i] for i in order),
        row_name=key,
        column_name="prompt",
        groups=tuple(str(groups[i]) for i in order) if len(set(groups)) > 1 else None,
        upward=key == "step",
    )


def layer_grid(measurements: Mapping[Any, Measurement], key: str) -> Grid:
    """Tune × layer, or layer × step: mean over prompts of TuCo so far at the last token."""
    means = layer_means(measurements)
    names, layers = tuple(map(str, measurements)), tuple(map(str, range(means.shape[1])))
    by_step = key == "step"
    return Grid(
        means.T if by_step else means,
        rows=layers if by_step else names,
        columns=names if by_step else layers,
        row_name="layer" if by_step else key,
        column_name=key if by_step else "layer",
        value="TuCo so far",
        upward=by_step,
        remark=f"mean over {len(next(iter(measurements.values())))} prompts, last token",
    )


def tuco_groups(comparison: TuneComparison, name: str = "") -> Groups:
    """TuCo by tune: histogram, ECDF and box plot."""
    values = dict(zip(comparison.names, comparison.tuco, strict=True))
    return Groups(values, name=f"TuCo of {name}" if name else "TuCo", by="tune")


def agreement_grid(comparison: TuneComparison) -> Grid:
    """Tune × tune: Spearman's ρ over all prompts."""
    frame = comparison.agreement
    names = comparison.names
    whole = ALL if len(set(comparison.groups)) > 1 else comparison.groups[0]
    chosen = frame[frame["group"] == whole]
    ends = {name: np.where(np.eye(len(names)) > 0, 1.0, np.nan) for name in ("rho", "low", "high")}
    for row in chosen.to_dict("records"):
        i, j = names.index(row["first"]), names.index(row["second"])
        for name, matrix in ends.items():
            matrix[i, j] = matrix[j, i] = row[name]
    return Grid(
        ends["rho"],
        rows=names,
        columns=names,
        value="Spearman's ρ",
        low=ends["low"],
        high=ends["high"],
        texts=[[f"{value:.2f}" if np.isfinite(value) else "–" for value in row] for row in ends["rho"]],
        form=".3f",
        diverging=True,
        title="How alike tunes rank prompts",
        remark=f"n = {len(comparison.groups)} prompts",
        zmin=-1.0,
        zmax=1.0,
    )


def step_curves(trajectory: Trajectory) -> Steps:
    """TuCo against step: the mean of each group with its interval over prompts, above what was logged."""
    table = trajectory.table
    parts = {group: table[table["group"] == group] for group in trajectory.group_names}
    curves = tuple(
        Curve(
            group,
            part["step"].to_numpy(),
            part["mean"].to_numpy(),
            part["low"].to_numpy(),
            part["high"].to_numpy(),
            part["n"].tolist(),
        )
        for group, part in parts.items()
    )
    return Steps(curves, trajectory.log)


def _masks(groups: Sequence[str]) -> dict[str, np.ndarray]:
    return {group: mask for group, mask in group_masks(groups).items() if group != ALL or len(set(groups)) == 1}
