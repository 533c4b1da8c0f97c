"""Files that are whole whenever they exist: what may be written where, and how.

Every file of this package goes through `whole_file`. Its content is written beside it under one fixed name and then
renamed, so a process that is killed leaves at most that one file, and the next one to write there takes it over.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tuco_lens.errors import OutputError


def partial_path(out: Path) -> Path:
    """The journal of a run that writes `out`."""
    return out.with_name(out.name + ".partial")


def part_path(path: Path) -> Path:
    """Where the content of `path` stands until it is complete."""
    return path.with_name(f".{path.name}.part")


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


def check_out(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Checks before a run whether its result can be written, so that no hours are lost.

    Raises:
        OutputError: if it cannot, or if the run would have to decide what to do with a result or a journal that is
            there already.
    """
    check_writable(path)
    if path.exists() and not (resume or overwrite):
        raise OutputError(f"{path}", "it is there already", "name another, or give --overwrite to replace it")
    if has_content(partial_path(path)) and not (resume or overwrite):
        why = f"{partial_path(path).name} holds an unfinished run"
        raise OutputError(f"{path}", why, "give --resume to go on with it, or --overwrite to begin anew")


def has_content(path: Path) -> bool:
    """Whether there is such a file, and something in it: a run that was killed before it began left an empty one."""
    return path.exists() and path.stat().st_size > 0


@contextmanager
def output_errors(path: Path) -> Generator[None]:
    """While open, an `OSError` becomes the `OutputError` that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"cannot write {path}", why, "choose a folder that you can write to") from error


@contextmanager
def whole_file(path: Path) -> Generator[IO[bytes]]:
    """A file to write to, which takes the place of `path` when the block ends; after an error `path` is as it was.

    Raises:
        OutputError: if it cannot be written, or another process is writing it.
    """
    part = part_path(path)
    with output_errors(path), part.open("ab") as file:
        lock(file, path)
        _require_still_there(file, part, path)
        try:
            file.truncate(0)  # what a killed process may have left
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # which renames no open file; elsewhere the lock is held until it has its name
                file.close()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _require_still_there(file: IO[bytes], part: Path, path: Path) -> None:
    """Refuse a file that another process has renamed since it was opened: it is that process's result now."""
    if not (part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())):
        raise OutputError(f"{path}", "another run is writing it", "wait for that run, or name another output")


def clear_part(path: Path) -> None:
    """Removes what a killed process left while it wrote `path`; not what another is writing now."""
    part = part_path(path)
    if part.exists():
        with suppress(OutputError, OSError), part.open("ab") as file:
            lock(file, path)
            part.unlink()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file through `whole_file`, text as UTF-8; returns its path.

    Raises:
        OutputError: if it cannot be written.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def lock(file: IO[bytes], path: Path) -> None:
    """Holds an open file until it is closed, or its process ends; `path` is what the error names.

    Raises:
        OutputError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{path}", "another run is writing it", "wait for that run, or name another output") from None


@contextmanager
def folder_for(out: Path) -> Generator[None]:
    """While open, the folder is there; one that was made here and is still empty is removed after an error.

    Raises:
        OutputError: if it cannot be made, or is a file.
    """
    made = not out.exists()
    if not made and not out.is_dir():
        raise OutputError(f"{out}", "it is not a folder", "name a folder")
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}", error.strerror or str(error), "name another") from error
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # it is not empty: a stopped run has left its journal
                out.rmdir()
        raise
