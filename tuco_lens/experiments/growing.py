"""Runs an experiment with more and more examples before each final question; the result is in `series.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tuco_lens.errors import InputError
from tuco_lens.experiments.nested import score_nested
from tuco_lens.experiments.series import Grid, Series
from tuco_lens.experiments.settings import ExperimentSettings
from tuco_lens.runs.environment import with_environments
from tuco_lens.runs.steps import RunOptions, Step, resumable

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

PromptGrid = Sequence[Sequence["Prompt | None"]]
"""Prompts of one set, [x, prompt]; None where one does not fit the context."""
AnswerIds = Sequence[Sequence[tuple[int, int]]]
"""Token ids of the answer that is counted and of the other one, for every prompt, [x, prompt]."""


def measure_growing(
    pair: ModelPair,
    title: str,
    x_name: str,
    x: Sequence[int],
    sets: Mapping[str, PromptGrid],
    settings: ExperimentSettings,
    *,
    run: RunOptions,
    answers: Mapping[str, AnswerIds] | None = None,
    answer_score: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Series:
    """Measure TuCo, OutputCo, drift and length of every prompt and, if answers are given, which one is likelier.

    Args:
        pair: the pair.
        title: what is measured.
        x_name: what grows.
        x: numbers of `x_name`, ascending.
        sets: the prompts of each set.
        settings: the pair, the data and the options.
        run: where the result goes, and whether to resume.
        answers: the answers of each set; their score is 1 where the first has the strictly higher logit, else 0.
        answer_score: name of that score.
        facts: what else was counted or found.

    Raises:
        InputError: if no prompt fits the context.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    if not any(prompt is not None for grid in sets.values() for row in grid for prompt in row):
        raise InputError(title, "no prompt fits the context", "give a pair with a longer context")

    def compute(step: Step) -> Series:
        scores: dict[str, dict[str, Grid]] = {}
        for name, grid in sets.items():
            columns: list[dict[str, list[float]]] = []
            for i in range(len(grid[0])):
                prompts = [row[i] for row in grid]
                asked = None if answers is None else [row[i] for row in answers[name]]
                columns.append(step(lambda prompts=prompts, asked=asked: _column(pair, prompts, asked, answer_score)))
            scores[name] = {
                key: np.array([column[key] for column in columns], dtype=np.float64).T for key in columns[0]
            }
        return Series(title, x_name, tuple(x), scores, settings, dict(facts or {}))

    total = sum(len(grid[0]) for grid in sets.values())
    how: dict[str, Any] = {"total": total, "name": settings.experiment, "record": with_environments}
    return resumable(run, settings.fingerprint(), compute, Series.load, **how)


def _column(
    pair: ModelPair,
    prompts: Sequence[Prompt | None],
    answers: Sequence[tuple[int, int]] | None,
    answer_score: str,
) -> dict[str, list[float]]:
    """The scores of one final question at every number, [x] each; NaN where the prompt does not fit the context."""
    there = [i for i, prompt in enumerate(prompts) if prompt is not None]
    ready = [prompt for prompt in prompts if prompt is not None]
    names = ["tuco", "output_co", "drift", "n_tokens", *([] if answers is None else [answer_score])]
    found: dict[str, list[float]] = {name: [math.nan] * len(prompts) for name in names}
    for i, prompt, ends in zip(there, ready, score_nested(pair, ready), strict=True):
        found["tuco"][i], found["output_co"][i], found["drift"][i] = ends.tuco, ends.output_co, ends.drift
        found["n_tokens"][i] = float(prompt.n_tokens)
        if answers is not None:
            counts, other = answers[i]
            found[answer_score][i] = float(ends.logits[counts] > ends.logits[other])
    return found
