"""Runs an experiment with more and more examples before each final question; the result is in `series.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tuco_lens.errors import InputError
from tuco_lens.experiments.comparing import NullOptions, spread
from tuco_lens.experiments.nested import score_nested
from tuco_lens.experiments.nulls import NULL_KINDS, NullKind, differs, null_control
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
Column = Sequence["Prompt | None"]
"""One final question at every number, [x]."""
NULL_SHARE: Final = 2
"""Of the final questions of each set one in so many is asked under null controls: prompts are long, and a mean over a
few of them is no surer than the change that it is held against (docs/design.md)."""
NULL_CHUNK: Final = 16
"""Final questions under a null control per step of the journal; to make the control costs as much as a few of them."""


def measure_growing(
    pair: ModelPair,
    title: str,
    x_name: str,
    x: Sequence[int],
    sets: Mapping[str, PromptGrid],
    settings: ExperimentSettings,
    *,
    run: RunOptions,
    nulls: NullOptions,
    null_scores: Sequence[str] = ("tuco",),
    answers: Mapping[str, AnswerIds] | None = None,
    answer_score: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Series:
    """Measure TuCo, OutputCo, drift and length of every prompt and, if answers are given, which one is likelier.

    Then TuCo, or whatever is asked for, of some of the prompts under null controls.

    Args:
        pair: the pair.
        title: what is measured.
        x_name: what grows.
        x: numbers of `x_name`, ascending.
        sets: the prompts of each set.
        settings: the pair, the data and the options.
        run: where the result goes, and whether to resume.
        nulls: the null controls; they are measured on one in `NULL_SHARE` final questions of each set, and on at most
            `nulls.limit` prompts of all sets and numbers together, rounded up to equally many questions of each set.
        null_scores: which scores they have, of "tuco", "output_co" and "drift".
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
            scores[name] = _grids(columns)
        found = _nulls(pair, few, step, nulls, null_scores)
        return Series(title, x_name, tuple(x), scores, settings, dict(facts or {}), found)

    few = _few(sets, nulls.limit)
    n_few = sum(len(columns) for columns in few.values())
    n_null_steps = len(NULL_KINDS) * nulls.seeds * math.ceil(n_few / NULL_CHUNK)
    total = sum(len(grid[0]) for grid in sets.values()) + n_null_steps
    how: dict[str, Any] = {"total": total, "name": settings.experiment, "record": with_environments}
    return resumable(run, settings.fingerprint(), compute, Series.load, **how)


def _few(sets: Mapping[str, PromptGrid], limit: int) -> dict[str, list[Column]]:
    """The final questions that are asked under null controls, evenly spaced over each set."""
    most = math.ceil(limit / sum(len(grid) for grid in sets.values()))
    few: dict[str, list[Column]] = {}
    for name, grid in sets.items():
        columns = [[row[i] for row in grid] for i in range(len(grid[0]))]
        few[name] = spread(columns, min(most, math.ceil(len(columns) / NULL_SHARE)))
    return few


def _nulls(
    pair: ModelPair, few: Mapping[str, Sequence[Column]], step: Step, nulls: NullOptions, scores: Sequence[str]
) -> dict[str, tuple[Mapping[str, Mapping[str, Grid]], ...]]:
    if not differs(pair):  # such as the base against itself
        return {}
    seeds = range(nulls.seeds)
    return {kind: tuple(_null(pair, kind, seed, few, step, scores) for seed in seeds) for kind in NULL_KINDS if seeds}


def _null(
    pair: ModelPair,
    kind: NullKind,
    seed: int,
    few: Mapping[str, Sequence[Column]],
    step: Step,
    scores: Sequence[str],
) -> dict[str, dict[str, Grid]]:
    def measured(chunk: Sequence[Column]) -> list[dict[str, list[float]]]:
        with null_control(pair, kind, seed):
            return list(_end_columns(pair, chunk, scores))

    listed = [column for columns in few.values() for column in columns]
    found: list[dict[str, list[float]]] = []
    for start in range(0, len(listed), NULL_CHUNK):
        found += step(lambda start=start: measured(listed[start : start + NULL_CHUNK]))
    by_set = iter(found)
    return {name: _grids([next(by_set) for _ in columns]) for name, columns in few.items()}


def _end_columns(pair: ModelPair, columns: Sequence[Column], scores: Sequence[str]) -> Iterator[dict[str, list[float]]]:
    """These scores of each final question, [x]; what all of their prompts begin with runs once."""
    ready = [prompt for column in columns for prompt in column if prompt is not None]
    ends = iter(score_nested(pair, ready, drift=bool({"output_co", "drift"} & set(scores))))
    for column in columns:
        values = [None if prompt is None else next(ends) for prompt in column]
        yield {score: [math.nan if end is None else getattr(end, score) for end in values] for score in scores}


def _grids(columns: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Grid]:
    """Columns of final questions, side by side, by score."""
    return {key: np.array([column[key] for column in columns], dtype=np.float64).T for key in columns[0]}


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
