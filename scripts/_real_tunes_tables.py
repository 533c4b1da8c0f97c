"""The tables of the page of `real_tunes.py`."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

import tuco_lens as tl
from scripts._real_tunes_found import (
    BASELINES,
    FINAL,
    OTHERS,
    STAGE_1,
    Found,
    areas,
    better,
    classes_of,
    corrected,
    is_reversed,
    means,
    noise_rows,
    seed_rows,
    spearman_rows,
)
from scripts.real_tunes import NULL_OF, TUNES
from tuco_lens.stats import AucDifference, auc, mean_interval, paired_difference
from tuco_lens.stats.words import Interval, with_ends


def ends(estimate: Interval, digits: int = 4, sign: str = "") -> str:
    """A number with its interval."""
    return f"{estimate.value:{sign}.{digits}f} [{estimate.low:{sign}.{digits}f}, {estimate.high:{sign}.{digits}f}]"


def means_table(found: Found) -> pd.DataFrame:
    """A row per tune and null control: mean TuCo of every group."""
    groups = found.comparison.group_names
    return pd.DataFrame(
        {"tune": name, **dict(zip(groups, map(ends, row), strict=True))} for name, row in means(found).items()
    )


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


def spearman_table(found: Found) -> pd.DataFrame:
    """Spearman's ρ of TuCo with the simpler scores."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for name, group, other, rho in spearman_rows(found):
        cells.setdefault((name, group), {})[f"ρ with {other}"] = with_ends(rho, sign="+")
    return pd.DataFrame({"tune": name, "prompts": group, **row} for (name, group), row in cells.items())


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
        classes = classes_of(found, values, other)
        rows[name, other] = {"TuCo": _area(auc(*better(classes)), is_reversed(classes))}
    columns = ["tune", "logos against", "TuCo", *BASELINES, *(f"TuCo − {score}" for score in BASELINES)]
    listed = [{"tune": tune, "logos against": other, **cells} for (tune, other), cells in rows.items()]
    return pd.DataFrame(listed, columns=pd.Index(columns)).fillna("")
