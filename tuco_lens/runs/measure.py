"""A run of `tuco-lens measure`: check everything, load the pair, measure in chunks, write the output once complete.

Whatever can be known to be wrong is found before anything is measured: first without torch (arguments, outputs, the
form of every prompt), then with the tokenizer (the length of every prompt). Memory does not grow with the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuco_lens.cli.options import PairChoice
from tuco_lens.cli.summary import Summary
from tuco_lens.cli.terminal import Interrupted, complain, say
from tuco_lens.errors import InputError, OutputError
from tuco_lens.models.numerics import NOISE_FLOORS
from tuco_lens.prompts.files import PromptSource, Scan
from tuco_lens.results.rows import Journal, check_output, check_resumable, check_writable, columns, partial_path

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.results.measurement import PromptMeasurement

HTML_PROMPTS = 500
"""Most prompts of a report: each brings its maps, and a page of more is no use to a browser."""

HTML_ENDINGS = (".html", ".htm")


@dataclass(frozen=True)
class MeasureRequest:
    """What one run was asked for."""

    pair: PairChoice
    """Base and tuned model."""
    prompts: PromptSource
    """Prompt files and texts."""
    out: Path
    """Result file."""
    html: Path | None
    """Report file."""
    chat: bool
    """Whether texts go into the chat template."""
    system: str | None
    """System prompt."""
    truncate: Literal["left", "right"] | None
    """Which end to cut, if any."""
    norm: Literal["l1", "l2"]
    """Norm of the contributions."""
    drift: bool
    """Whether OutputCo is measured."""
    batch_size: int
    """Prompts per batch, at most."""
    resume: bool
    """Go on with the journal that is there."""
    overwrite: bool
    """Replace output that is there."""
    progress: bool
    """Show progress on a terminal."""

    @property
    def chunk_size(self) -> int:
        """Prompts that are sorted by length together; a kill loses less than this many measurements."""
        return max(32, 4 * self.batch_size)

    @property
    def prompt_options(self) -> dict[str, Any]:
        """Arguments that `ModelPair` takes for every prompt."""
        return {"chat": self.chat, "system": self.system, "truncate": self.truncate}

    @property
    def measure_options(self) -> dict[str, Any]:
        """Arguments of `ModelPair.measure_stream` for every prompt."""
        sizes = {"batch_size": self.batch_size, "chunk_size": self.chunk_size}
        return {**self.prompt_options, **sizes, "norm": self.norm, "drift": self.drift}


def run_measure(request: MeasureRequest) -> None:
    """Measures and writes what was asked for.

    Raises:
        TucoLensError: if an argument, a prompt, a checkpoint or an output is not usable. No output is left then.
        Interrupted: on Ctrl-C.
    """
    _check_outputs(request)
    scan = request.prompts.scan(chat=request.chat, system=request.system)
    fingerprint = _fingerprint(request, scan)
    journal_path = partial_path(request.out)
    if request.resume:
        check_resumable(journal_path, fingerprint)
    pair = request.pair.load()
    _check_lengths(pair, request)
    fingerprint |= {"backend": pair.backend, "dtype": pair.dtype}
    with Journal.open(journal_path, fingerprint, resume=request.resume) as journal:
        items = _measure_rows(pair, request, scan, journal)
        summary = Summary.of(journal.rows(), floor=NOISE_FLOORS.get(pair.dtype, 0.0))
        journal.finish(request.out, columns(drift=request.drift))
    say(f"base {pair.base_name}, tuned {pair.tuned_name} ({pair.backend}, {pair.dtype})")
    summary.show()
    summary.warn_below_floor(pair.dtype)
    say(f"wrote {request.out}")
    if request.html is not None:
        _write_html(pair, request, items, scan.n_prompts)


def _check_outputs(request: MeasureRequest) -> None:
    check_output(request.out, resume=request.resume, overwrite=request.overwrite)
    if request.html is None:
        return
    if request.html.suffix.lower() not in HTML_ENDINGS:
        ending = request.html.suffix or "missing"
        raise OutputError(f"{request.html}", f"its ending is {ending!r}", "name a file that ends in .html")
    check_writable(request.html)


def _fingerprint(request: MeasureRequest, scan: Scan) -> dict[str, Any]:
    """What decides the rows. The batch size and the device do not, beyond rounding, and may change on resuming."""
    from tuco_lens import __version__

    known = {"version": __version__, **request.pair.identity(), "prompts": f"{scan.n_prompts}, sha256:{scan.sha256}"}
    known |= {**request.prompt_options, "norm": request.norm, "drift": request.drift}
    if request.pair.backend != "auto":
        known["backend"] = request.pair.backend
    if request.pair.dtype is not None:
        known["dtype"] = request.pair.dtype
    return known


def _check_lengths(pair: ModelPair, request: MeasureRequest) -> None:
    """Tokenises every prompt once: cheap beside measuring, and a prompt too long is found before the first row."""
    for index, prompt in enumerate(request.prompts):
        pair.prompt(prompt, **request.prompt_options, drift=request.drift, index=index)


def _measure_rows(
    pair: ModelPair, request: MeasureRequest, scan: Scan, journal: Journal
) -> dict[int, PromptMeasurement]:
    """Measures the prompts that the journal has no row of; returns those that a report shows, by index."""
    from tuco_lens.engine.progress import with_progress

    start = journal.n_rows
    remaining = islice(request.prompts, start, None)
    stream = pair.measure_stream(remaining, **request.measure_options, start_index=start)
    kept: dict[int, PromptMeasurement] = {}
    try:
        for index, item in enumerate(with_progress(stream, total=scan.n_prompts - start, show=request.progress), start):
            journal.append(result_row(index, item))
            if (index + 1 - start) % request.chunk_size == 0:
                journal.sync()
            if request.html is not None and index < HTML_PROMPTS:
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


def result_row(index: int, item: PromptMeasurement) -> dict[str, Any]:
    """The row of one prompt in a result file."""
    from tuco_lens.results.measurement import result_row as measured

    return {**measured(index, item), "truncated": item.prompt.n_dropped > 0}


def _write_html(
    pair: ModelPair, request: MeasureRequest, kept: Mapping[int, PromptMeasurement], n_prompts: int
) -> None:
    from tuco_lens.report import write_report
    from tuco_lens.results.measurement import Measurement

    assert request.html is not None
    n_shown = min(n_prompts, HTML_PROMPTS)
    n_missing = min(n_shown, min(kept, default=n_shown))  # rows of an earlier run, which kept no maps
    again = pair.measure_stream(islice(request.prompts, n_missing), **request.measure_options)
    items = (*again, *(kept[index] for index in sorted(kept)))
    settings = pair.settings(norm=request.norm, chat=request.chat, drift=request.drift)
    write_report(Measurement(items, settings), request.html, title=f"TuCo: {pair.tuned_name}")
    if n_prompts > n_shown:
        complain("note", f"{request.html} shows the first {n_shown} of {n_prompts} prompts; {request.out} has all")
    say(f"wrote {request.html}")
