"""What `TucoCallback` costs a training, as a share of its steps: all weights and LoRA, in SmolLM2's shape.

The share is that of one run: the seconds of a measurement over the seconds of a step, in turns on the same machine.
Prompts have as many tokens, all together, as a step has; so the share at any other size is in proportion.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from typing import Any

import torch

from benchmarks._shapes import VOCAB, smollm2_shape, word_tokenizer

ROWS, TOKENS = 4, 64
EVERY = 50
"""Steps between measurements, for the share of a run that is printed beside that of a step."""


def trainer_of(model: Any, steps: int, folder: str) -> Any:
    """A Trainer on random tokens that logs and saves nothing."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments, default_data_collator

    ids = torch.randint(3, VOCAB, (ROWS * steps, TOKENS)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "attention_mask": [[1] * TOKENS] * len(ids)})
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    how: dict[str, Any] = {"data_collator": default_data_collator, "processing_class": word_tokenizer()}
    return Trainer(model, arguments, train_dataset=rows, **how)


def cost_of(lora: bool, steps: int) -> Any:
    """What the callback of one run says of its cost."""
    from peft import LoraConfig, get_peft_model
    from transformers import PrinterCallback

    from tuco_lens import TucoCallback

    model: Any = smollm2_shape()
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear")) if lora else model
    prompts = torch.randint(3, VOCAB, (ROWS, TOKENS)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, steps, folder)
        callback = TucoCallback(trainer, prompts, every=2, layers=False)
        trainer.add_callback(callback)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return callback.cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    steps: int = parser.parse_args().steps
    warnings.simplefilter("ignore")
    print(f"{torch.get_num_threads()} threads; prompts and batches of {ROWS} × {TOKENS} tokens; {steps} steps")
    for lora in (False, True):
        cost = cost_of(lora, steps)
        share = f"{cost.share_of_step:.2f} of a step, {cost.share_of_step / EVERY:.1%} of a run at every={EVERY}"
        frozen = f"{cost.frozen_bytes / 2**20:.0f} MiB frozen"
        print(f"{'LoRA' if lora else 'all weights':12} {share}; {frozen}; pair made in {cost.setup_seconds:.1f} s")


if __name__ == "__main__":
    main()
