"""What the α sweep asks: a question with its possible answers, and a task of many questions.

Reading them from files is in `loading.py` and `mmlu.py`; turning them into tokens is in `preparing.py`. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import check_prompt


@dataclass(frozen=True)
class Question(Brief):
    """A prompt, what may be answered, and which answer counts as right.

    Raises:
        InputError: if the prompt cannot be one, an answer is blank or given twice, there are fewer than two, or the
            target is none of them.
    """

    prompt: str | Sequence[Mapping[str, str]]
    """Text, or chat messages of which the last is not the assistant's."""
    answers: tuple[str, ...]
    """The possible answers. White space around them does not count; see `answers.py`."""
    target: int
    """Index of the right answer (for a behaviour: of the one that matches it)."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt, name="the question")
        if not isinstance(self.prompt, str) and self.prompt[-1]["role"] == "assistant":
            raise InputError("the question", "its last message is the assistant's", "leave the answer to the model")
        bare = [answer.strip() for answer in self.answers]
        if len(bare) < 2:
            raise InputError("the question", f"it has {len(bare)} answers", "give it at least two")
        if "" in bare:
            raise InputError("the question", f"answer {bare.index('')} is blank", "give it a text")
        if len(set(bare)) < len(bare):
            twice = next(answer for answer in bare if bare.count(answer) > 1)
            raise InputError("the question", f"the answer {twice!r} is given twice", "give each answer once")
        if not 0 <= self.target < len(bare):
            why = f"its target is {self.target}, and there are {len(bare)} answers"
            raise InputError("the question", why, f"give an index from 0 to {len(bare) - 1}")


@dataclass(frozen=True)
class Task(Brief):
    """Questions that are asked and scored together.

    Raises:
        InputError: if there are no questions, or worked examples or a heading for questions that are messages.
    """

    name: str
    """Its name, such as "agreeableness"."""
    group: str
    """The group that it is pooled with, such as "personality"."""
    questions: tuple[Question, ...]
    """The questions, in their order."""
    chat: bool = False
    """Put text into the chat template, as the user's message."""
    system: str | None = None
    """System prompt of every chat."""
    header: str = ""
    """Text before the worked examples, or before the question where there are none."""
    template_kwargs: Mapping[str, Any] | None = None
    """Variables of the chat template, such as `enable_thinking`."""
    shots: tuple[str, ...] = ()
    """Worked examples, put between `header` and question; the first go where the context is too short for all."""

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"task {self.name}", "it has no questions", "give it some, or leave it out")
        if (self.header or self.shots) and not all(isinstance(q.prompt, str) for q in self.questions):
            why = "it has a heading or worked examples, and questions that are messages"
            raise InputError(f"task {self.name}", why, "put the examples into the messages")

    def __len__(self) -> int:
        return len(self.questions)

    def prompt(self, index: int, n_shots: int | None = None) -> str | Sequence[Mapping[str, str]]:
        """The prompt of question `index` behind the last `n_shots` worked examples; behind all by default."""
        prompt = self.questions[index].prompt
        if not isinstance(prompt, str):
            return prompt
        kept = len(self.shots) if n_shots is None else n_shots
        return self.header + "".join(self.shots[len(self.shots) - kept :]) + prompt

    def sample(self, limit: int | None, seed: int = 0) -> Task:
        """The task with at most `limit` questions, drawn at random and in their order.

        The draw depends on the seed and the task's name alone, not on the tasks beside it.

        Raises:
            InputError: if `limit` is below 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise InputError(f"limit is {limit}", "a task needs questions", "give a number above 0")
        if limit >= len(self):
            return self
        chosen = sorted(random.Random(f"{seed} {self.name}").sample(range(len(self)), limit))
        return replace(self, questions=tuple(self.questions[i] for i in chosen))

    def digest(self) -> bytes:
        """SHA-256 of all that decides what is asked."""
        digest = hashlib.sha256()
        frame = [self.name, self.group, self.chat, self.system, self.header, self.shots]
        frame += [self.template_kwargs] if self.template_kwargs else []
        questions = ([q.prompt, q.answers, q.target] for q in self.questions)
        for part in (frame, *questions):
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        return digest.digest()


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raises `InputError` if there are no tasks, or two of one name."""
    if not tasks:
        raise InputError("no tasks", "there is nothing to ask", "give at least one")
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"task {twice}", "there are two of that name", "leave one out, or give it another name")
