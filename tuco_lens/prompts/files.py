"""The command line's prompts: read from files, checked line by line, streamed.

A file is .txt (one prompt a line), .jsonl (objects with `prompt` or `messages`) or .csv (a column `prompt`), in UTF-8.
It lies on this machine, or at an address (`s3://…`) that pyarrow or fsspec reads.
Nothing here loads a model or holds more than one prompt, so a file of any length is checked before the models load.
What a prompt may be is in `prompts/prompt.py`; results are written by `results/rows.py`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast
from urllib.parse import urlsplit

from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import check_prompt

FilePrompt = str | list[Any] | dict[str, Any]
"""A text, a list of chat messages, or an object with `messages` and `tools`."""

Place = Path | str
"""Where a prompt file is: a path, or an address as text."""

UTF8_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Scan:
    """What a first pass over the prompts found."""

    n_prompts: int
    """Number of prompts."""
    n_unusable: int
    """How many of them cannot be measured, as far as that shows without a tokenizer."""
    sha256: str
    """Hexadecimal digest of all prompts in their order; independent of the files that they came from."""


@dataclass(frozen=True)
class PromptSource:
    """The prompts of one run: those of the files first, file by file, then the texts."""

    files: tuple[Place, ...]
    """Prompt files; see `prompt_place`."""
    texts: tuple[str, ...] = ()
    """Prompts given as text, by `--prompt`."""

    def __iter__(self) -> Iterator[FilePrompt]:
        """The prompts; files are read lazily, and again in each iteration.

        Raises:
            InputError: as `read_prompts`.
        """
        for _, prompt in self.named():
            yield prompt

    def named(self) -> Iterator[tuple[str, FilePrompt]]:
        """Each prompt, after the name that error messages give it."""
        for path in self.files:
            for line, prompt in read_prompts(path):
                yield f"{path}, line {line}", prompt
        for number, text in enumerate(self.texts, 1):
            yield ("--prompt" if len(self.texts) == 1 else f"--prompt number {number}"), text

    def scan(self, *, strict: bool = True, **reading: Any) -> Scan:
        """Reads all prompts once, and checks all of each that can be checked without a tokenizer.

        Args:
            strict: Refuse the first invalid prompt; else only if none is valid.
            **reading: The options of `check_prompt`.

        Raises:
            InputError: naming the file and line of the first invalid prompt; in any case if a file is broken.
        """
        digest = hashlib.sha256()
        n_prompts = n_unusable = 0
        first: InputError | None = None
        for name, prompt in self.named():
            try:
                check_prompt(prompt, name=name, **reading)
            except InputError as error:
                if strict:
                    raise
                first, n_unusable = first or error, n_unusable + 1
            digest.update(json.dumps(prompt, sort_keys=True).encode() + b"\n")
            n_prompts += 1
        if first is not None and n_unusable == n_prompts:
            raise first
        return Scan(n_prompts, n_unusable, digest.hexdigest())


def prompt_place(name: str) -> Place:
    """Where a prompt file of this name is: an address if it has a scheme (`s3://…`), else a path."""
    return name if "://" in name else Path(name)


def read_prompts(path: Place) -> Iterator[tuple[int, FilePrompt]]:
    """The prompts of one file, each with the number of the line it ends on, from 1.

    Checks the format of the file, but not the prompts themselves (`check_prompt` does).

    Raises:
        InputError: if the file is missing, empty, not a file, of an unknown ending, not UTF-8, or broken at some line.
    """
    ending = _ending(path)
    reader = _READERS.get(ending)
    if reader is None:
        known = ", ".join(_READERS)
        raise InputError(f"{path}", f"its ending is {ending or 'missing'!r}", f"give a file that ends in {known}")
    if isinstance(path, Path) and path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise InputError(f"{path}", f"it is {kind}", "give a prompts file")
    is_empty = True
    for item in reader(path):
        is_empty = False
        yield item
    if is_empty:
        raise InputError(f"{path}", "it is empty", "give a file with at least one prompt")


def _ending(place: Place) -> str:
    return (place if isinstance(place, Path) else Path(urlsplit(place).path)).suffix.lower()


def text_lines(path: Place) -> Iterator[str]:
    """The lines of a file, decompressed if it is a `.gz` or `.xz`, with their line ends.

    Only a line feed ends a line: a prompt may contain any other separator.

    Raises:
        InputError: if the file cannot be read, or a line is not UTF-8.
    """
    offset = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                content = line.removeprefix(UTF8_BOM) if number == 1 else line
                try:
                    yield content.decode("utf-8")
                except UnicodeDecodeError as error:
                    place = offset + len(line) - len(content) + error.start
                    why = f"it is not UTF-8: byte 0x{content[error.start]:02X} at offset {place}"
                    raise InputError(f"{path}, line {number}", why, "save the file as UTF-8") from None
                offset += len(line)
    except OSError as error:
        raise InputError(f"{path}", error.strerror or str(error), "give a file that exists and can be read") from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}", f"it is a damaged {_ending(path)} ({error})", "fetch it again") from error


def _opened(place: Place) -> IO[bytes]:
    unpacked = _OPENERS.get(_ending(place))
    if isinstance(place, Path):
        return open(place, "rb") if unpacked is None else unpacked(place, "rb")
    stream = _open_address(place)
    return stream if unpacked is None else unpacked(stream, "rb")


def _open_address(address: str) -> IO[bytes]:
    """What is there, by pyarrow's own file systems, or else by fsspec's."""
    from pyarrow import ArrowInvalid, fs

    try:
        system, path = fs.FileSystem.from_uri(address)
    except ArrowInvalid:  # pyarrow does not know the scheme
        return _open_by_fsspec(address)
    return io.BufferedReader(system.open_input_stream(path))


def _open_by_fsspec(address: str) -> IO[bytes]:
    remedy = "give a path, an s3:// or gs:// address, or one that fsspec reads"
    try:
        import fsspec

        file: Any = fsspec.open(address, "rb")
        return file.open()
    except (ImportError, ValueError) as error:  # a scheme that needs another package, or that nothing knows
        raise InputError(address, str(error), remedy) from None


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _read_txt(path: Place) -> Iterator[tuple[int, FilePrompt]]:
    for number, line in enumerate(text_lines(path), 1):
        yield number, _without_end(line)


def _read_jsonl(path: Place) -> Iterator[tuple[int, FilePrompt]]:
    for number, line in enumerate(text_lines(path), 1):
        where = f"{path}, line {number}"
        yield number, prompt_of_record(json_object(line, where, '{"prompt": "…"}'), where)


def json_object(line: str, where: str, example: str) -> Mapping[str, Any]:
    """The object in a line of a .jsonl file; errors call the line `where`, and show `example`.

    Raises:
        InputError: if the line is blank, is no valid JSON, or is no object.
    """
    if not line.strip():
        raise InputError(where, "it is blank", "take the line out")
    try:
        record: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(where, f"broken JSON: {error.msg} at column {error.colno}", "mend the line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise InputError(where, f"broken JSON: {error}", "mend the line") from None
    if not isinstance(record, Mapping):
        raise InputError(where, f"it is a {type(record).__name__}, not an object", f"write {example} on each line")
    return cast("Mapping[str, Any]", record)


def prompt_of_record(record: Mapping[str, Any], where: str) -> FilePrompt:
    """The `prompt` or `messages` of a record, checked for their type alone; errors call the record `where`.

    Raises:
        InputError: if it has both fields or neither, or if the field has another type.
    """
    if ("prompt" in record) == ("messages" in record):
        found = "both" if "prompt" in record else "neither"
        raise InputError(where, f"it has {found} of the fields prompt and messages", "give it one of them")
    field, kind = ("prompt", str) if "prompt" in record else ("messages", list)
    value: Any = record[field]
    if not isinstance(value, kind):
        wanted = "a string" if kind is str else 'a list of {"role", "content"}'
        raise InputError(where, f"its {field} is a {type(value).__name__}", f"make it {wanted}")
    return {"messages": value, "tools": record["tools"]} if kind is list and record.get("tools") else value


def string_field(record: Mapping[str, Any], name: str, where: str) -> str:
    """The string in the field `name` of a record; errors call the record `where`.

    Raises:
        InputError: if the field is missing, or is no string.
    """
    if name not in record:
        raise InputError(where, f"it lacks the field {name}", "mend the line")
    value: object = record[name]
    if not isinstance(value, str):
        raise InputError(where, f"its {name} is a {type(value).__name__}", "make it a string")
    return value


def _read_csv(path: Place) -> Iterator[tuple[int, FilePrompt]]:
    for line, row in csv_rows(path, "prompt"):
        yield line, row["prompt"]


def csv_rows(path: Place, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a .csv file as dicts by column, each with the number of the line it ends on, from 1.

    Args:
        path: The file.
        columns: Columns that it must have, once each.

    Raises:
        InputError: as `text_lines`; if a column is missing or doubled, or a row is broken or too short or too long.
    """
    reader = csv.reader(text_lines(path), strict=True)
    header = _next_row(reader, path)
    if header is None:
        return
    for column in columns:
        if header.count(column) != 1:
            why = f"two columns are named {column}" if column in header else f"its columns are {', '.join(header)}"
            raise InputError(f"{path}, line 1", why, f"name one column {column} in the first line")
    while (row := _next_row(reader, path)) is not None:
        if len(row) != len(header):
            why = f"it has {len(row)} cells, and the first line names {len(header)} columns"
            raise InputError(f"{path}, line {reader.line_num}", why, "quote cells that hold commas or line breaks")
        yield reader.line_num, dict(zip(header, row, strict=True))


def _next_row(reader: Any, path: Place) -> list[str] | None:
    """The next row that is not a blank line, or None at the end."""
    # The csv module refuses cells over 128 KiB, by a limit for the whole process; it is lifted for this row only.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return next((row for row in reader if row), None)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}", f"broken CSV: {error}", "mend the quotes") from None
    finally:
        csv.field_size_limit(limit)


_OPENERS: Final[dict[str, Callable[..., Any]]] = {".gz": gzip.open, ".xz": lzma.open}

_READERS: Final[dict[str, Callable[[Place], Iterable[tuple[int, FilePrompt]]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
