"""The steps of an experiment, journalled, so that a run that was killed goes on where it stopped.

A step is a function that returns JSON values. What it computes does not depend on the steps before it having been run
or read back: fresh results take the same way through JSON as stored ones. The journal is that of `results/rows.py`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError, OutputError
from tuco_lens.results.files import check_out, partial_path
from tuco_lens.results.journal import Journal

Step = Callable[[Callable[[], Any]], Any]
"""Runs a function, or returns what it returned in the run that is being resumed."""


@dataclass(frozen=True)
class RunOptions:
    """How an experiment is run, and where its result goes."""

    out: Path | None = None
    """File of the result; without it nothing is written."""
    resume: bool = False
    """Go on with the journal that is beside `out`; of a finished run, return its result."""
    overwrite: bool = False
    """Replace what is there."""
    progress: bool = True
    """Show a bar, if stderr is a terminal or in a notebook."""
    batch_size: int = 8
    """Prompts per batch, at most."""


@contextmanager
def journalled(run: RunOptions, fingerprint: Mapping[str, Any], *, total: int | None, name: str) -> Generator[Step]:
    """A `Step` for every step of a run, in a fixed order; the journal is `OUT.partial` and is removed on success.

    Args:
        run: where the result will be written (without a file nothing is journalled), and whether to resume.
        fingerprint: what decides the results, as JSON values.
        total: number of steps, for the progress bar.
        name: in front of the bar.

    Raises:
        OutputError: if the file is there already or cannot be written, or the journal is of another run.
    """
    out = run.out
    if out is not None:
        check_out(out, resume=run.resume, overwrite=run.overwrite)
    resume = run.resume and not run.overwrite
    journal = None if out is None else Journal.open(partial_path(out), fingerprint, resume=resume)
    with journal or nullcontext():
        stored = [] if journal is None else [row["value"] for row in journal.rows()]
        bar = with_progress(itertools.count(), total=total, show=run.progress, unit="step", name=name)
        yield _Steps(stored, journal, bar)
        if journal is not None:
            journal.path.unlink()


class _Steps:
    """The steps done so far, and where the next one's result goes."""

    def __init__(self, stored: list[Any], journal: Journal | None, bar: Iterator[int]) -> None:
        self.stored, self.journal, self.bar = stored, journal, bar

    def __call__(self, compute: Callable[[], Any]) -> Any:
        index = next(self.bar)
        if index < len(self.stored):
            return from_json(self.stored[index])
        value = to_json(compute())
        if self.journal is not None:
            self.journal.append({"index": index, "value": value})
            self.journal.sync()
        return from_json(json.loads(json.dumps(value, allow_nan=False)))


def already_finished(run: RunOptions, fingerprint: Mapping[str, Any]) -> bool:
    """Whether the result of this very run is there and is to be returned as it is.

    Raises:
        OutputError: if a result of another run is there, or one that nothing says what to do with.
    """
    if run.out is None or run.overwrite or not run.out.exists():
        return False
    check_out(run.out, resume=run.resume, overwrite=False)
    try:
        stored: Any = from_json(json.loads(run.out.read_text(encoding="utf-8"))["settings"])
        changed = [key for key in fingerprint if stored.get(key) != from_json(to_json(fingerprint[key]))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {run.out}", str(error), "give --overwrite to begin anew") from error
    if changed:
        differences = ", ".join(f"{key} was {stored.get(key)!r} and is {fingerprint[key]!r}" for key in changed)
        remedy = "give the pair, data and settings of that run, or --overwrite to begin anew"
        raise OutputError(f"{run.out} is of another run", differences, remedy)
    return True


def to_json(value: Any) -> Any:
    """The value with NaN and infinities as texts, since JSON has none; floats read back bit for bit."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(part) for key, part in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in cast("list[Any]", value)]
    return value


def from_json(value: Any) -> Any:
    """What `to_json` was given, with lists for tuples."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {key: from_json(part) for key, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [from_json(part) for part in cast("list[Any]", value)]
    return value
