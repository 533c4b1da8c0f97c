"""QLoRA: a base in 4 or 8 bits with an adapter on top, on the CPU; base and tuned share the quantised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from tests.architectures import make_ids, make_tokenizer
from tuco_lens import LoadError, ModelPair

pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra `quantised`) is not installed")
peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
pytestmark = pytest.mark.bridge

TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=128,
        hidden_size=128,  # the least that bitsandbytes packs on a CPU
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("whole")
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def quantised(folder: Path, bits: int) -> Any:
    how = hf.BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    load = hf.AutoModelForCausalLM.from_pretrained
    return load(folder, quantization_config=how, device_map={"": "cpu"}, dtype=torch.float32)


@pytest.fixture(scope="module", params=[4, 8])
def qlora(
    request: pytest.FixtureRequest, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path, torch.Tensor]:
    """Bits, a saved adapter, and the logits of PEFT's own model with it."""
    folder = tmp_path_factory.mktemp("adapter")
    model: Any = peft.get_peft_model(quantised(whole, request.param), peft.LoraConfig(r=4, target_modules=TARGETS))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        logits = model.eval()(make_ids()).logits
    model.save_pretrained(folder)
    return request.param, folder, logits


@pytest.mark.parametrize("has_run", [False, True])
def test_an_adapter_on_a_quantised_base_gives_the_logits_of_peft(
    qlora: tuple[int, Path, torch.Tensor], whole: Path, *, has_run: bool
) -> None:
    bits, adapter, expected = qlora
    base, ids = quantised(whole, bits), make_ids()
    with torch.no_grad():
        plain = quantised(whole, bits)(ids).logits
        if has_run:
            base(ids)
        pair = ModelPair.from_pretrained(base, adapter=adapter, backend="bridge", tokenizer=make_tokenizer())
        # In 4 bits the kernel of the CPU rounds to bfloat16.
        torch.testing.assert_close(pair.tuned(ids), expected, rtol=0, atol=2e-3)
        torch.testing.assert_close(pair.base(ids), plain, rtol=0, atol=2e-3)
        assert (expected - plain).abs().max() > 0.02
        torch.testing.assert_close(base(ids).logits, plain, rtol=0, atol=2e-3)
    assert 0.02 < pair.measure([ids[0].tolist()], progress=False).tuco[0] < 0.5
    first, second = (model.blocks[0].attn.q for model in (pair.base, pair.tuned))
    assert first.original_component.weight is second.original_component.base_layer.weight


@pytest.mark.parametrize("bits", [4, 8])
def test_two_loads_of_one_quantised_model_have_a_tuco_of_0(whole: Path, bits: int) -> None:
    base, tuned = quantised(whole, bits), quantised(whole, bits)
    with torch.no_grad():
        base(make_ids())  # one has run, and bitsandbytes has packed its weights anew
    pair = ModelPair.from_pretrained(base, tuned, backend="bridge", tokenizer=make_tokenizer())
    assert pair.measure([make_ids()[0].tolist()], progress=False).tuco[0] < 1e-6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"backend": "hooked"}, "(takes no quantised weights|has no HookedTransformer).*; give backend='bridge'"),
        ({"backend": "bridge", "dtype": "bfloat16"}, "it is quantised, and cannot be moved"),
    ],
)
def test_what_quantised_weights_cannot_do_is_refused_in_one_line(
    whole: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LoadError, match=reason) as caught:
        ModelPair.from_pretrained(quantised(whole, 4), quantised(whole, 4), tokenizer=make_tokenizer(), **options)
    assert "\n" not in str(caught.value)


def test_dora_over_8_bits_is_refused_while_peft_runs_it_only_once(whole: Path, tmp_path: Path) -> None:
    dora = peft.LoraConfig(r=4, use_dora=True, target_modules=TARGETS)
    model = peft.get_peft_model(quantised(whole, 8), dora).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model(make_ids())
        with pytest.raises(AttributeError):  # once PEFT's own model runs again, this refusal can go
            model(make_ids())
    with pytest.raises(LoadError, match="DoRA over weights in 8 bits only once on a CPU"):
        ModelPair.from_pretrained(quantised(whole, 8), adapter=tmp_path, backend="bridge", tokenizer=make_tokenizer())


def test_an_adapter_that_has_to_be_merged_is_refused_on_a_quantised_base(whole: Path, tmp_path: Path) -> None:
    vera = peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"])
    peft.get_peft_model(hf.AutoModelForCausalLM.from_pretrained(whole), vera).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"VERA has to be merged, and the weights .* are quantised"):
        ModelPair.from_pretrained(quantised(whole, 8), adapter=tmp_path, backend="bridge", tokenizer=make_tokenizer())
