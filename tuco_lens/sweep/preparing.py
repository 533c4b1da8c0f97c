"""A task as tokens: every prompt, the tokens of its answers, and how many worked examples the context has room for.

All tasks of a sweep are prepared before the first forward pass, so that whatever is wrong with a question is found
then. Token ids are kept in arrays of 4 bytes each: MMLU has ten million of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuco_lens.brief import Brief
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import Prompt, fit, make_prompt
from tuco_lens.steering.scaling import Method
from tuco_lens.steering.scoring import answer_logits
from tuco_lens.sweep.answers import answer_tokens, chosen_answer
from tuco_lens.sweep.questions import Task

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair


@dataclass(frozen=True)
class PreparedTask(Brief):
    """The tokens of a task."""

    token_ids: tuple[array[int], ...]
    """Of each question's prompt."""
    answer_ids: tuple[tuple[int, ...], ...]
    """Of each question's answers."""
    n_shots: tuple[int, ...]
    """Worked examples before each question."""

    def groups(self) -> Iterator[list[int]]:
        """Questions with equally many worked examples, which begin alike."""
        for n_shots in sorted(set(self.n_shots), reverse=True):
            yield [i for i, n in enumerate(self.n_shots) if n == n_shots]


def prepare(pair: ModelPair, task: Task) -> PreparedTask:
    """Tokenise a task.

    Where a prompt is longer than the context, its worked examples go one by one, the first of them first.

    Raises:
        InputError: if a question is too long without any, or as `make_prompt` and `answer_tokens`, naming it.
    """
    rows: list[array[int]] = []
    answers: list[tuple[int, ...]] = []
    shots: list[int] = []
    for index, question in enumerate(task.questions):
        name = f"task {task.name}, question {index}"
        prompt, n_shots = _fitted(pair, task, index, name)
        is_chat = task.chat or not isinstance(question.prompt, str)
        tokens = answer_tokens(pair.tokenizer, prompt, question.answers, is_chat=is_chat, name=name)
        rows.append(array("i", prompt.token_ids))
        answers.append(_checked(tokens, pair.tuned.cfg.d_vocab, name))
        shots.append(n_shots)
    return PreparedTask(tuple(rows), tuple(answers), tuple(shots))


def choose_answers(
    pair: ModelPair, prepared: PreparedTask, alpha: float, *, method: Method = "ftc", fitting: FittingBatches
) -> list[int]:
    """The index of the answer that the scaled model gives to each question, -1 where no answer is the likeliest."""
    chosen = [0] * len(prepared.token_ids)
    for group in prepared.groups():
        prompts = [_tokens_only(prepared.token_ids[i]) for i in group]
        answer_ids = [prepared.answer_ids[i] for i in group]
        logits = answer_logits(pair, prompts, answer_ids, alpha, method=method, fitting=fitting)
        for i, row in zip(group, logits, strict=True):
            chosen[i] = chosen_answer(row.tolist())
    return chosen


def _tokens_only(token_ids: Sequence[int]) -> Prompt:
    return Prompt(text="", token_ids=tuple(token_ids), tokens=(), roles=())


def _fitted(pair: ModelPair, task: Task, index: int, name: str) -> tuple[Prompt, int]:
    """The prompt with as many worked examples as fit, and how many these are."""
    try:
        for n_shots in range(len(task.shots), 0, -1):
            prompt = _tokenised(pair, task, index, n_shots)
            if prompt.n_tokens <= pair.n_ctx:
                return fit(prompt, pair.n_ctx, d_vocab=pair.tuned.cfg.d_vocab), n_shots
        return fit(_tokenised(pair, task, index, 0), pair.n_ctx, d_vocab=pair.tuned.cfg.d_vocab), 0
    except InputError as error:
        remedy = "shorten it, or leave it out" if "context" in error.why else error.remedy
        raise InputError(error.what.replace("the prompt", name, 1), error.why, remedy) from None


def _tokenised(pair: ModelPair, task: Task, index: int, n_shots: int) -> Prompt:
    how: dict[str, Any] = {"chat": task.chat, "system": task.system, "template_kwargs": task.template_kwargs}
    return make_prompt(pair.tokenizer, task.prompt(index, n_shots), **how)


def _checked(tokens: tuple[int, ...], d_vocab: int, name: str) -> tuple[int, ...]:
    if max(tokens) >= d_vocab:
        why = f"token id {max(tokens)} of an answer is outside the tuned model's vocabulary, 0 … {d_vocab - 1}"
        raise InputError(name, why, "word the answer otherwise")
    return tokens
