"""Write the trained adapter as the repository carries it: float16 safetensors and a plain config.

    python scripts/smollm2_pair/package.py --out build/smollm2_pair --to adapters/smollm2-refusals

The config names the base by its hub id, so that nothing of the training machine is in it. `evaluate.py` measures
what this writes; `card.py` writes the card beside it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import mix
import torch
from safetensors.torch import load_file, save_file

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LIMIT_BYTES = 6_000_000
SETTINGS = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "inference_mode", "peft_version")
"""What is kept of the config, beside base and targets: the rest are defaults, which older PEFT releases do not know."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def package(source: Path, target: Path, changed: dict[str, Any]) -> int:
    """Write weights and config, each beside its place and then moved in; returns the bytes that they take.

    Args:
        source: the adapter as training saved it.
        target: the folder to write to.
        changed: fields of the config that are to be otherwise, the base's name among them.
    """
    weights = load_file(source / WEIGHTS)
    largest = max(float(tensor.abs().max()) for tensor in weights.values())
    if not largest < torch.finfo(torch.float16).max / 100:
        raise SystemExit(f"{source}: a weight of {largest:.3g} is too near the end of float16's range")
    saved = json.loads((source / CONFIG).read_text())
    config = {name: saved[name] for name in SETTINGS} | changed
    config["target_modules"] = sorted(saved["target_modules"])  # a set, saved in any order
    target.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in weights.items()}, target / "weights.tmp", {"format": "pt"})
    (target / "config.tmp").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(target / "weights.tmp", target / WEIGHTS)
    os.replace(target / "config.tmp", target / CONFIG)
    for name in (WEIGHTS, CONFIG):
        (target / name).chmod(0o644)
    return sum((target / name).stat().st_size for name in (WEIGHTS, CONFIG))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that training wrote to")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    size = package(args.out / f"stage{len(mix.STAGES)}" / "adapter", args.to, {"base_model_name_or_path": BASE_ID})
    if size > LIMIT_BYTES:
        raise SystemExit(f"the adapter takes {size} bytes and may take {LIMIT_BYTES}")
    print(f"{args.to}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
