"""Two configs, or two lists of tensors, are told apart by whatever changes how the blocks compute; by nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from tests.architectures import ARCHITECTURES, VARIANTS
from tuco_lens.errors import LoadError, PairMismatchError
from tuco_lens.models.checks import require_finite, require_same_structure, require_same_tensors, structure

_SIZE: dict[str, Any] = {"vocab_size": 128, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
_ROPE = {"rope_type": "default", "rope_theta": 5000.0}


def _llama(**settings: Any) -> hf.PreTrainedConfig:
    return hf.LlamaConfig(**{**_SIZE, "rope_parameters": _ROPE, **settings})


def _gpt2(**settings: Any) -> hf.PreTrainedConfig:
    return hf.GPT2Config(**{"vocab_size": 128, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, **settings})


def _gemma3(full_theta: float = 90000.0, **settings: Any) -> hf.PreTrainedConfig:
    rope = {"sliding_attention": _ROPE, "full_attention": {"rope_type": "default", "rope_theta": full_theta}}
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    return hf.Gemma3TextConfig(**{**_SIZE, "rope_parameters": rope, "layer_types": types, **settings})


def _mismatch(base: Any, tuned: Any) -> str:
    with pytest.raises(PairMismatchError) as caught:
        require_same_structure(base, tuned, "org/base", "org/tuned")
    return str(caught.value)


YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 32}
MISMATCHES: dict[str, tuple[Any, Any, str, str, str]] = {
    "architecture": (_llama(), hf.MistralConfig(**_SIZE), "architecture", "'llama'", "'mistral'"),
    "layers": (_llama(), _llama(num_hidden_layers=4), "number of layers", "3", "4"),
    "layers of GPT-2": (_gpt2(), _gpt2(n_layer=5), "number of layers", "3", "5"),
    "width": (_llama(), _llama(hidden_size=128), "d_model", "64", "128"),
    "heads": (_llama(head_dim=16), _llama(num_attention_heads=8, head_dim=16), "attention heads", "4", "8"),
    "key-value heads": (_llama(), _llama(num_key_value_heads=2), "key-value heads", "4", "2"),
    "head dimension": (_llama(head_dim=16), _llama(head_dim=24), "head dimension", "16", "24"),
    "MLP": (_llama(intermediate_size=96), _llama(intermediate_size=80), "MLP width", "96", "80"),
    "activation": (_llama(), _llama(hidden_act="gelu"), "activation", "'silu'", "'gelu'"),
    "norm epsilon": (_llama(rms_norm_eps=1e-5), _llama(rms_norm_eps=1e-6), "norm epsilon", "1e-05", "1e-06"),
    "rotary share": (
        hf.GPTNeoXConfig(**_SIZE, rotary_pct=0.25),
        hf.GPTNeoXConfig(**_SIZE, rotary_pct=0.5),
        "rotary share",
        "0.25",
        "0.5",
    ),
    "rotary dimensions of GPT-J": (
        hf.GPTJConfig(n_embd=64, n_head=4, n_layer=3, rotary_dim=8),
        hf.GPTJConfig(n_embd=64, n_head=4, n_layer=3, rotary_dim=16),
        "rotary dimensions",
        "8",
        "16",
    ),
    "ALiBi against rotary": (
        hf.FalconConfig(**_SIZE, alibi=True),
        hf.FalconConfig(**_SIZE, alibi=False),
        "positional scheme",
        "'ALiBi'",
        "'rotary'",
    ),
    "table of positions": (_gpt2(), _gpt2(n_positions=128), "longest position", "64", "128"),
    "softcap": (
        hf.Gemma2Config(**_SIZE, attn_logit_softcapping=50.0),
        hf.Gemma2Config(**_SIZE, attn_logit_softcapping=None),
        "attention softcap",
        "50.0",
        "None",
    ),
    "parallel blocks": (
        hf.GPTNeoXConfig(**_SIZE),
        hf.GPTNeoXConfig(**_SIZE, use_parallel_residual=False),
        "parallel blocks",
        "True",
        "False",
    ),
    "experts": (
        hf.MixtralConfig(**_SIZE, num_local_experts=4),
        hf.MixtralConfig(**_SIZE, num_local_experts=8),
        "number of experts",
        "4",
        "8",
    ),
    "experts per token": (
        hf.MixtralConfig(**_SIZE, num_experts_per_tok=2),
        hf.MixtralConfig(**_SIZE, num_experts_per_tok=1),
        "experts per token",
        "2",
        "1",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_setting_that_changes_the_blocks_is_a_mismatch_that_names_both_values(case: str) -> None:
    base, tuned, setting, ours, theirs = MISMATCHES[case]
    message = _mismatch(base, tuned)
    assert setting in message
    assert f"{ours} in the base model and {theirs} in the tuned model" in message
    assert "'org/base'" in message
    assert "'org/tuned'" in message
    assert "\n" not in message


ALLOWED: dict[str, tuple[Any, Any]] = {
    "rotary base": (_llama(), _llama(rope_parameters={**_ROPE, "rope_theta": 1e6})),
    "rotary type": (_llama(), _llama(rope_parameters=YARN)),
    "rotary factor": (_llama(rope_parameters=YARN), _llama(rope_parameters={**YARN, "factor": 8.0})),
    "rotary base of one layer type": (_gemma3(), _gemma3(10000.0)),
    "stretched by length": (
        _llama(rope_parameters={**_ROPE, "rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=64),
        _llama(rope_parameters={**_ROPE, "rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=128),
    ),
    "window": (hf.MistralConfig(**_SIZE, sliding_window=8), hf.MistralConfig(**_SIZE, sliding_window=None)),
    "window by layer": (_gemma3(), _gemma3(layer_types=["sliding_attention", "full_attention", "full_attention"])),
    "vocabulary": (_llama(), _llama(vocab_size=200)),
    "longest position with equal rotary settings": (
        _llama(max_position_embeddings=64),
        _llama(max_position_embeddings=128),
    ),
    "rounding to float32": (_llama(rms_norm_eps=1e-5), _llama(rms_norm_eps=9.999999747378752e-06)),
    "whole number for a float": (_llama(), _llama(rope_parameters={**_ROPE, "rope_theta": 5000})),
    "rotary default spelt out": (_llama(), _llama(rope_parameters={**_ROPE, "partial_rotary_factor": 1.0})),
    "head dimension spelt out": (hf.MistralConfig(**_SIZE, head_dim=None), hf.MistralConfig(**_SIZE, head_dim=16)),
    "window that is switched off": (
        hf.Qwen2Config(**_SIZE, sliding_window=16, use_sliding_window=False),
        hf.Qwen2Config(**_SIZE, sliding_window=32, use_sliding_window=False, max_window_layers=1),
    ),
    "names, tokens, dtype": (_llama(), _llama(bos_token_id=7, dtype="bfloat16", name_or_path="elsewhere")),
    "tied unembedding": (_llama(), _llama(tie_word_embeddings=True)),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_a_setting_that_leaves_the_blocks_alone_may_differ(case: str) -> None:
    base, tuned = ALLOWED[case]
    require_same_structure(base, tuned, "base", "tuned")
    require_same_structure(tuned, base, "tuned", "base")


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS])
def test_every_architecture_has_a_structure_and_matches_itself(name: str) -> None:
    config = {**ARCHITECTURES, **VARIANTS}[name]()
    found = structure(config)
    expected = {"number of layers", "d_model", "number of attention heads", "head dimension", "positional scheme"}
    assert not {label for label in expected if found[label] is None}
    require_same_structure(config, {**ARCHITECTURES, **VARIANTS}[name](), "base", "tuned")


SHAPES = {"embed": (10, 4), "block.weight": (4, 4), "head": (10, 4)}
TENSOR_CASES = [
    ({"embed": (12, 4), "head": (12, 4)}, None),
    ({"block.weight": (4, 8)}, r"block\.weight has the shape \(4, 4\) in the base model and \(4, 8\) in the tuned"),
    ({"embed": (10, 6)}, r"embed has the shape \(10, 4\) in the base model and \(10, 6\) in the tuned"),
    ({"block.bias": (4,)}, r"the tuned model has block\.bias \(4,\), and the base model has no such tensor"),
]


@pytest.mark.parametrize(("change", "message"), TENSOR_CASES)
def test_tensors_must_agree_in_name_and_shape_but_for_the_rows_of_the_vocabulary(
    change: dict[str, tuple[int, ...]], message: str | None
) -> None:
    if message is None:
        require_same_tensors(SHAPES, {**SHAPES, **change}, {"embed", "head"}, "base", "tuned")
        return
    with pytest.raises(PairMismatchError, match=message):
        require_same_tensors(SHAPES, {**SHAPES, **change}, {"embed", "head"}, "base", "tuned")


def test_a_tensor_that_the_tuned_model_lacks_is_a_mismatch() -> None:
    with pytest.raises(PairMismatchError, match=r"the base model has block\.weight .* the tuned model has no such"):
        require_same_tensors(SHAPES, {"embed": (10, 4), "head": (10, 4)}, {"embed"}, "base", "tuned")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "inf")])
def test_one_value_that_is_not_finite_is_found_and_its_tensor_named(
    value: float, word: str, dtype: torch.dtype
) -> None:
    weights = {"a": torch.ones(3, 3, dtype=dtype), "b": torch.ones(5, dtype=dtype), "empty": torch.ones(0)}
    require_finite(weights.items(), "cannot load")
    weights["b"][3] = value
    with pytest.raises(LoadError, match=f"b has {word}"):
        require_finite(weights.items(), "cannot load")


def test_large_finite_weights_are_not_taken_for_infinite() -> None:
    require_finite([("a", torch.full((64,), 6e4, dtype=torch.float16))], "cannot load")
