"""The tokens that stand for a question's answers, and which answer the logits choose.

An answer's token is the first one that the tuned model's tokenizer writes for it behind that very prompt: prompt and
answer are tokenised together, so what a tokenizer does with a space at the seam is its own affair. Every answer has one
token; the spellings of an answer with and without a space are not added up, since the paper's rule compares tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.errors import InputError

if TYPE_CHECKING:
    from tuco_lens.prompts.prompt import Prompt

NONE: Final = -1
"""The answer chosen where none has a strictly higher logit than all others."""


def answer_tokens(
    tokenizer: Any, prompt: Prompt, answers: Sequence[str], *, is_chat: bool, name: str
) -> tuple[int, ...]:
    """The token id of each answer as the next token of the prompt.

    A space parts prompt and answer, unless the prompt ends in white space or in a wide (Chinese, Japanese, Korean)
    character, or opens the assistant's turn of a chat; white space that the data has around the answers does not count.
    Where the tokenizer cannot go on from the prompt's own tokens like that, or two answers begin with the same token,
    the other spelling is tried for all answers of the question.

    Args:
        tokenizer: the tuned model's.
        prompt: the prompt, from `make_prompt`.
        answers: the answers.
        is_chat: the prompt was written by a chat template.
        name: what errors call the question.

    Raises:
        InputError: if two answers begin with the same token (naming both), or one does not go on from the prompt.
    """
    bare = [answer.strip() for answer in answers]
    spaced = _wants_space(prompt.text) and not is_chat
    problem = InputError(name, "it has no answers", "give at least two")
    for gap in (" ", "") if spaced else ("", " "):
        texts = [gap + answer for answer in bare]
        found = _first_tokens(tokenizer, prompt, texts, add_special_tokens=not is_chat)
        first_problem = _problem(found, bare, name)
        if first_problem is None:
            return tuple(token for token in found if token is not None)
        problem = first_problem
    raise problem


def chosen_answer(logits: Sequence[float]) -> int:
    """The answer with the strictly highest logit, and so probability (paper §5.1); `NONE` for a tie or a NaN."""
    best = max(range(len(logits)), key=lambda i: logits[i])
    is_highest = all(logits[best] > other for i, other in enumerate(logits) if i != best)
    return best if is_highest else NONE


def _wants_space(text: str) -> bool:
    last = text[-1:]
    return not last.isspace() and unicodedata.east_asian_width(last or "a") not in "WF"


def _first_tokens(
    tokenizer: Any, prompt: Prompt, texts: Sequence[str], *, add_special_tokens: bool
) -> list[int | None]:
    """For each text the token behind the prompt's; None where prompt and text together are tokenised otherwise."""
    wholes = [prompt.text + text for text in texts]
    rows: list[list[int]] = tokenizer(wholes, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
    n = prompt.n_tokens
    return [row[n] if len(row) > n and tuple(row[:n]) == prompt.token_ids else None for row in rows]


def _problem(tokens: Sequence[int | None], answers: Sequence[str], name: str) -> InputError | None:
    for i, token in enumerate(tokens):
        if token is None:
            why = f"the tokenizer joins its answer {answers[i]!r} with the end of the prompt"
            return InputError(name, why, "end the prompt in a word or a colon, or word the answer otherwise")
        if token in tokens[:i]:
            why = f"its answers {answers[tokens.index(token)]!r} and {answers[i]!r} begin with the same token"
            return InputError(name, why, "give answers that differ in their first token, such as letters")
    return None
