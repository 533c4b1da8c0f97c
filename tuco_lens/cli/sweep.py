"""`tuco-lens sweep`: its options, and a run of it: read the tasks, load the pair, sweep, write tables and figures.

The sweep itself is in `tuco_lens/sweep/`. What can be known to be wrong without the models is found before they load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tuco_lens.cli.folders import check_folder
from tuco_lens.cli.options import (
    BatchOption,
    ChatOption,
    OverwriteOption,
    ProgressOption,
    ResumeOption,
    SystemOption,
    TemplateOption,
    names_in,
    takes_pair,
    template_variables,
)
from tuco_lens.cli.terminal import say, show_table
from tuco_lens.errors import InputError, Interrupted
from tuco_lens.results.files import folder_for, partial_path
from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.pair import ModelPair
    from tuco_lens.sweep.questions import Task
    from tuco_lens.sweep.result import By, SweepResult

RESULT: Final = "sweep.json"
TABLES: Final = ("accuracy.csv", "delta.csv")
FIGURES: Final = ("accuracy.html", "delta.html")
ROWS_SHOWN: Final = 30
"""Most tasks that the terminal shows one by one; of more it shows the groups."""


@dataclass(frozen=True)
class SweepRequest:
    """What one run was asked for."""

    pair: PairChoice
    """Base and tuned model."""
    data: tuple[Path, ...]
    """Folders and files of tasks; none for the hub."""
    names: tuple[str, ...]
    """Tasks, groups or sets; none for all."""
    chat: bool
    """Whether texts go into the chat template."""
    template_kwargs: dict[str, Any]
    """Variables of that."""
    system: str | None
    """System prompt."""
    out: Path
    """Folder of the output."""
    resume: bool
    """Go on with what is there."""
    overwrite: bool
    """Replace what is there."""
    options: dict[str, Any]
    """Arguments of `tuco_lens.sweep.sweep`."""


@takes_pair()
def sweep(
    *,
    choice: PairChoice,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Folder or file of tasks: .jsonl[.gz], or MMLU's folder or archive. May repeat.",
            show_default="the hub",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="NAME,…",
            help="Which tasks, by name or group; mwe and mmlu are the paper's. May repeat.",
            show_default="all of --data",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of tables and figures.")] = None,
    alphas: Annotated[
        str | None,
        typer.Option("--alphas", metavar="A,…", help="The α; 1 is always one.", show_default="the paper's seven"),
    ] = None,
    method: Annotated[Literal["ftc", "logits", "weights"], typer.Option("--method", help="What α scales.")] = "ftc",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Questions per task, drawn at random.", show_default="all"),
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=2, metavar="K", help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the draw, the folds, the bootstrap.")] = 0,
    chat: ChatOption = False,
    template_kwarg: TemplateOption = None,
    system: SystemOption = None,
    batch_size: BatchOption = 8,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    progress: ProgressOption = True,
) -> None:
    """Scale the fine-tuning component over several α, and say how the answers to questions change.

    Writes accuracy.csv, delta.csv, accuracy.html, delta.html and sweep.json.
    """
    if out is None:
        raise InputError("no output", "--out is not given", "name a folder")
    options: dict[str, Any] = {"method": method, "limit": limit, "folds": folds, "seed": seed}
    options |= {"batch_size": batch_size, "progress": progress}
    if alphas is not None:
        options["alphas"] = _numbers(alphas)
    run_sweep(
        SweepRequest(
            choice,
            tuple(data or ()),
            names_in(tasks),
            chat,
            template_variables(template_kwarg),
            system,
            out,
            resume,
            overwrite,
            options,
        ),
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise InputError(f"--alphas {text}", "it is not a list of numbers", "write such as 0.75,1,1.25") from None


def run_sweep(request: SweepRequest) -> None:
    """Sweeps and writes what was asked for.

    Raises:
        TucoLensError: if an argument, a task, a checkpoint or an output is not usable. No output is left then.
        Interrupted: on Ctrl-C.
    """
    _check_outputs(request)
    tasks = _read_tasks(request)
    pair = request.pair.load()
    with folder_for(request.out):
        result = _swept(pair, tasks, request)
        _write(result, request.out)
    settings = result.settings
    say(f"base {settings.base}, tuned {settings.tuned} ({settings.backend}, {settings.dtype}), {settings.method}")
    _show(result)
    say(f"wrote {', '.join((*TABLES, *FIGURES, RESULT))} in {request.out}")


def _check_outputs(request: SweepRequest) -> None:
    out = request.out
    if not check_folder(out):
        return
    from tuco_lens.results.files import check_out

    for name in (*TABLES, *FIGURES, RESULT):
        check_out(out / name, resume=request.resume, overwrite=request.overwrite)


def _read_tasks(request: SweepRequest) -> list[Task]:
    from tuco_lens.sweep.cross_validation import check_folds
    from tuco_lens.sweep.hub import hub_tasks
    from tuco_lens.sweep.loading import load_tasks

    how: dict[str, Any] = {"chat": request.chat, "system": request.system}
    if request.data:
        tasks = load_tasks(request.data, request.names, **how)
    else:
        tasks = hub_tasks(request.names, **how)
    tasks = [replace(task, template_kwargs=request.template_kwargs or None) for task in tasks]
    for task in tasks:
        limit = request.options["limit"]
        check_folds(len(task) if limit is None else min(limit, len(task)), request.options["folds"], task.name)
    return tasks


def _swept(pair: ModelPair, tasks: list[Task], request: SweepRequest) -> SweepResult:
    from tuco_lens.sweep.running import sweep as run

    out = request.out / RESULT
    try:
        return run(pair, tasks, out=out, resume=request.resume, overwrite=request.overwrite, **request.options)
    except KeyboardInterrupt:
        there = partial_path(out)
        text = f"the rows so far are in {there}; add --resume to go on" if there.exists() else "nothing was written"
        raise Interrupted(text) from None


def _write(result: SweepResult, folder: Path) -> None:
    from tuco_lens.results.files import write_whole

    delta = result.cross_validated()
    for column in ("max_alphas", "min_alphas"):
        delta[column] = [" ".join(f"{alpha:g}" for alpha in alphas) for alphas in delta[column]]
    tables: dict[str, pd.DataFrame] = dict(zip(TABLES, (result.to_frame(), delta), strict=True))
    for name, frame in tables.items():
        write_whole(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    for name, figure in zip(FIGURES, (result.accuracy_figure(_lines(result)), result.delta_figure()), strict=True):
        write_whole(folder / name, figure.to_html(include_plotlyjs=True, div_id=name.removesuffix(".html")))


def _lines(result: SweepResult) -> By:
    """What a line of the accuracy figure stands for: with many tasks in several groups, a group."""
    from tuco_lens.plots.sweep import MAX_BANDS

    has_groups = len({task.group for task in result.tasks}) > 1
    return "group" if has_groups and len(result.tasks) > MAX_BANDS else "task"


def _show(result: SweepResult) -> None:
    by = "task" if len(result.tasks) <= ROWS_SHOWN else "group"
    headings = [(by, False), ("questions", True), ("α = 1", True)]
    for goal in ("maximised", "minimised"):
        headings += [(f"Δ {goal} (95 %)", True), ("p", True)]
    show_table(headings, (_cells(row, by) for _, row in result.cross_validated(by).iterrows()))
    say("Δ: out-of-fold change of accuracy, in points, with α chosen on the other folds; p: Holm-corrected")


def _cells(row: Any, by: str) -> list[str]:
    cells = [str(row[by]), str(row["n"]), f"{100 * row['accuracy']:.1f} %"]
    for short in ("max", "min"):
        delta, low, high = (100 * row[f"{short}_{name}"] for name in ("delta", "low", "high"))
        cells += [f"{delta:+.1f} ({low:+.1f} to {high:+.1f})", f"{row[f'{short}_p_holm']:.3g}"]
    return cells
