"""How small a TuCo each dtype can resolve, and the warning for values below that; how far equal logits may differ.

The floors are measured by `benchmarks/numerics.py`, which prints the table of
`docs/numerics.md`; this file holds its conclusion.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NOISE_FLOORS: dict[str, float] = {"float32": 2e-6, "float16": 3e-3, "bfloat16": 2.5e-2}
"""By dtype of the weights: the TuCo below which rounding can move the value by more than about a tenth. float64 was
not measured and has none."""


_LOGIT_TOLERANCE: dict[str, float] = {"float64": 1e-4, "float32": 1e-4, "float16": 0.05, "bfloat16": 0.2}


class NoiseFloorWarning(UserWarning):
    """A TuCo lies under the noise floor of the dtype that it was measured in."""


def warn_below_floor(values: Sequence[float], dtype: str) -> None:
    """Warn once per call if any TuCo is positive but under the noise floor of `dtype`.

    Exactly 0 is exact (the two models do the same) and never warned of.

    Args:
        values: TuCo values.
        dtype: dtype of the weights, such as "bfloat16".
    """
    floor = NOISE_FLOORS.get(dtype, 0.0)
    below = [value for value in values if 0.0 < value < floor]
    if below:
        warnings.warn(
            f"{len(below)} of {len(values)} TuCo values (smallest {min(below):.2g}) lie under the noise floor of "
            f"{dtype}, {floor:g}; load the pair with dtype='float32' to resolve them",
            NoiseFloorWarning,
            stacklevel=3,
        )


def logit_tolerance(dtype: torch.dtype) -> float:
    """The largest `logit_error` between two calculations of one model; rounding of the weights' dtype stays far below.

    A wrong setting shows as 0.05 and more in float32, as 0.3 and more in half precision.
    """
    return _LOGIT_TOLERANCE[str(dtype).removeprefix("torch.")]


def logit_error(actual: Tensor, expected: Tensor) -> float:
    """How far two calculations of the same logits [batch, pos, d_vocab] are apart, relative to their size (L1).

    The median over the tokens, since in half precision a token may go to another expert.
    """
    errors = (actual - expected).abs().sum(-1) / expected.abs().sum(-1)
    return errors.median().item()
