"""Change of the weights by layer and matrix, beside the FTC: a plain loop, both backends, adapters, and the figure."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, make_model, make_tokenizer
from tests.checkpoints import save_adapter
from tests.pairs import byte_tokenizer, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import ModelPair
from tuco_lens.attribution.overview import REST, PairOverview, WeightChanges, weight_changes
from tuco_lens.errors import InputError
from tuco_lens.plots.template import LOOKS

PROJECTIONS = {
    "W_Q": "self_attn.q_proj",
    "W_K": "self_attn.k_proj",
    "W_V": "self_attn.v_proj",
    "W_O": "self_attn.o_proj",
    "W_gate": "mlp.gate_proj",
    "W_in": "mlp.up_proj",
    "W_out": "mlp.down_proj",
}
HOSTILE = "</script><b>$x$ %{y}\u202e"


def has_hooked() -> bool:
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return False
    return HookedTransformer is not None


NEEDS_HOOKED = pytest.mark.skipif(not has_hooked(), reason="the installed transformer-lens has no HookedTransformer")
BACKENDS = [pytest.param("hooked", marks=NEEDS_HOOKED), pytest.param("bridge", marks=pytest.mark.bridge)]


def plain_change(base: Any, tuned: Any, layer: int, module: str) -> float:
    """‖ΔW‖/‖W‖ of one module of two Llamas of transformers, entry by entry."""
    before, after = (model.get_submodule(f"model.layers.{layer}.{module}").weight for model in (base, tuned))
    pairs = list(zip(before.flatten().tolist(), after.flatten().tolist(), strict=True))
    return math.sqrt(sum((b - a) ** 2 for a, b in pairs) / sum(a**2 for a, _ in pairs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_value_is_the_relative_frobenius_norm_of_a_slow_plain_loop(backend: str) -> None:
    base = tiny_llama(n_layers=2)
    tuned = tuned_copy(base, 0.3)
    changes = weight_changes(ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend=backend))
    assert changes.matrices == (*PROJECTIONS, REST)
    for layer in range(2):
        for name, module in PROJECTIONS.items():
            found = changes.values[layer, changes.matrices.index(name)]
            assert found == pytest.approx(plain_change(base, tuned, layer, module), rel=1e-5)
    embeddings = [model.get_input_embeddings().weight for model in (base, tuned)]
    wanted = ((embeddings[1] - embeddings[0]).norm() / embeddings[0].norm()).item()
    assert changes.outside["W_E"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_models_give_exactly_0(backend: str) -> None:
    changes = weight_changes(tiny_pair(backend, strength=0.0))
    assert (changes.values == 0).all()
    assert set(changes.outside.values()) == {0.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_shows_in_its_own_layer_and_matrix_alone(backend: str) -> None:
    base = tiny_llama()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight.mul_(1.5)
        tuned.model.layers[2].input_layernorm.weight.mul_(2.0)
    changes = weight_changes(ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend=backend))
    layer, column = 1, changes.matrices.index("W_in")
    assert changes.values[layer, column] == pytest.approx(0.5)
    assert changes.values[2, changes.matrices.index(REST)] == pytest.approx(math.sqrt(0.5))  # one of two equal norms
    assert np.count_nonzero(changes.values) == 2


@pytest.mark.bridge
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_matrix_of_every_architecture_is_seen_once_and_by_its_name(name: str) -> None:
    base = make_model(name)
    tuned = tuned_copy(base, 0.2)
    found = weight_changes(ModelPair.from_pretrained(base, tuned, tokenizer=make_tokenizer(), backend="bridge"))
    assert {"W_Q", "W_K", "W_V", "W_O", "W_out", REST} <= set(found.matrices)
    assert set(found.matrices) <= {*PROJECTIONS, "router", "experts.gate_up_proj", REST}
    assert not np.isnan(found.values).any()
    assert found.values == pytest.approx(np.full_like(found.values, 0.2), abs=0.06)


@NEEDS_HOOKED
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3", "mixtral", "opt", "phi3"])
def test_both_backends_see_the_same_changes(name: str) -> None:
    base = make_model(name)
    tuned = tuned_copy(base, 0.2)
    hooked, bridge = (
        weight_changes(ModelPair.from_pretrained(base, tuned, tokenizer=make_tokenizer(), backend=backend))
        for backend in ("hooked", "bridge")
    )
    joint = {"W_gate", "W_in", "experts.gate_up_proj"} if name == "mixtral" else set[str]()
    assert set(hooked.matrices) ^ set(bridge.matrices) == joint
    for column in set(hooked.matrices) & set(bridge.matrices) - {REST}:
        ours, theirs = (changes.values[:, changes.matrices.index(column)] for changes in (bridge, hooked))
        assert ours == pytest.approx(theirs, rel=1e-4), column


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{"r": 4}, {"r": 4, "use_dora": True}, {"r": 2, "lora_alpha": 32}])
def test_of_an_adapter_it_is_the_change_that_the_adapter_makes(
    options: dict[str, Any], backend: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    base = make_model("llama")
    targets = ["q_proj", "down_proj"]
    merged = save_adapter(tmp_path, base, peft.LoraConfig(target_modules=targets, **options))
    pair = ModelPair.from_pretrained(base, adapter=tmp_path, tokenizer=make_tokenizer(), backend=backend)
    before = {name: weight.clone() for name, weight in pair.tuned.named_parameters()}
    changes = weight_changes(pair)
    for layer in range(changes.n_layers):
        for name, module in PROJECTIONS.items():
            wanted = plain_change(base, merged, layer, module)
            assert (wanted > 0) == (module.split(".")[1] in targets)
            assert changes.values[layer, changes.matrices.index(name)] == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    assert all(torch.equal(weight, before[name]) for name, weight in pair.tuned.named_parameters())
    assert set(changes.outside.values()) == {0.0}


def overview(n_prompts: int = 3, **sizes: int) -> tuple[PairOverview, Any]:
    pair = tiny_pair(**sizes)
    measurement = pair.measure(["one two", "three", "four five six"][:n_prompts], progress=False)
    return pair.overview(measurement), measurement


def test_the_ftc_is_the_mean_over_tokens_and_then_over_prompts() -> None:
    found, measurement = overview()
    for layer in range(3):
        means = [sum(item.maps.ftc[layer].tolist()) / item.n_tokens for item in measurement]
        assert found.ftc[layer] == pytest.approx(sum(means) / 3, rel=1e-5)
        assert found.ftc_low[layer] < found.ftc[layer] < found.ftc_high[layer]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_traces_hold_both_statistics_on_one_layer_axis(theme: str) -> None:
    found, _ = overview()
    figure = found.figure(theme)  # pyright: ignore[reportArgumentType]
    heatmap, bars = figure.data
    assert heatmap.z == pytest.approx(found.weights.values, rel=1e-6)
    assert heatmap.z.dtype == bars.x.dtype == np.float32
    assert heatmap.y.tolist() == bars.y.tolist() == [0, 1, 2]
    assert bars.x == pytest.approx(found.ftc, rel=1e-6)
    assert bars.error_x.array == pytest.approx(found.ftc_high - found.ftc, rel=1e-4)
    assert list(figure.layout.xaxis.ticktext) == list(found.weights.matrices)
    assert figure.layout.yaxis2.matches == "y"
    assert "FTC of 3 prompts, 95 % interval" in figure.layout.title.subtitle.text
    assert figure.layout.template.layout.paper_bgcolor == LOOKS[theme].paper
    assert len(found.weights.figure().data) == 1


def test_one_prompt_one_layer_and_one_token_are_drawn_without_an_interval() -> None:
    found, _ = overview(n_prompts=1, n_layers=1)
    bars = found.figure().data[1]
    assert bars.error_x.visible is False
    assert "FTC of 1 prompt, no interval" in found.figure().layout.title.subtitle.text
    assert bars.x.shape == (1,)


def test_refinements_give_new_objects_that_keep_layer_numbers() -> None:
    whole, _ = overview()
    part = whole.layers(1).clip(0, 0.5)
    heatmap, bars = part.figure().data
    assert heatmap.y.tolist() == bars.y.tolist() == [1, 2]
    assert bars.x == pytest.approx(whole.ftc[1:])
    assert heatmap.z == pytest.approx(whole.weights.values[1:], rel=1e-6)
    assert (heatmap.zmin, heatmap.zmax) == (0, 0.5)
    assert part.layers(2, 3).weights.first_layer == 2
    assert len(whole.ftc) == 3
    with pytest.raises(InputError, match="no layers left"):
        whole.layers(3)


def test_nothing_measured_and_another_depth_are_refused() -> None:
    pair = tiny_pair()
    deeper = tiny_pair(n_layers=4).measure(["a"], progress=False)
    with pytest.raises(InputError, match="the pair has 3 layers and the measurement 4"):
        pair.overview(deeper)
    with pytest.raises(InputError, match="the measurement has no prompts"):
        pair.overview(type(deeper)((), deeper.settings))


def test_missing_values_and_hostile_names_are_drawn_as_such() -> None:
    changes = WeightChanges(np.array([[0.1, math.nan]]), ("W_Q", HOSTILE), {HOSTILE: 0.1}, HOSTILE, HOSTILE)
    nan = np.array([math.nan])
    figure = PairOverview(changes, nan, nan, nan, 2, "l1").figure()
    said = figure.layout.title.subtitle.text
    assert "1 of 2 matrices missing" in said
    assert "1 of 1 values missing" in said
    told = [figure.layout.to_plotly_json(), figure.data[0].customdata.tolist()]
    drawn = json.dumps(told, ensure_ascii=False, default=str)
    assert "<b>$" not in drawn
    assert "&lt;b&gt;&#36;x" in drawn
    assert "\u202e" not in json.dumps(figure.layout.to_plotly_json(), ensure_ascii=False, default=str)
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)
