"""Statistics of scores: closed cases, slow plain loops, and methods against one another on random data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm, ttest_rel
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score

from tuco_lens import stats
from tuco_lens.errors import InputError
from tuco_lens.stats import Paired
from tuco_lens.stats.areas import SMALL_CLASS, _delong, _delong_components, _newcombe
from tuco_lens.stats.classes import classes_of
from tuco_lens.stats.resampling import resampled_aucs, resampled_curves, resampled_tprs

# Few different values, so that ties are common.
scores = hnp.arrays(np.float64, st.integers(1, 15), elements=st.integers(-3, 3).map(float))


def draw(seed: int, n_positive: int = 80, n_negative: int = 60, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(effect, 1, n_positive), generator.normal(0, 1, n_negative)


def plain_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    won = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(sum(won) / len(won))


# AUC


@given(scores, scores)
def test_the_auc_is_the_share_of_pairs_in_order_with_ties_counting_half(pos: np.ndarray, neg: np.ndarray) -> None:
    found = stats.auc(pos, neg)
    labels = np.repeat([1, 0], [len(pos), len(neg)])
    assert found.value == pytest.approx(plain_auc(pos, neg), abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(labels, np.concatenate([pos, neg])), abs=1e-12)


@given(scores, scores, st.sampled_from(["delong", "bootstrap"]))
@settings(max_examples=60)
def test_exchanging_the_classes_mirrors_the_auc_and_its_interval(pos: np.ndarray, neg: np.ndarray, method: str) -> None:
    one = stats.auc(pos, neg, method=method, n_resamples=50)  # pyright: ignore[reportArgumentType]
    other = stats.auc(neg, pos, method=method, n_resamples=50)  # pyright: ignore[reportArgumentType]
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.value == pytest.approx(1 - other.value)
    if method == "delong":  # the bootstrap draws for the positives first
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


@given(scores, scores)
@settings(max_examples=60)
def test_only_the_order_of_the_scores_matters(pos: np.ndarray, neg: np.ndarray) -> None:
    assert stats.auc(pos, neg) == stats.auc(np.exp(pos) - 7, np.exp(neg) - 7)


@given(
    hnp.arrays(np.float64, st.integers(2, 12), elements=st.integers(-3, 3).map(float)),
    hnp.arrays(np.float64, st.integers(2, 12), elements=st.integers(-3, 3).map(float)),
)
def test_delongs_variance_is_that_of_a_slow_plain_loop(pos: np.ndarray, neg: np.ndarray) -> None:
    m, n, theta = len(pos), len(neg), plain_auc(pos, neg)
    above = [sum((p > q) + 0.5 * (p == q) for q in neg) / n for p in pos]
    below = [sum((p > q) + 0.5 * (p == q) for p in pos) / m for q in neg]
    variance = sum((v - theta) ** 2 for v in above) / (m - 1) / m + sum((v - theta) ** 2 for v in below) / (n - 1) / n
    assert _delong(classes_of(pos, neg)).variance == pytest.approx(variance, abs=1e-12)


@given(st.integers(0, 50), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=40)
def test_delongs_variance_of_a_difference_is_that_of_the_covariances(seed: int, m: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = (classes_of(generator.integers(0, 5, m), generator.integers(0, 5, n)) for _ in range(2))
    covariance = np.zeros((2, 2))
    for size, parts in zip((m, n), zip(_delong_components(one), _delong_components(other), strict=True), strict=True):
        for i, j in itertools.product(range(2), repeat=2):
            products = [(a - parts[i].mean()) * (b - parts[j].mean()) for a, b in zip(parts[i], parts[j], strict=True)]
            covariance[i, j] += sum(products) / (size - 1) / size
    wanted = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert _delong(one, other).variance == pytest.approx(wanted, abs=1e-12)


def test_delongs_variance_on_a_worked_example() -> None:
    # Positives 2 and 4, negatives 1 and 3: shares 1/2, 1 and 1, 1/2, so each variance is 1/8, halved, and added.
    assert _delong(classes_of([2, 4], [1, 3])).variance == pytest.approx(1 / 8)
    assert stats.auc([2, 4], [1, 3]).value == 0.75


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0, 1.5])
def test_delong_and_bootstrap_give_nearly_the_same_interval(effect: float) -> None:
    for seed in range(4):
        pos, neg = draw(seed, 200, 150, effect)
        one, other = stats.auc(pos, neg), stats.auc(pos, neg, method="bootstrap", seed=seed)
        assert (one.method, other.method) == ("delong", "bootstrap")
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.012)
        one, other = stats.auc(pos[:20], neg), stats.auc(pos[:20], neg, method="bootstrap", seed=seed)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.08)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (5, 100), (12, 12), (12, 500), (60, 60)])
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.97])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(m: int, n: int, truth: float) -> None:
    effect = norm.ppf(truth) * math.sqrt(2)
    found = [stats.auc(*draw(seed, m, n, effect)) for seed in range(200)]
    covered = sum(auc.low <= truth <= auc.high for auc in found)
    assert covered >= 176  # 190 are expected, with a standard error of 3; with three against three it is below 95 %
    assert all(auc.high - auc.low < 1 for auc in found)


def test_the_bootstrap_resamples_within_each_class() -> None:
    pos, neg = draw(1, 15, 10)
    generator = np.random.default_rng(8)
    by_hand = [plain_auc(generator.choice(pos, 15), generator.choice(neg, 10)) for _ in range(1500)]
    drawn = resampled_aucs([classes_of(pos, neg)], 4000, 0)[0]
    assert drawn.mean() == pytest.approx(np.mean(by_hand), abs=0.01)
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.04)


@given(scores, scores, st.integers(0, 5))
@settings(max_examples=40)
def test_every_resample_agrees_with_a_slow_plain_loop(pos: np.ndarray, neg: np.ndarray, seed: int) -> None:
    generator = np.random.default_rng(seed)
    indices = [generator.integers(0, size, (6, size)) for size in (len(pos), len(neg))]
    classes, grid = classes_of(pos, neg), np.linspace(0, 1, 5)
    aucs = resampled_aucs([classes], 6, seed)[0]
    tprs, curves = resampled_tprs(classes, 0.3, 6, seed), resampled_curves(classes, grid, 6, seed)
    for i, (p, q) in enumerate(zip(pos[indices[0]], neg[indices[1]], strict=True)):
        assert aucs[i] == pytest.approx(plain_auc(p, q))
        thresholds = [math.inf, *sorted({*p, *q}, reverse=True)]
        corners = [(float((q >= t).mean()), float((p >= t).mean())) for t in thresholds]
        assert tprs[i] == pytest.approx(max(tpr for fpr, tpr in corners if fpr <= 0.3))
        assert curves[i] == pytest.approx([plain_height(corners, x) for x in grid])


def plain_height(corners: list[tuple[float, float]], x: float) -> float:
    """The ROC curve at `x`, from its corners in their order."""
    left = [corner for corner in corners if corner[0] <= x][-1]
    right = next((corner for corner in corners if corner[0] > x), left)
    return left[1] + (right[1] - left[1]) * (x - left[0]) / max(right[0] - left[0], 1e-9)


def test_chunks_of_resamples_have_the_right_number_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pos, neg = draw(2, 30, 20)
    monkeypatch.setattr("tuco_lens.stats.resampling._CHUNK", 170)  # three rows of 50 at a time
    drawn = resampled_aucs([classes_of(pos, neg), classes_of(-pos, -neg)], 10, 0)
    assert drawn.shape == (2, 10)
    assert drawn[0] == pytest.approx(1 - drawn[1])
    assert len(set(drawn[0])) > 5


def test_same_seed_same_numbers_and_another_seed_others() -> None:
    pos, neg = draw(3)
    first, again, other = (stats.auc(pos, neg, method="bootstrap", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low
    assert stats.tpr_at_fpr(pos, neg, seed=1) == stats.tpr_at_fpr(pos, neg, seed=1)


def test_p_is_that_of_the_exact_test_for_few_scores() -> None:
    assert stats.auc([4, 5, 6], [1, 2, 3]).p == pytest.approx(2 / math.comb(6, 3))
    assert stats.auc([1], [0]).p == 1.0


# AUC: the ends of what can be said


@pytest.mark.parametrize("method", ["delong", "bootstrap"])
def test_where_no_score_is_out_of_order_the_interval_still_has_a_width_that_shrinks_with_n(method: str) -> None:
    lows = []
    for n in (1, 2, 10, 100, 1000):
        found = stats.auc(np.arange(n) + n, np.arange(n), method=method)  # pyright: ignore[reportArgumentType]
        assert (found.value, found.high, found.method) == (1.0, 1.0, "newcombe")
        lows.append(found.low)
        mirrored = stats.auc(np.arange(n), np.arange(n) + n, method=method)  # pyright: ignore[reportArgumentType]
        assert (mirrored.low, mirrored.high) == pytest.approx((0.0, 1 - found.low))
    assert lows == sorted(lows)
    assert lows[0] < 0.5 < lows[2] < lows[4] < 0.999


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
@settings(max_examples=60)
def test_newcombes_interval_solves_its_equation(m: int, n: int, value: float) -> None:
    low, high = _newcombe(value, classes_of(np.zeros(m), np.zeros(n)), 0.95)
    assert 0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1
    for theta in {low, high} - {0.0, 1.0}:
        spread = 1 + ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        assert abs(value - theta) == pytest.approx(1.95996 * math.sqrt(theta * (1 - theta) * spread / m / n), abs=1e-5)


def test_of_one_against_one_newcombes_interval_is_wilsons_of_one_in_one() -> None:
    assert stats.auc([1], [0]).low == pytest.approx(stats.rate_interval(1, 1)[0])


@given(st.integers(1, 5), st.integers(1, 5), st.floats(-5, 5), st.sampled_from(["delong", "bootstrap"]))
def test_where_all_scores_are_equal_the_auc_is_undefined_and_says_so(m: int, n: int, score: float, method: str) -> None:
    found = stats.auc([score] * m, [score] * n, method=method)  # pyright: ignore[reportArgumentType]
    assert (found.value, found.low, found.high, found.p) == (0.5, 0.0, 1.0, 1.0)
    assert found.verdict == "undefined"
    assert not found.is_defined
    assert found.summary() == f"AUC undefined: all scores are equal (n = {m} positive and {n} negative)."
    assert "undefined" in found.label


@pytest.mark.parametrize("method", ["delong", "bootstrap"])
def test_one_score_in_a_class_gives_an_interval_that_says_little(method: str) -> None:
    found = stats.auc([1.5], [0, 1, 2, 3], method=method)  # pyright: ignore[reportArgumentType]
    assert found.method == "newcombe"
    assert found.verdict == "no separation shown"
    assert found.high - found.low > 0.5


@given(scores, scores)
@settings(max_examples=60)
def test_no_interval_has_no_width(pos: np.ndarray, neg: np.ndarray) -> None:
    for method in ("delong", "bootstrap"):
        found = stats.auc(pos, neg, method=method, n_resamples=20)
        assert found.high - found.low > 0.2


@given(scores, scores, st.sampled_from(["delong", "bootstrap"]))
@settings(max_examples=80)
def test_nothing_is_said_to_separate_that_the_exact_test_does_not(
    pos: np.ndarray, neg: np.ndarray, method: str
) -> None:
    found = stats.auc(pos, neg, method=method, n_resamples=20)  # pyright: ignore[reportArgumentType]
    if found.p >= 0.05:
        assert found.low <= 0.5 <= found.high
        assert found.verdict in ("no separation shown", "undefined")


def test_three_in_order_against_three_are_not_shown_to_be_separated_and_four_against_four_are() -> None:
    assert stats.auc([4, 5, 6], [1, 2, 3]).verdict == "no separation shown"
    assert stats.auc([5, 6, 7, 8], [1, 2, 3, 4]).verdict == "separates"


def test_a_small_class_widens_the_interval_and_a_large_one_does_not() -> None:
    pos, neg = draw(4, SMALL_CLASS - 1, 200)
    few = stats.auc(pos, neg)
    low, high = _newcombe(few.value, classes_of(pos, neg), 0.95)
    assert few.low <= low
    assert few.high >= high


@pytest.mark.parametrize(
    ("pos", "neg", "message"),
    [
        ([], [1.0], "no positive scores"),
        ([1.0], [], "no negative scores"),
        ([1.0, math.nan], [1.0], "positive scores are not all finite: 1 of 2 are NaN or infinite"),
        ([1.0], [math.inf], "negative scores are not all finite"),
        (["a"], [1.0], "are no numbers"),
    ],
)
def test_empty_classes_and_scores_that_are_no_numbers_are_refused(
    pos: list[float], neg: list[float], message: str
) -> None:
    for function in (stats.auc, stats.tpr_at_fpr, stats.roc_points, stats.roc_band):
        with pytest.raises(InputError, match=message):
            function(pos, neg)
    with pytest.raises(InputError, match=message):
        stats.auc_difference((pos, neg), (pos, neg))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InputError, match="method is 'wald'"):
        stats.auc([1], [0], method="wald")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="confidence is 95"):
        stats.auc([1], [0], confidence=95)
    with pytest.raises(InputError, match="n_resamples is 0"):
        stats.tpr_at_fpr([1], [0], n_resamples=0)
    with pytest.raises(InputError, match="fpr is 5"):
        stats.tpr_at_fpr([1], [0], 5)


def test_tensors_are_scores_too() -> None:
    pos, neg = draw(5)
    assert stats.auc(torch.tensor(pos), torch.tensor(neg)) == stats.auc(pos, neg)


def test_more_confidence_gives_a_wider_interval() -> None:
    for method in ("delong", "bootstrap"):
        wide, narrow = (stats.auc(*draw(6), method=method, confidence=c) for c in (0.99, 0.8))
        assert wide.low < narrow.low < narrow.high < wide.high
    wide, narrow = (stats.tpr_at_fpr(*draw(6), confidence=c) for c in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_summary_says_no_more_than_the_interval_allows() -> None:
    pos, neg = draw(7, effect=2)
    assert "separates, scores are higher for chat than for web" in stats.auc(pos, neg).summary("chat", "web")
    assert "reversed, scores are lower for web than for chat" in stats.auc(neg, pos).summary("web", "chat")
    unclear = stats.auc(*draw(8, 20, 20, effect=0.1))
    assert unclear.low < 0.5 < unclear.high
    assert "no separation shown, the interval contains 0.5" in unclear.summary()
    assert "separates" not in unclear.summary()
    for found in (stats.auc(pos, neg), unclear):
        assert f"n = {found.n_positive} positive and {found.n_negative} negative" in found.summary()
        assert f"{found.value:.3f}" in found.summary()
        assert "95 % interval" in found.summary()


@given(st.floats(0, 1), st.floats(0, 0.3))
def test_a_written_interval_contains_the_interval(low: float, width: float) -> None:
    found = stats.Auc(low, low, min(1.0, low + width), 0.95, 0.5, 9, 9, "delong")
    ends = found.label.split("[")[1].split("]")[0].split(", ")
    assert float(ends[0]) <= found.low + 1e-11
    assert float(ends[1]) >= found.high - 1e-11


# Differences of AUCs


def paired(seed: int, n: int = 120, noise: float = 1.0) -> tuple[Paired, Paired]:
    generator = np.random.default_rng(1000 + seed)
    pos, neg = draw(seed, n, n)
    return (pos, neg), (pos + generator.normal(0, noise, n), neg + generator.normal(0, noise, n))


def test_the_difference_and_its_interval_change_sign_with_the_order() -> None:
    for seed in range(3):
        first, second = paired(seed)
        one, other = stats.auc_difference(first, second), stats.auc_difference(second, first)
        assert one.value == one.first.value - one.second.value
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
        assert one.p == pytest.approx(other.p)


def test_delong_and_bootstrap_agree_on_differences() -> None:
    for seed in range(5):
        first, second = paired(seed)
        one = stats.auc_difference(first, second)
        other = stats.auc_difference(first, second, method="bootstrap")
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.01)
        assert one.p == pytest.approx(other.p, abs=0.02)


def test_pairing_makes_the_interval_narrower_than_that_of_independent_prompts() -> None:
    first, second = paired(0, noise=0.3)
    found = stats.auc_difference(first, second)
    apart = math.hypot(found.first.high - found.first.low, found.second.high - found.second.low)
    assert found.high - found.low < 0.6 * apart


def test_a_difference_of_0_is_left_out_of_the_interval_about_as_seldom_as_it_says() -> None:
    missed = 0
    for seed in range(200):
        generator = np.random.default_rng(1000 + seed)
        pos, neg = draw(seed, 40, 40)
        first, second = ((pos + generator.normal(0, 1, 40), neg + generator.normal(0, 1, 40)) for _ in range(2))
        found = stats.auc_difference(first, second)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        missed += found.p < 0.05
    assert 1 <= missed <= 22


def test_a_score_against_itself_differs_by_exactly_0() -> None:
    first, _ = paired(1)
    for method in ("delong", "bootstrap"):
        found = stats.auc_difference(first, first, method=method)
        assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
        assert found.verdict == "no difference shown"


def test_the_difference_of_two_perfect_scores_still_has_an_interval() -> None:
    first, second = ([3, 4], [1, 2]), ([30, 40], [2, 1])
    for method in ("delong", "bootstrap"):
        found = stats.auc_difference(first, second, method=method)
        assert (found.value, found.method, found.p) == (0.0, "newcombe", 1.0)
        assert found.low < -0.3
        assert found.high > 0.3


def test_a_perfect_score_against_a_coin_is_higher_and_its_p_fits_its_interval() -> None:
    pos, neg = np.arange(100) + 100, np.arange(100)
    found = stats.auc_difference((pos, neg), draw(9, 100, 100, effect=0))
    assert found.method == "newcombe"
    assert found.verdict == "first is higher"
    assert found.low > 0
    assert found.p < 0.05
    assert found.high <= 1


def test_the_difference_to_a_constant_score_is_undefined_and_names_it() -> None:
    found = stats.auc_difference(([1, 2], [0, 1]), ([5, 5], [5, 5]))
    assert found.verdict == "undefined"
    assert (found.low, found.high, found.p) == (-1.0, 1.0, 1.0)
    assert "undefined: length is constant" in found.summary("TuCo", "length")


def test_scores_of_other_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="the first has 2 positive scores and the second 1"):
        stats.auc_difference(([1, 2], [0]), ([1], [0]))


# TPR at a false positive rate, and ROC curves


@given(scores, scores, st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0]))
def test_tpr_at_fpr_is_the_best_of_all_thresholds_that_keep_to_it(pos: np.ndarray, neg: np.ndarray, fpr: float) -> None:
    found = stats.tpr_at_fpr(pos, neg, fpr, n_resamples=20)
    thresholds = [math.inf, *pos, *neg]
    wanted = max((pos >= t).mean() for t in thresholds if (neg >= t).mean() <= fpr)
    assert found.value == pytest.approx(wanted)
    assert (pos >= found.threshold).mean() == pytest.approx(wanted)
    assert (neg >= found.threshold).mean() <= fpr
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.1  # at most 15 positives


def test_the_interval_of_tpr_is_that_of_resampling_by_hand() -> None:
    pos, neg = draw(10, 60, 60, effect=1.5)
    generator, drawn = np.random.default_rng(0), []
    for _ in range(2000):
        p, q = generator.choice(pos, 60), np.sort(generator.choice(neg, 60))
        drawn.append((p > q[-4]).mean())  # three of sixty may lie above the threshold
    found = stats.tpr_at_fpr(pos, neg)
    wanted = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.03)


def test_where_nothing_overlaps_tpr_has_wilsons_interval() -> None:
    found = stats.tpr_at_fpr(np.arange(20) + 100, np.arange(30))
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(stats.rate_interval(20, 20)[0]), 1.0)


def test_the_roc_curve_goes_up_for_positives_right_for_negatives_and_slanted_for_ties() -> None:
    points = stats.roc_points([3, 2, 1], [2, 0])
    assert points.fpr.tolist() == [0, 0, 0.5, 0.5, 1]
    assert points.tpr.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


@given(scores, scores)
@settings(max_examples=40)
def test_the_area_under_the_roc_curve_is_the_auc(pos: np.ndarray, neg: np.ndarray) -> None:
    points = stats.roc_points(pos, neg)
    assert area(points.fpr, points.tpr) == pytest.approx(stats.auc(pos, neg).value)


@given(scores, scores)
@settings(max_examples=20)
def test_the_band_holds_the_curve(pos: np.ndarray, neg: np.ndarray) -> None:
    points, band = stats.roc_points(pos, neg), stats.roc_band(pos, neg, n_points=11, n_resamples=20)
    curve = np.interp(band.fpr, points.fpr, points.tpr)
    assert (band.low <= curve + 1e-9).all()
    assert (band.high >= curve - 1e-9).all()
    assert band.low.min() >= 0
    assert band.high.max() <= 1


def test_the_band_is_narrower_with_more_scores_and_agrees_with_tpr_at_fpr() -> None:
    few, many = (stats.roc_band(*draw(11, n, n)) for n in (30, 600))
    assert (many.high - many.low).mean() < 0.5 * (few.high - few.low).mean()
    pos, neg = draw(11, 600, 600)
    at_five, rate = np.flatnonzero(np.isclose(many.fpr, 0.05))[0], stats.tpr_at_fpr(pos, neg, 0.05)
    assert (many.low[at_five], many.high[at_five]) == pytest.approx((rate.low, rate.high), abs=0.01)


# Shares, means, trends, several tests


def test_the_wilson_interval_on_a_worked_example() -> None:
    # z = 1.96, 8 of 10: centre (0.8 + z²/20)/(1 + z²/10), half width z·√(0.016 + z²/400)/(1 + z²/10).
    assert stats.rate_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    found = stats.rate(8, 10)
    assert (found.value, found.n) == (0.8, 10)
    assert found.label == "0.800 [0.490, 0.944], n = 10"


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_shares_are_refused(k: int, n: int) -> None:
    with pytest.raises(InputError, match="no share of"):
        stats.rate_interval(k, n)


def test_the_interval_of_a_mean_is_students() -> None:
    found = stats.mean_interval([1, 2, 3, 4])
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t at 0.975 with 3 degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half), abs=1e-5)
    assert found.n == 4


def test_a_single_value_has_a_mean_and_no_interval() -> None:
    found = stats.mean_interval([3.0])
    assert found.value == 3.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.label == "3.000 (no interval), n = 1"
    assert stats.mean_interval([3.0, 3.0]).low == 3.0


@given(st.lists(st.tuples(*[st.integers(-30, 30).map(float)] * 2), min_size=2, max_size=30))
def test_a_paired_difference_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    found = stats.paired_difference(first, second)
    assert found.value == pytest.approx((first - second).mean())
    if np.ptp(first - second) > 1e-6 * np.abs(first - second).max():
        test = ttest_rel(first, second)
        low, high = test.confidence_interval()
        assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, low, high), rel=1e-6, abs=1e-9)
    mirrored = stats.paired_difference(second, first)
    assert (mirrored.value, mirrored.low, mirrored.high, mirrored.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )


def test_a_paired_difference_of_equal_or_single_cases_claims_nothing() -> None:
    equal = stats.paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (equal.value, equal.p) == (0.0, 1.0)
    single = stats.paired_difference([1.0], [0.0])
    assert single.value == 1.0
    assert math.isnan(single.p)
    assert math.isnan(single.low)
    with pytest.raises(InputError, match="2 and 3 values"):
        stats.paired_difference([1, 2], [1, 2, 3])


def test_a_summary_of_values_counts_the_missing() -> None:
    found = stats.summarise([1.0, math.nan, 3.0, 2.0, math.nan])
    assert (found.n, found.n_missing, found.mean, found.minimum, found.median, found.maximum) == (3, 2, 2, 1, 2, 3)
    assert (found.q25, found.q75) == (1.5, 2.5)
    with pytest.raises(InputError, match="no values"):
        stats.summarise([math.nan])


def test_a_trend_says_no_more_than_its_interval_allows() -> None:
    generator = np.random.default_rng(0)
    x = np.repeat([1, 2, 4, 8], 20)
    assert stats.trend(x, -np.log(x) + generator.normal(0, 0.2, 80)).verdict == "falls"
    assert "TuCo rises with shots" in stats.trend(x, x).summary("TuCo", "shots")
    unclear = stats.trend(x, generator.normal(size=80))
    assert unclear.low < 0 < unclear.high
    assert "no trend of y with x shown, the interval contains 0" in unclear.summary()


def test_a_perfect_order_of_few_points_shows_no_trend_and_of_many_does() -> None:
    for n, verdict in ((2, "no trend shown"), (3, "no trend shown"), (4, "no trend shown"), (8, "rises")):
        found = stats.trend(range(n), range(n))
        assert (found.value, found.high, found.verdict) == (pytest.approx(1), pytest.approx(1), verdict)
        assert found.low < 0.9
    assert stats.trend(range(4), range(4)).p == pytest.approx(2 / math.factorial(4))


def test_a_trend_of_what_does_not_vary_is_undefined() -> None:
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5]), ([1], [1])):
        found = stats.trend(x, y)
        assert found.verdict == "undefined"
        assert "No trend" in found.summary()
    with pytest.raises(InputError, match="3 x and 2 y"):
        stats.trend([1, 2, 3], [1, 2])


def test_the_trends_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 6 / math.pi * math.asin(0.5 / 2)  # Spearman's ρ of normal variables that correlate by 0.5
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=40)
        found = stats.trend(x, 0.5 * x + math.sqrt(0.75) * generator.normal(size=40))
        covered += found.low <= truth <= found.high
    assert 178 <= covered < 200


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-9, 1)))
def test_holm_is_never_below_the_raw_values_and_keeps_their_order(p: np.ndarray) -> None:
    corrected = stats.holm(p)
    assert (corrected >= p).all()
    assert (corrected <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert corrected[order[0]] == pytest.approx(min(1, p.min() * len(p)))


def test_holm_leaves_out_what_is_no_test() -> None:
    with_gaps = stats.holm(np.array([np.nan, 0.01, 0.04, np.nan, 0.03, 0.005]))
    assert with_gaps == pytest.approx([np.nan, 0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)


def test_holm_on_a_worked_example() -> None:
    assert stats.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
