"""The figures of experiments, returned and not shown: ROC curves over null controls, TuCo by group, a score's curve.

Results are passed to the statistics of `tuco_lens/plots/`, which draw themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tuco_lens.attacks.gcg import GRADIENT_COST
from tuco_lens.errors import InputError
from tuco_lens.experiments.nulls import SHORT
from tuco_lens.experiments.scores import LABELS, SCORE_KEYS
from tuco_lens.experiments.series import mostly_seen
from tuco_lens.plots.curves import Curve, Curves
from tuco_lens.plots.groups import Groups
from tuco_lens.plots.roc import roc

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.experiments.comparison import Comparison, Contrast, Values
    from tuco_lens.experiments.series import Series
    from tuco_lens.plots.template import Theme


def comparison_roc(result: Comparison, contrast: Contrast, theme: Theme) -> go.Figure:
    """ROC curves of every score in one contrast, over the bands of the null controls.

    Raises:
        InputError: if one of the groups has no TuCo.
    """
    scores: dict[str, tuple[Values, Values]] = {}
    for key in SCORE_KEYS:
        if not all(key in result.scores[group] for group in (contrast.positive, contrast.negative)):
            continue
        sign = -1.0 if _is_reversed(result, contrast, key) else 1.0
        pair = tuple(_finite(sign * result.scores[group][key]) for group in (contrast.positive, contrast.negative))
        if all(len(values) for values in pair):
            scores[LABELS[key] + (" (rev.)" if sign < 0 else "")] = (pair[0], pair[1])
    if LABELS["tuco"] not in scores:
        raise InputError(f"no ROC of {contrast.name}", "one of the groups is empty", "look at the table")
    nulls = {
        SHORT[kind]: [(seed[contrast.positive], seed[contrast.negative]) for seed in seeds]
        for kind, seeds in result.nulls.items()
        if all(len(seed[group]) for seed in seeds for group in (contrast.positive, contrast.negative))
    }
    return roc(scores, nulls=nulls, title=f"{result.title}: {contrast.name}").figure(theme)


def comparison_groups(result: Comparison, theme: Theme) -> go.Figure:
    """TuCo of every group: histogram, ECDF and box plot.

    Raises:
        InputError: if all groups are empty.
    """
    return Groups({group: scores["tuco"] for group, scores in result.scores.items() if len(scores["tuco"])}).figure(
        theme
    )


def series_figure(result: Series, score: str, theme: Theme) -> go.Figure:
    """One score against the number: a line with its band per set, at the numbers of `mostly_seen`.

    Raises:
        InputError: if there is no such score.
    """
    if score not in result.score_keys:
        known = ", ".join(result.score_keys)
        raise InputError(f"no score {score!r}", f"there are {known}", "name one of them")
    frame = result.to_frame()
    frame = frame[(frame["score"] == score) & (frame["n"] > 0)]
    names = result.sets if len(result.sets) == 1 else ("all", *result.sets)
    curves = tuple(
        Curve(
            name,
            rows["x"].to_numpy(np.float64),
            rows["mean"].to_numpy(np.float64),
            low=rows["low"].to_numpy(np.float64),
            high=rows["high"].to_numpy(np.float64),
            n=[int(n) for n in rows["n"]],
        )
        for name in names
        if len(rows := _mostly_seen(frame[frame["set"] == name]))
    )
    label = LABELS.get(score, score.replace("_", " "))
    seen = _mostly_seen(frame[frame["set"] == names[0]])["x"].tolist()
    return Curves(
        curves,
        x_name=result.x_name,
        y_name=label,
        log2=True,
        title=f"{result.title}: {label}",
        nulls=tuple(_null_bands(result, score, seen)),
    ).figure(theme)


def _null_bands(result: Series, score: str, seen: Sequence[int]) -> Iterator[Curve]:
    """For each null control, from the least to the greatest mean of its seeds at each of the numbers `seen`."""
    for kind, seeds in result.nulls.items():
        if score not in next(iter(seeds[0].values())):
            continue
        grids = np.stack([np.concatenate([of[score] for of in seed.values()], axis=1) for seed in seeds])
        places = [i for i, x in enumerate(result.x) if x in seen and np.isfinite(grids[0, i]).any()]
        if places:
            means = np.nanmean(grids[:, places], axis=2)  # [seed, x]
            n = np.isfinite(grids[0, places]).sum(axis=1).tolist()
            xs = [result.x[i] for i in places]
            yield Curve(SHORT[kind], xs, means.mean(0), low=means.min(0), high=means.max(0), n=n)


def attack_losses(result: Comparison, theme: Theme) -> go.Figure:
    """The loss of every attack string at each step of its search.

    Raises:
        InputError: if the result has no searches with their losses.
    """
    curves = tuple(
        Curve(f"string {i}", np.arange(len(losses)), losses) for i, losses in enumerate(_losses(result, "attacks"), 1)
    )
    return Curves(curves, x_name="step", y_name="loss", y_unit="nats per token", title="GCG: loss by step").figure(
        theme
    )


def attack_costs(result: Comparison, theme: Theme) -> go.Figure:
    """The lowest loss so far, less that of the start, against the cost: GCG and random search, means over strings.

    Both begin with the same string, so that what goals differ in from the start does not widen the bands. A search that
    has ended keeps its loss. The cost is in evaluated strings; a gradient is `GRADIENT_COST` of them.

    Raises:
        InputError: if there was no random search.
    """
    from tuco_lens.stats import mean_interval

    sought = result.settings.parameters["gcg"]
    per_step, n_steps = sought["n_candidates"] + GRADIENT_COST, sought["steps"]
    curves: list[Curve] = []
    for name, key in (("GCG", "attacks"), ("random search", "random search")):
        lowest = np.stack([_lowest(losses, n_steps) for losses in _losses(result, key)])  # [string, 1 + step]
        means = [mean_interval(values) for values in (lowest - lowest[:, :1]).T]
        low, high = ([getattr(each, end) for each in means] for end in ("low", "high"))
        cost = 1 + per_step * np.arange(n_steps + 1)
        curves.append(Curve(name, cost, [each.value for each in means], low=low, high=high, n=len(lowest)))
    return Curves(
        tuple(curves),
        x_name="evaluated strings",
        y_name="lowest loss − the start's",
        y_unit="nats per token",
        title="GCG and random search at equal cost",
    ).figure(theme)


def _losses(result: Comparison, key: str) -> list[list[float]]:
    found = [each["losses"] for each in result.facts.get(key, []) if "losses" in each]
    if not found:
        raise InputError(
            f"no losses of {key}", "no search of this result has them", "run `gcg`, with random_search=True"
        )
    return found


def _lowest(losses: Sequence[float], n_steps: int) -> Values:
    lowest = np.minimum.accumulate(np.array(losses, dtype=np.float64))
    return np.concatenate([lowest, np.full(n_steps + 1 - len(lowest), lowest[-1])])


def _is_reversed(result: Comparison, contrast: Contrast, key: str) -> bool:
    table = result.table
    rows = table[(table["contrast"] == contrast.name) & (table["score"] == key)]
    return bool(rows["reversed"].iloc[0]) if len(rows) else False


def _mostly_seen(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[mostly_seen(rows["n"].to_numpy())]


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)]
