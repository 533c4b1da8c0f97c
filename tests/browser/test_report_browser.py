"""The report in a real browser: it draws, links, sorts, filters, fetches nothing, and runs nothing that it quotes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.chromium import NEEDS_CHROMIUM, PATIENCE, Visit
from tests.measurements import HOSTILE, a_measurement
from tests.report_page import Report
from tuco_lens.plots.labels import readable
from tuco_lens.plots.template import LOOKS
from tuco_lens.report.packing import COARSE, FINE, share_error
from tuco_lens.results.measurement import Measurement

pytestmark = NEEDS_CHROMIUM
WORDS = tuple(f" word{i}" for i in range(100))
ABC = (tuple("abcdefgh"), tuple("ijk"), tuple("lmnop"))
Visiting = Callable[..., Visit]


@pytest.fixture
def report(visit: Visiting, tmp_path: Path) -> Callable[..., Report]:
    def opened(measurement: Measurement, width: int = 1280, title: str = "A report") -> Report:
        return Report(visit(measurement.report(tmp_path / "report.html", title=title), width))

    return opened


def with_tuco(measurement: Measurement, values: Sequence[float]) -> Measurement:
    """The measurement with the TuCo of its prompts set to these."""
    for item, value in zip(measurement, values, strict=True):
        item.maps.cumulative_ftc[-1, -1] = value * 100
        item.maps.cumulative_ptc[-1, -1] = (1 - value) * 100
    return measurement


# --- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_draws_without_network_and_without_complaint(report: Callable[..., Report], width: int) -> None:
    opened = report(a_measurement([WORDS, tuple("ab"), ("a",)]), width)
    for index in range(3):
        opened.open(index)
        assert opened.visit.overflow() == 0
    assert not opened.page.locator("#trouble").is_visible()
    opened.visit.assert_innocent()


def test_the_figures_hold_the_measured_numbers(report: Callable[..., Report]) -> None:
    measurement = a_measurement([tuple("abcd"), tuple("ef")], n_layers=5, drift=True)
    opened = report(measurement)
    for index, item in enumerate(measurement):
        opened.open(index)
        token = item.n_tokens - 1
        for i, (kind, steps) in enumerate({"cumulative": FINE, "local": COARSE, "drift": COARSE}.items()):
            opened.page.locator(f"input[value={kind}]").check()
            values = item.layer_token(kind).numpy()
            atol = share_error(values.max(), steps) * 1.01
            assert np.allclose(opened.z(), values, atol=atol, rtol=0)
            assert np.allclose(opened.line(i), values[:, token], atol=atol, rtol=0)
    assert opened.layout("shapes[0].x0", "distribution") == pytest.approx(measurement[1].tuco)
    opened.visit.assert_innocent()


def test_the_address_opens_a_prompt(report: Callable[..., Report]) -> None:
    opened = report(a_measurement(ABC)).drawn()
    assert (opened.number, opened.hash) == ("0", "")
    opened.open(2)
    opened.page.reload()
    opened.until("#number", "2")
    assert opened.drawn().z().shape == (3, 5)
    for other in ("#prompt-3", "#prompt-x", "#prompt-", "#table"):
        opened.page.evaluate(f"location.hash = '{other}'")
    assert opened.number == "2"
    opened.page.evaluate("location.hash = '#prompt-99'")
    opened.page.reload()
    opened.until("#number", "0")
    assert opened.visit.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_measurement_without_prompts_says_so(report: Callable[..., Report], width: int) -> None:
    opened = report(a_measurement([]), width)
    opened.until("p", "No prompts were measured.")
    assert not opened.page.locator("#rows, #viewer, #distribution").first.is_visible()
    opened.visit.assert_innocent()


def test_one_token_in_one_layer_is_a_report(report: Callable[..., Report]) -> None:
    measurement = a_measurement([("a",)], n_layers=1)
    opened = report(measurement).drawn()
    assert opened.z() == pytest.approx(measurement[0].tuco, abs=1e-3)
    opened.page.locator("#strip").press("ArrowRight")
    opened.page.locator("#strip").press("ArrowLeft")
    assert opened.selected_token() == 0
    assert opened.band("selected") == pytest.approx(0.5, abs=0.01)
    opened.visit.assert_innocent()


def test_missing_values_are_left_out_and_said(report: Callable[..., Report]) -> None:
    measurement = with_tuco(a_measurement([tuple("abcd"), tuple("ef")]), [math.nan, 0.5])
    measurement[0].maps.cumulative_ftc[1, :2] = math.nan
    opened = report(measurement).drawn()
    assert np.array_equal(np.isnan(opened.z()), measurement[0].layer_token().isnan().numpy())
    assert opened.page.locator("#missing").text_content().startswith("3 of 12 values missing")
    assert "TuCo missing" in opened.page.locator("#values").text_content()
    assert opened.layout("annotations[0].text") == "TuCo missing ▾"
    opened.page.mouse.move(*opened.at_cell(1, 0))
    opened.until(".hovertext", "TuCo so far missing")
    opened.open(1)
    assert not opened.page.locator("#missing").is_visible()
    opened.visit.assert_innocent()


def test_without_scripts_the_table_is_there_and_nothing_promises_more(browser: Any, tmp_path: Path) -> None:
    file = a_measurement(ABC).report(tmp_path / "report.html")
    page = browser.new_page(java_script_enabled=False)
    page.goto(file.as_uri())
    assert page.locator("#rows tbody tr").count() == 3
    assert page.locator("#rows tbody tr").first.is_visible()
    assert page.locator("noscript p").is_visible()
    for scripted in ("#filters", "#viewer", "#distribution"):
        assert not page.locator(scripted).is_visible()
    page.close()


def test_a_browser_that_cannot_unpack_the_figures_says_so_above_the_table(browser: Any, tmp_path: Path) -> None:
    file = a_measurement(ABC).report(tmp_path / "report.html")
    page = browser.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(file.as_uri())
    page.locator("#trouble", has_text="newer browser").wait_for()
    assert page.locator("#rows tbody tr").first.is_visible()
    page.close()


# --- table ----------------------------------------------------------------------------------------------------------


def test_a_heading_sorts_up_and_then_down_and_says_so(report: Callable[..., Report]) -> None:
    measurement = with_tuco(a_measurement([tuple("ab"), tuple("a"), tuple("abc"), tuple("aa")]), [0.3, 0.1, 0.4, 0.2])
    opened = report(measurement)
    assert opened.shown_rows() == [0, 1, 2, 3]
    assert opened.sort("tuco") == [1, 3, 0, 2]
    heading = opened.page.locator("th[data-column=tuco]")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert opened.sort("tuco") == [2, 0, 3, 1]
    assert heading.get_attribute("aria-sort") == "descending"
    assert opened.sort("preco") == [2, 0, 3, 1]
    assert heading.get_attribute("aria-sort") == "none"
    assert opened.sort("tokens") == [1, 0, 3, 2]  # equal ones in the order of the input
    assert opened.sort("tokens") == [2, 0, 3, 1]
    assert opened.sort("text") == [1, 3, 0, 2]
    assert opened.sort("index") == [0, 1, 2, 3]
    betas = [item.beta for item in measurement]
    assert opened.sort("beta") == sorted(range(4), key=betas.__getitem__)


def test_a_heading_can_be_pressed_with_the_keyboard(report: Callable[..., Report]) -> None:
    opened = report(with_tuco(a_measurement(ABC), [0.3, 0.1, 0.2]))
    opened.page.locator("th[data-column=tuco] button").press("Enter")
    assert opened.shown_rows() == [1, 2, 0]


def test_missing_values_come_last_in_either_order(report: Callable[..., Report]) -> None:
    opened = report(with_tuco(a_measurement(ABC), [math.nan, 0.2, 0.1]))
    assert opened.sort("tuco") == [2, 1, 0]
    assert opened.sort("tuco") == [1, 2, 0]
    assert opened.filter(least="0") == [1, 2]


def test_the_filter_takes_text_as_it_is_whatever_its_case(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([("a.*b", "("), ("aXXb",), ("[c]\\d+",), ("C",), ("x" * 1000 + "end",)]))
    assert opened.filter("a.*b") == [0]
    assert opened.count() == "1 of 5 shown"
    assert opened.filter("(") == [0]
    assert opened.filter("\\d+") == [2]
    assert opened.filter("c") == [2, 3]
    assert opened.filter("xend") == [4]  # behind what the table has room for
    assert opened.filter("nowhere") == []
    assert opened.page.locator("#none").is_visible()
    opened.page.get_by_role("button", name="Clear").click()
    opened.until("#count", "5 of 5 shown")
    assert not opened.page.locator("#none").is_visible()
    opened.visit.assert_innocent()


def test_the_filter_takes_a_range_of_tuco_and_keeps_the_order(report: Callable[..., Report]) -> None:
    opened = report(with_tuco(a_measurement([("a",)] * 4), [0.3, 0.1, 0.4, 0.2]))
    opened.sort("tuco")
    assert opened.filter(least="0.15") == [3, 0, 2]
    assert opened.filter(least="0.15", most="0.35") == [3, 0]
    assert opened.filter(most="0.15") == [1]
    assert opened.filter(least="0.9", most="0.1") == []
    assert opened.filter("a", most="0.35") == [1, 3, 0]
    assert opened.sort("tuco") == [0, 3, 1]


def test_a_bar_of_the_distribution_shows_its_prompts(report: Callable[..., Report]) -> None:
    opened = report(with_tuco(a_measurement([("a",)] * 4), [0.1, 0.1, 0.1, 0.4])).drawn()
    area = opened.page.locator("#distribution .nsewdrag").bounding_box()
    opened.page.mouse.click(area["x"] + area["width"] * 0.95, area["y"] + area["height"] - 5)
    opened.until("#count", "1 of 4 shown")
    assert opened.shown_rows() == [3]


def test_a_click_on_a_row_shows_its_prompt_and_names_it_in_the_address(report: Callable[..., Report]) -> None:
    measurement = a_measurement(ABC)
    opened = report(measurement).drawn()
    opened.page.locator("#rows tbody tr").nth(1).locator("td").nth(3).click()
    opened.until("#number", "1")
    assert opened.hash == "#prompt-1"
    assert opened.page.locator("#rows [aria-selected=true] td:first-child").all_text_contents() == ["1"]
    assert f"TuCo {measurement[1].tuco:.4f}" in opened.page.locator("#values").text_content()
    assert "3 tokens" in opened.page.locator("#values").text_content()
    assert opened.page.locator("#strip span").all_text_contents() == list("ijk")


def test_the_arrow_keys_walk_the_rows_as_they_are_sorted_and_filtered(report: Callable[..., Report]) -> None:
    opened = report(with_tuco(a_measurement([("a",)] * 5), [0.5, 0.1, 0.4, 0.2, 0.3])).drawn()
    opened.sort("tuco")
    opened.filter(most="0.45")
    assert opened.shown_rows() == [1, 3, 4, 2]
    opened.page.locator("#rows tbody tr[tabindex='0']").focus()
    seen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Home", "End", "PageUp"):
        opened.page.keyboard.press(key)
        seen.append(opened.page.evaluate("document.activeElement.cells[0].textContent"))
    assert seen == ["1", "3", "4", "2", "2", "4", "1", "2", "1"]
    opened.until("#number", "1")
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "strip"
    opened.page.locator("#next").click()
    opened.until("#number", "3")
    opened.page.locator("#previous").click()
    opened.until("#number", "1")


def test_tab_goes_from_the_skip_links_to_one_row_and_on_to_the_tokens(report: Callable[..., Report]) -> None:
    opened = report(a_measurement(ABC)).drawn()
    opened.page.keyboard.press("Tab")
    skip = opened.page.locator(":focus")
    assert skip.text_content() == "Skip to the table of prompts"
    assert skip.bounding_box()["y"] >= 0
    opened.page.keyboard.press("Enter")
    visited = []
    for _ in range(20):
        opened.page.keyboard.press("Tab")
        visited.append(opened.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    # Some browsers also stop at boxes that scroll.
    assert [name for name in visited if name in {"needle", "least", "most", "TR", "strip", "heatmap"}] == [
        "needle",
        "least",
        "most",
        "TR",
        "strip",
        "heatmap",
    ]


def test_five_thousand_prompts_can_be_sorted_filtered_and_opened(report: Callable[..., Report]) -> None:
    measurement = a_measurement([(f"p{i}", "b") for i in range(5000)], n_layers=2)
    opened = report(measurement).drawn()
    order = sorted(range(5000), key=lambda i: (measurement[i].tuco, i))
    assert opened.sort("tuco") == order[:200]  # as many as are laid out at once
    opened.page.locator(".scroller").evaluate("box => (box.scrollTop = box.scrollHeight)")
    opened.page.locator("#rows tbody tr").nth(200).wait_for()
    assert opened.shown_rows() == order[:400]
    opened.page.evaluate(f"location.hash = '#prompt-{order[2000]}'")
    opened.page.locator("#rows tbody tr[aria-selected]").wait_for()
    assert opened.shown_rows()[:2001] == order[:2001]
    assert opened.filter("p4321b") == [4321]
    assert opened.count() == "1 of 5000 shown"
    opened.page.locator("#rows tbody tr:not([hidden])").click()
    opened.until("#number", "4321")
    assert np.allclose(opened.z(), measurement[4321].layer_token(), atol=1e-3)
    opened.visit.assert_innocent()


# --- linked views ---------------------------------------------------------------------------------------------------


def assert_selected(opened: Report, measurement: Measurement, index: int, token: int) -> None:
    """Strip, readout, map and profile show the same token."""
    item = measurement[index]
    opened.selects(token)
    assert (
        f"Token {token + 1} of {item.n_tokens}: {item.prompt.tokens[token]} (id "
        in opened.page.locator("#readout").text_content()
    )
    assert opened.band("selected") == pytest.approx((token + 0.5) / item.n_tokens, abs=0.01)
    assert np.allclose(opened.line(0), item.layer_token()[:, token], atol=1e-3)
    assert np.allclose(opened.line(1), item.layer_token("local")[:, token], atol=1e-2)


def test_the_last_token_is_selected_at_first(report: Callable[..., Report]) -> None:
    measurement = a_measurement(ABC)
    opened = report(measurement).drawn()
    assert_selected(opened, measurement, 0, 7)
    assert_selected(opened.open(1), measurement, 1, 2)


def test_a_click_on_a_token_selects_it_everywhere(report: Callable[..., Report]) -> None:
    measurement = a_measurement(ABC)
    opened = report(measurement).drawn()
    opened.page.locator("#token-2").click()
    opened.page.mouse.move(0, 0)
    assert_selected(opened, measurement, 0, 2)


def test_a_click_on_a_column_selects_its_token_everywhere(report: Callable[..., Report]) -> None:
    measurement = a_measurement(ABC)
    measurement[0].maps.cumulative_ftc[0, 5] = math.nan  # a cell without a value can be clicked like any other
    opened = report(measurement).drawn()
    for layer, token in ((2, 4), (0, 1)):
        opened.page.mouse.click(*opened.at_cell(layer, token))
        opened.page.mouse.move(0, 0)
        assert_selected(opened, measurement, 0, token)
    opened.page.mouse.click(*opened.at_cell(0, 5))
    opened.selects(5)
    opened.visit.assert_innocent()


@pytest.mark.parametrize("place", ["#strip", "#heatmap"])
def test_the_arrow_keys_walk_the_tokens(report: Callable[..., Report], place: str) -> None:
    measurement = a_measurement(ABC)
    opened = report(measurement).drawn()
    opened.page.locator(place).focus()
    for key, token in (
        ("ArrowRight", 7),
        ("ArrowLeft", 6),
        ("ArrowLeft", 5),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 7),
    ):
        opened.page.keyboard.press(key)
        assert_selected(opened, measurement, 0, token)


def test_pointing_at_a_cell_shows_it_everywhere_and_says_all_of_it(report: Callable[..., Report]) -> None:
    measurement = a_measurement([(" the", " the", "\n")])
    opened = report(measurement).drawn()
    opened.page.mouse.move(*opened.at_cell(2, 1))
    opened.page.locator(".hovertext").wait_for()
    said = opened.page.locator("#heatmap .hovertext").text_content()
    maps = measurement[0].maps
    assert said.startswith("·theid 1, user, position 1, layer 2TuCo so far ")
    assert float(said.split("TuCo so far ")[1].split("‖")[0]) == pytest.approx(
        measurement.layer_token(0)[2, 1].item(), abs=1e-3
    )
    for name, norms in {"ΣPTC": maps.cumulative_ptc, "ΣFTC": maps.cumulative_ftc}.items():
        value = float(said.split(f"‖{name}‖₁ ≈ ")[1].split("‖")[0])
        assert value == pytest.approx(norms[2, 1].item(), rel=0.07)
    assert opened.page.locator("#strip .hovered").get_attribute("id") == "token-1"
    assert opened.band("pointed") == pytest.approx(0.5, abs=0.01)
    assert opened.page.locator("figure:has(#profile) .row").is_visible()
    opened.page.wait_for_timeout(100)  # the thin line is drawn in the next frame
    assert np.allclose(opened.line(2), measurement.layer_token(0)[:, 1], atol=1e-3)
    opened.page.mouse.move(0, 0)
    opened.page.locator("#strip .hovered").wait_for(state="detached")
    assert opened.band("pointed") is None


def test_pointing_at_a_token_frames_its_column(report: Callable[..., Report]) -> None:
    opened = report(a_measurement(ABC)).drawn()
    opened.page.locator("#token-3").hover()
    assert opened.band("pointed") == pytest.approx(3.5 / 8, abs=0.01)
    assert "Token 4 of 8: d " in opened.page.locator("#readout").text_content()
    opened.page.mouse.move(0, 0)
    assert opened.band("pointed") is None
    assert "Token 8 of 8: h " in opened.page.locator("#readout").text_content()


def test_pointing_at_the_profile_frames_the_layer_in_the_map(report: Callable[..., Report]) -> None:
    opened = report(a_measurement(ABC)).drawn()
    opened.profile.scroll_into_view_if_needed()
    area = opened.page.locator("#profile .nsewdrag").bounding_box()
    opened.page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    row = opened.page.locator("figure:has(#heatmap) .row")
    row.wait_for()
    box = row.bounding_box()
    _, y = opened.at_cell(1, 0)
    assert box["y"] + box["height"] / 2 == pytest.approx(y, abs=2)


def test_zooming_in_labels_more_tokens_and_moves_the_frame(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([WORDS])).drawn()
    before = opened.tick_labels()
    (x, y), (end, _) = opened.at_cell(1, 20), opened.at_cell(1, 39)
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(end, y, steps=5)
    opened.page.mouse.up()
    opened.page.locator(".xtick", has_text="·word31").first.wait_for()
    labels = opened.tick_labels()
    assert len(before) < 100
    assert [int(label.removeprefix("·word")) for label in labels] == list(
        range(int(labels[0][5:]), int(labels[0][5:]) + len(labels))
    )
    assert opened.band("selected") is None  # the last token is not in view


def test_labels_are_as_many_as_the_width_holds_and_follow_the_window(report: Callable[..., Report]) -> None:
    from playwright.sync_api import expect

    opened = report(a_measurement([WORDS])).drawn()
    many = opened.tick_labels()
    opened.page.set_viewport_size({"width": 390, "height": 800})
    expect(opened.map.locator(".xtick")).not_to_have_count(len(many), timeout=PATIENCE)
    expect(opened.map.locator(".xtick").last).to_have_text("·word99", timeout=PATIENCE)
    opened.page.wait_for_timeout(500)  # it may be drawn more than once on the way
    few = opened.tick_labels()
    assert len(few) < len(many) < len(WORDS)
    assert many[-1] == few[-1] == "·word99"
    assert opened.visit.overflow() == 0


# --- looks and paper ------------------------------------------------------------------------------------------------


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def test_page_and_figures_follow_the_look_that_the_reader_asks_for(report: Callable[..., Report]) -> None:
    opened = report(a_measurement(ABC)).drawn()
    for theme in ("dark", "light"):
        opened.page.emulate_media(color_scheme=theme)
        look = LOOKS[theme]
        opened.page.wait_for_timeout(200)
        assert opened.background() == rgb(look.paper)
        for figure in ("heatmap", "profile", "distribution"):
            assert opened.layout("template.layout.paper_bgcolor", figure) == look.paper
        assert opened.layout("plot_bgcolor") == look.missing
    opened.visit.assert_innocent()


def test_paper_gets_the_light_look_the_whole_table_and_no_buttons(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([("a",)] * 600)).drawn()
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_timeout(200)
    assert opened.layout("template.layout.paper_bgcolor") == LOOKS["dark"].paper
    opened.page.emulate_media(media="print", color_scheme="dark")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.background() == rgb(LOOKS["light"].paper)
    for figure in ("heatmap", "profile", "distribution"):
        assert opened.layout("template.layout.paper_bgcolor", figure) == LOOKS["light"].paper
    assert opened.layout("width") + opened.layout("width", "profile") <= 690
    scroller = opened.page.locator(".scroller").evaluate("box => [box.scrollHeight, box.clientHeight]")
    assert scroller[0] == scroller[1]
    assert opened.shown_rows() == list(range(600))
    assert not opened.page.locator("#needle").is_visible()
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.page.emulate_media(media="screen", color_scheme="dark")
    assert opened.layout("template.layout.paper_bgcolor") == LOOKS["dark"].paper


def test_printing_changes_nothing_on_the_screen(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([WORDS])).drawn()
    before = opened.map.bounding_box()
    assert opened.page.pdf(format="A4").startswith(b"%PDF")
    opened.page.wait_for_timeout(200)
    assert opened.map.bounding_box() == before
    opened.visit.assert_innocent()


# --- hostile text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_prompts_are_shown_as_text_and_nothing_runs(report: Callable[..., Report], width: int) -> None:
    prompts = [HOSTILE, *((text,) for text in HOSTILE)]
    opened = report(a_measurement(prompts, base=HOSTILE[0]), width, HOSTILE[1])
    for index in range(0, len(prompts), 4):
        opened.open(index)
    opened.open(0)
    for token in range(0, len(HOSTILE), 3):
        opened.page.locator(f"#token-{token}").dispatch_event("click")  # its box has other tokens in it
        opened.page.mouse.move(*opened.at_cell(1, token))
    assert opened.page.locator("h1").text_content() == HOSTILE[1]
    assert (
        opened.page.locator(
            "main img, main a:not([href^='#prompt-']), .figure b, .figure a, .strip *:not(span)"
        ).count()
        == 0
    )
    assert opened.filter("<svg onload=") == [0, 5]
    assert opened.visit.overflow() == 0
    opened.visit.assert_innocent()


def test_the_strip_reads_as_the_prompt_with_its_line_breaks(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([("<b>x</b>", " y\n", "&lt;", "\n\n", "z\x00", "A" * 10_000)])).drawn()
    shown = opened.page.locator("#strip span").all_text_contents()
    assert shown == ["<b>x</b>", " y↵\n", "&lt;", "↵\n↵\n", "z␀", "A" * 10_000]
    tops = [opened.page.locator(f"#token-{i}").bounding_box()["y"] for i in (0, 2, 4)]
    assert tops[0] < tops[1] < tops[2]
    assert tops[2] - tops[1] == pytest.approx(2 * (tops[1] - tops[0]), abs=2)


def test_labels_on_the_axis_show_markup_as_it_is(report: Callable[..., Report]) -> None:
    tokens = ("<b>x</b>", "&lt;", "$x^2$", "a<br>b", " ", "\x00", "\n", "日本語日本語日本語")
    labels = report(a_measurement([tokens])).drawn().tick_labels()
    assert labels[:7] == ["<b>x</b>", "&lt;", "$x^2$", "a<br>b", "·", "␀", "↵"]
    assert labels[7].endswith("…")
    assert labels[7][:-1] in readable(tokens[7], 20)


def test_right_to_left_tokens_stand_in_the_order_of_the_prompt(report: Callable[..., Report]) -> None:
    opened = report(a_measurement([("שלום", "עולם", "abc", "\u202edcba")])).drawn()
    places = [opened.page.locator(f"#token-{i}").bounding_box()["x"] for i in range(4)]
    assert places == sorted(places)


# --- colours --------------------------------------------------------------------------------------------------------


def test_a_token_has_the_colour_of_its_cell_in_the_last_layer(report: Callable[..., Report]) -> None:
    values = torch.linspace(0, 1, 11)
    measurement = a_measurement([tuple("abcdefghijk")], n_layers=1)
    measurement[0].maps.cumulative_ftc[0] = values
    measurement[0].maps.cumulative_ptc[0] = 1 - values
    opened = report(measurement).drawn()
    colours = opened.page.locator("#strip span").evaluate_all("spans => spans.map(s => s.style.background)")
    from plotly.colors import sample_colorscale, unlabel_rgb

    top = opened.layout("template") and opened.page.evaluate("document.getElementById('heatmap').data[0].zmax")
    for value, colour in zip(values.tolist(), colours, strict=True):
        expected = unlabel_rgb(sample_colorscale("Viridis", min(1.0, value / top))[0])
        assert [int(part) for part in colour[4:-1].split(",")] == pytest.approx(expected, abs=2)
