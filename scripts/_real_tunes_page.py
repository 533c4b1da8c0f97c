"""For the page of `real_tunes.py`: its tables, pictures and words.

The words follow from the tests by the rules here, so that a run anew cannot leave a sentence behind that it no longer
bears out. Tests of one kind are corrected together (Holm).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

import tuco_lens as tl
from scripts._screenshot import screenshot
from scripts.real_tunes import CHAT, LONGEST, NULL_OF, ROOT, TASK, TUNES, WEB, scores
from scripts.steering_results import _table as table
from tuco_lens.plots.statistic import set_title
from tuco_lens.plots.template import look
from tuco_lens.stats import AucDifference, auc, auc_difference, holm, mean_interval, paired_difference, trend
from tuco_lens.stats.words import Interval, p_text, with_ends
from tuco_lens.tunes.words import NOT_APART, SIGNIFICANCE

PAGE: Final = ROOT / "docs" / "real-tunes.md"
PICTURES: Final = ROOT / "docs" / "images"
TEMPLATE: Final = Path(__file__).with_name("real-tunes.md.in")
WIDTH: Final = 860
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


def write_page(build: Path, page: Path = PAGE, pictures: Path = PICTURES) -> None:
    """Write the page and its pictures from what was measured."""
    found = Found(build)
    for name, figure in figures(found).items():
        screenshot(figure, pictures / f"real-tunes-{name}.png", width=WIDTH)
    page.write_text(page_text(found), encoding="utf-8")


def page_text(found: Found) -> str:
    """The page."""
    lengths = [prompt.n_tokens for prompt in found.comparison.prompts]
    by_group = np.array([found.of(group, np.array(lengths)) for group in found.comparison.group_names])
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        n=found.beside["limit"],
        shortest=min(lengths),
        longest=max(lengths),
        most=LONGEST,
        unlike=int(np.abs(by_group - by_group[0]).max()),
        ending=json.dumps(found.comparison.prompts[0].tokens[-1]),
        sister=SISTER,
        means=table(means_table(found)),
        order="\n".join(f"- {line}" for line in order_lines(found.comparison)),
        differences=table(difference_table(found.comparison)),
        agreement=table(agreement_table(found.comparison)),
        layers=layer_words(found.comparison),
        steps=table(step_table(found)),
        null_of_two=table(seed_table(found)),
        seeds=seed_words(found),
        weights=table(weight_table(found)),
        weights_words=weight_words(found),
        noise=table(noise_table(found)),
        noise_words=noise_words(found),
        spearman=table(spearman_table(found)),
        spearman_words=spearman_words(found),
        areas=table(area_table(found)),
        areas_words=area_words(found),
        null_areas=null_area_words(found),
        gains=gain_words(found),
    )


def corrected(rows: list[dict[str, Any]], key: str = "p") -> list[dict[str, Any]]:
    """The rows with their p-values corrected together, as `p_holm`."""
    values = holm(np.array([row[key] for row in rows]))
    return [{**row, "p_holm": float(value)} for row, value in zip(rows, values, strict=True)]


def ends(estimate: Interval, digits: int = 4, sign: str = "") -> str:
    """A number with its interval."""
    return f"{estimate.value:{sign}.{digits}f} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def means_table(found: Found) -> pd.DataFrame:
    """A row per tune and null control: mean TuCo of every group."""
    groups = found.comparison.group_names
    return pd.DataFrame(
        {"tune": name, **dict(zip(groups, map(ends, row), strict=True))} for name, row in means(found).items()
    )


def means(found: Found) -> dict[str, list[Interval]]:
    """Mean TuCo of every group by tune and null control."""
    values = dict(zip(found.comparison.names, found.comparison.tuco, strict=True)) | found.nulls
    groups = found.comparison.group_names
    return {name: [mean_interval(found.of(group, each)) for group in groups] for name, each in values.items()}


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


def difference_table(comparison: tl.TuneComparison) -> pd.DataFrame:
    """Paired differences of every two tunes by group."""
    return pd.DataFrame(
        {
            "first − second": f"{row['first']} − {row['second']}",
            "prompts": row["group"],
            "n": row["n"],
            "difference": f"{row['difference']:+.5f} [{row['low']:+.5f}, {row['high']:+.5f}]",
            "p (Holm)": f"{row['p_holm']:.2g}",
            "verdict": row["verdict"],
        }
        for row in comparison.differences.to_dict("records")
    )


def agreement_table(comparison: tl.TuneComparison) -> pd.DataFrame:
    """Spearman's ρ of every two tunes by group."""
    return pd.DataFrame(
        {
            "tunes": f"{row['first']} and {row['second']}",
            "prompts": row["group"],
            "Spearman's ρ": f"{row['rho']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
        }
        for row in comparison.agreement.to_dict("records")
    )


