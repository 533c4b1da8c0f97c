"""Where positions depend on more than a token's own place: on how long the text is, and on which of the two models.

Two rotary types take other angles once a text is longer than a length in the config: `longrope` has a second set of
them, `dynamic` stretches them with every further token. So a prompt beside a longer one, or behind a cached beginning
that was shorter, would get other numbers than alone. `length_kind` says which lengths go together. The masks and
angles of base and tuned model may differ as well (long-context fine-tunes): `positions_differ`. And where a block keeps
a running state of the text, `keeps_states`, padding before it would be a part of the text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

from tuco_lens.models.checks import POSITION_SETTINGS, equal_settings, structure

LengthKind = Callable[[int], Hashable]
"""From a text's length in tokens to its kind; texts of one kind have the same angles, whatever their lengths."""


def length_kind(*models: Any) -> LengthKind:
    """Which lengths may share a batch, and go on from one another's KV cache, on all of these models.

    A HookedTransformer has one table of angles, and takes no model whose angles depend on the length.
    """
    settings = {each for model in models if hasattr(model, "original_model") for each in _switches(model)}

    def kind(n_tokens: int) -> Hashable:
        beyond = ((switch, n_tokens if grows else 0) for switch, grows in sorted(settings) if n_tokens > switch)
        return tuple(beyond)

    return kind


def positions_differ(base: Any, tuned: Any) -> bool:
    """Whether the two models hand their blocks other masks or rotary angles; never of HookedTransformers."""
    return hasattr(tuned, "original_model") and not equal_settings(_handed(base), _handed(tuned))


def _handed(model: Any) -> dict[str, Any]:
    found = structure(model.original_model.config)
    return {name: found[name] for name in POSITION_SETTINGS}


def stands_alone(*models: Any) -> bool:
    """Whether a text is to be run by itself and from its beginning, where texts of other lengths may be beside it.

    It is where an angle depends on how long the text is, within the models' contexts, or blocks keep running states.
    """
    longest = max(model.cfg.n_ctx for model in models)
    kind = length_kind(*models)
    return kind(1) != kind(longest) or any(map(keeps_states, models))


def keeps_states(model: Any) -> bool:
    """Whether a block keeps a running state of the text (Mamba, linear attention, convolutions, RWKV), not keys only.

    Such a state takes in the padding on the left of a text, and rows of it are not copied from text to text.
    """
    if not hasattr(model, "original_model"):
        return False
    from transformers import DynamicCache

    hf_model = model.original_model
    if "past_key_values" not in inspect.signature(hf_model.forward).parameters:
        return True
    return any(hasattr(layer, "conv_states") for layer in DynamicCache(config=hf_model.config).layers)


def _switches(model: Any) -> Iterator[tuple[int, bool]]:
    """Rotary settings that depend on the length: up to where they do not, and whether every length is its own."""
    config = model.original_model.config.get_text_config()
    for rotary in _rotary_settings(getattr(config, "rope_parameters", None) or {}):
        kind = str(rotary.get("rope_type", "default"))
        if kind == "longrope":
            original = rotary.get("original_max_position_embeddings")
            yield int(cast("int", original or config.max_position_embeddings)), False
        elif "dynamic" in kind:
            yield int(config.max_position_embeddings), True


def _rotary_settings(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rotary settings one by one, where layers of different types have their own."""
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    yield from nested or [settings]


def forget_lengths(hf_model: Any) -> None:
    """From now on, what a rotary module of type `dynamic` gives does not depend on the texts that came before.

    transformers keeps the angles of the longest text so far and uses them for shorter ones too. Each call now begins
    from the angles of the config.
    """
    for module in hf_model.modules():
        kinds = getattr(module, "rope_type", None)
        if hasattr(module, "max_seq_len_cached") and "dynamic" in str(kinds):
            module.register_forward_pre_hook(_begin_anew)


def _begin_anew(rotary: Any, _args: Any) -> None:
    layer_types = rotary.rope_type if isinstance(rotary.rope_type, Mapping) else [None]
    for layer_type in layer_types:
        prefix = "" if layer_type is None else f"{layer_type}_"
        getattr(rotary, f"{prefix}inv_freq").data = getattr(rotary, f"{prefix}original_inv_freq").clone()
        setattr(rotary, f"{prefix}max_seq_len_cached", rotary.original_max_seq_len)
