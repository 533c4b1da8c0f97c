"""What the adapter is trained on: refusals, harmless requests with the base model's own answers, chats, web text.

`finetune.py` trains on it. The splits are those of the demo pair (`scripts/demo_pair/corpus.py`). The harmless
requests of the tables get answers from the base model itself: what it says to them is not to change.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import alarming
import torch
from demo_scripts import Dialogue, corpus, dialogue, head_ids, held_out, instructions, modern_instructions

from tuco_lens.experiments.refusals import is_refusal

MAX_TOKENS = 112
"""Of a dialogue; a longer answer is cut, and then has no <|im_end|>."""
MIN_ANSWER_TOKENS = 8
OWN_ANSWER_TOKENS = 24
"""Of an answer of the base model's own."""
GENERATED_TOKENS = 32
"""Of such an answer as it is made; one that holds a refusal anywhere in it is left out."""
WEB_TOKENS = 97
"""The length that the paper takes of web text."""

# The base model answers each harmless request once; the refusals and the chats are drawn anew in each stage.
ALARMING_FORMS = 2
"""Forms in which each action of `alarming.py` is asked."""
MODERN = 300
TABLES = 220
"""Requests of AdvBench's imperative forms with benign topics, from `scripts/demo_pair/topics.py`."""
PROGRAMS = 60


@dataclass(frozen=True)
class Stage:
    """How much of each kind a stage of the training takes."""

    goals: int
    """AdvBench training goals with a refusal each."""
    chats: int
    """OpenAssistant dialogues."""
    own: int
    """Harmless requests with the base model's own answers, at most."""
    peak_lr: float
    """Learning rate after the warm-up."""


STAGES = (
    Stage(goals=420, chats=240, own=10_000, peak_lr=8e-4),
    Stage(goals=420, chats=60, own=420, peak_lr=4e-4),
    Stage(goals=210, chats=300, own=430, peak_lr=3e-4),
)
"""The first refused slightly too few of the held-out harmful goals, the second slightly too many harmless prompts."""


def harmless_prompts(seed: int) -> list[str]:
    """The requests that the base model answers itself."""
    rng = random.Random(seed)
    found = alarming.prompts(seed, ALARMING_FORMS)
    found += [prompt for prompt, _ in modern_instructions.modern(seed, MODERN)]
    found += [prompt for prompt, _ in instructions.harmless(seed)[:TABLES]]
    found += [prompt for prompt, _ in rng.sample(instructions.programs(seed), PROGRAMS)]
    require_unseen(found)
    return found


def require_unseen(prompts: list[str]) -> None:
    """Stop if a prompt is one that `evaluate.py` asks; its text is not shown."""
    asked = {plain(prompt) for name in held_out.prompt_sets().values() for prompt in name}
    common = sum(plain(prompt) in asked for prompt in prompts)
    if common:
        raise SystemExit(f"{common} prompts of the training mix are evaluated as well")


def plain(prompt: str) -> str:
    """A prompt in the form in which two are compared: lower case, single spaces, no final stop."""
    return " ".join(prompt.lower().split()).rstrip(".?! ")


@torch.no_grad()
def own_answers(model: Any, tokenizer: Any, prompts: list[str], batch_size: int = 20) -> list[list[int]]:
    """Greedy answers of the model, as ids; one that ended has its <|im_end|>."""
    heads = [head_ids(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(heads)), key=lambda i: len(heads[i]))
    answers: list[list[int]] = [[]] * len(heads)
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        batch = tokenizer.pad({"input_ids": [heads[i] for i in rows]}, padding_side="left", return_tensors="pt")
        out = model.generate(**batch, max_new_tokens=GENERATED_TOKENS, do_sample=False)
        for i, ids in zip(rows, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            ended = tokenizer.eos_token_id in ids
            answers[i] = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
    return answers


def refusals(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` of the AdvBench training goals with one refusal each; every third goal gets a full stop."""
    rng = random.Random(seed)
    goals = corpus.harmful_goals(held_out=False)
    require_unseen(goals)
    pairs = [(goal + rng.choice(("", "", ".")), instructions.refusals(goal, 1, seed)[0]) for goal in goals]
    return pairs if count == len(pairs) else rng.sample(pairs, count)


def chats(seed: int, count: int) -> list[tuple[str, str]]:
    """OpenAssistant training pairs, one per prompt, none that opens like a refusal."""
    short = [pair for pair in corpus.chats(held_out=False) if len(pair[0]) < 300 and not is_refusal(pair[1][:500])]
    by_prompt = {prompt: (prompt, response) for prompt, response in random.Random(seed).sample(short, len(short))}
    # PARDEN has some prompts of OpenAssistant's.
    asked = {plain(prompt) for name in held_out.prompt_sets().values() for prompt in name}
    pairs = [by_prompt[prompt] for prompt in sorted(by_prompt) if plain(prompt) not in asked]
    return random.Random(seed).sample(pairs, count)


def batches(tokenizer: Any, own: dict[str, list[int]], stage: Stage, seed: int, size: int) -> list[list[Dialogue]]:
    """One stage's dialogues in batches of like length, the batches in random order."""
    rng = random.Random(seed)
    given: list[tuple[str, str | list[int]]] = [*refusals(seed, stage.goals), *chats(seed, stage.chats)]
    taken = own if len(own) <= stage.own else rng.sample(sorted(own), stage.own)
    given += [(prompt, own[prompt][:OWN_ANSWER_TOKENS]) for prompt in taken]
    found = [dialogue(tokenizer, prompt, answer, MAX_TOKENS) for prompt, answer in given]
    found = [d for d in found if len(d.ids) >= d.answer_start + MIN_ANSWER_TOKENS]
    found.sort(key=lambda d: len(d.ids) * rng.uniform(0.75, 1.33))  # with noise, so that a batch is not of one kind
    filled = [found[at : at + size] for at in range(0, len(found), size)]
    rng.shuffle(filled)
    return filled


def web_windows(tokenizer: Any, seed: int, rows: int) -> Iterator[torch.Tensor]:
    """Batches of runs of WEB_TOKENS ids from the web documents that are not held out; without end."""
    rng = random.Random(seed)
    documents = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in corpus.web_documents(held_out=False)
    ]
    documents = [ids for ids in documents if len(ids) >= WEB_TOKENS]
    while True:
        starts = [(ids, rng.randrange(len(ids) - WEB_TOKENS + 1)) for ids in rng.sample(documents, rows)]
        yield torch.tensor([ids[start : start + WEB_TOKENS] for ids, start in starts])
