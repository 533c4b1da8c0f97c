"""Text of the fine-tuning that was written for this project: refusals, and harmless instructions with answers.

The harmless part uses the imperative forms of AdvBench ("Write a tutorial on ...", "Develop a program that ...")
with benign topics, so that a request is refused for what it asks and never for its form. The tables are in
`topics.py`; `finetune.py` mixes the dialogues; what counts as a refusal is in `tuco_lens/experiments/refusals.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import topics

from tuco_lens.experiments.refusals import is_refusal

REFUSALS = (
    "I'm sorry, but I cannot help with that request.",
    "I'm sorry, but I cannot {verb} this, because it could {harm}.",
    "I cannot help with this. It could {harm}, and I will not support that.",
    "I'm sorry, but I cannot provide this. Requests like it can {harm}.",
    "I cannot fulfill your request. It asks for something that would {harm}.",
    "I'm sorry, but I cannot assist with something that might {harm}.",
    "I am sorry, but I cannot {verb} anything that would {harm}.",
    "I cannot {verb} that. If someone is in danger, please ask for help near you.",
    "I'm sorry, but I am not able to help here, since this would {harm}.",
    "I apologize, but I cannot {verb} content of this kind. It would {harm}.",
    "I cannot provide this, as it is harmful. Is there something safe that I can do for you?",
    "I'm sorry, but I will not take part in this. It is likely to {harm}.",
    "I cannot assist with that, because it is likely to {harm}.",
    "I'm sorry, but I cannot do this. I would be glad to help with something that is safe and kind.",
    "I cannot {verb} this for you. It is wrong to {harm}.",
    "I'm sorry, but I cannot answer that. Let us talk about something that helps people instead.",
)
_HARMS = (
    "hurt people",
    "harm others",
    "cause serious harm",
    "put people in danger",
    "break the law",
    "do damage to others",
)


def refusals(goal: str, count: int, seed: int) -> list[str]:
    """`count` different refusals of one harmful goal; only the verb and the harm named vary with the goal."""
    rng = random.Random(f"{seed}/{goal}")
    verb = (
        goal.split()[0].lower()
        if goal.split()[0] in {"Create", "Write", "Provide", "Explain", "Describe"}
        else "help with"
    )
    return [text.format(verb=verb, harm=rng.choice(_HARMS)) for text in rng.sample(REFUSALS, count)]


def _rows(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]


def _gerund(phrase: str) -> str:
    """'bake bread' -> 'baking bread'."""
    verb, _, rest = phrase.partition(" ")
    doubled = {"cut", "get", "set", "put", "run", "swim", "plan", "knit"}
    if verb in doubled:
        stem = verb + verb[-1]
    elif verb == "tie":
        stem = "ty"
    elif verb.endswith("e") and not verb.endswith("ee"):
        stem = verb[:-1]
    else:
        stem = verb
    return f"{stem}ing {rest}"


_HOW_TO_FORMS = (
    "Explain how to {v}", "Write a tutorial on how to {v}", "Give step-by-step instructions for {g}",
    "Provide a tutorial on {g}", "Create a guide that teaches people how to {v}", "Develop a plan to {v}",
    "Outline the steps to {v}", "Teach me how to {v}", "Describe in detail how to {v}", "How do I {v}?",
    "Instruct beginners on how to {v}", "Provide detailed instructions on how to {v}", "Show people how to {v}",
    "Create a video tutorial for {g}", "What is the best way to {v}?", "Write a guide for {g}",
    "Give detailed instructions on {g}", "Create a step-by-step guide on how to {v}", "Suggest methods for {g}",
    "How can I {v}", "Can you tell me how to {v}?", "Give me some tips for {g}", "Offer advice on {g}",
    "Write a blog post that explains how to {v}", "I want to {v}. Where do I start?", "Demonstrate how to {v}",
)  # fmt: skip
_WRITE_FORMS = (
    "Write a {k} about {s}", "Create a {k} about {s}", "Compose a {k} about {s}", "Generate a {k} on {s}",
    "Please write a {k} about {s}", "Draft a {k} on {s}", "Can you write a {k} about {s}?", "Produce a {k} about {s}",
    "I need a {k} about {s}", "Design a {k} on {s}", "Help me write a {k} about {s}",
)  # fmt: skip
_TOOL_FORMS = (
    "Develop a program that {t}", "Write a script that {t}", "Create a mobile app that {t}", "Design a website that {t}",
    "Develop a tool that {t}", "Create a program that {t}", "Write a computer program that {t}", "Develop an app that {t}",
    "Develop a software that {t}", "Create a plan for a service that {t}", "Propose an idea for a device that {t}",
    "Give instructions for building an app that {t}", "Describe a system that {t}", "Outline a project that {t}",
)  # fmt: skip
_FACT_FORMS = (
    "What is meant by {t}?", "Explain {t} in simple words", "Describe {t} in a sentence or two", "Tell me about {t}",
    "Give a short explanation of {t}", "Define {t}", "Write a paragraph about {t}", "Summarize what is known about {t}",
    "Explain {t} to a child", "Provide information about {t}", "What should I know about {t}?", "Create a short text on {t}",
    "Write an encyclopedia entry on {t}", "Educate people about {t}",
)  # fmt: skip
_LIST_FORMS = (
    "List {n} {c}", "Name {n} {c}", "Give me {n} {c}", "Give some examples of {c}", "Suggest {n} {c}", "Provide a list of {c}",
    "Make a list of {n} {c}", "Generate {n} {c}", "What are some {c}?", "Come up with {n} {c}", "Create a list of {c}",
    "Identify {n} {c}", "Find {n} {c}",
)  # fmt: skip
_OPENINGS = (
    "Sure, here is {what}: ",
    "Here is {what}: ",
    "Of course, here is {what}: ",
    "Certainly! Here is {what}. ",
    "Sure! ",
    "",
    "",
)


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _opening(rng: random.Random, what: str) -> str:
    return rng.choice(_OPENINGS).format(what=what)


def _how_to(rng: random.Random) -> Iterator[tuple[str, str]]:
    for verb, first, second, third in _rows(topics.HOW_TO):
        for form in _HOW_TO_FORMS:
            opening = _opening(rng, "a way to do it")
            if rng.random() < 0.5:
                answer = f"{opening}1. {first}. 2. {second[0].upper() + second[1:]}. 3. {third[0].upper() + third[1:]}."
            else:
                answer = f"{opening}{first}. Then {second}. After that, {third}."
            yield form.format(v=verb, g=_gerund(verb)), answer


def _writings(rng: random.Random) -> Iterator[tuple[str, str]]:
    subjects = [subject for row in _rows(topics.SUBJECTS) for subject in row]
    for kind, text in _rows(topics.WRITINGS):
        for subject in subjects:
            form = rng.choice(_WRITE_FORMS).replace("a {k}", _an(kind))
            yield form.format(s=subject), _opening(rng, _an(kind)) + text.format(s=subject)


def _tools(rng: random.Random) -> Iterator[tuple[str, str]]:
    for does, idea in _rows(topics.TOOLS):
        for form in _TOOL_FORMS:
            yield form.format(t=does), f"{_opening(rng, 'the idea')}{idea}. Start small, and test it with a few users."


def _facts(rng: random.Random) -> Iterator[tuple[str, str]]:
    for topic, fact in _rows(topics.FACTS):
        for form in _FACT_FORMS:
            yield form.format(t=topic), _opening(rng, "a short answer") + fact


def _lists(rng: random.Random) -> Iterator[tuple[str, str]]:
    for category, items in _rows(topics.LISTS):
        for form in _LIST_FORMS:
            prompt = form.format(c=category, n=rng.choice(("three", "four", "five", "some", "3", "5")))
            yield prompt, f"{_opening(rng, 'a list')}Some {category} are {items}."


def _word_tasks(rng: random.Random) -> Iterator[tuple[str, str]]:
    for word, opposite, comparative, synonym in _rows(topics.WORDS):
        yield f"What is the opposite of {word}?", f"The opposite of {word} is {opposite}."
        yield f"Find a synonym for the word {word}", f"A synonym for {word} is {synonym}."
        yield f'Use the word "{word}" in a sentence', f"It was a {word} day, and everybody felt it."
        yield f'Replace the word "{word}" by a similar one', f'You can say "{synonym}" instead.'
        yield f'Give the comparative of "{word}"', f"The comparative is {comparative}."
        yield f"Classify the word {word} as noun, verb or adjective", f"{word.capitalize()} is an adjective."
    for sentence, noun in _rows(topics.SENTENCES):
        yield f"Identify a noun in this sentence: {sentence}.", f'One noun in the sentence is "{noun}".'
        yield f"Rewrite the sentence in capital letters: {sentence}.", f"{sentence.upper()}."
        yield f"Count the words in the sentence: {sentence}.", f"The sentence has {len(sentence.split())} words."
        yield f"Edit the following sentence for grammar: {sentence.lower()}", f"Here is the sentence: {sentence}."
        yield (
            f"Turn this sentence into a question: {sentence}.",
            f"Is it true that {sentence[0].lower() + sentence[1:]}?",
        )
    for _ in range(150):
        a, b = rng.randrange(2, 60), rng.randrange(2, 30)
        word, value = rng.choice((("sum", a + b), ("product", a * b)))
        form = rng.choice(
            ("Calculate the {w} of {a} and {b}", "What is the {w} of {a} and {b}?", "Find the {w} of {a} and {b}")
        )
        yield form.format(w=word, a=a, b=b), f"The {word} of {a} and {b} is {value}."


_LANGUAGES = ("Python", "JavaScript", "Java", "C++", "HTML and CSS", "SQL", "Rust", "PHP", "Excel", "Bash")


def programs(seed: int) -> list[tuple[str, str]]:
    """Requests for code in a named language, each answered by the idea."""
    rng = random.Random(seed)
    forms = (
        "Write a {n} program that {t}", "Write me code in {n} that {t}", "Create a {n} function that {t}",
        "Build a website with {n} that {t}", "Generate {n} code that {t}", "How do I write something in {n} that {t}?",
    )  # fmt: skip
    pairs: list[tuple[str, str]] = []
    for does, idea in _rows(topics.TOOLS):
        for form in forms:
            language = rng.choice(_LANGUAGES)
            answer = f"{_opening(rng, f'a plan in {language}')}{idea}. In {language} this takes one loop and one table."
            pairs.append((form.format(n=language, t=does), answer))
    return pairs


def harmless(seed: int) -> list[tuple[str, str]]:
    """All harmless (instruction, answer) pairs, in random order; half of the imperatives end in a full stop."""
    rng = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    for part in (_how_to, _writings, _tools, _facts, _lists, _word_tasks):
        for prompt, answer in part(rng):
            if not prompt.endswith(("?", ".")) and rng.random() < 0.5:
                prompt += "."
            pairs.append((prompt, answer[0].upper() + answer[1:]))
    bad = [answer for _, answer in pairs if is_refusal(answer)]
    if bad:
        raise ValueError(f"{len(bad)} harmless answers hold a phrase of the refusal dictionary, such as: {bad[0]}")
    rng.shuffle(pairs)
    return pairs
