"""Errors that say what went wrong, why, and what to do about it, in one line.

Every error that a user can cause is a `TucoLensError`; the command line prints its `str` and nothing else (see
`tuco_lens/cli/`). Errors that only a defect of this package can cause stay ordinary exceptions.
"""

from __future__ import annotations

from typing import Final

__all__ = ["InputError", "Interrupted", "LoadError", "OutputError", "PairMismatchError", "TucoLensError"]

# str.isprintable() is False for control characters, for every line and paragraph separator, for surrogates and for
# the invisible format characters that reorder text, so whatever it refuses is escaped. The backslash itself is kept:
# messages carry Windows paths more often than they need to be decoded again.
_SHORT_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class TucoLensError(Exception):
    """A failure that the user can understand and fix.

    `str(error)` is the single line "what: why; remedy", whatever the parts contain.
    """

    what: str
    """What failed, naming the file, option or value."""
    why: str
    """The reason, with the values that disagree."""
    remedy: str
    """What to do next."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        # All three go to Exception.args, which pickle passes to __init__.
        super().__init__(what, why, remedy)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{_one_line(self.what)}: {_one_line(self.why)}; {_one_line(self.remedy)}"


class LoadError(TucoLensError):
    """A model, adapter or tokenizer cannot be loaded."""


class PairMismatchError(LoadError):
    """Two models load, but are not the base and tuned model of one pair."""


class InputError(TucoLensError):
    """A prompt, a prompts file or an argument cannot be used."""


class OutputError(TucoLensError):
    """A result cannot be written, or a saved one cannot be read or resumed."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what the interrupted run leaves behind."""


def _one_line(text: str) -> str:
    """`text` stripped at both ends, with everything that could break or disguise the line escaped."""
    return "".join(_escaped(character) for character in text.strip())


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    short = _SHORT_ESCAPES.get(character)
    return short if short is not None else character.encode("unicode_escape").decode("ascii")
