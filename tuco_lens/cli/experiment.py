"""`tuco-lens experiment`: one of the paper's experiments, or all, on one pair; tables, figures and a page of them.

The experiments are in `tuco_lens/experiments/`. What can be known to be wrong without the models is found before they
load. Harmful prompts are measured and never printed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tuco_lens.cli.folders import check_folder
from tuco_lens.cli.options import (
    BatchOption,
    OverwriteOption,
    ProgressOption,
    ResumeOption,
    SystemOption,
    names_in,
    takes_pair,
)
from tuco_lens.cli.terminal import complain, say
from tuco_lens.errors import InputError, Interrupted
from tuco_lens.results.files import folder_for
from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    from tuco_lens.attacks.gcg import Strength
    from tuco_lens.experiments.attacks_of import AttackOptions
    from tuco_lens.experiments.registry import Options, Result
    from tuco_lens.pair import ModelPair

ALL: Final = "all"
NAMES: Final = (
    "alpha_sweep",
    "web_vs_chat",
    "gcg",
    "conjugate",
    "many_shot",
    "jailbreak_success",
    "output_co",
)
"""The experiments, in the order of the paper; those of `experiments/registry.py`, which is slow to import."""
HARMFUL: Final = ("gcg", "conjugate", "many_shot", "jailbreak_success", ALL)
"""Experiments that measure harmful text."""
PROMPTS_PER_ATTACK: Final = 20
"""Of a limited run, where the search for eleven strings would take longer than all the rest."""
ATTACKS_DEFAULT: Final = f"11; with --limit, one for {PROMPTS_PER_ATTACK} prompts"


@takes_pair(backend="bridge")  # takes about two thirds of the time: attention is fused
def experiment(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(NAMES)}, or {ALL}.")],
    *,
    choice: PairChoice,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of the data sets.", show_default="TUCO_LENS_DATA, or the hub"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of results.")] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Prompts of each group, at most.", show_default="all"),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="NAME,…",
            help="Of alpha_sweep: tasks by name or group, or mwe and mmlu. May repeat.",
            show_default="mwe",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of every draw.")] = 0,
    nulls: Annotated[
        int, typer.Option("--nulls", min=0, metavar="N", help="Seeds of each null control; 0 for none.")
    ] = 3,
    attacks: Annotated[
        int | None,
        typer.Option("--attacks", min=1, metavar="N", help="Attack strings sought.", show_default=ATTACKS_DEFAULT),
    ] = None,
    gcg_strength: Annotated[
        Literal["quick", "paper"],
        typer.Option(
            "--gcg-strength", help="Budget of each search: for two CPU cores, or that of GCG's paper (hours)."
        ),
    ] = "quick",
    attack_steps: Annotated[
        int | None,
        typer.Option("--attack-steps", min=0, metavar="N", help="Steps of each search.", show_default="60 or 500"),
    ] = None,
    random_search: Annotated[
        bool | None,
        typer.Option(
            "--random-search/--no-random-search",
            help="In gcg, seek each string by random search at equal cost too.",
            show_default="with --gcg-strength paper",
        ),
    ] = None,
    system: SystemOption = None,
    batch_size: BatchOption = 8,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    progress: ProgressOption = True,
) -> None:
    """Run one of the paper's experiments, or all of them, with intervals, baselines and null controls.

    Writes NAME.json and NAME.csv for each, and NAME.html, or all.html, with every table and figure.
    """
    _check_name(name)
    if out is None:
        raise InputError("no output", "--out is not given", "name a folder")
    _check_outputs(out, name, resume=resume, overwrite=overwrite)
    _check_data(data)
    asked = names_in(tasks) or ("mwe",)
    _check_tasks(asked)
    if name in HARMFUL:
        complain("content warning", "this measures harmful requests; none is shown")
    loaded = choice.load()
    sought = _attacks(gcg_strength, limit, attacks=attacks, steps=attack_steps, random_search=random_search)
    options = replace(_options(data, limit, seed, system, sought, nulls=nulls), tasks=asked)
    run = replace(options.run, resume=resume, overwrite=overwrite, progress=progress, batch_size=batch_size)
    with folder_for(out):
        results = _run(name, loaded, replace(options, run=run), out)
        _write(results, out, name)
    for result in results.values():
        say(result.summary())
    say(f"wrote {', '.join(f'{each}.json, {each}.csv' for each in results)} and {name}.html in {out}")


def _check_name(name: str) -> None:
    if name not in (*NAMES, ALL):
        known = ", ".join((*NAMES, ALL))
        raise InputError(f"no experiment {name!r}", f"there are {known}", "name one of them")


def _check_outputs(out: Path, name: str, *, resume: bool, overwrite: bool) -> None:
    if not check_folder(out):
        return
    from tuco_lens.results.files import check_out

    names = NAMES if name == ALL else (name,)
    files = [*(f"{each}.json" for each in names), f"{name}.html"]
    for file in files:
        check_out(out / file, resume=resume, overwrite=overwrite)


def _check_data(data: Path | None) -> None:
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}", "there is no such folder", "name a folder laid out as the docs say")


def _check_tasks(words: tuple[str, ...]) -> None:
    from tuco_lens.sweep.names import SETS, names_of, select

    select(words, [name for groups in SETS.values() for name in names_of(groups)])


def _options(
    data: Path | None, limit: int | None, seed: int, system: str | None, attacks: AttackOptions, *, nulls: int
) -> Options:
    """What decides the numbers."""
    from tuco_lens.experiments.comparing import NullOptions
    from tuco_lens.experiments.registry import Options

    attacks = replace(attacks, gcg=replace(attacks.gcg, system=system))  # sought in the chats that are measured
    return Options(data=data, limit=limit, seed=seed, system=system, attacks=attacks, nulls=NullOptions(seeds=nulls))


def _attacks(
    strength: Strength, limit: int | None, *, attacks: int | None, steps: int | None, random_search: bool | None
) -> AttackOptions:
    from tuco_lens.attacks.gcg import STRENGTHS
    from tuco_lens.experiments.attacks_of import AttackOptions

    how = STRENGTHS[strength]
    return AttackOptions(
        n_strings=attacks or limited_attacks(limit),
        gcg=how if steps is None else replace(how, steps=steps),
        random_search=strength == "paper" if random_search is None else random_search,
    )


def limited_attacks(limit: int | None) -> int:
    """How many attack strings a run with this limit of prompts seeks, unless a number is given."""
    from tuco_lens.experiments.attacks_of import AttackOptions

    n = AttackOptions().n_strings
    return n if limit is None else min(n, -(-limit // PROMPTS_PER_ATTACK))


def _run(name: str, pair: ModelPair, options: Options, out: Path) -> dict[str, Result]:
    from tuco_lens.experiments.registry import EXPERIMENTS, run_all

    try:
        if name == ALL:
            return run_all(pair, options, out)
        chosen = replace(options, run=replace(options.run, out=out / f"{name}.json"))
        return {name: EXPERIMENTS[name].run(pair, chosen)}
    except KeyboardInterrupt:
        raise Interrupted(f"what is done is in {out}; add --resume to go on") from None


def _write(results: dict[str, Any], out: Path, page: str) -> None:
    from tuco_lens.experiments.report import write_experiments
    from tuco_lens.results.files import write_whole

    for name, result in results.items():
        write_whole(out / f"{name}.csv", result.to_frame().to_csv(index=False, lineterminator="\n"))
    write_experiments(results, out / f"{page}.html")
