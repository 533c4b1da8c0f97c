"""Models whose weights accelerate keeps elsewhere (on the CPU, on disk) and brings in module by module.

accelerate leaves a parameter on the meta device and hangs a hook on its module, which puts the values in before the
module runs and takes them out behind it. Here is what the rest of the package has to know of that: where such a model
computes, how its weights are read, and what has to be seen to when it is copied and wrapped. Where each part of a model
goes is decided in `placement.py`.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.errors import InputError, LoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

JOINT_PROJECTIONS: Final = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack", "gate_up_proj")
"""Modules that a TransformerBridge splits into parts when it is made."""
_ADDED_BY_ACCELERATE: Final = ("to", "cuda", "npu", "mlu", "sdaa", "musa", "xpu", "neuron")
"""Methods of a dispatched model that accelerate replaces by functions which act on that very model."""


def offload_hook(module: Any) -> Any:
    """accelerate's hook that brings in this one module's own weights, or None."""
    pending = [vars(module).get("_hf_hook")]
    while pending:
        hook = pending.pop()
        pending += getattr(hook, "hooks", ())
        if getattr(hook, "offload", False) and not hook.place_submodules:
            return hook
    return None


def is_offloaded(model: Any) -> bool:
    """Whether any weight of the model is kept elsewhere."""
    return any(parameter.is_meta for parameter in model.parameters())


def is_dispatched(model: Any) -> bool:
    """Whether accelerate has hooks in the model: weights that are kept elsewhere, or several devices."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def computing_device(module: Any) -> torch.device:
    """The device on which the first weights of a module, or of the modules in it, are computed with."""
    import torch

    first = next(iter(module.parameters()))
    if not first.is_meta:
        return first.device
    hook = next(hook for part in module.modules() if (hook := offload_hook(part)) is not None)
    return torch.device(hook.execution_device)


def whole_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Each parameter with its name and values; those kept elsewhere are read, one at a time."""
    for path, module in model.named_modules():
        hook = offload_hook(module)
        for own, parameter in module.named_parameters(recurse=False):
            value = parameter if hook is None or not parameter.is_meta else hook.weights_map[own]
            yield f"{path}.{own}" if path else own, value


def stored_bytes(model: Any) -> dict[Hashable, int]:
    """The bytes of every tensor that the model's weights are stored in, wherever that is, under a name of its own."""
    found: dict[Hashable, int] = {}
    for module in model.modules():
        hook = offload_hook(module)
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta and hook is not None:
                found[_origin(hook.weights_map, own)] = parameter.numel() * parameter.element_size()
            else:
                storage = parameter.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


def require_stored(model: Any, what: str) -> None:
    """Refuse weights on the meta device that nobody has the values of; `what` begins the message.

    Raises:
        LoadError: Naming the first such weight.
    """
    for path, module in model.named_modules():
        hook = offload_hook(module)
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta and hook is None:
                why = f"{path}.{own} is on the meta device, and accelerate has no hook there that brings it in"
                raise LoadError(what, why, "load it with its weights, or dispatch it module by module")


def require_separate_projections(model: Any, what: str) -> None:
    """Refuse offloaded modules that TransformerLens has to take apart, before it tries; `what` begins the message.

    Raises:
        LoadError: Naming the first such module.
    """
    for path, module in model.named_modules():
        joint = path.endswith(JOINT_PROJECTIONS)
        if joint and any(parameter.is_meta for parameter in module.parameters()):
            why = f"TransformerLens takes {path} apart, and cannot where accelerate keeps its weights elsewhere"
            raise LoadError(what, why, "load it without a device map, or keep that module on a device")


def require_same_devices(base: list[Any], tuned: list[Any], what: str) -> None:
    """Refuse models of which some layer's two blocks compute on different devices; `what` begins the message.

    Args:
        base: The base model's blocks.
        tuned: The tuned model's.
        what: The first part of the error message.

    Raises:
        LoadError: Naming the first such layer.
    """
    for layer, devices in enumerate(zip(map(computing_device, base), map(computing_device, tuned), strict=True)):
        if devices[0] != devices[1]:
            why = f"layer {layer} computes on {devices[0]} in the base model and on {devices[1]} in the tuned model"
            raise LoadError(what, why, "give both models one device map, or their names and device_map")


def require_resident(model: Any, what: str) -> None:
    """Refuse what reads or replaces weights by itself, where some are kept elsewhere; `what` begins the message.

    Raises:
        InputError: If any weight is.
    """
    if is_offloaded(model):
        why = "the pair's device map keeps weights elsewhere, and they are there only while a module runs"
        raise InputError(what, why, "load the pair without device_map")


def shared_objects(model: Any) -> dict[int, Any]:
    """What a copy of the model shares with it beside its tensors, as a memo for `copy.deepcopy`: stored weights."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        pending = [vars(module).get("_hf_hook")]
        while pending:
            hook = pending.pop()
            pending += getattr(hook, "hooks", ())
            for name in ("weights_map", "tied_params_map"):
                shared = getattr(hook, name, None)
                if shared is not None:
                    memo[id(shared)] = shared
    return memo


def forget_dispatch(model: Any) -> None:
    """Take accelerate's own methods and its device map off a dispatched model, or off a copy of it; the hooks stay.

    The methods of a copy would act on the model that it was copied from.
    TransformerLens refuses any model that has a device map with the disk in it. What it fears, that its modules read
    weights past the hooks, is seen to by `settle` and by the comparison of logits at every load.
    """
    if is_dispatched(model):
        for name in (*_ADDED_BY_ACCELERATE, "hf_device_map"):
            vars(model).pop(name, None)


def settle(model: Any) -> None:
    """Bring in for good what is small and read past the hooks: modules that hold vectors alone, such as norms."""
    import torch
    from accelerate.utils import set_module_tensor_to_device

    for module in model.modules():
        hook = offload_hook(module)
        own = dict(module.named_parameters(recurse=False))
        if hook is None or not own:
            continue
        if all(parameter.ndim <= 1 for parameter in own.values()):
            for name in own:
                # A copy: what safetensors hands out keeps the whole file mapped.
                value = torch.clone(hook.weights_map[name])
                set_module_tensor_to_device(module, name, hook.execution_device, value=value)
            hook.offload = False


def register_added(model: Any) -> None:
    """Tell the hooks of weights that were added to their modules since, as TransformerLens adds a bias of zeros."""
    import torch

    for module in model.modules():
        hook = offload_hook(module)
        if hook is None:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name not in hook.original_devices:
                added = torch.zeros(parameter.shape, dtype=parameter.dtype) if parameter.is_meta else parameter.detach()
                hook.weights_map = ChainMap({name: added}, hook.weights_map)


def fill_added(model: Any) -> None:
    """Give memory to meta parameters of modules without a hook: PEFT puts its own where it finds the base's weights."""
    import torch

    device = None
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta and offload_hook(module) is None:
                device = computing_device(model) if device is None else device
                own = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
                setattr(module, name, torch.nn.Parameter(own, requires_grad=False))


def _origin(weights_map: Any, name: str) -> Hashable:
    """What tells one stored weight from another: a tensor's address, or a file and the name that it has there."""
    while True:
        if isinstance(weights_map, ChainMap):
            weights_map = next(part for part in weights_map.maps if isinstance(part, ChainMap) or name in part)
        elif hasattr(weights_map, "dataset"):
            weights_map, name = weights_map.dataset, weights_map.prefix + name
        else:
            break
    entry = getattr(weights_map, "index", {}).get(name)
    if entry is None:
        return weights_map[name].data_ptr()
    return entry.get("safetensors_file", weights_map.save_folder), entry.get("weight_name", name)
