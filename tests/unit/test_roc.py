"""ROC figures: traces hold the curve and its band, the legend says AUC, interval and n, nulls are grey."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from tuco_lens import stats
from tuco_lens.errors import InputError
from tuco_lens.plots.roc import MAX_ROC_BANDS, NULL_POINTS, Roc, roc
from tuco_lens.plots.template import LOOKS
from tuco_lens.stats import Paired

HOSTILE = "</script><b>$x$ %{y}\u202e"
OPTIONS: dict[str, Any] = {"n_resamples": 50}


def pair(seed: int = 0, effect: float = 1.0) -> Paired:
    generator = np.random.default_rng(seed)
    return generator.normal(effect, 1, 30), generator.normal(0, 1, 20)


def lines(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.fill is None]


def areas(figure: Any) -> list[Any]:
    return [trace for trace in figure.data if trace.fill == "toself"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_line_holds_the_curve_and_the_area_its_band(theme: str) -> None:
    figure = roc({"TuCo": pair()}, **OPTIONS).figure(theme)  # pyright: ignore[reportArgumentType]
    (line,), (area,) = lines(figure), areas(figure)
    points, band = stats.roc_points(*pair()), stats.roc_band(*pair(), n_resamples=50)
    assert line.x == pytest.approx(points.fpr)
    assert line.y == pytest.approx(points.tpr)
    assert line.customdata[1:] == pytest.approx(points.threshold[1:])
    n = len(band.fpr)
    assert area.y[:n] == pytest.approx(band.high)
    assert area.y[n:] == pytest.approx(band.low[::-1])
    assert area.legendgroup == line.legendgroup
    assert {line.x.dtype, line.y.dtype, area.y.dtype} == {np.dtype("float32")}
    assert figure.layout.template.layout.paper_bgcolor == LOOKS[theme].paper


def test_no_auc_is_in_the_legend_without_its_interval_and_n() -> None:
    figure = roc({"TuCo": pair(), "length": ([1, 1], [1, 1])}, **OPTIONS).figure()
    found = stats.auc(*pair())
    assert lines(figure)[0].name == f"TuCo: {found.label}"
    assert found.label.startswith("AUC 0.")
    assert found.label.endswith("], n = 30 + 20")
    assert "AUC undefined, all scores equal, n = 2 + 2" in lines(figure)[1].name
    assert "95 % intervals" in figure.layout.title.subtitle.text


def test_ties_across_the_classes_make_the_curve_slanted() -> None:
    (line,) = lines(roc({"tied": ([1, 2, 2], [2, 0])}, **OPTIONS).figure())
    assert line.x.tolist() == [0, 0.5, 0.5, 1]
    assert line.y.tolist() == pytest.approx([0, 2 / 3, 1, 1])


def test_constant_scores_are_the_diagonal() -> None:
    (line,) = lines(roc({"constant": ([1], [1, 1])}, **OPTIONS).figure())
    assert (line.x.tolist(), line.y.tolist()) == ([0, 1], [0, 1])


def test_of_many_scores_the_first_alone_has_its_band_and_this_is_said() -> None:
    many = {f"score {i}": pair(i) for i in range(MAX_ROC_BANDS + 1)}
    figure = roc(many, **OPTIONS).figure()
    assert len(lines(figure)) == len(many)
    assert [area.legendgroup for area in areas(figure)] == ["score 0"]
    assert "pointwise band of score 0" in figure.layout.title.subtitle.text
    assert len({line.line.color for line in lines(figure)}) == len(many)


def test_null_controls_are_grey_bands_of_what_their_runs_reach() -> None:
    runs = [pair(seed, effect=0) for seed in range(5)]
    drawn = roc({"TuCo": pair()}, nulls={"noise": runs, "none": []}, **OPTIONS)
    (null,) = drawn.nulls
    curves = [np.interp(null.fpr, (p := stats.roc_points(*run)).fpr, p.tpr) for run in runs]
    assert null.low == pytest.approx(np.min(curves, axis=0))
    assert null.high == pytest.approx(np.max(curves, axis=0))
    values = [stats.auc(*run).value for run in runs]
    assert (null.auc_low, null.auc_high) == pytest.approx((min(values), max(values)))
    area = areas(drawn.figure())[0]
    assert area.fillcolor == LOOKS["light"].quiet
    numbers = f"AUC {min(values):.3f} to {max(values):.3f}, 5 runs, n = {len(runs[0][0])} + {len(runs[0][1])}"
    assert area.name.replace("<br>", " ") == f"null, noise: {numbers}"
    assert area.y[:NULL_POINTS] == pytest.approx(null.high)


def test_a_single_null_run_is_drawn_as_a_line() -> None:
    area = areas(roc({"TuCo": pair()}, nulls={"noise": [pair(1, effect=0)]}, **OPTIONS).figure())[0]
    assert (area.line.width, area.opacity) == (1.5, 1)


def test_of_many_null_runs_the_middle_95_percent_are_drawn() -> None:
    runs = [pair(seed, effect=0) for seed in range(100)]
    (null,) = roc({"TuCo": pair()}, nulls={"permuted": runs}, **OPTIONS).nulls
    values = sorted(stats.auc(*run).value for run in runs)
    assert (null.auc_low, null.auc_high) == pytest.approx((values[2], values[97]))


def test_refinements_give_new_objects() -> None:
    whole = roc({"a": pair(), "b": pair(1)}, nulls={"noise": [pair(2)]}, **OPTIONS)
    part = whole.only("b")
    assert [line.name for line in part.lines] == ["b"]
    assert len(whole.lines) == 2
    assert part.nulls == whole.nulls
    with pytest.raises(FrozenInstanceError):
        part.title = "x"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="no ROC curve of 'c'"):
        whole.only("c")


def test_no_scores_empty_classes_and_missing_scores_are_refused() -> None:
    with pytest.raises(InputError, match="no ROC curves"):
        roc({})
    with pytest.raises(InputError, match="no ROC curves"):
        Roc(())
    with pytest.raises(InputError, match="no negative scores"):
        roc({"TuCo": ([1.0], [])})
    with pytest.raises(InputError, match="not all finite: 1 of 2"):
        roc({"TuCo": ([1.0, float("nan")], [0.0])})


def test_names_from_outside_are_drawn_as_they_are() -> None:
    figure = roc({HOSTILE: pair()}, nulls={HOSTILE: [pair(1)]}, title=HOSTILE, **OPTIONS).figure()
    told = [figure.layout.to_plotly_json(), [(trace.name, trace.meta) for trace in figure.data]]
    drawn = json.dumps(told, ensure_ascii=False)
    assert "<b>$" not in drawn
    assert "\u202e" not in drawn
    assert "&lt;b&gt;&#36;x" in drawn
    assert all(HOSTILE[-6:-1] not in (trace.hovertemplate or "") for trace in figure.data)
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)
