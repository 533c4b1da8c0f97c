"""A PEFT adapter makes a tuned model that shares the base weights and equals PEFT's own merged model; or is refused."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.architectures import ARCHITECTURES, from_config, make_ids, make_model, make_tokenizer
from tests.checkpoints import edit_weights, save_adapter, save_checkpoint
from tuco_lens.errors import LoadError
from tuco_lens.models.loaded import LoadedPair
from tuco_lens.models.loading import BackendNotice, load_pair

peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")

Lora: Any = peft.LoraConfig
TOLERANCE = 1e-5


def _require_backend(backend: str) -> None:
    import transformer_lens

    if backend == "hooked" and not hasattr(transformer_lens, "HookedTransformer"):
        pytest.skip("the installed transformer-lens has no HookedTransformer")


def _load(base: Any, adapter: Path, backend: str = "bridge") -> LoadedPair:
    return load_pair(base, adapter=adapter, backend=backend, tokenizer=make_tokenizer())


def _assert_equals_oracle(pair: LoadedPair, base: Any, oracle: Any) -> None:
    ids = make_ids()
    with torch.no_grad():
        expected, untuned = oracle(ids).logits, base(ids).logits
        torch.testing.assert_close(pair.tuned(ids), expected, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(pair.base(ids), untuned, rtol=0, atol=TOLERANCE)
    width = min(expected.shape[-1], untuned.shape[-1])
    assert (expected[..., :width] - untuned[..., :width]).abs().max() > 0.1, "the adapter of this test does nothing"


BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
EVERY_LINEAR = ["llama", "gpt2", "gpt_neox", "phi3", "mixtral", "gemma3"]
"""gpt2, gpt_neox and phi3 have joint projections, which the bridge takes apart."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", EVERY_LINEAR)
def test_lora_on_every_linear_layer_equals_the_merged_model(name: str, backend: str, tmp_path: Path) -> None:
    _require_backend(backend)
    base = make_model(name)
    oracle = save_adapter(tmp_path, base, Lora(r=4, target_modules="all-linear"))
    _assert_equals_oracle(_load(base, tmp_path, backend), base, oracle)


@pytest.mark.bridge
def test_base_and_tuned_share_the_base_weights_and_only_tuned_has_the_adapter(tmp_path: Path) -> None:
    base = make_model("llama")
    save_adapter(tmp_path, base, Lora(r=4, target_modules="all-linear"))
    pair = _load(base, tmp_path)
    given = {parameter.data_ptr() for parameter in base.parameters()}
    ours = {parameter.data_ptr() for parameter in pair.base.parameters()}
    theirs = {parameter.data_ptr(): (name, parameter) for name, parameter in pair.tuned.named_parameters()}
    assert given <= ours
    assert given <= set(theirs)
    # The bridge has a bias of the unembedding of its own, of zeros.
    own = [name for pointer, (name, parameter) in theirs.items() if pointer not in given and parameter.any()]
    assert len(own) == 2 * 7 * 3  # A and B of seven matrices in three layers
    assert all("lora_" in name for name in own)
    assert not any("lora_" in name for name, _ in pair.base.named_parameters())


@pytest.mark.bridge
def test_where_matrices_must_be_merged_only_those_are_copied(tmp_path: Path) -> None:
    base = make_model("gpt2")
    save_adapter(tmp_path, base, Lora(r=4, target_modules=["mlp.c_fc", "mlp.c_proj"], fan_in_fan_out=True))
    pair = _load(base, tmp_path)
    given = {parameter.data_ptr() for parameter in base.parameters()}
    shared = {parameter.data_ptr() for parameter in pair.tuned.parameters()} & given
    assert shared == {parameter.data_ptr() for parameter in pair.base.parameters()} & given


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_models_given_are_left_as_they_were(backend: str, tmp_path: Path) -> None:
    _require_backend(backend)
    base = make_model("llama, biases")
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    config = Lora(r=4, target_modules=["q_proj"], bias="all", modules_to_save=["norm"])
    save_adapter(tmp_path, base, config)
    _load(base, tmp_path, backend)
    assert not hasattr(base, "peft_config")
    assert all(parameter.requires_grad for parameter in base.parameters())
    for name, parameter in base.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)


