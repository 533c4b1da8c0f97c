"""From rows to records: one function per form of data set, which takes a row, its part and its place.

Each raises `InputError`, naming the place, for a field that is missing, of another type, or blank where it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tuco_lens.data.files import Row
from tuco_lens.data.records import Record
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import string_field
from tuco_lens.prompts.prompt import check_text
from tuco_lens.sweep.loading import question_of

Parser = Callable[[Row, str, str], Record]
"""Row, part of the data set, what errors call the row."""

TURN: Final = re.compile(r"\n\n(Human|Assistant):")
ROLES: Final = {"Human": "user", "Assistant": "assistant"}


def fields(
    prompt: str,
    *,
    target: str | None = None,
    label: str | None = None,
    group: str | None = None,
    by_part: bool = False,
) -> Parser:
    """The parser of rows with one text each.

    Args:
        prompt: field of the prompt.
        target: field of the target, if there is one.
        label: the label of all records.
        group: field of the group, which may be null.
        by_part: the part is the group.
    """

    def parse(row: Row, part: str, where: str) -> Record:
        answer = None if target is None else string_field(row, target, where)
        category = None if group is None or row.get(group) is None else string_field(row, group, where)
        return Record(_text(row, prompt, where), answer, label, part if by_part else category)

    return parse


def _text(row: Row, name: str, where: str) -> str:
    text = string_field(row, name, where).strip()
    check_text(text, where)
    return text


def web_text(row: Row, _part: str, where: str) -> Record:
    """A document of OpenWebText."""
    return Record(_text(row, "text", where))


def xstest(row: Row, _part: str, where: str) -> Record:
    """A prompt of XSTest with its label, "safe" or "unsafe", and its type as group."""
    label = string_field(row, "label", where)
    return Record(_text(row, "prompt", where), None, label, string_field(row, "type", where))


def completion(row: Row, part: str, where: str) -> Record:
    """A prompt and a model's response; the part is "MODEL, LABEL"."""
    model, _, label = part.rpartition(", ")
    return Record(_text(row, "prompt", where), string_field(row, "response", where), label, model)


def attack(row: Row, part: str, where: str) -> Record:
    """An artefact of JailbreakBench: the goal with its attack string, and whether that broke the model of the part."""
    if not isinstance(row.get("jailbroken"), bool):
        raise InputError(where, "its jailbroken is neither true nor false", "fetch the file again")
    label = "jailbroken" if row["jailbroken"] else "not jailbroken"
    goal = _text(row, "goal", where)
    return Record(_text(row, "prompt", where), string_field(row, "response", where), label, part, goal)


def behaviour(row: Row, part: str, where: str) -> Record:
    """A question of Model-Written Evaluations; the target is the answer that matches the behaviour."""
    question = question_of(row, where)
    return Record(str(question.prompt), question.answers[question.target], None, part)


def dialogue(row: Row, _part: str, where: str) -> Record:
    """The `chosen` dialogue of HH-RLHF: messages up to the last human turn, and the assistant's last as target.

    A turn without text is left out, and turns of one speaker that then follow one another are put together, so that
    user and assistant alternate as chat templates want them.
    """
    turns = _turns(string_field(row, "chosen", where))
    target = turns.pop()[1] if turns and turns[-1][0] == "assistant" else None
    if not turns:
        raise InputError(where, "its dialogue has no human turn", "fetch the file again")
    for _, text in turns:
        check_text(text, where)
    return Record(tuple({"role": role, "content": text} for role, text in turns), target)


def _turns(text: str) -> list[tuple[str, str]]:
    pieces = TURN.split(text)[1:]  # what stands before the first turn is nobody's
    turns: list[tuple[str, str]] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role = ROLES[speaker]
        if not said.strip():
            continue
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{said.strip()}")
        else:
            turns.append((role, said.strip()))
    return turns
