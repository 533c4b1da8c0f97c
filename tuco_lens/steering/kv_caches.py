"""KV caches of generation: the tuned model's, and beside it the one that the base blocks fill.

A tuned block is called with the tuned model's cache among its arguments. The base block that runs beside it must not
append there, so it gets a cache of its own, begun when the tuned model's is empty and kept as long as that one lives.
Both kinds are known here by what they can do: transformers' `Cache` (one object for all layers; bridge) and
TransformerLens' cache entries (one per layer; hooked). A cache's tensors are replaced and never written in place, so a
shallow copy is an independent cache.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Int
from torch import Tensor

from tuco_lens.errors import InputError
from tuco_lens.models.backends import backend_of, device_of
from tuco_lens.models.positions import positions_differ

_WHOLE_CACHE_OPERATIONS = ("reorder_cache", "crop", "batch_repeat_interleave", "batch_select_indices", "reset")
"""What transformers' generation may do to a cache between passes; the base blocks' cache follows."""


def new_cache(model: Any, batch_size: int) -> Any:
    """An empty KV cache for passes of `model`."""
    if backend_of(model) == "bridge":
        from transformers import DynamicCache

        return DynamicCache(config=model.original_model.config)
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, device_of(model), batch_size)


def paired_caches(base: Any, tuned: Any) -> CachePairing:
    """The pairing of these two models' caches."""
    return CachePairing(partial(new_cache, base, 1) if positions_differ(base, tuned) else None)


def fork(cache: Any) -> Any:
    """An independent copy of a cache that shares its tensors until either grows."""
    other = copy.copy(cache)
    if is_block_cache(cache):  # transformers'; one entry of TransformerLens' has nothing within
        if hasattr(cache, "layers"):
            other.layers = [copy.copy(layer) for layer in cache.layers]
            for name in _WHOLE_CACHE_OPERATIONS:
                vars(other).pop(name, None)  # those that a pairing put there belong to the original
    else:
        other.entries = [copy.copy(entry) for entry in cache.entries]
    return other


def with_rows(cache: Any, rows: Int[Tensor, " row"]) -> Any:
    """A copy of a cache, or of an entry of one, with these rows of its batch; one row repeated costs no memory."""
    other = fork(cache)
    if hasattr(other, "previous_attention_mask"):
        other.previous_attention_mask = other.previous_attention_mask[rows]
    for holder in getattr(other, "layers", None) or getattr(other, "entries", None) or [other]:
        for name in ("keys", "values", "past_keys", "past_values"):
            tensor = getattr(holder, name, None)
            if tensor is not None and tensor.numel():
                setattr(holder, name, _rows(tensor, rows))
    return other


def _rows(tensor: Tensor, rows: Int[Tensor, " row"]) -> Tensor:
    if tensor.shape[0] == 1:  # a view: what is appended makes a new tensor
        return tensor.expand(len(rows), *tensor.shape[1:])
    return tensor.index_select(0, rows.to(tensor.device))


def is_block_cache(value: object) -> bool:
    """Whether an argument of a block is a KV cache, of either kind."""
    return hasattr(value, "get_seq_length") or (hasattr(value, "past_keys") and hasattr(value, "append"))


