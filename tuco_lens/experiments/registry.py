"""The experiments by name: what each asks, its section of the paper, and how it is run with the common options.

`tuco-lens experiment NAME` (`tuco_lens/cli/experiment.py`) and the report (`report.py`) are made from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from tuco_lens.experiments.alpha_sweep import alpha_sweep
from tuco_lens.experiments.attacks_of import AttackOptions
from tuco_lens.experiments.comparing import NullOptions
from tuco_lens.experiments.comparison import Comparison
from tuco_lens.experiments.conjugate import conjugate
from tuco_lens.experiments.gcg import gcg
from tuco_lens.experiments.jailbreak_success import jailbreak_success
from tuco_lens.experiments.many_shot import many_shot
from tuco_lens.experiments.output_co import output_co
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.web_vs_chat import web_vs_chat
from tuco_lens.runs.steps import RunOptions
from tuco_lens.sweep.result import SweepResult

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.pair import ModelPair


class Result(Protocol):
    """What every experiment returns: `Comparison`, `Series` or `SweepResult`."""

    def to_frame(self) -> pd.DataFrame:
        """The main table."""
        ...

    def summary(self) -> str:
        """What was found, in words that say no more than the intervals allow."""
        ...

    def save(self, path: str | Path) -> Path:
        """Write everything to one JSON file."""
        ...


@dataclass(frozen=True)
class Options:
    """The options of all experiments; each experiment uses those that apply to it."""

    data: Path | None = None
    """Local folder of the data sets; None for that of `TUCO_LENS_DATA`, or the hub."""
    limit: int | None = None
    """Most prompts (or questions) per group; of `many_shot`, most prompts in all. None for all."""
    seed: int = 0
    """Seed of every draw."""
    system: str | None = None
    """System prompt of every chat."""
    tasks: tuple[str, ...] = ("mwe",)
    """Tasks of `alpha_sweep`, by name, group or set."""
    attacks: AttackOptions = field(default_factory=AttackOptions)
    """The search for attack strings."""
    nulls: NullOptions = field(default_factory=NullOptions)
    """The null controls."""
    run: RunOptions = field(default_factory=RunOptions)
    """Where the result goes, and whether to resume."""

    def common(self) -> dict[str, Any]:
        """The arguments that every experiment except `output_co` takes."""
        return {name: getattr(self, name) for name in ("data", "limit", "seed", "system", "run")}


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper."""

    name: str
    """Its name on the command line."""
    section: str
    """Its section of the paper."""
    question: str
    """What it asks."""
    claim: str
    """What the paper reports."""
    is_harmful: bool
    """Whether it measures harmful text."""
    run: Callable[[ModelPair, Options], Result]
    """Runs it."""
    load: Callable[[Path], Result]
    """Reads its result back."""


EXPERIMENTS: Final = {
    each.name: each
    for each in (
        Experiment(
            "alpha_sweep",
            "5.1",
            "Does scaling FTC by α steer behaviour?",
            "α chosen out of fold to maximise agreement gains 1.55 to 5.18 points, to minimise loses 2.80 to 25.24.",
            False,
            lambda pair, options: alpha_sweep(pair, **options.common(), tasks=options.tasks),
            SweepResult.load,
        ),
        Experiment(
            "web_vs_chat",
            "5.2",
            "Is TuCo lower on web text than on chat?",
            "Chat has the higher TuCo: AUC 0.63 to 1.0 on nine models.",
            False,
            lambda pair, options: web_vs_chat(pair, **options.common(), nulls=options.nulls),
            Comparison.load,
        ),
        Experiment(
            "gcg",
            "5.3",
            "Do GCG attack strings lower TuCo?",
            "Plain harmful requests have the higher TuCo: AUC 0.65 to 1.0 on six models.",
            True,
            lambda pair, options: gcg(pair, **options.common(), attacks=options.attacks, nulls=options.nulls),
            Comparison.load,
        ),
        Experiment(
            "conjugate",
            "5.3",
            "Is TuCo lower on harmful requests in languages that fine-tuning saw little of?",
            "Against Malayalam and Swahili: English AUC 0.76 to 1.0, Japanese 0.12 to 1.0, Hungarian 0.19 to 0.98.",
            True,
            lambda pair, options: conjugate(pair, **options.common(), nulls=options.nulls),
            Comparison.load,
        ),
        Experiment(
            "many_shot",
            "5.3",
            "Does TuCo fall as harmful examples fill the prompt?",
            "On Llama 2 7B it falls from about 0.29 to 0.25 between 1 and 128 shots.",
            True,
            lambda pair, options: many_shot(pair, **options.common(), nulls=options.nulls),
            Series.load,
        ),
        Experiment(
            "jailbreak_success",
            "5.4",
            "Is TuCo lower where the attack succeeds?",
            "Jailbroken prompts have the lower TuCo: AUC 0.51 to 0.94 on seven models.",
            True,
            lambda pair, options: jailbreak_success(
                pair, **options.common(), attacks=options.attacks, nulls=options.nulls
            ),
            Comparison.load,
        ),
        Experiment(
            "output_co",
            "5.5",
            "Is TuCo something else than OutputCo?",
            "On Llama 2 7B, with more of them TuCo rises slowly (0.235 to 0.255) while OutputCo falls, then jumps.",
            False,
            lambda pair, options: output_co(
                pair,
                limit=options.limit,
                seed=options.seed,
                system=options.system,
                nulls=options.nulls,
                run=options.run,
            ),
            Series.load,
        ),
    )
}
"""Every experiment, in the order of the paper."""


def run_all(pair: ModelPair, options: Options, folder: Path) -> dict[str, Result]:
    """Run every experiment, and save each result in `folder`; `jailbreak_success` reuses the attack strings of `gcg`.

    Raises:
        InputError, OutputError: as the experiments do.
    """
    results: dict[str, Result] = {}
    for name, experiment in EXPERIMENTS.items():
        chosen = replace(options, run=replace(options.run, out=folder / f"{name}.json"))
        attacked = results.get("gcg")
        if name == "jailbreak_success" and isinstance(attacked, Comparison):
            found = tuple(attacked.facts["attacks"])
            chosen = replace(chosen, attacks=replace(options.attacks, found=found))
        results[name] = experiment.run(pair, chosen)
    return results
