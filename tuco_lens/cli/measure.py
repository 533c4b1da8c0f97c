"""`tuco-lens measure`: its options, and what it says. The run itself is in `runs/measure.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from tuco_lens.cli.options import (
    BatchOption,
    OverwriteOption,
    ProgressOption,
    ResumeOption,
    takes_pair,
    takes_reading,
)
from tuco_lens.cli.terminal import complain, say, show_table
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import PromptSource, prompt_place
from tuco_lens.runs.chunks import OnError, RowOptions
from tuco_lens.runs.measure import HTML_PROMPTS, MeasureJob, run_measure
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.summary import Spread, Summary
from tuco_lens.runs.workers import Workers

_NAMES: Final = {"tuco": "TuCo", "beta": "β", "output_co": "OutputCo"}


@takes_pair()
@takes_reading
def measure(
    *,
    choice: PairChoice,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help=".txt (a prompt a line), .jsonl (prompt, or messages) or .csv (column prompt), here or at an s3:// or "
            "other address. May repeat.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="One prompt. May repeat; comes after those of files."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A row per prompt: .jsonl, .csv or .parquet.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help=f"Also write a report of the first {HTML_PROMPTS} prompts."),
    ] = None,
    reading: dict[str, Any],
    truncate: Annotated[
        Literal["left", "right"] | None,
        typer.Option("--truncate", help="Cut prompts longer than the context at this end.", show_default="refuse them"),
    ] = None,
    norm: Annotated[Literal["l1", "l2"], typer.Option("--norm", help="Norm of the contributions.")] = "l1",
    drift: Annotated[
        bool, typer.Option("--drift", help="Also OutputCo, of two independent runs: a third pass.")
    ] = False,
    keep: Annotated[
        Literal["maps", "last"],
        typer.Option("--keep", help="last: compute what a row needs and no more; there is no β then, and no --html."),
    ] = "maps",
    batch_size: BatchOption = 64,
    batch_tokens: Annotated[
        str, typer.Option("--batch-tokens", metavar="N", help="Tokens per batch, at most; auto: what fits.")
    ] = "auto",
    share_prefixes: Annotated[
        bool,
        typer.Option("--share-prefixes/--no-share-prefixes", help="Compute what prompts begin with once."),
    ] = True,
    on_error: Annotated[
        OnError,
        typer.Option("--on-error", help="A prompt that cannot be measured is a row with its error, or stops the run."),
    ] = "row",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Measure in N processes, each with a pair of its own."),
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="The workers are on this Ray cluster: HOST:PORT.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            min=0.0,
            metavar="G",
            help="Accelerators of a worker.",
            show_default="1 if there is any",
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-worker", min=1, metavar="C", help="CPU cores and threads of a worker.", show_default="its share"
        ),
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    progress: ProgressOption = True,
) -> None:
    """Measure TuCo of every prompt on a pair, and write a row for each.

    Rows are in the order of the prompts: those of the files first, then each --prompt.
    """
    if not prompts and not prompt:
        raise InputError("no prompts", "neither --prompts nor --prompt is given", "give a file, or a text")
    if out is None:
        raise InputError("no output", "--out is not given", "name a .jsonl, .csv or .parquet file")
    done = run_measure(
        MeasureJob(
            pair=choice,
            prompts=PromptSource(tuple(map(prompt_place, prompts or ())), tuple(prompt or ())),
            out=out,
            html=html,
            rows=RowOptions(
                reading,
                truncate,
                norm,
                drift,
                keep,
                batch_size,
                _number_or_auto(batch_tokens),
                share_prefixes,
                on_error,
            ),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
            workers=_workers(workers, ray, gpus_per_worker, cpus_per_worker, choice),
        )
    )
    say(f"base {done.settings.base}, tuned {done.settings.tuned} ({done.settings.backend}, {done.settings.dtype})")
    _show_summary(done.summary, done.settings.dtype)
    say(f"wrote {out}")
    if html is not None:
        if done.n_reported < done.summary.n_prompts:
            shown = f"the first {done.n_reported} of {done.summary.n_prompts} prompts"
            complain("note", f"{html} shows {shown}; {out} has all")
        say(f"wrote {html}")


def _number_or_auto(text: str) -> int | Literal["auto"]:
    """The argument of --batch-tokens.

    Raises:
        InputError: for anything but "auto" and whole numbers above 0.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise InputError("--batch-tokens", f"it is {text!r}", "give a whole number above 0, or auto")
    return int(text)


def _workers(
    n_workers: int | None, address: str | None, gpus: float | None, cpus: int | None, choice: PairChoice
) -> Workers | None:
    if n_workers is None:
        alone = {"--ray": address, "--gpus-per-worker": gpus, "--cpus-per-worker": cpus}
        for name, value in alone.items():
            if value is not None:
                raise InputError(name, "it is for workers, and --workers is not given", "give --workers N")
        return None
    if choice.device is not None and ":" in choice.device:
        why = "each worker sees its own accelerators alone"
        raise InputError(f"--device {choice.device} with --workers", why, "leave --device out, or give cpu or cuda")
    return Workers(n_workers, address, gpus, cpus)


def _show_summary(summary: Summary, dtype: str) -> None:
    """Prints counts and spreads; says on stderr if values are too small for the dtype of the weights."""
    say(f"{summary.n_prompts} prompts, {summary.n_tokens} tokens")
    if summary.n_failed:
        remedy = "their rows say why; give --on-error stop to stop at the first"
        complain("warning", f"{summary.n_failed} of {summary.n_prompts} prompts could not be measured; {remedy}")
    rows = ([_NAMES[column], *_cells(spread)] for column, spread in summary.spreads.items())
    show_table([("", False), ("mean", True), ("min", True), ("max", True)], rows)
    if summary.n_below_floor:
        remedy = "read them as 0" if dtype in ("float32", "float64") else "measure with --dtype float32"
        few = f"{summary.n_below_floor} of {summary.n_prompts} TuCo values"
        complain("warning", f"{few} lie under the noise floor of {dtype}; {remedy}")


def _cells(spread: Spread) -> list[str]:
    if spread.n_values == 0:
        return ["–", "–", "–"]
    return [f"{value:.4f}" for value in (spread.mean, spread.low, spread.high)]
