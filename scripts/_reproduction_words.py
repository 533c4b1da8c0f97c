"""For the page of `reproduction.py`: whether a claim of the paper holds on a pair, and what speaks for a reason if not.

The words follow from the numbers by the rules here, so that a run anew cannot leave a sentence behind that it no longer
bears out. A claim is judged by its own interval and null controls, and by its p-value, which is corrected by Holm's
method over all claims about one pair: of every experiment, and of every contrast, those that are not in the paper too.
A reason is what was measured beside TuCo; none is more than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tuco_lens.experiments import Comparison, Series
from tuco_lens.experiments.comparison import Contrast
from tuco_lens.experiments.gcg import ATTACKED, PLAIN, RANDOM
from tuco_lens.experiments.nulls import MEANING
from tuco_lens.experiments.registry import Result
from tuco_lens.experiments.scores import BASELINES, LABELS
from tuco_lens.experiments.tables import interval, p_text
from tuco_lens.experiments.words import HELD, series_reach, verdict
from tuco_lens.stats import holm
from tuco_lens.sweep import SweepResult

SIGNIFICANT = 0.05
BEYOND_NULLS = HELD["beyond"]
CORRECTED_AWAY = "not shown: too weak for one of so many claims"


@dataclass(frozen=True)
class Claim:
    """What is claimed of one result, before p-values are corrected."""

    name: str
    """Of a comparison the contrast's; else the claim in words."""
    p: tuple[float, ...]
    """Of each test that it rests on, two-sided; NaN where there is none."""
    judged: Callable[[Sequence[float]], str]
    """The verdict, from the corrected p-values in the same order."""
    is_papers: bool = True
    """Whether the paper claims it."""


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict."""

    name: str
    held: str
    p: tuple[float, ...]
    """Corrected."""
    is_papers: bool

    @property
    def p_words(self) -> str:
        """ "p < 0.001", or of several tests "p = 0.02 and 0.5", corrected."""
        texts = [p_text(p) for p in self.p]
        return f"p {'' if texts[0].startswith('<') else '= '}{' and '.join(texts)}"

    @property
    def line(self) -> str:
        """Claim, verdict and p."""
        return f"{self.name}: **{self.held}** ({self.p_words}, corrected)."


def judge(results: Mapping[str, Result]) -> dict[str, list[Judged]]:
    """The verdicts on everything that the results of one pair, by experiment, are asked; p corrected over all of it."""
    claims = {name: claims_of(name, result) for name, result in results.items()}
    raw = np.array([p for of_one in claims.values() for claim in of_one for p in claim.p], dtype=np.float64)
    left = iter(holm(raw).tolist())
    judged: dict[str, list[Judged]] = {}
    for name, of_one in claims.items():
        corrected = [tuple(next(left) for _ in claim.p) for claim in of_one]
        judged[name] = [
            Judged(claim.name, claim.judged(p), p, claim.is_papers) for claim, p in zip(of_one, corrected, strict=True)
        ]
    return judged


def claims_of(name: str, result: Result) -> list[Claim]:
    """A claim for each contrast, one for a series or a sweep."""
    if isinstance(result, Comparison):
        return [_contrast(result, each) for each in result.contrasts]
    if isinstance(result, Series):
        return [_many_shot(result) if name == "many_shot" else _output_co(result)]
    assert isinstance(result, SweepResult)
    return [_steering(result)]


def reasons_of(name: str, result: Result) -> list[str]:
    """Where a claim does not hold, or a null control does as much: sentences with what was measured beside it."""
    if isinstance(result, Comparison):
        return list(_comparison_reasons(result))
    if isinstance(result, Series):
        return list(_many_shot_reasons(result) if name == "many_shot" else [])
    assert isinstance(result, SweepResult)
    return list(_sweep_reasons(result))


def direction(result: Series, score: str) -> tuple[str, str]:
    """ "rises", "falls" or "no change shown", and the change with interval and n."""
    change = _change(result, score)
    low, high = change["change_low"], change["change_high"]
    word = "rises" if low > 0 else "falls" if high < 0 else "no change shown"
    at = f"{change['first']:.0f} to {change['last']:.0f} {result.x_name}"
    return word, f"{interval(change['change'], low, high, digits=4, sign='+')}, {at}, n = {change['n']}"


def _change(result: Series, score: str) -> Any:
    table = result.change_frame()
    return table[(table["set"] == "all") & (table["score"] == score)].iloc[0]


def _contrast(result: Comparison, contrast: Contrast) -> Claim:
    row = result.table[(result.table["contrast"] == contrast.name) & (result.table["score"] == "tuco")].iloc[0]
    judged = partial(_contrast_verdict if contrast.is_papers else _own_verdict, result, contrast)
    return Claim(contrast.name, (float(row["p"]),), judged, contrast.is_papers)


def _contrast_verdict(result: Comparison, contrast: Contrast, p: Sequence[float]) -> str:
    held = verdict(result, contrast)
    is_effect = held in HELD.values() or held.endswith("reversed")
    return CORRECTED_AWAY if is_effect and not p[0] < SIGNIFICANT else held


def _own_verdict(result: Comparison, contrast: Contrast, p: Sequence[float]) -> str:
    """Of a contrast that the paper does not have: which group is higher."""
    if verdict(result, contrast).startswith("undefined"):
        return "undefined"
    higher = {"separates": contrast.positive, "reversed": contrast.negative}.get(result.auc_of(contrast.name).verdict)
    if higher is None:
        return "no difference shown"
    return f"TuCo is higher for {higher}" if p[0] < SIGNIFICANT else CORRECTED_AWAY


def _many_shot(result: Series) -> Claim:
    def judged(p: Sequence[float]) -> str:
        word = _moved(result, "tuco", p[0])
        return {"falls": HELD[series_reach(result)], "rises": "does not hold: reversed"}.get(word, word)

    return Claim("TuCo falls with the number of shots", (_change_p(result, "tuco"),), judged)


def _output_co(result: Series) -> Claim:
    p = tuple(_change_p(result, score) for score in ("tuco", "output_co"))
    return Claim("TuCo rises, and OutputCo does otherwise", p, partial(_output_co_verdict, result))


def _output_co_verdict(result: Series, p: Sequence[float]) -> str:
    tuco, other = (_moved(result, score, each) for score, each in zip(("tuco", "output_co"), p, strict=True))
    if tuco == "rises":
        return HELD[series_reach(result)] if other != "rises" else "does not hold: both rise"
    apart = "the two differ: " if tuco != other and {tuco, other} == {"falls", "rises"} else ""
    said = [
        f"{label} {word if word in ('rises', 'falls') else 'is not shown to change'}"
        for label, word in (("TuCo", tuco), ("OutputCo", other))
    ]
    return f"does not hold: {apart}{', '.join(said)}"


def _change_p(result: Series, score: str) -> float:
    return float(_change(result, score)["change_p"])


def _moved(result: Series, score: str, p: float) -> str:
    """ "rises", "falls", or why neither is shown, by the interval and the corrected p."""
    word = direction(result, score)[0]
    if word == "no change shown" or math.isnan(p):
        return "not shown"
    return word if p < SIGNIFICANT else CORRECTED_AWAY


def _steering(result: SweepResult) -> Claim:
    """Its one p is that of any effect on any task: the least of all, times their number."""
    table = result.cross_validated()
    raw = np.concatenate([table[f"{short}_p"].to_numpy(dtype=np.float64) for short in ("max", "min")])
    p_up, p_down = np.split(holm(raw), 2)
    up = int(((p_up < SIGNIFICANT) & (table["max_delta"].to_numpy() > 0)).sum())
    down = int(((p_down < SIGNIFICANT) & (table["min_delta"].to_numpy() < 0)).sum())

    def judged(p: Sequence[float]) -> str:
        if not (up or down):
            return f"not shown on any of {len(table)} tasks"
        if not p[0] < SIGNIFICANT:
            return CORRECTED_AWAY
        return f"holds for {up} of {len(table)} tasks to maximise and {down} to minimise (p < 0.05, Holm over both)"

    least = float(np.nanmin(holm(raw))) if np.isfinite(raw).any() else math.nan
    return Claim("α chosen to maximise agreement raises it, to minimise lowers it", (least,), judged)


def _comparison_reasons(result: Comparison) -> Iterator[str]:
    for contrast in result.contrasts:
        found = verdict(result, contrast)
        if not contrast.is_papers or found == BEYOND_NULLS or found.startswith("undefined"):
            continue
        yield from _null_reasons(result, contrast)
        yield from _baseline_reasons(result, contrast)
    if result.settings.experiment == "gcg" and RANDOM in result.scores:
        yield _random_strings(result)


def _null_reasons(result: Comparison, contrast: Contrast) -> Iterator[str]:
    table = result.null_table
    rows = table[(table["contrast"] == contrast.name) & (table["null"] != "labels")]
    for kind, of_kind in rows.groupby("null", sort=False):
        low, high = of_kind["auc"].min(), of_kind["auc"].max()
        higher = contrast.positive if low > 0.5 else contrast.negative if high < 0.5 else None
        what = f"{MEANING[str(kind)]}: AUC {low:.3f} to {high:.3f}, n = {_counts(of_kind.iloc[0])}"
        if higher is not None:
            yield f"{contrast.name}: with {what}; with nothing taught, TuCo is higher for {higher} at every seed."
        else:
            yield f"{contrast.name}: with {what}; with nothing taught, either group may have more."


def _baseline_reasons(result: Comparison, contrast: Contrast) -> Iterator[str]:
    table = result.table[result.table["contrast"] == contrast.name]
    rows = table[table["score"].isin(BASELINES) & table["auc"].notna()]
    if len(rows):
        best = rows.loc[rows["auc"].idxmax()]
        auc = interval(best["auc"], best["low"], best["high"])
        yield f"{contrast.name}: of the simpler quantities, {LABELS[str(best['score'])]} separates best (AUC {auc})."


def _random_strings(result: Comparison) -> str:
    chance = next(each for each in result.contrasts if {each.positive, each.negative} == {PLAIN, RANDOM})
    attack = next(each for each in result.contrasts if {each.positive, each.negative} == {PLAIN, ATTACKED})
    by_chance, by_attack = result.auc_of(chance.name), result.auc_of(attack.name)
    both = f"AUC {interval(by_chance.value, by_chance.low, by_chance.high)} for random strings in the same place, "
    both += f"{interval(by_attack.value, by_attack.low, by_attack.high)} for attack strings"
    if by_chance.high < by_attack.low:
        return f"An attack string lowers TuCo more than a random one does ({both})."
    if by_chance.low > 0.5:
        return f"A string of random tokens lowers TuCo too ({both}): it is not shown that it takes an attack."
    return f"A string of random tokens is not shown to lower TuCo ({both})."


def _many_shot_reasons(result: Series) -> Iterator[str]:
    word, numbers = direction(result, "harmful_answers")
    moved = word if word != "no change shown" else "is not shown to change"
    yield f"The share of harmful answers {moved} with the shots ({numbers})."
    word, numbers = direction(result, "drift")
    moved = word if word != "no change shown" else "is not shown to change"
    yield f"The drift of two independent runs {moved} ({numbers})."


def _sweep_reasons(result: SweepResult) -> Iterator[str]:
    n_moved = sum(int((task.chosen != task.chosen[0]).any(axis=0).sum()) for task in result.tasks)
    n = sum(len(task.targets) for task in result.tasks)
    yield f"{n_moved} of {n} questions have another answer at some α than at the smallest."
    frame = result.to_frame()
    plain = frame[frame["alpha"] == 1.0]
    near = int(((plain["low"] <= 0.5) & (plain["high"] >= 0.5)).sum())
    yield (
        f"At α = 1 the agreement is {plain['accuracy'].min():.1%} to {plain['accuracy'].max():.1%}, and on {near} of "
        f"{len(plain)} tasks its interval holds the 50 % of a coin: a pair without an opinion has none to scale."
    )


def _counts(row: Any) -> str:
    return f"{row['n_positive']} + {row['n_negative']}"
