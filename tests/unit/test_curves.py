"""Curves with bands: traces hold values, intervals and n; gaps are gaps; a generation's curve tells its tokens."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from tuco_lens.errors import InputError
from tuco_lens.plots.curves import Curve, Curves, generation_curve
from tuco_lens.plots.lines import MAX_BANDS, TITLE_CHARACTERS, band, legend_below, legend_text, title_lines
from tuco_lens.plots.template import LOOKS
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.steering.generation import Generation
from tuco_lens.steering.scaling import scaling_settings

HOSTILE = "</script><b>$x$ %{y}\u202e"
X = [1, 2, 4, 8]


def curve(name: str = "a", **fields: Any) -> Curve:
    whole: dict[str, Any] = {
        "x": X,
        "y": [0.4, 0.3, 0.2, 0.1],
        "low": [0.3, 0.2, 0.1, 0.0],
        "high": [0.5, 0.4, 0.3, 0.2],
    }
    return Curve(name, **(whole | fields))


def curves(*each: Curve, **fields: Any) -> Curves:
    return Curves(each or (curve(),), "shots", **fields)


def lines(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.fill is None]


def areas(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if trace.fill == "toself"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_traces_hold_values_intervals_and_n(theme: str) -> None:
    drawn = curves(curve(n=[9, 9, 8, 7]), curve("b", n=4))
    figure = drawn.figure(theme)  # pyright: ignore[reportArgumentType]
    line, other = lines(figure)
    assert line.x.tolist() == X
    assert line.y == pytest.approx(np.float32([0.4, 0.3, 0.2, 0.1]))
    assert (line.name, other.name) == ("a (n = 7 to 9)", "b (n = 4)")
    assert line.customdata[2] == "<br>0.1 to 0.3<br>n = 8"
    assert areas(figure)[0].x.tolist() == [*X, *X[::-1]]
    assert areas(figure)[0].y == pytest.approx(np.float32([0.5, 0.4, 0.3, 0.2, 0.0, 0.1, 0.2, 0.3]))
    assert line.y.dtype == np.float32
    assert [trace.fill for trace in figure.data] == ["toself", "toself", None, None]  # no band lies on a line
    assert figure.layout.template.layout.paper_bgcolor == LOOKS[theme].paper


def test_axes_have_names_units_and_powers_of_two() -> None:
    layout = curves(x_unit="examples", y_name="refusals", y_unit="%", log2=True).figure().layout
    assert layout.xaxis.title.text == "shots (examples)"
    assert layout.yaxis.title.text == "refusals (%)"
    assert layout.title.text == "refusals against shots"
    assert layout.xaxis.type == "log"
    assert list(layout.xaxis.tickvals) == X
    assert list(layout.xaxis.ticktext) == ["1", "2", "4", "8"]
    with pytest.raises(InputError, match="an x is not above 0"):
        curves(curve(x=[0, 1, 2, 4]), log2=True)


def test_a_missing_value_is_a_gap_in_line_and_band_and_is_said() -> None:
    nan = math.nan
    gap = curve(y=[0.4, nan, 0.2, 0.1], low=[0.3, nan, 0.1, 0.0], high=[0.5, nan, 0.3, 0.2])
    figure = curves(gap).figure()
    (line,), (area,) = lines(figure), areas(figure)
    assert np.isnan(line.y).tolist() == [False, True, False, False]
    assert not line.connectgaps
    assert area.x.tolist()[:2] == [1, 1]
    assert np.isnan(area.x[2])
    assert area.x.tolist()[3:] == [4, 8, 8, 4]
    assert line.customdata[1] == ""
    assert "1 of 4 values missing" in figure.layout.title.subtitle.text


def test_a_band_without_a_known_point_is_drawn_as_nothing() -> None:
    nothing = np.full(3, np.nan)
    area = band(np.arange(3.0), nothing, nothing, "#000000", LOOKS["light"])
    assert np.isnan(area.x).all()


def test_one_point_is_marked_and_one_curve_needs_no_legend() -> None:
    figure = curves(Curve("a", [1.0], [0.2], n=3), x_reference=1.0, reference=0.1).figure()
    assert lines(figure)[0].mode == "lines+markers"
    assert figure.layout.showlegend is False
    assert "a (n = 3)" in figure.layout.title.subtitle.text
    assert len(figure.layout.shapes) == 2


def test_with_many_curves_the_intervals_are_in_the_hover_text_alone() -> None:
    figure = curves(*(curve(f"c{i}") for i in range(MAX_BANDS + 1))).figure()
    assert areas(figure) == []
    assert "95 % intervals in the hover text" in figure.layout.title.subtitle.text
    styles = {(line.line.color, line.line.dash) for line in lines(figure)}
    assert len(styles) == MAX_BANDS + 1


def test_null_controls_are_grey_bands() -> None:
    null = Curve("noise", X, [0.2] * 4, low=[0.1] * 4, high=[0.3] * 4, n=3)
    figure = curves(nulls=(null,)).figure()
    assert areas(figure)[0].fillcolor == LOOKS["light"].quiet
    assert areas(figure)[0].name == "null, noise (n = 3)"
    other = Curve("shuffled", X, [0.4] * 4, low=[0.3] * 4, high=[0.5] * 4, n=3)
    shapes = [area.fillpattern.shape for area in areas(curves(nulls=(null, other)).figure())[:2]]
    assert shapes == [None, "/"], "two in the same grey could not be told apart"
    with pytest.raises(InputError, match="has no band"):
        curves(nulls=(curve(low=None, high=None),))


def test_refinements_give_new_objects() -> None:
    whole = curves(curve("a"), curve("b"))
    part = whole.only("b").clip(0, 1)
    assert [each.name for each in part.curves] == ["b"]
    assert list(part.figure().layout.yaxis.range) == [0, 1]
    assert len(whole.curves) == 2
    assert whole.low is None
    with pytest.raises(FrozenInstanceError):
        part.low = 0.1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="no curve 'c'"):
        whole.only("c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": [], "y": []}, "it is empty"),
        ({"y": [0.1]}, "4 x and 1 y"),
        ({"low": [0.1]}, "4 x and 1 low"),
        ({"high": None}, "it has one end"),
        ({"n": [1, 2]}, "4 x and 2 n"),
        ({"notes": ["a"]}, "4 x and 1 notes"),
    ],
)
def test_curves_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        curve(**fields)


def test_no_curves_are_refused() -> None:
    with pytest.raises(InputError, match="no curves"):
        Curves((), "x")


def test_names_from_outside_are_drawn_as_they_are() -> None:
    figure = Curves((curve(HOSTILE, notes=[HOSTILE] * 4), curve("b")), HOSTILE, HOSTILE, HOSTILE, HOSTILE).figure()
    told = [figure.layout.to_plotly_json(), [(t.name, t.meta, list(t.customdata or ())) for t in figure.data]]
    drawn = json.dumps(told, ensure_ascii=False)
    assert "<b>$" not in drawn
    assert "\u202e" not in drawn
    assert "&lt;b&gt;&#36;x" in drawn
    assert all("%{y}" not in (trace.hovertemplate or "") for trace in figure.data)
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)


def test_the_legend_breaks_long_lines_and_has_room_for_them() -> None:
    assert legend_text("a", "AUC 0.5") == "a: AUC 0.5"
    long = legend_text("a" * 30, "b" * 30)
    assert long == "a" * 30 + ":<br>" + "b" * 30
    heights = [legend_below(texts, 400)["height"] for texts in ((), ("a",), (long,), (long, long))]
    assert heights[0] == 400
    assert heights == sorted(heights)
    assert len(set(heights)) == 4


def test_a_long_title_goes_on_below_in_pieces_that_a_phone_shows_whole() -> None:
    assert title_lines("TuCo against shots") == ["TuCo against shots"]
    assert title_lines("Web text and chat: chat against " + "w" * 20) == [
        "Web text and chat",
        "chat against " + "w" * 20,
    ]
    for title in ("word " * 40, "x" * 300, HOSTILE * 9, ""):
        assert all(len(piece) <= TITLE_CHARACTERS * 5 for piece in title_lines(title))  # "&" is "&amp;"
    layout = curves(title="a long title: " + "that goes on and on " * 3).figure().layout
    assert layout.title.text == "a long title"
    assert layout.title.subtitle.text.startswith("that goes on")


# Along a generation


def generation(
    alpha: float | list[float] = 1.0, tokens: tuple[str, ...] = ("a", " b"), tuco: bool = True
) -> Generation:
    settings = scaling_settings(alpha, 2)
    profile = torch.arange(2.0 * len(tokens)).reshape(2, -1) / 10 if tuco else None
    prompt = Prompt("p", (1,), ("p",), ("text",))
    probability = torch.full((len(tokens),), 0.5)
    return Generation(
        prompt, settings, "".join(tokens), tuple(range(len(tokens))), tokens, probability, profile, "length"
    )


def test_the_curve_of_a_generation_holds_tuco_and_tells_each_token() -> None:
    drawn = generation_curve(generation(tokens=("a", " b", HOSTILE)))
    (line,) = lines(drawn.figure())
    assert line.x.tolist() == [0, 1, 2]
    assert line.y == pytest.approx(np.float32([0.3, 0.4, 0.5]))
    assert line.customdata[1] == "<br>·b"
    assert "&lt;b&gt;&#36;" in line.customdata[2]
    assert "\u202e" not in line.customdata[2]


def test_generations_go_by_their_alpha_or_by_the_names_given() -> None:
    several = [generation(0.5), generation(1.0), generation(1.0), generation([0.5, 1.0])]
    assert [c.name for c in generation_curve(several).curves] == ["α 0.5", "α 1 (1)", "α 1 (2)", "α by layer"]
    assert [c.name for c in generation_curve({"x": several[0]}).curves] == ["x"]


def test_one_token_is_drawn_and_none_or_no_tuco_is_refused() -> None:
    assert lines(generation_curve(generation(tokens=("a",))).figure())[0].mode == "lines+markers"
    with pytest.raises(InputError, match="it is empty"):
        generation_curve(generation(tokens=()))
    with pytest.raises(InputError, match="has no TuCo"):
        generation_curve(generation(tuco=False))
    with pytest.raises(InputError, match="no curves"):
        generation_curve([])
