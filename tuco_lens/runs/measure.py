"""Measuring prompt files: check everything, load the pair, measure in chunks, write the output once complete.

Whatever can be known to be wrong with the run is found before anything is measured. A prompt that cannot be measured is
a row with its error, or, with `on_error="stop"`, the end of the run: then every prompt is checked first, without torch
(the form) and with the tokenizer (the length). Memory does not grow with the prompts. `workers.py` measures the chunks
on many workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError, Interrupted, OutputError
from tuco_lens.models.numerics import NOISE_FLOORS
from tuco_lens.prompts.files import PromptSource, Scan
from tuco_lens.results.files import check_writable, partial_path
from tuco_lens.results.journal import Journal
from tuco_lens.results.rows import check_output, columns
from tuco_lens.runs.chunks import MeasuredRow, RowOptions, chunk_rows, chunks
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.summary import Summary
from tuco_lens.runs.workers import Workers, worker_parts

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.results.measurement import MeasurementSettings, PromptMeasurement

HTML_PROMPTS = 500
"""Most prompts of a report: each brings its maps, and a page of more is no use to a browser."""

HTML_ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class MeasureJob:
    """What one run is asked for."""

    pair: PairChoice
    """Base and tuned model."""
    prompts: PromptSource
    """Prompt files and texts."""
    out: Path
    """Result file."""
    html: Path | None
    """Report file."""
    rows: RowOptions
    """How prompts are read and measured."""
    resume: bool
    """Go on with the journal that is there."""
    overwrite: bool
    """Replace output that is there."""
    progress: bool
    """Show progress on a terminal."""
    workers: Workers | None = None
    """Processes that measure; None is this one."""


@dataclass(frozen=True)
class MeasuredFile:
    """What a run says of itself when its output is written."""

    summary: Summary
    """Of all rows."""
    settings: MeasurementSettings
    """The pair and the options."""
    n_reported: int = 0
    """Prompts that the report shows, the first ones."""


def run_measure(job: MeasureJob) -> MeasuredFile:
    """Measures and writes what was asked for.

    Raises:
        TucoLensError: if an argument, a checkpoint or an output is not usable; if a prompt is not and `on_error` is
            "stop", or no prompt is. No output is left then.
        Interrupted: on Ctrl-C.
    """
    _check_outputs(job)
    scan = job.prompts.scan(strict=job.rows.on_error == "stop", **job.rows.reading)
    known = _fingerprint(job, scan)
    with Journal.hold(partial_path(job.out), known, resume=job.resume) as journal:
        pair = None
        if job.workers is None:
            pair = job.pair.load()
            _check_lengths(pair, job)
            parts = _parts(pair, job, journal.n_rows, scan.n_prompts)
        else:
            first = min(journal.n_rows, scan.n_prompts - 1)  # workers tell the settings with their rows
            parts = worker_parts(job.workers, job.pair, job.prompts, job.rows, first, scan.n_prompts)
        settings, items = _measure_rows(job, parts, scan, known, journal)
        summary = Summary.of(journal.rows(), floor=NOISE_FLOORS.get(settings.dtype, 0.0))
        _require_some(summary, journal)
        journal.finish(
            job.out, columns(drift=job.rows.drift, errors=job.rows.on_error == "row" or summary.n_failed > 0)
        )
    n_reported = 0 if job.html is None or pair is None else _write_html(pair, job, items, settings)
    return MeasuredFile(summary, settings, n_reported)


def _check_outputs(job: MeasureJob) -> None:
    check_output(job.out, resume=job.resume, overwrite=job.overwrite)
    if job.html is None:
        return
    if job.rows.keep == "last":
        raise OutputError(f"{job.html}", "--keep last keeps no maps", "leave out --html, or --keep")
    if job.workers is not None:
        why = "workers send rows, and a report needs maps"
        raise InputError(
            "--html with --workers", why, f"make it of the first {HTML_PROMPTS} prompts in a run of its own"
        )
    if job.html.suffix.lower() not in HTML_ENDINGS:
        ending = job.html.suffix or "missing"
        raise OutputError(f"{job.html}", f"its ending is {ending!r}", "name a file that ends in .html")
    check_writable(job.html)


def _fingerprint(job: MeasureJob, scan: Scan) -> dict[str, Any]:
    """What decides the rows. Batches, devices and workers do not, beyond rounding: they may change on resuming."""
    from tuco_lens import __version__

    known = {"version": __version__, **job.pair.identity(), "prompts": f"{scan.n_prompts}, sha256:{scan.sha256}"}
    known |= {**job.rows.prompt_options, "norm": job.rows.norm, "drift": job.rows.drift, "keep": job.rows.keep}
    if job.pair.backend != "auto":
        known["backend"] = job.pair.backend
    if job.pair.dtype is not None:
        known["dtype"] = job.pair.dtype
    return known


def _check_lengths(pair: ModelPair, job: MeasureJob) -> None:
    """Tokenises every prompt once: cheap beside measuring, and a prompt too long is found before the first row."""
    if job.rows.on_error == "stop":
        for index, prompt in enumerate(job.prompts):
            pair.prompt(prompt, **job.rows.prompt_options, drift=job.rows.drift, index=index)


Parts = Iterable[tuple["MeasurementSettings", Iterable[MeasuredRow]]]
"""Rows as they are measured, behind the settings that they were measured with; the first part may be empty."""


def _parts(pair: ModelPair, job: MeasureJob, n_rows: int, n_prompts: int) -> Parts:
    """The chunks of which rows are missing, measured here."""
    settings = job.rows.settings(pair)
    yield settings, ()
    if n_rows < n_prompts:
        for start, chunk in chunks(job.prompts, job.rows.chunk_size, n_rows):
            yield settings, chunk_rows(pair, chunk, job.rows, start=start)


def _measure_rows(
    job: MeasureJob, parts: Parts, scan: Scan, known: Mapping[str, Any], journal: Journal
) -> tuple[MeasurementSettings, dict[int, PromptMeasurement]]:
    """Adds the rows that the journal lacks; returns the settings, and the measurements that a report shows by index."""
    settings: list[MeasurementSettings] = []
    kept: dict[int, PromptMeasurement] = {}

    def added() -> Iterator[MeasuredRow]:
        for found, rows in parts:
            settings[:] = [found]
            journal.begin({**known, "backend": found.backend, "dtype": found.dtype})
            for each in rows:
                if each.row["index"] >= journal.n_rows:  # the rest is there from the run resumed
                    journal.append(each.row)
                    yield each
            journal.sync()

    try:
        for each in with_progress(added(), total=scan.n_prompts - journal.n_rows, show=job.progress):
            if job.html is not None and each.item is not None and each.row["index"] < HTML_PROMPTS:
                kept[each.row["index"]] = each.item
    except KeyboardInterrupt:
        raise Interrupted(_left_behind(journal, scan.n_prompts)) from None
    if journal.n_rows != scan.n_prompts:
        why = f"{scan.n_prompts} prompts were counted, and {journal.n_rows} measured"
        raise InputError("the prompts changed during the run", why, "give --overwrite to measure them again")
    return settings[0], kept


def _require_some(summary: Summary, journal: Journal) -> None:
    """Refuse a result without a value: then an option is wrong, or all prompts are."""
    if summary.n_failed == summary.n_prompts and summary.first_error is not None:
        journal.discard()
        why, _, remedy = summary.first_error.rpartition("; ")
        raise InputError("no prompt can be measured", why, remedy)


def _left_behind(journal: Journal, n_prompts: int) -> str:
    if journal.n_rows == 0:
        return "nothing was written"
    return f"{journal.n_rows} of {n_prompts} rows are in {journal.path}; add --resume to go on"


def _write_html(
    pair: ModelPair, job: MeasureJob, kept: Mapping[int, PromptMeasurement], settings: MeasurementSettings
) -> int:
    from tuco_lens.report import write_report
    from tuco_lens.results.measurement import Measurement

    assert job.html is not None
    n_missing = min(kept, default=HTML_PROMPTS)  # rows of an earlier run, which kept no maps
    earlier = islice(job.prompts, min(n_missing, HTML_PROMPTS))
    again = [
        each.item
        for start, chunk in chunks(earlier, job.rows.chunk_size, 0)
        for each in chunk_rows(pair, chunk, job.rows, start=start)
    ]
    items = (*(item for item in again if item is not None), *(kept[index] for index in sorted(kept)))
    write_report(Measurement(items, settings), job.html, title=f"TuCo: {pair.tuned_name}")
    return len(items)
