"""A norm at the scale of a real pass: an affine map, so what it makes of a sum is the sum of what it makes of parts.

The final norm is one (`readout.py`), and so is a norm behind attention or MLP (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

_LARGE: Final = 1e3
"""An input of a norm beside which its epsilon is nothing."""


@dataclass(frozen=True)
class FrozenNorm(Brief):
    """A norm at the scale that it had for some vectors: y = gain·(x − mean(x), if centred) + bias."""

    gain: Float[Tensor, "row d_model"]
    """Weight over scale."""
    is_centred: bool
    """Whether the mean is taken off, as LayerNorm does."""
    bias: Float[Tensor, " d_model"]
    """0 where there is none."""

    def apply(self, vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the norm makes of vectors that were added to those of each row, without the bias."""
        centred = vectors - vectors.mean(dim=-1, keepdim=True) if self.is_centred else vectors
        return centred * self.gain

    def pull(self, direction: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """The transposed map: how much each entry before the norm adds along a direction behind it."""
        pulled = direction * self.gain
        return pulled - pulled.mean(dim=-1, keepdim=True) if self.is_centred else pulled


def frozen_norm(norm: Callable[[Tensor], Tensor] | None, vectors: Float[Tensor, "row d_model"]) -> FrozenNorm:
    """The norm at the scale that it has for these vectors; the identity for None.

    Its weight, its bias and whether it centres are read off its outputs, whatever the module calls them.

    Raises:
        InputError: if it is neither an RMSNorm nor a LayerNorm.
    """
    if norm is None:
        return FrozenNorm(torch.ones_like(vectors), False, torch.zeros_like(vectors[0]))
    probe = torch.full_like(vectors[:1], _LARGE)
    probe[:, 1::2] *= -1
    there, back = norm(probe)[0].double(), norm(-probe)[0].double()
    bias, weight = (there + back) / 2, (there - back) / 2 * probe[0].sign()
    is_centred = torch.allclose(norm(probe.abs())[0].double(), bias, atol=1e-3 * float(weight.abs().max()))
    wide = vectors.double()
    scaled = (wide - wide.mean(dim=-1, keepdim=True) if is_centred else wide) * weight
    out = norm(vectors).double() - bias
    size = (scaled * scaled).sum(-1, keepdim=True)
    # Of a zero vector, as of heads that a hook ablates, any scale is right.
    ratio = torch.where(size > 0, (scaled * out).sum(-1, keepdim=True) / torch.where(size > 0, size, 1), 1)
    eps = torch.finfo(vectors.dtype).eps
    if not (scaled * ratio - out).abs().sum() <= max(1e-4, 8 * eps) * out.abs().sum():
        raise InputError("a norm cannot be split", "it does more than centre, scale and shift", "use run_with_cache")
    return FrozenNorm(weight * ratio, is_centred, bias)
