"""Shares of TuCo by component, head, neuron and weight matrix: they add up, and plain transformers says the same."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from tests.architectures import BACKENDS, CASES, N_TOKENS, make_ids, make_model, make_pair, make_tokenizer
from tests.checkpoints import save_adapter
from tests.oracle import PartsResult, layers_of, parts_oracle
from tests.pairs import byte_tokenizer, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import ModelPair
from tuco_lens.attribution.components import Components
from tuco_lens.attribution.overview import weight_changes
from tuco_lens.attribution.recording import record
from tuco_lens.errors import InputError

PROMPT = make_ids()[0].tolist()

_ORACLES: dict[str, PartsResult] = {}


def reference(name: str) -> PartsResult:
    if name not in _ORACLES:
        _ORACLES[name] = parts_oracle(*make_pair(name), make_ids()[:1])
    return _ORACLES[name]


def to_pair(base: Any, tuned: Any, backend: str) -> ModelPair:
    base, tuned = copy.deepcopy(base), copy.deepcopy(tuned)
    return ModelPair.from_pretrained(base, tuned, tokenizer=make_tokenizer(), backend=backend)


def close(actual: Tensor, expected: Tensor, size: Tensor) -> bool:
    return bool((actual.double() - expected).abs().sum() <= 2e-6 * size.abs().sum())


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_attention_and_mlp_are_those_of_plain_transformers(name: str, backend: str) -> None:
    expected = reference(name)
    pair = to_pair(*make_pair(name), backend)
    found = record(pair, pair.prompt(PROMPT), -2)
    at = (0, N_TOKENS - 2)
    for layer, block in enumerate(found.blocks):
        attention, mlp = ([side[layer][at] for side in part] for part in (expected.attention, expected.mlp))
        base_mlp = block.base["mlp"] if "mlp" in block.base else block.base["experts"] + block.base["shared experts"]
        # A change is the small difference of two outputs, so its error goes with the size of those.
        assert close(block.base["attention"], attention[0], attention[0]), layer
        assert close(base_mlp, mlp[0], mlp[0] + attention[0]), layer
        assert close(block.change["attention"], attention[1] - attention[0], attention[1]), layer
        assert close(block.mlp_change, mlp[1] - mlp[0], mlp[1]), layer
        assert close(block.passed_on, expected.passed_on[layer][at], mlp[1]), layer


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_shares_add_up_to_tuco_and_heads_to_attention(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    found = pair.components(PROMPT, heads=True)
    tuco = pair.measure([PROMPT], progress=False)[0].tuco
    assert found.tuco == pytest.approx(tuco, rel=1e-5)
    assert found.values.sum() == pytest.approx(tuco, rel=1e-5)
    assert found.preco.sum() == pytest.approx(1 - tuco, rel=1e-5)
    names = ("experts",) if "mixtral" in name else ("mlp",)
    assert found.components == ("attention", *names)
    mlp = found.values[:, 1]
    assert found.mlp_split.sum(axis=1) == pytest.approx(mlp, rel=1e-5, abs=1e-6 * np.abs(mlp).max())
    assert found.heads is not None
    assert found.head_bias is not None
    assert found.heads.shape == (pair.n_layers, 4)
    whole = found.values[:, 0]
    assert np.abs(found.heads.sum(axis=1) + found.head_bias - whole).max() <= 1e-5 * np.abs(whole).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt"])
def test_each_head_is_what_its_columns_of_the_output_matrix_add(name: str, backend: str) -> None:
    models = make_pair(name)
    pair = to_pair(*models, backend)
    found = pair.components(PROMPT, heads=True)
    recording = record(pair, pair.prompt(PROMPT))
    direction = recording.directions("l1")[1]
    for layer in range(pair.n_layers):
        base, tuned = (
            _head_vectors(model, layer, stream=_stream_before(models[1], layer)) @ direction for model in models
        )
        assert found.heads is not None
        assert found.heads[layer] == pytest.approx((tuned - base).numpy(), rel=1e-3, abs=2e-7)


@torch.no_grad()
def _stream_before(model: nn.Module, layer: int) -> tuple[Any, Any]:
    """The arguments with which a layer of the tuned model is called on the prompt."""
    calls: list[Any] = []
    hook = layers_of(model)[layer].register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    model(torch.tensor([PROMPT]), use_cache=False)
    hook.remove()
    return calls[0]


@torch.no_grad()
def _head_vectors(model: nn.Module, layer: int, stream: tuple[Any, Any]) -> Tensor:
    """What every head of a plain transformers layer adds at the last token, [head, d_model]."""
    block = layers_of(model)[layer]
    out = next(m for n, m in block.named_modules() if n.endswith(("o_proj", "out_proj", "attn.c_proj")))
    seen: list[tuple[Tensor, Tensor]] = []
    hook = out.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    block(*stream[0], **stream[1])
    hook.remove()
    z, raw = (values[0, -1] for values in seen[0])
    weight = out.weight if type(out).__name__ == "Conv1D" else out.weight.T  # [unit, d_model]
    heads = torch.stack([z[part] @ weight[part] for part in torch.arange(len(z)).chunk(4)])
    if hasattr(block, "post_feedforward_layernorm"):  # a post-norm, at the scale of this pass
        scale = (raw.square().mean() + block.post_attention_layernorm.eps).sqrt()
        heads = heads / scale * (1 + block.post_attention_layernorm.weight)
    return heads.double()


@pytest.mark.parametrize("backend", BACKENDS)
def test_neurons_are_the_largest_of_all_of_their_output_matrix(backend: str) -> None:
    models = make_pair("llama")
    pair = to_pair(*models, backend)
    n_neurons = 3 * 96
    found = pair.components(PROMPT, neurons=n_neurons + 5)
    direction = record(pair, pair.prompt(PROMPT)).directions("l1")[1]
    assert found.neurons is not None
    assert found.neuron_shares is not None
    expected = np.zeros((3, 96))
    for layer in range(3):
        for sign, model in zip((-1, 1), models, strict=True):
            block = layers_of(model)[layer]
            seen: list[Tensor] = []
            hook = block.mlp.down_proj.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            args, kwargs = _stream_before(models[1], layer)
            with torch.no_grad():
                block(*args, **kwargs)
            hook.remove()
            added = seen[-1][0, -1, :, None] * block.mlp.down_proj.weight.T  # [neuron, d_model]
            expected[layer] += sign * (added.double() @ direction).detach().numpy()
    assert len(found.neurons) == n_neurons
    assert [expected[tuple(place)] for place in found.neurons] == pytest.approx(found.neuron_shares, rel=1e-3, abs=1e-7)
    sizes = np.abs(found.neuron_shares)
    assert (sizes[:-1] >= sizes[1:]).all()
    few = pair.components(PROMPT, neurons=3)
    assert few.neurons is not None
    assert few.neurons.tolist() == found.neurons[:3].tolist()


@pytest.mark.bridge  # a HookedTransformer has no shared experts
def test_routed_and_shared_experts_are_apart() -> None:
    sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
    config = hf.Qwen2MoeConfig(
        **sizes, **moe, num_key_value_heads=2, intermediate_size=48, shared_expert_intermediate_size=40
    )
    torch.manual_seed(0)
    base = hf.Qwen2MoeForCausalLM(config).eval()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[0].mlp.shared_expert.down_proj.weight.mul_(1.5)
        tuned.model.layers[1].mlp.experts.down_proj.mul_(1.5)
    found = to_pair(base, tuned, "bridge").components(PROMPT)
    assert found.components == ("attention", "experts", "shared experts")
    assert found.norms[0] == pytest.approx([0, 0, found.norms[0, 2]], abs=1e-6)
    assert found.norms[0, 2] > 1e-3
    assert found.norms[1, 1] > 1e-3
    assert found.norms[1, 2] < 1e-5 * found.norms[1, 1] + 1e-6
    assert found.values.sum() == pytest.approx(found.tuco, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_l2_shares_add_up_to_tuco_in_l2(backend: str) -> None:
    pair = tiny_pair(backend)
    found = pair.components("one two", norm="l2", position=3)
    tuco = pair.measure([pair.prompt("one two").token_ids[:4]], norm="l2", progress=False)[0].tuco
    assert found.values.sum() == pytest.approx(tuco, rel=1e-5)
    parts = record(pair, pair.prompt("one two"), 3).blocks
    wanted = [[float(block.change[name].square().sum()) ** 0.5 for name in ("attention", "mlp")] for block in parts]
    assert found.norms == pytest.approx(np.array(wanted), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_models_have_no_shares(backend: str) -> None:
    found = tiny_pair(backend, strength=0.0).components("one two", heads=True, neurons=2)
    assert found.tuco == 0
    for values in (found.values, found.heads, found.head_bias, found.mlp_split, found.neuron_shares):
        assert not np.any(values)
    assert "adds nothing" in found.summary()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scaling_scales_what_each_component_adds(backend: str) -> None:
    pair = tiny_pair(backend)
    with pair.scaled({0: 0.5, 1: 0.0}, positions=slice(2, None)):
        found = pair.components("one two", heads=True)
        tuco = pair.measure(["one two"], progress=False)[0].tuco
        before = pair.components("one two", position=1)
    assert found.values.sum() == pytest.approx(tuco, rel=1e-5)
    assert found.components == ("attention", "mlp")
    assert np.abs(found.norms[1]).max() <= 1e-6
    assert before.norms[1].min() > 1e-3
    plain = pair.components("one two", heads=True)
    # x_0 is the same, so half of FTC_0 is what it was in full.
    assert found.norms[0] == pytest.approx(plain.norms[0] / 2, rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_hooks_act_and_are_the_only_ones_left(backend: str) -> None:
    pair = tiny_pair(backend)
    block = pair.tuned.blocks[1]

    def ablate(_module: nn.Module, _args: Any, z: Tensor) -> Tensor:
        return z * (torch.arange(z.shape[2:].numel()).reshape(z.shape[2:]) >= 8)

    hooks = [block.attn.hook_z.register_forward_hook(ablate)]
    ablated = pair.components("one two", heads=True)
    base_only = record(pair, pair.prompt("one two"), units=["attention"])
    along = base_only.directions("l1")[1]
    ptc_heads = base_only.blocks[1].units["attention", "base"].along(along).reshape(4, -1).sum(1)
    assert ablated.heads is not None
    assert ablated.heads[1, 0] == pytest.approx(-float(ptc_heads[0]), rel=1e-5)
    assert ablated.values.sum() == pytest.approx(ablated.tuco, rel=1e-5)
    hooks.append(block.hook_resid_post.register_forward_hook(lambda _m, _a, out: out + 0.5))
    steered = pair.components("one two")
    assert steered.components == ("attention", "mlp", "other")
    assert steered.norms[:, 2] == pytest.approx([0, 0.5 * pair.d_model, 0], abs=1e-3)
    assert steered.values.sum() == pytest.approx(steered.tuco, rel=1e-5)
    for hook in hooks:
        hook.remove()
    assert _n_hooks(pair) == 0


def _n_hooks(pair: ModelPair) -> int:
    blocks = [*pair.base.blocks, *pair.tuned.blocks]
    return sum(len(module._forward_hooks) for block in blocks for module in block.modules() if module is not block)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_hook_and_no_changed_weight_is_left_after_an_error(backend: str) -> None:
    pair = tiny_pair(backend)
    before = {name: weight.clone() for name, weight in pair.tuned.named_parameters()}

    def fail(*_: Any) -> None:
        raise RuntimeError("a user's hook")

    hook = pair.tuned.blocks[2].hook_resid_post.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a user's hook"):
        pair.components("one two", heads=True, neurons=3, modules=True)
    hook.remove()
    assert _n_hooks(pair) == 0
    assert all(torch.equal(weight, before[name]) for name, weight in pair.tuned.named_parameters())
    assert pair.components("one two").values.sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_is_what_a_pair_without_its_change_lacks(backend: str) -> None:
    base = tiny_llama()
    tuned = tuned_copy(base)
    tuned.model.embed_tokens.load_state_dict(base.model.embed_tokens.state_dict())
    without = copy.deepcopy(tuned)
    without.model.layers[0].mlp.up_proj.load_state_dict(base.model.layers[0].mlp.up_proj.state_dict())
    whole, part = (
        ModelPair.from_pretrained(copy.deepcopy(base), model, tokenizer=byte_tokenizer(), backend=backend)
        for model in (tuned, without)
    )
    found = whole.components("one two", modules=True)
    assert found.modules == ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out", "biases, norms")
    direction = record(whole, whole.prompt("one two")).directions("l1")[1]
    ftc = [
        pair.run_with_cache("one two", layers=[0], positions=[-1])[1]["ftc", 0][0].double() for pair in (whole, part)
    ]
    assert found.module_shares is not None
    assert found.module_shares[0, 5] == pytest.approx(float((ftc[0] - ftc[1]) @ direction), rel=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_only_changed_module_is_all_of_ftc(backend: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    base = make_model("llama")
    save_adapter(tmp_path, base, peft.LoraConfig(r=4, target_modules=["v_proj"], layers_to_transform=[1]))
    pair = ModelPair.from_pretrained(base, adapter=tmp_path, tokenizer=make_tokenizer(), backend=backend)
    found = pair.components(PROMPT, modules=True, heads=True)
    assert found.modules == ("W_V",)
    assert found.module_shares is not None
    assert np.isnan(found.module_shares[[0, 2]]).all()
    assert found.module_shares[1, 0] == pytest.approx(found.values[1].sum(), rel=1e-4)
    assert found.values[1].sum() == pytest.approx(found.tuco, rel=1e-4)
    assert "adapter" not in found.summary()


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_changed_matrix_is_left_out_once_and_none_that_does_nothing(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    found = pair.components(PROMPT, modules=True)
    assert set(found.modules) == set(weight_changes(pair).matrices)
    assert found.module_shares is not None
    assert not np.isnan(found.module_shares).any()
    assert (np.abs(found.module_shares) > 0).all(axis=0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_that_a_hook_ablates_behind_a_post_norm_has_heads_of_nothing(backend: str) -> None:
    pair = to_pair(*make_pair("gemma2"), backend)
    hooks = [block.attn.hook_z.register_forward_hook(lambda _m, _a, z: z * 0) for block in pair.tuned.blocks]
    found = pair.components(PROMPT, heads=True)
    for hook in hooks:
        hook.remove()
    assert found.heads is not None
    assert found.heads.sum(axis=1) == pytest.approx(found.values[:, 0], rel=1e-4)


def test_the_result_is_a_table_a_file_and_three_figures(tmp_path: Path) -> None:
    found = ModelPair.demo().components("Hello there", chat=True, heads=True, neurons=4, modules=True)
    frame = found.to_frame()
    sums = frame.groupby("kind")["share"].sum()
    assert sums["component"] == pytest.approx(found.tuco, rel=1e-5)
    assert sums["head"] + sums["head bias"] == pytest.approx(found.values[:, 0].sum(), rel=1e-5)
    assert len(frame[frame["kind"] == "neuron"]) == 4
    loaded = Components.load(found.save(tmp_path / "components.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert (loaded.summary(), loaded.tokens, loaded.norm) == (found.summary(), found.tokens, "l1")
    assert f"TuCo {found.tuco:.4f}" in found.summary()
    for theme in ("light", "dark"):
        heatmap = found.figure(theme).data[0]
        assert heatmap.z[:, :2] == pytest.approx(found.values, rel=1e-6)
        assert (heatmap.zmin, heatmap.zmax) == (-heatmap.zmax, heatmap.zmax)
        assert found.heads_figure(theme).data[0].z[:, :-1] == pytest.approx(found.heads, rel=1e-6)
        assert found.modules_figure(theme).data[0].z.shape == (8, 8)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    pair = tiny_pair("bridge")
    for options, why in [
        ({"position": 99}, "the prompt has 7 tokens"),
        ({"norm": "l3"}, "there are l1, l2"),
        ({"neurons": 0}, "at least one"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.components("one two", **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="the base model's"):
        tiny_pair("bridge", strength=0.0).components("one", modules=True)
    with pytest.raises(InputError, match="heads=True"):
        pair.components("one").heads_figure()
    with pytest.raises(InputError, match="modules=True"):
        pair.components("one").modules_figure()
    with pytest.raises(InputError, match="cannot read"):
        Components.load(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no Components"):
        Components.load(pair.measure(["a"], progress=False).save(tmp_path / "other.safetensors"))
    mixtral = to_pair(*make_pair("mixtral"), "bridge")
    with pytest.raises(InputError, match="leave out neurons="):
        mixtral.components(PROMPT, neurons=3)


def test_a_block_is_called_three_times_and_no_more() -> None:
    pair = tiny_pair("bridge")
    calls: dict[str, int] = {"base": 0, "tuned": 0}
    hooks = [
        block.register_forward_pre_hook(lambda *_, side=side: calls.__setitem__(side, calls[side] + 1))
        for side, model in (("base", pair.base), ("tuned", pair.tuned))
        for block in model.blocks
    ]
    pair.components("one two", heads=True, neurons=3)
    for hook in hooks:
        hook.remove()
    assert calls == {"base": 2 * pair.n_layers, "tuned": pair.n_layers}
