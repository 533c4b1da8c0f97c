"""The command line, `tuco-lens`: `main` is its entry point.

The commands are registered in `app.py`, and each has a file of its own. Nothing here imports torch before a command
has checked its arguments, so `--help` and usage errors come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `tuco-lens` and exits: 0 done, 1 failed, 2 bad usage or input, 130 interrupted.

    Args:
        argv: Arguments after the program's name; those of the process by default.
    """
    from tuco_lens.cli.app import run

    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))