KINDS: dict[str, tuple[str, Any, int | None]] = {
    "a saved unembedding": ("llama", Lora(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]), None),
    "saved embeddings": (
        "llama",
        Lora(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        None,
    ),
    "a saved embedding, tied in the base": (
        "llama, biases",
        Lora(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        None,
    ),
    "saved norms": ("llama", Lora(r=4, target_modules=["q_proj"], modules_to_save=["input_layernorm"]), None),
    "trained biases": ("llama, biases", Lora(r=4, target_modules=["q_proj"], bias="all"), None),
    "embeddings with LoRA": ("llama", Lora(r=4, target_modules=["q_proj", "embed_tokens", "lm_head"]), None),
    "added tokens": ("llama", Lora(r=4, target_modules=["q_proj"]), 131),
    "added tokens, tied": ("llama, biases", Lora(r=4, target_modules=["q_proj"]), 131),
    "trained rows": ("llama", Lora(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 64]), None),
    "one layer": ("llama", Lora(r=4, target_modules=["q_proj"], layers_to_transform=[1]), None),
    "experts": ("mixtral", Lora(r=4, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"]), None),
    "DoRA": ("llama", Lora(r=4, target_modules="all-linear", use_dora=True), None),
    "IA3": ("llama", peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[]), None),
    "LoKr": ("llama", peft.LoKrConfig(r=4, target_modules=["q_proj"]), None),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_adapter_may_hold_equals_the_merged_model(kind: str, backend: str, tmp_path: Path) -> None:
    _require_backend(backend)
    name, config, rows = KINDS[kind]
    base = make_model(name)
    oracle = save_adapter(tmp_path, base, config, rows=rows)
    _assert_equals_oracle(_load(base, tmp_path, backend), base, oracle)


@pytest.mark.bridge
def test_an_adapter_saved_in_half_precision_does_not_change_the_dtype(tmp_path: Path) -> None:
    base = make_model("llama")
    save_adapter(tmp_path, base, Lora(r=4, target_modules=["q_proj"]))
    edit_weights(tmp_path, lambda weights: weights.update({name: w.bfloat16() for name, w in weights.items()}))
    pair = _load(base, tmp_path)
    assert {parameter.dtype for parameter in pair.tuned.parameters()} == {torch.float32}
    assert pair.tuned(make_ids()).dtype == torch.float32


@pytest.mark.bridge
def test_auto_takes_the_bridge_for_an_adapter_and_says_why(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", make_model("llama"))
    oracle = save_adapter(tmp_path / "adapter", make_model("llama"), Lora(r=4, target_modules=["q_proj"]))
    with pytest.warns(BackendNotice, match="base weights in memory once"):
        pair = load_pair(base, adapter=str(tmp_path / "adapter"))
    assert pair.backend == "bridge"
    assert pair.tuned_name == str(tmp_path / "adapter")
    _assert_equals_oracle(pair, make_model("llama"), oracle)


@pytest.mark.bridge
def test_the_tokenizer_beside_the_adapter_comes_before_the_bases(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", make_model("llama"))
    save_adapter(tmp_path / "adapter", make_model("llama"), Lora(r=4, target_modules=["q_proj"]))
    assert load_pair(base, adapter=tmp_path / "adapter", backend="bridge").tokenizer.chat_template is None
    trained = make_tokenizer()
    trained.chat_template = "beside the adapter"
    trained.save_pretrained(tmp_path / "adapter")
    pair = load_pair(base, adapter=tmp_path / "adapter", backend="bridge")
    assert pair.tokenizer.chat_template == "beside the adapter"


@pytest.mark.bridge
def test_a_model_with_an_adapter_attached_is_refused_as_tuned(tmp_path: Path) -> None:
    base = make_model("llama")
    with pytest.raises(LoadError, match=r"PEFT adapter attached; give .* as adapter="):
        load_pair(base, peft.get_peft_model(make_model("llama"), Lora(target_modules=["q_proj"])))


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


@pytest.mark.bridge
def test_a_pickled_adapter_is_read_when_allowed(tmp_path: Path) -> None:
    base = make_model("llama")
    oracle = save_adapter(tmp_path, base, Lora(r=4, target_modules=["q_proj"]))
    _pickle(tmp_path)
    tokenizer = make_tokenizer()
    pair = load_pair(base, adapter=tmp_path, backend="bridge", tokenizer=tokenizer, allow_pickle=True)
    _assert_equals_oracle(pair, base, oracle)


def _truncate(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _poison(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values()))[0, 0] = float("nan")


def _configure(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return change


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, "adapter_model.safetensors' is not a whole safetensors file"),
    "pickled": (_pickle, "in a pickle (adapter_model.bin), which can run code"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "NaN": (lambda folder: edit_weights(folder, _poison), "has NaN among its weights"),
    "a tensor missing": (
        lambda folder: edit_weights(folder, lambda weights: weights.pop(min(weights))),
        "its weights lack 1 tensors",
    ),
    "a tensor too many": (
        lambda folder: edit_weights(folder, lambda weights: weights.update({"other.lora_A.weight": torch.ones(2)})),
        "1 of its tensors have no place",
    ),
    "another rank": (_configure(r=8), "has the shape (4, 64), and"),
    "an unknown kind": (_configure(peft_type="NONESUCH"), "NONESUCH"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_adapter_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    base = make_model("llama")
    save_adapter(tmp_path, base, Lora(r=4, target_modules=["q_proj"]))
    damage, message = BAD_FILES[case]
    damage(tmp_path)
    with pytest.raises(LoadError) as caught:
        _load(base, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "adapter" in str(caught.value)


def _llama(**settings: Any) -> Any:
    config = ARCHITECTURES["llama"]()
    for name, value in settings.items():
        setattr(config, name, value)
    return from_config(config)


OTHER_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "other modules": (lambda: make_model("gpt2"), "it adapts modules that 'GPT2LMHeadModel' does not have"),
    "other places": (lambda: make_model("opt"), "12 of its tensors have no place in 'OPTForCausalLM'"),
    "narrower": (lambda: _llama(intermediate_size=80), r"down_proj.lora_A.weight has the shape (4, 96), and"),
    "deeper": (lambda: _llama(num_hidden_layers=4), "lack 4 tensors that 'LlamaForCausalLM' needs"),
    "shallower": (lambda: _llama(num_hidden_layers=2), "4 of its tensors have no place in 'LlamaForCausalLM'"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", OTHER_MODELS)
def test_an_adapter_for_another_model_is_refused_by_what_does_not_fit(case: str, tmp_path: Path) -> None:
    make_other, message = OTHER_MODELS[case]
    save_adapter(tmp_path, make_model("llama"), Lora(r=4, target_modules=["q_proj", "down_proj"]))
    if case == "other places":
        save_adapter(tmp_path, make_model("llama"), Lora(r=4, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(LoadError, match="give the base model that the adapter was trained on") as caught:
        _load(make_other(), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bridge
def test_prompt_tuning_is_refused_for_it_changes_no_weights(tmp_path: Path) -> None:
    base = make_model("llama")
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(make_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="PROMPT_TUNING adds tokens or prefixes and changes no weights"):
        _load(base, tmp_path)


NAMES = {"/nowhere/at/all": "there is no such directory", "nobody/nothing": "is not in the local cache"}


@pytest.mark.bridge
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match=NAMES[name]):
        load_pair(make_model("llama"), adapter=name)


@pytest.mark.bridge
def test_a_whole_model_given_as_adapter_is_refused_with_the_remedy(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make_model("llama"))
    with pytest.raises(LoadError, match="give a whole model as tuned, not as adapter"):
        load_pair(make_model("llama"), adapter=tmp_path)


@pytest.mark.bridge
def test_without_peft_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else sys.modules.get(name))
    with pytest.raises(LoadError, match=r"tuco_lens\[peft\]"):
        load_pair(make_model("llama"), adapter=tmp_path)


@pytest.fixture(autouse=True)
def _without_advice() -> Any:
    """PEFT gives advice on saving while the tests make their adapters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        yield
