"""What prompts begin with runs once: the numbers are those of each prompt alone, the passes those of the plan."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import ARCHITECTURES, VARIANTS, make_pair, make_tokenizer
from tests.oracle import oracle
from tuco_lens import ModelPair
from tuco_lens.engine import sharing
from tuco_lens.engine.fast_path import replace_attribute

VERSION = importlib.metadata.version("transformer-lens")
HOOKED = pytest.mark.skipif(
    int(VERSION.split(".")[0]) >= 4, reason=f"transformer-lens {VERSION} has no HookedTransformer"
)
BACKENDS = [pytest.param("hooked", marks=HOOKED), pytest.param("bridge", marks=pytest.mark.bridge)]
CASES = [
    pytest.param(name, *backend.values, marks=backend.marks)
    for name in [*ARCHITECTURES, *VARIANTS]
    for backend in BACKENDS
    if not (name == "olmo2, groups" and backend.values == ("hooked",))
]

FIRST = list(range(10, 22))  # longer than the sliding windows of tests/architectures.py
SECOND = [*FIRST, *range(60, 71)]
ROWS = [
    [*SECOND, 31, 7, 90],
    [*FIRST, 55],
    SECOND,  # ends where others go on
    [*SECOND, 31, 40],
    [99, 3, 4, 5],  # shares nothing
    [*SECOND, 31, 7, 90],  # a duplicate
    [*FIRST, 40, 41, 42, 43, 44],
]
N_SHARING = len(SECOND) + 3 + 2 + 1 + 5 + 4
"""Tokens that are run where all is shared; the duplicate's last three are run with the original's, in one batch."""


@contextmanager
def run_tokens(model: Any) -> Generator[list[int]]:
    """While open, adds up the tokens of a model's passes, without a hook, for a hook keeps prompts whole."""
    n_tokens = list[int]()
    block = model.blocks[0]

    def forward(*args: Any, **kwargs: Any) -> Any:
        stream: Tensor = args[0] if args else kwargs["hidden_states"]
        n_tokens.append(stream.shape[0] * stream.shape[1])
        return type(block).forward(block, *args, **kwargs)

    with ExitStack() as stack:
        replace_attribute(block, "forward", forward, stack)
        yield n_tokens


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share wherever it saves a token."""
    monkeypatch.setattr(sharing, "PASS_TOKENS", {"cpu": 1})


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_prompt_has_the_norms_that_it_has_alone(name: str, backend: str) -> None:
    base, tuned = make_pair(name)
    pair = ModelPair.from_pretrained(
        copy.deepcopy(base), copy.deepcopy(tuned), tokenizer=make_tokenizer(), backend=backend
    )
    with run_tokens(pair.tuned) as n_run:
        measured = pair.measure(ROWS, drift=True, progress=False)
    print("SHARES", name, backend, sum(n_run))
    whole = pair.measure(ROWS, drift=True, share_prefixes=False, batch_size=1, progress=False)
    last = pair.measure(ROWS, drift=True, keep="last", progress=False)
    for row, item, alone, end in zip(ROWS, measured, whole, last, strict=True):
        expected = oracle(base, tuned, torch.tensor([row]))
        cumulative = [vectors[:, 0].norm(p=1, dim=-1).float() for vectors in expected.cumulative()]
        found = [item.maps.cumulative_ptc, item.maps.cumulative_ftc]
        for a, b in zip(found, cumulative, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.max().item())
        assert item.tuco == pytest.approx(expected.tuco().item(), abs=1e-5)
        assert end.tuco == pytest.approx(expected.tuco().item(), abs=1e-5)
        torch.testing.assert_close(item.maps.drift, alone.maps.drift, rtol=1e-5, atol=1e-5)
        assert end.output_co == pytest.approx(alone.output_co, abs=1e-5)
