"""The file or folder that a command writes: checked before the models load.

`results/files.py` makes a folder that is not there.
"""

from __future__ import annotations

from pathlib import Path

from tuco_lens.errors import OutputError
from tuco_lens.results.files import check_writable


def check_output(out: Path, ending: str, *, overwrite: bool) -> None:
    """Checks that a file can be written in one go, at the end of a command.

    Raises:
        OutputError: if it cannot, has another ending, or is there already.
    """
    if out.suffix.lower() != ending:
        raise OutputError(f"{out}", f"its ending is {out.suffix or 'missing'!r}", f"name a file that ends in {ending}")
    check_writable(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out}", "it is there already", "name another file, or give --overwrite to replace it")


def check_folder(out: Path) -> bool:
    """Whether the folder is there already.

    Raises:
        OutputError: if it cannot be made, or is something else than a folder.
    """
    if not out.exists():
        check_writable(out)
        return False
    if not out.is_dir():
        raise OutputError(f"{out}", "it is not a folder", "name a folder")
    return True
