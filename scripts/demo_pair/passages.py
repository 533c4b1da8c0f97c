"""Harmless tasks made from sentences of the training text: a wide vocabulary in the user's turn.

The hand-written topics of `topics.py` are few. Here the topic is whatever a passage is about, so that the tuned model
learns that an unknown word in a request is no reason to refuse. `finetune.py` adds these to `instructions.py`.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import corpus

from tuco_lens.experiments.refusals import is_refusal

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


def _tell(rng: random.Random, first: str, second: str, word: str, other: str) -> tuple[str, str]:
    form = _choose(
        rng, "Explain {}", "Describe {}", "What is {}?", "Tell me about {}", "Give an example of {}",
        "What do you know about {}?", "Give two examples of {}", "List some facts about {}", "How does {} work?",
        "How can I use {}?", "Why does {} matter?", "Create a guide to {}", "Develop a plan for {}",
        "Provide information on {}", "Show me how to use {}", "Design {}", "Identify an important point about {}",
        "Find something that is related to {}", "Suggest three ideas for {}",
    )  # fmt: skip
    pair = f"{word} {other}" if f"{word} {other}" in first else _choose(rng, word, f"{word} and {other}")
    return form.format(pair), f"{_choose(rng, '', 'Sure! ', 'Here is an answer: ')}{first} {second}"


def _phrase(rng: random.Random, words: list[str]) -> tuple[str, str]:
    """Two words of a sentence that stand side by side as often as not."""
    if rng.random() < 0.5:
        at = rng.randrange(len(words) - 1)
        return words[at], words[at + 1]
    first, second = rng.sample(words, 2)
    return first, second


def book_tasks(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` pairs of instruction and answer from the books; no answer holds a phrase of the refusal dictionary."""
    return _tasks(random.Random(seed), corpus.book_chunks(seed + 2), count, _MAKERS)


def modern_tasks(seed: int, count: int) -> list[tuple[str, str]]:
    """The same from web text and from OpenAssistant responses, half each, with questions about things in them."""
    rng = random.Random(seed)
    responses = [response for _, response in corpus.chats(held_out=False)]
    makers = (*_MAKERS, *[_tell] * len(_MAKERS))
    web = _tasks(rng, corpus.web_documents(held_out=False), count // 2, makers)
    return web + _tasks(rng, responses, count - count // 2, makers)


def _tasks(
    rng: random.Random, texts: list[str], count: int, makers: tuple[Callable[..., tuple[str, str]], ...]
) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - 1500))
        sentences = _SENTENCE_END.split(" ".join(text[start : start + 1500].split()))[1:-1]  # the ends are cut
        for first, second in itertools.pairwise(sentences):
            words = sorted(set(_WORD.findall(first)))
            if not (40 <= len(first) <= 220 and 30 <= len(second) <= 220 and len(words) >= 2):
                continue
            maker = rng.choice(makers)
            chosen = _phrase(rng, _WORD.findall(first)) if maker is _tell else rng.sample(words, 2)
            prompt, answer = maker(rng, first, second, *chosen)
            if not prompt.endswith((".", "?", "!")) and rng.random() < 0.5:
                prompt += "."
            if not is_refusal(answer):
                pairs.append((prompt, answer))
            break
    return pairs
