"""Fused attention on the bridge: when it is on, that it changes no value, and that it leaves everything as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import make_model
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.engine.contributions import NormAccumulator, lockstep
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.models.bridge import to_bridge

pytestmark = pytest.mark.bridge
IDS = torch.tensor([[5, 9, 200, 31, 7, 7, 90]])


@pytest.fixture
def pair() -> ModelPair:
    return tiny_pair("bridge")


def is_fused(pair: ModelPair) -> bool:
    with fast_path(pair.base, pair.tuned) as fused:
        return fused


def cumulative_ftc(pair: ModelPair, *, fused: bool) -> Tensor:
    """‖F_{l+1}[t]‖ by an uninterrupted pass, with fused attention or TransformerLens' own."""
    accumulate = NormAccumulator("l1")
    with torch.no_grad(), lockstep(pair.base, pair.tuned, accumulate):
        if fused:
            with fast_path(pair.base, pair.tuned) as on:
                assert on
                pair.tuned(IDS, use_cache=False)
        else:
            pair.tuned(IDS, use_cache=False)
    return accumulate.result().cumulative_ftc


def test_a_measurement_runs_fused_and_agrees_with_transformer_lens_own_attention(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepwise = cumulative_ftc(pair, fused=False)
    torch.testing.assert_close(cumulative_ftc(pair, fused=True), stepwise, rtol=5e-6, atol=0)

    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return kernel(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    measured = pair.measure([IDS[0].tolist()])[0]
    assert len(calls) == 2 * pair.n_layers
    torch.testing.assert_close(measured.maps.cumulative_ftc, stepwise[:, 0], rtol=5e-6, atol=0)


@pytest.mark.parametrize("point", ["attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_rot_q"])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_hook_within_the_attention_of_either_model_fires_and_turns_fusion_off(
    pair: ModelPair, side: str, point: str
) -> None:
    model, fired = getattr(pair, side), []

    def scale(value: Tensor, hook: Any) -> Tensor:
        fired.append(hook.name)
        return value * 0.5

    before = pair.measure([IDS[0].tolist()])[0].tuco
    with model.hooks(fwd_hooks=[(f"blocks.1.{point}", scale)]):
        assert not is_fused(pair)
        assert pair.measure([IDS[0].tolist()])[0].tuco != pytest.approx(before, abs=1e-5)
    assert len(fired) == 1
    assert is_fused(pair)


@pytest.mark.parametrize("point", ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "hook_attn_out"])
def test_hooks_around_the_kernel_fire_with_the_same_effect_in_both_ways(pair: ModelPair, point: str) -> None:
    shapes = []

    def halve(value: Tensor, hook: Any) -> Tensor:
        shapes.append(value.shape)
        return value * 0.5

    with pair.tuned.hooks(fwd_hooks=[(f"blocks.1.{point}", halve)]):
        fused, stepwise = cumulative_ftc(pair, fused=True), cumulative_ftc(pair, fused=False)
    torch.testing.assert_close(fused, stepwise, rtol=5e-6, atol=0)
    assert len(shapes) == 2
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "bloom", "gptj"])
def test_attention_that_the_kernel_or_its_form_does_not_allow_stays_as_it_is(name: str) -> None:
    model = to_bridge(make_model(name), None)
    with fast_path(model) as fused:
        assert not fused


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "mistral", "mixtral", "olmo2", "opt", "phi"])
def test_attention_with_separate_projections_is_fused(name: str) -> None:
    """That the values are right is shown by test_architectures.py, which measures each of these."""
    model = to_bridge(make_model(name), None)
    with fast_path(model) as fused:
        assert fused


def test_after_an_error_within_the_models_are_as_they_were(pair: ModelPair) -> None:
    before = pair.tuned(IDS, use_cache=False)

    def fail(value: Tensor, hook: Any) -> Tensor:
        raise KeyboardInterrupt

    with pair.tuned.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", fail)]), pytest.raises(KeyboardInterrupt):
        pair.measure([IDS[0].tolist()])
    for model in (pair.base, pair.tuned):
        assert model.original_model.config._attn_implementation == "eager"
        assert not any("forward" in vars(block.attn) for block in model.blocks)
    assert torch.equal(pair.tuned(IDS, use_cache=False), before)


def test_one_within_another_leaves_the_outer_one_on(pair: ModelPair) -> None:
    plain = pair.tuned(IDS, use_cache=False)
    with fast_path(pair.base, pair.tuned):
        outer = vars(pair.tuned.blocks[0].attn)["forward"]
        with fast_path(pair.base, pair.tuned) as fused:
            assert fused
        assert vars(pair.tuned.blocks[0].attn)["forward"] is outer
    assert torch.equal(pair.tuned(IDS, use_cache=False), plain)
