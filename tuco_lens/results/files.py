"""Where a sweep writes: what may be there already, and files that are whole whenever they exist."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tuco_lens.errors import OutputError
from tuco_lens.results.rows import check_writable, partial_path


def check_out(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises `OutputError` if a sweep cannot write `path`, or would have to decide what to do with what is there."""
    check_writable(path)
    if path.exists() and not (resume or overwrite):
        raise OutputError(f"{path}", "it is there already", "name another, or give --overwrite to replace it")
    if partial_path(path).exists() and not (resume or overwrite):
        why = f"{partial_path(path).name} holds an unfinished sweep"
        raise OutputError(f"{path}", why, "give --resume to go on with it, or --overwrite to begin anew")


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under another name and then rename it, so that it is whole whenever it exists; text as UTF-8.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tuco_lens-") as folder:
            part = Path(folder) / "part"
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            part.replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(f"cannot write {path}", why, "choose a folder that you can write to") from error
    return path
