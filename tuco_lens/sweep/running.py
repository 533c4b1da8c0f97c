"""Running a sweep: every task at every α, journalled, so that a run that was killed goes on where it stopped.

A row is one task at one α. What a row is computed from does not depend on the rows before it, so a resumed run gives
the result of one that was not stopped. The journal is that of `runs/steps.py`; what comes out is in `result.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tuco_lens import __version__
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.errors import InputError
from tuco_lens.runs.environment import with_environments
from tuco_lens.runs.steps import RunOptions, Step, resumable
from tuco_lens.steering.alpha import finite_alpha
from tuco_lens.steering.scaling import Method, scaling_settings
from tuco_lens.steering.weights import weights_digest
from tuco_lens.sweep.cross_validation import check_folds
from tuco_lens.sweep.preparing import PreparedTask, choose_answers, prepare
from tuco_lens.sweep.questions import Task, check_tasks
from tuco_lens.sweep.result import SweepResult, SweepSettings, TaskResult

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

PAPER_ALPHAS: Final = (0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25)
"""The α of the paper (§5.1)."""


class DroppedShotsWarning(UserWarning):
    """The context has no room for all worked examples of some questions."""


def sweep(
    pair: ModelPair,
    tasks: Sequence[Task],
    *,
    alphas: Sequence[float] = PAPER_ALPHAS,
    method: Method = "ftc",
    folds: int = 5,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> SweepResult:
    """Ask every question under every α and keep which answer the scaled model gives (paper §5.1).

    The answer is the one whose token has a strictly higher probability than those of all others; a tie gives none, and
    counts as wrong. The beginning that the prompts of a task share is computed once for each α.

    Args:
        pair: the pair.
        tasks: what to ask, from `load_tasks`, `hub_tasks`, or made by hand.
        alphas: the α, each one number for all layers; 1 is added if it is not among them.
        method: "ftc", "logits" or "weights", as in `ModelPair.scaled`.
        folds: folds of the cross-validation, which `SweepResult.cross_validated` does.
        limit: questions per task at most, drawn at random.
        seed: of that draw, of the folds and of the bootstrap.
        batch_size: prompts per batch at most; halved and retried when an accelerator runs out of memory.
        out: a file for `SweepResult.save`. Beside it, while the sweep runs, is a journal, `OUT.partial`.
        resume: go on with the journal that is there; of a sweep that is complete, return the result.
        overwrite: replace `out`, and a journal that is there.
        progress: show a bar, if stderr is a terminal or in a notebook.

    Raises:
        InputError: for an α that is not finite, a task with fewer questions than folds, or a question that cannot be
            asked. Nothing is run then.
        OutputError: if `out` cannot be written, is there already, or belongs to a sweep with another pair, other
            settings or other questions.
    """
    grid = alpha_grid(alphas)
    scaling_settings(1.0, pair.n_layers, method=method)  # refuses an unknown method
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} is {value}", f"it must be at least {least}", "give such a number")
    asked = [task.sample(limit, seed) for task in tasks]
    check_tasks(asked)
    for task in asked:
        check_folds(len(task), folds, task.name)
    settings = _settings(pair, asked, alphas=grid, method=method, folds=folds, seed=seed)

    def compute(step: Step) -> SweepResult:
        prepared = [prepare(pair, task) for task in asked]
        _warn_of_dropped_shots(asked, prepared)
        rows = _rows(pair, prepared, grid, step, method=method, batch_size=batch_size)
        return SweepResult(tuple(_task_results(asked, prepared, rows, len(grid))), settings)

    run = RunOptions(None if out is None else Path(out), resume, overwrite, progress, batch_size)
    how: dict[str, Any] = {"total": len(asked) * len(grid), "name": "sweep", "unit": "row", "record": with_environments}
    return resumable(run, _fingerprint(settings), compute, SweepResult.load, **how)


def alpha_grid(alphas: Sequence[float]) -> tuple[float, ...]:
    """The α in ascending order, each once, with 1 among them.

    Raises:
        InputError: if one is not a finite number, or there are none.
    """
    if not len(alphas):
        raise InputError("alphas is empty", "there is nothing to compare with α = 1", "give at least one")
    return tuple(sorted({finite_alpha(alpha) for alpha in alphas} | {1.0}))


def _rows(
    pair: ModelPair,
    prepared: Sequence[PreparedTask],
    grid: Sequence[float],
    step: Step,
    *,
    method: Method,
    batch_size: int,
) -> list[list[int]]:
    """The chosen answers of each task at each α, task by task: a step each."""
    how: dict[str, Any] = {"method": method, "fitting": FittingBatches(batch_size, "question")}
    asked = [(tokens, alpha) for tokens in prepared for alpha in grid]
    return [step(functools.partial(choose_answers, pair, *question, **how)) for question in asked]


def _task_results(
    tasks: Sequence[Task], prepared: Sequence[PreparedTask], rows: Sequence[list[int]], n_alphas: int
) -> Iterator[TaskResult]:
    for i, (task, tokens) in enumerate(zip(tasks, prepared, strict=True)):
        chosen = np.array(rows[i * n_alphas : (i + 1) * n_alphas])
        targets = np.array([question.target for question in task.questions])
        dropped = sum(len(task.shots) - n for n in tokens.n_shots)
        yield TaskResult(task.name, task.group, targets, chosen, dropped)


def _settings(
    pair: ModelPair, tasks: Sequence[Task], *, alphas: tuple[float, ...], method: str, folds: int, seed: int
) -> SweepSettings:
    digest = hashlib.sha256(b"".join(task.digest() for task in tasks)).hexdigest()
    return SweepSettings(
        base=pair.base_name,
        tuned=pair.tuned_name,
        backend=pair.backend,
        dtype=pair.dtype,
        weights=f"sha256:{weights_digest(pair)}",
        questions=f"{sum(map(len, tasks))} of {len(tasks)} tasks, sha256:{digest}",
        method=method,
        alphas=alphas,
        folds=folds,
        seed=seed,
        version=__version__,
    )


def _fingerprint(settings: SweepSettings) -> dict[str, Any]:
    stored = {**dataclasses.asdict(settings), "alphas": list(settings.alphas)}
    return {name: value for name, value in stored.items() if name != "environments"}


def _warn_of_dropped_shots(tasks: Sequence[Task], prepared: Sequence[PreparedTask]) -> None:
    short = [
        (task, n) for task, tokens in zip(tasks, prepared, strict=True) for n in tokens.n_shots if n < len(task.shots)
    ]
    if short:
        n_dropped = sum(len(task.shots) - n for task, n in short)
        text = (
            f"the context has no room for all worked examples of {len(short)} of {sum(map(len, tasks))} questions: "
            f"{n_dropped} examples are left out, in tasks {', '.join(sorted({task.name for task, _ in short}))}"
        )
        warnings.warn(text, DroppedShotsWarning, stacklevel=3)
