"""Adapters folded into plain matrices: into copies, module by module, or by PEFT as a whole.

`merge_adapter` takes what `attach_adapter` made. `merged_by_peft` is for adapters that cannot be attached beside an
unchanged base model: those that keep tensors for the model as a whole (VeRA, RandLoRA), and those that change the base
weights when they are attached (OLoRA, PiSSA).
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.errors import LoadError
from tuco_lens.models.adapter import Adapter, set_module
from tuco_lens.models.adapter_checks import check_patterns
from tuco_lens.models.hub import raise_translated
from tuco_lens.models.offload import is_dispatched
from tuco_lens.models.sources import is_quantised, quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# fmt: off
_ATTACHED: Final = frozenset({
    "ADALORA", "BOFT", "C3A", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "OFT", "ROAD", "SHIRA",
    "TRAINABLE_TOKENS", "WAVEFT",
})
# fmt: on
"""Kinds of adapter whose tensors all lie beside the matrices that they change, and that leave these unchanged."""
_LEAVES_BASE: Final = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Values of `init_lora_weights` that leave the base weights unchanged."""
_CONVERT: Final = (
    "save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it, "
    "or give the merged model as tuned"
)


def stays_beside(adapter: Adapter) -> bool:
    """Whether the adapter can be attached to a copy of the base model that shares the base's weights."""
    return adapter.config.peft_type.value in _ATTACHED and leaves_base(adapter.config)


def leaves_base(config: Any) -> bool:
    """Whether PEFT leaves the base weights unchanged when it attaches an adapter of this config."""
    return getattr(config, "init_lora_weights", True) in _LEAVES_BASE


def merge_adapter(tuned: Any, only: tuple[str, ...] = ("",)) -> Any:
    """Fold the adapter that `attach_adapter` attached into the weights, in place, and return the model.

    Only the matrices that the adapter changes are copied; all others stay shared with the base model.

    Args:
        tuned: What `attach_adapter` returned.
        only: Endings of the names of the modules to merge; by default all are merged.

    Raises:
        LoadError: There are any, and a device map spreads the model.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [
        (name, module)
        for name, module in tuned.named_modules()
        if isinstance(module, BaseTunerLayer) and name.endswith(only)
    ]
    if layers:
        _require_mergeable(tuned)
    with torch.no_grad():
        for name, layer in reversed(layers):  # wrappers may be nested: inner ones first
            inner: Any = layer.get_base_layer()
            for own, parameter in list(inner.named_parameters(recurse=False)):
                setattr(inner, own, torch.nn.Parameter(parameter.clone(), requires_grad=False))
            if any(getattr(layer, "lora_bias", {}).values()) and getattr(inner, "bias", None) is None:
                inner.bias = torch.nn.Parameter(inner.weight.new_zeros(inner.out_features))  # for the adapter's bias
            layer.merge()
            # The layer for trained rows of an embedding is inside a wrapper, which is replaced too. Merging a trained
            # norm swaps it with the base's, so get_base_layer returns the trained one.
            set_module(tuned, name.removesuffix(".token_adapter"), layer.get_base_layer())
    return tuned


def _require_mergeable(tuned: Any) -> None:
    if is_dispatched(tuned):
        why = "it has to be merged for TransformerLens, and a device map spreads the weights of the base model"
        raise LoadError("cannot load the adapter", why, "load the base model without one")


def merged_by_peft(base: Any, adapter: Adapter, base_name: str, logits: Callable[[Any], Tensor]) -> tuple[Any, Tensor]:
    """The tuned model as PEFT itself loads and merges it, on a copy of the base; unchanged weights are shared again.

    PEFT may change the base weights when it attaches an adapter, for some kinds at random. So this is done with two
    seeds, and an adapter that does not give the same model both times is refused.

    Args:
        base: The transformers base model, which is not changed.
        adapter: What `open_adapter` found.
        base_name: What the user gave as base, for error messages.
        logits: From a transformers model to its logits for a few fixed tokens.

    Returns:
        A transformers model of the class of `base`, and the logits before the merge.

    Raises:
        LoadError: The base weights are quantised or kept elsewhere, or PEFT cannot load or merge the adapter, or not
            repeatably.
    """
    spread = is_dispatched(base)
    if spread or any(map(is_quantised, base.modules())):
        kind, how = adapter.config.peft_type.value, "spread by a device map" if spread else "quantised"
        why = f"an adapter of the kind {kind} has to be merged, and the weights of {base_name!r} are {how}"
        raise LoadError(adapter.what, why, f"load the base model without {'one' if spread else 'quantisation'}")
    import torch

    check_patterns(adapter.config, dict(base.named_modules()).keys(), adapter.what)
    found: list[tuple[Any, Tensor]] = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(_merged(base, adapter, logits))
    (tuned, expected), (_, again) = found
    if not torch.allclose(expected, again, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        how = getattr(adapter.config, "init_lora_weights", adapter.config.peft_type.value)
        why = f"PEFT changes the base weights at random when it loads it ({how!r}), so its files do not tell the model"
        raise LoadError(adapter.what, why, _CONVERT)
    _share_again(tuned, base)
    return tuned, expected


def _merged(base: Any, adapter: Adapter, logits: Callable[[Any], Tensor]) -> tuple[Any, Tensor]:
    from peft import PeftModel

    try:
        with quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on training and saving
            model: Any = PeftModel.from_pretrained(copy.deepcopy(base), str(adapter.folder)).eval()
            expected = logits(model)
    except Exception as error:
        raise_translated(error, adapter.what, adapter.name)
    try:
        tuned = model.merge_and_unload()
    except Exception as error:
        kind = adapter.config.peft_type.value
        why = f"PEFT cannot merge an adapter of the kind {kind} ({(str(error).splitlines() or [''])[0][:200]})"
        raise LoadError(adapter.what, why, "give one that can be merged, such as LoRA") from error
    return tuned.requires_grad_(False).eval(), expected


def _share_again(tuned: Any, base: Any) -> None:
    """Let parameters that the adapter left unchanged share the base model's memory again."""
    import torch

    given = dict(base.named_parameters())
    for name, parameter in list(tuned.named_parameters()):
        same = given.get(name)
        if same is not None and torch.equal(same, parameter):
            parameter.data = same.data
