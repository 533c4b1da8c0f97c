"""Causal maps: a patched cell is that cell scaled by hand, and plain transformers says the same of its pieces."""

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
from tests.integration.test_integrated_gradients import difference, plain_logits
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.metric import Continuation
from tuco_lens.attribution.patching import InterruptedWarning, Patching
from tuco_lens.errors import InputError


@torch.no_grad()
def scaled_metric(pair: ModelPair, alpha: Any, positions: Any = None) -> float:
    ids = torch.tensor([pair.prompt("one two").token_ids])
    with pair.scaled(alpha, positions=positions):
        return float(difference(pair.tuned(ids))[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alpha", [0.0, -0.5])
def test_a_layer_or_token_is_that_cell_scaled_by_hand_and_all_are_scaled(backend: str, alpha: float) -> None:
    pair = tiny_pair(backend)
    one, other = scaled_metric(pair, 1.0), scaled_metric(pair, alpha)
    layers = pair.patching("one two", difference, alpha=alpha)
    assert (layers.unpatched, layers.all_patched) == pytest.approx((one, other), abs=1e-5)
    assert layers.whole == pytest.approx(one - other, abs=1e-5)
    by_hand = [one - scaled_metric(pair, {layer: alpha}) for layer in range(3)]
    assert layers.values[:, 0] == pytest.approx(by_hand, abs=1e-5)
    cells = pair.patching("one two", difference, over="layer_token", alpha=alpha, batch_size=5)
    assert cells.values.shape == (3, len(cells.tokens))
    for layer, token in [(0, 2), (1, 0), (1, 6), (2, 6)]:
        expected = one - scaled_metric(pair, {layer: alpha}, [token])
        assert cells.values[layer, token] == pytest.approx(expected, abs=1e-5), (layer, token)
    alone = pair.patching("one two", difference, way="in", alpha=alpha)
    by_hand = [scaled_metric(pair, [1.0 if i == layer else alpha for i in range(3)]) - other for layer in range(3)]
    assert alone.values[:, 0] == pytest.approx(by_hand, abs=1e-5)
    assert alone.whole == pytest.approx(one - other, abs=1e-5)
    assert np.abs(by_hand).min() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_components_and_heads_are_those_of_plain_transformers(backend: str) -> None:
    models = make_pair("llama")
    pair = to_pair(*models, backend)
    base, tuned = (copy.deepcopy(model).double() for model in models)
    everywhere = range(len(PROMPT))
    for way, rest, amount in (("out", 1.0, -1.0), ("in", 0.0, 1.0)):
        alphas = torch.full((3, len(PROMPT)), rest, dtype=torch.float64)
        unpatched = float(difference(plain_logits(base, tuned, alphas))[0])
        for over, cells in {
            "component": [(0, "attention"), (1, "mlp"), (2, "attention")],
            "head": [(0, "1"), (1, "3"), (2, "0")],
        }.items():
            found = pair.patching(PROMPT, difference, over=over, way=way)  # pyright: ignore[reportArgumentType]
            assert found.unpatched == pytest.approx(unpatched, abs=2e-5)
            for layer, part in cells:
                more = {(layer, token, part): amount for token in everywhere}
                patched = float(difference(plain_logits(base, tuned, alphas, more))[0])
                effect = found.values[layer, found.columns.index(part)]
                assert effect == pytest.approx(-amount * (unpatched - patched), abs=3e-5), (way, layer, part)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_is_the_tuned_model_with_the_base_models_matrix(backend: str) -> None:
    base, tuned = (model for model in make_pair("llama"))
    pair = to_pair(base, tuned, backend)
    found = pair.patching(PROMPT, difference, over="module")
    for layer, column, name in [
        (0, "W_V", "self_attn.v_proj"),
        (1, "W_O", "self_attn.o_proj"),
        (2, "W_in", "mlp.up_proj"),
    ]:
        swapped = copy.deepcopy(tuned)
        swapped.model.layers[layer].get_submodule(name).weight.data = (
            base.model.layers[layer].get_submodule(name).weight.data
        )
        with torch.no_grad():
            one, other = (float(difference(m(torch.tensor([PROMPT])).logits)[0]) for m in (tuned, swapped))
        assert found.values[layer, found.columns.index(column)] == pytest.approx(one - other, abs=3e-5)
    alone = pair.patching(PROMPT, difference, over="module", way="in", layers=[2])
    assert np.isnan(alone.values[:2]).all()
    assert np.isfinite(alone.values[2]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_neox", "bloom", "mixtral"])
def test_gradients_of_the_pieces_add_up_and_are_the_effects_of_small_patches(name: str, backend: str) -> None:
    pair = to_pair(*make_pair(name), backend)
    layers = pair.patching(PROMPT, difference, alpha=0.0, layers=[])
    assert np.isnan(layers.values).all()
    components = pair.patching(PROMPT, difference, over="component", layers=[])
    cells = pair.patching(PROMPT, difference, over="layer_token", layers=[])
    assert layers.gradients is not None
    assert components.gradients is not None
    assert cells.gradients is not None
    assert components.gradients.sum(axis=1) == pytest.approx(layers.gradients[:, 0], abs=2e-5)
    assert cells.gradients.sum(axis=1) == pytest.approx(layers.gradients[:, 0], abs=2e-5)
    small = pair.patching(PROMPT, difference, alpha=0.95)
    assert small.gradients is not None
    assert small.gradients == pytest.approx(0.05 * layers.gradients, rel=1e-4, abs=1e-7)
    size = np.abs(small.gradients).max()
    assert small.values == pytest.approx(small.gradients, abs=0.1 * size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shares_are_those_of_the_components(backend: str) -> None:
    pair = tiny_pair(backend)
    found = pair.components("one two", heads=True, modules=True)
    for over, expected in {
        "layer": found.values.sum(axis=1, keepdims=True),
        "component": found.values,
        "head": found.heads,
        "module": found.module_shares,
    }.items():
        patched = pair.patching("one two", over=over, layers=[])  # pyright: ignore[reportArgumentType]
        assert patched.shares == pytest.approx(expected, nan_ok=True)
    cells = pair.patching("one two", over="layer_token", layers=[])
    assert cells.shares[:, -1] == pytest.approx(found.values.sum(axis=1), rel=1e-4)
    by_token = pair.measure(["one two"], progress=False)[0].layer_token("cumulative")[-1]
    assert cells.shares.sum(axis=0) == pytest.approx(by_token.numpy(), rel=1e-4)


def test_layers_are_patched_where_no_parts_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair("bridge")
    expected = {over: pair.patching("one two", difference, over=over) for over in ("layer", "layer_token")}

    def refuse(*_: Any) -> None:
        raise InputError("no components on this architecture", "its blocks have other parts", "use run_with_cache")

    monkeypatch.setattr("tuco_lens.attribution.patching.components", refuse)
    for over, before in expected.items():
        assert pair.patching("one two", difference, over=over).values == pytest.approx(before.values)  # pyright: ignore
    with pytest.raises(InputError, match="no components on this architecture"):
        pair.patching("one two", difference, over="component")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_map_goes_on_from_its_result(backend: str, tmp_path: Path) -> None:
    pair = tiny_pair(backend)
    whole = pair.patching("one two", difference, over="layer_token")
    rows: list[int] = []

    def impatient(logits: Tensor) -> Tensor:
        rows.append(len(logits))
        if len(rows) == 8:
            raise KeyboardInterrupt
        return difference(logits)

    options: dict[str, Any] = {"over": "layer_token", "batch_size": 4}
    with pytest.warns(InterruptedWarning, match="cells left; give this result as resume="):
        partial = pair.patching("one two", impatient, **options)
    n_done = int(np.isfinite(partial.values).sum())
    assert 0 < n_done < whole.values.size
    assert partial.n_missing == whole.values.size - n_done
    assert "cells were not patched" in partial.summary()
    loaded = Patching.load(partial.save(tmp_path / "map.safetensors"))
    rows.clear()
    rows.extend([0] * 9)
    done = pair.patching("one two", impatient, resume=loaded, **options)
    assert done.values == pytest.approx(whole.values, abs=1e-5)
    assert sum(rows[9:]) - (whole.values.size - n_done) <= 4  # beside the missing cells: both ends, record, gradient
    with pytest.raises(InputError, match="its over is another"):
        pair.patching("one two", difference, resume=loaded)
    with pytest.raises(InputError, match="its tokens is another"):
        pair.patching("one twe", difference, resume=loaded, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_taking_out_runs_the_tuned_model_alone(backend: str) -> None:
    pair = tiny_pair(backend)
    calls: list[str] = []
    handles = [
        block.register_forward_hook(lambda _m, _a, _o, side=side: calls.append(side))
        for side, model in (("base", pair.base), ("tuned", pair.tuned))
        for block in model.blocks
    ]
    counts: list[tuple[int, int]] = []
    for layers in ([], [0, 1, 2]):
        calls.clear()
        pair.patching("one two", difference, over="layer_token", layers=layers, batch_size=6)
        counts.append((calls.count("base"), calls.count("tuned")))
    for handle in handles:
        handle.remove()
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] - counts[0][1] == 3 * 4  # 21 cells in batches of 6, three blocks each


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_hooks_act_and_nothing_of_ours_is_left(backend: str) -> None:
    pair = tiny_pair(backend)
    hook = pair.tuned.blocks[1].attn.hook_z.register_forward_hook(lambda _m, _a, z: z * 0)
    found = pair.patching("one two", difference)
    by_hand = [scaled_metric(pair, 1.0) - scaled_metric(pair, {layer: 0.0}) for layer in range(3)]
    hook.remove()
    assert found.values[:, 0] == pytest.approx(by_hand, abs=1e-5)
    assert found.unpatched != pytest.approx(scaled_metric(pair, 1.0), abs=1e-4)
    wanted = [weight.requires_grad for weight in pair.tuned.parameters()]
    for over in ("layer", "head", "module"):
        seen = 0

        def fail(logits: Tensor) -> Tensor:
            nonlocal seen
            seen += 1
            if seen > 3:
                raise RuntimeError("a user's metric")
            return difference(logits)

        with pytest.raises(RuntimeError, match="a user's metric"):
            pair.patching("one two", fail, over=over, way="in")  # pyright: ignore[reportArgumentType]
        assert [weight.requires_grad for weight in pair.tuned.parameters()] == wanted
        blocks = [*pair.base.blocks, *pair.tuned.blocks]
        assert not any(m._forward_hooks for block in blocks for m in block.modules() if m is not block)


def test_the_result_is_a_table_a_file_and_figures(tmp_path: Path) -> None:
    pair = tiny_pair("bridge")
    for over in ("layer", "layer_token", "component", "head", "module"):
        found = pair.patching("one two", answer="a", against="b", over=over)  # pyright: ignore[reportArgumentType]
        frame = found.to_frame()
        assert frame["effect"].to_numpy().reshape(found.values.shape) == pytest.approx(found.values, nan_ok=True)
        loaded = Patching.load(found.save(tmp_path / f"{over}.safetensors"))
        assert loaded.to_frame().equals(frame)
        assert loaded.summary() == found.summary()
        assert "'a' over 'b'" in found.summary()
        rank = frame[["effect", "gradient", "share"]].corr(method="spearman")
        if len(frame) > 2:
            assert found.rank_correlation("effect", "share") == pytest.approx(rank.loc["effect", "share"])
            assert found.rank_correlation("effect", "gradient") == pytest.approx(rank.loc["effect", "gradient"])
        for theme in ("light", "dark"):
            assert found.figure(theme).data[0].z == pytest.approx(found.values, rel=1e-6, nan_ok=True)  # pyright: ignore
            drawn = [trace.z for trace in found.comparison_figure(theme).data]  # pyright: ignore
            assert drawn[0] == pytest.approx(found.shares, rel=1e-6, nan_ok=True)
            assert drawn[2] == pytest.approx(found.values, rel=1e-6, nan_ok=True)


def test_a_metric_without_gradient_has_effects_alone() -> None:
    pair = tiny_pair("bridge")
    found = pair.patching("one two", lambda logits: (logits[:, -1].argmax(-1) == 7).double())
    assert found.gradients is None
    assert np.isfinite(found.values).all()
    assert len(found.comparison_figure().data) == 2  # pyright: ignore
    with pytest.raises(InputError, match="no 'gradient' of these cells"):
        found.rank_correlation("effect", "gradient")
    answers = pair.patching("one two", Continuation("ab"), over="layer_token")
    assert answers.tokens[-2:] == ("a", "b")
    assert answers.values[:, -1] == pytest.approx(0)  # its last token is asked for, and never read


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")
    for options, why in [
        ({"over": "neuron"}, "over 'neuron'"),
        ({"way": "up"}, "'out' and 'in'"),
        ({"alpha": 1.0}, "alpha is 1"),
        ({"alpha": float("inf")}, "finite"),
        ({"layers": [3]}, "layer 3 is out of range"),
        ({"positions": [0]}, "only over 'layer_token'"),
        ({"positions": [99], "over": "layer_token"}, "position 99 is out of range"),
        ({"metric": difference, "answer": 7}, "two questions"),
        ({"answer": "ab"}, "2 tokens"),
        ({"metric": lambda logits: logits}, "a tensor of shape"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.patching("one", **options)  # pyright: ignore[reportArgumentType]
    with pair.scaled(0.5), pytest.raises(InputError, match="a scaling is on"):
        pair.patching("one", answer=7)
    with pytest.raises(InputError, match="no modules to leave out"):
        tiny_pair("bridge", strength=0.0).patching("one", answer=7, over="module")
