"""Where position handling depends on more than the position: on the text's length, or on which of the two models runs.

Two rotary types change their angles once a text is longer than a length in the config: `longrope` has a second set,
and `dynamic` stretches them with every further token. So a prompt batched with a longer one, or continued from a
shorter cached beginning, would get other numbers than alone; `length_kind` says which lengths go together. Masks and
angles of base and tuned model may also differ (long-context fine-tunes, `positions_differ`). And if blocks keep a
running state of the text (`keeps_states`), padding on its left would become part of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

from tuco_lens.models.checks import POSITION_SETTINGS, equal_settings, structure

LengthKind = Callable[[int], Hashable]
"""From a text's length in tokens to its kind; texts of one kind have the same angles at the same positions."""


def length_kind(*models: Any) -> LengthKind:
    """Which lengths may share a batch, and continue one another's KV cache, on all of these models.

    No HookedTransformer is made of a model whose angles depend on the length.
    """
    settings = {each for model in models if hasattr(model, "original_model") for each in _switches(model)}

    def kind(n_tokens: int) -> Hashable:
        beyond = ((switch, n_tokens if grows else 0) for switch, grows in sorted(settings) if n_tokens > switch)
        return tuple(beyond)

    return kind


def positions_differ(base: Any, tuned: Any) -> bool:
    """Whether the two models give their blocks different masks or rotary angles; False for HookedTransformers."""
    return hasattr(tuned, "original_model") and not equal_settings(_handed(base), _handed(tuned))


def _handed(model: Any) -> dict[str, Any]:
    found = structure(model.original_model.config)
    return {name: found[name] for name in POSITION_SETTINGS}


def stands_alone(*models: Any) -> bool:
    """Whether each text has to be run whole, and not in a batch with texts of other lengths.

    It has to if angles depend on the text's length within the models' contexts, or if blocks keep running states.
    """
    longest = max(model.cfg.n_ctx for model in models)
    kind = length_kind(*models)
    return kind(1) != kind(longest) or any(map(keeps_states, models))


def keeps_states(model: Any) -> bool:
    """Whether a block keeps a running state of the text (Mamba, linear attention, convolutions, RWKV).

    Such a state takes in padding on the left, and its rows, unlike keys and values, are not copied from text to text.
    """
    if not hasattr(model, "original_model"):
        return False
    from transformers import DynamicCache

    hf_model = model.original_model
    if "past_key_values" not in inspect.signature(hf_model.forward).parameters:
        return True
    return any(hasattr(layer, "conv_states") for layer in DynamicCache(config=hf_model.config).layers)


def _switches(model: Any) -> Iterator[tuple[int, bool]]:
    """The length up to which each rotary setting keeps its angles, and whether each length beyond has its own."""
    config = model.original_model.config.get_text_config()
    for rotary in _rotary_settings(getattr(config, "rope_parameters", None) or {}):
        kind = str(rotary.get("rope_type", "default"))
        if kind == "longrope":
            original = rotary.get("original_max_position_embeddings")
            yield int(cast("int", original or config.max_position_embeddings)), False
        elif "dynamic" in kind:
            yield int(config.max_position_embeddings), True


def _rotary_settings(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rotary settings, one per layer type if nested."""
    nested = [value for value in settings.values() if isinstance(value, Mapping)]
    yield from nested or [settings]


def forget_lengths(hf_model: Any) -> None:
    """Make rotary modules of type `dynamic` independent of the texts that came before, by hooks that stay.

    transformers keeps the angles of the longest text so far and uses them for shorter ones too. With the hooks, each
    call begins from the config's angles.
    """
    for module in hf_model.modules():
        kinds = getattr(module, "rope_type", None)
        if hasattr(module, "max_seq_len_cached") and "dynamic" in str(kinds):
            module.register_forward_pre_hook(_begin_anew)


def forgets_lengths(hook: object) -> bool:
    """Whether a hook is one of those that `forget_lengths` puts on a model for good."""
    return hook is _begin_anew


def _begin_anew(rotary: Any, _args: Any) -> None:
    layer_types = rotary.rope_type if isinstance(rotary.rope_type, Mapping) else [None]
    for layer_type in layer_types:
        prefix = "" if layer_type is None else f"{layer_type}_"
        getattr(rotary, f"{prefix}inv_freq").data = getattr(rotary, f"{prefix}original_inv_freq").clone()
        setattr(rotary, f"{prefix}max_seq_len_cached", rotary.original_max_seq_len)
