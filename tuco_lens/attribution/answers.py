"""Which tokens are asked about: an answer, and what it is compared with, as ids of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of, run_logits
from tuco_lens.plots.labels import token_label
from tuco_lens.prompts.spans import display_tokens

if TYPE_CHECKING:
    from tuco_lens.models.loaded import LoadedPair
    from tuco_lens.prompts.prompt import Prompt

Answer = str | int | Sequence[str | int] | None
"""A token as text or id, or several, whose mean logit is taken; None for the default."""


@dataclass(frozen=True)
class Contrast:
    """An answer's mean logit, less that of what it is compared with."""

    answer: tuple[int, ...]
    """Ids of the answer's tokens."""
    against: tuple[int, ...]
    """Ids of the tokens that it is compared with; may be empty."""

    def weights(self, d_vocab: int) -> Float[Tensor, " d_vocab"]:
        """By which the logits are multiplied; float64, on the CPU."""
        weights = torch.zeros(d_vocab, dtype=torch.float64)
        for ids, sign in ((self.answer, 1.0), (self.against, -1.0)):
            for token_id in ids:
                weights[token_id] += sign / len(ids)
        return weights


def contrast(
    pair: LoadedPair, answer: Answer, against: Answer, logits: Float[Tensor, " d_vocab"], prompt: Prompt, position: int
) -> Contrast:
    """The tokens that were asked about; by default what the tuned model says against what the base model says.

    Args:
        pair: the two models.
        answer: by default the tuned model's most likely token.
        against: by default, if no answer is given either, the base model's most likely token, or the tuned model's
            second if both say the same; otherwise nothing.
        logits: the tuned model's at the position.
        prompt: the tokens.
        position: the position, from 0.

    Raises:
        InputError: for an answer that is no single token of the vocabulary; lists the tokens that it is.
    """
    chosen = _ids(pair, answer, "answer") if answer is not None else (int(logits.argmax()),)
    if against is not None:
        return Contrast(chosen, _ids(pair, against, "against"))
    if answer is not None:
        return Contrast(chosen, ())
    ids = torch.tensor([prompt.token_ids], device=device_of(pair.base))
    with torch.no_grad():
        theirs = int(run_logits(pair.base, ids)[0, position].argmax())
    second = int(logits.topk(2).indices[1])
    return Contrast(chosen, (second if theirs == chosen[0] or theirs >= len(logits) else theirs,))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens by themselves, for display."""
    return tuple(text for token_id in ids for text in display_tokens(tokenizer, [token_id]))


def question(answer: Sequence[str], against: Sequence[str]) -> str:
    """What is asked, in words: "'a' over 'b'"."""
    shown = (", ".join(token_label(text, 24) for text in side) for side in (answer, against))
    return " over ".join(f"'{side}'" for side in shown if side)


def _ids(pair: LoadedPair, asked: str | int | Sequence[str | int], name: str) -> tuple[int, ...]:
    if isinstance(asked, str | int):
        return (_id(pair, asked, name),)
    found = tuple(_id(pair, each, name) for each in asked)
    if not found:
        raise InputError(f"{name} is empty", "there is no token in it", "give a token, an id, or several")
    return found


def _id(pair: LoadedPair, asked: str | int, name: str) -> int:
    d_vocab = pair.tuned.cfg.d_vocab
    if not isinstance(asked, str):
        if not 0 <= asked < d_vocab:
            raise InputError(f"{name} {asked} is no token", f"ids are 0 to {d_vocab - 1}", "give one of those")
        return asked
    ids = pair.tokenizer(asked, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        listed = ", ".join(f"{text!r} ({i})" for text, i in zip(token_texts(pair.tokenizer, ids), ids, strict=True))
        why = f"it is {len(ids)} tokens: {listed}" if ids else "it is empty"
        raise InputError(f"{name} {asked!r} is not one token", why, "give one of them, its id, or a list")
    return ids[0]
