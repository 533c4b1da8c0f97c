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
from tuco_lens.plots.template import look
from tuco_lens.stats import AucDifference, auc_difference, holm, mean_interval, paired_difference, trend
from tuco_lens.stats.words import Interval, p_text, with_ends
from tuco_lens.tunes.words import NOT_APART, SIGNIFICANCE

PAGE: Final = ROOT / "docs" / "real-tunes.md"
PICTURES: Final = ROOT / "docs" / "images"
TEMPLATE: Final = Path(__file__).with_name("real-tunes.md.in")
WIDTH: Final = 860
SISTER: Final = "adapters of Gemma 3 270M instruct, measured on its pre-trained sister (q4)"
STAGE_1, FINAL, SEED = TUNES
NULL: Final = f"noise for the ΔW of {NULL_OF}"
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
        self.null = np.array(self.beside["null"])

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
    )


def corrected(rows: list[dict[str, Any]], key: str = "p") -> list[dict[str, Any]]:
    """The rows with their p-values corrected together, as `p_holm`."""
    values = holm(np.array([row[key] for row in rows]))
    return [{**row, "p_holm": float(value)} for row, value in zip(rows, values, strict=True)]


def ends(estimate: Interval, digits: int = 4, sign: str = "") -> str:
    """A number with its interval."""
    return f"{estimate.value:{sign}.{digits}f} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def means_table(found: Found) -> pd.DataFrame:
    """A row per tune and one for the null control: mean TuCo of every group."""
    groups = found.comparison.group_names
    rows = {name: [found.tuco(name, group) for group in groups] for name in found.comparison.names}
    rows[NULL] = [found.of(group, found.null) for group in groups]
    return pd.DataFrame(
        {"tune": name, **dict(zip(groups, (ends(mean_interval(each)) for each in values), strict=True))}
        for name, values in rows.items()
    )


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
            "|final − stage 1|": ends(mean_interval(row["far"]), 5),
            "|final − seed 123|": ends(mean_interval(row["near"]), 5),
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
    return f"Stage 1 against final, beside seed against seed: {'; '.join(parts)}."


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


def ordered(values: Mapping[str, float]) -> tuple[str, ...]:
    """Names from the largest value down."""
    return tuple(sorted(values, key=lambda name: -values[name]))


def weight_words(found: Found) -> str:
    """Whether ‖ΔW‖ orders the tunes as their mean TuCo does."""
    by_weight = ordered({name: found.size(name) for name in TUNES})
    parts = [f"By ‖ΔW‖ the order is {', '.join(by_weight)}."]
    for group in found.comparison.group_names:
        by_tuco = ordered({name: float(found.tuco(name, group).mean()) for name in TUNES})
        same = "the same" if by_tuco == by_weight else f"another: {', '.join(by_tuco)}"
        parts.append(f"By mean TuCo on {group} it is {same}.")
    apart, seeds = found.size(FINAL, STAGE_1), found.size(FINAL, SEED)
    parts.append(
        f"The weights of stage 1 are {apart:.3f} from the final adapter's (‖ΔW − ΔW′‖), those of the other seed "
        f"{seeds:.3f}: {apart / seeds:.2f} times as far."
    )
    return " ".join(parts)


def noise_rows(found: Found) -> list[dict[str, Any]]:
    """For each group TuCo of a tune less that of noise whose product has the same norm in every matrix."""
    rows = []
    for group in found.comparison.group_names:
        real, null = found.tuco(NULL_OF, group), found.of(group, found.null)
        difference = paired_difference(real, null)
        rows.append({"group": group, "ratio": real.mean() / null.mean(), "difference": difference, "p": difference.p})
    return corrected(rows)


def noise_table(found: Found) -> pd.DataFrame:
    """`noise_rows` in writing."""
    return pd.DataFrame(
        {
            "prompts": row["group"],
            f"{NULL_OF} − noise": ends(row["difference"], 4, "+"),
            "p (Holm)": f"{row['p_holm']:.2g}",
            "ratio of means": f"{row['ratio']:.2f}",
        }
        for row in noise_rows(found)
    )


def noise_words(found: Found) -> str:
    """What equal ‖ΔW‖ leaves open."""
    parts = []
    for row in noise_rows(found):
        if not row["p_holm"] < SIGNIFICANCE:
            parts.append(f"on {row['group']} no difference is shown")
        else:
            parts.append(f"on {row['group']} the adapter has {row['ratio']:.2f} times the TuCo of the noise")
    return f"With equal ‖ΔW‖ in every matrix: {'; '.join(parts)}."


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
    from tuco_lens.stats import auc

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
    for other in OTHERS:
        classes = _classes(found, found.null, other)
        value = auc_difference(_better(classes), _better(classes)).first
        rows[NULL, other] = {"TuCo": _area(value, _is_reversed(classes))}
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
    return f"At a corrected p below {SIGNIFICANCE:g} (Holm over {len(rows)}), {'; '.join(parts)}."


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
        shift = 0.16 * ((len(estimates) - 1) / 2 - number)
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
    figure.update_layout(title={"text": f"{title}<br><sup>{SISTER}</sup>"}, margin={"t": 80})
    return figure


def means_figure(found: Found) -> go.Figure:
    """Mean TuCo by group and tune."""
    groups = found.comparison.group_names
    rows = {name: [mean_interval(found.tuco(name, group)) for group in groups] for name in TUNES}
    rows[NULL] = [mean_interval(found.of(group, found.null)) for group in groups]
    return _dots(groups, rows, "Mean TuCo with its 95 % interval over prompts", "TuCo at the last token")


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
    return _dots(names, series, title, "AUC, read the way that tells more")