def block_cache(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The KV cache among a block's arguments, whatever the architecture calls it; None if there is none."""
    return next((value for value in (*args, *kwargs.values()) if is_block_cache(value)), None)


def cached_tokens(cache: Any, layer: int) -> int:
    """How many tokens a block's cache holds for that layer, in tokens."""
    return cache.get_seq_length(layer) if hasattr(cache, "get_seq_length") else cache.past_keys.shape[1]


@dataclass
class _Partner:
    """The base blocks' cache beside one of the tuned model's."""

    tuned: weakref.ref[Any]
    base: Any
    prompt_length: int
    """Tokens of the pass that began the cache."""


class CachePairing:
    """Which base cache belongs to which tuned cache, and where in its sequence the current pass is.

    Args:
        fresh: makes an empty base cache, where that is not like the tuned model's (another attention window).
    """

    def __init__(self, fresh: Callable[[], Any] | None = None) -> None:
        self._fresh = fresh
        self._partners: dict[int, _Partner] = {}
        self._layer = -1
        self.offset = 0
        """Tokens in the cache before the current pass."""
        self.n_tokens = 0
        """Tokens of the current pass."""
        self.prompt_length = 0
        """Tokens of the pass that began the sequence."""

    def enter(self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that a tuned block is about to run with these arguments; layers ascend within a pass.

        Raises:
            InputError: if the cache was filled while this pairing was not looking.
        """
        cache = block_cache(args, kwargs)
        is_new_pass = layer <= self._layer or self._layer < 0
        self._layer = layer
        if is_new_pass:
            stream: Tensor = args[0] if args else kwargs["hidden_states"]
            self.n_tokens = stream.shape[1]
            self.offset = 0 if cache is None else cached_tokens(cache, layer)
            self.prompt_length = self.n_tokens
        if cache is None:
            return
        if self.offset == 0 and (is_new_pass or not hasattr(cache, "get_seq_length")):
            self._begin(cache, self._empty(cache))
        self.prompt_length = self._partner(cache).prompt_length

    def _empty(self, cache: Any) -> Any:
        return fork(cache) if self._fresh is None else self._fresh()

    def beside(self, cache: Any) -> Any:
        """The base blocks' cache beside a tuned one, as it is before a pass: an empty one if that is yet to begin."""
        found = self._partners.get(id(cache))
        return self._empty(cache) if found is None or not cache.get_seq_length() else found.base

    def follow(self, tuned: Any, copied: Any, rows: Int[Tensor, " row"]) -> None:
        """Give a copy of a tuned cache, made by `with_rows`, its own copy of the base blocks' cache."""
        for part, other in zip(_parts(tuned), _parts(copied), strict=True):
            partner = self._partners.get(id(part))
            if partner is not None:
                self._begin(other, with_rows(partner.base, rows), partner.prompt_length)

    def whole(self, tuned: Any, n_tokens: int) -> Any:
        """The base model's cache beside a whole tuned cache, for a pass of whole models; begun if that one is empty."""
        parts = _parts(tuned)
        self.offset = cached_tokens(parts[0], 0)
        if self.offset == 0:
            for part in parts:
                self._begin(part, self._empty(part), n_tokens)
        base = [self._partner(part).base for part in parts]
        if cached_tokens(base[0], 0) != self.offset:
            raise _filled_elsewhere(self.offset)
        if not hasattr(tuned, "entries"):
            return base[0]
        other = fork(tuned)
        other.entries = base
        return other

    def base_arguments(
        self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments with the base blocks' cache in place of the tuned model's."""
        cache = block_cache(args, kwargs)
        if cache is None:
            return args, dict(kwargs)
        base = self._partner(cache).base
        if hasattr(cache, "frozen"):
            base.frozen = cache.frozen
        if cached_tokens(base, layer) != self.offset:
            raise _filled_elsewhere(self.offset)

        def swapped(value: Any) -> Any:
            return base if value is cache else value

        return tuple(map(swapped, args)), {name: swapped(value) for name, value in kwargs.items()}

    def _begin(self, tuned: Any, base: Any, prompt_length: int | None = None) -> None:
        key = id(tuned)
        reference = weakref.ref(tuned, partial(_forget, self._partners, key))
        length = self.prompt_length if prompt_length is None else prompt_length
        self._partners[key] = _Partner(reference, base, length)
        for name in _WHOLE_CACHE_OPERATIONS:
            if hasattr(type(tuned), name):
                setattr(tuned, name, partial(_on_both, name, reference, base))

    def _partner(self, cache: Any) -> _Partner:
        found = self._partners.get(id(cache))
        if found is None:
            raise _filled_elsewhere(self.offset)
        return found


def _parts(cache: Any) -> list[Any]:
    """The objects of a cache that blocks are handed."""
    return list(cache.entries) if hasattr(cache, "entries") else [cache]


def _forget(partners: dict[int, _Partner], key: int, _reference: object) -> None:
    partners.pop(key, None)


def _on_both(name: str, tuned: Callable[[], Any], base: Any, *args: Any, **kwargs: Any) -> Any:
    cache = tuned()
    getattr(type(base), name)(base, *args, **kwargs)
    return getattr(type(cache), name)(cache, *args, **kwargs)


def _filled_elsewhere(n_tokens: int) -> InputError:
    return InputError(
        f"a KV cache of {n_tokens} tokens was filled outside this scaling",
        "the base blocks have no keys and values of those tokens",
        "run the prompt and what follows it within one `with pair.scaled(...)`, or without a cache",
    )
