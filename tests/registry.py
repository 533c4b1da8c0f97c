"""A tiny config for every causal model class of TransformerLens' registry that transformers can build.

Sizes are set by the names that configs share; what a family needs besides is in `_OWN`.
"""

from __future__ import annotations

from typing import Any, Final

import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.architectures import VOCAB, WINDOW

_MODEL_TYPES: Final = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama"}
"""Of classes that several model types share, the one that is tried."""

_LAYERS, _HEADS, _WIDTH = 2, 4, 32

_SIZES: Final[dict[str, Any]] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "lru_width"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), _HEADS),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "context_length"), 64),
    "sliding_window": WINDOW,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_OWN: Final[dict[str, dict[str, Any]]] = {}


def buildable() -> dict[str, str]:
    """Model class of transformers -> its model type, for every causal model class that TransformerLens lists."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.utilities.architectures import classify_architecture

    types: dict[str, str] = {}
    for model_type, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        for name in [names] if isinstance(names, str) else names:
            types.setdefault(name, model_type)
    types |= _MODEL_TYPES
    listed = [name for name in SUPPORTED_ARCHITECTURES if classify_architecture(name) == "causal_lm"]
    return {name: types[name] for name in listed if name in types}


def tiny_config(model_type: str) -> hf.PreTrainedConfig:
    """Two layers of width 32, all that the family's config names set small."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    names = {**vars(default), **dict.fromkeys(config_class.attribute_map)}
    real = {config_class.attribute_map.get(name, name) for name in names}
    sizes = {name: value for name, value in _SIZES.items() if name in real}
    return config_class(**{**sizes, **_OWN.get(model_type, {})})
