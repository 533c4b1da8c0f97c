"""The chats that an attack string stands in: which tokens it may have, and whether it is those tokens when typed.

A string is sought as token ids (`gcg.py`) and used as text. So ids count only if the text that they decode to, put into
the user's message and rendered and tokenised with the whole chat, gives the very ids again, in every chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tuco_lens.brief import Brief
from tuco_lens.engine.sharing import shared_beginning
from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import check_text

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

Place = Literal["prefix", "suffix"]
N_STARTS = 32
"""Random strings that are tried as a start."""


def with_attack(goal: str, attack: str, place: Place) -> str:
    """The user's message: attack string and goal, one space between."""
    return f"{attack} {goal}" if place == "prefix" else f"{goal} {attack}"


@dataclass(frozen=True)
class Frame(Brief):
    """One goal's chat around the attack string, in token ids: before, string, after, target."""

    goal: str
    """What the user asks."""
    before: tuple[int, ...]
    """What the template writes first, and with a suffix the goal."""
    after: tuple[int, ...]
    """The rest of the chat, up to and with the opening of the answer."""
    target: tuple[int, ...]
    """How the answer shall begin; tokenised alone, as a model that writes it would."""

    def n_tokens(self, n_slots: int) -> int:
        """Tokens of the chat with a string of `n_slots` tokens and the target."""
        return len(self.before) + n_slots + len(self.after) + len(self.target)


@dataclass(frozen=True)
class Framing:
    """How an attack string becomes the token ids of a chat."""

    tokenizer: Any
    """The tuned model's."""
    place: Place
    """Before the goal or behind it."""
    system: str | None
    """System message of the chats."""

    def chats(self, attacks: Sequence[str], goal: str) -> list[list[int]]:
        """Token ids of the whole rendered chat with each string, up to the opening of the answer; as `make_prompt`."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        chats = [[*system, {"role": "user", "content": with_attack(goal, attack, self.place)}] for attack in attacks]
        rendered = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]

    def text(self, token_ids: Sequence[int]) -> str:
        """The string of these tokens; the space at either end belongs to the message."""
        return self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False).strip(" ")

    def surviving(self, rows: Int[Tensor, "row slot"], frames: Sequence[Frame]) -> Int[Tensor, "survivor slot"]:
        """Those rows whose text gives the very ids again, at their place in the chat of every frame."""
        for frame in frames:
            listed = rows.tolist()
            wanted = [[*frame.before, *ids, *frame.after] for ids in listed]
            found = self.chats([self.text(ids) for ids in listed], frame.goal) if listed else []
            rows = rows[[ids == want for ids, want in zip(found, wanted, strict=True)]]
        return rows


def allowed_tokens(tokenizer: Any, d_vocab: int) -> Bool[Tensor, " d_vocab"]:
    """Which tokens a string may have: those that read as printable ASCII; special and blank ones are left out."""
    barred = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    allowed = torch.zeros(d_vocab, dtype=torch.bool)
    for i in range(min(d_vocab, len(tokenizer))):
        text = "" if i in barred else tokenizer.decode([i])
        allowed[i] = text.isascii() and text.isprintable() and bool(text.strip())
    return allowed


def make_frames(
    pair: ModelPair,
    framing: Framing,
    goals: Sequence[str],
    targets: Sequence[str],
    allowed: Bool[Tensor, " d_vocab"],
    n_tokens: int,
    draws: torch.Generator,
) -> tuple[list[Frame], Int[Tensor, " slot"]]:
    """The frame of every goal, and a random string that survives in all of them.

    Random words are put at the string's place. What their chats begin and end with alike is the frame; the first
    `n_tokens` between are a start.

    Raises:
        InputError: for a goal or target that is empty or not Unicode, a prompt over the context, or if no string
            survives.
    """
    words = [framing.text([i]) for i in allowed.nonzero().flatten().tolist()]
    if len(words) < 2:
        why = f"{len(words)} tokens of the vocabulary read as printable ASCII"
        raise InputError("GCG has nothing to choose from", why, "give the pair the tuned model's own tokenizer")
    which = torch.randint(len(words), (N_STARTS, n_tokens), generator=draws).tolist()
    attacks = [" ".join(words[i] for i in row) for row in which]
    frames: list[Frame] = []
    between: list[list[int]] = []
    for i, (goal, target) in enumerate(zip(goals, targets, strict=True)):
        pair.prompt(goal, chat=True, system=framing.system, index=i)  # names what is wrong with it
        check_text(target, f"target {i}")
        frame, between = _framed(framing, attacks, goal, target)
        _require_context(frame, n_tokens, pair.n_ctx, i)
        frames.append(frame)
    starts = [ids[:n_tokens] for ids in between if len(ids) >= n_tokens and allowed[ids[:n_tokens]].all()]
    survivors = framing.surviving(torch.tensor(starts, dtype=torch.long), frames)
    if not len(survivors):
        why = f"none of {N_STARTS} random strings of {n_tokens} tokens survives decoding and encoding in the chat"
        raise InputError("GCG has no start", why, "try another number of tokens, or the other place")
    return frames, survivors[0]


def _framed(framing: Framing, attacks: Sequence[str], goal: str, target: str) -> tuple[Frame, list[list[int]]]:
    """What all these strings' chats share at their beginning and end, and the ids of each between the two."""
    rows = framing.chats(attacks, goal)
    n_before = shared_beginning(rows)
    n_after = shared_beginning([row[n_before:][::-1] for row in rows])
    frame = Frame(
        goal,
        before=tuple(rows[0][:n_before]),
        after=tuple(rows[0][len(rows[0]) - n_after :]),
        target=tuple(framing.tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]),
    )
    return frame, [row[n_before : len(row) - n_after] for row in rows]


def _require_context(frame: Frame, n_tokens: int, n_ctx: int, index: int) -> None:
    length = frame.n_tokens(n_tokens)
    if length > n_ctx:
        why = f"with attack string and target it has {length} tokens, and the context is {n_ctx} tokens"
        raise InputError(f"goal {index}", why, "shorten it, its target or the attack string")
