"""What `real_tunes.py` measured, and the tests on it; those of one kind are corrected together (Holm)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

import tuco_lens as tl
from scripts.real_tunes import CHAT, NULL_OF, TASK, TUNES, WEB, scores
from tuco_lens.stats import auc, auc_difference, holm, mean_interval, paired_difference, trend
from tuco_lens.stats.words import Interval

KIN: Final = 0.9
"""Cosine of two ΔW above which they are taken to come from one run."""
SISTER: Final = "adapters of Gemma 3 270M instruct, measured on its pre-trained sister (q4)"
STAGE_1, FINAL, SEED = TUNES
NULL_NAMES: Final = {"noise": f"{NULL_OF}, noise for its ΔW", "shuffled": f"{NULL_OF}, its ΔW in other layers"}
OTHERS: Final = (WEB, CHAT)
BASELINES: Final = ("KL", "OutputCo")

Scores = Mapping[str, Mapping[str, np.ndarray]]


class Found:
    """What both measuring parts left behind.

    Args:
        build: their folder.
    """

    def __init__(self, build: Path) -> None:
        self.comparison = tl.TuneComparison.load(build / "compare")
        self.beside: dict[str, Any] = json.loads((build / "beside.json").read_text())
        self.scores: Scores = scores(self.comparison, self.beside)
        self.nulls = {name: np.array(self.beside["nulls"][kind]) for kind, name in NULL_NAMES.items()}

    def of(self, group: str, values: np.ndarray) -> np.ndarray:
        """The values of the prompts of a group."""
        return values[np.array(self.comparison.groups) == group]

    def tuco(self, tune: str, group: str) -> np.ndarray:
        """TuCo of a group's prompts."""
        return self.of(group, self.scores[tune]["TuCo"])

    def size(self, one: str, other: str | None = None) -> float:
        """‖ΔW‖; of two tunes ‖ΔW − ΔW′‖."""
        cosine = self.beside["cosines"]
        if other is None:
            return cosine[one][one]
        a, b = self.size(one), self.size(other)
        return float(np.sqrt(a**2 + b**2 - 2 * a * b * cosine[one][other]))


def corrected(rows: list[dict[str, Any]], key: str = "p") -> list[dict[str, Any]]:
    """The rows with their p-values corrected together, as `p_holm`."""
    values = holm(np.array([row[key] for row in rows]))
    return [{**row, "p_holm": float(value)} for row, value in zip(rows, values, strict=True)]


def means(found: Found) -> dict[str, list[Interval]]:
    """Mean TuCo of every group by tune and null control."""
    values = dict(zip(found.comparison.names, found.comparison.tuco, strict=True)) | found.nulls
    groups = found.comparison.group_names
    return {name: [mean_interval(found.of(group, each)) for group in groups] for name, each in values.items()}


def seed_rows(found: Found) -> list[dict[str, Any]]:
    """For each group how far stage 1 and the other seed lie from the final adapter, prompt by prompt."""
    rows = []
    for group in found.comparison.group_names:
        final = found.tuco(FINAL, group)
        far, near = (np.abs(final - found.tuco(name, group)) for name in (STAGE_1, SEED))
        excess = paired_difference(far, near)
        rows.append({"group": group, "far": far, "near": near, "excess": excess, "p": excess.p})
    return corrected(rows)


def seed_share(found: Found) -> float:
    """The largest mean difference of the two seeds over a group, as a share of its TuCo."""
    groups = found.comparison.group_names
    both = [(found.tuco(FINAL, group).mean(), found.tuco(SEED, group).mean()) for group in groups]
    return max(abs(one - other) / one for one, other in both)


def are_kin(found: Found) -> bool:
    """Whether the weights' changes of all tunes point nearly the same way."""
    cosine = found.beside["cosines"]
    return min(cosine[FINAL][SEED], cosine[FINAL][STAGE_1], cosine[SEED][STAGE_1]) >= KIN


def noise_rows(found: Found) -> list[dict[str, Any]]:
    """For each null control and group TuCo of the real adapter less that of the null."""
    rows = []
    for (name, values), group in itertools.product(found.nulls.items(), found.comparison.group_names):
        real, null = found.tuco(NULL_OF, group), found.of(group, values)
        difference = paired_difference(real, null)
        rows.append({"null": name, "group": group, "difference": difference, "p": difference.p})
        rows[-1]["ratio"] = real.mean() / null.mean()
    return corrected(rows)


def spearman_rows(found: Found) -> Iterator[tuple[str, str, str, Any]]:
    """Tune, group, score, and Spearman's ρ of TuCo with it."""
    for name, group, other in itertools.product(TUNES, found.comparison.group_names, BASELINES):
        yield name, group, other, trend(found.tuco(name, group), found.of(group, found.scores[name][other]))


def areas(found: Found) -> list[dict[str, Any]]:
    """For each tune and other group: AUC of TuCo against those of the simpler scores, each as it tells more."""
    rows = []
    for name, other, score in itertools.product(TUNES, OTHERS, BASELINES):
        mine, theirs = (classes_of(found, found.scores[name][each], other) for each in ("TuCo", score))
        difference = auc_difference(better(mine), better(theirs))
        rows.append({"tune": name, "other": other, "score": score, "found": difference, "p": difference.p})
        rows[-1] |= {"reversed": is_reversed(mine), "theirs reversed": is_reversed(theirs)}
    return corrected(rows)


def classes_of(found: Found, values: np.ndarray, other: str) -> tuple[np.ndarray, np.ndarray]:
    return found.of(TASK, values), found.of(other, values)


def is_reversed(classes: tuple[np.ndarray, np.ndarray]) -> bool:
    return auc(*classes).value < 0.5


def better(classes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both with the sign at which higher speaks for the adapters' own task."""
    sign = -1 if is_reversed(classes) else 1
    return sign * classes[0], sign * classes[1]