def layer_words(comparison: tl.TuneComparison) -> str:
    """In which layer the mean of TuCo so far is highest, by tune."""
    grid = comparison.layer_grid()
    values = np.asarray(grid.values)
    parts = [
        f"{name}: highest in layer {int(row.argmax())} ({row.max():.4f}), {row[-1]:.4f} behind the last"
        for name, row in zip(comparison.names, values, strict=True)
    ]
    return f"Mean over all prompts of TuCo so far, by layer: {'; '.join(parts)}."


def step_table(found: Found) -> pd.DataFrame:
    """Base, stage 1, final: what each stage adds to TuCo, by group."""
    rows = []
    for group in found.comparison.group_names:
        first, last = found.tuco(STAGE_1, group), found.tuco(FINAL, group)
        change = paired_difference(last, first)
        rows.append({"prompts": group, "first": mean_interval(first), "change": change, "p": change.p})
        rows[-1]["share"] = first.mean() / last.mean()
    return pd.DataFrame(
        {
            "prompts": row["prompts"],
            "base": "0",
            "after stage 1": ends(row["first"]),
            "final − stage 1": ends(row["change"], 5, "+"),
            "p (Holm)": f"{row['p_holm']:.2g}",
            "stage 1 over final": f"{100 * row['share']:.1f} %",
        }
        for row in corrected(rows)
    )


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
        f"{row['name']}, logos against {row['other']}: AUC {with_ends(row['area'])}, corrected p {p_text(row['p_holm'])}"
        for row in corrected(rows)
    ]
    return f"Whether the gain from stage 1 to final is larger for a logo than for another prompt: {'; '.join(said)}."


def seed_rows(found: Found) -> list[dict[str, Any]]:
    """For each group how far stage 1 and the other seed lie from the final adapter, prompt by prompt."""
    rows = []
    for group in found.comparison.group_names:
        final = found.tuco(FINAL, group)
        far, near = (np.abs(final - found.tuco(name, group)) for name in (STAGE_1, SEED))
        excess = paired_difference(far, near)
        rows.append({"group": group, "far": far, "near": near, "excess": excess, "p": excess.p})
    return corrected(rows)


def seed_table(found: Found) -> pd.DataFrame:
    """`seed_rows` in writing."""
    return pd.DataFrame(
        {
            "prompts": row["group"],
            "final to stage 1": ends(mean_interval(row["far"]), 5),
            "final to seed 123": ends(mean_interval(row["near"]), 5),
            "the first less the second": ends(row["excess"], 5, "+"),
            "p (Holm)": f"{row['p_holm']:.2g}",
            "ratio of means": f"{row['far'].mean() / row['near'].mean():.1f}",
        }
        for row in seed_rows(found)
    )


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
        f"{100 * _seed_share(found):.2g} % of TuCo at the most. So the yardstick is the other seed, and not 0. It is one "
        f"pair of seeds, and a narrow null: the ΔW of the two have a cosine of {cosine[SEED]:.3f}, and each has "
        f"{cosine[STAGE_1]:.3f} and {found.beside['cosines'][SEED][STAGE_1]:.3f} with that of stage 1{_kinship(found)}."
    )


def _seed_share(found: Found) -> float:
    """The largest mean difference of the two seeds over a group, as a share of its TuCo."""
    groups = found.comparison.group_names
    both = [(found.tuco(FINAL, group).mean(), found.tuco(SEED, group).mean()) for group in groups]
    return max(abs(one - other) / one for one, other in both)


def _kinship(found: Found) -> str:
    """What such cosines speak for: matrices of so many numbers do not come that near to each other by themselves."""
    cosine = found.beside["cosines"]
    if min(cosine[FINAL][SEED], cosine[FINAL][STAGE_1], cosine[SEED][STAGE_1]) < KIN:
        return ""
    return (
        ". Runs that begin apart do not end so near to each other: both seem to go on from this very stage 1, and then "
        "the seed changes what came after it alone"
    )


