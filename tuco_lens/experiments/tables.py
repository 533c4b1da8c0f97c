"""The tables of a result as they are shown: columns combined, numbers rounded, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tuco_lens.attacks.gcg import GRADIENT_COST
from tuco_lens.experiments.comparison import Comparison
from tuco_lens.experiments.nulls import MEANING
from tuco_lens.experiments.scores import LABELS
from tuco_lens.experiments.series import Series
from tuco_lens.stats.words import outward
from tuco_lens.sweep.result import SweepResult

if TYPE_CHECKING:
    from tuco_lens.experiments.registry import Result

Table = tuple[str, list[str], list[list[str]]]
"""Caption, headings, rows."""

MISSING = "–"


def tables_of(result: Result) -> list[Table]:
    """All tables of a result, as text."""
    if isinstance(result, Comparison):
        return [*_auc_tables(result), _null_table(result), *_search_tables(result)]
    if isinstance(result, Series):
        return [_change_table(result), *_series_null_tables(result), _mean_table(result)]
    if isinstance(result, SweepResult):
        return [_sweep_table(result, "group"), _sweep_table(result, "task")]
    raise TypeError(f"no tables of a {type(result).__name__}")


def _auc_tables(result: Comparison) -> Iterator[Table]:
    headings = ["score", "n", "AUC (95 %)", "p", "TPR at FPR 5 %", "TuCo − score (95 %)", "p"]
    for contrast in result.contrasts:
        rows = result.table[result.table["contrast"] == contrast.name]
        yield (
            f"{contrast.name} (positive: {contrast.positive})",
            headings,
            [_auc_row(row) for _, row in rows.iterrows()],
        )


def _auc_row(row: Any) -> list[str]:
    label = LABELS[str(row["score"])] + (" (reversed)" if row["reversed"] else "")
    counts = f"{row['n_positive']} + {row['n_negative']}"
    return [
        label,
        counts,
        interval(row["auc"], row["low"], row["high"]),
        p_text(row["p"]),
        interval(row["tpr"], row["tpr_low"], row["tpr_high"]),
        interval(row["difference"], row["difference_low"], row["difference_high"], sign="+"),
        p_text(row["difference_p"]),
    ]


def _null_table(result: Comparison) -> Table:
    headings = ["contrast", "null control", "seed", "n", "AUC (95 %)"]
    rows = [
        [
            str(row["contrast"]),
            MEANING[str(row["null"])],
            str(row["seed"]),
            f"{row['n_positive']} + {row['n_negative']}",
            interval(row["auc"], row["low"], row["high"]),
        ]
        for _, row in result.null_table.iterrows()
    ]
    return "Null controls; for permuted labels, where 95 % of the permutations lie", headings, rows


def _search_tables(result: Comparison) -> Iterator[Table]:
    """How the search for each attack string went, beside random search; nothing of what older files do not hold."""
    found, by_chance = (result.facts.get(name, []) for name in ("attacks", "random search"))
    if not by_chance:
        return
    headings = ["string", "loss at the start", "GCG: loss", "reached", "strings evaluated"]
    headings += ["random search: loss", "reached", "strings evaluated"]
    rows = [
        [str(i), f"{ours['first_loss']:.3f}", *_searched(ours), *_searched(theirs)]
        for i, (ours, theirs) in enumerate(zip(found, by_chance, strict=True), 1)
    ]
    yield f"Search for attack strings, nats per token; a gradient costs {GRADIENT_COST} evaluations", headings, rows


def _searched(search: Any) -> list[str]:
    return [f"{search['loss']:.3f}", "yes" if search["reached"] else "no", str(search["n_evaluated"])]


def _series_null_tables(result: Series) -> Iterator[Table]:
    nulls = result.null_frame()
    if not len(nulls):
        return
    headings = ["null control", "seed", "score", "n", "change (95 %)", "per doubling (95 %)"]
    rows = [
        [
            MEANING[str(row["null"])],
            str(row["seed"]),
            _score_name(str(row["score"])),
            str(row["n"]),
            *_change_cells(row),
        ]
        for _, row in nulls.iterrows()
    ]
    yield "The same change under null controls, over all sets", headings, rows


def _change_cells(row: Any) -> list[str]:
    return [
        interval(row[name], row[f"{name}_low"], row[f"{name}_high"], digits=4, sign="+") for name in ("change", "slope")
    ]


def _change_table(result: Series) -> Table:
    headings = ["set", "score", "n", "from", "to", "change (95 %)", "per doubling (95 %)", "p"]
    rows = [
        [
            str(row["set"]),
            _score_name(str(row["score"])),
            str(row["n"]),
            _whole(row["first"]),
            _whole(row["last"]),
            *_change_cells(row),
            p_text(row["change_p"]),
        ]
        for _, row in result.change_frame().iterrows()
        if row["score"] != "n_tokens" and not (len(result.sets) == 1 and row["set"] != "all")
    ]
    return f"Change with the number of {result.x_name}, prompt by prompt", headings, rows


def _mean_table(result: Series) -> Table:
    frame = result.to_frame()
    frame = frame[frame["set"] == "all"]
    headings = [result.x_name, "n", *(f"{_score_name(score)} (95 %)" for score in result.score_keys)]
    rows: list[list[str]] = []
    for x, group in frame.groupby("x", sort=True):
        by_score = {str(row["score"]): row for _, row in group.iterrows()}
        cells = [
            interval(r["mean"], r["low"], r["high"], digits=4)
            for r in map(by_score.get, result.score_keys)
            if r is not None
        ]
        rows.append([str(x), str(int(group["n"].max())), *cells])
    return "Means over all prompts", headings, rows


def _sweep_table(result: SweepResult, by: Any) -> Table:
    headings = [by, "n", "accuracy at α = 1", "Δ maximised (95 %)", "p (Holm)", "Δ minimised (95 %)", "p (Holm)"]
    rows: list[list[str]] = []
    for _, row in result.cross_validated(by).iterrows():
        cells = [str(row[by]), str(row["n"]), f"{100 * row['accuracy']:.1f} %"]
        for short in ("max", "min"):
            values = (100 * row[f"{short}_{name}"] for name in ("delta", "low", "high"))
            cells += [interval(*values, digits=2, sign="+"), p_text(row[f"{short}_p_holm"])]
        rows.append(cells)
    return f"Out-of-fold change of accuracy in points, by {by}", headings, rows


def interval(value: float, low: float, high: float, *, digits: int = 3, sign: str = "") -> str:
    """ "0.953 [0.921, 0.972]" with the ends rounded outward, or a dash if there is no value."""
    if not math.isfinite(value):
        return MISSING
    if not math.isfinite(low):
        return f"{value:{sign}.{digits}f} (no interval)"
    low, high = outward(low, high, digits)
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def p_text(p: float) -> str:
    """A p-value with two significant digits, or "< 0.001"; a dash if there is none."""
    if not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else MISSING


def _score_name(score: str) -> str:
    return LABELS.get(score, score.replace("_", " "))
