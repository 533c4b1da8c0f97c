"""Experiment 5.1: does scaling the fine-tuning component steer behaviour?

The sweep itself is in `tuco_lens/sweep/`; here it is run on the paper's 23 behaviours, like the other experiments.
`tuco-lens sweep --tasks mmlu` runs it on MMLU's 57 tasks.
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
"""Questions that count as one prompt of a batch: their shared beginning is computed once, and the rest is short."""


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
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`, or else the Hugging Face hub.
        limit: most questions per behaviour, drawn at random; by default all 1000.
        seed: of the draw, the folds and the bootstrap.
        system: system prompt of every chat.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the data is missing, or a behaviour has fewer questions than the 5 folds.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
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
