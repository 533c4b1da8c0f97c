"""Every kind of adapter that PEFT can load without data of its own: the tuned model is PEFT's, on both backends.

The oracle is `PeftModel.from_pretrained` on a copy of the base model, and the slow loop of `tests/oracle.py` over it.
The base model of the pair is the base model, and what the user gave is not changed, whatever the adapter does.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.architectures import make_ids, make_model, make_tokenizer
from tests.oracle import oracle
from tuco_lens import LoadError, ModelPair

peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")

from tests.adapters import ALL, KINDS, TWO, Lora  # noqa: E402 - it needs peft


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama")


def save_trained(folder: Path, base: Any, config: Any) -> None:
    """An adapter whose trained tensors are all moved, as PEFT saves it."""
    torch.manual_seed(3)
    model: Any = peft.get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(folder)


@dataclass
class Reference:
    logits: torch.Tensor
    tuco: torch.Tensor


def reference(folder: Path, base: Any) -> Reference:
    model: Any = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    with torch.no_grad():
        logits = model(make_ids()).logits
    return Reference(logits, oracle(base, model.base_model.model, make_ids()).tuco())


@pytest.mark.parametrize("backend", ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_gives_the_tuco_of_pefts_own_model(
    kind: str, backend: str, base: Any, tmp_path: Path
) -> None:
    save_trained(tmp_path, base, KINDS[kind])
    given = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    expected, ids = reference(tmp_path, base), make_ids()
    pair = ModelPair.from_pretrained(base, adapter=tmp_path, backend=backend, tokenizer=make_tokenizer())
    with torch.no_grad():
        scale = expected.logits.abs().max().item()
        torch.testing.assert_close(pair.tuned(ids), expected.logits, rtol=0, atol=5e-5 * max(1.0, scale))
        torch.testing.assert_close(pair.base(ids), base(ids).logits, rtol=0, atol=1e-5)
    measured = pair.measure([row.tolist() for row in ids], progress=False).tuco
    torch.testing.assert_close(measured.double(), expected.tuco, rtol=0, atol=5e-6)
    assert expected.tuco.min() > 0.001, "the adapter of this test does nothing"
    assert all(torch.equal(parameter, given[name]) for name, parameter in base.named_parameters())


@pytest.mark.bridge
def test_a_merged_adapter_shares_what_it_leaves_alone(base: Any, tmp_path: Path) -> None:
    save_trained(tmp_path, base, KINDS["VeRA"])
    pair = ModelPair.from_pretrained(base, adapter=tmp_path, backend="bridge", tokenizer=make_tokenizer())
    given = {parameter.data_ptr() for parameter in base.parameters()}
    own = {name for name, p in pair.tuned.named_parameters() if p.data_ptr() not in given and p.any()}
    assert len(own) == 2 * 3  # the two matrices of each layer that it changes
    assert all(".q." in name or ".o." in name or "_proj" in name for name in own)


@pytest.mark.bridge
@pytest.mark.parametrize("backend", ["bridge", "auto"])
def test_an_adapter_that_peft_draws_anew_at_every_load_is_refused(backend: str, base: Any, tmp_path: Path) -> None:
    save_trained(tmp_path, base, Lora(r=4, target_modules=ALL, init_lora_weights="pissa_niter_4"))
    state = torch.random.get_rng_state()
    with pytest.raises(LoadError, match=r"at random .*'pissa_niter_4'.*path_initial_model_for_weight_conversion"):
        ModelPair.from_pretrained(base, adapter=tmp_path, backend=backend, tokenizer=make_tokenizer())
    assert torch.equal(torch.random.get_rng_state(), state)


UNSUITABLE: dict[str, tuple[Any, str]] = {
    "layers used twice": (Lora(r=4, target_modules=TWO, layer_replication=[[0, 2], [1, 3]]), "layer_replication"),
    "biases that a HookedTransformer lacks": (Lora(r=4, target_modules=["up_proj"], lora_bias=True), "bridge"),
}


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_what_a_backend_cannot_carry_is_refused(kind: str, base: Any, tmp_path: Path) -> None:
    config, reason = UNSUITABLE[kind]
    save_trained(tmp_path, base, config)
    with pytest.raises(LoadError, match=reason) as caught:
        ModelPair.from_pretrained(base, adapter=tmp_path, backend="hooked", tokenizer=make_tokenizer())
    assert "\n" not in str(caught.value)


def test_an_adapter_that_a_conversion_drops_is_noticed(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trained(tmp_path, base, KINDS["LoRA"])
    for backend in ("hooked", "bridge"):
        with monkeypatch.context() as patch:
            patch.setattr("tuco_lens.models.merging.merge_adapter", lambda *_: copy.deepcopy(base))
            with pytest.raises(LoadError, match="not those of PEFT's own model"):
                ModelPair.from_pretrained(base, adapter=tmp_path, backend=backend, tokenizer=make_tokenizer())


@pytest.mark.bridge
def test_an_adapter_of_another_base_is_warned_of_once_with_both_names(base: Any, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-135M-Instruct"
    base.save_pretrained(folder)
    save_trained(tmp_path / "adapter", base, KINDS["LoRA"])
    config = tmp_path / "adapter" / "adapter_config.json"
    text = config.read_text(encoding="utf-8")
    for trained_on, n_warnings in (("org/Tiny-135M", 1), ("org/tiny-135m-instruct/", 0)):
        config.write_text(text.replace('"base_model_name_or_path": null', f'"base_model_name_or_path": "{trained_on}"'))
        assert trained_on in config.read_text(encoding="utf-8")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ModelPair.from_pretrained(folder, adapter=config.parent, backend="bridge", tokenizer=make_tokenizer())
        ours = [str(each.message) for each in caught if each.category.__name__ == "AdapterNotice"]
        assert len(ours) == n_warnings
        assert all("org/Tiny-135M" in text and str(folder) in text for text in ours)
