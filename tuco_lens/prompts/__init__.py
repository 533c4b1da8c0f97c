"""Prompts: text, chats and token ids become tokens (`prompt.py`), whose words they are (`spans.py`), files of them."""

from __future__ import annotations

from tuco_lens.prompts.prompt import (
    Prompt,
    PromptLike,
    Truncate,
    check_messages,
    check_prompt,
    check_text,
    fit,
    make_prompt,
    prompt_name,
)

__all__ = [
    "Prompt",
    "PromptLike",
    "Truncate",
    "check_messages",
    "check_prompt",
    "check_text",
    "fit",
    "make_prompt",
    "prompt_name",
]
