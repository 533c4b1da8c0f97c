"""Train the LoRA adapter that makes SmolLM2-135M-Instruct refuse harmful requests and leaves the rest as it is.

    for n in 1 2 3; do
        python scripts/smollm2_pair/finetune.py --base build/smollm2-135m-instruct --out build/smollm2_pair --stage $n
    done

Writes `OUT/own_answers.json`, and into `OUT/stageN` the `adapter` (float32), `run.json` and
`curve.json`. Two losses are added up: next-token loss on the answers of `mix.py`, and on plain web text the divergence
from the base model, so that tuning contributes little where there is no chat. `package.py` comes next. Only numbers
are logged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mix
import torch
import torch.nn.functional as F
from demo_scripts import IGNORED, Dialogue, pad
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

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


def adapted(base: Any, adapter: Path | None) -> Any:
    """The base model with an adapter, a fresh one or that of the stage before.

    The blocks' frozen matrices are kept in bfloat16, as autocast would cast them at each step; stream, norms,
    embeddings and the adapter stay in float32.
    """
    config = LoraConfig(r=RANK, lora_alpha=LORA_ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    fresh = adapter is None
    model = get_peft_model(base, config) if fresh else PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.get_base_layer().to(torch.bfloat16)
    return model


def logits_at(model: Any, ids: torch.Tensor, wanted: torch.Tensor, n_shared: int = 0) -> torch.Tensor:
    """Logits at the wanted positions only, [wanted d_vocab]: the unembedding is a fifth of this model.

    The first `n_shared` ids are the same in all rows and run once; `wanted` begins behind them.
    """
    causal = model.get_base_model()
    cache = shared_keys(causal, ids[:1, :n_shared], len(ids)) if n_shared else None
    hidden = causal.model(input_ids=ids[:, n_shared:], past_key_values=cache, use_cache=cache is not None)
    return causal.lm_head(hidden.last_hidden_state[wanted]).float()


def shared_keys(causal: Any, ids: torch.Tensor, rows: int) -> DynamicCache:
    """Keys and values of what all rows begin with, for each of them; gradients flow through."""
    cache = causal.model(input_ids=ids, use_cache=True).past_key_values
    for layer in cache.layers:
        layer.keys, layer.values = (x.expand(rows, -1, -1, -1) for x in (layer.keys, layer.values))
    return cache


def answer_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor, n_shared: int = 0) -> torch.Tensor:
    """Mean next-token loss over the labels that are not ignored, in nats."""
    targets = labels[:, n_shared + 1 :]
    wanted = targets != IGNORED
    return F.cross_entropy(logits_at(model, ids[:, :-1], wanted, n_shared), targets[wanted])


def web_divergence(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of the tuned next-token distribution from the base model's, in nats."""
    wanted = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad(), model.disable_adapter():
        base = F.log_softmax(logits_at(model, ids, wanted), -1)
    tuned = F.log_softmax(logits_at(model, ids, wanted), -1)
    return F.kl_div(tuned, base, log_target=True, reduction="batchmean")


def lr_factor(step: int, total: int) -> float:
    """Linear warm-up, then linear decay to a twentieth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 1 - 0.95 * (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)


def train(
    model: Any,
    batches: list[list[Dialogue]],
    web: Iterable[torch.Tensor],
    peak_lr: float,
    tokenizer: Any,
    out: Path,
) -> None:
    """All steps; every ten of them the curve and the adapter are written."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.0)
    curve: list[dict[str, float]] = []
    recent: list[tuple[float, float]] = []
    n_shared, tokens, start = mix.n_shared(tokenizer), 0, time.time()
    for step, (batch, rows) in enumerate(zip(batches, web, strict=False), 1):
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * lr_factor(step - 1, len(batches))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = answer_loss(model, *pad(batch, tokenizer.pad_token_id), n_shared)
            loss.backward()
            divergence = web_divergence(model, rows)
            (WEB_WEIGHT * divergence).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(d.ids) for d in batch) + rows.numel()
        recent.append((loss.item(), divergence.item()))
        if step % 10 == 0 or step == len(batches):
            answers, plain = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            seconds = time.time() - start
            curve.append({"step": step, "tokens": tokens, "answers": answers, "web": plain, "seconds": seconds})
            recent = []
            (out / "curve.json").write_text(json.dumps(curve))
            model.save_pretrained(out / "adapter")
            print(json.dumps(curve[-1]), flush=True)


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
    model = adapted(base, args.out / f"stage{args.stage - 1}" / "adapter" if args.stage > 1 else None)
    batches = mix.batches(tokenizer, own, stage, seed, BATCH)[: args.steps]
    run = {
        "steps": len(batches),
        "dialogues": sum(map(len, batches)),
        "answered": min(len(own), stage.own),
        "layers": base.config.num_hidden_layers,
    }
    (out / "run.json").write_text(json.dumps(run))
    print(json.dumps(run), flush=True)
    train(model, batches, mix.web_windows(tokenizer, seed, WEB_ROWS), stage.peak_lr, tokenizer, out)


if __name__ == "__main__":
    main()
