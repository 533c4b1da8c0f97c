"""KV caches of generation and of shared beginnings: the tuned model's, and beside it those that the base blocks fill.

A tuned block is called with the tuned model's cache among its arguments. The base block that runs beside it must not
append there, so it gets a cache of its own, begun when the tuned model's is empty and kept as long as that one lives;
and a second one for base blocks that run on a stream of their own (drift). `sharing.py` runs texts that begin alike.
Both kinds are known here by what they can do: transformers' `Cache` (one object for all layers; bridge) and
TransformerLens' cache entries (one per layer; hooked). Keys and values are replaced and never written in place, so a
shallow copy of them is independent; running states (Mamba, linear attention) are written in place, and copied.
"""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tuco_lens.errors import InputError
from tuco_lens.models.backends import backend_of, device_of, dtype_of
from tuco_lens.models.numerics import logit_error, logit_tolerance
from tuco_lens.models.positions import keeps_states, positions_differ

_WHOLE_CACHE_OPERATIONS = ("reorder_cache", "crop", "batch_repeat_interleave", "batch_select_indices", "reset")
"""What transformers' generation may do to a cache between passes; the base blocks' cache follows."""

_TRIED, _SEVERAL = 12, 4
"""Tokens of the text that `goes_on` tries, and of the parts that stand for more than one token."""


def new_cache(model: Any, batch_size: int) -> Any:
    """An empty KV cache for passes of `model`."""
    if backend_of(model) == "bridge":
        from transformers import DynamicCache

        return DynamicCache(config=model.original_model.config)
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, device_of(model), batch_size)


_GOES_ON: weakref.WeakKeyDictionary[Any, dict[int, bool]] = weakref.WeakKeyDictionary()


def goes_on(model: Any, n_new: int = 1) -> bool:
    """Whether a pass of `n_new` tokens that goes on from a KV cache gives what one whole pass gives; found by trying.

    It does not on every architecture, in transformers (Bamba), or in a release of TransformerLens (MPT, 3.9).
    """
    if backend_of(model) != "bridge":
        return True
    known = _GOES_ON.setdefault(model, {})
    if n_new not in known:
        known[n_new] = _is_same_in_parts(model, n_new)
    return known[n_new]


def shares_beginnings(model: Any) -> bool:
    """Whether several texts may go on from one cached beginning: rows of running states are not copied."""
    return not keeps_states(model) and goes_on(model, _SEVERAL)


@torch.no_grad()
def _is_same_in_parts(model: Any, n_new: int) -> bool:
    ids = torch.arange(_TRIED, device=device_of(model))[None] % model.cfg.d_vocab
    if "past_key_values" not in inspect.signature(model.original_model.forward).parameters:
        return False
    whole = model(ids, return_type="logits", use_cache=False)
    cache, parts = new_cache(model, 1), list[Tensor]()
    try:
        for part in ids.split([_TRIED - 2 * n_new, n_new, n_new], dim=1):
            parts.append(model(part, return_type="logits", use_cache=True, past_key_values=cache))
    except (ValueError, TypeError, AttributeError, IndexError):  # what a cache of another make meets
        return False
    return logit_error(parts[-1][:, -1:], whole[:, -1:]) <= logit_tolerance(dtype_of(model))


def paired_caches(base: Any, tuned: Any) -> CachePairing:
    """The pairing of these two models' caches."""
    return CachePairing(partial(new_cache, base, 1) if positions_differ(base, tuned) else None)


def fork(cache: Any) -> Any:
    """An independent copy of a cache that shares its tensors until either grows."""
    other = copy.copy(cache)
    if is_block_cache(cache):  # transformers'; one entry of TransformerLens' has nothing within
        if hasattr(cache, "layers"):
            other.layers = [_fork_layer(layer) for layer in cache.layers]
            for name in _WHOLE_CACHE_OPERATIONS:
                vars(other).pop(name, None)  # those that a pairing put there belong to the original
    else:
        other.entries = [copy.copy(entry) for entry in cache.entries]
    return other


def _fork_layer(layer: Any) -> Any:
    other = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):  # of running states and what is known of each
            setattr(
                other, name, {key: held.clone() if isinstance(held, Tensor) else held for key, held in value.items()}
            )
    return other


def with_rows(cache: Any, rows: Int[Tensor, " row"], *, forgets: bool = False) -> Any:
    """A copy of a cache, or of an entry of one, with these rows of its batch; one row repeated costs no memory.

    Args:
        cache: the cache.
        rows: which rows of its batch, in which order.
        forgets: the copy hands out what it is given behind what it has, and keeps only what it has; so a pass that
            nothing goes on from needs no more memory than one layer's keys and values.
    """
    other = fork(cache)
    if forgets:
        _make_forget(other)
    if hasattr(other, "previous_attention_mask"):
        other.previous_attention_mask = other.previous_attention_mask[rows]
    for holder in getattr(other, "layers", None) or getattr(other, "entries", None) or [other]:
        for name in ("keys", "values", "past_keys", "past_values"):
            tensor = getattr(holder, name, None)
            if tensor is not None and tensor.numel():
                setattr(holder, name, _rows(tensor, rows))
    return other


