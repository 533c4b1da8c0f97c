"""From the stream to logits: the final norm, at the scale of a real pass, and the unembedding, as one linear map.

With the scale frozen, every vector that is added to the stream has logits of its own, and they add up. The biases of
norm and unembedding come once, and a final soft-cap comes after.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.models.backends import backend_of
from tuco_lens.models.frozen_norm import FrozenNorm, frozen_norm
from tuco_lens.models.offload import computing_device


class Readout:
    """The final norm and the unembedding of a model.

    Args:
        model: a TransformerLens model.
    """

    def __init__(self, model: Any) -> None:
        hooked = backend_of(model) == "hooked"
        norm, unembed = getattr(model, "ln_final", None), model.unembed
        self.norm: Any = norm if hooked else getattr(norm, "original_component", None)
        self.unembed: Any = unembed if hooked else unembed.original_component
        first = next(p for p in self.unembed.parameters() if p.dtype.is_floating_point)
        self.dtype, self.device, self.d_model = first.dtype, computing_device(self.unembed), model.cfg.d_model
        with torch.no_grad():
            self.bias: Float[Tensor, " d_vocab"] = self._unembedded(torch.zeros(1, self.d_model))[0]
        config = model.cfg if hooked else model.original_model.config.get_text_config()
        cap = getattr(config, "output_logits_soft_cap" if hooked else "final_logit_softcapping", None)
        self.soft_cap: float | None = cap if cap and cap > 0 else None
        """c of c·tanh(logit / c), or None."""

    def frozen(self, stream: Float[Tensor, "row d_model"]) -> FrozenNorm:
        """The final norm at the scale that it has for these vectors of the stream."""
        with torch.no_grad():
            return frozen_norm(self.norm, stream.to(device=self.device, dtype=self.dtype))

    def logits(self, vectors: Float[Tensor, "row d_model"], at: FrozenNorm) -> Float[Tensor, "row d_vocab"]:
        """The logits that these vectors add, without biases, before a soft-cap; float32 or wider."""
        with torch.no_grad():
            behind = at.apply(vectors.to(at.gain))
            found = self._unembedded(behind) - self.bias
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def capped(self, logits: Float[Tensor, "*row d_vocab"]) -> Float[Tensor, "*row d_vocab"]:
        """The logits behind the soft-cap, if the model has one."""
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits

    def bias_logits(self, at: FrozenNorm) -> tuple[Float[Tensor, " d_vocab"], Float[Tensor, " d_vocab"]]:
        """The logits that the biases of norm and unembedding add."""
        with torch.no_grad():
            return self._unembedded(at.bias[None])[0] - self.bias, self.bias

    def direction(self, weights: Float[Tensor, " d_vocab"], at: FrozenNorm) -> Float[Tensor, " d_model"]:
        """The direction in the stream along which a weighted sum of logits is read; float64.

        Args:
            weights: of the tokens, such as 1 for an answer and −1 for what it is compared with.
            at: the final norm, for one vector.
        """
        with torch.enable_grad():
            vector = torch.zeros(1, self.d_model, dtype=self.dtype, device=self.device, requires_grad=True)
            along = (self.unembed(vector[None])[0, 0] * weights.to(device=self.device, dtype=self.dtype)).sum()
            gradient = torch.autograd.grad(along, vector)[0]
        return at.pull(gradient.double())[0]

    def _unembedded(self, vectors: Tensor) -> Tensor:
        found = self.unembed(vectors.to(device=self.device, dtype=self.dtype)[None])
        return found[0]
