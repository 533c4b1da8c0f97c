"""TuCo's quantities as pure tensor functions, without a model.

Notation of the paper (ICML 2025, arXiv 2506.23423): P_l and F_l are the sums of the pre-training and fine-tuning
components of all blocks before l. `engine/contributions.py` gives their norms per layer and token; the rest is here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.errors import InputError

Norm = Literal["l1", "l2"]
NORM_ORDERS: dict[Norm, int] = {"l1": 1, "l2": 2}


def check_norm(norm: str) -> None:
    """Raises `InputError` for a norm that is neither "l1" nor "l2"."""
    if norm not in NORM_ORDERS:
        raise InputError(f"no norm {norm!r}", f"there are {', '.join(NORM_ORDERS)}", "name one of them")


def vector_norms(vectors: Float[Tensor, "*rest d_model"], norm: Norm = "l1") -> Float[Tensor, "*rest"]:
    """The norm of each vector over the last dimension. TuCo is defined with L1 (`norm="l1"`)."""
    return torch.linalg.vector_norm(vectors, ord=NORM_ORDERS[norm], dim=-1)


def contribution_ratio(ftc: Float[Tensor, "*shape"], ptc: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """‖F‖ / (‖P‖ + ‖F‖), elementwise on norms, in [0, 1]; 0/0 is read as 0 (blocks that add nothing), NaN stays."""
    total = ptc + ftc
    return torch.where(total > 0, ftc / torch.where(total > 0, total, 1), total)


def norms_over_tokens(norms: Float[Tensor, "layer token"], norm: Norm = "l1") -> Float[Tensor, " layer"]:
    """The norm of all n × d entries of each layer, from the norms of its n tokens."""
    return torch.linalg.vector_norm(norms, ord=NORM_ORDERS[norm], dim=-1)


def beta_by_layer(
    cumulative_ptc: Float[Tensor, "layer token"], cumulative_ftc: Float[Tensor, "layer token"], norm: Norm = "l1"
) -> Float[Tensor, " layer"]:
    """β_l = ‖F_l‖ / (‖P_l‖ + ‖F_l‖) over all n × d entries, for l = 1 … L (row i holds β_{i+1}; β_0 = 0).

    Args:
        cumulative_ptc: ‖P_{l+1}[t]‖ in row l, column t.
        cumulative_ftc: ‖F_{l+1}[t]‖ in row l, column t.
        norm: the norm of the two maps, "l1" or "l2".
    """
    return contribution_ratio(norms_over_tokens(cumulative_ftc, norm), norms_over_tokens(cumulative_ptc, norm))


def beta(
    cumulative_ptc: Float[Tensor, "layer token"], cumulative_ftc: Float[Tensor, "layer token"], norm: Norm = "l1"
) -> Float[Tensor, ""]:
    """β = max_l β_l, which bounds how far the models' outputs differ (Prop. 4.2); arguments as in `beta_by_layer`."""
    return beta_by_layer(cumulative_ptc, cumulative_ftc, norm).max()


def tuco(
    cumulative_ptc: Float[Tensor, "layer token"], cumulative_ftc: Float[Tensor, "layer token"]
) -> Float[Tensor, ""]:
    """TuCo = ‖F_L[n]‖ / (‖P_L[n]‖ + ‖F_L[n]‖): last layer, last token only; arguments as in `beta_by_layer`."""
    return contribution_ratio(cumulative_ftc[-1, -1], cumulative_ptc[-1, -1])
