"""Harmless writing tasks made from sentences of the training books: a wide vocabulary in the user's turn.

The hand-written topics of `topics.py` are few. Here the topic is whatever a passage is about, so that the tuned model
learns that an unknown word in a request is no reason to refuse. `finetune.py` adds these to `instructions.py`.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import corpus
import instructions

TASKS = 1800
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD = re.compile(r"\b[a-z]{5,}\b")


def _choose(rng: random.Random, *forms: str) -> str:
    return rng.choice(forms)


def _go_on(rng: random.Random, first: str, second: str, _word: str, _other: str) -> tuple[str, str]:
    form = _choose(
        rng,
        "Continue this story: {}",
        "Write the next sentence: {}",
        "What happens next? {}",
        "Complete the story.\n{}",
    )
    return form.format(first), second


def _use_word(rng: random.Random, first: str, _second: str, word: str, _other: str) -> tuple[str, str]:
    form = _choose(
        rng, 'Write a sentence with the word "{}"', "Use {} in a sentence", "Give an example sentence for {}",
        "Construct a sentence that contains the word {}", "Create a sentence using {}",
    )  # fmt: skip
    return form.format(word), _choose(rng, "", "Here is a sentence: ", "Sure! ") + first


def _about(rng: random.Random, first: str, second: str, word: str, other: str) -> tuple[str, str]:
    verb = _choose(rng, "Write", "Create", "Compose", "Generate", "Develop", "Produce", "Draft", "Provide", "Give me")
    kind = _choose(
        rng, "a short story", "a paragraph", "a scene", "a text", "the start of a novel", "a description", "a blog post"
    )
    link = _choose(rng, "with the words {} and {}", "about {} and {}", "on {} and {}", "that speaks of {} and {}")
    return (
        f"{verb} {kind} {link.format(word, other)}",
        f"{_choose(rng, '', 'Sure, here it is: ', 'Here it is: ')}{first} {second}",
    )


def _sum_up(rng: random.Random, first: str, second: str, _word: str, _other: str) -> tuple[str, str]:
    form = _choose(
        rng, "Summarize this text: {}", "Shorten the following passage: {}", "Give the main point of this text.\n{}"
    )
    return form.format(f"{first} {second}"), _choose(rng, "", "In short: ", "Here is a summary: ") + first


def _repair(rng: random.Random, first: str, _second: str, _word: str, _other: str) -> tuple[str, str]:
    form = _choose(rng, "Correct this sentence: {}", "Edit the following sentence: {}", "Fix the capital letters: {}")
    return form.format(first.lower()), _choose(rng, "", "Here is the sentence: ") + first


def _name_words(rng: random.Random, first: str, _second: str, word: str, other: str) -> tuple[str, str]:
    form = _choose(rng, "Name two words of this sentence: {}", "Identify two key words in the sentence: {}")
    return form.format(first), f"Two words are {word} and {other}."


_MAKERS: tuple[Callable[[random.Random, str, str, str, str], tuple[str, str]], ...] = (
    _go_on, _use_word, _use_word, _about, _about, _about, _sum_up, _repair, _name_words,
)  # fmt: skip


def book_tasks(seed: int) -> list[tuple[str, str]]:
    """TASKS (instruction, answer) pairs; none holds a phrase of the refusal dictionary in its answer."""
    rng = random.Random(seed)
    chunks = corpus.book_chunks(seed + 2)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < TASKS:
        chunk = rng.choice(chunks)
        start = rng.randrange(max(1, len(chunk) - 1500))
        sentences = _SENTENCE_END.split(" ".join(chunk[start : start + 1500].split()))[1:-1]  # the ends are cut
        for first, second in itertools.pairwise(sentences):
            words = sorted(set(_WORD.findall(first)))
            if not (40 <= len(first) <= 220 and 30 <= len(second) <= 220 and len(words) >= 2):
                continue
            prompt, answer = rng.choice(_MAKERS)(rng, first, second, *rng.sample(words, 2))
            if not prompt.endswith((".", "?", "!")) and rng.random() < 0.5:
                prompt += "."
            if not instructions.is_refusal(answer):
                pairs.append((prompt, answer))
            break
    return pairs
