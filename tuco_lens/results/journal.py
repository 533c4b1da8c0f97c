"""The journal of a run: its rows so far, which outlive the death of the process.

While a run goes on, its rows are in `OUT.partial`: a line of JSON each, behind a first line that says which run they
belong to. A killed run leaves that journal, and resuming goes on from it. `OUT` itself is written once, when the
journal is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from tuco_lens.errors import OutputError
from tuco_lens.results.files import has_content, lock, output_errors, whole_file
from tuco_lens.results.rows import WRITERS, Row, dump_row

JOURNAL_VERSION: Final = 1


@dataclass
class Journal:
    """The rows of a run that is not complete. A context manager; made by `Journal.open`, or by `hold` and `begin`."""

    path: Path
    """`OUT.partial`."""
    n_rows: int
    """Rows in it, so also the index of the next."""
    file: IO[bytes]
    """Open at the end of the last row."""
    resumed: bool = False
    """Whether the run goes on with rows, or with none yet, that an earlier one has written."""
    begun: bool = False
    """Whether rows can be added: the first line stands, and says what decides them."""

    @classmethod
    def open(cls, path: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> Journal:
        """Opens a journal: one that is there if `resume`, without a torn last line; else a new one.

        Args:
            path: `partial_path(out)`.
            fingerprint: What decides the rows, as JSON values; it must be that of the run resumed.
            resume: Go on with the journal that is there, if there is one.

        Raises:
            OutputError: if another run is writing it, if its fingerprint differs (saying in what), if it is damaged,
                or if it cannot be written.
        """
        journal = cls.hold(path, fingerprint, resume=resume)
        try:
            journal.begin(fingerprint)
        except BaseException:
            journal.file.close()
            raise
        return journal

    @classmethod
    def hold(cls, path: Path, known: Mapping[str, Any], *, resume: bool) -> Journal:
        """Keeps other runs away from a journal before all that decides its rows is known; `begin` then opens it.

        What is there stays as it is until then, but for a torn last line.

        Args:
            path: `partial_path(out)`.
            known: The part of the fingerprint that is known.
            resume: Go on with the journal that is there, if there is one.

        Raises:
            OutputError: as `open`, with the differences that show in `known`.
        """
        was_there = path.exists()
        with output_errors(path):
            file = path.open("a+b")
        try:
            with output_errors(path):
                lock(file, path)
                n_rows = _recover(file, known, path) if resume else None
            return cls(path, n_rows or 0, file, resumed=n_rows is not None)
        except BaseException:
            file.close()
            if not was_there and not has_content(path):
                path.unlink(missing_ok=True)
            raise

    def begin(self, fingerprint: Mapping[str, Any]) -> None:
        """Makes it ready for rows; again it does nothing.

        Raises:
            OutputError: if the fingerprint is not that of the run resumed, or the journal cannot be written.
        """
        if self.begun:
            return
        if self.resumed:
            with output_errors(self.path), self.path.open("rb") as file:
                _check_same(_header(file.readline()), fingerprint, self.path, only=None)
        else:
            header = {"tuco_lens_journal": JOURNAL_VERSION, "fingerprint": dict(fingerprint)}
            with output_errors(self.path):
                self.file.truncate(0)
                self.file.write(dump_row(header) + b"\n")
                self.file.flush()
        self.begun = True

    def append(self, row: Row) -> None:
        """Adds the next row. It outlives the death of this process, and with `sync` that of the machine."""
        if not self.begun:
            raise ValueError("the journal has not begun")
        if row["index"] != self.n_rows:
            raise ValueError(f"row {row['index']} after {self.n_rows} rows")
        with output_errors(self.path):
            self.file.write(dump_row(row) + b"\n")
            self.file.flush()
        self.n_rows += 1

    def sync(self) -> None:
        """Waits until the rows are on the disk."""
        with output_errors(self.path):
            os.fsync(self.file.fileno())

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows so far, from the first."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                yield json.loads(line)

    def finish(self, out: Path, names: Sequence[str]) -> None:
        """Writes `out` from the rows, by its ending, and removes the journal.

        Raises:
            OutputError: if it cannot be written; the journal stays then, and `out` is as it was.
        """
        with whole_file(out) as file:
            WRITERS[out.suffix.lower()](self.rows(), names, file)
        with output_errors(out):
            self.path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            if error is not None and self.n_rows == 0 and (self.begun or not has_content(self.path)):
                self.path.unlink(missing_ok=True)  # there is nothing in it to resume
            self.file.close()

    def discard(self) -> None:
        """Removes it: nothing in it is worth resuming."""
        with output_errors(self.path):
            self.path.unlink()


def _header(line: bytes) -> dict[str, Any] | None:
    """The first line, or None if a run was killed while it wrote it."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and "tuco_lens_journal" in record else None


def _recover(file: IO[bytes], known: Mapping[str, Any], path: Path) -> int | None:
    """Cuts off a torn last line and returns the number of rows; None if there is not even a first line."""
    file.seek(0)
    first = file.readline()
    header = _header(first)
    if header is None:
        if file.read(1):
            raise OutputError(f"{path}", "it is not a journal of tuco-lens", "remove it, or name another output")
        return None
    _check_same(header, known, path, only=set(known))
    whole, n_rows = len(first), 0
    for line in file:
        if not _is_row(line, n_rows):
            if file.read(1):
                raise OutputError(f"{path}", f"its row {n_rows} is damaged", "give --overwrite to begin anew")
            break
        whole, n_rows = whole + len(line), n_rows + 1
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return n_rows


def _is_row(line: bytes, index: int) -> bool:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return False
    return isinstance(row, dict) and row.get("index") == index


def _check_same(
    header: Mapping[str, Any] | None, fingerprint: Mapping[str, Any], path: Path, *, only: set[str] | None
) -> None:
    if header is None:
        return
    then: dict[str, Any] = header["fingerprint"] if header["tuco_lens_journal"] == JOURNAL_VERSION else {}
    names = sorted(then.keys() | fingerprint.keys()) if only is None else sorted(only)
    changed = [name for name in names if then.get(name) != fingerprint.get(name)]
    if changed:
        differences = ", ".join(f"{name} was {then.get(name)!r} and is {fingerprint.get(name)!r}" for name in changed)
        remedy = "resume with the pair, settings and prompts of that run, or give --overwrite to begin anew"
        raise OutputError(f"cannot resume from {path}", differences, remedy)
