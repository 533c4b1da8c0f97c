"""From logits to the next token: greedy, or sampled by temperature, top-k and top-p (transformers' processors).

Each row draws from a generator of its own, so that a prompt's text does not depend on what shares its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.errors import InputError

MAX_SEED = 2**32
"""Largest seed, of either sign: multiplied by the number of rows it must fit into 64 bits."""


def is_whole(value: object) -> bool:
    """Whether it is an int, whatever its annotation says."""
    return isinstance(value, int)


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 is greedy; else logits are divided by it."""
    top_k: int | None = None
    """Draw among this many of the likeliest tokens."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together have at least this probability."""
    seed: int = 0
    """Of the draws; the same seed gives the same text."""

    def __post_init__(self) -> None:
        checks = (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0 and finite"),
            ("top_k", self.top_k is None or (is_whole(self.top_k) and self.top_k >= 1), "a whole number over 0"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "over 0 and at most 1"),
            ("seed", is_whole(self.seed) and abs(self.seed) < MAX_SEED, "a whole number below 2**32"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}", f"it must be {rule}", "give such a number")
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise InputError("top_k or top_p without a temperature", "temperature 0 is greedy", "give a temperature")


def refuse_beams(num_beams: int) -> None:
    """Raise InputError unless `num_beams` is 1, which is no beam search."""
    if num_beams != 1:
        raise InputError(
            f"num_beams is {num_beams}",
            "beams change places in the KV cache, and a beam's TuCo would not be one text's",
            "use num_beams=1, with a temperature for variety",
        )


class Sampler:
    """Chooses the next token of every row.

    Args:
        options: how.
        streams: one number for each row; rows with the same number get the same draws.
        device: of the logits.
    """

    def __init__(self, options: SamplingOptions, streams: Sequence[int], device: torch.device) -> None:
        self.greedy = options.temperature == 0
        self.processors = [] if self.greedy else _processors(options)
        self.generators = [torch.Generator(device).manual_seed(options.seed * 1_000_003 + s) for s in streams]

    def __call__(self, logits: Float[Tensor, "row d_vocab"]) -> Int[Tensor, " row"]:
        """The next token of each row."""
        if self.greedy:
            return logits.argmax(-1)
        scores = logits.float()
        for processor in self.processors:
            scores = processor(None, scores)
        probabilities = scores.softmax(-1)
        draws = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities, self.generators, strict=True)
        ]
        return torch.cat(draws)


def _processors(options: SamplingOptions) -> list[Any]:
    from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    found: list[Any] = [TemperatureLogitsWarper(float(options.temperature))]
    if options.top_k is not None:
        found.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None:
        found.append(TopPLogitsWarper(options.top_p))
    return found
