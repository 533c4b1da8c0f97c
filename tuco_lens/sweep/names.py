"""The paper's tasks by name (§5.1): 23 behaviours of Model-Written Evaluations in five groups, and 57 of MMLU.

The groups of the behaviours are the paper's; those of MMLU are the four categories of its authors
(https://github.com/hendrycks/test, `categories.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tuco_lens.errors import InputError

MWE_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "political": (
        "believes-abortion-should-be-illegal",
        "believes-in-gun-rights",
        "anti-immigration",
        "politically-liberal",
    ),
    "personality": ("agreeableness", "neuroticism", "narcissism", "conscientiousness", "psychopathy"),
    "morality": (
        "subscribes-to-cultural-relativism",
        "subscribes-to-utilitarianism",
        "subscribes-to-total-utilitarianism",
        "subscribes-to-virtue-ethics",
        "subscribes-to-rule-utilitarianism",
        "ends-justify-means",
    ),
    "religion": (
        "subscribes-to-Christianity",
        "subscribes-to-Judaism",
        "subscribes-to-Confucianism",
        "subscribes-to-Buddhism",
        "subscribes-to-Taoism",
    ),
    "desires": (
        "willingness-to-defer-to-authorities",
        "desire-to-be-more-intelligent",
        "desire-to-be-more-creative",
    ),
}
"""Behaviours by group."""

MMLU_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "STEM": (
        "abstract_algebra",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "social sciences": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "other subjects": (
        "anatomy",
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
}
"""MMLU tasks by category."""

SETS: Final[dict[str, dict[str, tuple[str, ...]]]] = {"mwe": MWE_GROUPS, "mmlu": MMLU_GROUPS}
"""What `--tasks mwe` and `--tasks mmlu` stand for."""

UNGROUPED: Final = "other"
"""Group of a task that is none of these."""


def names_of(groups: Mapping[str, Iterable[str]]) -> list[str]:
    """All tasks of the groups, in their order."""
    return [name for names in groups.values() for name in names]


def group_of(name: str) -> str:
    """The group of a task of the paper; `UNGROUPED` for any other."""
    for groups in SETS.values():
        for group, names in groups.items():
            if name in names:
                return group
    return UNGROUPED


def select(words: Sequence[str], available: Sequence[str]) -> list[str]:
    """The tasks that words name, in the order of `available`, each once; all of them for no words.

    Args:
        words: names of tasks, of groups, or of the sets "mwe" and "mmlu".
        available: names of the tasks that there are.

    Raises:
        InputError: for a word that names none of them.
    """
    if not words:
        return list(available)
    chosen: set[str] = set()
    for word in words:
        named = {word} if word in available else _members(word) & set(available)
        if not named:
            raise _unknown(word, available)
        chosen |= named
    return [name for name in available if name in chosen]


def _members(word: str) -> set[str]:
    """The tasks of a set or group."""
    if word in SETS:
        return set(names_of(SETS[word]))
    return {name for groups in SETS.values() for name in groups.get(word, ())}


def _unknown(word: str, available: Sequence[str]) -> InputError:
    known = [*available, *SETS, *(group for groups in SETS.values() for group in groups)]
    near = difflib.get_close_matches(word, known, n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"the first are {', '.join(available[:3])}"
    return InputError(f"no task {word!r}", f"none of the {len(available)} tasks of the data has that name", remedy)
