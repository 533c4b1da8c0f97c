"""What an experiment found, in words. A sentence that claims an effect gives its interval and n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tuco_lens.experiments.nulls import MEANING
from tuco_lens.experiments.scores import BASELINES, LABELS
from tuco_lens.experiments.tables import interval

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.experiments.comparison import Comparison, Contrast
    from tuco_lens.experiments.series import Series
    from tuco_lens.stats import Auc


Reach = Literal["none", "beyond", "other way", "not beyond"]
"""No null control; none as far from no effect as the interval's nearer end; one, but only on the other side; one on the
same side."""

HELD: Final[dict[Reach, str]] = {
    "none": "holds; no null control",
    "beyond": "holds, beyond the nulls",
    "other way": "holds; the nulls go as far the other way",
    "not beyond": "holds, but not beyond the nulls",
}
"""What is said of a claim of the paper whose effect is there."""


def comparison_summary(result: Comparison) -> str:
    """One paragraph: what each contrast shows, what the null controls do, and whether simpler scores do as well."""
    sentences = [f"{result.title}: {result.settings.tuned} against {result.settings.base}."]
    sentences += result.facts.get("sentences", [])
    for contrast in result.contrasts:
        sentences += _contrast_sentences(result, contrast)
    return " ".join(sentences)


def verdict(result: Comparison, contrast: Contrast) -> str:
    """In a few words, whether the paper's claim, a higher TuCo in the positive group, holds for this contrast."""
    if not all(len(result.scores[name]["tuco"]) for name in (contrast.positive, contrast.negative)):
        return "undefined: a group is empty"
    found = result.auc_of(contrast.name)
    words = {"undefined": "undefined: all values are equal", "reversed": "does not hold: reversed"}
    if found.verdict != "separates":
        return words.get(found.verdict, "not shown")
    return HELD[_against_nulls(_nulls(result, contrast), found)]


def _nulls(result: Comparison, contrast: Contrast) -> pd.DataFrame:
    table = result.null_table
    return table[(table["contrast"] == contrast.name) & (table["null"] != "labels")]


def _against_nulls(nulls: pd.DataFrame, found: Auc) -> Reach:
    return reach((found.low - 0.5, found.high - 0.5), (nulls["auc"] - 0.5).tolist())


def reach(ends: tuple[float, float], nulls: Sequence[float]) -> Reach:
    """How an effect stands to its null controls; no effect is 0.

    Args:
        ends: of the effect's interval.
        nulls: the effect under each null control and seed.
    """
    if not nulls:
        return "none"
    sign = 1.0 if sum(ends) >= 0 else -1.0
    nearest = min(sign * end for end in ends)
    if nearest <= max(sign * null for null in nulls):
        return "not beyond"
    return "beyond" if nearest > max(-sign * null for null in nulls) else "other way"


def series_reach(result: Series, score: str = "tuco") -> Reach:
    """How the change of a score over all sets stands to the null controls."""
    changes, nulls = result.change_frame(), result.null_frame()
    row = changes[(changes["set"] == "all") & (changes["score"] == score)].iloc[0]
    found = nulls[(nulls["score"] == score) & nulls["change"].notna()]["change"]
    return reach((float(row["change_low"]), float(row["change_high"])), found.tolist())


def _contrast_sentences(result: Comparison, contrast: Contrast) -> list[str]:
    empty = [name for name in (contrast.positive, contrast.negative) if not len(result.scores[name]["tuco"])]
    if empty:
        return [f"{contrast.name}: the AUC is undefined, for no prompt is of the group {empty[0]!r}."]
    found = result.auc_of(contrast.name)
    sentences = [_auc_sentence(contrast, found)]
    if found.verdict != "undefined":
        sentences += [*_null_sentence(result, contrast, found), *_baseline_sentence(result, contrast)]
    return sentences


def _auc_sentence(contrast: Contrast, found: Auc) -> str:
    counts = f"n = {found.n_positive} and {found.n_negative}"
    numbers = f"AUC {interval(found.value, found.low, found.high)}, {counts}"
    if found.verdict == "undefined":
        return f"{contrast.name}: the AUC is undefined, for all values are equal ({counts})."
    if found.verdict == "separates":
        return f"{contrast.name}: TuCo is higher for {contrast.positive} than for {contrast.negative} ({numbers})."
    if found.verdict == "reversed":
        fails = "the paper's claim does not hold here; " if contrast.is_papers else ""
        lower = f"TuCo is lower for {contrast.positive} than for {contrast.negative}"
        return f"{contrast.name}: {fails}{lower} ({numbers})."
    return f"{contrast.name}: no difference shown, the interval contains 0.5 ({numbers})."


