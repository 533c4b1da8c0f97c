"""A pair of 1 GiB measured in a quarter of that; and the memory of a LoRA pair over that of its base alone.

Each figure is of a process of its own, which has loaded and measured the demo pair first: a limit, and a peak, are over
what the libraries take by then. The limit is that of a memory cgroup, in which pages of files count too (the kernel
drops them where it needs room); without the right to make one there is none, and the peak alone says it. Times are
ratios to reading all files once under the same limit; no file is in the page cache when the process begins.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._live_bytes import peak_resident
from benchmarks._wheels import BUILD

MIB = 2**20
LIMIT = 256 * MIB
PROMPTS = (1, 16), (8, 64)
"""Prompts and tokens of what is measured."""
LORA_BAR = 1.15
CGROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


def checkpoints() -> tuple[Path, Path, Path]:
    """Base and tuned model of 512 MiB each, random, and an adapter of the base; made at the first call."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folders = tuple(BUILD / "offload" / name for name in ("base", "tuned", "adapter"))
    if (folders[-1] / "adapter_model.safetensors").exists():
        return folders  # pyright: ignore[reportReturnType]
    sizes: Any = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 10, "num_attention_heads": 16}
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=4096, max_position_embeddings=1024))
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(4096)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    for folder in folders[:2]:
        model.save_pretrained(folder, max_shard_size="60MB")
        tokenizer.save_pretrained(folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.05)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(str(folders[2]))
    return folders  # pyright: ignore[reportReturnType]


def loaded(kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    import tuco_lens as tl

    base, tuned, adapter = checkpoints()
    load = tl.ModelPair.from_pretrained
    if kind == "base alone":
        return AutoModelForCausalLM.from_pretrained(base)
    if kind == "LoRA pair":
        return load(base, adapter=adapter, backend="bridge", device="cpu")
    if kind == "offloaded":
        return load(base, tuned, device_map={"": "disk"})
    return load(base, tuned, backend="bridge", device="cpu")


def read_all() -> float:
    """Seconds to read every weight of both models once."""
    start = time.perf_counter()
    for folder in checkpoints()[:2]:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb", buffering=0) as content:
                while content.read(4 * MIB):
                    pass
    return time.perf_counter() - start


def measured(kind: str, limit: Path | None) -> dict[str, Any]:
    """What one process says of itself."""
    import torch

    import tuco_lens as tl

    warm = tl.ModelPair.demo(backend="bridge")
    warm.measure([[5] * 16], progress=False)
    del warm
    before = peak_resident()
    if limit is not None:
        keep_below(limit)
    found: dict[str, Any] = {"read": read_all()}
    start = time.perf_counter()
    pair = loaded(kind)
    found["load"] = time.perf_counter() - start
    if kind == "base alone":
        with torch.no_grad():
            pair(torch.zeros(8, 64, dtype=torch.long))
    else:
        for rows, tokens in PROMPTS if kind != "LoRA pair" else PROMPTS[1:]:
            ids = torch.randint(0, 4096, (rows, tokens), generator=torch.Generator().manual_seed(rows)).tolist()
            start = time.perf_counter()
            values = pair.measure(ids, progress=False).tuco
            found[f"{rows} × {tokens}"] = (time.perf_counter() - start, [value.hex() for value in values.tolist()])
    return {**found, "peak": peak_resident() - before}


def keep_below(limit: Path) -> None:
    """Let this process have no more than `LIMIT` beside what it has."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    limit.write_text(str(resident + LIMIT))


def in_child(kind: str, group: Path | None = None, limit: Path | None = None) -> dict[str, Any]:
    """What `measured` says in a process of its own, in a cgroup."""
    for folder in checkpoints()[:2]:
        for file in folder.glob("*.safetensors"):
            with file.open("rb") as content:
                os.fsync(content)
                os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "benchmarks.offload", kind, *([str(limit)] if limit else [])]
    enter = None if group is None else partial(_enter, group)
    # glibc keeps what large tensors leave behind, unless it is told to ask the system for each of them.
    memory = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "262144"}
    env = {**os.environ, **memory, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=enter, env=env)
    return json.loads(run.stdout.splitlines()[-1])


def in_cgroup(kind: str) -> tuple[dict[str, Any], str]:
    """As `in_child`, limited by a memory cgroup where one can be made; and what the limit is."""
    for parent, limit in CGROUPS:
        group = Path(parent) / f"tuco-lens-{os.getpid()}"
        if not (Path(parent) / "cgroup.procs").is_file() or not os.access(parent, os.W_OK):
            continue
        group.mkdir()
        try:
            if (group / limit).is_file():
                return in_child(kind, group, group / limit), f"a cgroup with {LIMIT / MIB:.0f} MiB"
        finally:
            group.rmdir()
    return in_child(kind), "no limit"


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def main() -> None:
    checkpoints()
    folders = checkpoints()[:2]
    size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
    resident = in_child("resident")
    limited, how = in_cgroup("offloaded")
    print(f"a pair of {size / MIB:.0f} MiB in {how} over the libraries; peak {limited['peak'] / MIB:.0f} MiB over them")
    print(f"reading all files: {limited['read']:.2f} s; loading: {limited['load'] / limited['read']:.1f} × that")
    for rows, tokens in PROMPTS:
        name = f"{rows} × {tokens}"
        (seconds, values), (within, known) = limited[name], resident[name]
        same = "same numbers, bit for bit" if values == known else "OTHER NUMBERS"
        print(f"{name} tokens: {seconds / limited['read']:.2f} × reading, {seconds / within:.2f} × resident; {same}")
    alone, lora = in_child("base alone")["peak"], in_child("LoRA pair")["peak"]
    ratio = f"ratio {lora / alone:.3f} (bar {LORA_BAR})"
    print(f"peak, load included: base alone {alone / MIB:.0f} MiB, LoRA pair {lora / MIB:.0f} MiB; {ratio}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)))
    else:
        main()
