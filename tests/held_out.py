"""The held-out prompts of `scripts/demo_pair/held_out.py`, for tests and benchmarks: one definition of the splits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "demo_pair"


def web_and_chat(tokenizer: Any) -> tuple[list[list[int]], list[list[dict[str, str]]]]:
    """100 OpenWebText excerpts of 97 tokens as ids, and 100 HH-RLHF dialogues up to the last human turn as messages."""
    sys.path.insert(0, str(SCRIPTS))  # the scripts import each other by bare names, as scripts do
    try:
        import held_out  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(SCRIPTS))
    return held_out.web_windows(tokenizer), held_out.chat_dialogues()
