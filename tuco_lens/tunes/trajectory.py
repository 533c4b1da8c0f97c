"""`trajectory`: TuCo of the same prompts over the checkpoints of a training run, and what it returns.

Step 0 is the base, whose TuCo is exactly 0. The measuring is that of `compare.py`, with a checkpoint for a tune;
`callback.py` makes the same result while a model trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import Unpack

from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import PromptLike
from tuco_lens.results.files import folder_for
from tuco_lens.tunes import folder as store
from tuco_lens.tunes.checkpoints import find_checkpoints, training_log
from tuco_lens.tunes.comparison import TuneComparison
from tuco_lens.tunes.measured import OfPrompts, check_alike, half_step, mean_table, result_rows
from tuco_lens.tunes.measuring import Measured, measure_tunes
from tuco_lens.tunes.options import OnError, RowsForm, TheBase, TuneOptions, TunesRun

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.grid import Grid
    from tuco_lens.plots.steps import Steps
    from tuco_lens.plots.template import Theme
    from tuco_lens.results.measurement import Measurement

KIND: Final = "trajectory"


@dataclass(frozen=True, eq=False)  # `==` of arrays has no single truth value
class Trajectory(OfPrompts):
    """TuCo of the same prompts over training steps.

    Raises:
        InputError: if there is no step, steps do not ascend, or they were not measured on the same tokens.
    """

    measurements: Mapping[int, Measurement]
    """What was measured at each step, ascending; step 0 is the base."""
    groups: tuple[str, ...]
    """The group of each prompt, [n_prompts]."""
    log: tuple[Mapping[str, float], ...] = ()
    """What the trainer logged: records such as `{"step": 10, "loss": 2.1, "learning_rate": 1e-4}`."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Steps whose checkpoint could not be loaded or measured, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What decided the numbers, as JSON values."""

    def __post_init__(self) -> None:
        check_alike(self.measurements, self.groups)
        if list(self.measurements) != sorted(self.measurements):
            raise InputError("steps", f"they are {list(self.measurements)}", "give them ascending")

    def __repr__(self) -> str:
        first, last = self.steps[0], self.steps[-1]
        what = f"Trajectory of {len(self.steps)} steps, {first} to {last}, on {len(self.groups)} prompts"
        return f"{what}\n  .summary()  .table  .movers  .curve()  .layer_grid()  .prompt_grid()  .compared(10, 20)"

    @property
    def steps(self) -> tuple[int, ...]:
        """The training steps, ascending."""
        return tuple(self.measurements)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per step and group: step, group, n, mean, low, high (95 %, over prompts), q10, median, q90 of TuCo."""
        return mean_table(self.measurements, self.groups, "step")

    @cached_property
    def movers(self) -> pd.DataFrame:
        """A row per prompt, those that move first at the top.

        Columns: index, group, prompt, last (TuCo at the last step), half_step (where TuCo first reaches half of that,
        on straight lines between the steps; NaN where the last is 0 or missing).
        """
        import pandas as pd

        frame = pd.DataFrame(
            {
                "index": range(len(self.groups)),
                "group": self.groups,
                "prompt": [prompt.text for prompt in self.prompts],
                "last": self.tuco[-1],
                "half_step": [half_step(np.array(self.steps), column) for column in self.tuco.T],
            }
        )
        return frame.sort_values(["half_step", "index"], ignore_index=True)

    def compared(self, *steps: int) -> TuneComparison:
        """Some steps as tunes, called "step 10": their differences are tested prompt by prompt.

        Raises:
            InputError: for a step that was not measured.
        """
        for step in steps:
            if step not in self.measurements:
                raise InputError(f"no step {step}", f"there are {', '.join(map(str, self.steps))}", "name one of them")
        chosen = {f"step {step}": self.measurements[step] for step in steps or self.steps}
        return TuneComparison(chosen, self.groups, {}, self.settings)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per step and prompt, as in a result file."""
        return result_rows(self.measurements, self.groups, "step")

    def to_frame(self) -> pd.DataFrame:
        """A row per step and prompt: step, group, and the columns of a result file."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def summary(self) -> str:
        """How TuCo of each group went, in a sentence each."""
        from tuco_lens.tunes.words import trajectory_summary

        return trajectory_summary(self)

    def curve(self) -> Steps:
        """TuCo against step by group, over loss and learning rate where they were logged."""
        from tuco_lens.tunes.figures import step_curves

        return step_curves(self)

    def layer_grid(self) -> Grid:
        """Layer × step: mean over prompts of TuCo so far at the last token."""
        from tuco_lens.tunes.figures import layer_grid

        return layer_grid(self.measurements, "step")

    def prompt_grid(self) -> Grid:
        """Step × prompt: TuCo of every prompt at every step, prompts by group."""
        from tuco_lens.tunes.figures import prompt_grid

        return prompt_grid(self.measurements, self.groups, "step")

    def figure(self, theme: Theme = "light") -> go.Figure:
        """TuCo against step as a plotly figure (returned, not shown)."""
        return self.curve().figure(theme)

    def report(self, path: str | Path, *, title: str = "TuCo over training steps") -> Path:
        """Write one self-contained HTML page with a switch between the steps; returns its path.

        Raises:
            InputError: if only the last tokens were kept.
        """
        return self.compared().report(path, title=title)

    def save(self, folder: str | Path) -> Path:
        """Write everything to a folder, which is made if need be; `Trajectory.load` reads it back.

        Files that are there as they should be are left alone, so that a step more costs its own file and the index.

        Raises:
            OutputError: if it cannot be written.
        """
        where = Path(folder)
        with folder_for(where):
            entries = {str(step): store.save_measurement(where, step, each) for step, each in self.measurements.items()}
            return self.write_index(where, entries)

    def write_index(self, folder: Path, tunes: Mapping[str, Mapping[str, str]]) -> Path:
        """Write the index of a folder that has the measurements already, as `tunes` says."""
        content = {"settings": self.settings, "groups": self.groups, "tunes": tunes, "left_out": self.left_out}
        return store.write_index(folder / f"{KIND}.json", KIND, {**content, "log": [dict(each) for each in self.log]})

    @classmethod
    def load(cls, folder: str | Path) -> Trajectory:
        """Read what `save`, `tl.trajectory(out=…)` or `TucoCallback(out=…)` wrote.

        Raises:
            InputError: if it is missing, damaged or of another kind.
        """
        where, content = store.read_index(folder, KIND)
        measurements = {int(step): store.load_measurement(where, entry) for step, entry in content["tunes"].items()}
        log = tuple(content["log"])
        return cls(measurements, tuple(content["groups"]), log, content["left_out"], content["settings"])


def trajectory(
    base: Any,
    checkpoints: str | Path | Sequence[str | Path],
    prompts: PromptLike | Sequence[PromptLike] | Mapping[str, Any],
    *,
    on_error: OnError = "stop",
    out: str | Path | None = None,
    rows: RowsForm = "jsonl",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Unpack[TuneOptions],
) -> Trajectory:
    """Measure TuCo of the same prompts at each checkpoint of a training run, and of the base at step 0.

    Args:
        base: the base model that training began from: hub id, local directory, `.gguf` file, or a loaded model.
        checkpoints: the run's folder, a pattern such as "run/checkpoint-*", or checkpoints; of whole models (also in
            shards) or of adapters. What the trainer logged is read from `trainer_state.json`, where there is one.
        prompts: a list of prompts, or a mapping of groups to lists; see `ModelPair.prompt` for what one may be.
        on_error: "stop" at a checkpoint that cannot be loaded or measured, or "skip" it: it is then in `left_out`.
        out: a folder for the result, as in `compare`; a run that was killed goes on with the checkpoint it was at.
        rows: form of the file of rows: "jsonl", "csv" or "parquet".
        resume: go on with the run that is in `out`; of a complete one, read its result.
        overwrite: replace what is in `out`.
        progress: show a bar, if stderr is a terminal or in a notebook.
        **options: how to read and measure prompts and load models; see `TuneOptions`.

    Raises:
        LoadError: if the base or a checkpoint cannot be loaded; the message names the step.
        PairMismatchError: if a checkpoint is not of this base.
        InputError: if no checkpoints are found, and as `compare`.
        OutputError: if `out` cannot be written, is there without `resume` or `overwrite`, or holds another run.
    """
    found = find_checkpoints(checkpoints)
    if found[0].step == 0:
        why = f"{str(found[0].path)!r} is of step 0, which is the base"
        raise InputError("cannot order the checkpoints", why, "leave that one out, or give it as base")
    steps = {0: TheBase(), **{each.step: str(each.path) for each in found}}
    log = training_log(found)

    def made(measured: Measured) -> Trajectory:
        return Trajectory(measured.measurements, measured.groups, log, measured.left_out, measured.settings)

    run = TunesRun(KIND, None if out is None else Path(out), resume, overwrite, progress, on_error, rows)
    return measure_tunes(base, steps, prompts, run, options, made, Trajectory.load)
