"""Convert a model of the demo pair to float16 safetensors, as the package carries it.

    python scripts/demo_pair/package.py base  --out build/demo_pair --to tuco_lens/demo
    python scripts/demo_pair/package.py tuned --out build/demo_pair --to tuco_lens/demo

Writes `TO/base` or `TO/tuned`: weights (tied embeddings once), config, generation config, and the tokenizer with
its chat template. `finetune.py` starts from the packaged base; `evaluate.py` measures the packaged pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

LIMIT_BYTES = 25_000_000


def package(source: Path, tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Write one checkpoint beside its place and move it in, so that no reader meets half a folder."""
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    largest = max(float(parameter.detach().abs().max()) for parameter in model.parameters())
    if largest > torch.finfo(torch.float16).max / 100:
        raise SystemExit(f"{source}: a weight of {largest:.3g} is too near the end of float16's range")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    model.half().save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        _plain(scratch / name)
    for file in scratch.iterdir():
        file.chmod(0o644)
    scratch.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)


def _plain(path: Path) -> None:
    """Drop where the checkpoint was loaded from, and name the tokenizer class as every transformers release does."""
    config = json.loads(path.read_text())
    for key in ("_name_or_path", "name_or_path", "is_local", "local_files_only", "backend"):
        config.pop(key, None)
    if "tokenizer_class" in config:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("base", "tuned"))
    parser.add_argument("--out", type=Path, required=True, help="folder that training wrote the model to")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    logging.disable_progress_bar()
    source = args.out / args.name
    package(source, PreTrainedTokenizerFast.from_pretrained(source), args.to / args.name)
    total = sum(file.stat().st_size for name in ("base", "tuned") for file in (args.to / name).glob("*"))
    if total > LIMIT_BYTES:
        raise SystemExit(f"the pair takes {total} bytes and may take {LIMIT_BYTES}")
    print(f"{args.to}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
