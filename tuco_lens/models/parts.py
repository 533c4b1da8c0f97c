"""The parts of a block: where attention and MLP write to the stream, and the linear map behind their heads and neurons.

`hook_attn_out` + `hook_mlp_out` is what a block adds, on both backends, also in parallel blocks and behind post-norms.
A part ends in a linear map (W_O, W_out) of its units (heads, neurons). Behind a post-norm the map takes the norm's
scale as the real pass had it, so that it stays linear. `attribution/recording.py` reads the parts in a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.models.backends import blocks
from tuco_lens.models.frozen_norm import FrozenNorm, frozen_norm
from tuco_lens.models.offload import computing_device

Part = Literal["attention", "mlp"]
PARTS: Final[dict[Part, str]] = {"attention": "hook_attn_out", "mlp": "hook_mlp_out"}
"""The parts of a block and the points where each enters the stream."""
_UNITS: Final = {
    "attention": ("attn", "hook_z", "o", "W_O", "b_O"),
    "mlp": ("mlp", "hook_post", "out", "W_out", "b_out"),
}
"""Of each part: its module, the point of its units, and its map: a bridge's module, a HookedTransformer's weights."""


def part_point(block: Any, part: Part) -> nn.Module:
    """Where a part enters the stream.

    Raises:
        InputError: if this block has no such point.
    """
    return _point(block, PARTS[part], part)


def unit_point(block: Any, part: Part) -> nn.Module:
    """Where the units of a part are seen: `hook_z` of the heads, `hook_post` of the neurons.

    Raises:
        InputError: if this block has no such point, as with a mixture of experts.
    """
    module, point, out, weight, _ = _UNITS[part]
    owner = getattr(block, module, None)
    if getattr(owner, out, None) is None and getattr(owner, weight, None) is None:
        raise _no_units(part)
    return _point(owner, point, part)


def experts_of(block: Any) -> nn.Module | None:
    """The module whose output is what the routed experts add to the stream, in a mixture of experts."""
    mlp = getattr(block, "mlp", None)
    if mlp is None or _norm_behind(block, "mlp") is not None:
        return None
    for name, module in mlp.named_modules():
        if name.rpartition(".")[2] == "experts":
            # A list of experts is called one by one, in a HookedTransformer and nowhere else, which shares none.
            return part_point(block, "mlp") if isinstance(module, nn.ModuleList) else module
    return None


def reading_points(block: Any) -> tuple[nn.Module, nn.Module]:
    """Where it is seen which tokens the heads read from, and what: `hook_pattern` and `hook_v`; else `InputError`."""
    attention = getattr(block, "attn", None)
    return _point(attention, "hook_pattern", "attention"), _point(attention, "hook_v", "attention")


def _point(owner: Any, name: str, part: Part) -> nn.Module:
    try:
        point = getattr(owner, name)
    except AttributeError:
        point = None
    if not isinstance(point, nn.Module):
        raise InputError(
            f"no {name}", f"the {part} of this architecture's blocks has no such point", "ask without that part"
        )
    return point


def _no_units(part: Part) -> InputError:
    what = "heads with an output matrix" if part == "attention" else "neurons with one output matrix"
    remedy = "leave out heads=" if part == "attention" else "leave out neurons="
    return InputError(f"no {'heads' if part == 'attention' else 'neurons'}", f"the blocks have no {what}", remedy)


@dataclass(frozen=True)
class UnitMap(Brief):
    """The linear map from the units of one part of one block to the stream, without its bias.

    Args:
        linear: the map itself, [row, unit] → [row, d_model], without bias.
        bias: what the map adds whatever the units are.
        norm: the norm behind it, or None.
    """

    linear: _Matrix | _Module
    bias: Float[Tensor, " d_model"]
    norm: Callable[[Tensor], Tensor] | None

    def frozen(self, units: Float[Tensor, "row unit"]) -> FrozenNorm | None:
        """The norm behind the map at the scale that it has for these units; None without one."""
        return None if self.norm is None else frozen_norm(self.norm, self.linear(units) + self.bias)

    def apply(self, units: Float[Tensor, "row unit"], frozen: FrozenNorm | None) -> Float[Tensor, "row d_model"]:
        """What these units add to the stream."""
        added = self.linear(units)
        return added if frozen is None else frozen.apply(added.double())

    def bias_added(self, frozen: FrozenNorm | None) -> Float[Tensor, "row d_model"]:
        """What the biases of map and norm add to the stream."""
        return self.bias[None] if frozen is None else frozen.apply(self.bias[None].double()) + frozen.bias

    def pull(self, direction: Float[Tensor, "row d_model"], frozen: FrozenNorm | None) -> Float[Tensor, "row unit"]:
        """How much one unit of each kind adds along a direction: the transposed map."""
        wanted = direction if frozen is None else frozen.pull(direction.double())
        with torch.enable_grad():
            # The map is linear, so its gradient at 0 is the map, whatever carries the weights (adapters, Conv1D, …).
            units = torch.zeros(len(wanted), self.linear.n_units, dtype=self.bias.dtype, device=self.bias.device)
            units.requires_grad_()
            along = (self.linear(units) * wanted.to(self.bias.dtype)).sum()
            return torch.autograd.grad(along, units)[0].detach()


def unit_map(model: Any, layer: int, part: Part) -> UnitMap:
    """The map of one part of one block.

    Raises:
        InputError: if the part has no single output matrix.
    """
    block = blocks(model)[layer]
    module, _, out, weight, bias = _UNITS[part]
    owner = getattr(block, module, None)
    bridged = getattr(owner, out, None)
    if bridged is not None:
        linear = _Module(bridged.original_component)
        added = linear.bias
    elif getattr(owner, weight, None) is not None:
        linear = _Matrix(getattr(owner, weight))
        added = getattr(owner, bias)
    else:
        raise _no_units(part)
    return UnitMap(linear, added.detach(), _norm_behind(block, part))


class _Matrix:
    """A matrix [unit, d_model], or [head, d_head, d_model]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().reshape(-1, weight.shape[-1])
        self.n_units = len(self.weight)

    def __call__(self, units: Tensor) -> Tensor:
        return units.to(self.weight.dtype) @ self.weight


class _Module:
    """A module that maps units to the stream, with or without adapters."""

    def __init__(self, module: Any) -> None:
        self.module = module
        # Conv1D has nf outputs and its weight is [in, out]; adapters pass on what the layer within them has.
        inner = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        self.n_units: int = inner.in_features if hasattr(inner, "in_features") else inner.weight.shape[0]
        first = next(p for p in module.parameters() if p.dtype.is_floating_point)
        with torch.no_grad():
            self.bias = module(torch.zeros(1, self.n_units, dtype=first.dtype, device=computing_device(module)))[0]

    def __call__(self, units: Tensor) -> Tensor:
        return self.module(units.to(self.bias.dtype)) - self.bias


def _norm_behind(block: Any, part: Part) -> Callable[[Tensor], Tensor] | None:
    """The norm between a part's map and the stream."""
    if not hasattr(block, "submodules"):  # a HookedTransformer's block
        name = "ln1" if part == "attention" else "ln2"
        return getattr(block, f"{name}_post", None) or (getattr(block, name) if _is_post_norm(block) else None)
    point = getattr(block, PARTS[part])
    for owner in block.modules():
        if "Normalization" in type(owner).__name__ and owner._modules.get("hook_out") is point:  # pyright: ignore[reportPrivateUsage]
            return owner.original_component
    return None


def _is_post_norm(block: Any) -> bool:
    return "olmo2" in str(getattr(block.cfg, "original_architecture", "")).lower()
