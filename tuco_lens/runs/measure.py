"""Measuring prompt files: check everything, load the pair, measure in chunks, write the output once complete.

Whatever can be known to be wrong is found before anything is measured: first without torch (arguments, outputs, the
form of every prompt), then with the tokenizer (the length of every prompt). Memory does not grow with the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuco_lens.errors import InputError, Interrupted, OutputError
from tuco_lens.models.numerics import NOISE_FLOORS
from tuco_lens.prompts.files import PromptSource, Scan
from tuco_lens.results.files import check_writable, partial_path
from tuco_lens.results.journal import Journal, check_resumable
from tuco_lens.results.rows import check_output, columns
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.summary import Summary

if TYPE_CHECKING:
    from tuco_lens.engine.memory import BatchTokens
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
    reading: Mapping[str, Any]
    """How prompts are read: `chat`, `system`, and what else was given of the arguments of `ModelPair.prompt`."""
    truncate: Literal["left", "right"] | None
    """Which end to cut, if any."""
    norm: Literal["l1", "l2"]
    """Norm of the contributions."""
    drift: bool
    """Whether OutputCo is measured."""
    keep: Literal["maps", "last"]
    """What is kept of a prompt; "last" is all that a row needs, but for β."""
    batch_size: int
    """Prompts per batch, at most."""
    batch_tokens: BatchTokens
    """Tokens per padded batch, at most, or "auto"."""
    share_prefixes: bool
    """Compute what prompts begin with once."""
    resume: bool
    """Go on with the journal that is there."""
    overwrite: bool
    """Replace output that is there."""
    progress: bool
    """Show progress on a terminal."""

    @property
    def chunk_size(self) -> int:
        """Prompts that share beginnings and batches; a kill loses less than this many measurements."""
        return max(64, 2 * self.batch_size)

    @property
    def prompt_options(self) -> dict[str, Any]:
        """Arguments that `ModelPair` takes for every prompt."""
        return {**self.reading, "truncate": self.truncate}

    @property
    def measure_options(self) -> dict[str, Any]:
        """Arguments of `ModelPair.measure_stream` for every prompt."""
        what = {"norm": self.norm, "drift": self.drift, "keep": self.keep}
        sizes = {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens, "chunk_size": self.chunk_size}
        return {**self.prompt_options, **what, **sizes, "share_prefixes": self.share_prefixes}


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
        TucoLensError: if an argument, a prompt, a checkpoint or an output is not usable. No output is left then.
        Interrupted: on Ctrl-C.
    """
    _check_outputs(job)
    scan = job.prompts.scan(**job.reading)
    fingerprint = _fingerprint(job, scan)
    journal_path = partial_path(job.out)
    if job.resume:
        check_resumable(journal_path, fingerprint)
    pair = job.pair.load()
    _check_lengths(pair, job)
    fingerprint |= {"backend": pair.backend, "dtype": pair.dtype}
    template = {name: value for name, value in job.reading.items() if name != "system"}
    settings = pair.settings(norm=job.norm, drift=job.drift, **template)
    with Journal.open(journal_path, fingerprint, resume=job.resume) as journal:
        items = _measure_rows(pair, job, scan, journal)
        summary = Summary.of(journal.rows(), floor=NOISE_FLOORS.get(pair.dtype, 0.0))
        journal.finish(job.out, columns(drift=job.drift))
    n_reported = 0 if job.html is None else _write_html(pair, job, items, settings)
    return MeasuredFile(summary, settings, n_reported)


def _check_outputs(job: MeasureJob) -> None:
    check_output(job.out, resume=job.resume, overwrite=job.overwrite)
    if job.html is None:
        return
    if job.keep == "last":
        raise OutputError(f"{job.html}", "--keep last keeps no maps", "leave out --html, or --keep")
    if job.html.suffix.lower() not in HTML_ENDINGS:
        ending = job.html.suffix or "missing"
        raise OutputError(f"{job.html}", f"its ending is {ending!r}", "name a file that ends in .html")
    check_writable(job.html)


def _fingerprint(job: MeasureJob, scan: Scan) -> dict[str, Any]:
    """What decides the rows. The batches and the device do not, beyond rounding, and may change on resuming."""
    from tuco_lens import __version__

    known = {"version": __version__, **job.pair.identity(), "prompts": f"{scan.n_prompts}, sha256:{scan.sha256}"}
    known |= {**job.prompt_options, "norm": job.norm, "drift": job.drift, "keep": job.keep}
    if job.pair.backend != "auto":
        known["backend"] = job.pair.backend
    if job.pair.dtype is not None:
        known["dtype"] = job.pair.dtype
    return known


def _check_lengths(pair: ModelPair, job: MeasureJob) -> None:
    """Tokenises every prompt once: cheap beside measuring, and a prompt too long is found before the first row."""
    for index, prompt in enumerate(job.prompts):
        pair.prompt(prompt, **job.prompt_options, drift=job.drift, index=index)


def _measure_rows(pair: ModelPair, job: MeasureJob, scan: Scan, journal: Journal) -> dict[int, PromptMeasurement]:
    """Measures the prompts that the journal has no row of; returns those that a report shows, by index."""
    from tuco_lens.engine.progress import with_progress

    start = journal.n_rows
    remaining = islice(job.prompts, start, None)
    stream = pair.measure_stream(remaining, **job.measure_options, start_index=start)
    kept: dict[int, PromptMeasurement] = {}
    try:
        for index, item in enumerate(with_progress(stream, total=scan.n_prompts - start, show=job.progress), start):
            journal.append(file_row(index, item))
            if (index + 1 - start) % job.chunk_size == 0:
                journal.sync()
            if job.html is not None and index < HTML_PROMPTS:
                kept[index] = item
    except KeyboardInterrupt:
        raise Interrupted(_left_behind(journal, scan.n_prompts)) from None
    if journal.n_rows != scan.n_prompts:
        why = f"{scan.n_prompts} prompts were counted, and {journal.n_rows} measured"
        raise InputError("the prompts changed during the run", why, "give --overwrite to measure them again")
    journal.sync()
    return kept


def _left_behind(journal: Journal, n_prompts: int) -> str:
    if journal.n_rows == 0:
        return "nothing was written"
    return f"{journal.n_rows} of {n_prompts} rows are in {journal.path}; add --resume to go on"


def file_row(index: int, item: PromptMeasurement) -> dict[str, Any]:
    """The row of one prompt in a result file: that of tables, and whether the prompt was cut."""
    from tuco_lens.results.measurement import result_row

    return {**result_row(index, item), "truncated": item.prompt.n_dropped > 0}


def _write_html(
    pair: ModelPair, job: MeasureJob, kept: Mapping[int, PromptMeasurement], settings: MeasurementSettings
) -> int:
    from tuco_lens.report import write_report
    from tuco_lens.results.measurement import Measurement

    assert job.html is not None
    n_missing = min(kept, default=HTML_PROMPTS)  # rows of an earlier run, which kept no maps
    again = pair.measure_stream(islice(job.prompts, min(n_missing, HTML_PROMPTS)), **job.measure_options)
    items = (*again, *(kept[index] for index in sorted(kept)))
    write_report(Measurement(items, settings), job.html, title=f"TuCo: {pair.tuned_name}")
    return len(items)
