"""The words of the page of `real_tunes.py`.

They follow from the tests by the rules here, so that a run anew cannot leave a sentence behind that it no
longer bears out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import tuco_lens as tl
from scripts._real_tunes_found import (
    BASELINES,
    FINAL,
    OTHERS,
    SEED,
    STAGE_1,
    Found,
    are_kin,
    areas,
    classes_of,
    corrected,
    noise_rows,
    seed_rows,
    seed_share,
    spearman_rows,
)
from scripts.real_tunes import TASK, TUNES
from tuco_lens.stats import auc
from tuco_lens.stats.words import p_text, with_ends
from tuco_lens.tunes.words import NOT_APART, SIGNIFICANCE


def order_lines(comparison: tl.TuneComparison) -> Iterator[str]:
    """For each group the tunes from the highest mean down, and between neighbours what the tests allow to say."""
    table, tests = comparison.table, comparison.differences.to_dict("records")
    for group in comparison.group_names:
        rows = table[table["group"] == group].sort_values("mean", ascending=False, kind="stable").to_dict("records")
        pairs = [
            (above, below, test)
            for above, below in itertools.pairwise(rows)
            for test in tests
            if test["group"] == group and {test["first"], test["second"]} == {above["tune"], below["tune"]}
        ]
        yield f"**{group}**: {'; '.join(between(*each) for each in pairs)}."


def between(above: Mapping[Any, Any], below: Mapping[Any, Any], test: Mapping[Any, Any]) -> str:
    """What can be said of two tunes, by their rows of means and the row of their paired test."""
    one, other, p = above["tune"], below["tune"], f"corrected p {p_text(test['p_holm'])}"
    if above["low"] > below["high"]:
        return f"{one} above {other}, with intervals that do not overlap"
    if test["verdict"] == NOT_APART:
        return f"{one} and {other} are indistinguishable ({p})"
    return f"{one} above {other} prompt by prompt ({p}), though the intervals of their means overlap"


def layer_words(comparison: tl.TuneComparison) -> str:
    """In which layer the mean of TuCo so far is highest, by tune."""
    grid = comparison.layer_grid()
    values = np.asarray(grid.values)
    parts = [
        f"{name}: highest in layer {int(row.argmax())} ({row.max():.4f}), {row[-1]:.4f} behind the last"
        for name, row in zip(comparison.names, values, strict=True)
    ]
    return f"Mean over all prompts of TuCo so far, by layer: {'; '.join(parts)}."


def gain_words(found: Found) -> str:
    """Whether what stage 2 adds is larger on the adapters' own task: absolutely, and as a share of stage 1's."""
    gain = {group: found.tuco(FINAL, group) - found.tuco(STAGE_1, group) for group in found.comparison.group_names}
    share = {group: values / found.tuco(STAGE_1, group) for group, values in gain.items()}
    kinds = (("gain", gain), ("relative gain", share))
    rows: list[dict[str, Any]] = []
    for (name, values), other in itertools.product(kinds, OTHERS):
        area = auc(values[TASK], values[other])
        rows.append({"name": name, "other": other, "area": area, "p": area.p})
    said = [
        f"{row['name']}, {TASK} against {row['other']}: AUC {with_ends(row['area'])}, p {p_text(row['p_holm'])}"
        for row in corrected(rows)
    ]
    asked = "Whether the gain from stage 1 to final is larger for a logo than for another prompt (p corrected)"
    return f"{asked}: {'; '.join(said)}."


def seed_words(found: Found) -> str:
    """Whether stage 1 is farther from the final adapter than a change of seed alone."""
    parts = []
    for row in seed_rows(found):
        ratio = row["far"].mean() / row["near"].mean()
        if not row["p_holm"] < SIGNIFICANCE:
            parts.append(f"on {row['group']} no farther than the seed shown")
        else:
            word = "farther" if row["excess"].value > 0 else "nearer"
            parts.append(f"on {row['group']} {word}, {ratio:.1f} times the seed's distance")
    frame = found.comparison.only(tunes=[FINAL, SEED]).differences
    apart = frame[frame["group"].isin(found.comparison.group_names) & (frame["verdict"] != NOT_APART)]
    told = f"on {', '.join(apart['group'])}" if len(apart) else "on none of the groups"
    cosine = found.beside["cosines"][FINAL]
    return (
        f"Stage 1 against final, beside seed against seed: {'; '.join(parts)}. A paired test over prompts is of these "
        f"very weights, and not of recipes: it tells the two seeds apart {told}, by "
        f"{100 * seed_share(found):.2g} % of TuCo at the most. So the yardstick is the other seed, and not 0. There is "
        f"one pair of seeds: their ΔW have a cosine of {cosine[SEED]:.3f}, and with that of stage 1 "
        f"{cosine[STAGE_1]:.3f} and {found.beside['cosines'][SEED][STAGE_1]:.3f}.{_kinship(found)}"
    )


def _kinship(found: Found) -> str:
    """What such cosines speak for: matrices of so many numbers do not come that near to each other by themselves."""
    if not are_kin(found):
        return ""
    return (
        " Runs that begin apart do not end so near to each other: both seem to go on from this very stage 1, and then "
        "the seed changes what came after it alone. So it is a narrow null."
    )


def _grown(found: Found, group: str) -> float:
    return found.tuco(FINAL, group).mean() / found.tuco(STAGE_1, group).mean() - 1


def _contradictions(comparison: tl.TuneComparison, group: str, sizes: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Tunes that TuCo tells apart in a group, the other way round than by their sizes."""
    frame = comparison.differences
    for row in frame[(frame["group"] == group) & (frame["verdict"] != NOT_APART)].to_dict("records"):
        if row["difference"] * (sizes[row["first"]] - sizes[row["second"]]) < 0:
            yield row["first"], row["second"]


