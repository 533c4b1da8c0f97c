"""A `HookedTransformer` of a loaded transformers model, with the same numbers and mostly in the same memory.

`HookedTransformer.from_pretrained` refuses local fine-tunes and goes by names. Here the settings come from the config
(`hooked_config.py`), the weights go through TransformerLens' own converters, and none is folded or centred. What cannot
be expressed exactly is refused by `unsupported_reason` and left to the bridge (`bridge.py`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.errors import LoadError
from tuco_lens.models.hooked_config import FAMILIES, hooked_settings, unexpressible
from tuco_lens.models.numerics import logit_error, logit_tolerance
from tuco_lens.models.text_model import own_tokenizer, prepends_bos, text_config, text_model

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_BRIDGE = 'use backend="bridge"'
_N_CHECKED = 16


def unsupported_reason(config: PreTrainedConfig) -> str | None:
    """Why the model of this config cannot be a HookedTransformer: one clause for the user, or None.

    Decided by `config.model_type` and the settings, never by a name or path.

    Args:
        config: The transformers model's config.
    """
    if not _has_hooked_transformer():
        version = importlib.metadata.version("transformer-lens")
        return f"transformer-lens {version} has no HookedTransformer (removed in 4.0)"
    return unexpressible(text_config(config))


def to_hooked(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    official_name: str | None = None,
    n_ctx: int = 0,
) -> HookedTransformer:
    """The model as a HookedTransformer without weight processing, equal to it in every layer.

    The matrices are *not* copied: the parameters are views of `hf_model`'s own memory, in a layout that saves
    TransformerLens a transposition at each call. So drop `hf_model` afterwards, or at least do not train it; its memory
    lives on in the result. Copies are made only of what two parameters share (tied unembedding, tied norms), of Gemma's
    scaled embedding, and of norms to which Gemma's 1 is added; that sum is rounded in half precision (use the bridge if
    the last digit of a half-precision Gemma matters).

    The result is in evaluation mode, with `hf_model`'s dtype and device; its parameters require gradients, as
    TransformerLens' do. Its logits for a short prompt are compared with `hf_model`'s.

    Args:
        hf_model: A loaded transformers causal language model, on one device.
        tokenizer: For `model.to_tokens`, `model.generate("text")` and the like; the model gets a copy with right
            padding. None leaves it without one.
        official_name: Only a label, `model.cfg.model_name`.
        n_ctx: The least number of positions that a rotary model shall take; it takes at least the config's.

    Raises:
        LoadError: if the config cannot be expressed, the model is spread over devices, or the logits differ.
    """
    reason = unsupported_reason(hf_model.config)
    if reason is not None:
        raise LoadError("cannot make a HookedTransformer", reason, _BRIDGE)
    if len({parameter.device for parameter in hf_model.parameters()}) != 1:
        raise LoadError("cannot make a HookedTransformer", "the weights are spread over several devices", _BRIDGE)
    source = text_model(hf_model)
    model = _without_weights(source, official_name, n_ctx)
    with torch.no_grad():
        _give_weights(model, _converted(source, model))
    torch.nn.Module.to(model, source.device)  # buffers; HookedTransformer.to would print
    model.eval()
    _give_tokenizer(model, tokenizer)
    _check_logits(source, model)
    return model


def _has_hooked_transformer() -> bool:
    try:
        return hasattr(importlib.import_module("transformer_lens"), "HookedTransformer")
    except ImportError:  # what 4.x raises for the name
        return False


def _without_weights(hf_model: Any, name: str | None, n_ctx: int) -> Any:
    """The HookedTransformer with its buffers in memory and its parameters on the meta device."""
    # Imported here because transformer_lens >= 4.0 has neither of these two classes.
    from accelerate import init_empty_weights
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    settings = hooked_settings(hf_model.config)
    if settings.get("positional_embedding_type") == "rotary":
        settings["n_ctx"] = max(settings["n_ctx"], n_ctx)
    config = HookedTransformerConfig(
        **settings,
        model_name=name or hf_model.config.model_type,
        dtype=hf_model.dtype,
        device=str(hf_model.device),
    )
    with warnings.catch_warnings(), init_empty_weights(include_buffers=False):
        warnings.simplefilter("ignore", DeprecationWarning)  # the class was chosen by the user or by "auto"
        return HookedTransformer(config, move_to_device=False)


def _converted(hf_model: Any, model: Any) -> dict[str, Tensor]:
    """A weight for every parameter of the HookedTransformer, by TransformerLens' names."""
    converters: Any = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    weights: dict[str, Tensor] = getattr(converters, FAMILIES[hf_model.config.model_type].converter)(
        hf_model, model.cfg
    )
    weights |= _attention_biases(hf_model, model.cfg)
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, empty in model.named_parameters():
        weight = weights.get(name)
        if weight is None:
            # Biases that the family does not have, and a position table that ALiBi models never read.
            if ".b_" not in name and name != "pos_embed.W_pos":
                raise LoadError("cannot make a HookedTransformer", f"no weight for {name}", _BRIDGE)
            weight = torch.zeros(empty.shape)
        weight = weight.detach().to(hf_model.device, hf_model.dtype)
        # A tied weight becomes two, since each parameter of a HookedTransformer may be edited by itself.
        result[name] = weight.clone() if weight.data_ptr() in seen else weight
        seen.add(weight.data_ptr())
    return result


