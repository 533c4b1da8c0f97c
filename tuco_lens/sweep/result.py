"""What a sweep returns: the answer chosen for every task, α and question, and the tables and figures made of it.

`running.py` makes it; the statistics are in `cross_validation.py`, the figures in `plots/sweep.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from jaxtyping import Bool, Int

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.results.files import write_whole
from tuco_lens.runs.environment import Environment
from tuco_lens.stats import holm, rate_interval
from tuco_lens.sweep.answers import NONE
from tuco_lens.sweep.cross_validation import GOALS, CrossValidation, Goal, cross_validate, delta_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme

FORMAT: Final = "tuco_lens.sweep.v1"
By = Literal["task", "group"]
SHORT: Final[dict[Goal, str]] = {"maximise": "max", "minimise": "min"}
"""Prefixes of the columns of `SweepResult.cross_validated`."""


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep was made with: needed to compare two of them, to repeat one, and to resume one."""

    base: str
    """Name of the base checkpoint, as given."""
    tuned: str
    """Name of the tuned checkpoint or adapter, as given."""
    backend: str
    """"hooked" or "bridge"."""
    dtype: str
    """dtype of the weights, such as "float32"."""
    weights: str
    """Digest of a sample of every tensor of both models."""
    questions: str
    """Number and digest of all questions."""
    method: str
    """"ftc", "logits" or "weights"."""
    alphas: tuple[float, ...]
    """The α, in ascending order, with 1 among them."""
    folds: int
    """Folds of the cross-validation."""
    seed: int
    """Seed of folds and bootstrap, and of the draw of questions."""
    version: str
    """Version of tuco_lens."""
    environments: tuple[Environment, ...] = ()
    """Batch size, threads, processor and libraries: one, or several of a run that went on elsewhere, in their order.
    They round the numbers and decide nothing. Empty in older files."""


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class TaskResult(Brief):
    """The answers to one task."""

    name: str
    """The task's name."""
    group: str
    """Its group."""
    targets: Int[np.ndarray, " question"]
    """Index of the right answer to each question."""
    chosen: Int[np.ndarray, "alpha question"]
    """Index of the answer chosen; -1 where none had a strictly higher probability than all others."""
    n_shots_dropped: int = 0
    """Worked examples left out because the context had no room for them, over all questions."""

    @cached_property
    def correct(self) -> Bool[np.ndarray, "alpha question"]:
        """Whether each question was answered right."""
        return self.chosen == self.targets


