"""What scaled generation costs: a ratio to transformers' own cached generate of the tuned model alone.

Greedy, one prompt of 32 tokens, 128 new ones, SmolLM2-135M's shape, on the bridge. Both sides run in turns in one
process. Scaled generation runs every block of both models and records TuCo of every token. Also printed: the time per
token in the last quarter of a text four times as long, as a ratio to its first quarter, beside the same for
transformers, whose attention grows with the text too.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks._shapes import VOCAB, model_pair, transformers_pair
from benchmarks.speed import seconds
from tuco_lens import Prompt

ALPHA, PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 0.8, 32, 128, 5
LONG = 4 * NEW_TOKENS
BAR = 2.3


def main() -> None:
    _, tuned = transformers_pair()
    tuned.generation_config.eos_token_id = None
    pair = replace(model_pair("bridge"), eos_token_ids=frozenset())
    prompt = torch.randint(1, VOCAB, (1, PROMPT_TOKENS))

    def bare(new_tokens: int = NEW_TOKENS) -> None:
        tuned.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )

    def scaled(**options: Any) -> None:
        found = pair.generate(as_prompt(prompt), max_new_tokens=NEW_TOKENS, **options)
        assert found.n_tokens == NEW_TOKENS

    print(f"{'what':34} {'ratio':>6} {'quartiles':>13} {'bar':>5}")
    for name, options in (
        (f"alpha {ALPHA}, TuCo of every token", {"alpha": ALPHA}),
        (f"alpha {ALPHA}, tuco=False", {"alpha": ALPHA, "tuco": False}),
        ("alpha 1, TuCo of every token", {"alpha": 1.0}),
    ):
        found: list[float] = []
        for _ in range(ROUNDS):
            floor = seconds(bare)
            found.append(seconds(lambda options=options: scaled(**options)) / floor)
        low, middle, high = statistics.quantiles(found, n=4)
        verdict = "" if middle <= BAR else "  OVER THE BAR"
        print(f"{name:34} {middle:6.3f} {low:6.3f}-{high:6.3f} {BAR:5.2f}{verdict}", flush=True)
    _flatness(pair, prompt, tuned)


def as_prompt(ids: torch.Tensor) -> Prompt:
    """Ids as they are; the benchmark's tokenizer knows a single word."""
    listed = ids[0].tolist()
    return Prompt("", tuple(listed), ("?",) * len(listed), ("text",) * len(listed))


def _flatness(pair: Any, prompt: torch.Tensor, tuned: Any) -> None:
    """Time per token late in a long text against early in it, for both."""
    tokens = pair.generate(as_prompt(prompt), alpha=ALPHA, max_new_tokens=LONG, stream=True)
    times = [time.perf_counter() for _ in tokens]
    marks = _StepTimes()
    tuned.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=LONG,
        do_sample=False,
        pad_token_id=0,
        streamer=marks,
    )
    for name, stamps in (("scaled", times), ("transformers", marks.stamps)):
        steps = [b - a for a, b in itertools.pairwise(stamps)]
        quarter = len(steps) // 4
        ratio = statistics.median(steps[-quarter:]) / statistics.median(steps[:quarter])
        print(f"{name}: a token of the last quarter of {LONG} costs {ratio:.3f} of one of the first")


class _StepTimes:
    """A transformers streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def put(self, _value: torch.Tensor) -> None:
        self.stamps.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to close."""


if __name__ == "__main__":
    main()
