"""The `HookedTransformerConfig` of a transformers config, built from its settings alone, and what it cannot express.

TransformerLens' own converter goes by the model's name (sizes of Gemma, n_ctx of Mistral, the architecture of anything
with "llama" in its path) and predates transformers 5, so each family's settings are read here from the config. The
weights are converted in `hooked.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' activation names, and TransformerLens' for the same function."""

Settings = dict[str, Any]
"""Keyword arguments of `HookedTransformerConfig`."""


@dataclass(frozen=True)
class Family:
    """How one `model_type` is expressed as a HookedTransformer."""

    architecture: str
    """TransformerLens' name for it (`original_architecture`), which decides on post-norms and query/key norms."""
    converter: str
    """Name of the weight converter in `transformer_lens.pretrained.weight_conversions`."""
    settings: Callable[[Any], Settings]
    """The family's own part of `hooked_settings`."""
    refusals: Callable[[Any], Iterator[str]]
    """What a config asks for that cannot be expressed, one clause each."""
    prepends_bos: bool = True
    """Whether `model.to_tokens` puts a BOS before raw text by default, as TransformerLens has it for this family."""


def unexpressible(config: Any) -> str | None:
    """Why no HookedTransformer can be made for this config: one clause, or None if one can."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"the conversion to HookedTransformer does not cover model type {config.model_type!r}"
    if getattr(config, "quantization_config", None):
        return "HookedTransformer takes no quantised weights"
    return next(iter([*family.refusals(config), *_act_refusals(config)]), None)


def hooked_settings(config: Any) -> Settings:
    """Arguments of `HookedTransformerConfig` but for name, dtype and device, for a config that can be expressed."""
    family = FAMILIES[config.model_type]
    return {
        "d_vocab": config.vocab_size,
        "act_fn": _ACTIVATIONS[_activation(config)],
        "original_architecture": family.architecture,
        "default_prepend_bos": family.prepends_bos,
        "init_weights": False,
        **family.settings(config),
    }


# --- GPT-2 and related families: layer norms; learned, rotary or ALiBi positions


def _gpt2(config: Any) -> Settings:
    return {
        **_layer_norm(config),
        "d_mlp": config.n_inner or 4 * config.hidden_size,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def _gpt_neo(config: Any) -> Settings:
    return {
        **_layer_norm(config),
        "d_mlp": config.intermediate_size or 4 * config.hidden_size,
        "use_attn_scale": False,
        "use_local_attn": True,
        "window_size": config.window_size,
        "attn_types": list(config.attention_layers),
    }


def _gptj(config: Any) -> Settings:
    return {
        **_layer_norm(config),
        "d_mlp": config.n_inner or 4 * config.hidden_size,
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim,
        "rotary_adjacent_pairs": True,
    }


def _opt(config: Any) -> Settings:
    # The epsilon is not a setting: OPT's layer norms have torch's default.
    return {**_sizes(config), "d_mlp": config.ffn_dim, "eps": 1e-5, "normalization_type": "LN"}


def _bloom(config: Any) -> Settings:
    trained_at = getattr(config, "seq_length", 2048)  # ALiBi has no limit of its own
    return {
        **_layer_norm(config, n_ctx=trained_at),
        "d_mlp": 4 * config.hidden_size,
        "post_embedding_ln": True,
        "positional_embedding_type": "alibi",
    }


def _layer_norm(config: Any, n_ctx: int | None = None) -> Settings:
    return {**_sizes(config, n_ctx), "eps": config.layer_norm_epsilon, "normalization_type": "LN"}


def _gpt_neox(config: Any) -> Settings:
    return {**_rotary_layer_norm(config), "parallel_attn_mlp": config.use_parallel_residual}


def _phi(config: Any) -> Settings:
    return {**_rotary_layer_norm(config), "parallel_attn_mlp": True}


def _rotary_layer_norm(config: Any) -> Settings:
    return {
        **_sizes(config),
        **_rotary(config),
        "d_mlp": config.intermediate_size,
        "eps": config.layer_norm_eps,
        "normalization_type": "LN",
    }


# --- Llama and related families: RMS norms, rotary positions, gated MLP, grouped heads


def _llama(config: Any) -> Settings:
    return {
        **_sizes(config),
        **_rotary(config),
        **_windows(config),
        "d_mlp": config.intermediate_size,
        "eps": config.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }


def _grouped(config: Any) -> Settings:
    """For families whose weight converter always writes grouped keys and values, even if every head has its own."""
    return {**_llama(config), "n_key_value_heads": config.num_key_value_heads}


def _qwen3(config: Any) -> Settings:
    return {**_llama(config), "use_qk_norm": True}


def _mixtral(config: Any) -> Settings:
    experts = {"num_experts": config.num_local_experts, "experts_per_token": config.num_experts_per_tok}
    return {**_grouped(config), **experts, "norm_topk_prob": True}  # transformers' Mixtral always renormalises


def _gemma2(config: Any) -> Settings:
    return {
        **_grouped(config),
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,  # -1: none
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }


def _gemma3(config: Any) -> Settings:
    return {**_gemma2(config), "use_qk_norm": True}


# --- shared parts


def _sizes(config: Any, n_ctx: int | None = None) -> Settings:
    """The sizes, by transformers' common names, to which every config maps its own; `n_ctx` for a config without."""
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    return {
        "d_model": config.hidden_size,
        "d_head": _d_head(config),
        "n_heads": heads,
        "n_key_value_heads": groups if groups != heads else None,
        "n_layers": config.num_hidden_layers,
        "n_ctx": n_ctx or config.max_position_embeddings,
    }


