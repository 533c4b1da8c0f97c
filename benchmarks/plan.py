"""What `tuco-lens plan` says, beside what is then measured: peak memory and time of four pairs on this machine.

Each pair is written to disk with random weights. A process of its own plans with `--measure`, and another one measures;
its resident memory is read once the libraries are imported, and at its peak. Bars: memory within 20 % (what the process
adds to the libraries, and all of it), time within 30 %. All run on one thread: where a machine is shared, threads wait
for one another, and no two runs take the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._live_bytes import peak_resident

MEMORY_BAR, TIME_BAR = 0.2, 0.3
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One pair, and what is measured on it."""

    name: str
    backend: str
    stored: str
    """dtype of the files."""
    dtype: str
    n_prompts: int
    n_tokens: int
    adapter: bool = False
    wide: bool = False
    """8 blocks of width 1024 and not SmolLM2's shape."""


CASES = (
    Case("SmolLM2's shape, bridge", "bridge", "float32", "float32", 48, 128),
    Case("SmolLM2's shape, files in bfloat16, hooked", "hooked", "bfloat16", "float32", 24, 256),
    Case("8 blocks of width 1024, LoRA, bridge", "bridge", "float32", "float32", 96, 64, adapter=True, wide=True),
    # The allowances of the plan were fitted on the cases above, and not on this one.
    Case("8 blocks of width 1024, bridge", "bridge", "bfloat16", "float32", 20, 200, wide=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="Numbers of the cases.")
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measured(**json.loads(asked.child))))
        return
    for number in asked.cases:
        with tempfile.TemporaryDirectory() as folder:
            show(CASES[number], Path(folder))


def show(case: Case, folder: Path) -> None:
    pair = write_pair(case, folder)
    options = [*(part for name, path in pair.items() for part in (f"--{name}", path)), "--backend", case.backend]
    options += ["--dtype", case.dtype, "--n", str(case.n_prompts), "--tokens", str(case.n_tokens)]
    plan = child("tuco_lens", "plan", *options, "--measure", "--json")
    work = {"pair": pair, "backend": case.backend, "dtype": case.dtype, "n": case.n_prompts, "tokens": case.n_tokens}
    found = child("benchmarks.plan", "--child", json.dumps(work))
    planned, whole = plan["ways"][0]["bytes_each"], plan["ways"][0]["bytes_each"] + plan["process_bytes"]
    print(f"{case.name}: {case.n_prompts} prompts of {case.n_tokens} tokens")
    compare("memory beside the libraries, GiB", planned / GIB, (found["peak"] - found["libraries"]) / GIB, MEMORY_BAR)
    compare("memory of the process, GiB", whole / GIB, found["peak"] / GIB, MEMORY_BAR)
    compare("time of measuring, s", plan["ways"][0]["seconds"], found["seconds"], TIME_BAR)


def compare(what: str, planned: float, measured: float, bar: float) -> None:
    off = planned / measured - 1
    verdict = "" if abs(off) <= bar else "  OVER THE BAR"
    print(
        f"  {what:34} planned {planned:8.3f}  measured {measured:8.3f}  {off:+.1%} (bar {bar:.0%}){verdict}", flush=True
    )


def child(module: str, *arguments: str) -> Any:
    """What a process of its own prints as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout[done.stdout.index("{") :])


def write_pair(case: Case, folder: Path) -> dict[str, str]:
    """Writes the checkpoints; the options that name them."""
    import copy

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks._shapes import transformers_pair, word_tokenizer

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16}
    config = LlamaConfig(**shape, vocab_size=16_384, architectures=["LlamaForCausalLM"])
    torch.manual_seed(0)
    models = [LlamaForCausalLM(config) for _ in range(2)] if case.wide else transformers_pair()
    for name, model in zip(("base",) if case.adapter else ("base", "tuned"), models, strict=False):
        model.to(getattr(torch, case.stored)).save_pretrained(folder / name)
        word_tokenizer(model.config.vocab_size).save_pretrained(folder / name)
    if not case.adapter:
        return {"base": str(folder / "base"), "tuned": str(folder / "tuned")}
    from peft import LoraConfig, get_peft_model

    # Not zero, as PEFT begins: an adapter that changes nothing is no tuned model.
    lora = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(copy.deepcopy(models[0]), lora).save_pretrained(folder / "adapter")
    return {"base": str(folder / "base"), "adapter": str(folder / "adapter")}


def measured(pair: dict[str, str], backend: str, dtype: str, n: int, tokens: int) -> dict[str, float]:
    """Peak memory and time of a run in this process."""
    import psutil
    import torch

    from tuco_lens import ModelPair
    from tuco_lens.models.loading import choose_backend
    from tuco_lens.models.sources import LoadOptions, read_config, resolve_source

    # What loading imports, without loading: the libraries of both backends, PEFT and transformers' models.
    import_all = [__import__(name) for name in ("peft", "transformer_lens", "transformers.models.llama.modeling_llama")]
    source = resolve_source(pair["base"], "base", LoadOptions())
    config = read_config(source, LoadOptions())
    choose_backend(backend, source, config, source, config)
    libraries = psutil.Process().memory_info().rss
    del import_all
    loaded = ModelPair.from_pretrained(**pair, backend=backend, dtype=dtype, device="cpu")
    prompts = [loaded.prompt(row) for row in torch.randint(0, loaded.tuned.cfg.d_vocab, (n, tokens)).tolist()]
    start = time.perf_counter()
    loaded.measure(prompts, progress=False)
    seconds = time.perf_counter() - start
    return {"libraries": libraries, "peak": peak_resident(), "seconds": seconds}


if __name__ == "__main__":
    main()
