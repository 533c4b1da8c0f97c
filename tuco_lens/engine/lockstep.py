"""The engine: as each block of the tuned model runs, the base model's block runs on the same input.

So every layer costs two block calls, and its PTC and FTC are differences of their inputs and outputs (see
`docs/design.md`). `contributions.py` adds them up; `steering/ftc.py` puts a mixture of the two outputs back into the
stream. Both use `BlockWatch`: `contributions.py` through `lockstep`, `steering/ftc.py` directly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from tuco_lens.brief import Brief
from tuco_lens.engine.own_positions import OwnPositions
from tuco_lens.engine.use import using
from tuco_lens.models.backends import blocks, stream_of

Stream = Float[Tensor, "batch pos d_model"]
_SHARED = "shared_kv_states"
"""The argument through which transformers' blocks share keys and values."""


@dataclass(frozen=True)
class BlockStep(Brief):
    """One block of the tuned model's forward pass, beside the base block on the same input."""

    layer: int
    """Index of the block, 0 … L-1."""
    resid_pre: Float[Tensor, "batch pos d_model"]
    """x_l: the tuned model's stream after `hook_resid_pre`, with all changes by users' hooks there."""
    tuned_post: Float[Tensor, "batch pos d_model"]
    """x_{l+1} = x_l + f_FT(x_l, l), after the tuned block's `hook_resid_post`; under scaling, the scaled stream."""
    base_post: Float[Tensor, "batch pos d_model"]
    """x_l + f_PT(x_l, l), after the base block's `hook_resid_post`."""
    run_base: Callable[[Stream], Stream]
    """Runs the base block on another stream with this step's arguments (for the drift of two runs)."""
    run_tuned: Callable[[Stream], Stream]
    """Runs the tuned block once more in the same way, users' hooks within it included."""


