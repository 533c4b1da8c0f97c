"""Pre-train the demo pair's base model, on a CPU, with fixed seeds.

    python scripts/demo_pair/pretrain.py --out build/demo_pair

Writes `OUT/tokenizer`, `OUT/base` (float32) and `OUT/base_curve.json`. `finetune.py` comes next.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import corpus
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# (tokens per sequence, sequences per step, steps): short first, then long enough for many-shot prompts.
PHASES = ((256, 32, 1500), (1024, 8, 220), (2048, 4, 40))
PEAK_LR = 4e-3
WARMUP_STEPS = 60
WEB_REPEATS = 3


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def token_stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> torch.Tensor:
    """All training documents, each behind a BOS, in random order as one row of ids."""
    documents = corpus.book_chunks(seed) + corpus.web_documents(held_out=False) * WEB_REPEATS
    # Chunks of a few thousand characters mix books and web text within a step.
    pieces = [text[i : i + 6000] for text in documents for i in range(0, len(text), 6000)]
    random.Random(seed).shuffle(pieces)
    ids = [i for encoding in tokenizer(pieces)["input_ids"] for i in encoding]
    return torch.tensor(ids, dtype=torch.int32)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=PEAK_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def lr_factor(step: int, total: int) -> float:
    """Linear warm-up, then cosine to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def next_token_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def train(model: LlamaForCausalLM, stream: torch.Tensor, curve_path: Path) -> None:
    opts = optimizers(model)
    total = sum(steps for _, _, steps in PHASES)
    curve: list[dict[str, float]] = []
    step, cursor, start = 0, 0, time.time()
    for length, batch, steps in PHASES:
        micro = max(1, batch // max(1, batch * length // 4096))  # about 4,096 tokens at once fit the cache
        for _ in range(steps):
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = PEAK_LR * lr_factor(step, total)
            need = batch * (length + 1)
            rows = stream[cursor : cursor + need].view(batch, length + 1).long()
            cursor += need
            loss_sum = 0.0
            for part in rows.split(micro):
                loss = next_token_loss(model, part) * len(part) / batch
                loss.backward()
                loss_sum += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step += 1
            if step % 20 == 0 or step == total:
                curve.append({"step": step, "tokens": cursor, "loss": loss_sum, "seconds": time.time() - start})
                curve_path.write_text(json.dumps(curve))
                if step % 100 == 0:
                    model.save_pretrained(curve_path.parent / "base_partial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if not (args.out / "tokenizer").exists():
        corpus.train_tokenizer(args.out / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out / "tokenizer")
    stream = token_stream(tokenizer, args.seed)
    need = sum(length * batch * steps for length, batch, steps in PHASES)
    if len(stream) < need:
        raise SystemExit(f"the corpus has {len(stream)} tokens and the schedule needs {need}")
    model = build_model(tokenizer)
    train(model, stream, args.out / "base_curve.json")
    model.save_pretrained(args.out / "base")
    tokenizer.save_pretrained(args.out / "base")


if __name__ == "__main__":
    main()
