"""`load_pair`: however the models are named, the numbers are those of transformers; and bad input gets one line."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from tests.architectures import make_ids, make_model, make_pair, make_tokenizer
from tests.checkpoints import edit_weights, save_checkpoint
from tuco_lens.errors import LoadError, PairMismatchError
from tuco_lens.models.loaded import LoadedPair
from tuco_lens.models.loading import BackendNotice, load_pair


@pytest.fixture(scope="module")
def llamas() -> tuple[Any, Any]:
    return make_pair("llama")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, llamas: tuple[Any, Any]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return save_checkpoint(folder / "base", llamas[0]), save_checkpoint(folder / "tuned", llamas[1])


@pytest.fixture
def copies(saved: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The saved pair again, to be damaged."""
    return tuple(Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in saved)  # type: ignore[return-value]


def _assert_same_logits(pair: LoadedPair, base: Any, tuned: Any, atol: float = 1e-5) -> None:
    ids = make_ids()
    with torch.no_grad():
        torch.testing.assert_close(pair.base(ids), base(ids).logits, rtol=0, atol=atol)
        torch.testing.assert_close(pair.tuned(ids), tuned(ids).logits, rtol=0, atol=atol)


BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_directories_give_the_logits_of_transformers(
    backend: str, saved: tuple[Path, Path], llamas: tuple[Any, Any]
) -> None:
    if backend == "hooked":
        _require_hooked()
    pair = load_pair(str(saved[0]), saved[1], backend=backend)
    _assert_same_logits(pair, *llamas)
    assert pair.backend == backend
    assert (pair.base_name, pair.tuned_name) == (str(saved[0]), str(saved[1]))
    assert next(pair.tuned.parameters()).dtype == torch.float32
    assert not pair.tuned.training


@pytest.mark.parametrize("backend", BACKENDS)
def test_loaded_models_give_their_logits_and_are_left_as_they_were(backend: str, llamas: tuple[Any, Any]) -> None:
    if backend == "hooked":
        _require_hooked()
    before = [(name, parameter.data_ptr(), parameter.requires_grad) for name, parameter in llamas[0].named_parameters()]
    kinds = [type(module) for module in llamas[0].modules()]
    pair = load_pair(*llamas, backend=backend, tokenizer=make_tokenizer())
    _assert_same_logits(pair, *llamas)
    after = [(name, parameter.data_ptr(), parameter.requires_grad) for name, parameter in llamas[0].named_parameters()]
    assert before == after
    assert kinds == [type(module) for module in llamas[0].modules()]


@pytest.mark.bridge
def test_loaded_models_share_their_weights_with_the_bridge(llamas: tuple[Any, Any]) -> None:
    pair = load_pair(*llamas, backend="bridge", tokenizer=make_tokenizer())
    given = {parameter.data_ptr() for parameter in llamas[1].parameters()}
    theirs = {parameter.data_ptr(): parameter for parameter in pair.tuned.parameters()}
    assert given <= set(theirs)
    # Of its own the bridge has a bias of the unembedding, of zeros.
    assert all(not theirs[pointer].any() and theirs[pointer].ndim == 1 for pointer in set(theirs) - given)


@pytest.mark.bridge
def test_the_same_loaded_model_may_be_base_and_tuned(llamas: tuple[Any, Any]) -> None:
    pair = load_pair(llamas[0], llamas[0], backend="bridge", tokenizer=make_tokenizer())
    assert pair.base is not pair.tuned
    _assert_same_logits(pair, llamas[0], llamas[0])


@pytest.mark.bridge
def test_the_same_directory_may_be_base_and_tuned(saved: tuple[Path, Path], llamas: tuple[Any, Any]) -> None:
    _assert_same_logits(load_pair(saved[0], saved[0], backend="bridge"), llamas[0], llamas[0])


@pytest.mark.bridge
def test_a_directory_and_a_loaded_model_make_a_pair(saved: tuple[Path, Path], llamas: tuple[Any, Any]) -> None:
    pair = load_pair(saved[0], llamas[1], backend="bridge")
    _assert_same_logits(pair, *llamas)
    assert pair.tokenizer is not None


@pytest.mark.bridge
def test_the_dtype_is_the_one_asked_for(saved: tuple[Path, Path], llamas: tuple[Any, Any]) -> None:
    pair = load_pair(saved[0], saved[1], backend="bridge", dtype="bfloat16")
    assert {parameter.dtype for parameter in pair.tuned.parameters()} == {torch.bfloat16}
    pair = load_pair(*llamas, backend="bridge", dtype=torch.float64, tokenizer=make_tokenizer())
    assert {parameter.dtype for parameter in pair.base.parameters()} == {torch.float64}
    assert llamas[0].dtype == torch.float32


