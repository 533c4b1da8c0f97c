"""Are two models the base and tuned model of one pair? Pure comparisons, whose errors name both values.

Sizes are checked when a config is read (`require_sane_config`). `load_pair` compares the two configs before any weights
are read (`require_same_structure`), checks the weights of each model (`require_finite`), and compares names and shapes
(`require_same_tensors`). `ModelPair` checks x_0 + P_L + F_L = x_L, with one short pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.brief import brief
from tuco_lens.errors import LoadError, PairMismatchError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "require_finite",
    "require_same_structure",
    "require_same_tensors",
    "require_sane_config",
    "structure",
    "tensor_shapes",
]

_REMEDY: Final = "give a base model and a fine-tune of that same model"

# What is compared, with the names that configs use for it; the first one that is set counts.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "number of layers": ("num_hidden_layers",),
    "d_model": ("hidden_size",),
    "number of attention heads": ("num_attention_heads",),
    "number of key-value heads": ("num_key_value_heads", "num_kv_heads"),
    "head dimension": ("head_dim",),
    "MLP width": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation"),
    "norm epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention windows by layer": ("layer_types", "attention_layers"),
    "attention softcap": ("attn_logit_softcapping",),
    "attention scale": ("query_pre_attn_scalar", "attention_multiplier"),
    "residual scale": ("residual_multiplier",),
    "parallel blocks": ("use_parallel_residual", "parallel_attn"),
    "number of experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts per token": ("num_experts_per_tok",),
    "embedding projection": ("word_embed_proj_dim",),
    "per-layer embedding": ("hidden_size_per_layer_input",),
    "layers that share keys and values": ("num_kv_shared_layers",),
    "scaling by layer index": ("scale_attn_by_inverse_layer_idx",),
}
_LARGEST: Final = {
    "num_hidden_layers": 2_000,
    "hidden_size": 1_000_000,
    "num_attention_heads": 100_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 10_000_000_000,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 100_000),
}
"""The sizes of a config that decide how much is built, each with a limit that no model reaches."""
POSITION_SETTINGS: Final = ("rotary settings", "longest position", "attention window", "attention windows by layer")
"""Entries of `structure` that decide only masks and rotary angles, which each model makes for itself."""
_POSITION_TABLES: Final = ("gpt2", "gpt_neo", "opt", "gpt_bigcode", "openai-gpt", "biogpt", "xglm")
"""Model types that add a learned embedding of the absolute position."""
_LENGTH_DEPENDENT_ROPE: Final = ("dynamic", "longrope")
"""Rotary types whose angles depend on `max_position_embeddings`."""


def structure(config: Any) -> dict[str, Any]:
    """The settings of a transformers config that decide how its blocks compute, under plain names; None if absent.

    `max_position_embeddings` is among them only where the computation depends on it: a table of learned positions, or
    a rotary type that stretches with it. The vocabulary is not, since only the tuned model's embedding is used.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found: dict[str, Any] = {"architecture": getattr(text, "model_type", None)}
    for label, names in _FIELDS.items():
        found[label] = next((value for name in names if (value := _setting(text, name)) is not None), None)
    if found["head dimension"] is None and found["d_model"] and found["number of attention heads"]:
        found["head dimension"] = found["d_model"] // found["number of attention heads"]
    if found["number of key-value heads"] is None:
        found["number of key-value heads"] = found["number of attention heads"]
    found["attention window"] = _window(text)
    return {**found, **_positions(text)}


def require_sane_config(config: Any, what: str) -> None:
    """Refuse sizes that no model has, before anything of that size is built; `what` begins the error message.

    Raises:
        LoadError: Naming the setting and its value.
    """
    text = config.get_text_config()
    for name, most in _LARGEST.items():
        least = 0 if name.endswith("experts") else 1  # dense models of a family with experts have none
        value = _setting(text, name)
        for size in value if isinstance(value, list) else [value]:
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not least <= size <= most):
                why = f"its config has {name} = {brief(size)}, and models have {least} to {most:,}"
                raise LoadError(what, why, "download or save the checkpoint again")


