"""Maps, differences and profiles in a real browser: they draw, say what they should, run nothing they quote."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.heatmap import large_map
from tests.chromium import NEEDS_CHROMIUM, Visit
from tests.measurements import HOSTILE, a_measurement
from tuco_lens.plots import Curve, Grid, LayerProfile, LayerTokenMap, Steps, difference
from tuco_lens.plots.token_axis import MAX_LABELLED

pytestmark = NEEDS_CHROMIUM
Visiting = Callable[..., Visit]
ELEMENTS = "document.querySelectorAll('.js-plotly-plot *').length"
WORDS = tuple(f"word {i}" for i in range(100))
ROLES = ("template", "system", "system", "user", "user", "user", "assistant", "template")


def a_map(tokens: tuple[str, ...] = tuple("abcdefgh"), n_layers: int = 4, **fields: Any) -> LayerTokenMap:
    generator = torch.Generator().manual_seed(0)
    share, total = (torch.rand(n_layers, len(tokens), generator=generator) for _ in range(2))
    ids = tuple(range(70, 70 + len(tokens)))
    return LayerTokenMap(share, tokens, token_ids=ids, ptc=(1 - share) * total, ftc=share * total, **fields)


def a_grid(rows: tuple[str, ...], columns: tuple[str, ...], **fields: Any) -> Grid:
    values = torch.rand(len(rows), len(columns), generator=torch.Generator().manual_seed(0))
    return Grid(values, rows, columns, "tune", "prompt", low=values - 0.01, high=values + 0.01, **fields)


def some_steps(*names: str) -> Steps:
    curves = tuple(Curve(name, [0, 10, 40], [0, 0.1, 0.2], [0, 0.05, 0.1], [0, 0.2, 0.3]) for name in names)
    log = [{"step": step, "loss": 3 - step / 20, "learning_rate": 5e-5 - step * 1e-6} for step in range(0, 45, 5)]
    return Steps(curves, [*log, {"step": 20, "eval_loss": 2.5}, {"step": 40, "eval_loss": 1.5}])


def opened(visit: Visiting, folder: Path, figure: Any, width: int = 1280) -> Visit:
    """The figure on a page of its own, drawn."""
    file = folder / "figure.html"
    figure.write_html(file, include_plotlyjs=True)
    page = visit(file, width)
    page.page.locator(".heatmaplayer image, .scatterlayer .trace").first.wait_for()
    return page


def pointed_at(page: Visit, across: float, up: float) -> str:
    """The hover text at a place of the map, both from 0 to 1."""
    page.page.mouse.move(0, 0)
    page.page.locator(".hovertext").wait_for(state="detached")  # that of the place before
    box = page.page.locator(".nsewdrag").first.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] * (1 - up))
    page.page.locator(".hovertext").wait_for()
    return page.page.locator(".hovertext").text_content()


def labels(page: Visit) -> list[str]:
    return page.page.locator(".xtick text").all_text_contents()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_figures_draw_without_network_and_without_complaint(
    tmp_path: Path, visit: Visiting, width: int, theme: Any
) -> None:
    profile = a_measurement([tuple("abc"), tuple("de")]).layer_profile()
    some = a_map(roles=ROLES)
    grid = a_grid(("a", "b", "c"), WORDS, groups=("chat",) * 60 + ("text",) * 40)
    for statistic in (some, some.minus(a_map(tuple("abxdegh"))), profile, grid, some_steps("chat", "text")):
        page = opened(visit, tmp_path, statistic.figure(theme), width)
        assert page.overflow() == 0
        page.assert_innocent()


def test_pointing_at_a_cell_says_token_id_position_role_layer_and_values(tmp_path: Path, visit: Visiting) -> None:
    some = a_map(roles=ROLES)
    page = opened(visit, tmp_path, some.figure())
    words = pointed_at(page, 3.5 / 8, 2.5 / 4)
    assert some.ptc is not None
    assert some.ftc is not None
    for part in ("position 3, id 73, user: d", "layer 2", f"TuCo so far {some.values[2, 3]:.4f}"):
        assert part in words
    for name, norms in (("ΣPTC", some.ptc), ("ΣFTC", some.ftc)):
        assert f"‖{name}‖₁ {norms[2, 3].item():.4g}"[:12] in words


def test_a_part_of_a_map_says_the_numbers_of_the_whole(tmp_path: Path, visit: Visiting) -> None:
    some = a_map(roles=ROLES)
    page = opened(visit, tmp_path, some.layers(1, 3).tokens(4, 6).figure())
    words = pointed_at(page, 0.25, 0.75)
    assert "position 4, id 74, user: e" in words
    assert "layer 2" in words
    assert f"{some.values[2, 4]:.4f}" in words


def test_the_numbers_of_a_large_map_read_as_numbers(tmp_path: Path, visit: Visiting) -> None:
    large = large_map(chat=True)
    page = opened(visit, tmp_path, large.figure())
    words = pointed_at(page, 1000.5 / 2000, 10.5 / 32)
    position = int(words.removeprefix("position ").split(",")[0])
    assert abs(position - 1000) <= 2
    assert "layer 10" in words
    assert f"TuCo so far {large.values[10, position].item():.4f}" in words
    assert "‖ΣPTC‖₁ + ‖ΣFTC‖₁" in words
    page.assert_innocent()


def test_a_large_map_is_one_image_and_as_many_elements_as_a_small_one(tmp_path: Path, visit: Visiting) -> None:
    small, large = (
        opened(visit, tmp_path, large_map(chat=True, n_tokens=n).figure()).page.evaluate(ELEMENTS) for n in (250, 2000)
    )
    assert large <= 1.5 * small  # seconds are printed by `benchmarks/heatmap.py`


def test_labels_are_as_many_as_the_width_holds(tmp_path: Path, visit: Visiting) -> None:
    figure = a_map(tuple(f"w{i}" for i in range(100))).figure()
    many, few = (labels(opened(visit, tmp_path, figure, width)) for width in (1280, 390))
    assert len(few) < len(many) < 100
    assert all(label.startswith("w") for label in many + few)


def test_zooming_in_shows_more_labels(tmp_path: Path, visit: Visiting) -> None:
    page = opened(visit, tmp_path, a_map(tuple(f"w{i}" for i in range(200))).figure())
    page.page.evaluate("Plotly.relayout(document.querySelector('.js-plotly-plot'), {'xaxis.range': [99.5, 109.5]})")
    page.page.locator(".xtick text", has_text="w105").wait_for()
    assert set(labels(page)) == {f"w{i}" for i in range(100, 110)}


@pytest.mark.parametrize("n_tokens", [1, 40, MAX_LABELLED, 2000])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_label_overlaps_another(tmp_path: Path, visit: Visiting, n_tokens: int, width: int) -> None:
    roles = tuple(role for role in ROLES for _ in range(n_tokens // len(ROLES) + 1))[:n_tokens]
    page = opened(visit, tmp_path, a_map(tuple(f" w{i}" for i in range(n_tokens)), roles=roles).figure(), width)
    boxes = [box.bounding_box() for box in page.page.locator(".xtick text").all()]
    for left, right in itertools.pairwise(boxes):
        assert left["x"] + left["width"] <= right["x"] + 2  # px; the boxes have some air of their own
    names = [box.bounding_box() for box in page.page.locator(".annotation-text").all()]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            apart_x = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
            assert apart_x or one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]


@pytest.mark.parametrize("width", [1280, 390])
def test_titles_are_not_cut(tmp_path: Path, visit: Visiting, width: int) -> None:
    gaps = torch.rand(20, 4)
    gaps[0, 0] = torch.nan
    names = ("a name of many characters", "another name as long as that")
    drawn = [
        a_map(kind="local", roles=ROLES).figure(),
        difference(a_map(), a_map(tuple("abxyzh")), names=names).figure(),
        LayerProfile({names[0]: gaps, names[1]: gaps[:1]}).figure(),
    ]
    for figure in drawn:
        page = opened(visit, tmp_path, figure, width)
        for text in page.page.locator(".gtitle, .gtitle-subtitle, .legendtext").all():
            box = text.bounding_box()
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= width


def test_hostile_tokens_and_names_are_shown_as_text_and_nothing_runs(tmp_path: Path, visit: Visiting) -> None:
    some = a_map(HOSTILE, roles=("<img src=x onerror='window.ran=1'>",) * len(HOSTILE))
    drawn = [
        some.figure(),
        difference(some, a_map((*HOSTILE[:-3], "new")), names=(HOSTILE[0], HOSTILE[1])).figure(),
        LayerProfile({name: torch.rand(2, 3) for name in HOSTILE if name.isprintable()}).figure(),
        a_grid(HOSTILE, HOSTILE, groups=HOSTILE, texts=[HOSTILE] * len(HOSTILE)).figure(),
        some_steps(*HOSTILE[:5]).figure(),
    ]
    for figure in drawn:
        page = opened(visit, tmp_path, figure)
        for across in (0.02, 0.5, 0.97):
            box = page.page.locator(".nsewdrag").first.bounding_box()
            page.page.mouse.move(box["x"] + box["width"] * across, box["y"] + box["height"] / 2)
            page.page.wait_for_timeout(100)
        assert page.page.locator("svg a, svg image[href^='x'], svg script, svg foreignObject").count() == 0
        page.assert_innocent()


def test_labels_and_hover_texts_show_markup_as_it_is(tmp_path: Path, visit: Visiting) -> None:
    page = opened(visit, tmp_path, a_map(("<b>x</b>", "&lt;", "$x^2$", "a<br>b", "%{y}", "\x00")).figure())
    assert labels(page) == ["<b>x</b>", "&lt;", "$x^2$", "a<br>b", "%{y}", "␀"]
    for column, token in enumerate(["<b>x</b>", "&lt;", "$x^2$", "a<br>b", "%{y}", "␀"]):
        assert f": {token}layer" in pointed_at(page, (column + 0.5) / 6, 0.4)


def test_pointing_at_a_cell_of_a_grid_says_both_labels_whole_with_value_and_interval(
    tmp_path: Path, visit: Visiting
) -> None:
    columns = ("<b>one</b>", "%{y}", "the same", "the same", "a label that is longer than the axis has room for")
    grid = a_grid(("first & last", "second"), columns)
    page = opened(visit, tmp_path, grid.figure())
    values = torch.as_tensor(grid.values)
    for row, column in ((0, 0), (0, 1), (1, 3), (1, 4)):
        value = values[row, column].item()
        words = pointed_at(page, (column + 0.5) / len(columns), 0.75 - row / 2)
        assert words.startswith(f"tune {grid.rows[row]}")
        assert f"prompt {column}: {columns[column]}TuCo {value:.4f}95 % interval" in words  # some labels recur
        assert words.endswith(f"95 % interval {value - 0.01:.4f} to {value + 0.01:.4f}")


def test_labels_of_a_grid_show_markup_as_it_is_and_those_that_recur_stay_apart(tmp_path: Path, visit: Visiting) -> None:
    names = ("<b>x</b>", "&lt;", "$x^2$", "a<br>b", "%{y}", "same", "same")
    page = opened(visit, tmp_path, a_grid(names, names).figure())
    assert labels(page) == list(names)
    assert page.page.locator(".ytick text").all_text_contents() == list(reversed(names))  # from below
    page.assert_innocent()


def test_a_grid_of_many_prompts_labels_as_many_as_there_is_room_for(tmp_path: Path, visit: Visiting) -> None:
    figure = a_grid(("a", "b"), tuple(f"word {i}" for i in range(300))).figure()
    many, few = (labels(opened(visit, tmp_path, figure, width)) for width in (1280, 390))
    assert 2 <= len(few) < len(many) < 300


def test_zooming_in_on_steps_zooms_in_every_panel(tmp_path: Path, visit: Visiting) -> None:
    page = opened(visit, tmp_path, some_steps("chat").figure())
    box = page.page.locator(".nsewdrag").first.bounding_box()  # that of TuCo
    y = box["y"] + box["height"] / 2
    page.page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.75, y, steps=5)
    page.page.mouse.up()
    page.page.wait_for_timeout(300)
    layout = "document.querySelector('.js-plotly-plot')._fullLayout"
    ranges = [page.page.evaluate(f"{layout}.xaxis{number}.range") for number in ("", 2, 3)]
    assert ranges[0] == ranges[1] == ranges[2]
    assert ranges[0][0] > 10


def test_a_figure_offers_no_upload(tmp_path: Path, visit: Visiting) -> None:
    page = opened(visit, tmp_path, a_map().figure()).page
    titles = page.locator(".modebar-btn").evaluate_all("buttons => buttons.map(b => b.dataset.title)")
    assert any("Download" in title for title in titles)
    assert not any("Share" in title or "loud" in title for title in titles)
