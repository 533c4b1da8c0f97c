"""Rows of results: journalled while a run goes on, and turned into the output file when it is complete.

While `tuco-lens measure` runs, its rows are in `OUT.partial`: a line of JSON each, behind a first line that says which
run they belong to. A killed run leaves that journal, and `--resume` goes on from it. `OUT` itself is written from the
complete journal under another name and then renamed, so it is whole whenever it exists. Prompts are read in
`prompts/files.py`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from tuco_lens.errors import OutputError

COLUMNS: Final[dict[str, str]] = {
    "index": "int64",
    "prompt": "string",
    "n_tokens": "int64",
    "tuco": "float64",
    "preco": "float64",
    "beta": "float64",
    "truncated": "bool",
    "output_co": "float64",
}
"""Columns of a result file and their types; `output_co` is there when the drift was measured."""

JOURNAL_VERSION: Final = 1
PARQUET_ROWS: Final = 4096

Row = Mapping[str, Any]

# JSON leaves these as they are, but some readers end a line at the first, and a terminal obeys the others.
_RAW_CONTROLS: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


def columns(*, drift: bool) -> tuple[str, ...]:
    """Names of the columns of a run, in their order."""
    return tuple(name for name in COLUMNS if drift or name != "output_co")


def partial_path(out: Path) -> Path:
    """The journal of a run that writes `out`."""
    return out.with_name(out.name + ".partial")


def check_output(out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Checks before a run whether its results can be written, so that no hours are lost.

    Raises:
        OutputError: for an unknown ending, a directory, a folder that is missing or cannot be written to; for an `out`
            or a journal that is there already, unless `overwrite` or `resume` says what to do with it.
    """
    if out.suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise OutputError(f"{out}", f"its ending is {out.suffix or 'missing'!r}", f"name a file that ends in {known}")
    check_writable(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}", "it is there already", "name another file, or give --overwrite to replace it")
    if partial_path(out).exists() and not (resume or overwrite):
        why = f"{partial_path(out).name} holds an unfinished run"
        raise OutputError(f"{out}", why, "give --resume to go on with it, or --overwrite to begin anew")


def check_writable(path: Path) -> None:
    """Raises `OutputError` if a file of this name cannot be written."""
    if path.is_dir():
        raise OutputError(f"{path}", "it is a directory", "name a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}", f"there is no folder {path.parent}", "make the folder, or name another")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        why = f"{path.parent} cannot be written to ({error.strerror})"
        raise OutputError(f"{path}", why, "choose another folder") from error


@dataclass
class Journal:
    """The rows of a run that is not complete. A context manager; made by `Journal.open`."""

    path: Path
    """`OUT.partial`."""
    n_rows: int
    """Rows in it, so also the index of the next."""
    file: IO[bytes]
    """Open at the end of the last row."""

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
        with _as_output_error(path):
            file = path.open("a+b")
        try:
            with _as_output_error(path):
                _lock(file, path)
                n_rows = _recover(file, fingerprint, path) if resume else 0
                if n_rows is None or not resume:
                    n_rows = 0
                    file.truncate(0)
                    header = {"tuco_lens_journal": JOURNAL_VERSION, "fingerprint": dict(fingerprint)}
                    file.write(dump_row(header) + b"\n")
                    file.flush()
            return cls(path, n_rows, file)
        except BaseException:
            file.close()
            raise

    def append(self, row: Row) -> None:
        """Adds the next row. It outlives the death of this process, and with `sync` that of the machine."""
        if row["index"] != self.n_rows:
            raise ValueError(f"row {row['index']} after {self.n_rows} rows")
        with _as_output_error(self.path):
            self.file.write(dump_row(row) + b"\n")
            self.file.flush()
        self.n_rows += 1

    def sync(self) -> None:
        """Waits until the rows are on the disk."""
        with _as_output_error(self.path):
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
        part = out.with_name(f".{out.name}.tmp")
        with _as_output_error(out):
            try:
                with part.open("wb") as file:
                    _WRITERS[out.suffix.lower()](self.rows(), names, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(out)
            finally:
                part.unlink(missing_ok=True)
            self.path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            if error is not None and self.n_rows == 0:
                self.path.unlink(missing_ok=True)  # there is nothing in it to resume
            self.file.close()


def check_resumable(path: Path, fingerprint: Mapping[str, Any]) -> None:
    """Raises `OutputError` if the journal belongs to another run, as far as `fingerprint` goes; it may be a part."""
    if not path.exists():
        return
    with _as_output_error(path), path.open("rb") as file:
        _check_same(_header(file.readline()), fingerprint, path, only=set(fingerprint))


def dump_row(row: Row) -> bytes:
    """One line of JSON, without its end: floats that read back the same, null for NaN and infinities."""
    text = json.dumps({name: _finite(value) for name, value in row.items()}, ensure_ascii=False, allow_nan=False)
    return _RAW_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _as_output_error(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"cannot write {path}", why, "choose a folder that can be written to") from error


def _lock(file: IO[bytes], path: Path) -> None:
    """Holds the journal until it is closed: two runs that resume it at once would each write every row."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{path}", "another run is writing it", "wait for that run, or name another output") from None


def _header(line: bytes) -> dict[str, Any] | None:
    """The first line, or None if a run was killed while it wrote it."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and "tuco_lens_journal" in record else None


def _recover(file: IO[bytes], fingerprint: Mapping[str, Any], path: Path) -> int | None:
    """Cuts off a torn last line and returns the number of rows; None if there is not even a first line."""
    file.seek(0)
    first = file.readline()
    header = _header(first)
    if header is None:
        if file.read(1):
            raise OutputError(f"{path}", "it is not a journal of tuco-lens", "remove it, or name another output")
        return None
    _check_same(header, fingerprint, path, only=None)
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


def _write_jsonl(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    for row in rows:
        file.write(dump_row({name: row[name] for name in names}) + b"\n")


def _write_csv(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    # All texts are quoted, so that a carriage return within one cannot end its row.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)
    text.detach()


def _write_parquet(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in names])
    remaining = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while chunk := [{name: row[name] for name in names} for row in islice(remaining, PARQUET_ROWS)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


_WRITERS: Final[dict[str, Callable[[Iterable[Row], Sequence[str], IO[bytes]], None]]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
