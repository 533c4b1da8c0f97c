"""Rows of local files: .csv, .jsonl, .json and .txt, each also as .gz or .xz, and their checksum.

What rows mean is said in `parsing.py`. Lines and their errors are read by `tuco_lens/prompts/files.py`, MMLU's archive
by `tuco_lens/sweep/mmlu.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from tuco_lens.errors import InputError
from tuco_lens.prompts.files import csv_rows, json_object, text_lines

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]
"""Each row with what error messages call it: "FILE, line N"."""


def file_rows(path: Path) -> Rows:
    """The rows of a file by its ending; they are read as the iteration goes on.

    Raises:
        InputError: if the file cannot be read or is broken, naming file and line, or if it holds no rows.
    """
    ending = path.name.removesuffix(".gz").removesuffix(".xz").rpartition(".")[2]
    is_empty = True
    for named in _READERS[ending](path):
        is_empty = False
        yield named
    if is_empty:
        raise InputError(f"{path}", "it is empty", "fetch it again")


def _csv(path: Path) -> Rows:
    return ((f"{path}, line {line}", row) for line, row in csv_rows(path))


def _jsonl(path: Path) -> Rows:
    for number, line in enumerate(text_lines(path), 1):
        where = f"{path}, line {number}"
        yield where, json_object(line, where, "an object")


def _txt(path: Path) -> Rows:
    for number, line in enumerate(text_lines(path), 1):
        yield f"{path}, line {number}", {"text": line.removesuffix("\n").removesuffix("\r")}


def _json(path: Path) -> Rows:
    try:
        value: Any = json.loads("".join(text_lines(path)))
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}"
        raise InputError(where, f"broken JSON: {error.msg} at column {error.colno}", "fetch it again") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise InputError(f"{path}", f"broken JSON: {error}", "fetch it again") from None
    rows: Any = cast("Row", value).get("jailbreaks") if isinstance(value, Mapping) else value
    if not isinstance(rows, list):
        raise InputError(f"{path}", "it holds no list of records", "fetch it again")
    for number, row in enumerate(cast("list[Any]", rows), 1):
        where = f"{path}, record {number}"
        if not isinstance(row, Mapping):
            raise InputError(where, f"it is a {type(row).__name__}, not an object", "fetch the file again")
        yield where, cast("Row", row)


_READERS: Final[dict[str, Callable[[Path], Rows]]] = {"csv": _csv, "jsonl": _jsonl, "txt": _txt, "json": _json}


def checksum(files: Sequence[Path]) -> str:
    """SHA-256 of one file's bytes; of several, that of their names and their SHA-256, a line each (`sha256sum`'s form).

    Raises:
        InputError: if one cannot be read.
    """
    digests = [_sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}", error.strerror or str(error), "give a file that exists and can be read") from error
    return digest.hexdigest()
