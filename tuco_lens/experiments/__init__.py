"""The paper's experiments (§5), each one function that returns one result, with the statistics that the paper lacks.

`web_vs_chat.py`, `gcg.py`, `conjugate.py` and `jailbreak_success.py` compare groups of prompts and return a
`Comparison` (`comparison.py`); `many_shot.py` and `output_co.py` put more and more examples before a final question and
return a `Series` (`series.py`); the α sweep is in `tuco_lens/sweep/`. The scores of a prompt are in `scores.py`, null
controls in `nulls.py`, summaries in words in `words.py`, figures in `figures.py`.

Content warning: some experiments measure harmful prompts. They are never shown, and results do not contain them.
"""

from __future__ import annotations

# Not lazy, unlike elsewhere: each function has the name of its module, which would take its place in the package.
from tuco_lens.experiments.alpha_sweep import alpha_sweep
from tuco_lens.experiments.attacks_of import AttackOptions
from tuco_lens.experiments.comparing import NullOptions
from tuco_lens.experiments.comparison import Comparison, Contrast
from tuco_lens.experiments.conjugate import conjugate
from tuco_lens.experiments.gcg import gcg
from tuco_lens.experiments.jailbreak_success import jailbreak_success
from tuco_lens.experiments.many_shot import many_shot
from tuco_lens.experiments.output_co import output_co
from tuco_lens.experiments.refusal_check import RefusalCheck, refusal_check
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.web_vs_chat import web_vs_chat
from tuco_lens.runs.steps import RunOptions

__all__ = [
    "AttackOptions",
    "Comparison",
    "Contrast",
    "NullOptions",
    "RefusalCheck",
    "RunOptions",
    "Series",
    "alpha_sweep",
    "conjugate",
    "gcg",
    "jailbreak_success",
    "many_shot",
    "output_co",
    "refusal_check",
    "web_vs_chat",
]
