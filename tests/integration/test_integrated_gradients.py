"""Integrated gradients along α: complete, and each cell is what finite differences in plain code say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.architectures import make_pair
from tests.integration.test_components import BACKENDS, PROMPT, to_pair
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.integrated_gradients import IntegratedGradients
from tuco_lens.errors import InputError

QUESTION = "How do I boil an egg?"


def difference(logits: Tensor) -> Tensor:
    return logits[:, -1, 7] - logits[:, -1, 9]


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_16_nodes_the_sum_is_the_change_on_the_demo_pair(backend: str) -> None:
    pair = ModelPair.demo(backend=backend)
    found = pair.integrated_gradients(QUESTION, chat=True, steps=16)
    ids = torch.tensor([pair.prompt(QUESTION, chat=True).token_ids])
    attribution = pair.logit_attribution(QUESTION, chat=True)
    answer, against = attribution.answer_ids[0], attribution.against_ids[0]
    ends: list[float] = []
    with torch.no_grad():
        with pair.scaled(0):
            ends.append(float(pair.tuned(ids)[0, -1, answer] - pair.tuned(ids)[0, -1, against]))
        ends.append(float(pair.tuned(ids)[0, -1, answer] - pair.tuned(ids)[0, -1, against]))
    assert (found.at_0, found.at_1) == pytest.approx(tuple(ends), abs=1e-4)
    assert found.values.sum() == pytest.approx(ends[1] - ends[0], rel=1e-3)
    assert abs(found.gap) <= 1e-3 * abs(found.change)
    assert (found.nodes, found.metric) == (16, attribution.question)
    automatic = pair.integrated_gradients(QUESTION, chat=True)
    assert abs(automatic.gap) <= 1e-3 * abs(automatic.change)
    small = pair.integrated_gradients(QUESTION, chat=True, steps=16, batch_size=3)
    assert small.values == pytest.approx(found.values, abs=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_each_cell_is_its_finite_difference_in_plain_code(backend: str) -> None:
    models = make_pair("llama")
    pair = to_pair(*models, backend)
    found = pair.integrated_gradients(PROMPT, metric=difference, steps=1)  # one node: the gradient at α = 1/2
    base, tuned = (copy.deepcopy(model).double() for model in models)
    step = 5e-3  # transformers computes norms in float32 even in a float64 model, so smaller ones are noise
    for layer, token in [(0, 3), (0, 23), (1, 22), (2, 23)]:
        sides: list[float] = []
        for sign in (1, -1):
            alphas = torch.full((3, len(PROMPT)), 0.5, dtype=torch.float64)
            alphas[layer, token] += sign * step
            sides.append(float(difference(_plain_logits(base, tuned, alphas))[0]))
        assert found.values[layer, token] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=2e-3, abs=5e-5)
    assert np.abs(found.values[2, :-1]).max() <= 1e-6  # the last block's other tokens reach no logit of the last


@torch.no_grad()
def _plain_logits(base: Any, tuned: Any, alphas: Tensor) -> Tensor:
    """Two Llamas of transformers, their layers mixed by hooks, with an α for each layer and token."""
    hooks = []
    for layer, (ours, theirs) in enumerate(zip(tuned.model.layers, base.model.layers, strict=True)):

        def mix(_module: Any, args: Any, kwargs: Any, output: Any, theirs: Any = theirs, layer: int = layer) -> Tensor:
            own = theirs(*args, **kwargs)
            return own + alphas[layer, :, None] * (output - own)

        hooks.append(ours.register_forward_hook(mix, with_kwargs=True))
    logits = tuned(torch.tensor([PROMPT]), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "bloom", "olmo2"])
def test_it_is_complete_on_other_architectures(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    found = pair.integrated_gradients(PROMPT, metric=difference, steps=32)
    assert abs(found.gap) <= 1e-3 * abs(found.change) + 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_a_router_changes_its_experts_on_the_way_the_gap_says_so(backend: str) -> None:
    found = to_pair(*make_pair("mixtral"), backend).integrated_gradients(PROMPT, metric=difference, steps=32)
    assert found.gap == pytest.approx(found.values.sum() - (found.at_1 - found.at_0))
    assert abs(found.gap) > 0.1 * abs(found.change)  # the metric jumps there, and a jump has no gradient
    assert f"off by {found.gap:+.2g}" in found.summary()


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_linear_in_the_metric_and_nothing_for_equal_models(backend: str) -> None:
    pair = tiny_pair(backend)

    def squares(logits: Tensor) -> Tensor:
        return logits[:, -1].square().mean(-1)

    one, two, both = (
        pair.integrated_gradients("one two", metric=metric, steps=4).values
        for metric in (difference, squares, lambda logits: difference(logits) - 3 * squares(logits))
    )
    assert both == pytest.approx(one - 3 * two, abs=1e-5)
    equal = tiny_pair(backend, strength=0.0).integrated_gradients("one two", answer=7)
    assert not equal.values.any()
    assert equal.change == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_hooks_act_and_nothing_of_ours_is_left(backend: str) -> None:
    pair = tiny_pair(backend)
    wanted = [weight.requires_grad for weight in pair.tuned.parameters()]
    plain = pair.integrated_gradients("one two", metric=difference, steps=8)
    hook = pair.tuned.blocks[1].attn.hook_z.register_forward_hook(lambda _m, _a, z: z * 0)
    ablated = pair.integrated_gradients("one two", metric=difference, steps=32)
    hook.remove()
    assert ablated.at_1 != pytest.approx(plain.at_1, abs=1e-4)
    assert ablated.values.sum() == pytest.approx(ablated.change, rel=1e-3)

    def fail(_logits: Tensor) -> Tensor:
        raise RuntimeError("a user's metric")

    with pytest.raises(RuntimeError, match="a user's metric"):
        pair.integrated_gradients("one two", metric=fail)
    assert [weight.requires_grad for weight in pair.tuned.parameters()] == wanted
    assert all(weight.grad is None for model in (pair.base, pair.tuned) for weight in model.parameters())
    blocks = [*pair.base.blocks, *pair.tuned.blocks]
    assert not any(m._forward_hooks for block in blocks for m in block.modules() if m is not block)


def test_the_result_is_a_table_a_file_and_a_figure(tmp_path: Path) -> None:
    found = tiny_pair("bridge").integrated_gradients("one two", answer="a", against="b", steps=4)
    frame = found.to_frame()
    assert frame["value"].sum() == pytest.approx(found.change + found.gap)
    loaded = IntegratedGradients.load(found.save(tmp_path / "gradients.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert loaded.summary() == found.summary()
    assert "'a' over 'b'" in found.summary()
    for theme in ("light", "dark"):
        assert found.figure(theme).data[0].z == pytest.approx(found.values, rel=1e-6)  # pyright: ignore


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")
    for options, why in [
        ({"metric": lambda logits: logits}, "a tensor of shape"),
        ({"metric": lambda logits: 1.0}, "a float"),
        ({"metric": lambda logits: logits[:, -1, 0] * float("nan")}, "finite"),
        ({"metric": lambda logits: logits[:, -1, 0].detach()}, "cannot be differentiated"),
        ({"metric": difference, "answer": 7}, "two questions"),
        ({"answer": "ab"}, "2 tokens"),
        ({"steps": 0}, "number of nodes"),
        ({"position": 99}, "tokens"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.integrated_gradients("one", **options)  # pyright: ignore[reportArgumentType]
    with pair.scaled(0.5), pytest.raises(InputError, match="a scaling is on"):
        pair.integrated_gradients("one", answer=7)