@pytest.mark.bridge
def test_half_precision_files_are_read_as_float32_on_the_cpu(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "half", make_model("llama").half())
    assert load_pair(folder, folder, backend="bridge", device="cpu").base.W_E.dtype == torch.float32


@pytest.mark.bridge
def test_a_misleading_name_does_not_choose_the_architecture(tmp_path: Path) -> None:
    base, tuned = make_pair("gpt_neox")
    folders = [
        save_checkpoint(tmp_path / name, model) for name, model in (("my-gemma-llama", base), ("gpt2-qwen", tuned))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendNotice)
        _assert_same_logits(load_pair(*folders), base, tuned)


@pytest.mark.bridge
def test_the_vocabulary_may_differ(tmp_path: Path, saved: tuple[Path, Path], llamas: tuple[Any, Any]) -> None:
    larger = make_pair("llama")[1]
    larger.resize_token_embeddings(140, mean_resizing=False)
    pair = load_pair(saved[0], save_checkpoint(tmp_path / "larger", larger), backend="bridge")
    _assert_same_logits(pair, llamas[0], larger)


@pytest.mark.bridge
def test_sharded_safetensors_are_read(tmp_path: Path, llamas: tuple[Any, Any]) -> None:
    llamas[0].save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    pair = load_pair(tmp_path, tmp_path, backend="bridge", tokenizer=make_tokenizer())
    _assert_same_logits(pair, llamas[0], llamas[0])


@pytest.mark.bridge
def test_pickled_weights_are_read_when_allowed(copies: tuple[Path, Path], llamas: tuple[Any, Any]) -> None:
    _pickle(copies[1])
    pair = load_pair(*copies, backend="bridge", allow_pickle=True)
    _assert_same_logits(pair, *llamas)


