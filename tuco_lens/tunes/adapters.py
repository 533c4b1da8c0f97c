"""The PEFT layers within a model in training: which of its weights they are, and what a copy of it does with them.

Adapters are told by what they have, so that nothing here needs peft unless a model has some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["adapter_tensors", "has_adapters", "is_left_alone", "noisy_adapters", "put_back", "settle_adapters"]

_NOISE: Final = 0.02


def has_adapters(model: Any) -> bool:
    """Whether PEFT has put a layer around any module."""
    return any(map(_is_adapter, model.modules()))


def is_left_alone(model: Any) -> bool:
    """Whether the weights beside the adapters are still the base's: some kinds (PiSSA, OLoRA) subtract from them."""
    from tuco_lens.models.merging import leaves_base

    return all(leaves_base(config) for config in (getattr(model, "peft_config", None) or {}).values())


def adapter_tensors(model: Any) -> frozenset[int]:
    """The ids of the parameters that PEFT's layers have added."""
    owned = (getattr(m, name, None) for m in model.modules() if _is_adapter(m) for name in m.adapter_layer_names)
    return frozenset(id(p) for part in owned if hasattr(part, "parameters") for p in part.parameters())  # pyright: ignore[reportOptionalMemberAccess]


def noisy_adapters(model: Any) -> dict[str, Tensor]:
    """By name, each adapter weight that trains plus some noise: adapters that were just made do nothing yet."""
    import torch

    own = adapter_tensors(model)
    return {
        name: parameter.detach() + _NOISE * torch.randn_like(parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) in own and parameter.requires_grad
    }


def put_back(copied: Any, noisy: Mapping[str, Tensor], model: Any) -> None:
    """Let a copy that was made with `noisy_adapters` share the model's own ones again."""
    named = dict(model.named_parameters())
    live = {value.data_ptr(): named[name] for name, value in noisy.items()}
    for parameter in copied.parameters():
        if not parameter.is_meta and parameter.data_ptr() in live:
            parameter.data = live[parameter.data_ptr()].data


def settle_adapters(copied: Any, merged: tuple[str, ...], *, on: bool) -> None:
    """Make of a copy what a TransformerBridge can be booted on.

    Modules that train whole replace PEFT's wrappers around them (or their originals do), adapters that cannot stay
    beside the weights are merged into copies of these, and what is off is off.

    Args:
        copied: a copy of the model in training, with modules of its own.
        merged: endings of the names of modules whose adapters are merged.
        on: whether the adapters act.
    """
    from peft.utils.other import ModulesToSaveWrapper

    from tuco_lens.models.adapter import set_module
    from tuco_lens.models.merging import merge_adapter

    named = [(name, module) for name, module in copied.named_modules() if _is_adapter(module)]
    for name, layer in reversed(named):  # inner ones first
        if isinstance(layer, ModulesToSaveWrapper):
            trained: Any = layer.modules_to_save[layer.active_adapters[0]]
            set_module(copied, name, trained if on else layer.original_module)
        elif not on and name.endswith(merged) and hasattr(layer, "get_base_layer"):
            set_module(copied, name.removesuffix(".token_adapter"), layer.get_base_layer())
        elif not on:
            layer.enable_adapters(False)
    if on:
        merge_adapter(copied, merged)


def _is_adapter(module: Any) -> bool:
    return hasattr(type(module), "enable_adapters") and hasattr(module, "adapter_layer_names")