def weight_words(found: Found) -> str:
    """Whether ‖ΔW‖ orders the tunes as their mean TuCo does."""
    sizes = {name: found.size(name) for name in TUNES}
    order = " > ".join(f"*{name}*" for name in sorted(sizes, key=lambda name: -sizes[name]))
    parts = [f"By ‖ΔW‖ the order is {order}."]
    for group in found.comparison.group_names:
        against = [f"*{one}* and *{other}*" for one, other in _contradictions(found.comparison, group, sizes)]
        said = f"contradicts it for {', '.join(against)}" if against else "contradicts it for none that it tells apart"
        parts.append(f"TuCo on {group} {said}.")
    grown = sizes[FINAL] / sizes[STAGE_1] - 1
    parts.append(
        f"From stage 1 to final ‖ΔW‖ grows by {100 * grown:.1f} % whatever the prompt, and mean TuCo by "
        f"{', by '.join(f'{100 * _grown(found, group):.1f} % on {group}' for group in found.comparison.group_names)}."
    )
    apart, seeds = found.size(FINAL, STAGE_1), found.size(FINAL, SEED)
    parts.append(
        f"The weights of stage 1 are {apart:.3f} from the final adapter's (‖ΔW − ΔW′‖), those of the other seed "
        f"{seeds:.3f}: {apart / seeds:.2f} times as far."
    )
    return " ".join(parts)


def noise_words(found: Found) -> str:
    """What equal ‖ΔW‖ leaves open."""
    parts = []
    for name in found.nulls:
        rows = [row for row in noise_rows(found) if row["null"] == name]
        shown = [row["ratio"] for row in rows if row["p_holm"] < SIGNIFICANCE]
        ratios = f", {min(shown):.2f} to {max(shown):.2f} times as much" if shown else ""
        parts.append(f"*{name}*: another TuCo on {len(shown)} of {len(rows)} groups{ratios}")
    return f"The real adapter beside its null controls: {'; '.join(parts)}."


