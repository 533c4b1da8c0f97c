"""Labelled grids: cells hold the values, labels stay apart whatever they are, refinements pick rows and columns."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.measurements import HOSTILE
from tuco_lens.errors import InputError
from tuco_lens.plots import Grid
from tuco_lens.plots.template import LOOKS

VALUES = [[0.1, 0.4, 0.3], [0.2, 0.6, 0.5]]
labels = st.lists(st.sampled_from(["a", "b", "0: a", "1: b", "", "<b>", *HOSTILE]), min_size=1, max_size=6)


def grid(values: Any = None, **fields: Any) -> Grid:
    shape = np.shape(VALUES if values is None else values)
    rows, columns = (tuple(f"{name}{i}" for i in range(n)) for name, n in zip("rc", shape, strict=True))
    whole: dict[str, Any] = {"rows": rows, "columns": columns, "row_name": "tune", "column_name": "prompt"}
    return Grid(VALUES if values is None else values, **(whole | fields))


def cells(figure: go.Figure) -> Any:
    return figure.data[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cells_hold_the_values_and_axes_the_labels(theme: str) -> None:
    figure = grid().figure(theme)  # pyright: ignore[reportArgumentType]
    assert cells(figure).z == pytest.approx(np.float32(VALUES))
    assert cells(figure).z.dtype == np.float32
    assert list(cells(figure).x) == ["c0", "c1", "c2"]
    assert list(figure.layout.yaxis.labelalias.values()) == ["r0", "r1"]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("prompt", "tune")
    assert figure.layout.title.text == "TuCo by tune and prompt"
    assert figure.layout.template.layout.paper_bgcolor == LOOKS[theme].paper
    assert figure.layout.plot_bgcolor == LOOKS[theme].missing


def test_the_first_row_is_at_the_top_or_at_the_bottom_where_that_is_asked_for() -> None:
    assert list(grid().figure().layout.yaxis.range) == [1.5, -0.5]
    assert list(grid(upward=True).figure().layout.yaxis.range) == [-0.5, 1.5]


@given(labels, labels)
@settings(max_examples=60)
def test_no_two_labels_fall_together_and_none_is_markup(rows: list[str], columns: list[str]) -> None:
    values = np.zeros((len(rows), len(columns)))
    figure = Grid(values, tuple(rows), tuple(columns)).figure()
    for names, axis, given_labels in (
        (cells(figure).y, figure.layout.yaxis, rows),
        (cells(figure).x, figure.layout.xaxis, columns),
    ):
        assert len(set(names)) == len(given_labels)
        assert set(axis.labelalias) == set(names)
        for text in (*names, *axis.labelalias.values()):
            assert "<" not in text.replace("<br>", "")
            assert "$" not in text
            assert "\u202e" not in text
            assert text


def test_the_hover_text_says_interval_and_note_and_nothing_where_there_is_none() -> None:
    low, high = np.array(VALUES) - 0.01, np.array(VALUES) + 0.01
    low[0, 1] = math.nan
    drawn = grid(low=low, high=high, notes=[["", "", "<b>"], ["", "", ""]])
    said = cells(drawn.figure()).customdata
    assert said[0][0] == "<br>95 % interval 0.0900 to 0.1100"
    assert said[0][1] == ""
    assert said[0][2].endswith("<br>&lt;b&gt;")
    assert cells(drawn.figure()).hovertemplate.endswith("%{z:.4f}%{meta[3]}%{customdata}<extra></extra>")
    bare = cells(grid(form="+.1f", unit="points").figure())
    assert bare.customdata is None
    assert "%{z:+.1f}" in bare.hovertemplate
    assert list(bare.meta) == ["tune ", "prompt ", "TuCo", " points"]


def test_colours_go_from_zero_to_the_largest_value_or_tell_the_sign() -> None:
    assert (cells(grid().figure()).zmin, cells(grid().figure()).zmax) == (0, pytest.approx(0.6))
    signed = cells(grid([[-0.5, 0.2]], diverging=True).figure())
    assert (signed.zmin, signed.zmax) == (-0.5, 0.5)
    assert signed.colorscale[0][1] == LOOKS["light"].diverging[0][1]
    assert cells(grid([[-0.5, 0.2]]).figure()).zmin == -0.5
    clipped = cells(grid().clip(0.1, 0.2).figure())
    assert (clipped.zmin, clipped.zmax) == (0.1, 0.2)
    for diverging in (False, True):
        nothing = cells(grid([[0.0, math.nan]], diverging=diverging).figure())
        assert nothing.zmin < nothing.zmax


def test_missing_values_are_said() -> None:
    assert "1 of 2 values missing" in grid([[0.1, math.nan]]).figure().layout.title.subtitle.text
    assert grid().figure().layout.title.subtitle.text == ""


def test_groups_are_a_band_below_the_grid_and_named_where_there_is_no_room() -> None:
    figure = grid(np.zeros((1, 9)), groups=(*["chat"] * 8, "a long name <b>")).figure()
    band = figure.data[1]
    assert band.z.tolist() == [[0] * 8 + [1]]
    assert [note.text for note in figure.layout.annotations] == ["chat"]
    assert "a long name &lt;b&gt;" in figure.layout.title.subtitle.text
    assert figure.layout.height > grid(np.zeros((1, 9))).figure().layout.height


def test_what_is_written_into_cells_is_text() -> None:
    drawn = cells(grid([[0.5]], texts=[["<b>$x"]]).figure())
    assert drawn.text[0][0] == "&lt;b&gt;&#36;x"
    assert drawn.texttemplate == "%{text}"
    assert cells(grid().figure()).texttemplate is None


@given(st.permutations(range(5)), st.permutations(range(4)))
@settings(max_examples=30)
def test_refinements_take_everything_of_a_cell_along(rows: list[int], columns: list[int]) -> None:
    values = np.random.default_rng(0).random((5, 4))
    names = tuple(str(i) for i in range(5))
    groups = tuple("abcd"[i] for i in range(4))
    texts = [[f"{row}{column}" for column in range(4)] for row in range(5)]
    whole = Grid(values, names, groups, groups=groups, low=values - 1, high=values + 1, texts=texts, notes=texts)
    part = whole.only(*(str(row) for row in rows)).only_groups(*("abcd"[column] for column in columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert part.texts is not None
            assert part.notes is not None
            assert np.asarray(part.values)[i, j] == values[row, column]
            assert np.asarray(part.low)[i, j] == values[row, column] - 1
            assert np.asarray(part.high)[i, j] == values[row, column] + 1
            assert part.texts[i][j] == part.notes[i][j] == f"{row}{column}"
    assert part.rows == tuple(str(row) for row in rows)
    assert part.columns == part.groups == tuple("abcd"[column] for column in columns)
    assert whole.rows == names


def test_rows_of_one_label_are_kept_together() -> None:
    twice = grid(rows=("a", "a")).only("a")
    assert twice.z == pytest.approx(np.float32(VALUES))


def test_ordered_columns_ascend_within_their_group() -> None:
    values = [[3.0, 1.0, math.nan, 2.0, 5.0], [3.0, 1.0, math.nan, 4.0, math.nan]]
    drawn = grid(values, groups=("x", "x", "x", "y", "x")).ordered()
    assert drawn.columns == ("c1", "c0", "c4", "c2", "c3")
    assert drawn.groups == ("x", "x", "x", "x", "y")
    assert grid(values).ordered().columns == ("c1", "c0", "c3", "c4", "c2")


def test_refinements_give_new_objects() -> None:
    whole = grid()
    assert whole.clip(0, 1) is not whole
    assert whole.zmax is None
    with pytest.raises(FrozenInstanceError):
        whole.zmax = 1.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": ("a",)}, r"its shape is \(2, 3\) and there are 1 rows"),
        ({"columns": ("a",)}, "there are 1 columns"),
        ({"groups": ("a",)}, "there are 1 groups"),
        ({"low": VALUES}, "they have one end"),
        ({"low": [0.1], "high": [0.2]}, r"that of low is \(1,\)"),
        ({"texts": [["a"]]}, r"that of texts is \(1, 1\)"),
        ({"notes": [["a"], []]}, "that of notes is uneven"),
        ({"form": "x.y"}, "cannot write numbers as 'x.y'"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(**fields)


def test_nothing_and_unknown_names_are_refused() -> None:
    for values in (np.zeros((0, 3)), np.zeros((2, 0)), np.zeros(3)):
        with pytest.raises(InputError, match="its shape is"):
            Grid(values, (), ())
    with pytest.raises(InputError, match="no row 'r9': there are r0, r1"):
        grid().only("r9")
    with pytest.raises(InputError, match="no group 'x': there are none"):
        grid().only_groups("x")
    with pytest.raises(InputError, match="cannot clip"):
        grid().clip(1, 0)


def test_hostile_words_are_drawn_as_they_are() -> None:
    hostile = "</script><b>$x$ %{y}\u202e"
    words = dict.fromkeys(("row_name", "column_name", "value", "unit", "interval", "title", "remark"), hostile)
    drawn = Grid(
        [[0.5]],
        (hostile,),
        (hostile,),
        **words,
        low=[[0.4]],
        high=[[0.6]],
        groups=(hostile,),
        texts=[[hostile]],
        notes=[[hostile]],
    )
    figure = drawn.figure()
    told = json.dumps(figure.to_plotly_json()["layout"], ensure_ascii=False, default=str)
    trace = cells(figure)
    told += json.dumps([list(trace.meta), *map(str, (trace.text, trace.customdata, trace.x, trace.colorbar.title))])
    assert "<b>" not in told
    assert "\u202e" not in told
    assert hostile[-6:-1] not in trace.hovertemplate
    assert "</script><b>" not in figure.to_html(include_plotlyjs=False)