def _null_sentence(result: Comparison, contrast: Contrast, found: Auc) -> list[str]:
    nulls = _nulls(result, contrast)
    if not len(nulls):
        return []
    parts = [f"{MEANING[str(kind)]} {_range(rows['auc'])}" for kind, rows in nulls.groupby("null", sort=False)]
    n_seeds = nulls.groupby("null").size().max()
    counts = f"n = {nulls['n_positive'].max()} and {nulls['n_negative'].max()}"
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}, {counts}"
    meaning = {
        "beyond": "TuCo's whole interval is farther from 0.5 than any of them",
        "other way": "none goes as far in the direction of TuCo, but one does in the other",
        "not beyond": "so changes of this size, with nothing taught, separate too; TuCo is not shown to do more",
    }[_against_nulls(nulls, found)]
    return [f"Null controls: {'; '.join(parts)} ({seeds}); {meaning}."]


def _range(values: pd.Series[float], digits: int = 3, sign: str = "") -> str:
    low, high = f"{values.min():{sign}.{digits}f}", f"{values.max():{sign}.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _baseline_sentence(result: Comparison, contrast: Contrast) -> list[str]:
    table = result.table
    rows = table[(table["contrast"] == contrast.name) & table["score"].isin(BASELINES) & table["difference"].notna()]
    if not len(rows):
        return []
    better = [_difference_words(row) for _, row in rows.iterrows() if row["difference_low"] > 0]
    worse = [_difference_words(row) for _, row in rows.iterrows() if row["difference_high"] < 0]
    even = [
        LABELS[str(row["score"])] for _, row in rows.iterrows() if row["difference_low"] <= 0 <= row["difference_high"]
    ]
    parts: list[str] = []
    if better:
        parts.append(f"TuCo separates better than {', '.join(better)}")
    if worse:
        parts.append(f"worse than {', '.join(worse)}" if better else f"TuCo separates worse than {', '.join(worse)}")
    if even:
        parts.append(f"no difference shown to {', '.join(even)}")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if parts else []


def _difference_words(row: Any) -> str:
    numbers = interval(row["difference"], row["difference_low"], row["difference_high"], sign="+")
    return f"{LABELS[str(row['score'])]} ({numbers})"


def series_summary(result: Series) -> str:
    """One paragraph: how each score changes with the number, over all sets."""
    sentences = [f"{result.title}: {result.settings.tuned} against {result.settings.base}."]
    changes = result.change_frame()
    told = (changes["set"] == "all") & (changes["score"] != "n_tokens")
    for _, row in changes[told].iterrows():
        sentence = _change_sentence(result, row)
        sentences.append(sentence[0].upper() + sentence[1:])
        sentences += _series_null_sentence(result, str(row["score"]))
    return " ".join(sentences)


def _series_null_sentence(result: Series, score: str) -> list[str]:
    table = result.null_frame()
    nulls = table[(table["score"] == score) & table["change"].notna()]
    if not len(nulls):
        return []
    parts = [
        f"{MEANING[str(kind)]} {_range(rows['change'], digits=4, sign='+')}"
        for kind, rows in nulls.groupby("null", sort=False)
    ]
    n_seeds = nulls.groupby("null").size().max()
    meaning = {
        "beyond": "the whole interval is farther from 0 than any of them",
        "other way": "none goes as far in the same direction, but one does in the other",
        "not beyond": "so a change of this size is there with nothing taught, too",
    }[series_reach(result, score)]
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}, n = {nulls['n'].max()}"
    return [f"Under null controls it changes by: {'; '.join(parts)} ({seeds}); {meaning}."]


def _change_sentence(result: Series, row: Any) -> str:
    label = LABELS.get(str(row["score"]), str(row["score"]).replace("_", " "))
    if not np.isfinite(row["change"]):
        return f"{label}: no prompt fits the context at two numbers of {result.x_name}."
    at = f"from {row['first']:.0f} to {row['last']:.0f} {result.x_name}"
    change = interval(row["change"], row["change_low"], row["change_high"], digits=4, sign="+")
    numbers = f"{change}, n = {row['n']}"
    if row["change_low"] > 0:
        return f"{label} rises {at} ({numbers})."
    if row["change_high"] < 0:
        return f"{label} falls {at} ({numbers})."
    return f"{label}: no change shown {at} ({numbers})."
