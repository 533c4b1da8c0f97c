"""Contrastive logits, a baseline for FTC-scaling: l_tuned + (α − 1)·(l_tuned − l_base).

Both models run on their own streams, and only the logits are mixed; the stream of the tuned model, and what
`run_with_cache` shows of it, is unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.engine.kv_caches import new_cache, paired_caches
from tuco_lens.errors import InputError
from tuco_lens.models.backends import backend_of

_CACHE_NAMES = {"bridge": "past_key_values", "hooked": "past_kv_cache"}


class ContrastiveLogits:
    """A forward of the tuned model that mixes in the base model's logits, from `attach` to `detach`.

    Args:
        base: the base model.
        tuned: the tuned model.
        alphas: α by row of the batch; one row stands for all.

    Raises:
        InputError: if the vocabularies differ, for then some tokens have no base logit.
    """

    def __init__(self, base: Any, tuned: Any, alphas: Float[Tensor, " row"]) -> None:
        if base.cfg.d_vocab != tuned.cfg.d_vocab:
            raise InputError(
                "method 'logits'",
                f"the base model has {base.cfg.d_vocab} tokens and the tuned one {tuned.cfg.d_vocab}",
                "use method='ftc', which needs only the tuned model's",
            )
        self.base, self.tuned, self.alphas = base, tuned, alphas
        self.cache_name = _CACHE_NAMES[backend_of(tuned)]
        self.caches = paired_caches(base, tuned)
        self._attached = False

    def attach(self) -> None:
        """Replace the tuned model's forward; at α = 1 nothing is touched."""
        if bool((self.alphas == 1).all()):
            return
        object.__setattr__(self.tuned, "forward", self._forward)  # the instance's own, before the class's
        self._attached = True

    def detach(self) -> None:
        """Put the model's own forward back."""
        if self._attached:
            object.__delattr__(self.tuned, "forward")
            self._attached = False

    def _forward(self, given: Any, return_type: str | None = "logits", **options: Any) -> Any:
        # A call in another thread that began while this was attached, and waited for its turn, finds it detached.
        is_plain = not self._attached or return_type is None or options.get("stop_at_layer") is not None
        if is_plain:
            return type(self.tuned).forward(self.tuned, given, return_type=return_type, **options)
        per_token = options.pop("loss_per_token", False)
        tokens = self._tokens(given, options)
        base_options = self._base_options(tokens, options)
        own: Tensor = type(self.tuned).forward(self.tuned, tokens, return_type="logits", **options)
        other: Tensor = self.base(tokens, return_type="logits", **base_options)
        logits = self._mixed(own, other)
        if return_type == "logits":
            return logits
        loss = self.tuned.loss_fn(logits, tokens, options.get("attention_mask"), per_token=per_token)
        return loss if return_type == "loss" else (logits, loss)

    def _mixed(self, tuned: Tensor, base: Tensor) -> Tensor:
        wide = torch.promote_types(tuned.dtype, torch.float32)
        alphas = self.alphas.to(device=tuned.device, dtype=wide)[:, None, None]
        return torch.lerp(base.to(wide), tuned.to(wide), alphas).to(tuned.dtype)

    def _tokens(self, given: Any, options: dict[str, Any]) -> Tensor:
        """The ids that both models read; text is tokenised once, by the tuned model."""
        text_options = {name: options.pop(name) for name in ("prepend_bos", "padding_side") if name in options}
        if not isinstance(given, Tensor):
            return self.tuned.to_tokens(given, **text_options)
        if "padding_side" in text_options:
            options["padding_side"] = text_options["padding_side"]
        return given if given.ndim > 1 else given[None]

    def _base_options(self, tokens: Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """The same options with the base model's own KV cache, where there is one."""
        wants_cache = options.get("use_cache") or options.get("use_past_kv_cache")
        if self.cache_name == "past_key_values" and wants_cache and options.get(self.cache_name) is None:
            options[self.cache_name] = new_cache(self.tuned, tokens.shape[0])
        cache = options.get(self.cache_name)
        if cache is None:
            return dict(options)
        return {**options, self.cache_name: self.caches.whole(cache, tokens.shape[1])}
