"""What reaches the terminal: tables and results on stdout, errors and notes on stderr in one line each.

Prompts are hostile: they may hold the escape sequences that terminals obey, and rich's own markup. Every text from
outside goes through `plain`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

PROGRAM = "tuco-lens"


def plain(text: str, width: int | None = None) -> str:
    """One line of harmless text: white space runs become a space, and whatever is not printable its escape.

    Args:
        text: Any text.
        width: Most characters; what is longer ends in an ellipsis.
    """
    if width is not None:
        text = text[: 8 * width]  # enough, and prompts may be megabytes
    line = "".join(_escaped(character) for character in " ".join(text.split()))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def harmless(text: str) -> str:
    """Text of several lines for the terminal: newlines and tabs stay, whatever else is not printable is escaped."""
    return "".join(character if character in "\n\t" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def say(text: str) -> None:
    """Writes one line to stdout."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def complain(kind: str, text: str) -> None:
    """Writes one line to stderr, `tuco-lens: kind: text`."""
    sys.stderr.write(f"{PROGRAM}: {kind}: {plain(text)}\n")
    sys.stderr.flush()


def show_table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to stdout.

    Args:
        columns: Heading of each column, and whether it is aligned to the right.
        rows: Cells, from anywhere.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, is_number in columns:
        table.add_column(Text(heading), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = 1000  # rich takes 80 for files, and would fold cells; a table is no wider than it must be
    console.print(table)


def set_up_streams() -> None:
    """Makes output safe on streams that cannot show a character, and warnings one line each.

    Only this package's own warnings are shown; those of the libraries below are not for its users.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,  # noqa: ARG001 - the signature is that of warnings.showwarning
    file: object = None,  # noqa: ARG001
    line: object = None,  # noqa: ARG001
) -> None:
    own_folder = Path(__file__).resolve().parent.parent
    if category.__module__.startswith("tuco_lens") or own_folder in Path(filename).resolve().parents:
        complain("warning", str(message))
