"""How small a TuCo each dtype can resolve, and the warning for values below that; how far equal logits may differ.

The noise floors are read off the table of `docs/numerics.md`, which `benchmarks/numerics.py` prints.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NOISE_FLOORS: dict[str, float] = {"float32": 2e-6, "float16": 3e-3, "bfloat16": 2.5e-2}
"""By dtype of the weights: the TuCo below which rounding can change it by more than about a tenth. float64 was not
measured and has none."""


_LOGIT_TOLERANCE: dict[str, float] = {"float64": 1e-4, "float32": 1e-4, "float16": 0.05, "bfloat16": 0.2}


class NoiseFloorWarning(UserWarning):
    """A TuCo lies below the noise floor of the dtype in which it was measured."""


def warn_below_floor(values: Sequence[float], dtype: str) -> None:
    """Warn once per call if any TuCo is positive but below the noise floor of `dtype`.

    A TuCo of exactly 0 (the two models do the same) causes no warning.

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
    """The largest `logit_error` between two computations of one model, in the weights' dtype, that counts as rounding.

    Rounding stays far below it; a wrong setting gives 0.05 or more in float32, 0.3 or more in half precision.
    """
    return _LOGIT_TOLERANCE[str(dtype).removeprefix("torch.")]


def logit_error(actual: Tensor, expected: Tensor) -> float:
    """The relative L1 difference of two computations of the same logits [batch, pos, d_vocab].

    The median over the tokens, since in half precision a token may be routed to another expert.
    """
    errors = (actual - expected).abs().sum(-1) / expected.abs().sum(-1)
    return errors.median().item()