def weight_table(found: Found) -> pd.DataFrame:
    """‖ΔW‖ of every tune, the relative change of its matrices, and how its ΔW lies to the others'."""
    rows = []
    for name in found.comparison.names:
        changes = np.array(found.beside["tunes"][name]["weights"])
        changed = changes[np.isfinite(changes) & (changes > 0)]
        others = {f"cosine with {o}": f"{found.beside['cosines'][name][o]:+.3f}" for o in TUNES if o != name}
        apart = {f"cosine with {o}": others.get(f"cosine with {o}", "1") for o in TUNES}
        relative = f"{changed.min():.4f} to {changed.max():.4f}"
        size = {"tune": name, "‖ΔW‖": f"{found.size(name):.3f}", "‖ΔW‖ / ‖W‖ by matrix": relative}
        rows.append({**size, **apart})
    return pd.DataFrame(rows)


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
        f"From stage 1 to final ‖ΔW‖ grows by {100 * grown:.1f} % once and for all, and mean TuCo by "
        f"{', by '.join(f'{100 * _grown(found, group):.1f} % on {group}' for group in found.comparison.group_names)}."
    )
    apart, seeds = found.size(FINAL, STAGE_1), found.size(FINAL, SEED)
    parts.append(
        f"The weights of stage 1 are {apart:.3f} from the final adapter's (‖ΔW − ΔW′‖), those of the other seed "
        f"{seeds:.3f}: {apart / seeds:.2f} times as far."
    )
    return " ".join(parts)


def noise_rows(found: Found) -> list[dict[str, Any]]:
    """For each null control and group TuCo of the real adapter less that of the null."""
    rows = []
    for (name, values), group in itertools.product(found.nulls.items(), found.comparison.group_names):
        real, null = found.tuco(NULL_OF, group), found.of(group, values)
        difference = paired_difference(real, null)
        rows.append({"null": name, "group": group, "difference": difference, "p": difference.p})
        rows[-1]["ratio"] = real.mean() / null.mean()
    return corrected(rows)


def noise_table(found: Found) -> pd.DataFrame:
    """`noise_rows` in writing."""
    return pd.DataFrame(
        {
            "null control": row["null"],
            "prompts": row["group"],
            f"{NULL_OF} − null": ends(row["difference"], 4, "+"),
            "p (Holm)": f"{row['p_holm']:.2g}",
            "ratio of means": f"{row['ratio']:.2f}",
        }
        for row in noise_rows(found)
    )


def noise_words(found: Found) -> str:
    """What equal ‖ΔW‖ leaves open."""
    parts = []
    for name in found.nulls:
        rows = [row for row in noise_rows(found) if row["null"] == name]
        shown = [row["ratio"] for row in rows if row["p_holm"] < SIGNIFICANCE]
        ratios = f", {min(shown):.2f} to {max(shown):.2f} times as much" if shown else ""
        parts.append(f"*{name}*: another TuCo on {len(shown)} of {len(rows)} groups{ratios}")
    return f"The real adapter beside its null controls: {'; '.join(parts)}."


def spearman_rows(found: Found) -> Iterator[tuple[str, str, str, Any]]:
    """Tune, group, score, and Spearman's ρ of TuCo with it."""
    for name, group, other in itertools.product(TUNES, found.comparison.group_names, BASELINES):
        yield name, group, other, trend(found.tuco(name, group), found.of(group, found.scores[name][other]))


def spearman_table(found: Found) -> pd.DataFrame:
    """Spearman's ρ of TuCo with the simpler scores."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for name, group, other, rho in spearman_rows(found):
        cells.setdefault((name, group), {})[f"ρ with {other}"] = with_ends(rho, sign="+")
    return pd.DataFrame({"tune": name, "prompts": group, **row} for (name, group), row in cells.items())


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


def areas(found: Found) -> list[dict[str, Any]]:
    """For each tune and other group: AUC of TuCo against those of the simpler scores, each as it tells more."""
    rows = []
    for name, other, score in itertools.product(TUNES, OTHERS, BASELINES):
        mine, theirs = (_classes(found, found.scores[name][each], other) for each in ("TuCo", score))
        difference = auc_difference(_better(mine), _better(theirs))
        rows.append({"tune": name, "other": other, "score": score, "found": difference, "p": difference.p})
        rows[-1] |= {"reversed": _is_reversed(mine), "theirs reversed": _is_reversed(theirs)}
    return corrected(rows)


def _classes(found: Found, values: np.ndarray, other: str) -> tuple[np.ndarray, np.ndarray]:
    return found.of(TASK, values), found.of(other, values)


def _is_reversed(classes: tuple[np.ndarray, np.ndarray]) -> bool:
    return auc(*classes).value < 0.5


def _better(classes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Both with the sign at which higher speaks for the adapters' own task."""
    sign = -1 if _is_reversed(classes) else 1
    return sign * classes[0], sign * classes[1]


def _area(estimate: Interval, is_reversed: bool) -> str:
    return with_ends(estimate) + (" ↓" if is_reversed else "")


