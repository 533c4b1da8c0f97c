"""The steps of a run, journalled, so that a run that was killed goes on where it stopped.

A step is a function that returns JSON values. What it computes does not depend on the steps before it having been run
or read back: fresh results take the same way through JSON as stored ones. The journal is that of `results/journal.py`;
a row that was computed in another environment than the one before it says so (`environment.py`).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError, OutputError
from tuco_lens.results.files import check_out, clear_part, partial_path
from tuco_lens.results.journal import Journal
from tuco_lens.runs.environment import Environment, add_environment, environment_of

Step = Callable[[Callable[[], Any]], Any]
"""Runs a function, or returns what it returned in the run that is being resumed."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is made, and where its result goes."""

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


class Saved(Protocol):
    """A result that is written to one file."""

    def save(self, path: str | Path) -> Path:
        """Write it."""
        ...


ResultT = TypeVar("ResultT", bound=Saved)
WHERE: Final = "environment"
"""In rows of the journal: where they and those behind them were computed."""


def resumable(
    run: RunOptions,
    fingerprint: Mapping[str, Any],
    compute: Callable[[Step], ResultT],
    load: Callable[[Path], ResultT],
    *,
    total: int | None,
    name: str,
    unit: str = "step",
    record: Callable[[ResultT, tuple[Environment, ...]], ResultT] | None = None,
) -> ResultT:
    """The result of a run: read back if it is there complete, else computed in steps and saved.

    The journal of the steps is `OUT.partial`, and goes when the result is written.

    Args:
        run: where the result goes (without a file nothing is journalled), and whether to resume.
        fingerprint: what decides the result, as JSON values; a saved result has them as its `settings`.
        compute: makes the result with a `Step` for every step, in a fixed order.
        load: reads a saved result.
        total: number of steps, for the progress bar.
        name: in front of the bar.
        unit: what a step is called there.
        record: puts into a result in which environments its steps were computed, in their order.

    Raises:
        OutputError: if the file is there already or cannot be written, or is of another run, or the journal is.
        InputError: if the file that is there cannot be read.
    """
    if run.out is not None:
        check_out(run.out, resume=run.resume, overwrite=run.overwrite)
        if run.out.exists() and not run.overwrite:
            _require_same(run.out, fingerprint)
            _clear_leftovers(run.out, fingerprint)
            return load(run.out)
    resume = run.resume and not run.overwrite
    journal = None if run.out is None else Journal.open(partial_path(run.out), fingerprint, resume=resume)
    with journal or nullcontext():
        bar = with_progress(itertools.count(), total=total, show=run.progress, unit=unit, name=name)
        steps = _Steps(name, journal, bar, environment_of(run.batch_size))
        result = compute(steps)
        result = result if record is None else record(result, steps.environments)
        if run.out is not None and journal is not None:
            result.save(run.out)
            journal.path.unlink()
    return result


class _Steps:
    """The steps done so far, and where the next one's result goes."""

    def __init__(self, name: str, journal: Journal | None, bar: Iterator[int], here: Environment) -> None:
        rows = [] if journal is None else list(journal.rows())
        self.name, self.journal, self.bar, self.here = name, journal, bar, here
        self.stored: list[Any] = [row["value"] for row in rows]
        self.environments: tuple[Environment, ...] = tuple(row[WHERE] for row in rows if WHERE in row)
        self.is_recorded = False

    def __call__(self, compute: Callable[[], Any]) -> Any:
        index = next(self.bar)
        if index < len(self.stored):
            return from_json(self.stored[index])
        value = to_json(compute())
        row = {"index": index, "value": value, **self._where()}
        if self.journal is not None:
            self.journal.append(row)
            self.journal.sync()
        return from_json(json.loads(json.dumps(value, allow_nan=False)))

    def _where(self) -> dict[str, Environment]:
        """What the first row of this process says beside its value, if it was not computed where the last one was."""
        known = len(self.environments)
        if not self.is_recorded:
            self.environments = add_environment(self.environments, self.here, self.name)
            self.is_recorded = True
        return {WHERE: self.here} if len(self.environments) > known else {}


def _require_same(out: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse a result that is there and is not of this run."""
    try:
        stored: Any = from_json(json.loads(out.read_text(encoding="utf-8"))["settings"])
        changed = [key for key in fingerprint if stored.get(key) != from_json(to_json(fingerprint[key]))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {out}", str(error), "give --overwrite to begin anew") from error
    if changed:
        differences = ", ".join(f"{key} was {stored.get(key)!r} and is {fingerprint[key]!r}" for key in changed)
        remedy = "give the pair, data and settings of that run, or --overwrite to begin anew"
        raise OutputError(f"{out} is of another run", differences, remedy)


def _clear_leftovers(out: Path, fingerprint: Mapping[str, Any]) -> None:
    """What a run that was killed while it wrote `out`, or just behind that, has left; not what a run is writing now."""
    clear_part(out)
    path = partial_path(out)
    if path.exists():
        with suppress(OutputError), Journal.open(path, fingerprint, resume=True) as journal:
            journal.path.unlink()


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
