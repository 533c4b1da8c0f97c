"""`tuco-lens compare` and `trajectory`: many tunes of one base, or the checkpoints of a run, on the same prompts.

What they do is in `tuco_lens/tunes/`; here are their options, and what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tuco_lens.cli.options import (
    CHECKPOINT,
    BaseOption,
    BatchOption,
    OverwriteOption,
    ProgressOption,
    ResumeOption,
    takes,
    takes_loading,
    takes_reading,
)
from tuco_lens.cli.terminal import complain, say, show_table
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import FilePrompt, PromptSource, prompt_place
from tuco_lens.runs.measure import HTML_PROMPTS

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.tunes.comparison import TuneComparison
    from tuco_lens.tunes.trajectory import Trajectory

REPORT_MAPS: Final = 3 * HTML_PROMPTS
"""Most maps of a report: a prompt has one for each tune."""
TEXTS: Final = "prompt"
"""Group of the prompts that are given by --prompt."""
PromptsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        metavar="[GROUP=]FILE",
        help=".txt, .jsonl or .csv, as for measure. May repeat; each file is a group, by default of its name.",
    ),
]
PromptOption = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help=f"One prompt, of the group {TEXTS}. May repeat.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of measurements, rows, figures and report.")
]
OnErrorOption = Annotated[
    Literal["stop", "skip"],
    typer.Option("--on-error", help="One that cannot be loaded stops the run, or is left out and counted."),
]
RowsOption = Annotated[Literal["jsonl", "csv", "parquet"], typer.Option("--rows", help="Form of the file of rows.")]
KeepOption = Annotated[
    Literal["maps", "last"] | None,
    typer.Option(
        "--keep",
        help="maps of all layers and tokens, as the report needs them; or of the last token alone.",
        show_default=f"maps up to {HTML_PROMPTS} prompts",
    ),
]
NormOption = Annotated[Literal["l1", "l2"], typer.Option("--norm", help="Norm of the contributions.")]
DriftOption = Annotated[bool, typer.Option("--drift", help="Also OutputCo, of two independent runs: a third pass.")]
TruncateOption = Annotated[
    Literal["left", "right"] | None,
    typer.Option("--truncate", help="Cut prompts longer than the context at this end.", show_default="refuse them"),
]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", metavar="T", help="One tokenizer for all: hub id or local directory.")
]

_MEASURING: Final = {
    "truncate": (TruncateOption, None),
    "norm": (NormOption, "l1"),
    "drift": (DriftOption, False),
    "keep": (KeepOption, None),
    "tokenizer": (TokenizerOption, None),
    "batch_size": (BatchOption, 64),
}
_RUN: Final = {
    "on_error": (OnErrorOption, "stop"),
    "rows": (RowsOption, "jsonl"),
    "resume": (ResumeOption, False),
    "overwrite": (OverwriteOption, False),
    "progress": (ProgressOption, True),
}
"""What both commands take, by name: kind and default."""


@takes("run", _RUN)
@takes_loading
@takes("measuring", _MEASURING)
@takes_reading
def compare(
    *,
    base: BaseOption = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option("--tuned", metavar="[NAME=]T", help=f"A whole tuned model: {CHECKPOINT}. May repeat."),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="[NAME=]A", help="A PEFT adapter of the base. May repeat.")
    ] = None,
    prompts: PromptsOption = None,
    prompt: PromptOption = None,
    out: OutOption = None,
    reading: dict[str, Any],
    measuring: dict[str, Any],
    loading: dict[str, Any],
    run: dict[str, Any],
) -> None:
    """Compare several tunes of one base on the same prompts.

    Writes DIR/rows.jsonl (a row per tune and prompt), figures.html, report.html (maps, with a switch between the
    tunes), and the measurements. Adapters come first, then whole models.
    """
    named = _named([*(adapter or ()), *(tuned or ())])
    groups = _groups(prompts, prompt, reading)
    folder = _required(base, named, out)
    kept = measuring["keep"] or _kept(groups)
    from tuco_lens.tunes.compare import compare as compared

    options: dict[str, Any] = {**reading, **loading, **measuring, "keep": kept}
    found = compared(base, named, groups, out=folder, **run, **options)
    _finish(found, found, folder, kept, title="Tunes compared")


@takes("run", _RUN)
@takes_loading
@takes("measuring", _MEASURING)
@takes_reading
def trajectory(
    *,
    base: BaseOption = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoints",
            metavar="DIR",
            help="A run's folder, a pattern such as 'run/checkpoint-*', or a checkpoint. May repeat.",
        ),
    ] = None,
    prompts: PromptsOption = None,
    prompt: PromptOption = None,
    out: OutOption = None,
    reading: dict[str, Any],
    measuring: dict[str, Any],
    loading: dict[str, Any],
    run: dict[str, Any],
) -> None:
    """Follow TuCo over the checkpoints of a training run; step 0 is the base.

    Writes DIR/rows.jsonl (a row per step and prompt), figures.html, report.html (maps, with a switch between the
    steps), and the measurements. Loss and learning rate are read from trainer_state.json, where there is one.
    """
    groups = _groups(prompts, prompt, reading)
    folder = _required(base, checkpoints, out)
    kept = measuring["keep"] or _kept(groups)
    from tuco_lens.tunes.trajectory import trajectory as followed

    options: dict[str, Any] = {**reading, **loading, **measuring, "keep": kept}
    found = followed(base, checkpoints or (), groups, out=folder, **run, **options)
    _finish(found, found.compared(), folder, kept, title="TuCo over training steps")


def _required(base: str | None, tunes: Any, out: Path | None) -> Path:
    if base is None:
        raise InputError("no base", "--base is not given", "name the base model")
    if not tunes:
        raise InputError("nothing to measure", "no tune is given", "give --adapter, --tuned or --checkpoints")
    if out is None:
        raise InputError("no output", "--out is not given", "name a folder")
    return out


def _named(given: Sequence[str]) -> dict[str, str]:
    """The tunes by name: NAME=PLACE, or a place called by its last part.

    Raises:
        InputError: if two have one name.
    """
    named: dict[str, str] = {}
    for each in given:
        name, place = _split(each)
        name = name or Path(place).name or place
        if name in named:
            raise InputError(f"two tunes are called {name!r}", "rows would not tell them apart", "give NAME=PLACE")
        named[name] = place
    return named


def _split(given: str) -> tuple[str, str]:
    """NAME=PLACE in its parts; no name if there is such a place, or what is ahead of = is a path."""
    name, equals, place = given.partition("=")
    is_named = equals and place and not Path(given).exists() and ("/" not in name or Path(place).exists())
    return (name, place) if is_named else ("", given)


def _groups(
    files: Sequence[str] | None, texts: Sequence[str] | None, reading: dict[str, Any]
) -> dict[str, list[FilePrompt]]:
    """The prompts by group, each checked as far as it can be without a tokenizer.

    Raises:
        InputError: if there are none, one is unusable, or two files have one name.
    """
    found: dict[str, list[FilePrompt]] = {}
    for each in files or ():
        name, place = _split(each)
        name = name or Path(place).stem
        if name in found:
            raise InputError(f"two groups are called {name!r}", "rows would not tell them apart", "give GROUP=FILE")
        found[name] = _read(PromptSource((prompt_place(place),)), reading)
    if texts:
        if TEXTS in found:
            raise InputError(f"a file is called {TEXTS!r}", "so is the group of --prompt", "give GROUP=FILE")
        found[TEXTS] = _read(PromptSource((), tuple(texts)), reading)
    if not found:
        raise InputError("no prompts", "neither --prompts nor --prompt is given", "give a file, or a text")
    return found


def _read(source: PromptSource, reading: dict[str, Any]) -> list[FilePrompt]:
    source.scan(**reading)
    return list(source)


def _kept(groups: dict[str, list[FilePrompt]]) -> Literal["maps", "last"]:
    return "maps" if sum(map(len, groups.values())) <= HTML_PROMPTS else "last"


def _finish(found: TuneComparison | Trajectory, tunes: TuneComparison, folder: Path, kept: str, *, title: str) -> None:
    """Writes the pages, and says what was found; `tunes` is the same, or the steps as tunes."""
    from tuco_lens.tunes.page import write_page

    written = [write_page(found, folder / "figures.html", title=title)]
    if kept == "maps":
        written.append(_write_report(tunes, folder / "report.html", title))
    _show(found.table)
    say(found.summary())
    if found.left_out:
        complain("warning", f"{len(found.left_out)} left out; {folder} says why")
    if kept != "maps":
        complain("note", "no report: only the last tokens were kept; give --keep maps")
    say(f"wrote {', '.join(path.name for path in written)} and the measurements in {folder}")


def _write_report(tunes: TuneComparison, path: Path, title: str) -> Path:
    """The report of as many prompts as a browser bears, a map for each tune."""
    n_shown = max(1, REPORT_MAPS // len(tunes.names))
    if n_shown < len(tunes.groups):
        complain(
            "note", f"{path.name} shows the first {n_shown} of {len(tunes.groups)} prompts; the other files have all"
        )
    return tunes.first(n_shown).report(path, title=title)


def _show(table: pd.DataFrame) -> None:
    columns = [(str(name), name not in ("tune", "group")) for name in table.columns]
    rows = ([f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in table.values)
    show_table(columns, rows)
