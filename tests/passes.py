"""Counts what runs through a model, without a hook: with a hook of anybody's on it, prompts run whole."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from tuco_lens.engine.fast_path import replace_attribute


@contextmanager
def run_tokens(model: Any) -> Generator[list[int]]:
    """While open, lists the tokens (rows × longest) of each pass through a model's first block."""
    passes = list[int]()
    block = model.blocks[0]

    def forward(*args: Any, **kwargs: Any) -> Any:
        stream: Tensor = args[0] if args else kwargs["hidden_states"]
        passes.append(stream.shape[0] * stream.shape[1])
        return type(block).forward(block, *args, **kwargs)

    with ExitStack() as stack:
        replace_attribute(block, "forward", forward, stack)
        yield passes