def require_same_structure(base: Any, tuned: Any, base_name: str, tuned_name: str) -> None:
    """Refuse two configs whose blocks do not compute alike.

    The vocabulary may differ. So may, with rotary embeddings and without per-layer embeddings, the rotary angles, the
    longest position and the attention window, as in a fine-tune for a longer context: each model makes its own
    (`engine/own_positions.py`). The number of rotated dimensions must be equal.

    Args:
        base: The base model's transformers config.
        tuned: The tuned model's.
        base_name: What the user gave as base, for the error message.
        tuned_name: What the user gave as tuned.

    Raises:
        PairMismatchError: Naming the first setting that differs, with both values.
    """
    ours, theirs = structure(base), structure(tuned)
    both_rotary = ours["positional scheme"] == theirs["positional scheme"] == "rotary"
    own = POSITION_SETTINGS if both_rotary and not ours["per-layer embedding"] else ()
    for label in ours:
        if label not in own and not equal_settings(ours[label], theirs[label]):
            difference = _difference(label, ours[label], theirs[label])
            raise PairMismatchError(_what(base_name, tuned_name), difference, _REMEDY)


def require_same_tensors(
    base: Mapping[str, tuple[int, ...]],
    tuned: Mapping[str, tuple[int, ...]],
    vocabulary: Collection[str],
    base_name: str,
    tuned_name: str,
) -> None:
    """Refuse two state dicts that differ in names or shapes.

    Args:
        base: Shape by tensor name, of the base model.
        tuned: The same of the tuned model.
        vocabulary: Names of the embedding and unembedding tensors, whose first dimension may differ.
        base_name: What the user gave as base, for the error message.
        tuned_name: What the user gave as tuned.

    Raises:
        PairMismatchError: Naming the first tensor that only one of them has, or whose shapes differ.
    """
    what = _what(base_name, tuned_name)
    for here, there, has, lacks in ((base, tuned, "base", "tuned"), (tuned, base, "tuned", "base")):
        only = sorted(set(here) - set(there))
        if only:
            rest = f" and {len(only) - 1} more tensors" if len(only) > 1 else ""
            why = f"the {has} model has {only[0]} {here[only[0]]}{rest}, and the {lacks} model has no such tensor"
            raise PairMismatchError(what, why, _REMEDY)
    for name, shape in base.items():
        skipped = 1 if name in vocabulary else 0
        if shape[skipped:] != tuned[name][skipped:]:
            why = f"{name} has the shape {shape} in the base model and {tuned[name]} in the tuned model"
            raise PairMismatchError(what, why, _REMEDY)


