"""Training of a LoRA adapter on dialogues, held near its base model on other text: for both of this project's adapters.

Two losses are added up: next-token loss on the answers, and on plain text the divergence from the base model, so that
tuning contributes little where there is no such dialogue. Only numbers are logged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from demo_scripts import IGNORED, Dialogue, pad
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache


@dataclass(frozen=True)
class Schedule:
    """How an adapter is trained on its batches."""

    peak_lr: float
    """Learning rate after the warm-up."""
    warmup_steps: int
    """Steps in which it rises; then it falls to a twentieth."""
    plain_weight: float
    """Weight of the divergence on plain text."""
    n_shared: int
    """How many ids every dialogue begins with: they run once for a batch."""


def adapted(base: Any, config: LoraConfig, adapter: Path | None = None) -> Any:
    """The base model with an adapter, a fresh one of that config or one to go on with.

    The blocks' frozen matrices are kept in bfloat16, as autocast would cast them at each step; stream, norms,
    embeddings and the adapter stay in float32.
    """
    fresh = adapter is None
    model = get_peft_model(base, config) if fresh else PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.get_base_layer().to(torch.bfloat16)
    return model


def logits_at(model: Any, ids: torch.Tensor, wanted: torch.Tensor, n_shared: int = 0) -> torch.Tensor:
    """Logits at the wanted positions only, [wanted d_vocab]: the unembedding is a large part of a small model.

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


def divergence(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of the tuned next-token distribution from the base model's, in nats."""
    wanted = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad(), model.disable_adapter():
        base = F.log_softmax(logits_at(model, ids, wanted), -1)
    tuned = F.log_softmax(logits_at(model, ids, wanted), -1)
    return F.kl_div(tuned, base, log_target=True, reduction="batchmean")


def lr_factor(step: int, total: int, warmup_steps: int) -> float:
    """Linear warm-up, then linear decay to a twentieth."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 1 - 0.95 * (step - warmup_steps) / max(1, total - warmup_steps)


def train(
    model: Any,
    batches: list[list[Dialogue]],
    plain: Iterable[torch.Tensor],
    schedule: Schedule,
    pad_id: int,
    out: Path,
    report_every: int = 10,
) -> None:
    """All steps; every few of them the curve and the adapter are written into `out`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.peak_lr, betas=(0.9, 0.98), weight_decay=0.0)
    curve: list[dict[str, float]] = []
    recent: list[tuple[float, float]] = []
    tokens, start = 0, time.time()
    for step, (batch, rows) in enumerate(zip(batches, plain, strict=False), 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule.peak_lr * lr_factor(step - 1, len(batches), schedule.warmup_steps)
        recent.append(_backward(model, pad(batch, pad_id), rows, schedule))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(d.ids) for d in batch) + rows.numel()
        if step % report_every == 0 or step == len(batches):
            answers, web = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            seconds = time.time() - start
            curve.append({"step": step, "tokens": tokens, "answers": answers, "web": web, "seconds": seconds})
            recent = []
            (out / "curve.json").write_text(json.dumps(curve))
            model.save_pretrained(out / "adapter")
            print(json.dumps(curve[-1]), flush=True)


def _backward(
    model: Any, batch: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor, schedule: Schedule
) -> tuple[float, float]:
    """Gradients of both losses; returns the losses, in nats."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = answer_loss(model, *batch, schedule.n_shared)
        loss.backward()
        away = divergence(model, rows)
        (schedule.plain_weight * away).backward()
    return loss.item(), away.item()
