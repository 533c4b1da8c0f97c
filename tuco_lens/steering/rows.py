"""What `pair.generate` is asked for, as rows: every prompt under every scaling.

The loop that runs them is in `generating.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.steering.alpha import Alpha, Positions
from tuco_lens.steering.scaling import Method, ScalingSettings, scaling_settings

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair


@dataclass(frozen=True)
class Row:
    """One prompt under one scaling."""

    index: int
    """Its place among the results."""
    prompt: Prompt
    """What is continued."""
    scaling: ScalingSettings
    """α, where it acts, and the method."""
    stream: int
    """Tells its random draws from those of other prompts; the same for all α of a prompt."""


def requested_rows(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    alpha: Alpha | None,
    alphas: Sequence[Alpha] | None,
    method: Method,
    positions: Positions,
) -> list[Row]:
    """Prompt by prompt, each under every α in turn; the arguments are those of `ModelPair.generate`.

    Raises:
        InputError: for an α, positions or a method that cannot be, or that contradict each other.
    """
    wanted = _wanted_alphas(alpha, alphas)
    return [
        Row(i * len(wanted) + j, prompt, _settings(pair, each, method, positions, prompt), i)
        for i, prompt in enumerate(prompts)
        for j, each in enumerate(wanted)
    ]


def _wanted_alphas(alpha: Alpha | None, alphas: Sequence[Alpha] | None) -> list[Alpha | None]:
    if alphas is None:
        return [alpha]
    if alpha is not None:
        raise InputError("alpha and alphas", "both are given", "give one of the two")
    given: object = alphas
    if isinstance(given, str | Mapping) or not hasattr(given, "__len__"):
        raise InputError(f"alphas is {given!r}", "it is no list", "give a list, or alpha for a single one")
    if not len(alphas):
        raise InputError("alphas is empty", "there is nothing to generate", "give at least one")
    return list(alphas)


def _settings(
    pair: ModelPair, alpha: Alpha | None, method: Method, positions: Positions, prompt: Prompt
) -> ScalingSettings:
    """What was asked for; where no α was, that of an open `pair.scaled`, else 1."""
    acting = pair.active_scalings[-1].settings if pair.active_scalings else None
    if alpha is None and acting is not None:
        if method != "ftc" or positions is not None:
            raise InputError(
                "method or positions without alpha",
                "the open pair.scaled(...) says how to scale",
                "give alpha too, or leave them out",
            )
        return acting
    value = 1.0 if alpha is None else alpha
    return scaling_settings(value, pair.n_layers, positions=positions, method=method, prompt=prompt)