def require_finite(named: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Refuse weights with NaN or infinite values; quantised and integer tensors are not looked at.

    Args:
        named: Tensors of any shape with their names, as `model.named_parameters()` gives them.
        what: The first part of the error message.

    Raises:
        LoadError: Naming the first such tensor.
    """
    import torch

    for name, tensor in named:
        if (
            tensor.numel() == 0
            or not tensor.is_floating_point()
            or type(tensor) not in (torch.Tensor, torch.nn.Parameter)
        ):
            continue
        # Minimum and maximum are NaN if any value is: one pass, without a mask as large as the weights.
        ends = torch.stack(torch.aminmax(tensor.detach())).tolist()
        if not all(math.isfinite(end) for end in ends):
            kind = "NaN" if any(math.isnan(end) for end in ends) else "infinite values"
            raise LoadError(what, f"{name} has {kind} among its weights", "give a sound checkpoint, or another dtype")


def tensor_shapes(model: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The shape of each parameter of a transformers model by name, and the names of the embedding and unembedding."""
    modules = dict(model.named_modules(remove_duplicate=False))  # some adapters have one module in several places
    shapes = {
        name: _shape(modules[name.rpartition(".")[0]], parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    own = {id(parameter) for end in ends for parameter in end.parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return shapes, {name for name, parameter in named if id(parameter) in own}


def _shape(module: Any, parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter; for a quantised matrix, the shape that it stands for."""
    import torch

    if type(parameter) is not torch.nn.Parameter and hasattr(module, "out_features"):
        return (module.out_features, module.in_features)
    return tuple(parameter.shape)


def _setting(config: Any, name: str) -> Any:
    """A setting; where each layer has its own (the heads of Gemma 4), the list of them."""
    if name in (getattr(config, "per_layer_attributes", None) or ()):
        return [getattr(layer, name, None) for layer in config.per_layer_config]
    return getattr(config, name, None)


def _positions(config: Any) -> dict[str, Any]:
    """The positional scheme, and the settings that decide its angles or its table."""
    length = getattr(config, "max_position_embeddings", None)
    model_type = getattr(config, "model_type", None)
    nothing = {"rotary settings": None, "rotary share": None, "rotary dimensions": None, "longest position": None}
    if model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        return {"positional scheme": "ALiBi", **nothing}
    rotary = getattr(config, "rope_parameters", None)
    if rotary:
        rotary = _spelt_out(rotary)
        stretched = any(f"'{kind}'" in repr(rotary) for kind in _LENGTH_DEPENDENT_ROPE)
        own = {"rotary settings": rotary, "rotary share": _shares(rotary)}
        return {"positional scheme": "rotary", **nothing, **own, "longest position": length if stretched else None}
    if getattr(config, "rotary_dim", None) is not None:
        return {"positional scheme": "rotary", **nothing, "rotary dimensions": config.rotary_dim}
    if model_type in _POSITION_TABLES:
        return {"positional scheme": "learned positions", **nothing, "longest position": length}
    return {"positional scheme": getattr(config, "position_embedding_type", None), **nothing}


def _spelt_out(rotary: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, by layer type if nested, with the defaults that some configs leave out."""
    if any(isinstance(value, Mapping) for value in rotary.values()):
        return {kind: _spelt_out(value or {}) for kind, value in rotary.items()}
    return {"rope_type": "default", "partial_rotary_factor": 1.0, **rotary}


def _shares(rotary: Mapping[str, Any]) -> Any:
    """Which share of each head is rotated, by layer type if nested."""
    nested = {kind: _shares(value) for kind, value in rotary.items() if isinstance(value, Mapping)}
    return nested or rotary.get("partial_rotary_factor")


def _window(config: Any) -> Any:
    """The width of the attention window, None if it is switched off."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    width = _setting(config, "sliding_window")
    return width if width is not None else _setting(config, "window_size")


def equal_settings(one: Any, other: Any) -> bool:
    """Whether two settings are equal, up to rounding of floats to float32, as GGUF files store them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_settings(value, other[key]) for key, value in one.items())
    if isinstance(one, float) or isinstance(other, float):
        if not isinstance(one, (int, float)) or not isinstance(other, (int, float)):
            return False
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal_settings, one, other))
    return one == other


def _difference(label: str, base: Any, tuned: Any) -> str:
    """Name both values of a setting that differs; in a mapping or a list, those of the first entry that differs."""
    if isinstance(base, Mapping) and isinstance(tuned, Mapping):
        key = next(k for k in [*base, *tuned] if not equal_settings(base.get(k), tuned.get(k)))
        return _difference(f"{label} ({key})", base.get(key), tuned.get(key))
    if isinstance(base, (list, tuple)) and isinstance(tuned, (list, tuple)) and len(base) == len(tuned):
        index = next(i for i, pair in enumerate(zip(base, tuned, strict=True)) if not equal_settings(*pair))
        return _difference(f"{label} (layer {index})", base[index], tuned[index])
    return f"{label} is {base!r} in the base model and {tuned!r} in the tuned model"


def _what(base_name: str, tuned_name: str) -> str:
    return f"{base_name!r} and {tuned_name!r} are not base and tuned model of one another"
