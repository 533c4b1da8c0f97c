"""The figures of experiments, returned and not shown: ROC curves over null controls, TuCo by group, a score's curve.

Results are passed to the statistics of `tuco_lens/plots/`, which draw themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    return Curves(curves, x_name=result.x_name, y_name=label, log2=True, title=f"{result.title}: {label}").figure(theme)


def _is_reversed(result: Comparison, contrast: Contrast, key: str) -> bool:
    table = result.table
    rows = table[(table["contrast"] == contrast.name) & (table["score"] == key)]
    return bool(rows["reversed"].iloc[0]) if len(rows) else False


def _mostly_seen(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[mostly_seen(rows["n"].to_numpy())]


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)]
