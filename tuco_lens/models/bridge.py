"""A `TransformerBridge` around a loaded transformers model: TransformerLens' hooks on transformers' own modules.

The bridge takes far more architectures than HookedTransformer (`hooked.py`) and copies no weights. It is booted without
weight processing and compatibility mode, which change the residual stream, without look-ups on the hub, and without
printing. Works with transformer-lens 3.9 and 4.x.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tuco_lens.errors import LoadError
from tuco_lens.models.offload import (
    computing_device,
    forget_dispatch,
    register_added,
    require_separate_projections,
    settle,
)
from tuco_lens.models.positions import forget_lengths
from tuco_lens.models.text_model import own_tokenizer, prepends_bos, text_config, text_model

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_REMEDY = "choose a decoder-only text model that TransformerLens lists"


def unsupported_reason(config: PreTrainedConfig) -> str | None:
    """Why the model of this config cannot be measured as a TransformerBridge: one clause for the user, or None.

    Decided by the model classes of the config, looked up in TransformerLens' registry.

    Args:
        config: The transformers model's config.
    """
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.utilities.architectures import classify_architecture

    names = class_names(text_config(config))
    known = [name for name in names if name in SUPPORTED_ARCHITECTURES]
    if not known:
        return f"TransformerLens has no bridge for {' or '.join(names) or config.model_type}"
    kind = classify_architecture(known[0])
    if kind != "causal_lm":
        return f"{known[0]} is no decoder-only text model ({kind.replace('_', ' ')})"
    return None


def to_bridge(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> TransformerBridge:
    """The model as a TransformerBridge.

    The bridge *takes over* `hf_model`: it wraps the modules in place, and sets the attention implementation to "eager",
    as TransformerLens does for the models that it loads itself (hooks on attention patterns need it). Copy the model
    first if you want to go on using it. The result is in evaluation mode, with `hf_model`'s dtype and device(s).

    Args:
        hf_model: A loaded transformers causal language model.
        tokenizer: For `model.to_tokens`, `model.generate("text")` and the like; the model gets a copy with right
            padding. None leaves it without one.

    Raises:
        LoadError: if TransformerLens has no bridge for the model, or it is not a decoder-only text model.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model: Any = text_model(hf_model)
    model.config.architectures = [type(model).__name__]  # TransformerLens reads them; not every config has them
    if getattr(model.config, "position_embedding_type", "") is None:  # TransformerLens would read None as rotary
        model.config.position_embedding_type = "nope"
    reason = unsupported_reason(model.config)
    if reason is not None:
        raise LoadError("cannot make a TransformerBridge", reason, _REMEDY)
    require_separate_projections(model, f"cannot make a TransformerBridge of {type(model).__name__}")
    settle(model)
    forget_dispatch(model)
    model.set_attn_implementation("eager")
    own = _placeholder_tokenizer() if tokenizer is None else own_tokenizer(tokenizer)
    with contextlib.redirect_stdout(io.StringIO()), _no_processor():
        bridge: Any = TransformerBridge.boot_transformers(
            _label(model), hf_model=model.eval(), tokenizer=own, device=computing_device(model), dtype=model.dtype
        )
    register_added(model)
    if tokenizer is None:
        bridge.tokenizer = None
    else:
        own.padding_side = "right"  # some adapters pad on the left
        bridge.cfg.tokenizer_prepends_bos = prepends_bos(tokenizer)
        bridge.cfg.default_prepend_bos = bridge.cfg.default_prepend_bos and tokenizer.bos_token is not None
    forget_lengths(model)
    return bridge.eval()


def class_names(config: Any) -> list[str]:
    """The names of the config's possible model classes: transformers' own, then those that the checkpoint names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    names = [found] if isinstance(found, str) else list(found or ())
    return names + [name for name in getattr(config, "architectures", None) or () if name not in names]


@contextlib.contextmanager
def _no_processor() -> Generator[None]:
    """Make `AutoProcessor` return None in this thread: only the text model is measured.

    For a class that also takes images, booting would look its processor up on the hub and, if it found none, *install
    torchvision* with pip, which may replace the torch that is running.
    """
    from transformers import AutoProcessor

    here, own, find = threading.get_ident(), vars(AutoProcessor)["from_pretrained"], AutoProcessor.from_pretrained

    def none_here(*args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() == here else find(*args, **kwargs)

    AutoProcessor.from_pretrained = staticmethod(none_here)
    try:
        yield
    finally:
        AutoProcessor.from_pretrained = own


def _label(model: Any) -> str:
    """The name that TransformerLens is given. Only its adapters for models with their own code load something by it."""
    if type(model).__module__.startswith("transformers_modules"):
        return model.config.name_or_path
    return type(model).__name__  # not the model type: TransformerLens takes "opt" for one checkpoint


def _placeholder_tokenizer() -> Any:
    """A tokenizer of one word: given none, booting would look one up on the hub."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="?", pad_token="?", unk_token="?")
