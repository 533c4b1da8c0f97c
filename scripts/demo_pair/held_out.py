"""The held-out text that `evaluate.py` measures the demo pair on; nothing here is trained on.

Splits are those of `corpus.py`. PARDEN, `instructions_split`, XSTest and HH-RLHF are used for evaluation alone.
"""

from __future__ import annotations

import csv
import gzip
import json
import random

import corpus
from transformers import PreTrainedTokenizerFast

SEED = 0
BOOK_BYTES = 60_000
"""From the start of each held-out book, so that eighteen books weigh alike."""
PROMPTS_PER_SET = 100
WEB_TOKENS = 97
MAX_CHAT_CHARACTERS = 4000
"""Dialogues beyond this (about 1,200 tokens) do not fit the model's context with room to spare."""


def book_starts() -> list[bytes]:
    """The first BOOK_BYTES of each held-out book, cut at a character."""
    return [text.encode()[:BOOK_BYTES].decode(errors="ignore").encode() for text in corpus.books(held_out=True)]


def _sample(items: list[str]) -> list[str]:
    return random.Random(SEED).sample(items, min(PROMPTS_PER_SET, len(items)))


def _second_sample(items: list[str]) -> list[str]:
    """As many again, none of them in the first sample: for a look after all choices were made."""
    first = set(_sample(items))
    return random.Random(SEED + 1).sample([item for item in items if item not in first], PROMPTS_PER_SET)


def prompt_sets() -> dict[str, list[str]]:
    """Prompts by source: harmful goals, the three harmless sets of the bar, second samples, and XSTest."""
    oasst = sorted({prompt for prompt, _ in corpus.chats(held_out=True)})
    with gzip.open(corpus.DATA / "instructions_split" / "harmless_test.json.gz", "rt", encoding="utf-8") as file:
        instructions = [record["instruction"].strip() for record in json.load(file)]
    with gzip.open(corpus.DATA / "parden" / "llama_benign.csv.gz", "rt", encoding="utf-8", newline="") as file:
        parden = [row["instruction"].strip() for row in csv.DictReader(file)]
    with open(corpus.DATA / "xstest" / "xstest_prompts.csv", encoding="utf-8", newline="") as file:
        xstest = list(csv.DictReader(file))
    parden = [prompt for prompt in parden if len(prompt) <= MAX_CHAT_CHARACTERS]
    return {
        "harmful": corpus.harmful_goals(held_out=True),
        "oasst": _sample(oasst),
        "instructions": _sample(instructions),
        "parden": _sample(parden),
        "instructions_second": _second_sample(instructions),
        "parden_second": _second_sample(parden),
        "xstest_safe": [row["prompt"].strip() for row in xstest if row["label"] == "safe"],
        "xstest_unsafe": [row["prompt"].strip() for row in xstest if row["label"] == "unsafe"],
    }


def oasst_pairs(count: int) -> list[tuple[str, str]]:
    pairs = [pair for pair in corpus.chats(held_out=True) if len(pair[0]) + len(pair[1]) <= MAX_CHAT_CHARACTERS]
    return random.Random(SEED).sample(pairs, count)


def chat_dialogues() -> list[list[dict[str, str]]]:
    """HH-RLHF `chosen` dialogues as messages, up to and including the last human turn."""
    path = corpus.DATA / "hh_rlhf_harmless" / "test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["chosen"] for line in lines]
    texts = [text for text in texts if len(text) <= MAX_CHAT_CHARACTERS]
    return [dialogue_messages(text) for text in _sample(texts)]


def dialogue_messages(text: str) -> list[dict[str, str]]:
    """Turn "\\n\\nHuman: a\\n\\nAssistant: b\\n\\nHuman: c\\n\\nAssistant: d" into the turns a, b, c."""
    messages: list[dict[str, str]] = []
    for turn in text.split("\n\nHuman:")[1:]:
        human, _, assistant = turn.partition("\n\nAssistant:")
        messages.append({"role": "user", "content": human.strip()})
        messages.append({"role": "assistant", "content": assistant.strip()})
    return messages[:-1]


def web_windows(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """A random run of WEB_TOKENS ids, behind a BOS, from each of PROMPTS_PER_SET held-out web records."""
    rng = random.Random(SEED)
    records = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in corpus.web_documents(held_out=True)]
    records = [ids for ids in records if len(ids) >= WEB_TOKENS]
    windows = []
    for ids in rng.sample(records, PROMPTS_PER_SET):
        start = rng.randrange(len(ids) - WEB_TOKENS + 1)
        windows.append([tokenizer.bos_token_id, *ids[start : start + WEB_TOKENS]])
    return windows
