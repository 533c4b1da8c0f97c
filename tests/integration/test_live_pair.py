"""A model in training, as a pair: it is the model as it is now, beside what it began from, and shares its weights.

The oracle is the slow float64 loop of `tests/oracle.py` over the trained model itself and a copy made before training.
"""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
import transformers as hf

from benchmarks._live_bytes import LiveBytes
from tests.architectures import make_ids, make_model, make_tokenizer
from tests.oracle import oracle
from tuco_lens import InputError, LoadError, PairMismatchError
from tuco_lens.tunes.frozen import FrozenCopy
from tuco_lens.tunes.live import LivePair, given_weights, plain_model, require_whole

peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")

from tests.adapters import ALL, KINDS, Lora  # noqa: E402 - it needs peft

pytestmark = [pytest.mark.bridge, pytest.mark.usefixtures("one_thread")]

HERE = FrozenCopy()
TOLERANCE = 5e-6


def train(model: Any, strength: float = 0.05) -> None:
    """Moves every weight that trains, in place, as an optimizer does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * strength)


def live_pair(model: Any, keep: FrozenCopy = HERE, **how: Any) -> LivePair:
    return LivePair(model, make_tokenizer(), keep=keep, **how)


def tuco(live: LivePair, model: Any) -> torch.Tensor:
    measured = live.pair(model).measure(make_ids().tolist(), keep="last", progress=False)
    return measured.tuco.double()


def expected(start: Any, model: Any) -> torch.Tensor:
    return oracle(plain_model(start), plain_model(model), make_ids()).tuco()


NAMES = ["llama", "llama, biases", "gpt2", "gpt_neox", "phi3", "mixtral", "gemma3", "gemma2", "bloom", "opt"]
"""gpt2, gpt_neox, phi3 and bloom have joint projections, which the bridge takes apart."""


@pytest.mark.parametrize("name", NAMES)
def test_full_fine_tuning_is_followed_from_exactly_0_on(name: str) -> None:
    model: Any = make_model(name).train()
    start, live = copy.deepcopy(model), live_pair(model)
    assert not tuco(live, model).any()
    for _ in range(2):
        train(model)
        torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_lora_on_every_linear_layer_is_followed_from_exactly_0_on(name: str) -> None:
    start = make_model(name)
    model: Any = peft.get_peft_model(copy.deepcopy(start), Lora(r=4, target_modules="all-linear")).train()
    live = live_pair(model)
    assert not tuco(live, model).any()
    for _ in range(2):
        train(model)
        torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)
    assert live.frozen_bytes == 0


NOT_0_AT_FIRST = {"LoRA, orthogonal", "HRA", "FourierFT", "C3A", "VB-LoRA"}
"""Kinds that change the model when they are made: a little at random, or by rounding alone."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_followed(kind: str) -> None:
    start = make_model("llama")
    model: Any = peft.get_peft_model(copy.deepcopy(start), KINDS[kind]).train()
    live = live_pair(model)
    first = tuco(live, model)
    assert torch.equal(first, torch.zeros_like(first)) or kind in NOT_0_AT_FIRST
    torch.testing.assert_close(first, expected(start, model), rtol=0, atol=TOLERANCE)
    train(model)
    torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)


