"""Short trainings for tests of the callback: a tiny model or the demo base, by `Trainer` or TRL's `SFTTrainer`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from tests.pairs import byte_tokenizer, tiny_llama
from tuco_lens.pair import DEMO_FOLDER

TEXTS = [f"The {colour} boat number {i} lies in the harbour." for i in range(16) for colour in ("red", "green")]
PROMPTS = {"boats": ["The red boat", "The green boat number 3 lies"], "other": ["A river runs to"]}


@functools.cache
def _demo_base() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_FOLDER / "base", dtype=torch.float32, attention_dropout=0.1)


@dataclass(frozen=True)
class Training:
    """What is trained, and how; each call of `trainer` makes the same anew."""

    kind: str = "Trainer"
    """"Trainer" or "SFTTrainer"."""
    model: str = "tiny"
    """"tiny" or "demo": the demo pair's base."""
    lora: bool = False
    """Whether a LoRA with dropout is trained, or all weights."""
    steps: int = 6
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    """More arguments of the training."""
    make: Callable[[], Any] | None = None
    """Makes another model than "tiny"."""

    def base(self) -> Any:
        """The model that training begins from, with dropout."""
        if self.model == "demo":
            return copy.deepcopy(_demo_base())
        model: Any = tiny_llama() if self.make is None else self.make()
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.1
        return model

    def tokenizer(self) -> Any:
        """Of the texts and the prompts."""
        if self.model == "demo":
            return AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")
        tokenizer: Any = byte_tokenizer()
        tokenizer.eos_token = "<bos>"
        return tokenizer

    def trainer(self, folder: Path, model: Any = None, **more: Any) -> Trainer:
        """A trainer on `TEXTS`, shuffled, that has not begun.

        Args:
            folder: of its checkpoints.
            model: in place of the base.
            more: arguments of the training.
        """
        chosen: dict[str, Any] = {
            "output_dir": str(folder),
            "max_steps": self.steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 2e-3,
            "logging_steps": 2,
            "save_steps": max(1, self.steps // 3),
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 3,
            **self.arguments,
            **more,
        }
        torch.manual_seed(7)
        model = self.base() if model is None else model
        if self.lora:
            from peft import LoraConfig, get_peft_model

            if not hasattr(model, "peft_config"):
                model = get_peft_model(
                    model, LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "down_proj"])
                )
        return _sft(model, self.tokenizer(), chosen) if self.kind == "SFTTrainer" else self._plain(model, chosen)

    def _plain(self, model: Any, chosen: dict[str, Any]) -> Trainer:
        tokenizer = self.tokenizer()
        rows = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in TEXTS]})
        collate: Any = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        return Trainer(
            model, TrainingArguments(**chosen), train_dataset=rows, data_collator=collate, processing_class=tokenizer
        )

    def longer(self, steps: int) -> Training:
        """The same with another number of steps."""
        return replace(self, steps=steps)


def _sft(model: Any, tokenizer: Any, chosen: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    arguments: Any = SFTConfig(**chosen, max_length=64)
    return SFTTrainer(model, arguments, train_dataset=Dataset.from_dict({"text": TEXTS}), processing_class=tokenizer)
