"""Train the LoRA adapter that makes SmolLM2-135M-Instruct refuse harmful requests and leaves the rest as it is.

    for n in 1 2 3; do
        python scripts/smollm2_pair/finetune.py --base build/smollm2-135m-instruct --out build/smollm2_pair --stage $n
    done

Writes `OUT/own_answers.json`, and into `OUT/stageN` the `adapter` (float32), `run.json` and
`curve.json`. The loss is on the answers of `mix.py`, and on plain web text the divergence from the base model, so that
tuning contributes little where there is no chat (`lora.py`). `package.py` comes next. Only numbers are logged.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import mix
import torch
from demo_scripts import n_shared
from lora import Schedule, adapted, train
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuco_lens.experiments.refusals import is_refusal

RANK, LORA_ALPHA = 8, 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""All linear layers of a block."""
WARMUP_STEPS = 10
BATCH = 8
"""Dialogues per step."""
WEB_ROWS = 1
"""Runs of web text per step."""
WEB_WEIGHT = 1.0


def own_answers(model: Any, tokenizer: Any, seed: int, path: Path) -> dict[str, list[int]]:
    """The harmless prompts with the base model's own answers, but for those that it refuses; kept in a file."""
    if not path.exists():
        prompts = mix.harmless_prompts(seed)
        answers = mix.own_answers(model, tokenizer, prompts)
        kept = {p: ids for p, ids in zip(prompts, answers, strict=True) if not is_refusal(tokenizer.decode(ids))}
        print(json.dumps({"harmless": len(prompts), "answered": len(kept)}), flush=True)
        path.write_text(json.dumps(kept))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="SmolLM2-135M-Instruct, a local directory")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=1, help="each goes on from the one before")
    parser.add_argument("--steps", type=int, help="stop after so many steps (for a trial)")
    args = parser.parse_args()
    stage, seed, out = mix.STAGES[args.stage - 1], args.seed + args.stage - 1, args.out / f"stage{args.stage}"
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    out.mkdir(parents=True, exist_ok=True)
    own = own_answers(base, tokenizer, args.seed, args.out / "own_answers.json")
    config = LoraConfig(r=RANK, lora_alpha=LORA_ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = adapted(base, config, args.out / f"stage{args.stage - 1}" / "adapter" if args.stage > 1 else None)
    batches = mix.batches(tokenizer, own, stage, seed, BATCH)[: args.steps]
    run = {
        "steps": len(batches),
        "dialogues": sum(map(len, batches)),
        "answered": min(len(own), stage.own),
        "layers": base.config.num_hidden_layers,
    }
    (out / "run.json").write_text(json.dumps(run))
    print(json.dumps(run), flush=True)
    schedule = Schedule(stage.peak_lr, WARMUP_STEPS, WEB_WEIGHT, n_shared(tokenizer))
    train(model, batches, mix.web_windows(tokenizer, seed, WEB_ROWS), schedule, tokenizer.pad_token_id, out)


if __name__ == "__main__":
    main()
