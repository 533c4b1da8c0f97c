"""Experiment 5.3, conjugate prompting: is TuCo lower on harmful requests in languages that fine-tuning saw little of?

AdvBench in English, Japanese and Hungarian, each against Malayalam and Swahili together. Content warning: the prompts
are harmful requests; they are measured and never shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.data import load
from tuco_lens.experiments.comparing import NullOptions, Prepared, compare, n_steps
from tuco_lens.experiments.comparison import Comparison, Contrast
from tuco_lens.experiments.prompt_groups import advbench_positions, fitting, was_trained_on_advbench
from tuco_lens.experiments.settings import settings_of
from tuco_lens.runs.steps import RunOptions

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

RARE: Final = "Malayalam and Swahili"
PAPER: Final = {
    "English": "AUC 0.76 to 1.0 on seven models",
    "Japanese": "AUC 0.12 to 1.0 on seven models",
    "Hungarian": "AUC 0.19 to 0.98 on seven models",
}
LANGUAGES: Final = {"en": "English", "ja": "Japanese", "hu": "Hungarian", "ml": RARE, "sw": RARE}


def conjugate(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    held_out: bool | None = None,
    nulls: NullOptions = NullOptions(),  # noqa: B008 - frozen
    run: RunOptions = RunOptions(),  # noqa: B008
) -> Comparison:
    """Compare TuCo of harmful requests in three languages (positive) with Malayalam and Swahili (paper §5.3).

    Args:
        pair: the pair.
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`. The hub does not have this one.
        limit: most requests per group; half as many, rounded up, in each of Malayalam and Swahili. By default all.
        seed: of the permuted labels alone; the requests are not drawn, and null controls have the seeds 0, 1, …
        system: system prompt of every chat.
        held_out: measure only goals that the project's own pairs were not trained on; by default if `pair` is one.
        nulls: the null controls.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the data is missing, or no prompt fits the context.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    own = was_trained_on_advbench(pair) if held_out is None else held_out
    lines = load("advbench_translations", folder=data)
    groups: dict[str, list[Prompt]] = {name: [] for name in LANGUAGES.values()}
    n_long: dict[str, int] = dict.fromkeys(LANGUAGES.values(), 0)
    for code, name in LANGUAGES.items():
        requests = lines.only(group=code).prompts
        share = None if limit is None else -(-limit // list(LANGUAGES.values()).count(name))
        asked = [requests[i] for i in advbench_positions(held_out=own)[:share]]
        prompts, n = fitting(pair, asked, system=system)
        groups[name] += prompts
        n_long[name] += n
    settings = settings_of(
        "conjugate",
        pair,
        data={lines.name: lines.checksum},
        parameters={"limit": limit, "system": system, "held_out": own, **nulls.as_parameters()},
        seed=seed,
    )
    contrasts = [Contrast(f"{name} against {RARE}", name, RARE, PAPER[name]) for name in PAPER]
    facts = {f"requests left out, too long, {name}": n for name, n in n_long.items()}
    total = n_steps([len(prompts) for prompts in groups.values()], nulls)
    ready = Prepared(groups, facts)
    return compare(pair, "Conjugate prompting", lambda _: ready, contrasts, settings, run=run, nulls=nulls, total=total)