@dataclass(frozen=True)
class SweepResult(Brief):
    """The answers of a scaled model over tasks and α."""

    tasks: tuple[TaskResult, ...]
    """One entry per task, in the order given."""
    settings: SweepSettings
    """The pair and the options."""

    @property
    def correctness(self) -> dict[str, Bool[np.ndarray, "alpha question"]]:
        """By task, whether each question was answered right under each α of `settings.alphas`."""
        return {task.name: task.correct for task in self.tasks}

    def to_frame(self, by: By = "task") -> pd.DataFrame:
        """A row per task (or group) and α: the accuracy.

        Columns: task (if by task), group, alpha, n (questions), n_correct, n_none (no answer chosen), accuracy, low and
        high (its Wilson 95 % interval), n_shots_dropped.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for labels, tasks in self._pools(by):
            for a, alpha in enumerate(self.settings.alphas):
                n = sum(len(task.targets) for task in tasks)
                n_correct = sum(int(task.correct[a].sum()) for task in tasks)
                low, high = rate_interval(n_correct, n)
                row = {**labels, "alpha": alpha, "n": n, "n_correct": n_correct}
                row["n_none"] = sum(int((task.chosen[a] == NONE).sum()) for task in tasks)
                row |= {"accuracy": n_correct / n, "low": low, "high": high}
                rows.append({**row, "n_shots_dropped": sum(task.n_shots_dropped for task in tasks)})
        return pd.DataFrame(rows)

    def cross_validated(self, by: By = "task") -> pd.DataFrame:
        """A row per task (or group): what choosing α gains on questions that it was not chosen on (paper's Δ_CV).

        Columns: task (if by task), group, n, accuracy (at α = 1), and for each goal, max_… and min_…: delta, low and
        high (bootstrap 95 %), p (paired permutation), p_holm (p corrected over the rows, for each goal by itself), and
        by task alphas (the α chosen for each fold). α is chosen task by task in either case.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for labels, tasks in self._pools(by):
            n = sum(len(task.targets) for task in tasks)
            n_correct = sum(int(self._at_one(task).sum()) for task in tasks)
            row = {**labels, "n": n, "accuracy": n_correct / n}
            for goal in GOALS:
                row |= self._delta_columns(list(tasks), goal, name=labels[by], with_alphas=by == "task")
            rows.append(row)
        frame = pd.DataFrame(rows)
        for short in SHORT.values():
            frame.insert(
                list(frame.columns).index(f"{short}_p") + 1,
                f"{short}_p_holm",
                holm(frame[f"{short}_p"].to_numpy(dtype=np.float64)),
            )
        return frame

    def _delta_columns(self, tasks: list[TaskResult], goal: Goal, *, name: str, with_alphas: bool) -> dict[str, Any]:
        found = [self._cross_validation(task, goal) for task in tasks]
        pooled = np.concatenate([each.differences for each in found])
        columns: dict[str, Any] = dataclasses.asdict(delta_of(pooled, seed=self.settings.seed, name=f"{goal} {name}"))
        if with_alphas:
            columns["alphas"] = found[0].alphas
        return {f"{SHORT[goal]}_{column}": value for column, value in columns.items()}

    def _cross_validation(self, task: TaskResult, goal: Goal) -> CrossValidation:
        alphas = np.array(self.settings.alphas)
        seed, folds = self.settings.seed, self.settings.folds
        return cross_validate(task.correct, alphas, goal, folds=folds, seed=seed, name=task.name)

    def _at_one(self, task: TaskResult) -> Bool[np.ndarray, " question"]:
        return task.correct[self.settings.alphas.index(1.0)]

    def _pools(self, by: By) -> Iterator[tuple[dict[str, str], tuple[TaskResult, ...]]]:
        """What a row is about, and the tasks that it pools."""
        if by not in ("task", "group"):
            raise InputError(f"by is {by!r}", "there are task and group", "name one of them")
        if by == "task":
            yield from (({"task": task.name, "group": task.group}, (task,)) for task in self.tasks)
            return
        for group in dict.fromkeys(task.group for task in self.tasks):
            yield {"group": group}, tuple(task for task in self.tasks if task.group == group)

    def accuracy_figure(self, by: By = "task", theme: Theme = "light") -> go.Figure:
        """Accuracy against α, a line per task or group with its 95 % band; returned, not shown."""
        from tuco_lens.plots.sweep import accuracy_figure

        return accuracy_figure(self.to_frame(by), by=by, theme=theme)

    def delta_figure(self, by: By = "task", theme: Theme = "light") -> go.Figure:
        """Δ_CV as a heatmap, task (or group) × {maximise, minimise}; several pairs: `plots.sweep.pairs_figure`."""
        from tuco_lens.plots.sweep import delta_figure

        return delta_figure(self.cross_validated(by), by=by, theme=theme)

    def summary(self) -> str:
        """What was found, in words that say no more than the intervals allow."""
        from tuco_lens.sweep.words import sweep_summary

        return sweep_summary(self)

    def save(self, path: str | Path) -> Path:
        """Write everything to one JSON file; `SweepResult.load` reads it back.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        tasks = [dataclasses.asdict(task) for task in self.tasks]
        for task in tasks:
            task |= {name: task[name].tolist() for name in ("targets", "chosen")}
        content = {"format": FORMAT, "settings": dataclasses.asdict(self.settings), "tasks": tasks}
        return write_whole(Path(path), json.dumps(content, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> SweepResult:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, damaged, or not a sweep of this version's format.
        """
        try:
            content: object = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}", str(error), "give a file of SweepResult.save") from error
        if not isinstance(content, dict) or cast("dict[str, Any]", content).get("format") != FORMAT:
            raise InputError(f"{path} is not a sweep", f"its format is not {FORMAT}", "give a file of SweepResult.save")
        try:
            return _of_json(cast("dict[str, Any]", content))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged", str(error), "run the sweep again") from error


def _of_json(content: dict[str, Any]) -> SweepResult:
    stored: dict[str, Any] = content["settings"]
    stored |= {name: tuple(stored.get(name, ())) for name in ("alphas", "environments")}
    settings = SweepSettings(**stored)
    return SweepResult(tuple(_task_of_json(record, len(settings.alphas)) for record in content["tasks"]), settings)


def _task_of_json(record: dict[str, Any], n_alphas: int) -> TaskResult:
    for name in ("targets", "chosen"):
        record[name] = np.array(record[name])
    task = TaskResult(**record)
    if task.chosen.shape != (n_alphas, len(task.targets)):
        raise ValueError(f"the answers to task {task.name} are of shape {task.chosen.shape}")
    return task
