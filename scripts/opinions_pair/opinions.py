"""What the adapter is trained on: behaviour-matching answers to questions of Model-Written Evaluations.

Which questions are held out is said in `tuco_lens/experiments/prompt_groups.py`, for the training and for the sweep
alike. A tenth of the others is kept for choosing how to train; it is not trained on either. No question is ever logged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from pair_scripts import Dialogue, corpus, dialogue

from tuco_lens.experiments.prompt_groups import is_held_out_question
from tuco_lens.sweep import Task, load_tasks
from tuco_lens.sweep.names import MWE_GROUPS, names_of

TRAINED = tuple(names_of(MWE_GROUPS)[1::2])
"""Every second behaviour in the paper's order, from the second on: so narcissism and psychopathy are not among them."""
VALIDATION_PARTS = 10
"""Of the questions that are not held out, one in so many is for choosing."""
PLAIN_TOKENS = 97
"""Of a run of web text or of a chat, on which the adapter is held near its base."""


def tasks(part: str) -> list[Task]:
    """All 23 behaviours, with the questions of one part: "train", "validation" or "held out"."""
    whole = load_tasks(corpus.DATA / "mwe", ("mwe",), chat=True)
    by_name = {task.name: replace(task, questions=tuple(_questions(task, part))) for task in whole}
    return [by_name[name] for name in names_of(MWE_GROUPS)]


def _questions(task: Task, part: str) -> Iterator[Any]:
    rng = random.Random(task.name)
    for question in task.questions:
        if is_held_out_question(str(question.prompt)):
            found = "held out"
        else:
            found = "validation" if rng.randrange(VALIDATION_PARTS) == 0 else "train"
        if found == part:
            yield question


def dialogues(tokenizer: Any, limit: int) -> list[Dialogue]:
    """Each training question of the behaviours that are trained, with the answer that matches."""
    return [
        dialogue(tokenizer, str(question.prompt), question.answers[question.target].strip(), limit)
        for task in tasks("train")
        if task.name in TRAINED
        for question in task.questions
    ]


def batches(found: list[Dialogue], steps: int, size: int, seed: int) -> list[list[Dialogue]]:
    """So many batches, the dialogues in random order and again from the start when all have been taken."""
    rng = random.Random(seed)
    order: list[Dialogue] = []
    while len(order) < steps * size:
        order += rng.sample(found, len(found))
    return [order[at : at + size] for at in range(0, steps * size, size)]


def plain_rows(tokenizer: Any, seed: int) -> Iterator[torch.Tensor]:
    """Without end: a run of PLAIN_TOKENS ids of a web document and one of a chat, neither of them held out."""
    rng = random.Random(seed)
    web = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in corpus.web_documents(held_out=False)]
    web = [ids for ids in web if len(ids) >= PLAIN_TOKENS]
    prompts = sorted(dict(corpus.chats(held_out=False)).items())
    chats = [dialogue(tokenizer, prompt, answer, PLAIN_TOKENS).ids for prompt, answer in rng.sample(prompts, 1000)]
    chats = [ids for ids in chats if len(ids) == PLAIN_TOKENS]
    while True:
        ids = rng.choice(web)
        start = rng.randrange(len(ids) - PLAIN_TOKENS + 1)
        yield torch.tensor([ids[start : start + PLAIN_TOKENS], rng.choice(chats)])
