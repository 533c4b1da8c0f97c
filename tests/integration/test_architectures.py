"""Conversion to both backends is exact on every architecture, and so are PTC, FTC and TuCo on the converted pair.

The reference is `tests/oracle.py`: plain transformers in float64. Runs with transformer-lens 4.x too (`-m bridge`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from tests.architectures import (
    ARCHITECTURES,
    BACKENDS,
    CASES,
    HOOKED,
    N_TOKENS,
    ONLY_BRIDGE,
    VARIANTS,
    VERSION,
    from_config,
    make_ids,
    make_model,
    make_pair,
)
from tests.architectures import make_tokenizer as tokenizer_of_words
from tests.oracle import OracleResult, oracle
from tuco_lens.errors import LoadError
from tuco_lens.models import bridge, hooked
from tuco_lens.pair import ModelPair

NAMES = [*ARCHITECTURES, *VARIANTS]
_TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def convert(hf_model: Any, backend: str, tokenizer: Any = None) -> Any:
    """Of a copy: the bridge takes its model over, and a HookedTransformer shares memory with it."""
    own = copy.deepcopy(hf_model)
    return hooked.to_hooked(own, tokenizer) if backend == "hooked" else bridge.to_bridge(own, tokenizer)


def to_pair(base: Any, tuned: Any, backend: Any) -> ModelPair:
    tokenizer = tokenizer_of_words()
    return ModelPair(convert(base, backend), convert(tuned, backend), tokenizer, backend, "base", "tuned")


def relative_l1(actual: Tensor, expected: Tensor) -> float:
    """Sum of absolute differences over all tokens and dimensions, over the sum of absolute values."""
    return ((actual.double() - expected).abs().sum() / expected.abs().sum()).item()


@torch.no_grad()
def forward(model: Any, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and x_1 … x_L as `hook_resid_post` shows them."""
    options = {"use_cache": False} if type(model).__name__ == "TransformerBridge" else {}
    logits, cache = model.run_with_cache(ids, **options)
    return logits, [cache["resid_post", layer] for layer in range(model.cfg.n_layers)]


_ORACLES: dict[str, tuple[Any, Any, OracleResult]] = {}


def reference(name: str) -> tuple[Any, Any, OracleResult]:
    if name not in _ORACLES:
        base, tuned = make_pair(name)
        _ORACLES[name] = (base, tuned, oracle(base, tuned, make_ids()))
    return _ORACLES[name]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_logits_and_every_layers_stream_equal_float64_transformers(name: str, backend: str) -> None:
    _, tuned, expected = reference(name)
    logits, streams = forward(convert(tuned, backend), make_ids())
    assert len(streams) == expected.ptc.shape[0]
    for layer, stream in enumerate(streams):
        assert relative_l1(stream, expected.stream[layer + 1]) <= 2e-6, f"x_{layer + 1}"
    assert (logits - expected.logits).abs().max() <= 2e-6 * expected.logits.abs().max()


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_contributions_and_tuco_equal_the_oracle(name: str, backend: str) -> None:
    base, tuned, expected = reference(name)
    pair = to_pair(base, tuned, backend)
    prompts = [row.tolist() for row in make_ids()]
    ptc_sum, ftc_sum = expected.cumulative()
    for index, prompt in enumerate(prompts):
        _, cache = pair.run_with_cache(prompt)
        for layer in range(pair.n_layers):
            # FTC is the small difference of two block outputs, so its error goes with the size of those.
            size = expected.stream[layer + 1, index].abs().sum()
            for kind, truth in (("ptc", expected.ptc), ("ftc", expected.ftc)):
                error = (cache[kind, layer] - truth[layer, index]).abs().sum() / size
                assert error <= 2e-6, f"{kind} of layer {layer}"
            assert relative_l1(cache["cumulative_ptc", layer + 1], ptc_sum[layer, index]) <= 2e-6
            assert relative_l1(cache["cumulative_ftc", layer + 1], ftc_sum[layer, index]) <= 1e-5
    measured = pair.measure(prompts, progress=False)
    torch.testing.assert_close(torch.as_tensor(measured.tuco).double(), expected.tuco(), rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.as_tensor(measured.beta).double(), expected.beta(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "mistral", "gpt_neo", "qwen2, sliding", "phi3, sliding, partial"])