def _attention_biases(hf_model: Any, cfg: Any) -> dict[str, Tensor]:
    """The biases of `attention_bias=True`, which the converters of Llama-like families set to zero."""
    biases: dict[str, Tensor] = {}
    layers = getattr(getattr(hf_model, "model", None), "layers", [])
    groups = "" if cfg.n_key_value_heads is None else "_"
    names = {"q_proj": "b_Q", "k_proj": f"{groups}b_K", "v_proj": f"{groups}b_V", "o_proj": "b_O"}
    for index, layer in enumerate(layers):
        for theirs, ours in names.items():
            bias = getattr(getattr(layer.self_attn, theirs, None), "bias", None)
            if bias is not None:
                biases[f"blocks.{index}.attn.{ours}"] = bias if ours == "b_O" else bias.view(-1, cfg.d_head)
    return biases


def _give_weights(model: Any, weights: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if weights[name].shape != parameter.shape:
            why = f"{name} should be {list(parameter.shape)} but is {list(weights[name].shape)}"
            raise LoadError("cannot make a HookedTransformer", why, _BRIDGE)
    model.load_state_dict(weights, strict=False, assign=True)  # not strict: no buffers are given


def _give_tokenizer(model: Any, tokenizer: Any) -> None:
    """Do what `HookedTransformer.set_tokenizer` does, without the name that it would look up on the hub."""
    if tokenizer is None:
        return
    model.tokenizer = own_tokenizer(tokenizer)
    model.cfg.tokenizer_prepends_bos = prepends_bos(tokenizer)
    model.cfg.default_prepend_bos = model.cfg.default_prepend_bos and tokenizer.bos_token is not None


def _check_logits(hf_model: Any, model: Any) -> None:
    """Compare logits on a short prompt, to catch settings that neither TransformerLens nor this package knows of.

    Raises:
        LoadError: if they differ by more than rounding. Logits that are not finite are left to the pair's own check.
    """
    vocab, n_tokens = hf_model.config.vocab_size, min(_N_CHECKED, model.cfg.n_ctx)
    ids = (torch.arange(1, n_tokens + 1) * 7919 % vocab)[None].to(hf_model.device)
    expected, actual = _hf_logits(hf_model, ids), _hooked_logits(model, ids)
    if not expected.isfinite().all():
        return
    error = logit_error(actual, expected)
    if not error <= logit_tolerance(hf_model.dtype):
        why = f"its logits differ from those of the transformers model by {error:.1%} (median over {n_tokens} tokens)"
        raise LoadError("the conversion to HookedTransformer is not exact", why, _BRIDGE)


@torch.no_grad()
def _hf_logits(hf_model: Any, ids: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos d_vocab"]:
    training = hf_model.training
    hf_model.eval()
    try:
        return hf_model(ids, use_cache=False).logits.float()
    finally:
        hf_model.train(training)


@torch.no_grad()
def _hooked_logits(model: Any, ids: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos d_vocab"]:
    return model(ids, return_type="logits").float()
