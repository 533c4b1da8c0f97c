"""A dialogue as ids, and batches of them, for the fine-tuning of both trained pairs."""

from __future__ import annotations

from dataclasses import dataclass

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


def pad(batch: list[Dialogue], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels of a batch; no attention mask is needed under causal attention."""
    width = max(len(d.ids) for d in batch)
    ids = torch.full((len(batch), width), pad_id)
    labels = torch.full((len(batch), width), IGNORED)
    for row, d in enumerate(batch):
        ids[row, : len(d.ids)] = torch.tensor(d.ids)
        labels[row, d.answer_start : len(d.ids)] = torch.tensor(d.ids[d.answer_start :])
    return ids, labels