def test_the_windows_of_the_test_models_matter(name: str) -> None:
    """Else the two tests above would not see a lost window: a token out of every window changes the last logits."""
    model: Any = reference(name)[1]
    whole = copy.deepcopy(model.config)
    for field in ("sliding_window", "window_size"):
        if getattr(whole, field, None):
            setattr(whole, field, N_TOKENS)
    wide: Any = from_config(whole)
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert (wide(make_ids()).logits - model(make_ids()).logits).abs().max() > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_beyond_the_first_rotary_table_are_right(backend: str) -> None:
    """TransformerLens computes 2048 positions at first and more on demand."""
    settings = {**_TINY, "vocab_size": 128}
    model: Any = from_config(hf.LlamaConfig(**settings, max_position_embeddings=4096))
    ids = make_ids(batch=1, n_tokens=2100)
    with torch.no_grad():
        expected = model(ids).logits
    assert relative_l1(forward(convert(model, backend), ids)[0], expected.double()) <= 2e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_gemma_3_with_a_vision_tower_is_its_text_model(backend: str) -> None:
    text = ARCHITECTURES["gemma3"]().to_dict()
    config = hf.Gemma3Config(text_config=text, vision_config={**_TINY, "image_size": 28, "patch_size": 14})
    model: Any = from_config(config)
    with torch.no_grad():
        expected = model(make_ids()).logits
    converted = convert(model, backend)
    assert relative_l1(forward(converted, make_ids())[0], expected.double()) <= 2e-6
    assert converted.cfg.d_model == 64


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("folder", ["gemma-2-2b", "Llama-3.1-8B", "qwen_phi_opt"])
def test_a_familys_name_in_the_path_changes_nothing(tmp_path: Path, folder: str, backend: str) -> None:
    model: Any = make_model("gpt2")
    model.save_pretrained(tmp_path / folder)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path / folder)
    expected, _ = forward(convert(model, backend), make_ids())
    assert torch.equal(forward(convert(loaded, backend), make_ids())[0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_conversion_prints_and_warns_nothing(
    backend: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    models = [make_model(name) for name in ("gptj", "opt", "mixtral")]
    capfd.readouterr()
    recwarn.clear()
    for model in models:
        convert(model, backend, tokenizer_of_words())
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "bloom", "gemma3"])
def test_text_goes_through_a_copy_of_the_tokenizer(name: str, backend: str) -> None:
    tokenizer = tokenizer_of_words()
    model = convert(make_model(name), backend, tokenizer)
    text = "w5 w6 w7"
    assert model.to_tokens(text, prepend_bos=True).tolist() == [tokenizer(text).input_ids] == [[1, 5, 6, 7]]
    assert model.to_tokens(text, prepend_bos=False).tolist() == [[5, 6, 7]]
    assert model.to_str_tokens(text, prepend_bos=False) == ["w5", "w6", "w7"]
    generated = model.generate(text, max_new_tokens=3, do_sample=False, verbose=False, return_type="tokens")
    assert generated.shape[-1] >= 4
    assert model.tokenizer is not tokenizer
    assert (tokenizer.padding_side, tokenizer.name_or_path) == ("left", "")
    assert model.tokenizer.padding_side == "right"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tokenizer_without_special_tokens_is_not_given_any_that_the_model_lacks(backend: str) -> None:
    plain = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer_of_words().backend_tokenizer, unk_token="<pad>")
    plain.backend_tokenizer.post_processor = None
    model = convert(make_model("llama"), backend, plain)
    assert model.to_tokens(["w5 w6 w7", "w5"])[0].tolist() == [5, 6, 7]
    assert (plain.bos_token, plain.eos_token, plain.pad_token) == (None, None, None)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "dtype"),
    # transformers' grouped expert kernel has no float64
    [*[(name, dtype) for name in ("llama", "gpt2", "gemma2") for dtype in DTYPES], ("mixtral", torch.bfloat16)],
    ids=str,
)
def test_the_dtype_is_kept_and_the_model_is_in_eval_mode(name: str, dtype: torch.dtype, backend: str) -> None:
    model: Any = make_model(name).to(dtype).train()
    converted = convert(model, backend)
    assert {parameter.dtype for parameter in converted.parameters()} == {dtype}
    assert all(parameter.requires_grad for parameter in converted.parameters())
    assert not any(module.training for module in converted.modules())
    expected = model.eval()(make_ids()).logits.double()
    tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 0.05
    assert relative_l1(forward(converted, make_ids())[0], expected) <= tolerance


