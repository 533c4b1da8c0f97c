"""What an object shows when its name is typed: a few lines, and never the numbers of a tensor.

Every result that can be large is a `Brief`. The tables and cards that notebooks show are in `plots/cards.py`.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

_WIDTH: Final = 110
_LINES: Final = 6
_TEXT: Final = 60
_SHOWN: Final = 4
"""Most entries of a list or mapping that are shown one by one."""


class Brief:
    """Gives a dataclass a short `repr`: its fields, each as `brief` shows it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # else `@dataclass` would write its own
            cls.__repr__ = cls.__repr__

    def __repr__(self) -> str:
        fields = [field for field in dataclasses.fields(self) if field.repr]  # pyright: ignore[reportArgumentType]
        said = [f"{field.name}={brief(getattr(self, field.name))}" for field in fields]
        return in_lines(f"{type(self).__name__}({', '.join(said)})")


def in_lines(text: str) -> str:
    """The text wrapped at a terminal's width: at most six lines, then `…` for the rest."""
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines if len(lines) <= _LINES else [*lines[:_LINES], "    …"])


def brief(value: Any) -> str:
    """One value in a few words: tensors by dtype and shape, tables by size, long texts cut, long lists by length."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if hasattr(value, "columns"):
        return f"{type(value).__name__}[{len(value)} × {len(value.columns)}]"
    if isinstance(value, str):
        return repr(value) if len(value) <= _TEXT else f"{value[:_TEXT]!r}…"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return _brief_mapping(value)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return _brief_list(value)  # pyright: ignore[reportUnknownArgumentType]
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}(…)"
    return cut(repr(value))


def cut(text: str, most: int = _TEXT) -> str:
    """The first `most` characters of a text, and `…` if any are left out."""
    return text if len(text) <= most else f"{text[:most]}…"


def _brief_mapping(value: Mapping[Any, Any]) -> str:
    shown = [f"{brief(key)}: {brief(each)}" for key, each in list(value.items())[:_SHOWN]]
    return "{" + ", ".join([*shown, *([f"… {len(value)} in all"] if len(value) > _SHOWN else [])]) + "}"


def _brief_list(value: Sequence[Any]) -> str:
    if len(value) > _SHOWN:
        kinds = sorted({type(each).__name__ for each in value})
        return f"[{len(value)} × {'|'.join(kinds[:3])}]"
    inside = ", ".join(map(brief, value))
    return f"[{inside}]" if not isinstance(value, tuple) else f"({inside}{',' if len(value) == 1 else ''})"
