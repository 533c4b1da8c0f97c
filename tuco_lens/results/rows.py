"""Rows of results, and the files that they make: .jsonl, .csv and .parquet.

The rows come from a journal (`journal.py`), so none of the writers holds more than a few of them. Prompts are read in
`prompts/files.py`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from tuco_lens.errors import OutputError
from tuco_lens.results.files import check_out, partial_path

COLUMNS: Final[dict[str, str]] = {
    "tune": "string",
    "step": "int64",
    "group": "string",
    "index": "int64",
    "prompt": "string",
    "n_tokens": "int64",
    "tuco": "float64",
    "preco": "float64",
    "beta": "float64",
    "truncated": "bool",
    "output_co": "float64",
    "error": "string",
}
"""Columns of a result file and their types; `output_co` is there when the drift was measured, `error` where a prompt
that cannot be measured has a row, which says why and has no values, and `group` with `tune` or `step` where there are
several tunes or steps."""

PARQUET_ROWS: Final = 4096

Row = Mapping[str, Any]
Writer = Callable[[Iterable[Row], Sequence[str], IO[bytes]], None]
"""Writes rows with these columns to a file."""

# JSON leaves these as they are, but some readers end a line at the first, and a terminal obeys the others.
_RAW_CONTROLS: Final = re.compile("[\x7f-\x9f\u2028\u2029]")


def columns(*, drift: bool, errors: bool = False, key: str | None = None) -> tuple[str, ...]:
    """Names of the columns of a run, in their order; `key` is "tune" or "step" if there are several."""
    optional = {"output_co": drift, "error": errors, "tune": key == "tune", "step": key == "step", "group": bool(key)}
    return tuple(name for name in COLUMNS if optional.get(name, True))


def check_output(out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Checks before a run whether its results can be written, so that no hours are lost.

    Raises:
        OutputError: for an unknown ending, and as `check_out`; a result without a journal cannot be resumed.
    """
    writer_of(out)
    check_out(out, resume=resume and partial_path(out).exists(), overwrite=overwrite)


def writer_of(out: Path) -> Writer:
    """What writes rows with these columns to this file, by its ending.

    Raises:
        OutputError: for an unknown ending.
    """
    if out.suffix.lower() not in WRITERS:
        known = ", ".join(WRITERS)
        raise OutputError(f"{out}", f"its ending is {out.suffix or 'missing'!r}", f"name a file that ends in {known}")
    return WRITERS[out.suffix.lower()]


def dump_row(row: Row) -> bytes:
    """One line of JSON, without its end: floats that read back the same, null for NaN and infinities."""
    text = json.dumps({name: _finite(value) for name, value in row.items()}, ensure_ascii=False, allow_nan=False)
    return _RAW_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """The row's cells in the order of the columns; a row that says no error has none."""
    return {name: row.get("error") if name == "error" else row[name] for name in names}


def _write_jsonl(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    for row in rows:
        file.write(dump_row(_cells(row, names)) + b"\n")


def _write_csv(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    # All texts are quoted, so that a carriage return within one cannot end its row.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(list(_cells(row, names).values()) for row in rows)
    text.detach()


def _write_parquet(rows: Iterable[Row], names: Sequence[str], file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in names])
    remaining = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while chunk := [_cells(row, names) for row in islice(remaining, PARQUET_ROWS)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


WRITERS: Final[dict[str, Writer]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""What writes rows with these columns to a file, by its ending."""
