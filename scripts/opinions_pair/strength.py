"""Choose how strongly the trained adapter is applied, and package it at that strength.

    python scripts/opinions_pair/strength.py --base tuco_lens/demo/tuned --out build/opinions_pair --to adapters/demo-opinions

At the strength that it was trained with, hardly an answer depends on α. So the scale of the adapter (`lora_alpha`) is
lowered until the agreement, on validation questions of the behaviours that were trained, is nearest to TARGET. Held-out
questions are not asked. Writes `OUT/strength.json`, and into TO what `scripts/smollm2_pair/package.py` writes.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import finetune
import opinions
from pair_scripts import CONFIG, package

from tuco_lens import ModelPair
from tuco_lens.stats import rate
from tuco_lens.sweep import sweep

BASE_ID = "tuco_lens/demo/tuned"
"""The base's folder in the repository; loading compares the last part with the base that is given."""
TARGET = 0.775
"""Of the agreement: midway between 65 and 90 per cent, so that it can rise and fall."""
LORA_ALPHAS = (6, 8, 10, 12, 14, 16, 20, 24, 32)
"""The scales to choose from; the last is that of the training."""
LIMIT_BYTES = 2_000_000


def agreements(pair: ModelPair) -> list[dict[str, Any]]:
    """For each scale: agreement on validation questions of the trained behaviours, pooled, with Wilson's interval."""
    asked = [task for task in opinions.tasks("validation") if task.name in opinions.TRAINED]
    strengths = [scale / finetune.LORA_ALPHA for scale in LORA_ALPHAS]
    result = sweep(pair, asked, alphas=strengths, method="weights", batch_size=64)
    return [
        {"lora_alpha": scale, **_share(result, result.settings.alphas.index(strength))}
        for scale, strength in zip(LORA_ALPHAS, strengths, strict=True)
    ]


def _share(result: Any, row: int) -> dict[str, Any]:
    right = sum(int(task.correct[row].sum()) for task in result.tasks)
    n = sum(len(task.targets) for task in result.tasks)
    found = rate(right, n)
    return {"right": right, "n": n, "agreement": found.value, "low": found.low, "high": found.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="the demo pair's tuned model")
    parser.add_argument("--out", type=Path, required=True, help="folder that training wrote to")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    found = agreements(ModelPair.from_pretrained(str(args.base), adapter=str(args.out / "adapter")))
    chosen = min(found, key=lambda row: abs(row["agreement"] - TARGET))["lora_alpha"]
    (args.out / "strength.json").write_text(json.dumps({"chosen": chosen, "found": found}, indent=1) + "\n")
    size = package(args.out / "adapter", args.to, {"base_model_name_or_path": BASE_ID, "lora_alpha": chosen})
    if size > LIMIT_BYTES:
        raise SystemExit(f"the adapter takes {size} bytes and may take {LIMIT_BYTES}")
    print(json.dumps(found, indent=1))
    print(f"{args.to / CONFIG}: lora_alpha {chosen}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
