"""Shares of TuCo by the token that attention reads from: they add up, and are plain attention's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.architectures import make_pair
from tests.integration.test_components import BACKENDS, CASES, PROMPT, to_pair
from tests.oracle import layers_of
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.recording import record
from tuco_lens.attribution.sources import Sources
from tuco_lens.errors import InputError


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_source_tokens_add_up_to_attentions_share(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    found = pair.sources(PROMPT, position=-3)
    wanted = pair.components(PROMPT, position=-3).values[:, 0]
    assert found.values.shape == (pair.n_layers, len(PROMPT) - 2)
    assert np.abs(found.values.sum(axis=1) + found.bias - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert found.attention == pytest.approx(wanted, rel=1e-5, abs=1e-6 * np.abs(wanted).max())
    assert found.position == len(PROMPT) - 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_token_is_its_pattern_times_value_of_plain_transformers(backend: str) -> None:
    models = make_pair("llama")
    pair = to_pair(*models, backend)
    found = pair.sources(PROMPT)
    direction = record(pair, pair.prompt(PROMPT)).directions("l1")[1]
    calls: list[Any] = []
    for model in models:
        model.config._attn_implementation = "eager"
    hooks = [
        layer.register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
        for layer in layers_of(models[1])
    ]
    with torch.no_grad():
        models[1](torch.tensor([PROMPT]), use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer, call in enumerate(calls):
        base, tuned = (_reads(layers_of(model)[layer], *call) @ direction for model in models)
        assert found.values[layer] == pytest.approx((tuned - base).numpy(), rel=1e-3, abs=2e-7)


@torch.no_grad()
def _reads(block: Any, args: Any, kwargs: Any) -> Tensor:
    """What a layer's attention adds at the last token by reading each token, [source, d_model]."""
    seen: list[Tensor] = []
    hooks = [
        block.self_attn.register_forward_hook(lambda _m, _a, output: seen.append(output[1])),
        block.self_attn.v_proj.register_forward_hook(lambda _m, _a, output: seen.append(output)),
    ]
    block(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    values, weights = seen  # [1, source, 2 groups * 16], [1, 4 heads, query, source]
    added = torch.zeros(values.shape[1], 64, dtype=torch.float64)
    for head in range(4):
        group = head // 2
        out = block.self_attn.o_proj.weight[:, 16 * head : 16 * (head + 1)]
        read = values[0, :, 16 * group : 16 * (group + 1)] @ out.T
        added += (weights[0, head, -1, :, None] * read).double()
    return added


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_that_users_hooks_hide_is_read_by_the_base_alone(backend: str) -> None:
    pair = tiny_pair(backend)

    def hide(_module: Any, _args: Any, pattern: Tensor) -> Tensor:
        return pattern * (torch.arange(pattern.shape[-1]) != 2)

    hook = pair.tuned.blocks[1].attn.hook_pattern.register_forward_hook(hide)
    found = pair.sources("one two")
    recording = record(pair, pair.prompt("one two"), units=["attention"], sources=True)
    hook.remove()
    block, direction = recording.blocks[1], recording.directions("l1")[1]
    base = block.readings["base"].along(block.units["attention", "base"].pulled(direction)).sum(0)
    assert found.values[1, 2] == pytest.approx(-float(base[2]), rel=1e-5)
    assert found.values[1].sum() == pytest.approx(found.attention[1], rel=1e-5)
    z = pair.tuned.blocks[1].attn.hook_z
    hook = z.register_forward_hook(lambda _m, _a, z: z * 0)
    ablated = pair.sources("one two")
    hook.remove()
    assert ablated.values[1].sum() == pytest.approx(ablated.attention[1], rel=1e-5)
    hook = z.register_forward_hook(lambda _m, _a, z: z.flip(-1))
    with pytest.raises(InputError, match="hooks on hook_z"):
        pair.sources("one two")
    hook.remove()
    blocks = [*pair.base.blocks, *pair.tuned.blocks]
    assert not any(m._forward_hooks for block in blocks for m in block.modules() if m is not block)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scalings_scale_it_and_equal_models_read_nothing(backend: str) -> None:
    pair = tiny_pair(backend)
    with pair.scaled(0.5):
        found, wanted = pair.sources("one two"), pair.components("one two")
    attention = wanted.values[:, 0]
    assert found.values.sum(axis=1) == pytest.approx(attention, rel=1e-5, abs=1e-6 * np.abs(attention).max())
    assert not tiny_pair(backend, strength=0.0).sources("one two").values.any()


def test_the_result_is_a_table_a_file_a_figure_and_a_text(tmp_path: Path) -> None:
    found = ModelPair.demo().sources("Hello there", chat=True, position=-2)
    frame = found.to_frame()
    assert frame["share"].sum() == pytest.approx(found.attention.sum(), rel=1e-5)
    assert frame[frame["position"] == 3]["share"].sum() == pytest.approx(found.by_token[3])
    loaded = Sources.load(found.save(tmp_path / "sources.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert loaded.summary() == found.summary()
    assert len(found.tokens) == found.position + 1
    for theme in ("light", "dark"):
        assert found.figure(theme).data[0].z == pytest.approx(found.values, rel=1e-6)  # pyright: ignore
    assert found.colored_tokens().values == pytest.approx(found.by_token)


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")
    for options, why in [({"norm": "l3"}, "there are l1, l2"), ({"position": 99}, "tokens")]:
        with pytest.raises(InputError, match=why):
            pair.sources("one", **options)  # pyright: ignore[reportArgumentType]