@HOOKED
def test_a_hooked_transformer_shares_memory_with_its_source_but_none_among_its_own_weights() -> None:
    model: Any = make_model("llama, biases")  # tied
    converted: Any = hooked.to_hooked(model, None)
    layer, block = model.model.layers[0], converted.blocks[0]
    assert block.attn.W_Q.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()
    assert block.mlp.W_in.data_ptr() == layer.mlp.up_proj.weight.data_ptr()
    for name in ("gpt2", "phi", "mixtral", "llama, biases"):
        other: Any = hooked.to_hooked(make_model(name), None)
        places = [parameter.data_ptr() for parameter in other.parameters()]
        assert len(set(places)) == len(places), name


@HOOKED
def test_weight_processing_afterwards_still_works_on_tied_weights() -> None:
    """Users fold norms themselves; with a shared W_U and W_E that would corrupt the embedding."""
    converted: Any = hooked.to_hooked(make_model("gpt2"), None)
    expected, _ = forward(converted, make_ids())
    converted.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=False)
    torch.testing.assert_close(forward(converted, make_ids())[0], expected, rtol=1e-4, atol=1e-4)


@HOOKED
def test_a_model_that_computes_something_else_than_its_config_says_is_refused() -> None:
    model: Any = make_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _args, output: output * 1.01)
    with pytest.raises(LoadError, match=r"not exact: its logits differ .*; use backend=\"bridge\""):
        hooked.to_hooked(model, None)


@pytest.mark.bridge
def test_without_hooked_transformer_the_reason_names_the_installed_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooked, "_has_hooked_transformer", lambda: False)
    reason = hooked.unsupported_reason(ARCHITECTURES["llama"]())
    assert reason == f"transformer-lens {VERSION} has no HookedTransformer (removed in 4.0)"


@pytest.mark.bridge
def test_whether_there_is_a_hooked_transformer_is_found_out_on_every_release() -> None:
    assert (hooked.unsupported_reason(ARCHITECTURES["llama"]()) is None) == (int(VERSION.split(".")[0]) < 4)


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **settings}


_OPT = {"hidden_size": 64, "num_attention_heads": 4}
_PHI3 = {"hidden_size": 64, "num_attention_heads": 4, "original_max_position_embeddings": 32}
_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}

