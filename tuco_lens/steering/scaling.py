"""The handle behind `pair.scaled`: a scaling that can be put on a pair, taken off, and nested.

While several are on, the innermost alone acts; the one outside it acts again when it ends. So every state is one that
a single scaling gives, whatever the order in which handles are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from tuco_lens.engine.use import inner_module, use_of
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of
from tuco_lens.steering.alpha import Alpha, PositionFilter, Positions, layer_alphas, position_filter
from tuco_lens.steering.ftc import FtcScaling
from tuco_lens.steering.logits import ContrastiveLogits
from tuco_lens.steering.weights import WeightInterpolation

if TYPE_CHECKING:
    from tuco_lens.engine.lockstep import BlockStep
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

Method = Literal["ftc", "logits", "weights"]
METHODS: tuple[Method, ...] = ("ftc", "logits", "weights")
"""FTC_α-scaling, contrastive logits, weight interpolation."""


class Attachable(Protocol):
    """What a method of scaling can do; see `ftc.py`, `logits.py` and `weights.py`."""

    def attach(self) -> None:
        """Make the tuned model the scaled one."""
        ...

    def detach(self) -> None:
        """Make it the tuned one again."""
        ...


@dataclass(frozen=True)
class ScalingSettings:
    """What a scaling does, checked."""

    alphas: tuple[float, ...]
    """α by layer."""
    positions: PositionFilter
    """Where α acts."""
    method: Method
    """"ftc", "logits" or "weights"."""

    @property
    def alpha(self) -> float | tuple[float, ...]:
        """α as one number, where it is the same for every layer."""
        return self.alphas[0] if len(set(self.alphas)) == 1 else self.alphas


def scaling_settings(
    alpha: Alpha, n_layers: int, *, positions: Positions = None, method: Method = "ftc", prompt: Prompt | None = None
) -> ScalingSettings:
    """Read and check what a user asks of a scaling; with the prompt, where it is known.

    Raises:
        InputError: for an α, positions or a method that cannot be, and for the two baselines with α by layer or
            position, which they do not have.
    """
    if method not in METHODS:
        raise InputError(f"no method {method!r}", f"there are {', '.join(METHODS)}", "name one of them")
    chosen = position_filter(positions, None if prompt is None else prompt.roles)
    if prompt is not None:
        chosen.selects(0, prompt.n_tokens, prompt.n_tokens)  # refuses positions outside the prompt
    settings = ScalingSettings(layer_alphas(alpha, n_layers), chosen, method)
    if method != "ftc" and not (isinstance(settings.alpha, float) and settings.positions.is_everything):
        raise InputError(
            f"method {method!r} by layer or position", "it acts on the whole model", "give one alpha, or method='ftc'"
        )
    return settings


def method_of(
    pair: ModelPair, settings: ScalingSettings, visit: Callable[[BlockStep], None] | None = None
) -> Attachable:
    """The method that does what the settings say; with `visit`, FTC-scaling also reports every block."""
    if settings.method == "weights":
        return WeightInterpolation(pair.base, pair.tuned, settings.alphas[0])
    if settings.method == "logits":
        return ContrastiveLogits(pair.base, pair.tuned, torch.tensor(settings.alphas[:1], device=device_of(pair.tuned)))
    alphas = torch.tensor(settings.alphas, device=device_of(pair.tuned))[:, None]  # [layer, row = 1]
    return FtcScaling(pair.base, pair.tuned, alphas, (settings.positions,), visit)


class Scaling:
    """A scaling of a pair's tuned model: a context manager, or a handle with `apply` and `remove`.

    `with pair.scaled(0.8):` and `handle = pair.scaled(0.8).apply(); ...; handle.remove()` do the same. One that is
    off can be put on again. Entered twice, it acts until it has been left twice. While it is on, the pair belongs to
    the thread that put it on (`engine/use.py`).

    Args:
        pair: whose tuned model is scaled.
        settings: what it does, for those who ask.
        make: makes the method, when it is first put on.
        open_ended: whether it stays on for as long as a user likes, so that other threads should not wait for its end.
    """

    def __init__(
        self,
        pair: ModelPair,
        settings: ScalingSettings | None,
        make: Callable[[], Attachable],
        *,
        open_ended: bool = False,
    ) -> None:
        self._active, self.settings, self._make = pair.active_scalings, settings, make
        self._use, self._open_ended = use_of(inner_module(pair.tuned)), open_ended
        self._method: Attachable | None = None

    def __repr__(self) -> str:
        state = "on" if self in self._active else "off"
        return f"Scaling({self.settings}, {state})"

    @property
    def is_on(self) -> bool:
        """Whether it has been put on and not taken off; an inner one may still act in its place."""
        return self in self._active

    def weight(self, layer: int) -> torch.Tensor | float:
        """α of a layer in the current pass, [row or 1, pos or 1, 1] or a number; 1 for methods that mix no streams."""
        return self._method.weight(layer) if isinstance(self._method, FtcScaling) else 1.0

    def apply(self) -> Scaling:
        """Put the scaling on; it acts until `remove`, or until another is put on within it."""
        self._use.take(open_ended=self._open_ended)
        outer = self._active[-1] if self._active else None
        if outer is not None:
            outer._pause()
        try:
            self._resume()
        except BaseException:
            if outer is not None:
                outer._resume()
            self._use.give_back(open_ended=self._open_ended)
            raise
        self._active.append(self)
        return self

    def remove(self) -> None:
        """Take the scaling off and leave the models as they were; without effect on one that is off."""
        if self not in self._active:
            return
        last = len(self._active) - 1 - self._active[::-1].index(self)
        was_acting = last == len(self._active) - 1
        del self._active[last]
        try:
            if was_acting:
                self._pause()
                if self._active:
                    self._active[-1]._resume()
        finally:
            self._use.give_back(open_ended=self._open_ended)

    def __enter__(self) -> Scaling:
        return self.apply()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _resume(self) -> None:
        if self._method is None:
            self._method = self._make()
        self._method.attach()

    def _pause(self) -> None:
        if self._method is not None:
            self._method.detach()
