"""Taps on the parts of one block of one model: what attention, MLP, experts, heads and neurons put out.

Where the parts lie is in `models/parts.py`. `recording.py` reads one position, `pieces.py` all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tuco_lens.models.backends import stream_of
from tuco_lens.models.parts import PARTS, Part, experts_of, part_point, reading_points, unit_point


class BlockTaps:
    """What the parts of one block of one model put out when it last ran."""

    def __init__(self, block: Any, units: Sequence[Part], sources: bool, stack: ExitStack) -> None:
        self.seen: dict[str, Tensor] = {}
        self.instead: Tensor | None = None
        for part in PARTS:
            self._tap(part_point(block, part), part, stack)
        experts = experts_of(block)
        if experts is not None:
            self._tap(experts, "experts", stack)
        for part in units:
            self._tap(unit_point(block, part), f"units of {part}", stack)
        if sources:
            for point, name in zip(reading_points(block), ("pattern", "v"), strict=True):
                self._tap(point, name, stack)

    def _tap(self, point: nn.Module, name: str, stack: ExitStack) -> None:
        def keep(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
            if name == "attention" and self.instead is not None:
                return self.instead.view_as(stream_of(output))
            self.seen[name] = stream_of(output)
            return None

        stack.callback(point.register_forward_hook(keep).remove)

    def added(self, position: int) -> dict[str, Tensor]:
        """What each part added at the position, [d_model]."""
        return {part: wide(_of_token(self.seen[part], position)) for part in PARTS}

    def experts(self, position: int) -> Float[Tensor, " d_model"] | None:
        """What the routed experts add at the position; None if the block has none, or a norm behind them."""
        return wide(_of_token(self.seen["experts"], position)) if "experts" in self.seen else None

    def reading(self, position: int) -> tuple[Float[Tensor, "head source"], Float[Tensor, "source group d_head"]]:
        """The heads' pattern at the position, and the values that they read."""
        pattern = self.seen["pattern"][0, :, position]  # [head, source]
        n_sources = position + 1
        values = self.seen["v"][0, :n_sources]  # [source, group, d_head], or flat
        d_head = self.seen["units of attention"][0, 0].numel() // len(pattern)
        return pattern[:, :n_sources].clone(), values.reshape(n_sources, -1, d_head).clone()

    def everywhere(self, name: str, shape: torch.Size) -> Float[Tensor, "row token width"]:
        """What was seen at every token of every row, out of any graph; `shape` begins with those two."""
        return wide(self.seen[name].detach()).reshape(*shape[:2], -1)

    def unit_values(self, part: Part, position: int) -> Float[Tensor, "1 unit"]:
        """The units at the position, flat."""
        return _of_token(self.seen[f"units of {part}"], position).reshape(1, -1)

    def attention_of(self, other: BlockTaps) -> ExitStack:
        """While open, this block's attention puts out what the other's did."""
        stack = ExitStack()
        self.instead = other.seen["attention"]
        stack.callback(setattr, self, "instead", None)
        return stack

    def forget(self) -> None:
        """Let go of the tensors."""
        self.seen.clear()


def _of_token(values: Tensor, position: int) -> Tensor:
    """The values of one token; some modules see a batch as one sequence, without the first dimension."""
    return values[position] if values.ndim == 2 else values[0, position]


def wide(values: Tensor) -> Tensor:
    """In float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
