"""Text from token ids as they come: whole characters only, and nothing that a stop string may still take back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"


class TextStream:
    """The text of one row.

    Args:
        tokenizer: a transformers tokenizer.
        stop: strings that end the text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.text = ""
        """All of the text, without special tokens, cut before the stop string."""
        self.stopped = False
        """Whether a stop string was met."""
        self._ids: list[int] = []
        self._given = 0

    def add(self, token_id: int) -> str:
        """Take the next token; returns the part of the text that has become certain with it."""
        self._ids.append(token_id)
        # Cleaning up would change text that has been given already (a space before a full stop).
        text: str = self.tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        places = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        self.stopped = bool(places)
        self.text = text[: min(places)] if places else text
        return "" if self.stopped else self._give(self._certain())

    def close(self) -> str:
        """What `add` had held back, at the end of the text."""
        return self._give(len(self.text))

    def _give(self, end: int) -> str:
        part = self.text[self._given : end]
        self._given = max(self._given, end)
        return part

    def _certain(self) -> int:
        """The number of characters that no further token can change."""
        end = len(self.text)
        while end > 0 and self.text[end - 1] == _INCOMPLETE:
            end -= 1
        held = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n], 0, end))
        return end - max(held, default=0)
