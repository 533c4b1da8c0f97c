"""The base blocks' own masks and rotary angles, where the two models' differ, as in a fine-tune for a longer context.

A transformers block gets masks and angles from its model, so a base block beside a tuned block would get the tuned
model's. Instead, before each pass of the tuned model, the base model is called on as many positions with blocks that
only record their arguments: so the base model itself makes them, whatever the architecture. A HookedTransformer's
blocks make their own, and need none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tuco_lens.engine.fast_path import replace_attribute
from tuco_lens.models.backends import blocks, device_of, dtype_of
from tuco_lens.models.positions import positions_differ


class _Done(Exception):
    """The last block has been called."""


class OwnPositions:
    """While attached, knows what the base model would pass to its blocks in the current pass of the tuned model.

    Args:
        base: a TransformerBridge, whose blocks run beside the tuned model's.
        tuned: the tuned model, of the same kind.
        beside: gives the base blocks' KV cache beside one of the tuned model's; see `engine/kv_caches.py`.
    """

    def __init__(self, base: Any, tuned: Any, beside: Callable[[Any], Any] | None = None) -> None:
        self.base, self.tuned, self.beside = base, tuned, beside
        self._own: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._handle: Any = None

    @classmethod
    def where_needed(
        cls, base: Any, tuned: Any, stack: ExitStack, beside: Callable[[Any], Any] | None = None
    ) -> OwnPositions | None:
        """One that is attached until the stack closes, or None if both models pass the same to their blocks."""
        if not positions_differ(base, tuned):
            return None
        own = cls(base, tuned, beside)
        own._handle = tuned.original_model.register_forward_pre_hook(own._ask, with_kwargs=True)
        stack.callback(own._handle.remove)
        return own

    def of_block(
        self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a tuned block with the base model's own masks and angles in place of the tuned model's."""
        own_args, own_kwargs = self._own[layer]
        given = zip(args[1:], own_args, strict=True)
        return (*args[:1], *(theirs if _is_cache(theirs) else own for theirs, own in given)), {**kwargs, **own_kwargs}

    def _ask(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(kwargs)
        ids: Tensor | None = args[0] if args else given.pop("input_ids", None)
        embeds = given.pop("inputs_embeds", None)
        shape = ids.shape if ids is not None else embeds.shape[:2]
        cache = given.get("past_key_values")
        if cache is not None:  # only its length is read, as the blocks do not run
            given["past_key_values"] = cache if self.beside is None else self.beside(cache)
        given["use_cache"] = cache is not None
        size = (*shape, self.base.cfg.d_model)
        stream = torch.zeros(size, device=device_of(self.base), dtype=dtype_of(self.base))
        self._own = []
        with ExitStack() as stack:
            for block in blocks(self.base):
                replace_attribute(block, "forward", self._recorder(block), stack)
            try:
                self.base.original_model(inputs_embeds=stream, **given)
            except _Done:
                return

    def _recorder(self, block: nn.Module) -> Callable[..., Tensor]:
        last = block is blocks(self.base)[-1]

        def record(*args: Any, **kwargs: Any) -> Tensor:
            own = {name: value for name, value in kwargs.items() if name != "hidden_states" and not _is_cache(value)}
            self._own.append((args[1:], own))
            if last:
                raise _Done
            return args[0] if args else kwargs["hidden_states"]

        return record


def _is_cache(value: object) -> bool:
    return hasattr(value, "get_seq_length")
