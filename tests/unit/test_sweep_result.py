"""What a sweep returns: its tables, its figures with hostile names, and that a file gives back what was saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuco_lens.errors import InputError, OutputError
from tuco_lens.plots.sweep import MAX_BANDS, pairs_figure
from tuco_lens.sweep import SweepResult
from tuco_lens.sweep.result import SweepSettings, TaskResult

ALPHAS = (0.5, 1.0, 1.5)
SETTINGS = SweepSettings("b", "t", "hooked", "float32", "sha256:0", "8", "ftc", ALPHAS, 5, 0, "0.1.0")
HOSTILE = "</script><b>$x$ %{y}\u202e"


def task(name: str = "t", group: str = "g", n: int = 20, seed: int = 0) -> TaskResult:
    draw = np.random.default_rng(seed)
    return TaskResult(name, group, draw.integers(0, 2, n), draw.integers(-1, 2, (3, n)))


def result(*tasks: TaskResult) -> SweepResult:
    return SweepResult(tasks or (task(),), SETTINGS)


def helped(name: str, group: str = "g") -> TaskResult:
    """Wrong at 0.5 and at 1 but for the first ten questions, right at 1.5."""
    targets = np.zeros(60, dtype=int)
    chosen = np.ones((3, 60), dtype=int)
    chosen[1, :10] = 0
    chosen[2] = 0
    return TaskResult(name, group, targets, chosen)


def test_a_row_of_the_accuracy_table_counts_right_answers_and_those_that_chose_none() -> None:
    found = result(task("a", "x"), task("b", "y", seed=1), task("c", "x", n=9, seed=2))
    frame = found.to_frame()
    assert list(zip(frame["task"], frame["alpha"], strict=True)) == [(t, a) for t in "abc" for a in ALPHAS]
    for i, row in enumerate(frame.to_dict("records")):
        chosen, targets = found.tasks[i // 3].chosen[i % 3], found.tasks[i // 3].targets
        assert row["n_correct"] == sum(c == t for c, t in zip(chosen, targets, strict=True))
        assert row["n_none"] == sum(c == -1 for c in chosen)
        assert row["accuracy"] == row["n_correct"] / row["n"]
        assert row["low"] < row["accuracy"] < row["high"]
    groups = found.to_frame("group")
    assert groups["n"].tolist() == [29] * 3 + [20] * 3
    summed = frame[frame["group"] == "x"].groupby("alpha")["n_correct"].sum()
    assert groups[groups["group"] == "x"]["n_correct"].tolist() == summed.tolist()


def test_a_file_without_a_record_of_where_it_was_made_is_still_read(tmp_path: Path) -> None:
    made = replace(SETTINGS, environments=({"threads": 2}, {"threads": 1}))
    path = SweepResult((task(),), made).save(tmp_path / "sweep.json")
    assert SweepResult.load(path).settings == made
    content = json.loads(path.read_text())
    del content["settings"]["environments"]
    path.write_text(json.dumps(content))
    assert SweepResult.load(path).settings == SETTINGS


def test_an_answer_that_is_none_is_wrong_even_where_it_would_be_the_index_of_the_last() -> None:
    none = TaskResult("t", "g", np.array([1]), np.array([[-1], [-1], [1]]))
    assert none.correct.tolist() == [[False], [False], [True]]
    assert result(none).correctness["t"].shape == (3, 1)


def test_cross_validation_finds_the_alpha_that_helps_and_corrects_for_the_number_of_tasks() -> None:
    frame = result(helped("a"), helped("b"), task("c", n=60)).cross_validated()
    row = frame.iloc[0]
    assert row["accuracy"] == pytest.approx(1 / 6)
    assert row["max_delta"] == pytest.approx(5 / 6)
    assert row["max_alphas"] == (1.5,) * 5
    assert row["min_delta"] == pytest.approx(-1 / 6)
    assert row["min_alphas"] == (0.5,) * 5
    assert row["max_p_holm"] == pytest.approx(3 * row["max_p"])
    assert (frame["min_p_holm"] >= frame["min_p"]).all()


def test_a_group_pools_the_questions_of_its_tasks_each_with_its_own_alpha() -> None:
    found = result(helped("a", "x"), task("b", "x", n=30), task("c", "y"))
    by_task, by_group = found.cross_validated(), found.cross_validated("group")
    assert by_group["group"].tolist() == ["x", "y"]
    pooled = (60 * by_task["max_delta"][0] + 30 * by_task["max_delta"][1]) / 90
    assert by_group["max_delta"][0] == pytest.approx(pooled)
    assert "max_alphas" not in by_group
    assert by_group["min_delta"][1] == pytest.approx(by_task["min_delta"][2])


def test_the_numbers_of_a_task_do_not_depend_on_the_tasks_beside_it() -> None:
    alone = result(task("b", seed=1)).cross_validated().iloc[0]
    among = result(task("a"), task("b", seed=1), task("c", seed=2)).cross_validated().iloc[1]
    columns = [name for name in alone.index if not name.endswith("holm")]
    assert alone[columns].tolist() == among[columns].tolist()


@given(st.lists(st.integers(5, 12), min_size=1, max_size=3), st.integers(0, 3))
@settings(max_examples=15)
def test_a_file_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("saved") / "sweep.json"
    saved = result(*(task(f"t{i}{HOSTILE}", HOSTILE, n, seed) for i, n in enumerate(sizes)))
    loaded = SweepResult.load(saved.save(path))
    assert loaded.settings == saved.settings
    for one, other in zip(loaded.tasks, saved.tasks, strict=True):
        assert (one.name, one.group, one.n_shots_dropped) == (other.name, other.group, other.n_shots_dropped)
        assert (one.chosen == other.chosen).all()
        assert (one.targets == other.targets).all()
    assert loaded.cross_validated().equals(saved.cross_validated())
    assert [file.name for file in path.parent.iterdir()] == ["sweep.json"]


def test_files_that_are_no_sweep_are_refused(tmp_path: Path) -> None:
    path = result().save(tmp_path / "sweep.json")
    whole = json.loads(path.read_text())
    short = {**whole, "tasks": [{**whole["tasks"][0], "targets": [0]}]}
    cases: dict[str, Any] = {
        "cannot read": "{",
        "is not a sweep": json.dumps({**whole, "format": "other"}),
        "is damaged": json.dumps({**whole, "tasks": [{"name": "t"}]}),
        "is damaged: the answers to task t": json.dumps(short),
    }
    for message, text in cases.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            SweepResult.load(path)
    with pytest.raises(InputError, match="cannot read"):
        SweepResult.load(tmp_path / "none.json")
    with pytest.raises(OutputError, match="cannot write"):
        result().save(tmp_path / "none" / "sweep.json")


def test_figures_draw_every_task_and_bands_where_they_are_few() -> None:
    few = result(*(task(f"t{i}", seed=i) for i in range(MAX_BANDS)))
    figure = few.accuracy_figure()
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(lines) == MAX_BANDS
    assert len(figure.data) == 2 * MAX_BANDS
    assert list(lines[2].y) == pytest.approx((100 * few.to_frame().query("task == 't2'")["accuracy"]).tolist())
    many = result(*(task(f"t{i}", "xy"[i % 2], seed=i) for i in range(MAX_BANDS + 1)))
    assert len(many.accuracy_figure().data) == MAX_BANDS + 1
    assert len(many.accuracy_figure("group").data) == 4


def test_the_heatmap_has_a_cell_per_task_and_goal_with_stars_where_p_is_small() -> None:
    (heatmap,) = result(helped("a"), task("b")).delta_figure().data
    assert np.shape(heatmap.z) == (2, 2)
    assert heatmap.text[0][0] == "+83.3*"
    assert heatmap.zmin == -heatmap.zmax
    assert not heatmap.text[1][0].endswith("*")


def test_several_pairs_stand_side_by_side_and_what_one_lacks_is_missing() -> None:
    results = {"one": result(helped("a", "x"), task("b", "y")), "two": result(task("b", "y"), task("c", "z"))}
    (heatmap,) = pairs_figure(results).data
    assert np.isnan(heatmap.z).tolist() == [[False, True], [False, False], [True, False]]
    by_task = pairs_figure(results, goal="minimise", by="task")
    assert list(by_task.layout.yaxis.labelalias.values()) == ["a", "b", "c"]
    assert by_task.data[0].z[0][0] == pytest.approx(100 * results["one"].cross_validated()["min_delta"][0])
    with pytest.raises(InputError, match="no results"):
        pairs_figure({})
    with pytest.raises(InputError, match="goal is 'most'"):
        pairs_figure(results, goal="most")  # pyright: ignore[reportArgumentType]


def test_names_from_outside_are_drawn_as_they_are() -> None:
    hostile = result(task(HOSTILE, HOSTILE))
    figures: list[go.Figure] = [
        hostile.accuracy_figure(),
        hostile.accuracy_figure("group"),
        hostile.delta_figure(),
        pairs_figure({HOSTILE: hostile}, by="task"),
    ]
    for figure in figures:
        drawn = json.dumps([figure.layout.to_plotly_json(), [trace.name for trace in figure.data]], ensure_ascii=False)
        assert "<b>$" not in drawn
        assert "\u202e" not in drawn
        assert "&lt;b&gt;&#36;x" in drawn
        assert all(HOSTILE[-6:-1] not in (trace.hovertemplate or "") for trace in figure.data)
        assert "</script><b>" not in figure.to_html(include_plotlyjs=False)


def test_a_result_where_nothing_changes_still_has_colours() -> None:
    same = TaskResult("t", "g", np.zeros(10, dtype=int), np.zeros((3, 10), dtype=int))
    (heatmap,) = result(same).delta_figure().data
    assert heatmap.zmax > 0
    assert result(same).to_frame()["high"].tolist() == pytest.approx([1.0] * 3)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="by is 'pair'"):
        result().to_frame("pair")  # pyright: ignore[reportArgumentType]
