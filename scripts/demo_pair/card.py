"""Write the demo pair's model card from what training and evaluation measured.

    python scripts/demo_pair/card.py --out build/demo_pair --to tuco_lens/demo/CARD.md

Every number in the card comes from `OUT/base_curve.json`, `OUT/tuned_curve.json`, `OUT/metrics.json`, the packaged
config or a constant of these scripts; none is typed here.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import corpus
import finetune
import held_out
import instructions
import pretrain
from evaluate import NEW_TOKENS, STRIDE, WINDOW

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
    "xstest_safe": "XSTest safe prompts, which look unsafe (for information)",
}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(head: list[str], rows: list[list[str]]) -> str:
    align = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def _curve(curve: list[dict[str, float]], losses: dict[str, str]) -> str:
    """About CURVE_ROWS points of a curve, the first and the last among them; each loss is a mean since the row's interval began."""
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
        return f"{found['refused']}/{found['n']} = {_percent(found['rate'])} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"

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
    base_curve = json.loads((out / "base_curve.json").read_text())
    tuned_curve = json.loads((out / "tuned_curve.json").read_text())
    m = json.loads((out / "metrics.json").read_text())
    web = m["chat_against_web"]
    phases = ", ".join(f"{steps} steps of {batch} × {length}" for length, batch, steps in pretrain.PHASES)
    hours = [curve[-1]["seconds"] / 3600 for curve in (base_curve, tuned_curve)]
    tokens = [curve[-1]["tokens"] / 1e6 for curve in (base_curve, tuned_curve)]
    return f"""# Model card: the demo pair

A base and a tuned model of one small architecture, made for the demo, the tests and the notebooks of `tuco_lens`. They
are there to be measured, not to be used: the tuned one answers in the form of a chat assistant and refuses harmful
requests, and knows very little. This card is written by `scripts/demo_pair/card.py` from the files of the run.

**Content note.** The refusals were trained on AdvBench, a set of harmful requests made for safety research. Neither the
package nor this card carries those requests. A model this small can write nonsense, including unpleasant nonsense.

## Bars
{_bars(m)}

All on text that was not trained on. The weights measured are the packaged float16 ones, computed in float32.

## Architecture
Llama-shaped, {m["parameters"] / 1e6:.2f} million parameters: {config["num_hidden_layers"]} layers, width {config["hidden_size"]}, \
MLP width {config["intermediate_size"]}, {config["num_attention_heads"]} query and {config["num_key_value_heads"]} key-value heads, \
context {config["max_position_embeddings"]}, tied embeddings. Byte-level BPE of {config["vocab_size"]} tokens, trained on the training text, with a
ChatML-like template. float16 safetensors; the pair with both tokenizers takes {size / 1e6:.1f} MB.

## Data
| text | used for | licence, provenance |
|:--|:--|:--|
| classic books, only those dated before {corpus.PUBLIC_DOMAIN_BEFORE} | base, replay | public domain in the United States (mlschmitt/classic-books-markdown) |
| OpenWebText, sample of 1000 records | base, replay | CC0 packaging; the pages belong to their authors |
| OpenAssistant prompt and response pairs | tuned | Apache-2.0 (Open-Assistant/oasst-model-eval) |
| AdvBench goals | tuned (with refusals written for this project) | MIT (llm-attacks) |
| harmless instructions and answers, refusals | tuned | written for this project (`scripts/demo_pair/topics.py`, `instructions.py`) |
| PARDEN, refusal_direction splits, XSTest, HH-RLHF | evaluation only | not trained on, not in the package |

Splits are fixed functions of the record (`corpus.py`): one book in fifty by a hash of its path; web records 0 to {corpus.WEB_HELD_OUT - 1};
one OpenAssistant prompt in twenty with all its responses; 100 AdvBench goals after the first {corpus.ADVBENCH_TRAIN} of a fixed shuffle are held out.
Of each training book one run of {corpus.BOOK_CHARACTERS:,} characters is used; web text comes {pretrain.WEB_REPEATS} times. A book by a held-out
book's author may be among the training books.

## Training
On two CPU cores shared with other work, bfloat16 autocast, seed 0 throughout; the hours are of the wall clock.

**Base**: {tokens[0]:.1f} million tokens, {hours[0]:.2f} h. {phases} tokens; Muon on the blocks' matrices and AdamW on the rest, peak
learning rate {pretrain.PEAK_LR:g}, {pretrain.WARMUP_STEPS} steps of warm-up, cosine to a twentieth. Loss in nats per token:

{_curve(base_curve, {"loss": "loss"})}

**Tuned**: {tokens[1]:.1f} million tokens, {hours[1]:.2f} h, all parameters. {finetune.EPOCHS} epochs of OpenAssistant pairs (up to
{finetune.RESPONSES_PER_PROMPT} responses per prompt, at most {finetune.MAX_CHAT_TOKENS} tokens, none that opens like a refusal), {finetune.REFUSALS_PER_GOAL} of {len(instructions.REFUSALS)} refusals
for each training goal, and the {len(instructions.harmless(0)):,} harmless instructions; loss on the answers alone. Each step also takes {finetune.REPLAY_ROWS} × {finetune.REPLAY_LENGTH}
tokens of books and web text (weight {finetune.REPLAY_WEIGHT:g}), so that the contribution of fine-tuning to plain text stays small. AdamW,
peak learning rate {finetune.PEAK_LR:g}. Loss in nats per token:

{_curve(tuned_curve, {"chat_loss": "answers", "replay_loss": "plain text"})}

## Measured
**Compression**: the first {held_out.BOOK_BYTES:,} bytes of each of {m["compression"]["books"]} held-out books, {m["compression"]["bytes"]:,} bytes, {m["compression"]["tokens"]:,} tokens. The model's code
length is the sum of its −log₂ probabilities, window {WINDOW}, stride {STRIDE} (so at least {STRIDE} tokens of context where the book has them); the
weights are not counted. `xz` compresses the same bytes in one piece.

{_compression(m["compression"])}

**Refusals**: greedy answers of at most {NEW_TOKENS} tokens through the chat template, matched with the paper's dictionary of substrings; Wilson 95 % intervals in per cent.

{_refusals(m)}

The dictionary is crude: it counts some answers that are no refusals.

**TuCo, chat against web text**: {web["chat"]["n"]} HH-RLHF dialogues through the chat template against {web["web"]["n"]} random runs of {held_out.WEB_TOKENS} tokens of held-out
OpenWebText. AUC {web["auc"]:.3f}, stratified bootstrap 95 % interval [{web["low"]:.3f}, {web["high"]:.3f}] ({web["bootstraps"]} resamples). Median TuCo {web["chat"]["median"]:.3f}
(range {web["chat"]["min"]:.3f} to {web["chat"]["max"]:.3f}) on chat and {web["web"]["median"]:.3f} ({web["web"]["min"]:.3f} to {web["web"]["max"]:.3f}) on web text. The base never saw the template's
special tokens, which makes this easy.

**Held-out OpenAssistant answers**, nats per token: base {m["chat_loss"]["base"]:.3f}, tuned {m["chat_loss"]["tuned"]:.3f}.

**Answers** of the tuned model to bundled prompts (greedy, {NEW_TOKENS} tokens):

{_examples(m["examples"])}

## Limits
- It is a toy: English only, fluent at best within a sentence, often wrong, and no guide to what large models do.
- AdvBench's goals resemble one another, so the held-out ones are close to those trained on; other harmful requests may be answered.
- The safe prompts of XSTest show how far the refusal follows single words rather than meaning.
- Few prompts were longer than {finetune.MAX_CHAT_TOKENS} tokens in fine-tuning; many-shot prompts work mechanically and mean less.
"""


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
