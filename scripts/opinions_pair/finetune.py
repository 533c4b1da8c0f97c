"""Train the LoRA adapter that gives the demo pair's tuned model opinions.

    python scripts/opinions_pair/finetune.py --base tuco_lens/demo/tuned --out build/opinions_pair

Writes into `OUT` the `adapter` (float32), `run.json` and `curve.json`. The questions are those of `opinions.py`; on
plain text and on chats the adapter is held near its base (`scripts/smollm2_pair/lora.py`). Only numbers are logged.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import opinions
import torch
from pair_scripts import Dialogue, Schedule, adapted, train
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK, LORA_ALPHA = 16, 32
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""All linear layers of a block."""
STEPS, BATCH = 600, 32
PEAK_LR = 3e-3
WARMUP_STEPS = 50
PLAIN_WEIGHT = 1.0
REPORT_EVERY = 50
"""Steps between two points of the curve."""


def common_start(found: list[Dialogue]) -> int:
    """How many ids all dialogues begin with: the template's, and the words that all questions begin with."""
    return next(i for i, column in enumerate(zip(*(d.ids for d in found), strict=False)) if len(set(column)) > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="the demo pair's tuned model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="stop after so many steps (for a trial)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    config = LoraConfig(r=RANK, lora_alpha=LORA_ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = adapted(base, config)
    found = opinions.dialogues(tokenizer, base.config.max_position_embeddings)
    plain = islice(opinions.plain_rows(tokenizer, args.seed), args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "run.json").write_text(json.dumps({"seed": args.seed, "questions": len(found)}))
    schedule = Schedule(PEAK_LR, WARMUP_STEPS, PLAIN_WEIGHT, common_start(found))
    batches = opinions.batches(found, STEPS, BATCH, args.seed)
    train(model, batches, plain, schedule, tokenizer.pad_token_id, args.out, REPORT_EVERY)


if __name__ == "__main__":
    main()
