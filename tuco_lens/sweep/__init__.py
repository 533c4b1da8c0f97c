"""The α sweep (paper §5.1): which answer the scaled model gives, and what cross-validation says of the gain.

`questions.py` says what a task is; `loading.py`, `mmlu.py` and `hub.py` read tasks, `names.py` lists the paper's.
`answers.py` finds the answers' tokens, `preparing.py` tokenises a task, `running.py` runs the sweep, `result.py` is
what it returns, and `cross_validation.py` its statistics. Figures are in `plots/sweep.py`. Names are imported when
first used, so that tasks can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuco_lens.sweep.hub import hub_tasks as hub_tasks
    from tuco_lens.sweep.loading import load_tasks as load_tasks
    from tuco_lens.sweep.questions import Question as Question
    from tuco_lens.sweep.questions import Task as Task
    from tuco_lens.sweep.result import SweepResult as SweepResult
    from tuco_lens.sweep.running import PAPER_ALPHAS as PAPER_ALPHAS
    from tuco_lens.sweep.running import sweep as sweep

_HOMES = {
    "PAPER_ALPHAS": "running",
    "Question": "questions",
    "SweepResult": "result",
    "Task": "questions",
    "hub_tasks": "hub",
    "load_tasks": "loading",
    "sweep": "running",
}
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuco_lens.sweep' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tuco_lens.sweep.{_HOMES[name]}"), name)
