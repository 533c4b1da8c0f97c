"""One thread at a time uses a model, so one thread's hooks, scalings and weights never change another's numbers.

A thread that measures, generates, scores or calls a model has it to itself during that pass; others wait. A scaling
that a user has opened may last for any time, so other threads get an error instead. Within one thread, uses nest.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tuco_lens.errors import InputError


class Use:
    """A re-entrant lock that knows whether its holder has it for a pass or open-ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._count = 0
        self._open_ended = 0

    def take(self, *, open_ended: bool = False) -> None:
        """Wait until no other thread holds it, and take it.

        Raises:
            InputError: if another thread holds it open-ended.
        """
        me = threading.get_ident()
        with self._changed:
            while self._owner not in (None, me):
                if self._open_ended:
                    raise InputError(
                        "the pair is in use", "another thread has a scaling of it open", "close that one first"
                    )
                self._changed.wait()
            self._owner = me
            self._count += 1
            self._open_ended += open_ended

    def give_back(self, *, open_ended: bool = False) -> None:
        """Undo one `take`; also from another thread, since a handle may be passed on."""
        with self._changed:
            self._count -= 1
            self._open_ended -= open_ended
            if self._count == 0:
                self._owner = None
                self._changed.notify_all()


_USES: WeakKeyDictionary[nn.Module, Use] = WeakKeyDictionary()
_MAKING = threading.Lock()


def use_of(module: nn.Module) -> Use:
    """The lock of a model, given its `inner_module`; made at the first call."""
    with _MAKING:
        return _USES.setdefault(module, Use())


@contextmanager
def using(*models: Any) -> Generator[None]:
    """While open, this thread has the models to itself."""
    with ExitStack() as stack:
        uses = {id(use): use for use in map(use_of, map(inner_module, models))}
        for _, use in sorted(uses.items()):  # always in one order, against deadlocks
            use.take()
            stack.callback(use.give_back)
        yield


def guard(*models: Any) -> None:
    """From now on, calls of these models wait for passes of any of them in other threads.

    They share one lock, since with a lock each two threads that need both models could wait for each other.
    """
    guarded = [module for model in models for module in (model, inner_module(model))]
    with _MAKING:
        shared = next((_USES[module] for module in guarded if module in _USES), None) or Use()
        for module in guarded:
            _USES.setdefault(module, shared)
    for module in guarded:
        if _begin not in module._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
            module.register_forward_pre_hook(_begin, prepend=True)
            module.register_forward_hook(_end, always_call=True)


def is_guard(hook: object) -> bool:
    """Whether a hook is one of those that `guard` puts on a model for good."""
    return hook in (_begin, _end)


def inner_module(model: Any) -> nn.Module:
    """The module that every pass goes through: for a bridge, the transformers model inside it."""
    return getattr(model, "original_model", model)


_CALLS = threading.local()
"""`inside`: the guarded modules whose calls this thread is inside, the outermost first."""


def _begin(module: nn.Module, _args: Any) -> None:
    use_of(module).take()
    _CALLS.inside = [*getattr(_CALLS, "inside", ()), module]


def _end(module: nn.Module, _args: Any, _output: Any) -> None:
    # PyTorch calls this after errors too, even after one in `_begin`, when there is nothing to give back.
    *outer, last = getattr(_CALLS, "inside", None) or [None]
    if last is module:
        _CALLS.inside = outer
        use_of(module).give_back()
