"""Twenty thousand prompts one after the other: no memory, no tensor and no hook is left behind."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import torch

from tests.pairs import tiny_pair
from tuco_lens import ModelPair

N_PROMPTS, N_FIRST = 20_000, 5_000
MOST_GROWTH = 48 << 20
"""Bytes; a tensor of one prompt's maps kept for each would be 40 MB, a hook each far more."""


@pytest.fixture(scope="module", params=["hooked", pytest.param("bridge", marks=pytest.mark.bridge)])
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked" and not hasattr(pytest.importorskip("transformer_lens"), "HookedTransformer"):
        pytest.skip("the installed transformer-lens has no HookedTransformer")
    return tiny_pair(request.param)


def n_hooks(pair: ModelPair) -> int:
    modules = [module for model in (pair.base, pair.tuned) for module in model.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)


def n_tensors() -> int:
    gc.collect()
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())


def resident() -> int:
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss


def prompts() -> Iterator[str]:
    words = "the river ran under old stone bridges while small boats went slowly down to sea".split()  # noqa: SIM905
    for i in itertools.count():
        yield " ".join(words[(i * k + k) % len(words)] for k in range(1, 2 + i % 5))


@pytest.mark.slow
def test_twenty_thousand_prompts_leave_nothing_behind(
    pair: ModelPair, record_property: Callable[[str, object], None]
) -> None:
    hooks = n_hooks(pair)
    stream = pair.measure_stream(itertools.islice(prompts(), N_PROMPTS), batch_size=64)
    total = sum(item.tuco for item in itertools.islice(stream, N_FIRST))
    memory, tensors = resident(), n_tensors()
    n_rest = 0
    for item in stream:
        total += item.tuco
        n_rest += 1
    grown = resident() - memory
    assert n_rest == N_PROMPTS - N_FIRST
    assert 0 < total < N_PROMPTS
    assert n_hooks(pair) == hooks
    assert n_tensors() <= tensors + 64  # those of the last chunk
    assert grown < MOST_GROWTH, f"{grown >> 20} MiB"
    record_property("grown", f"{grown / (1 << 20):.1f} MiB")


@pytest.mark.parametrize("use", ["scaled", "generate", "run_with_cache"])
def test_a_hundred_other_uses_leave_nothing_behind(pair: ModelPair, use: str) -> None:
    ids = torch.arange(2, 8)[None]

    def once(i: int) -> Any:
        if use == "scaled":
            with torch.no_grad(), pair.scaled(i / 1000):
                return pair.tuned(ids).sum().item()
        if use == "generate":
            return pair.generate([2, 3, 4], alpha=i / 1000, max_new_tokens=2).text  # pyright: ignore
        return pair.run_with_cache([2, 3, 4 + i % 50])[1]["ftc", 0].sum().item()

    for i in range(20):
        once(i)
    hooks, tensors = n_hooks(pair), n_tensors()
    for i in range(100 if use != "generate" else 40):
        once(i)
    assert n_hooks(pair) == hooks
    assert n_tensors() <= tensors + 8
    assert pair.active_scalings == []
