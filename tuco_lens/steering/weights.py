"""Weight interpolation, a baseline for FTC-scaling: every weight becomes W_base + α·(W_tuned − W_base).

Unlike FTC-scaling it also moves the embedding, the norms and the unembedding, and is not linear in what a block adds to
the stream. The interpolated weights lie beside the tuned ones while it is on; taking it off puts the tuned tensors
themselves back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from tuco_lens.errors import InputError
from tuco_lens.models.backends import backend_of
from tuco_lens.models.offload import is_offloaded, require_resident, whole_weights

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

DIGEST_SAMPLE: Final = 256
"""Values of each tensor that `weights_digest` covers."""


class WeightInterpolation:
    """The interpolated weights in the tuned model, from `attach` to `detach`.

    Args:
        base: the base model.
        tuned: the tuned model, whose weights are replaced.
        alpha: one number for the whole model.
        keep: keep the interpolated weights from one `attach` to the next, for one who puts them on and off often.

    Raises:
        InputError: (from `attach`) if a tuned weight has no counterpart in the base model, or another shape.
    """

    def __init__(self, base: Any, tuned: Any, alpha: float, *, keep: bool = False) -> None:
        self.base, self.tuned, self.alpha = base, tuned, alpha
        self._kept: dict[str, Tensor] | None = {} if keep else None
        self._stack = ExitStack()

    def attach(self) -> None:
        """Replace the weights; at α = 1 nothing is touched."""
        if self.alpha == 1:
            return
        with ExitStack() as stack:
            base = {plain_name(name): weight for name, weight in own_module(self.base).named_parameters()}
            for name, weight in own_module(self.tuned).named_parameters():
                if "lora_" not in name:  # an adapter's own matrices are scaled below
                    self._replace(name, weight, base.get(plain_name(name)), stack)
            for module in own_module(self.tuned).modules():
                # Its own part, not hasattr: the bridge's modules pass on what the module within them has.
                if "lora_A" in dict(module.named_children()) and isinstance(getattr(module, "scaling", None), dict):
                    self._scale_adapter(module, stack)
            self._stack = stack.pop_all()

    def detach(self) -> None:
        """Put the tuned weights back, bit for bit: they are the same tensors."""
        self._stack.close()

    def _replace(self, name: str, weight: nn.Parameter, base: nn.Parameter | None, stack: ExitStack) -> None:
        if base is None or base.shape[1:] != weight.shape[1:]:
            shape = "none" if base is None else f"one of shape {list(base.shape)}"
            raise InputError(
                f"weight {name} of shape {list(weight.shape)}", f"the base model has {shape}", "use method='ftc'"
            )
        if base.data_ptr() == weight.data_ptr():  # shared with the base model
            return
        tuned = weight.data
        stack.callback(setattr, weight, "data", tuned)
        made = None if self._kept is None else self._kept.get(name)
        weight.data = interpolated(base.data, tuned, self.alpha) if made is None else made
        if self._kept is not None:
            self._kept[name] = weight.data

    def _scale_adapter(self, module: Any, stack: ExitStack) -> None:
        if any(getattr(module, "use_dora", {}).values()):
            raise InputError("a DoRA adapter", "its weights are not linear in α", "use method='ftc'")
        for name, value in list(module.scaling.items()):
            stack.callback(module.scaling.__setitem__, name, value)
            module.scaling[name] = value * self.alpha


def interpolated(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    """W_base + α·(W_tuned − W_base) in the tuned weight's dtype; rows that only the tuned one has stay."""
    rows = min(len(base), len(tuned)) if tuned.ndim else 0
    wide = torch.promote_types(tuned.dtype, torch.float32)
    result = tuned.clone()
    if not tuned.ndim:
        return torch.lerp(base.to(wide), tuned.to(wide), alpha).to(tuned.dtype)
    result[:rows] = torch.lerp(base[:rows].to(wide), tuned[:rows].to(wide), alpha).to(tuned.dtype)
    return result


def own_module(model: Any) -> nn.Module:
    """The module whose parameters are the model's weights: of a bridge, transformers' own model within it.

    Raises:
        InputError: if a device map keeps weights elsewhere, where nobody can compare or replace them.
    """
    own = model.original_model if backend_of(model) == "bridge" else model
    require_resident(own, "cannot compare or replace weights")
    return own


def plain_name(name: str) -> str:
    """A parameter's name without what adapters and bridges put into it, so that base and tuned model share it."""
    return name.replace(".base_layer.", ".").replace("._original_component", "")


def weights_digest(pair: ModelPair) -> str:
    """SHA-256 of a sample of every tensor of both models: training moves every tensor that it touches."""
    return models_digest((pair.base, pair.tuned))


@torch.no_grad()
def models_digest(models: Iterable[Any]) -> str:
    """SHA-256 of a sample of every tensor of some models, in their order."""
    digest = hashlib.sha256()
    for model in models:
        spread = is_offloaded(model)
        for name, tensor in whole_weights(model) if spread else sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten()[:DIGEST_SAMPLE].double().cpu().numpy().tobytes())
    return digest.hexdigest()