def area_table(found: Found) -> pd.DataFrame:
    """`areas` in writing, with the null control's TuCo."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in areas(found):
        difference: AucDifference = row["found"]
        cells = rows.setdefault((row["tune"], row["other"]), {})
        cells["TuCo"] = _area(difference.first, row["reversed"])
        cells[row["score"]] = _area(difference.second, row["theirs reversed"])
        cells[f"TuCo − {row['score']}"] = f"{with_ends(difference, sign='+')}, p {row['p_holm']:.2g}"
    for (name, values), other in itertools.product(found.nulls.items(), OTHERS):
        classes = _classes(found, values, other)
        rows[name, other] = {"TuCo": _area(auc(*_better(classes)), _is_reversed(classes))}
    columns = ["tune", "logos against", "TuCo", *BASELINES, *(f"TuCo − {score}" for score in BASELINES)]
    listed = [{"tune": tune, "logos against": other, **cells} for (tune, other), cells in rows.items()]
    return pd.DataFrame(listed, columns=pd.Index(columns)).fillna("")


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
    return f"At a corrected p below {SIGNIFICANCE:g} (Holm over {len(rows)}), {'; '.join(parts)}. {_uncorrected(rows)}"


def _uncorrected(rows: Sequence[dict[str, Any]]) -> str:
    """What the intervals say one by one."""
    parts = []
    for score in BASELINES:
        chosen = [row["found"] for row in rows if row["score"] == score]
        up, down = sum(each.low > 0 for each in chosen), sum(each.high < 0 for each in chosen)
        parts.append(f"TuCo − {score} is above 0 in {up} and below 0 in {down} of {len(chosen)}")
    return (
        f"By their uncorrected intervals, {' and '.join(parts)}. The adapters are near kin, so these are not so many "
        "findings of their own."
    )


def null_area_words(found: Found) -> str:
    """Whether TuCo of the null controls tells the task too."""
    parts = []
    for name, values in found.nulls.items():
        verdicts = [(other, auc(*_classes(found, values, other)).verdict) for other in OTHERS]
        parts.append(f"*{name}*: {', '.join(f'{verdict} for logos and {other}' for other, verdict in verdicts)}")
    return f"TuCo of the null controls: {'; '.join(parts)}."


def figures(found: Found) -> dict[str, go.Figure]:
    """The pictures of the page, by the ends of their names."""
    return {
        "means": means_figure(found),
        "layers": layers_figure(found),
        "areas": areas_figure(found),
    }


def _dots(names: Sequence[str], estimates: Mapping[str, Sequence[Interval]], title: str, x: str) -> go.Figure:
    """A row per name, and in it a dot with its interval per series."""
    style = look("light")
    drawn = go.Figure()
    for number, (series, row) in enumerate(estimates.items()):
        shift = 0.16 * (number - (len(estimates) - 1) / 2)
        drawn.add_trace(
            go.Scatter(
                x=[each.value for each in row],
                y=[place + shift for place in range(len(row))],
                error_x={
                    "array": [each.high - each.value for each in row],
                    "arrayminus": [each.value - each.low for each in row],
                    "symmetric": False,
                },
                mode="markers",
                name=series,
                marker={"color": style.colorway[number], "size": 9},
            )
        )
    drawn.update_yaxes(tickvals=list(range(len(names))), ticktext=list(names), range=[len(names) - 0.5, -0.5])
    drawn.update_xaxes(title_text=x)
    legend = {"orientation": "h", "y": -0.18}
    drawn.update_layout(template=style.template, height=160 + 75 * len(names), legend=legend, margin={"l": 150})
    return _titled(drawn, title)


def _titled(figure: go.Figure, title: str) -> go.Figure:
    """With a title, and below it what the numbers are of."""
    set_title(figure, title, SISTER)
    return figure


def means_figure(found: Found) -> go.Figure:
    """Mean TuCo by group and tune."""
    groups = found.comparison.group_names
    drawn = _dots(groups, means(found), "Mean TuCo with its 95 % interval over prompts", "TuCo at the last token")
    return drawn.update_xaxes(rangemode="tozero")


def layers_figure(found: Found) -> go.Figure:
    """TuCo so far by layer and tune."""
    figure = found.comparison.only(TASK).layer_profile().figure()
    return _titled(figure, f"TuCo so far at the last token, {TASK}: median and quartiles over prompts")


def areas_figure(found: Found) -> go.Figure:
    """AUC of logos against other prompts by score and tune."""
    rows: dict[str, dict[str, Interval]] = {}
    for row in areas(found):
        name = f"{row['tune']},<br>{TASK} against {row['other']}"
        rows.setdefault("TuCo", {})[name] = row["found"].first
        rows.setdefault(row["score"], {})[name] = row["found"].second
    names = list(rows["TuCo"])
    series = {score: [each[name] for name in names] for score, each in rows.items()}
    title = "How well a score tells logos from other prompts: AUC, 95 % interval"
    drawn = _dots(names, series, title, "AUC, read the way that tells more")
    return drawn.update_xaxes(range=[0.5, 1.005])
