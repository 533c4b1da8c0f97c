"""A tiny config for every causal model class of TransformerLens' registry that transformers can build.

Sizes are set by the names that configs share; what a family needs besides is in `_OWN`.
"""

from __future__ import annotations

from typing import Any, Final

import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.architectures import VOCAB, WINDOW

_MODEL_TYPES: Final = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "Llama4ForCausalLM": "llama4_text",
    "Qwen3_5ForCausalLM": "qwen3_5_text",
    "Qwen3_5MoeForCausalLM": "qwen3_5_moe_text",
}
"""Of classes that several model types share, the one that is tried: not a config of text and images."""

_LAYERS, _HEADS, _WIDTH = 2, 4, 32
_SHARED: Final = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")

_SIZES: Final[dict[str, Any]] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "lru_width"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), _HEADS),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "moe_intermediate_size", *_SHARED), 48),
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
    # Chunks shorter than the tests' prompts: a state is handed on, and nothing is padded to 256.
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_MAMBA: Final = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_HYBRID: Final = {"layer_types": ["linear_attention", "full_attention"]}
_LATENT: Final = {"num_key_value_heads": _HEADS}
_GEMMA4: Final = {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 16}

_OWN: Final[dict[str, dict[str, Any]]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "bert": {"is_decoder": True},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granitemoehybrid": {**_MAMBA, **_HYBRID, "shared_intermediate_size": 48, "position_embedding_type": "rope"},
    "youtu": _LATENT,
    "deepseek_v2": _LATENT,
    "deepseek_v3": {**_LATENT, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "glm_moe_dsa": {
        **_LATENT,
        "mlp_layer_types": ["dense", "sparse"],
        "indexer_types": ["full", "full"],
        "index_topk": 16,
        "index_head_dim": 16,
        "index_n_heads": 2,
    },
    "glm4_moe_lite": {**_LATENT, "mlp_layer_types": ["dense", "sparse"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"state_size": 8, "n_groups": 2, "head_dim": 16, "num_heads": 4, "time_step_rank": 4},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "num_key_value_heads": _HEADS,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_d_state": 8,
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
    "qwen3_next": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "llama4_text": {"intermediate_size_mlp": 48, "attention_chunk_size": 16, "num_experts_per_tok": 1},
    "gemma4_text": {**_GEMMA4, "hidden_size_per_layer_input": 8},
    "gemma4_unified": {"text_config": {"model_type": "gemma4_unified_text", **_SIZES, **_GEMMA4}},
}


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


def tiny_config(model_type: str, **settings: Any) -> hf.PreTrainedConfig:
    """Two layers of width 32, all that the family's config names set small; then settings of your own."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    names = {**vars(default), **dict.fromkeys(config_class.attribute_map)}
    real = {config_class.attribute_map.get(name, name) for name in names}
    sizes = {name: value for name, value in _SIZES.items() if name in real}
    return config_class(**{**sizes, **_OWN.get(model_type, {}), **settings})
