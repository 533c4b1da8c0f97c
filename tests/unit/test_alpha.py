"""α by layer and positions, as users give them: every form means the same, and what means nothing is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.errors import InputError
from tuco_lens.steering.alpha import PositionFilter, finite_alpha, layer_alphas, position_filter

VALUES = st.floats(-3, 3)


@given(VALUES, st.integers(1, 40))
def test_a_number_is_that_number_at_every_layer(alpha: float, n_layers: int) -> None:
    assert layer_alphas(alpha, n_layers) == (alpha,) * n_layers


@given(st.lists(VALUES, min_size=1, max_size=20))
def test_list_function_and_mapping_say_the_same(values: list[float]) -> None:
    n = len(values)
    expected = tuple(values)
    assert layer_alphas(values, n) == expected
    assert layer_alphas(values.__getitem__, n) == expected
    assert layer_alphas(dict(enumerate(values)), n) == expected
    assert layer_alphas({i - n: value for i, value in enumerate(values)}, n) == expected


@given(st.data(), st.integers(1, 20), VALUES)
def test_a_mapping_of_ranges_leaves_the_other_layers_at_one(data: st.DataObject, n: int, value: float) -> None:
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    expected = tuple(value if start <= layer < stop else 1.0 for layer in range(n))
    assert layer_alphas({range(start, stop): value}, n) == expected
    if stop > start:
        assert layer_alphas({range(start - n, stop - n): value}, n) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "0.5", "x", 1j, [1.0], {}])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"alpha of layer 3 is .*: it is not a finite number; give one"):
        finite_alpha(value, " of layer 3")


@given(
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(-15, 15)),
    st.one_of(st.none(), st.integers(-15, 15)),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_a_slice_within_the_prompt_is_pythons_own(
    n: int, start: int | None, stop: int | None, step: int | None
) -> None:
    positions = slice(start, stop, step)
    expected = set(range(n)[positions])
    assert position_filter(positions).selects(0, n, n) == [position in expected for position in range(n)]


FORMS = st.one_of(
    st.none(),
    st.sampled_from(["prompt", "generated"]),
    st.builds(slice, st.integers(-8, 20), st.integers(-8, 20), st.integers(1, 3)),
    st.builds(slice, st.none(), st.none(), st.integers(1, 3)),
    st.lists(st.integers(-4, 3), max_size=4),
)


@given(FORMS, st.integers(4, 8), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_passes_one_after_another_select_what_one_pass_does(positions: Any, n_prompt: int, steps: list[int]) -> None:
    chosen = position_filter(positions)
    end = n_prompt + sum(steps)
    whole = chosen.selects(0, end, n_prompt)
    parts, at = chosen.selects(0, n_prompt, n_prompt), n_prompt
    for step in steps:
        parts += chosen.selects(at, at + step, n_prompt)
        at += step
    assert parts == whole


def test_prompt_and_generated_share_the_positions_out() -> None:
    prompt, generated = (position_filter(part).selects(0, 9, 4) for part in ("prompt", "generated"))
    assert prompt == [True] * 4 + [False] * 5
    assert generated == [not at for at in prompt]


def test_padding_on_the_left_is_no_position() -> None:
    """Rows of a padded batch begin at negative positions."""
    for positions in ("generated", slice(0, 2), [0, 1], slice(-3, None), [-3]):
        assert position_filter(positions).selects(-3, 0, 3) == [False] * 3


def test_a_range_means_its_numbers() -> None:
    assert position_filter(range(1, 4)).selects(0, 6, 6) == position_filter(slice(1, 4)).selects(0, 6, 6)
    assert position_filter(range(-2, 0)).selects(0, 6, 6) == position_filter([-2, -1]).selects(0, 6, 6)
    assert position_filter(range(-3, -1)).selects(0, 6, 6) == position_filter([-3, -2]).selects(0, 6, 6)


def test_only_no_positions_at_all_are_everything() -> None:
    assert position_filter(None) == PositionFilter()
    assert position_filter(None).is_everything
    assert not any(position_filter(p).is_everything for p in ("prompt", slice(None), [], [0]))


def test_the_name_of_a_role_is_the_list_of_its_tokens() -> None:
    roles: Any = ("template", "system", "template", "user", "user", "template")
    assert position_filter("user", roles) == PositionFilter(listed=(3, 4))
    assert position_filter("template", roles) == PositionFilter(listed=(0, 2, 5))
    assert position_filter("prompt", roles) == PositionFilter(part="prompt")
    for role, words in (("assistant", "the prompt has no such token; give"), ("usr", "there are prompt, generated, ")):
        with pytest.raises(InputError, match=words):
            position_filter(role, roles)  # pyright: ignore[reportArgumentType]
