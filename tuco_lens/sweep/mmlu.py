"""MMLU (Hendrycks et al. 2021) as tasks: five worked examples from `dev`, questions from `test`, answers A to D.

The prompt is the one of its authors (https://github.com/hendrycks/test, `evaluate.py`). The data is a folder with
`dev` and `test` of CSV files without a header (question, A, B, C, D, letter), or a tar archive of it, which is read
without being unpacked. From the hub: `hub.py`.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from tuco_lens.errors import InputError
from tuco_lens.sweep.names import group_of
from tuco_lens.sweep.questions import Question, Task

LETTERS: Final = ("A", "B", "C", "D")
ARCHIVE_ENDINGS: Final = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2")
SPLITS: Final = ("dev", "test")
N_SHOTS: Final = 5

Row = Sequence[str]
"""Question, the four choices, and the right letter."""


@dataclass(frozen=True)
class MmluSource:
    """Where the CSV files of MMLU are."""

    path: Path
    """Folder or archive, for error messages."""
    readers: dict[tuple[str, str], Callable[[], bytes]]
    """(split, task) → what reads its CSV file."""

    def names(self) -> list[str]:
        """Tasks of which there are questions, in alphabetical order."""
        return sorted(name for split, name in self.readers if split == "test")


def find(path: Path) -> MmluSource | None:
    """MMLU's files in a folder or archive; None if it is not MMLU.

    Raises:
        InputError: if an archive cannot be read, or has no such files.
    """
    if path.is_file():
        return _in_archive(path) if path.name.lower().endswith(ARCHIVE_ENDINGS) else None
    for root in (path, path / "data"):
        if all((root / split).is_dir() for split in SPLITS):
            files = [file for split in SPLITS for file in sorted((root / split).glob("*.csv"))]
            return MmluSource(path, {_key(file.as_posix()): file.read_bytes for file in files})
    archives = [file for file in path.iterdir() if file.name.lower().endswith(ARCHIVE_ENDINGS)]
    has_other_tasks = any(".jsonl" in file.name.lower() for file in path.iterdir())
    return _in_archive(archives[0]) if len(archives) == 1 and not has_other_tasks else None


def _in_archive(path: Path) -> MmluSource:
    try:
        with tarfile.open(path) as archive:
            contents = {
                _key(member.name): file.read()
                for member in archive
                if member.name.endswith(".csv") and PurePosixPath(member.name).parent.name in SPLITS
                if (file := archive.extractfile(member)) is not None
            }
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{path}", f"it cannot be read as an archive ({error})", "fetch it again") from error
    if not any(split == "test" for split, _ in contents):
        raise InputError(f"{path}", "it has no test/*.csv", "give MMLU's archive, or a folder of tasks")
    return MmluSource(path, {key: partial(bytes, content) for key, content in contents.items()})


def _key(name: str) -> tuple[str, str]:
    """("test", "anatomy") of "…/test/anatomy_test.csv"."""
    file = PurePosixPath(name)
    split = file.parent.name
    return split, file.stem.removesuffix(f"_{split}")


def read_task(source: MmluSource, name: str) -> Task:
    """One task of MMLU.

    Raises:
        InputError: if its worked examples are missing, or a line is broken, naming file and line.
    """
    return task_of_rows(name, *(_rows(source, split, name) for split in SPLITS))


def task_of_rows(name: str, dev: Sequence[Row], test: Sequence[Row]) -> Task:
    """A task from the rows of its worked examples and of its questions."""
    header = f"The following are multiple choice questions (with answers) about {name.replace('_', ' ')}.\n\n"
    shots = tuple(f"{_asked(row)} {row[-1]}\n\n" for row in dev[:N_SHOTS])
    questions = tuple(Question(_asked(row), LETTERS, LETTERS.index(row[-1])) for row in test)
    return Task(name, group_of(name), questions, header=header, shots=shots)


def _asked(row: Row) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}\n{choices}\nAnswer:"


def _rows(source: MmluSource, split: str, name: str) -> list[Row]:
    where = f"{source.path}, {split}/{name}_{split}.csv"
    read = source.readers.get((split, name))
    if read is None:
        raise InputError(where, "there is no such file", "give the whole of MMLU, dev and test")
    try:
        text = read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(where, f"it cannot be read ({error})", "fetch it again") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            _check_row(row, f"{where}, line {reader.line_num}")
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}", f"broken CSV: {error}", "mend the quotes") from None
    return rows


def _check_row(row: Row, where: str) -> None:
    if len(row) != 2 + len(LETTERS):
        raise InputError(where, f"it has {len(row)} cells", "write question, four choices and the right letter")
    if row[-1] not in LETTERS:
        raise InputError(where, f"its last cell is {row[-1]!r}", f"give one of {', '.join(LETTERS)}")
