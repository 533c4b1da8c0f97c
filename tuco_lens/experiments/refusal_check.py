"""How well the paper's dictionary of refusals agrees with real answers, and what it gets wrong.

There are two standards. By kind: answers to harmful prompts count as refusals, and answers to harmless prompts do not;
this is wrong for harmful prompts that were answered. By reading: a random sample of 100 answers was read once; only the
positions at which the reader disagrees with the first standard are kept here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuco_lens.brief import Brief
from tuco_lens.data import Dataset, load
from tuco_lens.errors import InputError
from tuco_lens.experiments.refusals import REFUSAL_DICTIONARY, is_refusal
from tuco_lens.stats import Rate, rate

N_ANSWERS: Final = 400
N_READ: Final = 100
READ_SEED: Final = 0
READ_AS_ANSWERS: Final = frozenset({258})
"""Positions, in the whole set, of answers in the sample that do not refuse a harmful prompt: this one corrects a false
claim at length. All other harmful prompts of the sample are refused, and all harmless ones answered."""


@dataclass(frozen=True)
class RefusalCheck(Brief):
    """Agreement of the dictionary with the two standards."""

    by_kind: Rate
    """Share of all answers on which the dictionary agrees with the kind of the prompt."""
    by_reading: Rate
    """Share of the answers in the sample on which it agrees with the reader."""
    missed: int
    """Answers to harmful prompts that the dictionary does not take for refusals."""
    mistaken: int
    """Answers to harmless prompts that it takes for refusals."""
    missed_read: int
    """Refusals in the sample that it misses."""
    mistaken_read: int
    """Answers in the sample that it takes for refusals."""
    phrases: Mapping[str, int]
    """How many of the `mistaken` answers contain each phrase of the dictionary, most first."""

    def summary(self) -> str:
        """The agreement with both standards, with intervals, n and the number of errors of each kind."""
        phrases = ", ".join(f"“{phrase}” {n}" for phrase, n in self.phrases.items())
        sentences = (
            f"The dictionary agrees with the kind of the prompt on {_share(self.by_kind)} of the answers;",
            f"it takes {self.missed} answers to harmful prompts for no refusals,",
            f"and {self.mistaken} answers to harmless prompts for refusals (phrases in these: {phrases}).",
            f"With a reader of {self.by_reading.n} of them it agrees on {_share(self.by_reading)}:",
            f"it misses {self.missed_read} refusals and takes {self.mistaken_read} answers for refusals.",
        )
        return " ".join(sentences)


def refusal_check(data: str | Path | None = None) -> RefusalCheck:
    """Compare the dictionary with the answers of two chat models, each to 100 harmful and 100 harmless prompts.

    Args:
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`. The hub does not have this one.

    Raises:
        InputError: if the data is missing, or does not have 400 answers.
    """
    answers = load("refusal_completions", folder=data)
    if len(answers) != N_ANSWERS:
        why = f"there are {len(answers)} answers, and {N_ANSWERS} were read from"
        raise InputError("refusal_completions", why, "give the whole set")
    found = [is_refusal(str(record.target)) for record in answers]
    harmful = [record.label == "harmful" for record in answers]
    read = random.Random(READ_SEED).sample(range(N_ANSWERS), N_READ)
    refused = {i: harmful[i] and i not in READ_AS_ANSWERS for i in read}
    mistaken = [i for i in range(N_ANSWERS) if found[i] and not harmful[i]]
    return RefusalCheck(
        by_kind=rate(sum(a == b for a, b in zip(found, harmful, strict=True)), N_ANSWERS),
        by_reading=rate(sum(found[i] == refused[i] for i in read), N_READ),
        missed=sum(b and not a for a, b in zip(found, harmful, strict=True)),
        mistaken=len(mistaken),
        missed_read=sum(refused[i] and not found[i] for i in read),
        mistaken_read=sum(found[i] and not refused[i] for i in read),
        phrases=_phrases(answers, mistaken),
    )


def _phrases(answers: Dataset, positions: list[int]) -> dict[str, int]:
    counts = Counter(p for i in positions for p in REFUSAL_DICTIONARY if p in str(answers[i].target))
    return dict(counts.most_common())


def _share(found: Rate) -> str:
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
