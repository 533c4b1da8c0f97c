"""TuCo against training steps: the curves above, what was logged below them on the same steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.errors import InputError
from tuco_lens.plots import Curve, Steps
from tuco_lens.plots.template import LOOKS

HOSTILE = "</script><b>$x$ %{y}\u202e"
STEPS = [0, 10, 40]
LOG = [
    {"step": 20, "loss": 1.5, "learning_rate": 2e-5, "grad_norm": 3.0, "epoch": 0.5},
    {"step": 10, "loss": 2.0, "learning_rate": 4e-5},
    {"step": 20, "eval_loss": 2.5, "eval_runtime": 3.0},
    {"step": 40, "loss": math.nan, "learning_rate": 0.0},
    {"step": 40, "train_runtime": 9.0, "train_loss": 1.7},
]


def curve(name: str = "chat", **fields: Any) -> Curve:
    whole: dict[str, Any] = {"x": STEPS, "y": [0.0, 0.1, 0.2], "low": [0.0, 0.05, 0.1], "high": [0.0, 0.2, 0.4]}
    return Curve(name, **(whole | fields))


def steps(*curves: Curve, log: Sequence[Mapping[str, Any]] = LOG, **fields: Any) -> Steps:
    return Steps(curves or (curve(), curve("web")), log, **fields)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_group_is_a_line_with_its_band_and_each_panel_has_an_axis_of_its_own(theme: str) -> None:
    figure = steps().figure(theme)  # pyright: ignore[reportArgumentType]
    by_axis: dict[str, list[Any]] = {}
    for trace in figure.data:
        by_axis.setdefault(trace.yaxis, []).append(trace)
    chat, web = (trace for trace in by_axis["y"] if trace.fill is None)
    assert chat.x.tolist() == web.x.tolist() == STEPS
    assert chat.y == pytest.approx(np.float32([0, 0.1, 0.2]))
    assert [trace.fill for trace in by_axis["y"]] == ["toself", "toself", None, None]
    assert [trace.name for trace in by_axis["y2"]] == ["loss, training", "loss, evaluation"]
    assert [trace.name for trace in by_axis["y3"]] == ["learning rate"]
    titles = [getattr(figure.layout, axis).title.text for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["TuCo", "loss", "learning rate"]
    assert figure.layout.template.layout.paper_bgcolor == LOOKS[theme].paper


def test_all_panels_share_the_steps_and_zoom_together() -> None:
    layout = steps().figure().layout
    assert {layout.xaxis.matches, layout.xaxis2.matches, layout.xaxis3.matches} == {None, "x3"}
    assert layout.xaxis3.title.text == "training step"
    tops = [getattr(layout, axis).domain for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert tops == sorted(tops, reverse=True)


def test_the_log_is_read_in_the_order_of_its_steps() -> None:
    at, values = steps().logged("loss")
    assert at.tolist() == [10, 20, 40]
    assert values[:2].tolist() == [2.0, 1.5]
    assert math.isnan(values[2])
    assert [part.tolist() for part in steps().logged("eval_loss")] == [[20], [2.5]]
    assert [len(part) for part in steps().logged("never")] == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(-9, 9)), max_size=20))
def test_what_was_logged_comes_back_sorted_whatever_its_order(points: list[tuple[int, float]]) -> None:
    at, values = steps(log=[{"step": step, "loss": loss} for step, loss in points]).logged("loss")
    assert list(zip(at, values, strict=True)) == sorted(points, key=lambda point: point[0])


def test_what_was_not_logged_has_no_panel() -> None:
    assert {trace.yaxis for trace in steps(log=()).figure().data} == {"y"}
    only_rate = steps(log=[{"step": 1, "learning_rate": 1e-4}]).figure()
    assert [getattr(only_rate.layout, axis).title.text for axis in ("yaxis", "yaxis2")] == ["TuCo", "learning rate"]
    assert only_rate.layout.height < steps().figure().layout.height
    assert "evaluation" not in only_rate.layout.title.subtitle.text
    assert "evaluation" in steps().figure().layout.title.subtitle.text


def test_refinements_give_new_objects_over_the_same_log() -> None:
    whole = steps()
    part = whole.only("web").clip(0, 0.5)
    assert [each.name for each in part.curves] == ["web"]
    assert part.log is whole.log
    assert list(part.figure().layout.yaxis.range) == [0, 0.5]
    assert part.figure().layout.showlegend is False
    assert len(whole.curves) == 2
    assert whole.low is None
    with pytest.raises(InputError, match="no curve 'code'"):
        whole.only("code")
    with pytest.raises(InputError, match="cannot clip"):
        whole.clip(1, 0)


def test_a_large_step_is_told_to_its_last_digit() -> None:
    line = steps(curve(x=[0, 12_345, 123_456])).figure().data[1]
    assert "%{x:d}" in line.hovertemplate
    assert line.x.tolist() == [0, 12_345, 123_456]


@pytest.mark.parametrize("x", [[0, 10, 10], [10, 0, 40], [-1, 0, 1], [0, math.nan, 1]])
def test_steps_that_do_not_ascend_are_refused(x: list[float]) -> None:
    with pytest.raises(InputError, match="they do not ascend from 0"):
        steps(curve(x=x))


@pytest.mark.parametrize("value", ["1.5", b"1", [1.0], {"a": 1}, True, HOSTILE])
def test_what_is_no_number_is_refused_in_a_log(value: Any) -> None:
    with pytest.raises(InputError, match="cannot draw the log: its loss is"):
        steps(log=[{"step": 1, "loss": value}])
    assert len(steps(log=[{"step": 1, "loss": 1.0, "note": value}]).figure().data) == 5


def test_records_without_a_step_or_a_value_are_left_out() -> None:
    log = [{"loss": 1.0}, {"step": 1, "loss": None}, {"step": 2, "loss": 3.0}]
    assert [part.tolist() for part in steps(log=log).logged("loss")] == [[2.0], [3.0]]


def test_no_curves_are_refused() -> None:
    with pytest.raises(InputError, match="no curves"):
        Steps(())


def test_names_from_outside_are_drawn_as_they_are() -> None:
    figure = steps(curve(HOSTILE), curve("b"), y_name=HOSTILE, title=HOSTILE, interval=HOSTILE).figure()
    told = [figure.layout.to_plotly_json(), [(trace.name, trace.meta) for trace in figure.data]]
    drawn = json.dumps(told, ensure_ascii=False)
    assert "<b>$" not in drawn
    assert "\u202e" not in drawn
    assert all("%{y}" not in (trace.hovertemplate or "") for trace in figure.data)
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)
