"""Experiment 5.1: does scaling the fine-tuning component steer behaviour?

The sweep itself is `tuco_lens/sweep/`; here it is run on the 23 behaviours of the paper like every other experiment.
MMLU's 57 tasks are asked by `tuco-lens sweep --tasks mmlu`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.data.loading import VARIABLE
from tuco_lens.runs.steps import RunOptions
from tuco_lens.sweep import SweepResult, hub_tasks, load_tasks, sweep

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

ROWS_PER_PROMPT: Final = 4
"""Questions in the place of one prompt of a batch: behind what all begin with alike, they are short."""


def alpha_sweep(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    run: RunOptions = RunOptions(),  # noqa: B008 - frozen
) -> SweepResult:
    """Ask the 23 behaviours of Model-Written Evaluations at the paper's seven α (paper §5.1).

    Args:
        pair: the pair.
        data: a local folder of the data sets; without it `TUCO_LENS_DATA`, or the hub.
        limit: questions of each behaviour at most, drawn at random; all 1000 by default.
        seed: of the draw, of the folds and of the bootstrap.
        system: system prompt of every chat.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the data is not there.
        OutputError: if the result cannot be written, or what is there is of another run.
    """
    folder = data or os.environ.get(VARIABLE)
    if folder is None:
        tasks = hub_tasks(("mwe",), chat=True, system=system)
    else:
        tasks = load_tasks([Path(folder) / "mwe"], ("mwe",), chat=True, system=system)
    return sweep(
        pair,
        tasks,
        limit=limit,
        seed=seed,
        batch_size=ROWS_PER_PROMPT * run.batch_size,
        out=run.out,
        resume=run.resume,
        overwrite=run.overwrite,
        progress=run.progress,
    )
