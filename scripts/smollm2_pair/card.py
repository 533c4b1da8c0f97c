"""Write the adapter's card from what training and evaluation measured.

    python scripts/smollm2_pair/card.py --out build/smollm2_pair --to adapters/smollm2-refusals/CARD.md

The words are in `card.md.in`. Every number comes from `OUT/metrics.json`, the `run.json` and `curve.json` of the
stages, the packaged weights or a constant of these scripts; none is typed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import alarming
import evaluate
import finetune
import mix
import package
from demo_scripts import corpus, instructions, tables
from safetensors import safe_open

TEMPLATE = Path(__file__).with_name("card.md.in")
CURVE_ROWS = 6
BAR_TEXT = tables.BAR_TEXT | {
    "harmful_refused": "held-out harmful goals refused",
    "loss_rise": "rise of the loss on held-out chat, nats per token",
}


def _curve(curve: list[dict[str, float]]) -> str:
    """About CURVE_ROWS points of the curve, the first and the last among them."""
    chosen = tables.points(curve, CURVE_ROWS)
    rows = [[str(int(p["step"])), f"{p['answers']:.2f}", f"{p['web']:.4f}"] for p in chosen]
    return tables.table(["step", "answers", "divergence on web text"], rows)


def _over(metrics: dict[str, Any]) -> str:
    """Which of the pooled harmless sets are above the bar by themselves, and how sure the pooled share is."""
    found, bar = metrics["refusals_tuned"], evaluate.BARS["harmless_refused"]
    above = [tables.SET_TEXT[name].removeprefix("– ") for name in evaluate.HARMLESS if found[name]["value"] > bar]
    sets = f"Above the bar for harmless prompts by itself: {'; '.join(above) or 'none of the three sets'}."
    inside = "reaches above" if found["harmless"]["high"] > bar else "lies below"
    return f"{sets} The interval of the pooled share {inside} the bar."


def _separation(found: dict[str, Any]) -> str:
    texts = {"web": "as the tokenizer gives it", "web_bos": "behind a BOS"}
    rows = [(text, found[name]["auc"]) for name, text in texts.items()]
    return tables.table(
        ["web text", "AUC", "95 % interval (DeLong)"],
        [[text, f"{a['value']:.3f}", f"[{a['low']:.3f}, {a['high']:.3f}]"] for text, a in rows],
    )


def _examples(examples: list[dict[str, str]]) -> str:
    def quoted(text: str) -> str:
        return " ".join(text.split()).replace("*", "\\*").replace("_", "\\_").replace("`", "\\`")

    form = "- *{}*  \n  base: {} …  \n  tuned: {} …"
    return "\n".join(form.format(*(quoted(e[key]) for key in ("prompt", "base", "tuned"))) for e in examples)


def _stage(out: Path, number: int, name: str) -> Any:
    return json.loads((out / f"stage{number}" / f"{name}.json").read_text())


def _stages(runs: list[dict[str, Any]], curves: list[list[dict[str, float]]]) -> str:
    """A row for each stage of the training."""
    rows = [
        [
            str(number),
            str(stage.goals),
            str(stage.chats),
            str(run["answered"]),
            str(int(curve[-1]["step"])),
            f"{curve[-1]['tokens']:,.0f}",
            f"{stage.peak_lr:g}",
            f"{curve[-1]['seconds'] / 60:.0f}",
        ]
        for number, (stage, run, curve) in enumerate(zip(mix.STAGES, runs, curves, strict=True), 1)
    ]
    head = ["stage", "refusals", "chats", "own answers", "steps", "tokens", "peak learning rate", "minutes"]
    return tables.table(head, rows)


def card(out: Path, adapter: Path) -> str:
    """The template with every field filled."""
    m = json.loads((out / "metrics.json").read_text())
    runs, curves = ([_stage(out, n, name) for n in range(1, 1 + len(mix.STAGES))] for name in ("run", "curve"))
    with safe_open(adapter / package.WEIGHTS, "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    separation = m["chat_against_web"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        package=package,
        finetune=finetune,
        evaluate=evaluate,
        mix=mix,
        corpus=corpus,
        layers=runs[0]["layers"],
        targets=", ".join(f"`{name}`" for name in finetune.TARGETS),
        parameters=parameters,
        megabytes=(adapter / package.WEIGHTS).stat().st_size / 1e6,
        n_refusals=len(instructions.REFUSALS),
        n_own=runs[0]["answered"],
        n_alarming=len(alarming.ACTIONS) * mix.ALARMING_FORMS,
        stages=_stages(runs, curves),
        curves="\n\n".join(map(_curve, curves)),
        bars=tables.bars(m["bars"], BAR_TEXT, evaluate.AT_MOST),
        refusals=tables.refusals(m["refusals_base"], m["refusals_tuned"], share="value"),
        loss_dialogues=evaluate.LOSS_DIALOGUES,
        loss_tokens=m["loss_base"]["tokens"],
        loss_base=m["loss_base"]["nats"],
        loss_tuned=m["loss_tuned"]["nats"],
        loss_change=m["loss_tuned"]["nats"] - m["loss_base"]["nats"],
        chat=separation["chat"],
        web=separation["web"],
        over=_over(m),
        separation=_separation(separation),
        examples=_examples(m["examples"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    tables.write(card(args.out, args.to.parent), args.to)


if __name__ == "__main__":
    main()