@functools.cache
def _forgetting(layer_class: type[Any]) -> type[Any]:
    """A class of transformers' cache layers whose updates change nothing."""

    def update(layer: Any, *args: Any, **kwargs: Any) -> Any:
        held = dict(vars(layer))
        found = layer_class.update(layer, *args, **kwargs)
        vars(layer).clear()
        vars(layer).update(held)
        return found

    return type(f"Forgetting{layer_class.__name__}", (layer_class,), {"update": update})


def _make_forget(cache: Any) -> None:
    if hasattr(cache, "layers"):
        for layer in cache.layers:
            layer.__class__ = _forgetting(type(layer))
    for holder in (cache, *getattr(cache, "entries", ())):
        if hasattr(holder, "frozen"):  # TransformerLens'
            holder.frozen = True


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


def cached_tokens(cache: Any, layer: int) -> int | None:
    """Tokens that a block's cache holds for a layer; None where the layer keeps only a running state."""
    if not hasattr(cache, "get_seq_length"):
        return cache.past_keys.shape[1]
    held = cache.layers[layer : layer + 1]
    return cache.get_seq_length(layer) if not held or hasattr(held[0], "get_seq_length") else None


def _is_empty(cache: Any) -> bool:
    """Whether no layer of a cache holds anything yet."""
    return not any(
        any(getattr(layer, "has_previous_state", {}).values())
        or (hasattr(layer, "get_seq_length") and layer.get_seq_length())
        for layer in cache.layers
    )


@dataclass
class _Partner:
    """The base blocks' cache beside one of the tuned model's."""

    tuned: weakref.ref[Any]
    base: Any
    apart: Any
    """That of base blocks on a stream of their own; empty where none run."""
    prompt_length: int
    """Tokens of the pass that began the cache."""
    seen: int = 0
    """Tokens of all passes so far."""


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
            self.offset = 0 if cache is None else self._held(cache, layer)
            self.prompt_length = self.n_tokens
        if cache is None:
            return
        if self.offset == 0 and (is_new_pass or not hasattr(cache, "get_seq_length")):
            self._begin(cache, self._empty(cache), self._empty(cache), self.prompt_length)
        partner = self._partner(cache)
        partner.seen = self.offset + self.n_tokens
        self.prompt_length = partner.prompt_length

    def _held(self, cache: Any, layer: int) -> int:
        """Tokens in the cache as a pass begins; counted here where its layers keep only states."""
        told = cached_tokens(cache, layer)
        if told is not None or _is_empty(cache):
            return told or 0
        return self._partner(cache).seen

    def _empty(self, cache: Any) -> Any:
        return fork(cache) if self._fresh is None else self._fresh()

    def beside(self, cache: Any) -> Any:
        """The base blocks' cache beside a tuned one, as it is before a pass: an empty one if that is yet to begin."""
        found = self._partners.get(id(cache))
        return self._empty(cache) if found is None or _is_empty(cache) else found.base

    def follow(self, tuned: Any, copied: Any, rows: Int[Tensor, " row"], *, forgets: bool = False) -> None:
        """Give a copy of a tuned cache, made by `with_rows` in the same way, its own copies of the base blocks'."""
        for part, other in zip(_parts(tuned), _parts(copied), strict=True):
            partner = self._partners.get(id(part))
            if partner is not None:
                base, apart = (with_rows(cache, rows, forgets=forgets) for cache in (partner.base, partner.apart))
                self._begin(other, base, apart, partner.prompt_length)

    def whole(self, tuned: Any, n_tokens: int) -> Any:
        """The base model's cache beside a whole tuned cache, for a pass of whole models; begun if that one is empty."""
        parts = _parts(tuned)
        self.offset = self._held(parts[0], 0)
        if self.offset == 0:
            for part in parts:
                self._begin(part, self._empty(part), self._empty(part), n_tokens)
        base = [self._partner(part).base for part in parts]
        if cached_tokens(base[0], 0) not in (self.offset, None):
            raise _filled_elsewhere(self.offset)
        if not hasattr(tuned, "entries"):
            return base[0]
        other = fork(tuned)
        other.entries = base
        return other

    def base_arguments(
        self, layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, apart: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments with the base blocks' cache in place of the tuned model's; `apart` as in `BlockWatch`."""
        cache = block_cache(args, kwargs)
        if cache is None:
            return args, dict(kwargs)
        partner = self._partner(cache)
        base = partner.apart if apart else partner.base
        if hasattr(cache, "frozen"):
            base.frozen = cache.frozen
        if cached_tokens(base, layer) not in (self.offset, None):
            raise _filled_elsewhere(self.offset)

        def swapped(value: Any) -> Any:
            return base if value is cache else value

        return tuple(map(swapped, args)), {name: swapped(value) for name, value in kwargs.items()}

    def _begin(self, tuned: Any, base: Any, apart: Any, prompt_length: int) -> None:
        key = id(tuned)
        reference = weakref.ref(tuned, partial(_forget, self._partners, key))
        self._partners[key] = _Partner(reference, base, apart, prompt_length)
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
