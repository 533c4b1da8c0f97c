"""Integrated gradients along α: complete, and each cell is what finite differences in plain code say."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.architectures import BACKENDS, HOOKED, make_pair
from tests.integration.test_components import PROMPT, to_pair
from tests.pairs import byte_tokenizer, tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.integrated_gradients import IntegratedGradients
from tuco_lens.attribution.metric import Continuation, Direction, Metric, OfStream
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
            sides.append(float(difference(plain_logits(base, tuned, alphas))[0]))
        assert found.values[layer, token] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=2e-3, abs=5e-5)
    assert np.abs(found.values[2, :-1]).max() <= 1e-6  # the last block's other tokens reach no logit of the last


@torch.no_grad()
def plain_logits(base: Any, tuned: Any, alphas: Tensor, more: Mapping[tuple[int, int, str], float] = {}) -> Tensor:
    """Two Llamas of transformers, their layers mixed by hooks, with an α for each layer and token.

    `more` adds multiples of FTC's parts by layer, token and part: "attention", "mlp", or a head's number.
    """
    hooks = []
    seen: dict[str, Tensor] = {}
    for side, model in (("tuned", tuned), ("base", base)):
        for block in model.model.layers:

            def keep(_module: Any, args: Any, output: Any, key: str = side) -> None:
                seen[key] = output[0] if isinstance(output, tuple) else output

            def keep_heads(module: Any, args: Any, _output: Any, key: str = side) -> None:
                width = args[0].shape[-1] // tuned.config.num_attention_heads
                for head, (z, weight) in enumerate(
                    zip(args[0].split(width, -1), module.weight.split(width, 1), strict=True)
                ):
                    seen[f"{key} {head}"] = z @ weight.T

            hooks.append(block.self_attn.register_forward_hook(partial(keep, key=f"{side} attention")))
            hooks.append(block.mlp.register_forward_hook(partial(keep, key=f"{side} mlp")))
            hooks.append(block.self_attn.o_proj.register_forward_hook(partial(keep_heads, key=side)))
    for layer, (ours, theirs) in enumerate(zip(tuned.model.layers, base.model.layers, strict=True)):

        def mix(_module: Any, args: Any, kwargs: Any, output: Any, theirs: Any = theirs, layer: int = layer) -> Tensor:
            own = theirs(*args, **kwargs)
            stream = own + alphas[layer, :, None] * (output - own)
            for (where, token, part), amount in more.items():
                if where == layer:
                    stream[:, token] += amount * (seen[f"tuned {part}"] - seen[f"base {part}"])[:, token]
            return stream

        hooks.append(ours.register_forward_hook(mix, with_kwargs=True))
    logits = tuned(torch.tensor([PROMPT]), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_each_component_and_head_is_its_finite_difference_in_plain_code(backend: str) -> None:
    models = make_pair("llama")
    pair = to_pair(*models, backend)
    base, tuned = (copy.deepcopy(model).double() for model in models)
    half = torch.full((3, len(PROMPT)), 0.5, dtype=torch.float64)
    for over, cells in {
        "component": [(0, 23, "attention"), (1, 22, "mlp"), (2, 23, "mlp")],
        "head": [(0, 23, "1"), (1, 3, "0"), (2, 23, "3")],
    }.items():
        found = pair.integrated_gradients(PROMPT, metric=difference, steps=1, over=over)  # pyright: ignore[reportArgumentType]
        assert found.split is not None
        for layer, token, part in cells:
            sides = [
                float(difference(plain_logits(base, tuned, half, {(layer, token, part): sign * 5e-3}))[0])
                for sign in (1, -1)
            ]
            value = found.split[layer, token, found.parts.index(part)]
            assert value == pytest.approx((sides[0] - sides[1]) / 1e-2, rel=2e-3, abs=5e-5), (over, layer, part)


@HOOKED
def test_it_is_the_closed_form_on_a_linear_pair() -> None:
    pair = linear_pair()
    ids = [5, 200, 17, 40]
    found = pair.integrated_gradients(ids, answer=7, against=9, steps=8)
    base, tuned = ([block.attn for block in model.blocks] for model in (pair.base, pair.tuned))
    first, second = (_maps(base), _maps(tuned))
    with torch.no_grad():
        x = (pair.tuned.embed(torch.tensor([ids])) + pair.tuned.pos_embed(torch.tensor([ids])))[0].double()
        w = (pair.tuned.W_U[:, 7] - pair.tuned.W_U[:, 9]).double()
    n = len(ids)
    mean = torch.tril(torch.ones(n, n, dtype=torch.float64)) / torch.arange(1, n + 1)[:, None]
    change = [ours - theirs for ours, theirs in zip(second, first, strict=True)]
    half = [theirs + more / 2 for theirs, more in zip(first, change, strict=True)]  # the integrand is linear in α
    expected = torch.zeros(2, n, dtype=torch.float64)
    expected[1, -1] = (mean @ (x + mean @ x @ half[0]) @ change[1])[-1] @ w
    added = mean @ x @ change[0]
    expected[0] = mean[-1] * (added @ half[1] @ w)
    expected[0, -1] += added[-1] @ w
    assert found.values == pytest.approx(expected.numpy(), rel=1e-5)
    assert found.values.sum() == pytest.approx(found.change, rel=1e-5)
    assert np.abs(expected.numpy()).min(axis=1)[0] > 1


def linear_pair() -> ModelPair:
    """Two layers of attention that reads all tokens alike, without norms: logits are linear in every block."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    models = []
    for seed in (0, 1):
        config = HookedTransformerConfig(
            n_layers=2, d_model=16, n_heads=2, d_head=8, n_ctx=16, d_vocab=300, attn_only=True, seed=seed, device="cpu"
        )
        config.normalization_type = None
        model = HookedTransformer(config)
        for block in model.blocks:
            for weight in (block.attn.W_Q, block.attn.W_K):
                weight.data.zero_()
            for weight in (block.attn.W_V, block.attn.W_O):
                weight.data *= 10
        models.append(model.eval())
    return ModelPair(*models, tokenizer=byte_tokenizer(), backend="hooked", base_name="linear", tuned_name="other")


