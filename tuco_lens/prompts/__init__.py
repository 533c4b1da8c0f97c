"""From text, chats (`chats.py`) and ids to tokens (`prompt.py`) and their roles (`spans.py`); files (`files.py`)."""

from __future__ import annotations

from tuco_lens.prompts.chats import PromptNotice, TemplateOptions, check_messages, check_text
from tuco_lens.prompts.prompt import (
    Prompt,
    PromptLike,
    Truncate,
    check_prompt,
    fit,
    make_prompt,
    prompt_name,
)

__all__ = [
    "Prompt",
    "PromptLike",
    "PromptNotice",
    "TemplateOptions",
    "Truncate",
    "check_messages",
    "check_prompt",
    "check_text",
    "fit",
    "make_prompt",
    "prompt_name",
]
