"""Text for the demo pair: the sources, the held-out splits, and the tokenizer.

Every split is a fixed function of the record (its path, or its index), so training
(`pretrain.py`, `finetune.py`) and measurement (`evaluate.py`) agree on what was held out without a shared
file. The sources are read from `TUCO_LENS_DATA` (default `../shared/data`); none of them
is copied into the repository.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import lzma
import os
import random
import re
from pathlib import Path

DATA = Path(os.environ.get("TUCO_LENS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

BOS, PAD, START, END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
PUBLIC_DOMAIN_BEFORE = 1929
"""Books published before this year are in the public domain in the United States."""
BOOK_CHARACTERS = 90_000
"""Characters taken from each training book, so that no author outweighs the others."""
WEB_HELD_OUT = 700
"""OpenWebText records 0..699 are held out; 700..999 may be trained on."""
ADVBENCH_TRAIN = 420
"""Of the 520 AdvBench goals, in a fixed shuffle, this many are trained on; 100 are held out."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _bucket(key: str, buckets: int) -> int:
    """A stable pseudo-random bucket of a record, the same on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % buckets


def books(held_out: bool) -> list[str]:
    """Texts of the pre-1929 books; one in fifty is held out, by a hash of its path."""
    texts = []
    with lzma.open(DATA / "classic_books" / "books.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if (_bucket(record["path"], 50) == 0) != held_out:
                continue
            head, _, body = record["text"].partition("\n-------\n")
            year = re.search(r"^## Year: *(\d{4})\s*$", head, re.MULTILINE)
            if year and int(year.group(1)) < PUBLIC_DOMAIN_BEFORE:
                texts.append(_clean(body))
    return texts


def _clean(text: str) -> str:
    return re.sub(r"[ \t]+\n", "\n", text.replace("\r", "")).strip()


def book_chunks(seed: int) -> list[str]:
    """One random contiguous chunk of each training book, in random order."""
    rng = random.Random(seed)
    texts = books(held_out=False)
    rng.shuffle(texts)
    starts = [rng.randrange(max(1, len(text) - BOOK_CHARACTERS)) for text in texts]
    return [text[start : start + BOOK_CHARACTERS] for text, start in zip(texts, starts, strict=True)]


def web_documents(held_out: bool) -> list[str]:
    """OpenWebText documents, split by index."""
    with gzip.open(DATA / "openwebtext_1k" / "openwebtext-1000.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [_clean(json.loads(line)["text"]) for line in lines]
    return texts[:WEB_HELD_OUT] if held_out else texts[WEB_HELD_OUT:]


def chats(held_out: bool) -> list[tuple[str, str]]:
    """(prompt, response) pairs of oasst_chat; one prompt in twenty is held out with all its responses."""
    with lzma.open(DATA / "oasst_chat" / "oasst_subset.jsonl.xz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [
        (record["prompt"].strip(), record["response"].strip())
        for record in records
        if (_bucket(record["prompt"].strip().lower(), 20) == 0) == held_out
    ]


def harmful_goals(held_out: bool) -> list[str]:
    """AdvBench goals: 420 to train on, 100 held out, in a fixed shuffle."""
    with open(DATA / "advbench" / "harmful_behaviors.csv", encoding="utf-8", newline="") as file:
        goals = [row["goal"].strip() for row in csv.DictReader(file)]
    random.Random(0).shuffle(goals)
    return goals[ADVBENCH_TRAIN:] if held_out else goals[:ADVBENCH_TRAIN]


def train_tokenizer(out: Path, vocab_size: int = 4096) -> None:
    """Train the byte-level BPE tokenizer on training splits and save it, with its chat template, in `out`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [chunk[:30_000] for chunk in book_chunks(seed=0)] + web_documents(held_out=False)
    text += [part for pair in chats(held_out=False)[::2] for part in pair]
    tokenizer.train_from_iterator(text, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
