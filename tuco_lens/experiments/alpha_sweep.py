"""Experiment 5.1: does scaling the fine-tuning component steer behaviour?

The sweep itself is in `tuco_lens/sweep/`; here it is run on the paper's tasks, 23 behaviours and the 57 of MMLU, in
chats, like the other experiments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.data.loading import VARIABLE
from tuco_lens.experiments.prompt_groups import is_held_out_question, was_trained_on_mwe
from tuco_lens.runs.steps import RunOptions
from tuco_lens.sweep import SweepResult, hub_tasks, load_tasks, sweep
from tuco_lens.sweep.names import MWE_GROUPS, SETS, names_of, select
from tuco_lens.sweep.questions import Task

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

ROWS_PER_PROMPT: Final = 4
"""Questions that count as one prompt of a batch: their shared beginning is computed once, and the rest is short."""


def alpha_sweep(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    tasks: Sequence[str] = ("mwe",),
    held_out: bool | None = None,
    run: RunOptions = RunOptions(),  # noqa: B008 - frozen
) -> SweepResult:
    """Ask the behaviours of Model-Written Evaluations, or MMLU, at the paper's seven α (paper §5.1).

    Args:
        pair: the pair.
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`, or else the Hugging Face hub.
        limit: most questions per task, drawn at random; by default all, 1000 of a behaviour.
        seed: of the draw, the folds and the bootstrap.
        system: system prompt of every chat.
        tasks: which of the paper's tasks, by name or group, or "mwe" (its 23 behaviours) and "mmlu" (57 tasks).
        held_out: ask only questions of behaviours that the project's pair with opinions was not trained on; by default
            if `pair` is that one. No pair was trained on MMLU.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: for a task that the paper does not have, if the data is missing, or a task has fewer questions than
            the 5 folds.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    asked = _tasks(data or os.environ.get(VARIABLE), tasks, system)
    if was_trained_on_mwe(pair) if held_out is None else held_out:
        asked = [_held_out(task) for task in asked]
    return sweep(
        pair,
        asked,
        limit=limit,
        seed=seed,
        batch_size=ROWS_PER_PROMPT * run.batch_size,
        out=run.out,
        resume=run.resume,
        overwrite=run.overwrite,
        progress=run.progress,
    )


def _tasks(folder: str | Path | None, words: Sequence[str], system: str | None) -> list[Task]:
    if folder is None:
        return hub_tasks(words, chat=True, system=system)
    known = {name: names_of(groups) for name, groups in SETS.items()}
    chosen = select(words, [task for names in known.values() for task in names])
    paths = [Path(folder) / name for name, names in known.items() if not set(names).isdisjoint(chosen)]
    return load_tasks(paths, words, chat=True, system=system)


def _held_out(task: Task) -> Task:
    """Of a behaviour, the questions that are held out."""
    if task.name not in names_of(MWE_GROUPS):
        return task
    return replace(task, questions=tuple(each for each in task.questions if is_held_out_question(str(each.prompt))))
