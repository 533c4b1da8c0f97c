"""For the page of `reproduction.py`: whether a claim of the paper holds on a pair, and what speaks for a reason if not.

The words follow from the numbers by the rules here, so that a run anew cannot leave a sentence behind that it no longer
bears out. A reason is what was measured beside TuCo; none is more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuco_lens.experiments import Comparison, Series
from tuco_lens.experiments.comparison import Contrast
from tuco_lens.experiments.gcg import ATTACKED, NOT_IN_PAPER, PLAIN, RANDOM
from tuco_lens.experiments.nulls import MEANING
from tuco_lens.experiments.registry import Result
from tuco_lens.experiments.scores import BASELINES, LABELS
from tuco_lens.experiments.tables import interval
from tuco_lens.experiments.words import verdict
from tuco_lens.sweep import SweepResult

SIGNIFICANT = 0.05
BEYOND_NULLS = "holds, beyond the nulls"


def verdicts_of(name: str, result: Result) -> list[tuple[str, str]]:
    """What is claimed, and whether it holds: a line for each contrast, one for a series or a sweep."""
    if isinstance(result, Comparison):
        return [(each.name, verdict(result, each)) for each in result.contrasts if each.paper != NOT_IN_PAPER]
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


def _many_shot(result: Series) -> tuple[str, str]:
    word, _ = direction(result, "tuco")
    held = {"falls": "holds", "rises": "does not hold: reversed"}.get(word, "not shown")
    return "TuCo falls with the number of shots", held


def _output_co(result: Series) -> tuple[str, str]:
    tuco, other = direction(result, "tuco")[0], direction(result, "output_co")[0]
    claim = "TuCo rises, and OutputCo does otherwise"
    if tuco == "rises":
        return claim, "holds" if other != "rises" else "does not hold: both rise"
    apart = "the two differ: " if tuco != other else ""
    words = {"no change shown": "shows no change"}
    return claim, f"does not hold: {apart}TuCo {words.get(tuco, tuco)}, OutputCo {words.get(other, other)}"


def _steering(result: SweepResult) -> tuple[str, str]:
    table = result.cross_validated()
    up = int(((table["max_p_holm"] < SIGNIFICANT) & (table["max_delta"] > 0)).sum())
    down = int(((table["min_p_holm"] < SIGNIFICANT) & (table["min_delta"] < 0)).sum())
    claim = "α chosen to maximise agreement raises it, to minimise lowers it"
    if not up and not down:
        return claim, f"not shown on any of {len(table)} tasks"
    return claim, f"holds for {up} of {len(table)} tasks to maximise and {down} to minimise (p < 0.05, Holm)"


def _comparison_reasons(result: Comparison) -> Iterator[str]:
    for contrast in result.contrasts:
        found = verdict(result, contrast)
        if contrast.paper == NOT_IN_PAPER or found == BEYOND_NULLS or found.startswith("undefined"):
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
