"""Answer logits with a shared beginning: what it computes, and that it equals every prompt run alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.architectures import make_pair, make_tokenizer
from tests.pairs import tiny_pair
from tests.passes import run_tokens
from tuco_lens import ModelPair
from tuco_lens.engine.kv_caches import shares_beginnings
from tuco_lens.engine.sharing import shared_beginning
from tuco_lens.steering.scaling import METHODS, Method
from tuco_lens.steering.scoring import answer_logits

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
SHARED = list(range(10, 24))  # longer than the sliding windows of tests/architectures.py
ROWS = [[*SHARED, 31, 7], [*SHARED, 31, 90, 55, 40], [*SHARED, 61], [*SHARED, 31, 7, 2]]
ANSWERS = [[30, 40], [30, 41, 42], [50, 60], [3, 4]]


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked":
        pytest.importorskip(
            "transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer"
        )
    return tiny_pair(request.param)


def alone(pair: ModelPair, alpha: Any, method: Method) -> list[Tensor]:
    with pair.scaled(alpha, method=method), torch.no_grad():
        last = [pair.tuned(torch.tensor([row]))[0, -1] for row in ROWS]
    return [logits[answers] for logits, answers in zip(last, ANSWERS, strict=True)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


CASES = [(method, alpha) for method in METHODS for alpha in (0.0, 0.6, 1.0, 1.5)]


@pytest.mark.parametrize(("method", "alpha"), [*CASES, ("ftc", {1: 0.3})], ids=str)
def test_logits_behind_a_shared_beginning_are_those_of_every_prompt_run_alone(
    pair: ModelPair, method: Method, alpha: Any
) -> None:
    prompts = [pair.prompt(row) for row in ROWS]
    expected = alone(pair, alpha, method)
    for options in ({}, {"share_prefix": False}, {"batch_size": 1}):
        assert_same(answer_logits(pair, prompts, ANSWERS, alpha, method=method, **options), expected)


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "qwen2, sliding", "gpt2", "gpt_neox", "bloom", "opt"])
def test_a_shared_beginning_longer_than_a_sliding_window_is_continued_rightly(name: str) -> None:
    pair = ModelPair.from_pretrained(*make_pair(name), tokenizer=make_tokenizer(), backend="bridge")
    prompts = [pair.prompt(row) for row in ROWS]
    assert_same(answer_logits(pair, prompts, ANSWERS, 0.6), alone(pair, 0.6, "ftc"))


@pytest.mark.usefixtures("eager")
def test_the_shared_beginning_runs_once_through_both_models(pair: ModelPair) -> None:
    assert shares_beginnings(pair.tuned)  # found out once per model, by passes that shall not count here
    assert shares_beginnings(pair.base)
    with run_tokens(pair.base) as base, run_tokens(pair.tuned) as tuned:
        answer_logits(pair, [pair.prompt(row) for row in ROWS], ANSWERS, 0.6, batch_size=1)
    assert sorted(base) == sorted(tuned) == [1, 1, 1, 2, 3, len(SHARED)]


def test_no_hook_is_left_after_scoring(pair: ModelPair) -> None:
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pair.tuned.modules()]
    answer_logits(pair, [pair.prompt(row) for row in ROWS], ANSWERS, 0.6)
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pair.tuned.modules()]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_shared_beginning_is_the_longest_that_leaves_every_row_a_token(rows: list[list[int]]) -> None:
    n = shared_beginning(rows)
    assert all(row[:n] == rows[0][:n] and len(row) > n for row in rows)
    if len(rows) > 1:
        longer = [row[: n + 1] for row in rows]
        assert any(row != longer[0] for row in longer) or any(len(row) == n + 1 for row in rows)
