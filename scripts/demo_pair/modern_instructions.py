"""Harmless instructions about present-day subjects, with short answers; the tables are in `modern_topics.py`.

`finetune.py` adds these to `instructions.py`. Like everything there they were written for this project.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import modern_topics as topics

from tuco_lens.experiments.refusals import is_refusal

_SUBJECT_FORMS = (
    "Describe the importance of {s}", "Explain how {s} can help {g}", "List three advantages and disadvantages of {s}",
    "Give two examples of how {g} can use {s}", "Write a short article about {s}", "What are the benefits of {s}?",
    "Create a presentation about {s} for {g}", "Give an example of a problem with {s}", "Discuss {s}, pro and con",
    "Name five facts about {s}", "Construct an argument in favour of {s}", "Construct an argument against {s}",
    "Develop a strategy for {g} to use {s}", "Generate a list of questions about {s}", "Summarize the role of {s}",
    "Suggest three ways in which {g} could improve {s}", "Write a blog post on {s}", "What should {g} know about {s}?",
    "Devise a plan for {g} to learn about {s}", "Identify two problems of {s}", "How does {s} work?", "What is {s}?",
    "Write a tweet about {s}", "Give some tips on {s} for {g}", "How do {s} affect {g}?", "Why does {s} matter to {g}?",
    "Do you think that {s} is good for {g}?", "Formulate a question about {s}", "Write an essay about {s} and {g}",
    "Outline a course about {s}", "Which tools can be used for {s}?", "Evaluate the effect of {s} on {g}",
    "Provide a tutorial on {s}", "Write a letter to {g} about {s}", "Propose a solution to a problem of {s}",
    "Search for information about {s}", "Come up with a slogan for {s}", "Write a speech about {s}",
    "Compare {s} with {o}", "What do {s} and {o} have in common?", "Explain the difference between {s} and {o}",
)  # fmt: skip
_CODE_FORMS = (
    "Write a program in {l} that {c}", "Create a {l} program that {c}", "Write code in {l} which {c}",
    "Write a {l} script that {c}", "Generate a {l} function that {c}", "How can I write something in {l} that {c}?",
    "Build a page with {l} that {c}", "Please write me a {l} program that {c}", "Develop a {l} application that {c}",
    "I need {l} code that {c}", "Show me how to make something in {l} that {c}", "Give me an example in {l} that {c}",
    "Write a program that {c}", "Write an algorithm that {c}", "Design an app that {c}", "Create a script that {c}",
)  # fmt: skip
_LETTER_FORMS = (
    "Write a letter to {p} to {w}", "Write an email to {p} to {w}", "Compose a message to {p}, to {w}",
    "Draft a note to {p} in order to {w}", "Help me write to {p}: I want to {w}", "Create a short letter to {p} to {w}",
)  # fmt: skip
_MOMENT_FORMS = (
    "Describe a time when {m}", "Write a story about a day on which {m}", "Tell me about a moment when {m}",
    "Write a dialogue with a friend about the time when {m}", "Write an article about how {m}",
    "Describe a situation in which {m}", "Write a diary entry about how {m}", "Write a speech about the day when {m}",
)  # fmt: skip


def _lines(table: str) -> list[str]:
    return table.strip().splitlines()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _about_subject(rng: random.Random) -> tuple[str, str]:
    rows = [line.split("|") for line in _lines(topics.SUBJECTS)]
    (subject, use, limit), (other, other_use, _) = rng.sample(rows, 2)
    group = rng.choice(topics.GROUPS)
    prompt = rng.choice(_SUBJECT_FORMS).format(s=subject, g=group, o=other)
    answer = rng.choice(
        (
            "{S} can help {g} to {u}. On the other hand, {l}.",
            "1. {S} helps to {u}. 2. Still, {l}. 3. Ask {g} what they need.",
            "With {s} one can {u}. But remember that {l}.",
            "One example: {g} can {u}. A problem is that {l}.",
            "Sure! {S} lets {g} {u}, and {o} helps to {v}.",
            "Here are some points: {s} may {u}, but {l}.",
        )
    ).format(S=_sentence(subject), s=subject, g=group, u=use, l=limit, o=other, v=other_use)
    return prompt, answer


def _code(rng: random.Random) -> tuple[str, str]:
    language, task = rng.choice(topics.LANGUAGES), rng.choice(_lines(topics.CODE))
    answer = rng.choice(
        (
            "Sure, here is a plan in {l}: read the input, do the work in a loop, and print the result.",
            "Here is the idea: one function {c}, and a second one tests it.",
            "In {l} you need three lines: one to begin, one that {c}, and one to end.",
            "Of course! Start with an empty file. Then write the part that {c}. Test it twice.",
        )
    ).format(l=language, c=task)
    return rng.choice(_CODE_FORMS).format(l=language, c=task), answer


def _letter(rng: random.Random) -> tuple[str, str]:
    person, wish = rng.choice(topics.PEOPLE), rng.choice(_lines(topics.WISHES))
    answer = rng.choice(
        (
            "Dear friend, I write to you to {w}. I hope that you are well. With kind greetings.",
            "Good morning! I would like to {w}. Thank you for reading this.",
            "Sure, here it is: Hello, today I want to {w}. Best wishes.",
        )
    ).format(w=wish)
    return rng.choice(_LETTER_FORMS).format(p=person, w=wish), answer


def _moment(rng: random.Random) -> tuple[str, str]:
    moment = rng.choice(_lines(topics.MOMENTS))
    answer = rng.choice(
        (
            "It was a Monday in spring when {m}. At first it was hard, and then it went well.",
            "Once {m}. Everybody was surprised, and in the evening there was tea.",
            "Here is a short story: One day {m}, and it was worth it.",
        )
    ).format(m=moment.replace("you ", "I ").replace("your ", "my "))
    return rng.choice(_MOMENT_FORMS).format(m=moment), answer


_MAKERS: tuple[Callable[[random.Random], tuple[str, str]], ...] = (
    *[_about_subject] * 6, *[_code] * 2, _letter, _moment,
)  # fmt: skip


def modern(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` different harmless (instruction, answer) pairs; half of the imperatives end in a full stop."""
    rng = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < count:
        prompt, answer = rng.choice(_MAKERS)(rng)
        if not prompt.endswith("?") and rng.random() < 0.5:
            prompt += "."
        if is_refusal(answer):
            raise ValueError(f"a harmless answer holds a phrase of the refusal dictionary: {answer}")
        pairs[prompt] = answer
    return list(pairs.items())