SAVED: dict[str, tuple[str, Any]] = {
    "a saved unembedding": ("llama", Lora(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "saved embeddings": ("llama", Lora(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "a saved tied embedding": (
        "llama, biases",
        Lora(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ),
    "saved norms": ("llama", Lora(r=4, target_modules=["q_proj"], modules_to_save=["input_layernorm"])),
    "trained biases": ("llama, biases", Lora(r=4, target_modules=["q_proj"], bias="all")),
    "the adapter's biases": ("llama, biases", Lora(r=4, target_modules=["q_proj"], bias="lora_only")),
    "embeddings with LoRA": ("llama", Lora(r=4, target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "trained rows": ("llama", Lora(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 64])),
    "experts": ("mixtral", Lora(r=4, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])),
}


@pytest.mark.parametrize("kind", SAVED)
def test_what_else_an_adapter_trains_is_followed(kind: str) -> None:
    name, config = SAVED[kind]
    start = make_model(name)
    model: Any = peft.get_peft_model(copy.deepcopy(start), config).train()
    live = live_pair(model)
    assert not tuco(live, model).any()
    train(model)
    # Embeddings are the tuned model's in both: what they change is in x_0, which is neither PTC nor FTC.
    torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)


def test_the_model_in_training_keeps_its_modules_hooks_modes_and_gradients() -> None:
    model: Any = peft.get_peft_model(make_model("llama"), Lora(r=4, target_modules=ALL)).train()
    model.enable_input_require_grads()
    model(make_ids(), labels=make_ids()).loss.backward()
    seen: list[int] = []
    model.get_base_model().model.layers[1].register_forward_hook(lambda *_: seen.append(1))
    before = state_of(model)
    live = live_pair(model)
    tuco(live, model)
    assert state_of(model) == before
    assert seen == [], "a hook of the training fired while it was measured"


def state_of(model: Any) -> list[Any]:
    """Whatever a measurement could have changed, but for values, which are shared."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [
        (name, id(m), m.training, vars(m).get("forward"), *(list(vars(m)[h].values()) for h in hooks))
        for name, m in model.named_modules()
    ]
    grads = [None if p.grad is None else (id(p.grad), p.grad.sum().item()) for p in model.parameters()]
    parameters = [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()]
    config = plain_model(model).config
    return [modules, parameters, grads, config.to_dict(), config._attn_implementation]


def test_an_adapter_costs_no_memory_and_full_fine_tuning_the_weights_of_the_blocks() -> None:
    for config in (None, Lora(r=4, target_modules=ALL)):
        model: Any = make_model("llama")
        blocks = sum(p.nbytes for p in model.model.layers.parameters())
        model = model if config is None else peft.get_peft_model(model, config)
        with LiveBytes() as memory:
            live = live_pair(model)
            tuco(live, model)
            gc.collect()
        wanted = blocks if config is None else 0
        assert live.frozen_bytes == wanted
        # TransformerLens gives each model a bias of the unembedding.
        assert wanted <= memory.live <= wanted + 0.03 * blocks


def test_what_does_not_train_is_not_cloned() -> None:
    model: Any = make_model("llama").requires_grad_(False)
    model.model.layers[1].mlp.requires_grad_(True)
    start, live = copy.deepcopy(model), live_pair(model)
    assert live.frozen_bytes == sum(p.nbytes for p in model.model.layers[1].mlp.parameters())
    train(model)
    torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)
    model.model.layers[0].requires_grad_(True)
    with pytest.raises(InputError, match=r"model\.layers\.0\..* trains now, and did not when the callback was made"):
        live.pair(model)


def test_with_since_start_the_base_has_the_adapter_that_training_goes_on_with() -> None:
    model: Any = peft.get_peft_model(make_model("llama"), Lora(r=4, target_modules=ALL))
    train(model)
    start = copy.deepcopy(model)
    off, on = live_pair(model), live_pair(model, since_start=True)
    assert tuco(off, model).min() > 0.01
    assert not tuco(on, model).any()
    train(model)
    torch.testing.assert_close(tuco(on, model), expected(start, model), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(tuco(off, model), expected(make_model("llama"), model), rtol=0, atol=TOLERANCE)


def test_a_base_on_disk_gives_the_numbers_of_one_in_memory_and_goes_with_the_pair(tmp_path: Path) -> None:
    for name in ("llama", "llama, biases", "mixtral"):
        model: Any = make_model(name)
        here, there = live_pair(model), live_pair(model, FrozenCopy(folder=tmp_path / "base"))
        assert any((tmp_path / "base").iterdir())
        train(model)
        assert torch.equal(tuco(here, model), tuco(there, model))
        del here, there
        gc.collect()
        assert not any((tmp_path / "base").iterdir())


def test_a_base_in_half_precision_takes_half_and_moves_the_values_by_its_rounding(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        model: Any = make_model("llama")
        whole, half = live_pair(model), live_pair(model, FrozenCopy(dtype=torch.bfloat16, folder=folder))
        assert half.frozen_bytes * 2 == whole.frozen_bytes
        rounded = copy.deepcopy(model)
        rounded.model.layers.to(torch.bfloat16).to(torch.float32)
        torch.testing.assert_close(tuco(half, model), expected(rounded, model), rtol=0, atol=TOLERANCE)
        assert 0 < tuco(half, model).max() < 0.01
        train(model)
        torch.testing.assert_close(tuco(half, model), expected(rounded, model), rtol=0, atol=TOLERANCE)


def test_a_model_in_bfloat16_with_adapters_in_float32_is_followed() -> None:
    start = make_model("llama").bfloat16()
    model: Any = peft.get_peft_model(copy.deepcopy(start), Lora(r=4, target_modules=ALL))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    live = live_pair(model)
    assert not tuco(live, model).any()
    train(model)
    torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=2e-2)


def test_a_quantised_base_with_adapters_is_followed(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra `quantised`) is not installed")
    sizes = {"vocab_size": 128, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **ids, num_attention_heads=4)).save_pretrained(tmp_path)
    how: dict[str, Any] = {"quantization_config": hf.BitsAndBytesConfig(load_in_4bit=True), "device_map": {"": "cpu"}}
    base: Any = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **how)
    base.gradient_checkpointing_enable()
    model: Any = peft.get_peft_model(
        peft.prepare_model_for_kbit_training(base), Lora(r=4, target_modules=["q_proj", "down_proj"])
    )
    live = live_pair(model)
    assert not tuco(live, model).any()
    train(model, 0.1)
    found = tuco(live, model)
    model.save_pretrained(tmp_path / "adapter")
    from tuco_lens import ModelPair

    fresh: Any = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **how)
    pair = ModelPair.from_pretrained(fresh, adapter=tmp_path / "adapter", tokenizer=make_tokenizer())
    again = pair.measure(make_ids().tolist(), keep="last", progress=False).tuco.double()
    torch.testing.assert_close(found, again, rtol=0, atol=1e-6)
    assert found.min() > 0.01


def test_a_compiled_model_and_one_under_autocast_are_measured_as_they_are() -> None:
    for name in ("llama", "gpt_neox"):  # followed, and made anew for each measurement
        model: Any = make_model(name)
        start = copy.deepcopy(model)
        model._original_forward = model.forward  # what accelerate does to a model that it prepares
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
        live = live_pair(torch.compile(model, backend="eager"))
        train(model)
        found = tuco(live, torch.compile(model, backend="eager"))
        del model.forward, model._original_forward
        torch.testing.assert_close(found, expected(start, model), rtol=0, atol=TOLERANCE)


def test_a_forward_that_is_put_around_the_models_own_is_left_to_the_training() -> None:
    """TRL's fused unembedding calls the forward that it found, accelerate's hook around it or not."""
    for dispatch in (False, True):
        model: Any = make_model("llama")
        start = copy.deepcopy(model)
        if dispatch:
            accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
        found, calls = model.forward, []

        def around(_self: Any, *args: Any, found: Any = found, calls: Any = calls, **kwargs: Any) -> Any:
            calls.append(1)
            return found(*args, **kwargs)

        model.forward = types.MethodType(around, model)
        live = live_pair(model)
        train(model)
        measured = tuco(live, model)
        assert calls == []
        vars(model).pop("forward")
        torch.testing.assert_close(measured, expected(start, model), rtol=0, atol=TOLERANCE)


def test_a_model_that_is_made_anew_is_seen() -> None:
    model: Any = make_model("llama")
    start, live = copy.deepcopy(model), live_pair(model)
    tuco(live, model)
    other = copy.deepcopy(model)
    assert live.began_from(other)
    train(other)
    assert not live.began_from(other)
    torch.testing.assert_close(tuco(live, other), expected(start, other), rtol=0, atol=TOLERANCE)
    assert not tuco(live, model).any()


def test_a_base_that_is_given_takes_the_place_of_what_the_model_is_now(tmp_path: Path) -> None:
    start: Any = make_model("llama")
    model = copy.deepcopy(start)
    train(model)
    start.save_pretrained(tmp_path)
    for given in (tmp_path, start):
        live = live_pair(model, base=given_weights(given, model))
        torch.testing.assert_close(tuco(live, model), expected(start, model), rtol=0, atol=TOLERANCE)
        assert not live.began_from(model)
        assert live.began_from(start)


def test_bases_are_told_apart_by_their_fingerprints() -> None:
    one: Any = make_model("llama")
    other = copy.deepcopy(one)
    first = live_pair(one).fingerprint(one)
    assert live_pair(other).fingerprint(other) == first
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    assert live_pair(other).fingerprint(other) != first
    adapters = [peft.get_peft_model(make_model("llama"), Lora(r=4, target_modules=ALL)) for _ in range(2)]
    marks = [live_pair(model).fingerprint(model) for model in adapters]
    train(adapters[1])
    assert marks == [live_pair(model).fingerprint(model) for model in adapters]
    assert marks[0] == marks[1]


def _prompt_tuning() -> Any:
    return peft.get_peft_model(
        make_model("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "prompt tuning": (_prompt_tuning, {}, "PROMPT_TUNING adds tokens"),
    "no transformers model": (lambda: torch.nn.Linear(2, 2), {}, "a Linear is not a transformers model"),
    "joint projections elsewhere": (
        lambda: make_model("gpt2"),
        {"keep": FrozenCopy(dtype=torch.bfloat16)},
        "takes transformer.h.0.attn.c_attn apart",
    ),
    "an encoder": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=4)),
        {},
        "reads the tokens that come after",
    ),
    "activated LoRA": (
        lambda: peft.get_peft_model(
            make_model("llama"), Lora(target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[5])
        ),
        {},
        "acts only behind certain tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(case: str) -> None:
    make, how, message = REFUSED[case]
    with pytest.raises(LoadError) as caught:
        live_pair(make(), **how)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sharded_models_are_refused() -> None:
    model = make_model("llama")
    plugin = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3)))
    for flags, message in (
        ({"is_fsdp_enabled": True}, "FSDP shards"),
        ({"is_deepspeed_enabled": True, "accelerator": plugin}, "ZeRO-3 shards"),
    ):
        with pytest.raises(LoadError, match=message):
            require_whole(SimpleNamespace(model=model, **flags))
    plugin.state.deepspeed_plugin.zero_stage = 2
    require_whole(SimpleNamespace(model=model, is_deepspeed_enabled=True, accelerator=plugin))


def test_a_base_of_other_sizes_is_refused_and_so_is_one_for_adapters() -> None:
    model: Any = make_model("llama")
    with pytest.raises(PairMismatchError, match="not base and tuned model of one another"):
        given_weights(make_model("gpt2"), model)
    adapted = peft.get_peft_model(model, Lora(r=4, target_modules=ALL))
    with pytest.raises(InputError, match="the base of adapters is the model that they are on"):
        given_weights(make_model("llama"), adapted)