def spearman_words(found: Found) -> str:
    """How far the simpler scores rank prompts as TuCo does."""
    parts = []
    for other in BASELINES:
        found_rho = [rho for _, _, which, rho in spearman_rows(found) if which == other]
        values = [rho.value for rho in found_rho]
        sure = sum(rho.low > 0 or rho.high < 0 for rho in found_rho)
        parts.append(
            f"with {other} from {min(values):+.2f} to {max(values):+.2f}, of which {sure} of {len(values)} have an "
            "interval without 0"
        )
    return f"Within a group of prompts, TuCo's rank correlation is {'; '.join(parts)}."


def area_words(found: Found) -> str:
    """How often TuCo tells the own task better than the simpler scores, and how often worse."""
    rows = areas(found)
    parts = []
    for score, other in itertools.product(BASELINES, OTHERS):
        chosen = [row for row in rows if row["score"] == score and row["other"] == other]
        sure = [row for row in chosen if row["p_holm"] < SIGNIFICANCE]
        better = sum(row["found"].value > 0 for row in sure)
        parts.append(
            f"against {score}, logos from {other}: TuCo tells more for {better} of {len(chosen)} adapters, less for "
            f"{len(sure) - better}, and for {len(chosen) - len(sure)} no difference is shown"
        )
    at = f"At a corrected p below {SIGNIFICANCE:g} (Holm over {len(rows)})"
    return f"{at}, {'; '.join(parts)}. {_uncorrected(found, rows)}"


def _uncorrected(found: Found, rows: Sequence[dict[str, Any]]) -> str:
    """What the intervals say one by one."""
    parts = []
    for score in BASELINES:
        chosen = [row["found"] for row in rows if row["score"] == score]
        up, down = sum(each.low > 0 for each in chosen), sum(each.high < 0 for each in chosen)
        parts.append(f"TuCo − {score} is above 0 in {up} and below 0 in {down} of {len(chosen)}")
    kin = " The adapters are near kin, so these are not so many findings of their own." if are_kin(found) else ""
    return f"By their uncorrected intervals, {' and '.join(parts)}.{kin}"


def null_area_words(found: Found) -> str:
    """Whether TuCo of the null controls tells the task too."""
    parts = []
    for name, values in found.nulls.items():
        verdicts = [(other, auc(*classes_of(found, values, other)).verdict) for other in OTHERS]
        parts.append(f"*{name}*: {', '.join(f'{verdict} for logos and {other}' for other, verdict in verdicts)}")
    return f"TuCo of the null controls: {'; '.join(parts)}."


def short_lines(found: Found) -> Iterator[str]:
    """What was found, in a line for each question."""
    groups = found.comparison.group_names
    beyond = [row for row in seed_rows(found) if row["p_holm"] < SIGNIFICANCE and row["excess"].value > 0]
    far = [row["far"].mean() / row["near"].mean() for row in beyond]
    ratios = f", {min(far):.0f} to {max(far):.0f} times as much" if far else ""
    yield f"Stage 1 and final differ by more than a change of seed on {len(far)} of {len(groups)} groups{ratios}."
    nulls = noise_rows(found)
    shown = [row["ratio"] for row in nulls if row["p_holm"] < SIGNIFICANCE]
    ratios = f": {min(shown):.1f} to {max(shown):.1f} times as much" if shown else ""
    yield f"TuCo differs from that of null controls with the same ‖ΔW‖ in {len(shown)} of {len(nulls)} tests{ratios}."
    rows = areas(found)
    for score in BASELINES:
        chosen = [row["found"] for row in rows if row["score"] == score]
        sure = [row["found"] for row in rows if row["score"] == score and row["p_holm"] < SIGNIFICANCE]
        yield (
            f"Telling the adapters' own task from other prompts, TuCo beside {score}: better in "
            f"{sum(each.value > 0 for each in sure)} and worse in {sum(each.value < 0 for each in sure)} of "
            f"{len(chosen)} corrected tests, better in {sum(each.low > 0 for each in chosen)} and worse in "
            f"{sum(each.high < 0 for each in chosen)} by uncorrected intervals."
        )
