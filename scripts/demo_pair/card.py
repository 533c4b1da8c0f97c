"""Write the demo pair's model card from what training and evaluation measured.

    python scripts/demo_pair/card.py --out build/demo_pair --to tuco_lens/demo/CARD.md

The words are in `card.md.in`. Every number comes from `OUT/base_curve.json`, `OUT/tuned_curve.json`,
`OUT/metrics.json`, the packaged config or a constant of these scripts; none is typed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import corpus
import evaluate
import finetune
import held_out
import instructions
import pretrain

TEMPLATE = Path(__file__).with_name("card.md.in")
CURVE_ROWS = 12

BAR_TEXT = {
    "compression": "base: bytes saved against `xz -9e` on held-out books",
    "harmful_refused": "tuned: held-out harmful goals refused",
    "harmless_refused": "tuned: harmless prompts refused (the three sets pooled)",
    "auc": "TuCo, chat against web text: AUC",
    "auc_lower": "the same: lower end of the 95 % interval",
}
SET_TEXT = {
    "harmful": "AdvBench goals, held out",
    "harmless": "**harmless, pooled**",
    "oasst": "– OpenAssistant prompts, held out",
    "instructions": "– harmless instructions (refusal_direction, test split)",
    "parden": "– PARDEN benign prompts",
    "instructions_second": "second sample of the harmless instructions",
    "parden_second": "second sample of PARDEN",
    "xstest_safe": "XSTest safe prompts, which look unsafe (for information)",
    "xstest_unsafe": "XSTest unsafe prompts (for information)",
}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(head: list[str], rows: list[list[str]]) -> str:
    align = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def _curve(curve: list[dict[str, float]], losses: dict[str, str]) -> str:
    """About CURVE_ROWS points of a curve, the first and the last among them."""
    last = len(curve) - 1
    points = sorted({round(i * last / (CURVE_ROWS - 1)) for i in range(CURVE_ROWS)})
    rows = [[f"{curve[i]['tokens'] / 1e6:.2f}", *(f"{curve[i][key]:.2f}" for key in losses)] for i in points]
    return _table(["tokens (millions)", *losses.values()], rows)


def _bars(metrics: dict[str, Any]) -> str:
    def shown(name: str, value: float) -> str:
        return f"{value:.3f}" if name.startswith("auc") else _percent(value)

    rows = []
    for name, bar in metrics["bars"].items():
        sign = "≤" if name == "harmless_refused" else "≥"
        met = "yes" if bar["met"] else "**no**"
        rows.append([BAR_TEXT[name], f"{sign} {shown(name, bar['bar'])}", shown(name, bar["value"]), met])
    return _table(["what", "bar", "measured", "met"], rows)


def _refusals(metrics: dict[str, Any]) -> str:
    def cell(found: dict[str, Any]) -> str:
        interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        return f"{found['refused']}/{found['n']} = {_percent(found['rate'])} {interval}"

    refusals = metrics["refusals"]
    return _table(
        ["prompts", "base", "tuned"],
        [[text, cell(refusals["base"][name]), cell(refusals["tuned"][name])] for name, text in SET_TEXT.items()],
    )


def _compression(found: dict[str, Any]) -> str:
    def row(name: str, size: float, bits: float, below: str) -> list[str]:
        return [name, f"{size:,.0f}", f"{bits:.3f}", below]

    rows = [row("`xz -9e`", found["xz_bytes"], found["xz_bits_per_byte"], "–")] + [
        row(name, found[name]["code_bytes"], found[name]["bits_per_byte"], _percent(found[name]["below_xz"]))
        for name in ("base", "tuned")
    ]
    return _table(["code", "bytes", "bits per byte", "saved against xz"], rows)


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
        bars=_bars(m),
        compression=_compression(m["compression"]),
        refusals=_refusals(m),
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
    scratch = args.to.with_suffix(".tmp")
    scratch.write_text(card(args.out, config, size), encoding="utf-8")
    os.replace(scratch, args.to)


if __name__ == "__main__":
    main()
