"""Tiny random base/tuned pairs of every architecture that the package promises (see `test_architectures.py`).

Every parameter is random, norm weights and biases too, so that a conversion which folds, drops or confuses one of them
is seen. Sliding windows are shorter than `N_TOKENS`, and rotary settings are never the defaults.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn

N_TOKENS: Final = 24
"""Length of the test prompts: three times the sliding windows below."""
VOCAB: Final = 128
WINDOW: Final = 8

_SIZE: Final = {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_IDS: Final = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GATED: Final = {**_SIZE, **_IDS, "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 64}
_GEMMA: Final = {**_GATED, "head_dim": 24}  # d_head ≠ d_model / n_heads
_ROPE: Final = {"rope_type": "default", "rope_theta": 5000.0}
_GPT2: Final = {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, **_IDS}


def _types(*names: str) -> list[str]:
    return [f"{name}_attention" for name in names]


def _gemma2(**settings: Any) -> hf.PreTrainedConfig:
    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 17}
    return hf.Gemma2Config(**{**_GEMMA, "sliding_window": WINDOW, "rope_parameters": _ROPE, **caps, **settings})


def _gemma3(**settings: Any) -> hf.PreTrainedConfig:
    rope = {"sliding_attention": _ROPE, "full_attention": {"rope_type": "default", "rope_theta": 90000.0}}
    types = _types("sliding", "full", "sliding")
    own = {"sliding_window": WINDOW, "rope_parameters": rope, "layer_types": types, "query_pre_attn_scalar": 17}
    return hf.Gemma3TextConfig(**{**_GEMMA, **own, **settings})


ARCHITECTURES: Final[dict[str, Callable[[], hf.PreTrainedConfig]]] = {
    "llama": lambda: hf.LlamaConfig(**_GATED, rope_parameters=_ROPE, rms_norm_eps=1e-5),
    "gpt2": lambda: hf.GPT2Config(**_GPT2),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        **_SIZE, **_IDS, intermediate_size=96, max_position_embeddings=64, rotary_pct=0.5, rotary_emb_base=5000
    ),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        **{**_IDS, "vocab_size": VOCAB, "hidden_size": 64, "num_layers": 2, "num_heads": 4},
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
        max_position_embeddings=64,
    ),
    "gptj": lambda: hf.GPTJConfig(**_GPT2, rotary_dim=8, tie_word_embeddings=False),
    "qwen2": lambda: hf.Qwen2Config(**_GATED, rope_parameters=_ROPE),
    "qwen3": lambda: hf.Qwen3Config(**_GEMMA, rope_parameters=_ROPE),
    "gemma": lambda: hf.GemmaConfig(**_GEMMA, rope_parameters=_ROPE),
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "mistral": lambda: hf.MistralConfig(**_GATED, rope_parameters=_ROPE, sliding_window=WINDOW),
    "mixtral": lambda: hf.MixtralConfig(**_GATED, rope_parameters=_ROPE, num_local_experts=4, num_experts_per_tok=2),
    "opt": lambda: hf.OPTConfig(**_SIZE, **_IDS, ffn_dim=96, max_position_embeddings=64),
    "phi": lambda: hf.PhiConfig(
        **{**_GATED, "num_key_value_heads": 4}, rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}
    ),
    "phi3": lambda: hf.Phi3Config(**_GATED, rope_parameters={**_ROPE, "partial_rotary_factor": 1.0}),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCAB, hidden_size=64, n_layer=3, n_head=4, **_IDS),
    "olmo2": lambda: hf.Olmo2Config(**{**_GATED, "num_key_value_heads": 4}, rope_parameters=_ROPE),
}
"""One config per architecture."""


_LLAMA3: Final = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

VARIANTS: Final[dict[str, Callable[[], hf.PreTrainedConfig]]] = {
    "llama, biases": lambda: hf.LlamaConfig(**_GEMMA, attention_bias=True, tie_word_embeddings=True),
    "llama, llama3 rope": lambda: hf.LlamaConfig(
        **{**_GATED, "max_position_embeddings": 256},
        rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, **_LLAMA3},
    ),
    "llama, linear rope": lambda: hf.LlamaConfig(
        **_GATED, rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    ),
    "llama, no groups": lambda: hf.LlamaConfig(**{**_GATED, "num_key_value_heads": 4}),
    "gpt2, inverse layer scale": lambda: hf.GPT2Config(**_GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=96),
    "gpt2, untied": lambda: hf.GPT2Config(**_GPT2, tie_word_embeddings=False, activation_function="relu"),
    "gpt_neox, sequential": lambda: hf.GPTNeoXConfig(
        **_SIZE, **_IDS, intermediate_size=96, max_position_embeddings=64, use_parallel_residual=False
    ),
    "qwen2, sliding": lambda: hf.Qwen2Config(
        **_GATED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3, sliding, biases": lambda: hf.Qwen3Config(
        **_GEMMA, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2, attention_bias=True
    ),
    "mistral, no window, d_head": lambda: hf.MistralConfig(**_GEMMA, sliding_window=None),
    "mixtral, sliding": lambda: hf.MixtralConfig(**_GATED, num_local_experts=3, sliding_window=WINDOW),
    "phi3, sliding, partial": lambda: hf.Phi3Config(
        **{**_GATED, "num_key_value_heads": 4},
        rope_parameters={**_ROPE, "partial_rotary_factor": 0.75},
        sliding_window=WINDOW,
    ),
    "gemma2, no caps": lambda: _gemma2(attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3, scaled rope": lambda: _gemma3(
        rope_parameters={
            "sliding_attention": _ROPE,
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 90000.0},
        }
    ),
    "olmo2, groups": lambda: hf.Olmo2Config(**_GATED, rope_parameters=_ROPE),
    "opt, gelu": lambda: hf.OPTConfig(
        **_SIZE, **_IDS, ffn_dim=96, max_position_embeddings=64, activation_function="gelu", tie_word_embeddings=False
    ),
}
"""Settings within those architectures that published checkpoints use and a conversion can easily miss."""


def make_model(name: str, seed: int = 0) -> nn.Module:
    """A random transformers model in float32, in eval mode, with `config.architectures` set."""
    return from_config({**ARCHITECTURES, **VARIANTS}[name](), seed)


def from_config(config: hf.PreTrainedConfig, seed: int = 0) -> nn.Module:
    """As `make_model`, of a config of your own."""
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config.architectures = [type(model).__name__]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * 0.8 / parameter.shape[-1] ** 0.5)
            else:  # around what it was: 1 for most norms, 0 for Gemma's and for biases
                parameter.add_(noise * (0.1 if name.endswith("bias") else 0.3))
    return model.eval()


def make_pair(name: str, seed: int = 0, strength: float = 0.1) -> tuple[nn.Module, nn.Module]:
    """A base model and a tuned one: base + Gaussian noise on every parameter.

    Args:
        name: A key of `ARCHITECTURES` or `VARIANTS`.
        seed: Of the weights; the noise follows from it.
        strength: Noise of a parameter over its own root mean square.

    Returns:
        (base, tuned), transformers models in float32, sharing nothing.
    """
    base = make_model(name, seed)
    return base, tuned_from(base, seed, strength)


def tuned_from(base: nn.Module, seed: int = 0, strength: float = 0.1) -> nn.Module:
    """The tuned model of `make_pair`, of a base of your own."""
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            size = parameter.square().mean().sqrt()
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size * strength)
    return tuned


def make_ids(batch: int = 2, n_tokens: int = N_TOKENS, seed: int = 0) -> torch.Tensor:
    """Random token ids [batch, pos] in the vocabulary, special tokens left out."""
    return torch.randint(3, VOCAB, (batch, n_tokens), generator=torch.Generator().manual_seed(seed))


def make_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A tokenizer for them all, built in memory (so without a name): the words w3 … w127, and <s> put before text."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)


VERSION: Final = importlib.metadata.version("transformer-lens")
HOOKED: Final = pytest.mark.skipif(
    int(VERSION.split(".")[0]) >= 4, reason=f"transformer-lens {VERSION} has no HookedTransformer"
)
BACKENDS: Final = [pytest.param("hooked", marks=HOOKED), pytest.param("bridge", marks=pytest.mark.bridge)]
"""Both backends, as parameters of a test."""
ONLY_BRIDGE: Final = {"olmo2, groups"}
"""What no HookedTransformer is made of."""
CASES: Final = [
    pytest.param(name, *backend.values, marks=backend.marks)
    for name in [*ARCHITECTURES, *VARIANTS]
    for backend in BACKENDS
    if not (name in ONLY_BRIDGE and backend.values == ("hooked",))
]
"""Every architecture and variant on every backend that takes it, as parameters of a test."""
