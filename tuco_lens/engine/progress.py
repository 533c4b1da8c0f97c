"""A progress bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(
    items: Iterable[Item], *, total: int | None, show: bool, unit: str = "prompt", name: str = "TuCo"
) -> Iterator[Item]:
    """Pass items on with a progress bar in units/s, on stderr; silent unless in a terminal or notebook."""
    if not (show and (sys.stderr.isatty() or _in_notebook())):
        yield from items
        return
    from tqdm.auto import tqdm

    yield from tqdm(items, total=total, unit=unit, desc=name)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
