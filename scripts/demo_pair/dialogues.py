"""A dialogue as ids, and batches of them, for the fine-tuning of all trained pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100
"""The label of what is no target."""


@dataclass(frozen=True)
class Dialogue:
    """One exchange in the chat template, as ids."""

    ids: list[int]
    """The prompt in the template, and the answer."""
    answer_start: int
    """Index of the first answer token; the loss is taken from here on, a closing <|im_end|> included."""


def head_ids(tokenizer: Any, prompt: str) -> list[int]:
    """A user's prompt in the chat template, up to where the answer begins."""
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def n_shared(tokenizer: Any) -> int:
    """How many ids every dialogue begins with: the template's system message and the start of the user's turn."""
    one, other = (head_ids(tokenizer, prompt) for prompt in ("A", "B"))
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def dialogue(tokenizer: Any, prompt: str, answer: str | list[int], limit: int) -> Dialogue:
    """Prompt and answer, cut at `limit` tokens; an answer in ids ends as it ends, one in text with <|im_end|>."""
    head = head_ids(tokenizer, prompt)
    if isinstance(answer, str):
        answer = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return Dialogue((head + answer)[:limit], len(head))


def pad(batch: list[Dialogue], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels of a batch; no attention mask is needed under causal attention."""
    width = max(len(d.ids) for d in batch)
    ids = torch.full((len(batch), width), pad_id)
    labels = torch.full((len(batch), width), IGNORED)
    for row, d in enumerate(batch):
        ids[row, : len(d.ids)] = torch.tensor(d.ids)
        labels[row, d.answer_start : len(d.ids)] = torch.tensor(d.ids[d.answer_start :])
    return ids, labels
