"""Measurements of the same prompts by several tunes, and the groups that the prompts are of.

What `comparison.py` and `trajectory.py` have in common: the checks, the rows of their files, and the table of means.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Bool, Float

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.chats import check_text
from tuco_lens.prompts.prompt import PromptLike, as_prompt_list

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.results.measurement import Measurement

ALL: Final = "all"
"""Name of all groups together, in tables; there only where there are several."""
ONE_GROUP: Final = "prompts"
"""Name of the only group of prompts that were given as a list."""
QUANTILES: Final = {"q10": 0.1, "median": 0.5, "q90": 0.9}

Measurements = Mapping[Any, "Measurement"]


class OfPrompts(Brief):
    """Measurements of the same prompts, which are of groups: what a comparison and a trajectory both are."""

    measurements: Measurements
    """By tune, or by step."""
    groups: tuple[str, ...]
    """The group of each prompt, [n_prompts]."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups of prompts, in the order that they first appear in."""
        return tuple(dict.fromkeys(self.groups))

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts, as they were read for every tune or step."""
        return tuple(item.prompt for item in next(iter(self.measurements.values())))

    @cached_property
    def tuco(self) -> Float[np.ndarray, "tune prompt"]:
        """TuCo of every prompt by every tune (or at every step), [n_tunes, n_prompts]."""
        return tuco_array(self.measurements)


def grouped(prompts: PromptLike | Sequence[PromptLike] | Mapping[str, Any]) -> tuple[list[PromptLike], tuple[str, ...]]:
    """The prompts one after another, and the group of each; a mapping has the prompts of its groups.

    Raises:
        InputError: if there is none, or a group is empty or called "all".
    """
    is_mapping = isinstance(prompts, Mapping) and "messages" not in prompts  # that one is a chat
    named = cast("Mapping[str, Any]", prompts) if is_mapping else {ONE_GROUP: prompts}
    if not named:
        raise InputError("no prompts", "there is no group of them", "give at least one")
    listed: list[PromptLike] = []
    groups: list[str] = []
    for name, given in named.items():
        check_text(str(name), "the name of a group")
        if is_mapping and not given:
            raise InputError(f"the group {name!r} has no prompts", "it is empty", "leave it out, or give it one")
        if name == ALL and len(named) > 1:
            raise InputError("a group is called 'all'", "tables call all groups together so", "give it another name")
        listed += as_prompt_list(given)
        groups += [str(name)] * (len(listed) - len(groups))
    return listed, tuple(groups)


def check_alike(measurements: Measurements, groups: Sequence[str]) -> None:
    """Raises `InputError` if the measurements are not of the same prompts, tokens, norm and number of layers."""
    if not measurements:
        raise InputError("nothing to compare", "there is no measurement", "give at least one")
    first_name, first = next(iter(measurements.items()))
    if len(groups) != len(first):
        raise InputError(
            "groups", f"there are {len(groups)} of them and {len(first)} prompts", "give the group of each"
        )
    ids = [item.prompt.token_ids for item in first]
    for name, each in measurements.items():
        differs = _difference(first, each, ids)
        if differs is not None:
            raise InputError(f"cannot compare {first_name!r} and {name!r}", differs, "measure both alike")


def _difference(first: Measurement, other: Measurement, ids: list[tuple[int, ...]]) -> str | None:
    for field in ("norm", "n_layers", "drift"):
        ours, theirs = getattr(first.settings, field), getattr(other.settings, field)
        if ours != theirs:
            return f"{field} is {ours!r} in one and {theirs!r} in the other"
    if len(other) != len(ids):
        return f"one has {len(ids)} prompts and the other {len(other)}"
    place = next((i for i, item in enumerate(other) if item.prompt.token_ids != ids[i]), None)
    return None if place is None else f"prompt {place} has other tokens"


def tuco_array(measurements: Measurements) -> Float[np.ndarray, "tune prompt"]:
    """TuCo of every prompt by every tune."""
    return np.array([each.tuco.double().numpy() for each in measurements.values()])


def group_masks(groups: Sequence[str]) -> dict[str, Bool[np.ndarray, " prompt"]]:
    """Which prompts are of each group, in the order that groups first appear in; of all, if there are several."""
    labels = np.array(groups, dtype=object)
    masks = {name: labels == name for name in dict.fromkeys(groups)}
    return masks if len(masks) == 1 else {**masks, ALL: np.ones(len(groups), dtype=bool)}


def mean_table(measurements: Measurements, groups: Sequence[str], key: str) -> pd.DataFrame:
    """A row per tune and group: n, mean of TuCo with its 95 % interval over prompts, 10 %, 50 % and 90 % quantiles.

    Args:
        measurements: by tune or step.
        groups: the group of each prompt.
        key: name of the first column: "tune" or "step".
    """
    import pandas as pd

    values = tuco_array(measurements)
    rows = [
        {key: name, "group": group, **_mean_row(row[mask])}
        for name, row in zip(measurements, values, strict=True)
        for group, mask in group_masks(groups).items()
    ]
    return pd.DataFrame(rows)


def _mean_row(values: Float[np.ndarray, " prompt"]) -> dict[str, Any]:
    from tuco_lens.stats import mean_interval

    there = values[np.isfinite(values)]
    row: dict[str, Any] = {"n": len(there)}
    if not len(there):
        return row | dict.fromkeys(("mean", "low", "high", *QUANTILES), np.nan)
    found = mean_interval(there)
    spread = np.quantile(there, list(QUANTILES.values())).tolist()
    return row | {
        "mean": found.value,
        "low": found.low,
        "high": found.high,
        **dict(zip(QUANTILES, spread, strict=True)),
    }


def result_rows(measurements: Measurements, groups: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
    """A row per tune and prompt, as in a result file; `key` is "tune" or "step"."""
    from tuco_lens.results.measurement import result_row

    for name, measurement in measurements.items():
        for index, (group, item) in enumerate(zip(groups, measurement, strict=True)):
            row = {key: name, "group": group, **result_row(index, item)}
            yield {**row, "truncated": item.prompt.n_dropped > 0}


def layer_means(measurements: Mapping[Hashable, Measurement]) -> Float[np.ndarray, "tune layer"]:
    """The mean over prompts of the cumulative map's last column: what TuCo would be after each layer."""
    import torch

    columns = [torch.stack([item.last_token() for item in each]).double() for each in measurements.values()]
    return np.array([each.nanmean(dim=0).numpy() for each in columns])


def half_step(steps: np.ndarray, values: Float[np.ndarray, " step"]) -> float:
    """Where values first reach half of the last one, on straight lines between the steps; NaN where that is 0."""
    goal = values[-1] / 2
    reached = np.flatnonzero(values >= goal)
    if not goal > 0 or not len(reached):
        return np.nan
    i = int(reached[0])
    if i == 0:
        return float(steps[0])
    return float(np.interp(goal, values[i - 1 : i + 1], steps[i - 1 : i + 1]))