def _maps(attentions: list[Any]) -> list[Tensor]:
    return [torch.einsum("hde,hef->df", each.W_V, each.W_O).detach().double() for each in attentions]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_metric_is_what_it_says_at_both_ends(backend: str) -> None:
    pair = tiny_pair(backend)
    prompt = pair.prompt("one two")
    ids = torch.tensor([prompt.token_ids])
    answer = pair.tokenizer("abc", add_special_tokens=False)["input_ids"]
    longer = torch.tensor([[*prompt.token_ids, *answer]])
    vector = torch.linspace(-1, 1, pair.d_model)
    names: list[tuple[Metric, str]] = [
        (Continuation("abc"), "log p of 'abc'"),
        ("kl", "KL to the base model"),
        (Direction(vector, 1), "direction at layer 1"),
        (OfStream(lambda stream: stream[:, -1].square().sum(-1), -2), "metric of layer 1"),
    ]
    found = [pair.integrated_gradients("one two", metric=metric) for metric, _ in names]
    assert [each.metric for each in found] == [words for _, words in names]
    for end, alpha in (("at_0", 0.0), ("at_1", 1.0)):
        with torch.no_grad(), pair.scaled(alpha):
            log_p = pair.tuned(longer)[0, len(ids[0]) - 1 : -1].double().log_softmax(-1)
            _, cache = pair.tuned.run_with_cache(ids)
            ours = pair.tuned(ids)[0, -1].double().log_softmax(-1)
        with torch.no_grad():
            theirs = pair.base(ids)[0, -1].double().log_softmax(-1)
        stream = cache["blocks.1.hook_resid_post"][0, -1].double()
        expected = [
            float(sum(log_p[i, token] for i, token in enumerate(answer))),
            float((ours.exp() * (ours - theirs)).sum()),
            float(stream @ vector.double()),
            float(stream.square().sum()),
        ]
        assert [getattr(each, end) for each in found] == pytest.approx(expected, rel=1e-4)
    assert all(abs(each.gap) <= 2e-3 * abs(each.change) for each in found)
    assert found[0].tokens[-3:] == ("a", "b", "c")
    assert found[0].values.shape == (3, len(longer[0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_line_may_end_elsewhere_and_move_some_layers_and_tokens_alone(backend: str) -> None:
    pair = tiny_pair(backend)
    options: dict[str, Any] = {"metric": difference, "alpha": 1.5, "layers": [0, -1], "positions": [2, -1]}
    found = pair.integrated_gradients("one two", **options)
    ids = torch.tensor([pair.prompt("one two").token_ids])
    for end, alpha in ((found.at_0, 0.0), (found.at_1, 1.5)):
        with torch.no_grad(), pair.scaled({0: alpha, 2: alpha}, positions=[2, -1]):
            assert end == pytest.approx(float(difference(pair.tuned(ids))[0]), abs=1e-5)
    assert abs(found.gap) <= 1e-3 * abs(found.change)
    by_layer = pair.integrated_gradients("one two", metric=difference, alpha=[0.5, 1.0, 0.0])
    with torch.no_grad(), pair.scaled([0.5, 1.0, 0.0]):
        assert by_layer.at_1 == pytest.approx(float(difference(pair.tuned(ids))[0]), abs=1e-5)
    assert abs(by_layer.gap) <= 1e-3 * abs(by_layer.change)
    assert not by_layer.values[2].any()
    assert "at the α of each layer" in by_layer.summary()
    moved = np.zeros_like(found.values, dtype=bool)
    moved[np.ix_([0, 2], [2, -1])] = True
    assert not found.values[~moved].any()
    assert np.count_nonzero(found.values) == 3  # the last block's other token reaches no logit of the last


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "bloom", "olmo2"])
def test_it_is_complete_on_other_architectures(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    found = pair.integrated_gradients(PROMPT, metric=difference, steps=32)
    assert abs(found.gap) <= 1e-3 * abs(found.change) + 1e-5
    for over in ("component", "head"):
        split = pair.integrated_gradients(PROMPT, metric=difference, steps=32, over=over)
        assert split.split is not None
        assert split.split.sum(axis=-1) == pytest.approx(found.values, abs=2e-5)
        assert split.values == pytest.approx(found.values, abs=2e-5)


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
    with pytest.raises(InputError, match="no parts to draw"):
        found.parts_figure()
    split = tiny_pair("bridge").integrated_gradients("one two", answer="a", against="b", steps=4, over="head")
    assert split.split is not None
    assert split.to_frame()["value"].sum() == pytest.approx(split.change + split.gap)
    assert split.parts_figure().data[0].z == pytest.approx(split.split.sum(axis=1), rel=1e-6)  # pyright: ignore
    assert IntegratedGradients.load(split.save(tmp_path / "heads.safetensors")).parts == ("0", "1", "2", "3", "mlp")
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
        ({"metric": "loss"}, "no metric 'loss'"),
        ({"metric": Continuation("")}, "continuation is empty"),
        ({"metric": Continuation("x" * 99)}, "too long"),
        ({"metric": Continuation("x"), "position": 0}, "follows the whole prompt"),
        ({"metric": Direction(torch.ones(3))}, "32 wide"),
        ({"metric": Direction(torch.ones(32), 3)}, "layer 3 is out of range"),
        ({"over": "layer"}, "'component' and 'head'"),
        ({"layers": [3]}, "layer 3 is out of range"),
        ({"positions": [9]}, "outside the prompt"),
        ({"alpha": float("nan")}, "finite"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.integrated_gradients("one", **options)  # pyright: ignore[reportArgumentType]
    with pair.scaled(0.5), pytest.raises(InputError, match="a scaling is on"):
        pair.integrated_gradients("one", answer=7)