@pytest.mark.bridge
def test_buffers_that_the_config_determines_may_be_surplus(copies: tuple[Path, Path]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(copies[1], lambda weights: weights.update({name: torch.ones(8)}))
    load_pair(*copies, backend="bridge")


@pytest.mark.bridge
def test_the_tokenizer_is_the_tuned_models_then_the_bases_then_the_one_given(copies: tuple[Path, Path]) -> None:
    tuned = make_tokenizer()
    tuned.chat_template = "tuned"
    tuned.save_pretrained(copies[1])
    assert load_pair(*copies, backend="bridge").tokenizer.chat_template == "tuned"
    for file in [*copies[1].glob("*token*"), *copies[1].glob("chat_template*")]:
        file.unlink()
    assert load_pair(*copies, backend="bridge").tokenizer.chat_template is None
    assert load_pair(*copies, backend="bridge", tokenizer=tuned).tokenizer is tuned
    assert load_pair(*copies, backend="bridge", tokenizer=str(copies[0])).tokenizer.chat_template is None


def test_auto_takes_hooked_where_it_can_without_a_word(saved: tuple[Path, Path]) -> None:
    _require_hooked()
    with warnings.catch_warnings():
        warnings.simplefilter("error", BackendNotice)
        assert load_pair(*saved).backend == "hooked"


@pytest.mark.bridge
def test_auto_takes_the_bridge_where_hooked_cannot_and_says_so_once(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuco_lens.models.hooked.unsupported_reason", lambda config: "of the weather")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_pair(*saved).backend == "bridge"
    notices = [str(warning.message) for warning in caught if warning.category is BackendNotice]
    assert notices == ["taking the backend 'bridge': of the weather"]
    with pytest.raises(LoadError, match="of the weather; give backend='bridge' or 'auto'"):
        load_pair(*saved, backend="hooked")


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a safetensors file at all")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _configure(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    return change


def _weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    return lambda folder: (edit_weights(folder, edit), None)[1]


def _poke(name: str, value: float) -> Callable[[Path], None]:
    def edit(weights: dict[str, torch.Tensor]) -> None:
        weights[name][0, 0] = value

    return _weights(edit)


def _break_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


def _gguf_only(folder: Path) -> None:
    _empty(folder)
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")


def _adapter_only(folder: Path) -> None:
    _empty(folder)
    (folder / "adapter_config.json").write_text("{}")


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


QUERY = "model.layers.1.self_attn.q_proj.weight"
BAD_DIRECTORIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated weights": (_truncate, "model.safetensors' is not a whole safetensors file"),
    "scribbled weights": (_scribble, "model.safetensors' is not a whole safetensors file"),
    "pickled weights": (_pickle, "in a pickle (pytorch_model.bin), which can run code when it is read; convert it"),
    "no weights": (_remove("model.safetensors"), "no weights that transformers reads (model.safetensors)"),
    "missing shard": (_break_index, "model-00001-of-00002.safetensors' is missing"),
    "no config": (_remove("config.json"), "has no config.json"),
    "empty directory": (_empty, "is empty; give a directory"),
    "GGUF in a directory": (_gguf_only, "model.Q4_1.gguf'"),
    "adapter as model": (_adapter_only, "holds a PEFT adapter (adapter_config.json), not a whole model"),
    "config that is not JSON": (lambda folder: (folder / "config.json").write_text("{") and None, "config.json"),
    "unknown architecture": (_configure(model_type="nonesuch"), "nonesuch"),
    "encoder-decoder": (_configure(model_type="t5"), "'t5' is an encoder-decoder model"),
    "missing tensor": (_weights(lambda weights: weights.pop(QUERY)), f"its weights lack {QUERY}"),
    "surplus tensor": (
        _weights(lambda weights: weights.update({"model.extra": torch.ones(2)})),
        "no place for: model.extra",
    ),
    "misshapen tensor": (
        _weights(lambda weights: weights.update({QUERY: torch.ones(3, 5)})),
        f"{QUERY} has the shape (3, 5) in the weights, and (64, 64) by the config",
    ),
    "NaN": (_poke(QUERY, float("nan")), f"{QUERY} has NaN among its weights"),
    "infinity": (_poke("lm_head.weight", -float("inf")), "lm_head.weight has infinite values among its weights"),
    "broken tokenizer": (_broken_tokenizer, "cannot load the tokenizer of the tuned model"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", BAD_DIRECTORIES)
def test_a_bad_directory_is_refused_in_one_line_that_names_it(case: str, copies: tuple[Path, Path]) -> None:
    damage, message = BAD_DIRECTORIES[case]
    damage(copies[1])
    with pytest.raises(LoadError) as caught:
        load_pair(*copies, backend="bridge")
    text = str(caught.value)
    assert message in text
    assert str(copies[1]) in text
    assert "\n" not in text
    assert text.count("; ") >= 1


MISMATCHED: dict[str, tuple[Callable[[Path], None], str]] = {
    "layers": (_configure(num_hidden_layers=2), "number of layers is 3 in the base model and 2 in the tuned model"),
    "width": (_configure(hidden_size=32), "d_model is 64 in the base model and 32 in the tuned model"),
    "activation": (
        _configure(hidden_act="gelu"),
        "activation is 'silu' in the base model and 'gelu' in the tuned model",
    ),
    "architecture": (_configure(model_type="mistral"), "architecture is 'llama' in the base model and 'mistral'"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", MISMATCHED)
def test_a_mismatch_of_configs_is_found_before_any_weights_are_read(case: str, copies: tuple[Path, Path]) -> None:
    change, message = MISMATCHED[case]
    change(copies[1])
    _poke(QUERY, float("nan"))(copies[0])  # would be found first if the weights were read
    with pytest.raises(PairMismatchError) as caught:
        load_pair(*copies)
    assert message in str(caught.value)


@pytest.mark.bridge
def test_a_tensor_that_only_one_of_the_two_has_is_a_mismatch(copies: tuple[Path, Path]) -> None:
    _configure(attention_bias=True)(copies[1])
    sizes = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}

    def add(weights: dict[str, torch.Tensor]) -> None:
        for layer in range(3):
            weights.update({f"model.layers.{layer}.self_attn.{p}.bias": torch.zeros(n) for p, n in sizes.items()})

    edit_weights(copies[1], add)
    with pytest.raises(PairMismatchError, match=r"the tuned model has .*k_proj\.bias .* the base model has no such"):
        load_pair(*copies, backend="bridge")


NAMES: dict[str, tuple[Any, str]] = {
    "hub id without network": ("nobody/nothing", "'nobody/nothing' is no local path, is not in the local cache"),
    "old hub id without network": ("gpt2", "the hub is switched off (HF_HUB_OFFLINE)"),
    "absolute path": ("/nowhere/to/be/found", "there is no such directory or file"),
    "relative path": ("./nowhere", "there is no such directory or file"),
    "long path": ("some/long/path", "there is no such directory or file"),
    "GGUF path": ("model.gguf", "there is no such directory or file"),
    "Path": (Path("nobody/nothing"), "there is no such directory or file"),
    "neither path nor hub id": ("no such!name", "is not an existing path, nor the name of a hub repository"),
    "empty": ("", "there is no such directory or file"),
    "number": (7, "a int is not a transformers model"),
    "text file": (__file__, "it is a file, and not in the GGUF format"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(
    case: str, saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given, message = NAMES[case]
    with pytest.raises(LoadError) as caught:
        load_pair(given, saved[1])
    assert message in str(caught.value)
    assert "base model" in str(caught.value)
    assert "\n" not in str(caught.value)


LISTINGS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "pickled model": ({"base": "org/model"}, ["config.json", "pytorch_model.bin"], "in a pickle (pytorch_model.bin)"),
    "adapter as model": ({"base": "org/model"}, ["adapter_config.json"], "give its base model as base, and this id as"),
    "model without config": ({"base": "org/model"}, ["model.gguf"], "the repository 'org/model' has no config.json"),
    "pickled adapter": ({"adapter": "org/lora"}, ["adapter_config.json", "adapter_model.bin"], "(adapter_model.bin)"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", LISTINGS)
def test_a_hub_repository_is_judged_by_its_listing_before_anything_is_downloaded(
    case: str, saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, files, message = LISTINGS[case]
    listing = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: listing)
    if "adapter" in arguments:
        pytest.importorskip("peft")
        arguments = {"base": saved[0], **arguments}
    else:
        arguments = {**arguments, "tuned": saved[1]}
    with pytest.raises(LoadError) as caught:
        load_pair(**arguments)
    assert message in str(caught.value)


@pytest.mark.bridge
def test_a_gated_repository_is_refused_with_the_way_in(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise huggingface_hub.errors.GatedRepoError("403", response=Mock())

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(LoadError, match="'org/model' is gated; accept its terms on the hub and log in"):
        load_pair("org/model", saved[1])


@pytest.mark.bridge
def test_a_local_path_never_asks_the_hub(saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    load_pair(*saved, backend="bridge")


CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "neither is given of tuned and adapter"),
    "both": ({"tuned": "a/b", "adapter": "c/d"}, "both are given of tuned and adapter"),
    "backend": ({"tuned": "a/b", "backend": "hookd"}, "'auto', 'hooked', 'bridge'"),
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", CHOICES)
def test_contradictory_arguments_are_refused(case: str, saved: tuple[Path, Path]) -> None:
    arguments, message = CHOICES[case]
    with pytest.raises(LoadError, match=message):
        load_pair(saved[0], **arguments)


@pytest.mark.bridge
@pytest.mark.parametrize("dtype", ["int8", "float7", torch.int32])
def test_a_dtype_that_is_not_floating_is_refused(dtype: Any, saved: tuple[Path, Path]) -> None:
    with pytest.raises(LoadError, match="give 'float32', 'bfloat16' or 'float16'"):
        load_pair(*saved, dtype=dtype)


@pytest.mark.bridge
def test_a_device_that_is_not_there_is_refused(saved: tuple[Path, Path]) -> None:
    with pytest.raises(LoadError, match="cannot use the device 'cuda:77'"):
        load_pair(*saved, device="cuda:77")


@pytest.mark.bridge
def test_without_any_tokenizer_the_remedy_is_the_argument(llamas: tuple[Any, Any]) -> None:
    with pytest.raises(LoadError, match="give one as tokenizer="):
        load_pair(*llamas, backend="bridge")


@pytest.mark.bridge
def test_loading_restores_the_verbosity_of_transformers(copies: tuple[Path, Path]) -> None:
    hf.utils.logging.set_verbosity_info()
    try:
        _poke(QUERY, float("nan"))(copies[1])
        with pytest.raises(LoadError):
            load_pair(*copies, backend="bridge")
        assert hf.utils.logging.get_verbosity() == hf.utils.logging.INFO
    finally:
        hf.utils.logging.set_verbosity_error()


def _require_hooked() -> None:
    transformer_lens = pytest.importorskip("transformer_lens")
    if not hasattr(transformer_lens, "HookedTransformer"):
        pytest.skip("the installed transformer-lens has no HookedTransformer")


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["~nosuchuser/model", "a" * 300, "a\0b"])
@pytest.mark.parametrize("role", ["base", "adapter", "tokenizer"])
def test_a_name_that_can_be_no_path_is_one_line(tmp_path: Path, name: str, role: str) -> None:
    good = save_checkpoint(tmp_path / "good", make_model("llama"))
    given: dict[str, Any] = {"base": good, "tuned": good} | ({role: name} if role != "adapter" else {})
    if role == "adapter":
        given = {"base": good, "adapter": name}
    with pytest.raises(LoadError) as raised:
        load_pair(given.pop("base"), backend="bridge", **given)
    assert "\n" not in str(raised.value)
