"""The closed answers of the paper's definitions, and laws of the pure functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tuco_lens.engine import metrics

H = torch.tensor([1.0, -2.0, 0.5, 3.0])


def cumulative_norms(parts: list[Tensor], norm: metrics.Norm = "l1") -> Tensor:
    """‖Σ_{s≤l} parts_s‖ as a [layer, 1 token] map."""
    return metrics.vector_norms(torch.stack(parts).cumsum(0), norm)[:, None]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_components_that_cancel_within_each_half_give_tuco_one_half_and_beta_one(norm: metrics.Norm) -> None:
    zero = torch.zeros_like(H)
    ptc, ftc = cumulative_norms([zero, zero, H, -H / 2], norm), cumulative_norms([H, -H / 2, zero, zero], norm)
    assert metrics.tuco(ptc, ftc).item() == pytest.approx(0.5)
    assert metrics.beta(ptc, ftc, norm).item() == 1.0
    assert metrics.beta_by_layer(ptc, ftc, norm).tolist() == pytest.approx([1.0, 1.0, 1 / 3, 0.5])


def test_two_layers_whose_second_flips_its_sign_give_tuco_one_half() -> None:
    # f_PT(x,0) = f_FT(x,0) = h; f_PT(x,1) = x = h, f_FT(x,1) = -x, so PTC = h, h and FTC = 0, -2h.
    ptc, ftc = cumulative_norms([H, H]), cumulative_norms([torch.zeros_like(H), -2 * H])
    assert metrics.tuco(ptc, ftc).item() == pytest.approx(0.5)


def test_nothing_over_nothing_is_zero_and_has_no_nan() -> None:
    zeros = torch.zeros(3, 2)
    assert metrics.contribution_ratio(zeros, zeros).tolist() == zeros.tolist()
    assert metrics.beta(zeros, zeros).item() == 0.0


def test_nan_norms_are_not_hidden() -> None:
    assert metrics.contribution_ratio(torch.tensor([float("nan")]), torch.tensor([1.0])).isnan().all()


@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.sampled_from(["l1", "l2"]), st.integers(0, 2**31 - 1)
)
def test_beta_from_token_norms_equals_beta_from_all_entries(
    layers: int, tokens: int, width: int, norm: metrics.Norm, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ptc, ftc = torch.randn(2, layers, tokens, width, generator=generator, dtype=torch.float64).cumsum(1)
    by_token = metrics.beta_by_layer(metrics.vector_norms(ptc, norm), metrics.vector_norms(ftc, norm), norm)
    order = metrics.NORM_ORDERS[norm]
    p, f = ptc.flatten(1).norm(order, dim=1), ftc.flatten(1).norm(order, dim=1)
    torch.testing.assert_close(by_token, f / (p + f))


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=20), st.data())
def test_the_ratio_lies_between_zero_and_one_and_its_two_sides_sum_to_one(
    ftc: list[float], data: st.DataObject
) -> None:
    ptc = data.draw(st.lists(st.floats(0, 1e30), min_size=len(ftc), max_size=len(ftc)))
    f, p = torch.tensor(ftc, dtype=torch.float64), torch.tensor(ptc, dtype=torch.float64)
    ratio, rest = metrics.contribution_ratio(f, p), metrics.contribution_ratio(p, f)
    assert ((ratio >= 0) & (ratio <= 1)).all()
    both = (f + p) > 0
    torch.testing.assert_close((ratio + rest)[both], torch.ones_like(ratio)[both])
