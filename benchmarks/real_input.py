"""Real prompts through two real pairs: 200 on the embedded pair, 50 on SmolLM2-135M-Instruct with a LoRA adapter.

The adapter is trained here, for a few steps on held-out chats, so that it is a real adapter with a
small but real effect; it is not kept. Needs the development data sets and, for the second pair,
the package registry (`_smollm2.py`). Prints what was measured; nothing is asserted.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks._smollm2 import smollm2_directory
from tests.held_out import web_and_chat
from tuco_lens import Measurement, ModelPair

STEPS, CHAT_TOKENS = 12, 160


def train_adapter(model_dir: Path, target: Path) -> None:
    """A rank-4 LoRA on the attention's queries and values, a dozen steps on chats."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    _, chats = web_and_chat(tokenizer)
    for chat in chats[-STEPS:]:
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"][:, :CHAT_TOKENS]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)


def report(name: str, web: Measurement, chat: Measurement, seconds: float) -> None:
    tokens = sum(item.n_tokens for part in (web, chat) for item in part)
    print(
        f"{name}: {len(web)} web excerpts and {len(chat)} chats, {tokens} tokens, {tokens / seconds:.0f} tokens/s here"
    )
    for label, part in (("web", web), ("chat", chat)):
        low, middle, high = part.tuco.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        print(
            f"  TuCo {label:4} median {middle:.3f}, 10-90 % {low:.3f}-{high:.3f}; median beta {part.beta.median():.3f}"
        )


def measure(name: str, pair: ModelPair, per_side: int) -> None:
    web, chats = web_and_chat(pair.tokenizer)
    start = time.perf_counter()
    parts = [pair.measure(prompts[:per_side], progress=False) for prompts in (web, chats)]
    report(name, parts[0], parts[1], time.perf_counter() - start)


def main() -> None:
    measure("demo pair", ModelPair.demo(), 100)
    base = smollm2_directory()
    with TemporaryDirectory() as folder:
        train_adapter(base, Path(folder))
        pair = ModelPair.from_pretrained(base, adapter=folder, device="cpu")
        measure(f"SmolLM2-135M-Instruct with a LoRA adapter ({pair.backend})", pair, 25)


if __name__ == "__main__":
    main()
