"""`compare`: TuCo of the same prompts by several tunes of one base. The result is in `comparison.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from tuco_lens.errors import InputError
from tuco_lens.models.base_model import name_of
from tuco_lens.prompts.prompt import PromptLike
from tuco_lens.tunes.comparison import KIND, TuneComparison
from tuco_lens.tunes.measuring import Measured, measure_tunes
from tuco_lens.tunes.options import OnError, RowsForm, TuneOptions, TunesRun


def compare(
    base: Any,
    tunes: Mapping[str, Any] | Sequence[Any],
    prompts: PromptLike | Sequence[PromptLike] | Mapping[str, Any],
    *,
    on_error: OnError = "stop",
    out: str | Path | None = None,
    rows: RowsForm = "jsonl",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Unpack[TuneOptions],
) -> TuneComparison:
    """Measure TuCo of the same prompts, as the same tokens, by several tunes of one base.

    The base's weights are in memory once. Tunes come one after another: adapters are put to the base in turn, whole
    models are loaded and freed.

    Args:
        base: the base model: hub id, local directory, `.gguf` file, or a loaded transformers model.
        tunes: by name, in the same forms, or PEFT adapters (hub id or directory); a list is named by what it holds.
        prompts: a list of prompts, or a mapping of groups to lists; see `ModelPair.prompt` for what one may be.
        on_error: "stop" at a tune that cannot be loaded or measured, or "skip" it: it is then in `left_out`.
        out: a folder for the result: a file of measurements per tune, rows, and an index. A run that was killed goes
            on with the tune that it was at.
        rows: form of the file of rows: "jsonl", "csv" or "parquet".
        resume: go on with the run that is in `out`; of a complete one, read its result.
        overwrite: replace what is in `out`.
        progress: show a bar, if stderr is a terminal or in a notebook.
        **options: how to read and measure prompts and load models; see `TuneOptions`. By default `keep` is "last": for
            maps of all layers and tokens, as a report needs them, give "maps".

    Raises:
        LoadError: if the base or a tune cannot be loaded; the message names the tune.
        PairMismatchError: if a tune is not one of this base.
        InputError: for unusable prompts or options, or tunes that read the prompts as different tokens.
        OutputError: if `out` cannot be written, is there without `resume` or `overwrite`, or holds another run.
    """
    run = TunesRun(KIND, None if out is None else Path(out), resume, overwrite, progress, on_error, rows)
    return measure_tunes(base, _named(tunes), prompts, run, options, _made, TuneComparison.load)


def _made(measured: Measured) -> TuneComparison:
    return TuneComparison(measured.measurements, measured.groups, measured.left_out, measured.settings)


def _named(tunes: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(tunes, Mapping):
        return {str(name): tune for name, tune in tunes.items()}
    named: dict[str, Any] = {}
    for tune in [tunes] if isinstance(tunes, str) else tunes:
        name = name_of(tune)
        if name in named:
            raise InputError(f"two tunes are called {name!r}", "rows would not tell them apart", "name them: {name: …}")
        named[name] = tune
    return named