def _d_head(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _windows(config: Any) -> Settings:
    """Which layers attend only to a window, whose width transformers and TransformerLens count alike."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    local = ["local" if kind == "sliding_attention" else "global" for kind in types]
    if not window or "local" not in local:
        return {}
    return {"use_local_attn": True, "window_size": window, "attn_types": local}


def _ropes(config: Any) -> tuple[Settings, Settings | None]:
    """The rotary settings of the ordinary layers, and those of sliding layers that have their own (Gemma 3)."""
    rope = config.rope_parameters
    if "full_attention" in rope:
        return rope["full_attention"], rope["sliding_attention"]
    return rope, None


def _rotary(config: Any) -> Settings:
    rope, local = _ropes(config)
    settings: Settings = {
        "positional_embedding_type": "rotary",
        "rotary_base": rope["rope_theta"],
        "rotary_dim": int(_d_head(config) * (rope.get("partial_rotary_factor") or 1.0)),
        "rotary_adjacent_pairs": False,
    }
    if local is not None:
        settings["rotary_base_local"] = local["rope_theta"]
    if rope.get("rope_type") == "linear":
        settings["rotary_scaling_factor"] = rope["factor"]
    if rope.get("rope_type") == "llama3":
        settings |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    return settings


def _activation(config: Any) -> str:
    if config.model_type == "bloom":
        return "gelu_fast"  # not a setting: Bloom has its own function, which equals this one
    for name in ("hidden_activation", "hidden_act", "activation_function"):
        if getattr(config, name, None):
            return getattr(config, name)
    return "unknown"


# --- what cannot be expressed


def _act_refusals(config: Any) -> Iterator[str]:
    if _activation(config) not in _ACTIVATIONS:
        yield f"HookedTransformer has no activation function {_activation(config)!r}"


def _rope_refusals(config: Any, partial: bool = False) -> Iterator[str]:
    """Rotary settings that TransformerLens computes differently; `partial`: the family may rotate part of a head."""
    rope, local = _ropes(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        yield f"HookedTransformer does not compute rotary scaling {kind!r} as transformers does"
    if local is not None and local.get("rope_type", "default") != "default":
        yield f"HookedTransformer has no rotary scaling {local['rope_type']!r} in sliding layers"
    if local is None and kind == "linear" and "local" in _windows(config).get("attn_types", []):
        yield "HookedTransformer leaves out the linear rotary scaling in sliding layers"
    if not partial and (rope.get("partial_rotary_factor") or 1.0) != 1.0:
        yield f"partial_rotary_factor={rope['partial_rotary_factor']} is not a setting of {config.model_type}"


def _llama_refusals(config: Any) -> Iterator[str]:
    yield from _rope_refusals(config)
    if getattr(config, "mlp_bias", False):
        yield "HookedTransformer's gated MLP has no biases where mlp_bias=True puts them"
    if getattr(config, "use_bidirectional_attention", False):
        yield "HookedTransformer has no bidirectional attention for this family"


def _phi3_refusals(config: Any) -> Iterator[str]:
    yield from _rope_refusals(config, partial=True)


def _phi_refusals(config: Any) -> Iterator[str]:
    yield from _rope_refusals(config, partial=True)
    if config.qk_layernorm:
        yield "HookedTransformer has no query and key layer norms (qk_layernorm=True)"
    if config.num_key_value_heads != config.num_attention_heads:
        yield "TransformerLens converts no grouped heads for phi"


def _gpt_neox_refusals(config: Any) -> Iterator[str]:
    yield from _rope_refusals(config, partial=True)
    if not config.attention_bias:
        yield "TransformerLens converts no gpt_neox without attention biases"


def _olmo2_refusals(config: Any) -> Iterator[str]:
    yield from _llama_refusals(config)
    if config.num_key_value_heads != config.num_attention_heads:
        yield "TransformerLens converts no grouped heads for olmo2"


def _gpt2_refusals(config: Any) -> Iterator[str]:
    if getattr(config, "add_cross_attention", False):
        yield "HookedTransformer has no cross-attention"


def _opt_refusals(config: Any) -> Iterator[str]:
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        yield "HookedTransformer has no OPT with layer norms after attention and MLP (do_layer_norm_before=False)"
    if config.word_embed_proj_dim != config.hidden_size:
        yield "HookedTransformer has no projection between embedding and stream (word_embed_proj_dim)"
    if not (config.enable_bias and config.layer_norm_elementwise_affine):
        yield "TransformerLens converts no OPT without biases or norm weights"


def _bloom_refusals(config: Any) -> Iterator[str]:
    if config.apply_residual_connection_post_layernorm:
        yield "HookedTransformer's stream does not pass through the norms (apply_residual_connection_post_layernorm)"
    if config.n_head & (config.n_head - 1):
        yield f"HookedTransformer's ALiBi slopes are right for powers of two only, not for {config.n_head} heads"


def _no_refusals(_config: Any) -> Iterator[str]:
    return iter(())


FAMILIES: Final[dict[str, Family]] = {
    "bloom": Family("BloomForCausalLM", "convert_bloom_weights", _bloom, _bloom_refusals, prepends_bos=False),
    "gemma": Family("GemmaForCausalLM", "convert_gemma_weights", _grouped, _llama_refusals),
    "gemma2": Family("Gemma2ForCausalLM", "convert_gemma_weights", _gemma2, _llama_refusals),
    "gemma3_text": Family("Gemma3ForCausalLM", "convert_gemma_weights", _gemma3, _llama_refusals),
    "gpt2": Family("GPT2LMHeadModel", "convert_gpt2_weights", _gpt2, _gpt2_refusals),
    "gpt_neo": Family("GPTNeoForCausalLM", "convert_neo_weights", _gpt_neo, _no_refusals),
    "gpt_neox": Family("GPTNeoXForCausalLM", "convert_neox_weights", _gpt_neox, _gpt_neox_refusals, prepends_bos=False),
    "gptj": Family("GPTJForCausalLM", "convert_gptj_weights", _gptj, _no_refusals),
    "llama": Family("LlamaForCausalLM", "convert_llama_weights", _llama, _llama_refusals),
    "mistral": Family("MistralForCausalLM", "convert_mistral_weights", _grouped, _llama_refusals),
    "mixtral": Family("MixtralForCausalLM", "convert_mixtral_weights", _mixtral, _llama_refusals),
    "olmo2": Family("Olmo2ForCausalLM", "convert_olmo2_weights", _llama, _olmo2_refusals),
    "opt": Family("OPTForCausalLM", "convert_opt_weights", _opt, _opt_refusals),
    "phi": Family("PhiForCausalLM", "convert_phi_weights", _phi, _phi_refusals, prepends_bos=False),
    "phi3": Family("Phi3ForCausalLM", "convert_phi3_weights", _llama, _phi3_refusals),
    "qwen2": Family("Qwen2ForCausalLM", "convert_qwen2_weights", _grouped, _llama_refusals, prepends_bos=False),
    "qwen3": Family("Qwen3ForCausalLM", "convert_qwen3_weights", _qwen3, _llama_refusals, prepends_bos=False),
}
"""Every `model_type` that converts exactly; all others are left to the bridge."""