INEXPRESSIBLE: dict[str, tuple[Callable[[], Any], str]] = {
    "yarn": (lambda: hf.LlamaConfig(rope_parameters=_rope("yarn", original_max_position_embeddings=64)), "'yarn'"),
    "dynamic": (lambda: hf.Qwen2Config(rope_parameters=_rope("dynamic")), "'dynamic'"),
    "longrope": (
        lambda: hf.Phi3Config(**_PHI3, rope_parameters=_rope("longrope", partial_rotary_factor=1.0, **_FACTORS)),
        "'longrope'",
    ),
    "linear in windows": (
        lambda: hf.MistralConfig(rope_parameters=_rope("linear"), sliding_window=8),
        "linear rotary scaling",
    ),
    "scaling in sliding layers": (
        lambda: hf.Gemma3TextConfig(
            rope_parameters={"sliding_attention": _rope("linear"), "full_attention": _rope("default")}
        ),
        "in sliding layers",
    ),
    "partial": (
        lambda: hf.LlamaConfig(rope_parameters={**_rope("default"), "partial_rotary_factor": 0.5}),
        "partial_rotary_factor",
    ),
    "MLP biases": (lambda: hf.LlamaConfig(mlp_bias=True), "mlp_bias"),
    "bidirectional": (lambda: hf.Gemma3TextConfig(use_bidirectional_attention=True), "bidirectional"),
    "activation": (lambda: hf.LlamaConfig(hidden_act="mish"), "'mish'"),
    "OPT-350m's norms": (lambda: hf.OPTConfig(**_OPT, do_layer_norm_before=False), "do_layer_norm_before"),
    "OPT-350m's projection": (lambda: hf.OPTConfig(**_OPT, word_embed_proj_dim=32), "word_embed_proj_dim"),
    "OPT without biases": (lambda: hf.OPTConfig(**_OPT, enable_bias=False), "biases"),
    "ALiBi heads": (lambda: hf.BloomConfig(hidden_size=96, n_head=12), "12 heads"),
    "BLOOM's residual": (lambda: hf.BloomConfig(apply_residual_connection_post_layernorm=True), "norms"),
    "NeoX without biases": (lambda: hf.GPTNeoXConfig(attention_bias=False), "biases"),
    "Phi's query norms": (lambda: hf.PhiConfig(qk_layernorm=True), "qk_layernorm"),
    "Phi's groups": (lambda: hf.PhiConfig(num_key_value_heads=8), "grouped"),
    "OLMo 2's groups": (VARIANTS["olmo2, groups"], "grouped"),
    "cross-attention": (lambda: hf.GPT2Config(add_cross_attention=True), "cross-attention"),
    "quantised": (lambda: hf.LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
    "other families": (lambda: hf.StableLmConfig(), "'stablelm'"),
}


@HOOKED
@pytest.mark.parametrize("case", INEXPRESSIBLE)
def test_what_a_hooked_transformer_cannot_express_has_a_reason(case: str) -> None:
    make, clause = INEXPRESSIBLE[case]
    reason = hooked.unsupported_reason(make())
    assert reason is not None
    assert clause in reason
    assert "\n" not in reason


@HOOKED
def test_what_cannot_be_expressed_is_an_error_that_names_the_bridge() -> None:
    with pytest.raises(LoadError, match=r"grouped heads for olmo2; use backend=\"bridge\""):
        hooked.to_hooked(make_model("olmo2, groups"), None)


@HOOKED
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONLY_BRIDGE])
def test_every_architecture_of_the_suite_can_be_a_hooked_transformer(name: str) -> None:
    assert hooked.unsupported_reason({**ARCHITECTURES, **VARIANTS}[name]()) is None


@pytest.mark.bridge
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_of_the_suite_can_be_a_bridge(name: str) -> None:
    assert bridge.unsupported_reason(ARCHITECTURES[name]()) is None


@pytest.mark.bridge
@pytest.mark.parametrize(
    ("config", "clause"),
    [
        (hf.T5Config(architectures=["T5ForConditionalGeneration"]), "no decoder-only text model (seq2seq)"),
        (hf.LlavaConfig(architectures=["LlavaForConditionalGeneration"]), "no decoder-only text model (multimodal)"),
        (hf.CTRLConfig(), "no bridge for CTRLLMHeadModel"),
        (hf.PreTrainedConfig(architectures=["HomeMadeModel"]), "no bridge for HomeMadeModel"),
    ],
    ids=["encoder-decoder", "with images", "unknown family", "own class"],
)
def test_what_a_bridge_cannot_take_has_a_reason(config: Any, clause: str) -> None:
    reason = bridge.unsupported_reason(config)
    assert reason is not None
    assert clause in reason


@pytest.mark.bridge
def test_a_model_without_a_bridge_is_an_error_with_a_remedy() -> None:
    model: Any = from_config(hf.CTRLConfig(vocab_size=128, n_embd=32, dff=32, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(LoadError, match="no bridge for CTRLLMHeadModel; choose"):
        bridge.to_bridge(model, None)
