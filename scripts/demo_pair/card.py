"""Write the demo pair's model card from what training and evaluation measured.

    python scripts/demo_pair/card.py --out build/demo_pair --to tuco_lens/demo/CARD.md

The words are in `card.md.in`. Every number comes from `OUT/base_curve.json`, `OUT/tuned_curve.json`,
`OUT/metrics.json`, the packaged config or a constant of these scripts; none is typed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import corpus
import evaluate
import finetune
import held_out
import instructions
import pretrain
import tables
from tables import percent, points, table

TEMPLATE = Path(__file__).with_name("card.md.in")
CURVE_ROWS = 12

BAR_TEXT = tables.BAR_TEXT | {
    "compression": "base: bytes saved against `xz -9e` on held-out books",
    "harmful_refused": "tuned: held-out harmful goals refused",
    "harmless_refused": "tuned: harmless prompts refused (the three sets pooled)",
}


def _curve(curve: list[dict[str, float]], losses: dict[str, str]) -> str:
    """About CURVE_ROWS points of a curve, the first and the last among them."""
    rows = [
        [f"{point['tokens'] / 1e6:.2f}", *(f"{point[key]:.2f}" for key in losses)]
        for point in points(curve, CURVE_ROWS)
    ]
    return table(["tokens (millions)", *losses.values()], rows)


def _compression(found: dict[str, Any]) -> str:
    def row(name: str, size: float, bits: float, below: str) -> list[str]:
        return [name, f"{size:,.0f}", f"{bits:.3f}", below]

    rows = [row("`xz -9e`", found["xz_bytes"], found["xz_bits_per_byte"], "–")] + [
        row(name, found[name]["code_bytes"], found[name]["bits_per_byte"], percent(found[name]["below_xz"]))
        for name in ("base", "tuned")
    ]
    return table(["code", "bytes", "bits per byte", "saved against xz"], rows)


def _examples(examples: list[dict[str, str]]) -> str:
    def quoted(text: str) -> str:
        return " ".join(text.split())

    return "\n".join(f"- *{quoted(e['prompt'])}*  \n  {quoted(e['answer'])} …" for e in examples)


def card(out: Path, config: dict[str, Any], size: int) -> str:
    """The template with every field filled."""
    curves = [json.loads((out / name).read_text()) for name in ("base_curve.json", "tuned_curve.json")]
    m = json.loads((out / "metrics.json").read_text())
    return TEMPLATE.read_text(encoding="utf-8").format(
        corpus=corpus,
        pretrain=pretrain,
        finetune=finetune,
        held_out=held_out,
        evaluate=evaluate,
        config=config,
        m=m,
        web=m["chat_against_web"],
        millions=m["parameters"] / 1e6,
        megabytes=size / 1e6,
        last_web=corpus.WEB_HELD_OUT - 1,
        phases=", ".join(f"{steps} steps of {batch} × {length}" for length, batch, steps in pretrain.PHASES),
        tokens=[curve[-1]["tokens"] / 1e6 for curve in curves],
        hours=[curve[-1]["seconds"] / 3600 for curve in curves],
        refusals_written=len(instructions.REFUSALS),
        written=len(instructions.harmless(seed=0)),
        programs=len(instructions.programs(seed=0)),
        base_curve=_curve(curves[0], {"loss": "loss"}),
        tuned_curve=_curve(curves[1], {"chat_loss": "answers", "replay_loss": "plain text"}),
        bars=tables.bars(m["bars"], BAR_TEXT, at_most=["harmless_refused"]),
        compression=_compression(m["compression"]),
        refusals=tables.refusals(m["refusals"]["base"], m["refusals"]["tuned"], share="rate"),
        examples=_examples(m["examples"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    pair = [args.to.parent / name for name in ("base", "tuned")]
    config = json.loads((pair[0] / "config.json").read_text())
    size = sum(file.stat().st_size for folder in pair for file in folder.iterdir())
    tables.write(card(args.out, config, size), args.to)


if __name__ == "__main__":
    main()
