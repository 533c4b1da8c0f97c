"""What a user gives as α and as positions, checked and made regular.

α is a number, a value per layer, a mapping of layers or ranges of layers, or a function of the layer. Positions say at
which tokens it acts. No torch is needed to check either.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tuco_lens.errors import InputError
from tuco_lens.prompts.spans import Role

Alpha = float | Sequence[float] | Mapping[int | range, float] | Callable[[int], float]
"""A number for every layer, a value per layer, {layer or range of layers: value} (others keep 1), or a function."""
Positions = Literal["prompt", "generated"] | Role | slice | range | Sequence[int] | None
"""Where α acts: everywhere (None), on the prompt or on what follows it, on the tokens of one role, on a slice or range,
or on a list of positions. Negative ones count from the prompt's end."""

_PARTS = ("prompt", "generated")


def layer_alphas(alpha: Alpha, n_layers: int) -> tuple[float, ...]:
    """α of every layer.

    Args:
        alpha: see `Alpha`. Any finite value is allowed; 1 is the tuned model, 0 the base model's blocks.
        n_layers: L.

    Raises:
        InputError: for a value that is not finite, a wrong number of values, or a layer that does not exist.
    """
    if isinstance(alpha, Mapping):
        values = _of_mapping(cast("Mapping[int | range, float]", alpha), n_layers)
    elif callable(alpha):
        values = [alpha(layer) for layer in range(n_layers)]
    elif (isinstance(alpha, Sequence) and not isinstance(alpha, str)) or getattr(alpha, "ndim", 0):
        values = list(cast("Sequence[float]", alpha))
        if len(values) != n_layers:
            raise InputError(
                f"{len(values)} values of alpha", f"the model has {n_layers} layers", "give one value, or one per layer"
            )
    else:
        values = [alpha] * n_layers
    return tuple(finite_alpha(value, f" of layer {layer}") for layer, value in enumerate(values))


def finite_alpha(value: object, where: str = "") -> float:
    """`value` as a finite number; raises InputError otherwise. `where` completes "alpha ... is"."""
    try:
        number = math.nan if isinstance(value, str) else float(cast("Any", value))
    except (TypeError, ValueError, RuntimeError):  # the last from a tensor of several values
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"alpha{where} is {value!r}", "it is not a finite number", "give one, such as 0.8")
    return number


def _of_mapping(alpha: Mapping[int | range, float], n_layers: int) -> list[float]:
    values = [1.0] * n_layers
    given: set[int] = set()
    for key, value in alpha.items():
        for layer in key if isinstance(key, range) else [key]:
            index = layer_index(layer, n_layers)
            if index in given:
                raise InputError(f"alpha of layer {index} is given twice", "the ranges overlap", "give each layer once")
            given.add(index)
            values[index] = value
    return values


def layer_index(layer: object, n_layers: int) -> int:
    """A layer counted from 0; `InputError` if there is no such one."""
    try:
        index = operator.index(cast("Any", layer))
    except TypeError:
        raise InputError(f"{layer!r} is no layer", "layers are numbers or ranges", "give such as {3: 0.5}") from None
    if not -n_layers <= index < n_layers:
        raise InputError(f"layer {index} is out of range", f"there are {n_layers}", f"give 0 to {n_layers - 1}")
    return index % n_layers


@dataclass(frozen=True)
class PositionFilter:
    """Positions of one row at which α acts, once the prompt's length is known."""

    part: str | None = None
    """"prompt" or "generated"; None for all, or where `span` or `listed` says it."""
    span: tuple[int | None, int | None, int] | None = None
    """Start, stop and step; None for a start or stop at the end. Negative ones count from the prompt's end."""
    listed: tuple[int, ...] | None = None
    """Single positions; negative ones count from the prompt's end."""

    @property
    def is_everything(self) -> bool:
        """Whether α acts on every token."""
        return self.part is None and self.span is None and self.listed is None

    def selects(self, first: int, end: int, prompt_length: int) -> list[bool]:
        """Whether α acts on each of the positions first … end-1 of a row.

        Raises:
            InputError: for a listed position outside the prompt.
        """
        if self.part is not None:
            return [(p < prompt_length) == (self.part == "prompt") for p in range(first, end)]
        if self.listed is not None:
            chosen = {self._in_prompt(position, prompt_length) for position in self.listed}
            return [position in chosen for position in range(first, end)]
        if self.span is not None:
            start, stop, step = self.span
            from_start = 0 if start is None else max(0, start + prompt_length) if start < 0 else start
            to_stop = end if stop is None else stop + prompt_length if stop < 0 else stop
            members = range(from_start, to_stop, step)
            return [position in members for position in range(first, end)]
        return [True] * (end - first)

    @staticmethod
    def _in_prompt(position: int, prompt_length: int) -> int:
        if not -prompt_length <= position < prompt_length:
            raise InputError(
                f"position {position} is outside the prompt",
                f"it has {prompt_length} tokens",
                "give positions within it, or a slice, or 'generated'",
            )
        return position % prompt_length


def position_filter(positions: Positions, roles: Sequence[Role] | None = None) -> PositionFilter:
    """Read what a user gave as positions.

    Args:
        positions: see `Positions`.
        roles: the role of every token of the prompt, where the prompt is known; a role's name can be given then.

    Raises:
        InputError: for anything else, or for a role where the prompt is not known or has no token of it.
    """
    if positions is None:
        return PositionFilter()
    if isinstance(positions, str):
        return _named(positions, roles)
    if isinstance(positions, slice | range):
        return _of_span(positions)
    try:
        return PositionFilter(listed=tuple(operator.index(position) for position in positions))
    except TypeError:
        raise InputError(
            f"positions are {positions!r}",
            "they are neither a part, a slice nor a list of numbers",
            "give 'prompt', 'generated', a slice or a list",
        ) from None


def _of_span(positions: slice | range) -> PositionFilter:
    try:
        start, stop, step = (
            None if part is None else operator.index(part) for part in (positions.start, positions.stop, positions.step)
        )
    except TypeError:
        raise InputError(f"positions are {positions!r}", "its ends are no whole numbers", "give such as 2:5") from None
    if step is not None and step < 1:
        raise InputError(f"{positions!r} as positions", "it runs backwards", "give a step of 1 or more")
    if isinstance(positions, range) and positions.start < 0 <= positions.stop:
        # As a slice it would be empty; as numbers it is the prompt's last tokens, and then perhaps its first.
        if positions.stop > 0:
            why = "it holds negative positions and others"
            raise InputError(f"{positions!r} as positions", why, "give them as a list, or as a slice")
        return PositionFilter(listed=tuple(positions))
    return PositionFilter(span=(start, stop, 1 if step is None else step))


def _named(name: str, roles: Sequence[Role] | None) -> PositionFilter:
    if name in _PARTS:
        return PositionFilter(part=name)
    if name not in get_args(Role):
        names = ", ".join((*_PARTS, *get_args(Role)))
        raise InputError(f"no positions {name!r}", f"there are {names}", "name one, or give numbers")
    if roles is None:
        raise InputError(
            f"positions {name!r}",
            f"which tokens are the {name}'s is known only with the prompt",
            "use pair.generate, or give the positions of pair.prompt(...).roles",
        )
    chosen = tuple(i for i, role in enumerate(roles) if role == name)
    if not chosen:
        raise InputError(f"positions {name!r}", "the prompt has no such token", "give a chat, or other positions")
    return PositionFilter(listed=chosen)
