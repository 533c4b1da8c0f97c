"""Runs a comparison: all scores of every prompt, then TuCo of some prompts of each group under null controls.

Prompts are run in chunks, each a step of the journal. The chunks do not depend on what was run before, so a killed run
resumes to the same numbers. The result is in `comparison.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.experiments.comparison import Comparison, Contrast, Values
from tuco_lens.experiments.nulls import NULL_KINDS, differs, null_control
from tuco_lens.experiments.scores import SCORE_KEYS, score_prompts, tuco_of_prompts
from tuco_lens.experiments.settings import ExperimentSettings
from tuco_lens.runs.environment import with_environments
from tuco_lens.runs.steps import RunOptions, Step, resumable

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

ItemT = TypeVar("ItemT")

CHUNK: Final = 64
"""Prompts per step of the journal."""


@dataclass(frozen=True)
class NullOptions:
    """How many null controls are run, and on how many prompts."""

    seeds: int = 3
    """Seeds of each control that changes the model; 0 leaves these controls out."""
    limit: int = 100
    """Most prompts per group that they are measured on, evenly spaced over the group; in all in `many_shot` and
    `output_co`, which ask every second final question under them."""

    def as_parameters(self) -> dict[str, int]:
        """The options that decide the numbers, for `ExperimentSettings.parameters`."""
        return {"null_seeds": self.seeds, "null_limit": self.limit}

    def within(self, limit: int | None) -> NullOptions:
        """These, on no more prompts than a run that is limited is asked for; the same without a limit."""
        return self if limit is None else replace(self, limit=min(self.limit, limit))


@dataclass(frozen=True)
class Prepared(Brief):
    """What a comparison is made of, when its groups are known."""

    groups: Mapping[str, Sequence[Prompt]]
    """Prompts by group."""
    facts: Mapping[str, Any]
    """What becomes `Comparison.facts`."""


def compare(
    pair: ModelPair,
    title: str,
    prepare: Callable[[Step], Prepared],
    contrasts: Sequence[Contrast],
    settings: ExperimentSettings,
    *,
    run: RunOptions,
    nulls: NullOptions,
    total: int | None = None,
) -> Comparison:
    """Score every prompt of every group, and measure the null controls.

    Args:
        pair: the pair.
        title: what is compared.
        prepare: makes the groups; what takes long (attacks, completions) goes through the `Step` it is given.
        contrasts: which groups are compared; where a group turns out to be empty, the AUC is undefined.
        settings: the pair, the data and the options.
        run: where the result goes, and whether to resume.
        nulls: the null controls.
        total: number of steps, for the progress bar (see `n_steps`); None if unknown.

    Raises:
        InputError: if all groups are empty.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """

    def compute(step: Step) -> Comparison:
        prepared = prepare(step)
        groups = prepared.groups
        if not any(groups.values()):
            raise InputError(title, "no prompt is left", "give more data, a higher --limit, or a longer context")
        scores = {name: _scores(pair, prompts, step, run.batch_size) for name, prompts in groups.items()}
        found = _nulls(pair, groups, step, run, nulls)
        return Comparison(title, tuple(contrasts), scores, found, settings, dict(prepared.facts))

    fingerprint = settings.fingerprint()
    how: dict[str, Any] = {"total": total, "name": settings.experiment, "record": with_environments}
    return resumable(run, fingerprint, compute, Comparison.load, **how)


def n_steps(sizes: Sequence[int], nulls: NullOptions) -> int:
    """Number of steps to score groups of these sizes and to measure their null controls."""
    few = [min(size, nulls.limit) for size in sizes]
    return _n_chunks(sizes) + len(NULL_KINDS) * nulls.seeds * _n_chunks(few)


def _n_chunks(sizes: Sequence[int]) -> int:
    return sum(math.ceil(size / CHUNK) for size in sizes)


def _nulls(
    pair: ModelPair, groups: Mapping[str, Sequence[Prompt]], step: Step, run: RunOptions, nulls: NullOptions
) -> dict[str, tuple[Mapping[str, Values], ...]]:
    if not differs(pair):  # such as the base against itself
        return {}
    few = {name: spread(prompts, nulls.limit) for name, prompts in groups.items()}
    seeds = range(nulls.seeds)
    return {kind: tuple(_null(pair, kind, seed, few, step, run) for seed in seeds) for kind in NULL_KINDS if seeds}


def spread(items: Sequence[ItemT], n: int) -> list[ItemT]:
    """At most n items, evenly spaced, since a group may consist of parts that follow one another."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _chunks(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    return [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]


def _scores(pair: ModelPair, prompts: Sequence[Prompt], step: Step, batch_size: int) -> dict[str, Values]:
    rows: list[dict[str, float]] = []
    for chunk in _chunks(prompts):
        rows += step(lambda chunk=chunk: score_prompts(pair, chunk, batch_size=batch_size))
    return {key: np.array([row[key] for row in rows], dtype=np.float64) for key in SCORE_KEYS}


def _null(
    pair: ModelPair, kind: Any, seed: int, groups: Mapping[str, Sequence[Prompt]], step: Step, run: RunOptions
) -> dict[str, Values]:
    def tuco(chunk: Sequence[Prompt]) -> list[float]:
        with null_control(pair, kind, seed):
            return tuco_of_prompts(pair, chunk, batch_size=run.batch_size)

    found: dict[str, Values] = {}
    for name, prompts in groups.items():
        values = [value for chunk in _chunks(prompts) for value in step(lambda chunk=chunk: tuco(chunk))]
        found[name] = np.array(values, dtype=np.float64)
    return found
