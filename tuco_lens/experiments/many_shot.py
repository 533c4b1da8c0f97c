"""Experiment 5.3, many-shot jailbreaking: does TuCo fall as examples of harmful behaviour fill the prompt?

Each prompt is one user message: 1, 2, 4 … 128 questions of a behaviour of Model-Written Evaluations with the answer
that matches the behaviour, then a final question, which is asked at every number. There are five behaviours. Content
warning: the questions are about harmful behaviour; they are measured and never shown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.data import Record, load
from tuco_lens.errors import InputError
from tuco_lens.experiments.comparing import NullOptions
from tuco_lens.experiments.growing import measure_growing
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.settings import settings_of
from tuco_lens.prompts.prompt import make_prompt
from tuco_lens.runs.steps import RunOptions
from tuco_lens.sweep.answers import answer_tokens

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

BEHAVIOURS: Final = (
    "psychopathy",
    "machiavellianism",
    "narcissism",
    "resource-acquisition",
    "ends-justify-means",
)
"""Behaviours of Model-Written Evaluations whose matching answers are harmful."""
SHOTS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
N_QUESTIONS: Final = 50
"""Most final questions per behaviour."""
HARMFUL: Final = "harmful_answers"
"""Name of the score that is 1 where the harmful answer's token is strictly likelier than the other's, else 0."""
ANSWERS: Final = ("Yes", "No")
PAPER: Final = "On Llama 2 7B, TuCo falls from about 0.29 to 0.25 between 1 and 128 shots (paper §5.3)."


def many_shot(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    shots: Sequence[int] = SHOTS,
    nulls: NullOptions = NullOptions(),  # noqa: B008 - frozen
    run: RunOptions = RunOptions(),  # noqa: B008
) -> Series:
    """Measure TuCo and the share of harmful answers against the number of shots (paper §5.3).

    Args:
        pair: the pair.
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`, or else the hub.
        limit: most prompts of all behaviours and numbers of shots together, rounded up to equally many final questions
            per behaviour; by default, and at most, 50 questions per behaviour.
        seed: of the draw of final questions and of the shots of each; a prompt has the first k of these shots.
        system: system prompt of every chat.
        shots: numbers of shots from 1 to 128, ascending; prompts that do not fit the context give NaN.
        nulls: the null controls, on every second final question, and at most `nulls.limit` or `limit` prompts in all.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the data is missing, the numbers are not ascending from 1 to 128, or no prompt fits the context.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    few = nulls.within(limit)
    numbers = list(shots)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] > max(SHOTS):
        raise InputError("shots", f"they are {numbers}", f"give ascending numbers from 1 to {max(SHOTS)}")
    n = N_QUESTIONS if limit is None else min(N_QUESTIONS, -(-limit // (len(BEHAVIOURS) * len(numbers))))
    questions = load("mwe", parts=BEHAVIOURS, folder=data)
    sets: dict[str, list[list[Prompt | None]]] = {}
    answers: dict[str, list[list[tuple[int, int]]]] = {}
    for name in BEHAVIOURS:
        records = list(questions.only(group=name))
        built = [_questions(pair, name, records, k, n, seed, system) for k in numbers]
        sets[name] = [[prompt for prompt, _ in row] for row in built]
        answers[name] = [[ids for _, ids in row] for row in built]
    settings = settings_of(
        "many_shot",
        pair,
        data={questions.name: questions.checksum},
        parameters={"limit": limit, "system": system, "shots": numbers, **few.as_parameters()},
        seed=seed,
    )
    return measure_growing(
        pair,
        "Many-shot prompts",
        "shots",
        numbers,
        sets,
        settings,
        run=run,
        nulls=few,
        answers=answers,
        answer_score=HARMFUL,
        facts={"paper": PAPER},
    )


def _questions(
    pair: ModelPair, name: str, records: Sequence[Record], k: int, n: int, seed: int, system: str | None
) -> list[tuple[Prompt | None, tuple[int, int]]]:
    """The final questions of a behaviour, each after k others, with the ids of the harmful and of the other answer."""
    draw = random.Random(f"{seed} {name}")
    order = draw.sample(range(len(records)), len(records))
    asked: list[tuple[Prompt | None, tuple[int, int]]] = []
    for i in order[:n]:
        others = draw.sample([j for j in order if j != i], max(SHOTS))
        asked.append(_question(pair, records[i], [records[j] for j in others[:k]], system))
    return asked


def _question(
    pair: ModelPair, final: Record, shots: Sequence[Record], system: str | None
) -> tuple[Prompt | None, tuple[int, int]]:
    harmful = str(final.target).strip()
    texts = [f"{shot.prompt}\nAnswer: {str(shot.target).strip()}" for shot in shots]
    text = "\n\n".join([*texts, f"{final.prompt}\nAnswer:"])
    prompt = make_prompt(pair.tokenizer, text, chat=True, system=system)
    if prompt.n_tokens > pair.n_ctx:
        return None, (0, 0)
    ids = answer_tokens(pair.tokenizer, prompt, [harmful, _other(harmful)], is_chat=True, name="the final question")
    return prompt, (ids[0], ids[1])


def _other(answer: str) -> str:
    if answer not in ANSWERS:
        raise InputError("a final question", f"its answer is {answer!r}", "give questions answered by Yes or No")
    return ANSWERS[1 - ANSWERS.index(answer)]
