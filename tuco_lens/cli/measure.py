"""`tuco-lens measure`: its options. What it does with them is in `runs/measure.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tuco_lens.cli.options import (
    AdapterOption,
    BackendOption,
    BaseOption,
    BatchOption,
    ChatOption,
    DeviceOption,
    DTypeOption,
    PairOption,
    PickleOption,
    ProgressOption,
    SystemOption,
    TrustOption,
    TunedOption,
    choose_pair,
    with_loading,
)
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import PromptSource
from tuco_lens.runs.measure import MeasureRequest, run_measure


def measure(
    pair: PairOption = None,
    base: BaseOption = None,
    tuned: TunedOption = None,
    adapter: AdapterOption = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help=".txt (a prompt a line), .jsonl (prompt, or messages) or .csv (column prompt). May repeat.",
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
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a report of the first 500 prompts.")
    ] = None,
    chat: ChatOption = False,
    system: SystemOption = None,
    truncate: Annotated[
        Literal["left", "right"] | None,
        typer.Option("--truncate", help="Cut prompts longer than the context at this end.", show_default="refuse them"),
    ] = None,
    norm: Annotated[Literal["l1", "l2"], typer.Option("--norm", help="Norm of the contributions.")] = "l1",
    drift: Annotated[
        bool, typer.Option("--drift", help="Also OutputCo, of two independent runs: a third pass.")
    ] = False,
    batch_size: BatchOption = 8,
    backend: BackendOption = "auto",
    dtype: DTypeOption = None,
    device: DeviceOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace output that is there.")] = False,
    trust_remote_code: TrustOption = False,
    allow_pickle: PickleOption = False,
    progress: ProgressOption = True,
) -> None:
    """Measure TuCo of every prompt on a pair, and write a row for each.

    Rows are in the order of the prompts: those of the files first, then each --prompt.
    """
    choice = with_loading(
        choose_pair(pair, base, tuned, adapter),
        backend=backend,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    if not prompts and not prompt:
        raise InputError("no prompts", "neither --prompts nor --prompt is given", "give a file, or a text")
    if out is None:
        raise InputError("no output", "--out is not given", "name a .jsonl, .csv or .parquet file")
    run_measure(
        MeasureRequest(
            pair=choice,
            prompts=PromptSource(tuple(prompts or ()), tuple(prompt or ())),
            out=out,
            html=html,
            chat=chat,
            system=system,
            truncate=truncate,
            norm=norm,
            drift=drift,
            batch_size=batch_size,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    )
