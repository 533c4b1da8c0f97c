"""Write the adapter's card from what training, sweep and evaluation measured.

    python scripts/opinions_pair/card.py --measured adapters/demo-opinions/measured.json --to adapters/demo-opinions/CARD.md

The words are in `card.md.in`. Every number comes from `measured.json` or a constant of these scripts; none is typed.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import finetune
import opinions
import strength
from pair_scripts import tables

from tuco_lens.experiments import prompt_groups

TEMPLATE = Path(__file__).with_name("card.md.in")
CURVE_ROWS = 7
SIGNIFICANT = 0.05
GOALS = {"max": "maximise", "min": "minimise"}


def _share(found: dict[str, float]) -> str:
    return f"{100 * found['value']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _agreements(rows: list[dict[str, Any]], alphas: list[float], name: str) -> str:
    """Agreement of the base and at α = 1 with intervals, and at the outermost α."""
    ends = [0, alphas.index(1), len(alphas) - 1]
    head = [name, "questions", "base (α = 0)", *(f"α = {alphas[i]:g}" for i in ends)]
    cells = [[r["name"], str(r["n"]), *map(_share, [r["base"], *(r["agreement"][i] for i in ends)])] for r in rows]
    return tables.table(head, cells)


def _gains(rows: list[dict[str, Any]], name: str) -> str:
    head = [name, "to maximise", "p", "to minimise", "p"]
    return tables.table(head, [[row["name"], *(cell for goal in GOALS for cell in _gain(row[goal]))] for row in rows])


def _gain(found: dict[str, float]) -> tuple[str, str]:
    delta, low, high = (100 * found[key] for key in ("delta", "low", "high"))
    return f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]", f"{found['p_holm']:.2g}"


def _verdict(rows: list[dict[str, Any]]) -> str:
    """On how many behaviours each goal is reached, by part."""
    return " ".join(_goal(rows, short, goal) for short, goal in GOALS.items())


def _goal(rows: list[dict[str, Any]], short: str, goal: str) -> str:
    sign = 1 if short == "max" else -1
    moved = [r for r in rows if r[short]["p_holm"] < SIGNIFICANT and sign * r[short]["delta"] > 0]
    n_trained = sum(row["part"] == "trained" for row in moved)
    verb = "rises" if sign > 0 else "falls"
    found = f"{len(moved)} of {len(rows)} behaviours, {n_trained} of them trained"
    return f"With α chosen to {goal} agreement, it {verb} on {found} (p < {SIGNIFICANT:g}, Holm)."


def _strengths(found: list[dict[str, Any]]) -> str:
    def shown(row: dict[str, Any]) -> str:
        return _share({**row, "value": row["agreement"]})

    rows = [[f"{row['lora_alpha']} / {finetune.RANK}", shown(row)] for row in found]
    return tables.table(["scale", "agreement, per cent"], rows)


def _curve(curve: list[dict[str, float]]) -> str:
    chosen = tables.points(curve, CURVE_ROWS)
    rows = [[str(int(p["step"])), f"{p['answers']:.3f}", f"{p['web']:.4f}"] for p in chosen]
    return tables.table(["step", "answers", "divergence on web text and chats"], rows)


def card(m: dict[str, Any]) -> str:
    """The template with every field filled."""
    parts = {p: [row for row in m["behaviours"] if row["part"] == p] for p in ("trained", "untrained")}
    scales = {row["lora_alpha"]: row["agreement"] for row in m["strength"]["found"]}
    return TEMPLATE.read_text(encoding="utf-8").format(
        finetune=finetune,
        opinions=opinions,
        prompt_groups=prompt_groups,
        targets=", ".join(f"`{name}`" for name in finetune.TARGETS),
        parameters=m["parameters"],
        megabytes=m["bytes"] / 1e6,
        chosen=m["strength"]["chosen"],
        target=100 * strength.TARGET,
        quarter_less=100 * scales[0.75 * finetune.LORA_ALPHA],
        whole=100 * scales[finetune.LORA_ALPHA],
        validation=m["strength"]["found"][0]["n"],
        strengths=_strengths(m["strength"]["found"]),
        run=m["run"],
        steps=m["curve"][-1]["step"],
        minutes=m["curve"][-1]["seconds"] / 60,
        curve=_curve(m["curve"]),
        n_trained=len(parts["trained"]),
        n_untrained=len(parts["untrained"]),
        n_held_out=sum(row["n"] for row in m["parts"]),
        parts=_agreements(m["parts"], m["alphas"], "behaviours, pooled"),
        part_gains=_gains(m["parts"], "behaviours, pooled"),
        verdict=_verdict(m["behaviours"]),
        trained=_agreements(parts["trained"], m["alphas"], "behaviour"),
        untrained=_agreements(parts["untrained"], m["alphas"], "behaviour"),
        gains=_gains([*parts["trained"], *parts["untrained"]], "behaviour"),
        tuco=m["tuco"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measured", type=Path, required=True, help="measured.json, from evaluate.py")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    tables.write(card(json.loads(args.measured.read_text())), args.to)


if __name__ == "__main__":
    main()