class BlockArguments(Protocol):
    """Decides how base blocks are called; see `engine/kv_caches.py`."""

    def enter(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A tuned block is about to run with these arguments."""
        ...

    def base_arguments(
        self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, apart: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for the base block beside a tuned block that was called with these; `apart` if on its own."""
        ...


class SharedStates:
    """The keys and values that base blocks share, in models whose later blocks read those of earlier ones (Gemma 4).

    All blocks of a pass write to or read from one mapping. The base blocks must not write to the tuned model's, so each
    pass has another mapping for them, and a third for base blocks that run on a stream of their own.
    """

    def __init__(self) -> None:
        self._given: Any = None
        self._own: dict[bool, Any] = {}

    @classmethod
    def where_needed(cls, tuned: Any) -> SharedStates | None:
        """A new one, or None if the model's blocks share nothing."""
        config = getattr(getattr(tuned, "original_model", None), "config", None)
        shares = config is not None and getattr(config.get_text_config(), "num_kv_shared_layers", 0)
        return cls() if shares else None

    def of_block(self, kwargs: dict[str, Any], *, apart: bool) -> dict[str, Any]:
        """The arguments with the base blocks' mapping for the tuned model's; `apart` if on a stream of their own."""
        given = kwargs[_SHARED]
        if given is not self._given:  # a new pass
            self._given, self._own = given, {kind: type(given)() for kind in (False, True)}
        return {**kwargs, _SHARED: self._own[apart]}


class BlockWatch:
    """Runs the base block beside each call of one tuned block, and reports the two or mixes them.

    The hook that reads x_l is added anew at each call, so that it comes after every hook of the user on
    `hook_resid_pre`, even one added while the watch is on. The hook that mixes comes before the user's on
    `hook_resid_post`, so that those see the mixed stream.

    Args:
        layer: index of the block.
        tuned: the tuned block.
        base: the base block.
        visit: takes each step, at the end of the tuned block.
        mix: takes (tuned output, base output) and returns the stream that leaves the tuned block.
        arguments: decides the base block's arguments; by default they are the tuned block's.
        own: gives the base block the masks and rotary angles of its own model.
        shared: gives the base blocks keys and values to share among themselves.
    """

    def __init__(
        self,
        layer: int,
        tuned: nn.Module,
        base: nn.Module,
        *,
        visit: Callable[[BlockStep], None] | None = None,
        mix: Callable[[Stream, Stream], Stream] | None = None,
        arguments: BlockArguments | None = None,
        own: OwnPositions | None = None,
        shared: SharedStates | None = None,
    ) -> None:
        self.layer, self.tuned, self.base = layer, tuned, base
        self.visit, self.mix, self.arguments, self.own, self.shared = visit, mix, arguments, own, shared
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._capture: Any = None
        self._resid_pre: Tensor | None = None
        self._base_post: Tensor | None = None
        self._handles = [
            tuned.register_forward_pre_hook(self._before, with_kwargs=True),
            tuned.register_forward_hook(self._after),
        ]
        if mix is not None:
            self._handles.append(_point(tuned, "hook_resid_post").register_forward_hook(self._mix, prepend=True))

    def close(self) -> None:
        """Remove every hook of this watch."""
        self._forget()
        for handle in self._handles:
            handle.remove()

    def _forget(self) -> None:
        self._call, self._resid_pre, self._base_post = ((), {}), None, None
        if self._capture is not None:
            self._capture.remove()
            self._capture = None

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget()
        self._call = (args, kwargs)
        if self.arguments is not None:
            self.arguments.enter(self.layer, args, kwargs)
        self._capture = _point(self.tuned, "hook_resid_pre").register_forward_hook(self._read)

    def _read(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._resid_pre = output

    def _run_base(self, stream: Tensor, *, apart: bool = False) -> Tensor:
        args, kwargs = self._call
        if self.arguments is not None:
            args, kwargs = self.arguments.base_arguments(self.layer, args, kwargs, apart=apart)
        if self.own is not None:
            args, kwargs = self.own.of_block(self.layer, args, kwargs)
        if self.shared is not None:
            kwargs = self.shared.of_block(kwargs, apart=apart)
        if args:  # the stream is the first positional argument, or the keyword `hidden_states`
            return stream_of(self.base(stream, *args[1:], **kwargs))
        return stream_of(self.base(**{**kwargs, "hidden_states": stream}))

    def _run_tuned(self, stream: Tensor) -> Tensor:
        args, kwargs = self._call
        # Ends before the hooks that wait for the block itself, of this watch and of others.
        handle = self.tuned.register_forward_hook(_raise_output, prepend=True)
        try:
            self.tuned(stream, *args[1:], **kwargs) if args else self.tuned(**{**kwargs, "hidden_states": stream})
        except _Output as done:
            return done.stream
        finally:
            handle.remove()
        raise RuntimeError(f"block {self.layer} did not run")

    def _stream(self) -> Tensor:
        if self._resid_pre is None:
            raise RuntimeError(f"blocks.{self.layer}.hook_resid_pre did not run within its block")
        return self._resid_pre

    def _mix(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        assert self.mix is not None
        self._base_post = self._run_base(self._stream())
        return self.mix(output, self._base_post)

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        try:
            if self.visit is not None:
                resid_pre = self._stream()
                base_post = self._run_base(resid_pre) if self._base_post is None else self._base_post
                run_base = partial(self._run_base, apart=True)
                self.visit(BlockStep(self.layer, resid_pre, stream_of(output), base_post, run_base, self._run_tuned))
        finally:
            self._forget()


class _Output(Exception):
    """Carries a block's output past the hooks that wait for it."""

    def __init__(self, stream: Tensor) -> None:
        super().__init__()
        self.stream = stream


def _raise_output(_module: nn.Module, _args: Any, output: Any) -> None:
    raise _Output(stream_of(output))


def _point(block: nn.Module, name: str) -> nn.Module:
    return getattr(block, name)


@contextmanager
def lockstep(
    base: Any, tuned: Any, visit: Callable[[BlockStep], None], arguments: BlockArguments | None = None
) -> Generator[None]:
    """While open, every forward pass of `tuned` reports each block to `visit`, with the base block beside it.

    A pass may use a KV cache only with `arguments`, which give the base blocks their own; without, they would append to
    the tuned model's. No hook of ours is left on either model afterwards, not even after an exception.

    Raises:
        ValueError: if the models have different numbers of blocks, or are the same object.
    """
    if base is tuned:
        raise ValueError("base and tuned are one object; load the checkpoint twice")
    with using(base, tuned), ExitStack() as stack:
        own = OwnPositions.where_needed(base, tuned, stack, getattr(arguments, "beside", None))
        shared = SharedStates.where_needed(tuned)
        how: dict[str, Any] = {"visit": visit, "arguments": arguments, "own": own, "shared": shared}
        for layer, (tuned_block, base_block) in enumerate(zip(blocks(tuned), blocks(base), strict=True)):
            watch = BlockWatch(layer, tuned_block, base_block, **how)
            stack.callback(watch.close)
        yield
