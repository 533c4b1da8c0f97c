"""The report's switch of tunes in a real browser: numbers and figures follow it, and the reader keeps the place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.chromium import NEEDS_CHROMIUM, Visit
from tests.measurements import HOSTILE, a_measurement, scaled, three_tunes
from tests.report_page import Report
from tuco_lens.plots.template import LOOKS
from tuco_lens.report import write_report
from tuco_lens.report.packing import COARSE, FINE, share_error
from tuco_lens.results.measurement import Measurement

pytestmark = NEEDS_CHROMIUM
Visiting = Callable[..., Visit]
Opening = Callable[..., Report]
ABC = (tuple("abcdefgh"), tuple("ijk"), tuple("lmnop"))
NAMES = ("first", "second", "third")


@pytest.fixture
def report(visit: Visiting, tmp_path: Path) -> Opening:
    def opened(tunes: Mapping[str, Measurement], width: int = 1280, title: str = "Tunes") -> Report:
        return Report(visit(write_report(tunes, tmp_path / "report.html", title=title), width))

    return opened


def shown(opened: Report) -> dict[str, Any]:
    """Everything on the page that depends on the tune."""
    return {
        "table": [opened.cells(name) for name in ("tuco", "preco", "beta")],
        "summary": opened.page.locator(".summary:visible").all_text_contents(),
        "facts": opened.page.locator(".facts dd span:visible").all_text_contents(),
        "values": opened.page.locator("#values").text_content(),
        "readout": opened.page.locator("#readout").text_content(),
        "strip": opened.page.locator("#strip span").evaluate_all("spans => spans.map(s => s.style.background)"),
        "map": opened.z().round(3).tolist(),
        "corner": opened.layout("annotations[0].text"),
        "profile": [opened.line(i) for i in range(2)],
        "bars": opened.page.evaluate("Array.from(document.getElementById('distribution').data[0].y)"),
        "mark": opened.layout("shapes[0].x0", "distribution"),
    }


# --- what follows the switch ----------------------------------------------------------------------------------------


def test_table_summary_figures_and_colours_are_those_of_the_chosen_tune(report: Opening) -> None:
    tunes = three_tunes(ABC, n_layers=5)
    opened = report(tunes).drawn().open(1)
    for number in (1, 2, 0):
        opened.choose_tune(number)
        measurement = tunes[NAMES[number]]
        for column in ("tuco", "preco", "beta"):
            assert opened.cells(column) == [f"{getattr(item, column):.4f}" for item in measurement]
        assert opened.number == "1"
        assert f"TuCo {measurement[1].tuco:.4f}" in opened.page.locator("#values").text_content()
        assert opened.layout("annotations[0].text") == f"TuCo {measurement[1].tuco:.4f} ▾"
        for kind, steps, line in (("cumulative", FINE, 0), ("local", COARSE, 1)):
            opened.page.locator(f"input[value={kind}]").check()
            values = measurement.layer_token(1, kind).numpy()
            atol = share_error(values.max(), steps) * 1.01
            assert np.allclose(opened.z(), values, atol=atol, rtol=0)
            assert np.allclose(opened.line(line), values[:, -1], atol=atol, rtol=0)
        opened.page.locator("input[value=cumulative]").check()
        assert opened.layout("shapes[0].x0", "distribution") == pytest.approx(measurement[1].tuco)
        assert sum(shown(opened)["bars"]) == len(ABC)
        assert shown(opened)["facts"] == [NAMES[number], measurement.settings.tuned]
        (summary,) = opened.page.locator(".summary:visible").all_text_contents()
        assert f"{measurement.tuco.median():.4f}" in summary
    opened.visit.assert_innocent()


def test_going_back_to_a_tune_shows_what_was_there(report: Opening) -> None:
    opened = report(three_tunes(ABC)).drawn().open(2)
    first = shown(opened)
    second = shown(opened.choose_tune(1))
    assert all(first[name] != second[name] for name in first)
    assert shown(opened.choose_tune(0)) == first
    assert shown(opened.choose_tune(1)) == second


def test_scales_of_colours_profile_and_distribution_are_the_same_for_all_tunes(report: Opening) -> None:
    opened = report(three_tunes([*ABC, *[("a", "b")] * 20])).drawn()
    scales = []
    for number in (0, 1, 2):
        opened.choose_tune(number)
        top = opened.page.evaluate("document.getElementById('heatmap').data[0].zmax")
        bars = opened.page.evaluate("Array.from(document.getElementById('distribution').data[0].x)")
        ranges = [opened.layout("xaxis.range", "profile"), opened.layout("yaxis.range", "distribution")]
        scales.append([top, bars, ranges, opened.page.locator("#map-scale").text_content()])
    assert scales[0] == scales[1] == scales[2]
    assert "on one scale for all prompts and tunes" in scales[0][3]


def test_a_tune_without_a_tuco_shows_no_bars_and_the_next_one_shows_its_own(report: Opening) -> None:
    tunes = three_tunes(ABC)
    for item in tunes["second"]:
        item.maps.cumulative_ftc[-1, -1] = math.nan
    opened = report(tunes).drawn().choose_tune(1)
    assert opened.cells("tuco") == ["missing"] * 3
    assert opened.layout("annotations[0].text") == "TuCo missing ▾"
    assert opened.page.locator("#distribution .main-svg").count() == 0
    assert "3 of 3 TuCo values are missing" in opened.page.locator("p.note:visible").first.text_content()
    opened.choose_tune(2)
    assert opened.layout("shapes[0].x0", "distribution") == pytest.approx(tunes["third"][0].tuco)
    opened.visit.assert_innocent()


# --- less another tune ----------------------------------------------------------------------------------------------


def less(opened: Report, number: int | None) -> Report:
    """The same, once the map is drawn less that of another tune."""
    opened.page.locator("[name=less]").select_option("" if number is None else str(number))
    opened.page.wait_for_timeout(100)
    return opened.drawn()


def test_a_map_less_that_of_another_tune_is_their_difference(report: Opening) -> None:
    tunes = three_tunes(ABC, n_layers=4, drift=True)
    opened = less(report(tunes).drawn().open(1), 2)
    for number in (0, 1, 2):
        opened.choose_tune(number)
        for kind, steps in (("cumulative", FINE), ("local", COARSE), ("drift", COARSE)):
            opened.page.locator(f"input[value={kind}]").check()
            one, other = (tunes[name].layer_token(1, kind).numpy() for name in (NAMES[number], "third"))
            atol = 1.01 * (share_error(one.max(), steps) + share_error(other.max(), steps))
            assert np.allclose(opened.z(), one - other, atol=atol, rtol=0)
            drawn = opened.page.evaluate("(({zmin, zmax}) => [zmin, zmax])(document.getElementById('heatmap').data[0])")
            largest = np.abs(opened.z()).max() or 1
            assert drawn == pytest.approx([-largest, largest], rel=1e-5)
        opened.page.locator("input[value=cumulative]").check()
        change = tunes[NAMES[number]][1].tuco - tunes["third"][1].tuco
        sign = "+" if change > 0 else "−" if change < 0 else ""
        assert opened.layout("annotations[0].text") == f"TuCo {sign}{abs(change):.4f} ▾"
        assert "less that of third, on a scale of this prompt" in opened.page.locator("#map-scale").text_content()
    opened.visit.assert_innocent()


def test_the_difference_of_a_cell_is_told_with_both_values(report: Opening) -> None:
    tunes = three_tunes(ABC)
    opened = less(report(tunes).drawn(), 1)
    opened.page.mouse.move(*opened.at_cell(2, 3))
    opened.until("#heatmap .hovertext", "difference")
    said = opened.page.locator("#heatmap .hovertext").text_content()
    one, other = (tunes[name].layer_token(0)[2, 3].item() for name in ("first", "second"))
    numbers = [float(part) for part in re.findall(r"(?:difference \+|so far |other )(\d\.\d+)", said)]
    assert numbers == pytest.approx([one - other, one, other], abs=1e-3)
    assert "‖" not in said  # norms of two maps have no difference that would mean anything


def test_a_missing_cell_of_either_tune_is_missing_in_the_difference(report: Opening) -> None:
    tunes = three_tunes(ABC)
    tunes["first"][0].maps.cumulative_ftc[0, 2] = math.nan
    tunes["second"][0].maps.cumulative_ftc[1, 4] = math.nan
    opened = less(report(tunes).drawn(), 1)
    assert np.argwhere(np.isnan(opened.z())).tolist() == [[0, 2], [1, 4]]
    assert opened.page.locator("#missing").text_content().startswith("2 of 24 values missing")


def test_without_another_tune_the_map_is_what_it_was_and_other_prompts_follow(report: Opening) -> None:
    tunes = three_tunes(ABC)
    opened = report(tunes).drawn()
    before = shown(opened)
    less(opened, 1).open(2)
    one, other = (tunes[name].layer_token(2).numpy() for name in ("first", "second"))
    assert np.allclose(opened.z(), one - other, atol=1e-3)
    less(opened, None).open(0)
    assert shown(opened) == before
    assert opened.visit.complaints == []


def test_the_colours_of_a_difference_follow_the_look(report: Opening) -> None:
    opened = less(report(three_tunes(ABC)).drawn(), 1)
    for theme in ("dark", "light"):
        opened.page.emulate_media(color_scheme=theme)
        opened.page.wait_for_timeout(200)
        scale = opened.page.evaluate("document.getElementById('heatmap').data[0].colorscale")
        assert [colour for _, colour in scale] == [colour for _, colour in LOOKS[theme].diverging]


# --- what the reader keeps ------------------------------------------------------------------------------------------


def test_prompt_token_and_kind_of_map_stay_chosen(report: Opening) -> None:
    opened = report(three_tunes(ABC)).drawn().open(0)
    opened.page.locator("#token-3").click()
    opened.page.locator("input[value=local]").check()
    for number in (2, 1):
        opened.choose_tune(number)
        assert (opened.number, opened.selected_token()) == ("0", 3)
        assert opened.band("selected") == pytest.approx(3.5 / 8, abs=0.01)
        assert opened.page.locator("input[value=local]").is_checked()
        assert "Token 4 of 8: d " in opened.page.locator("#readout").text_content()
    opened.open(1)
    assert opened.selected_token() == 2  # of another prompt the last one, as always


def test_the_order_and_the_filter_that_were_asked_for_stay_with_the_numbers_of_the_tune(report: Opening) -> None:
    tunes = three_tunes([("a",)] * 6)
    values = {"first": [1, 2, 3, 4, 5, 6], "second": [6, 5, 4, 3, 2, 1], "third": [4, 6, 5, 1, 3, 2]}
    for name, measurement in tunes.items():
        for item, value in zip(measurement, values[name], strict=True):
            item.maps.cumulative_ftc[-1, -1], item.maps.cumulative_ptc[-1, -1] = 10.0 * value, 100 - 10.0 * value
    opened = report(tunes).drawn()
    opened.sort("tuco")
    opened.page.locator("#rows tbody tr").nth(2).click()
    opened.until("#number", "2")
    for number, name in enumerate(NAMES):
        opened.choose_tune(number)
        assert opened.shown_rows() == sorted(range(6), key=lambda i: values[name][i])
        assert opened.page.locator("#rows [aria-selected=true] td:first-child").all_text_contents() == ["2"]
        assert opened.page.locator("th[data-column=tuco]").get_attribute("aria-sort") == "ascending"
    assert opened.filter(least="0.35") == [0, 2, 1]
    opened.choose_tune(0)
    assert opened.shown_rows() == [3, 4, 5]
    assert opened.count() == "3 of 6 shown"


def test_the_address_names_prompt_and_tune(report: Opening) -> None:
    tunes = three_tunes(ABC)
    opened = report(tunes).drawn().open(1)
    opened.choose_tune(2)
    assert opened.hash == "#prompt-1-tune-2"
    opened.page.reload()
    opened.until("#number", "1")
    opened.drawn()
    assert opened.page.locator("[name=tune]").nth(2).is_checked()
    assert opened.cells("tuco") == [f"{item.tuco:.4f}" for item in tunes["third"]]
    opened.open(2)  # an address that names no tune keeps the one that is shown
    assert f"TuCo {tunes['third'][2].tuco:.4f}" in opened.page.locator("#values").text_content()
    opened.choose_tune(0)
    assert opened.hash == "#prompt-2"
    for other in ("#prompt-1-tune-3", "#prompt-1-tune-", "#prompt-9-tune-1", "#prompt-1-tune-x"):
        opened.page.evaluate(f"location.hash = '{other}'")
    assert opened.number == "2"
    assert opened.visit.complaints == []


def test_a_link_of_the_summary_leads_to_the_prompt_in_the_tune_that_is_shown(report: Opening) -> None:
    tunes = three_tunes(ABC)
    opened = report(tunes).drawn().choose_tune(2)
    opened.page.locator(".summary:visible a").last.click()
    highest = int(tunes["third"].tuco.argmax())
    opened.until("#number", str(highest))
    assert f"TuCo {tunes['third'][highest].tuco:.4f}" in opened.page.locator("#values").text_content()


FIRST_IS_SLOW = """() => {
    const unpacked = Response.prototype.arrayBuffer;
    let calls = 0;
    Response.prototype.arrayBuffer = async function () {
        const patience = calls++ ? 0 : 300;
        const bytes = await unpacked.call(this);
        await new Promise((resolve) => setTimeout(resolve, patience));
        return bytes;
    };
}"""


@pytest.mark.parametrize("chosen", [[1, 2], [2, 0, 1], [1, 0]])
def test_choices_in_quick_succession_end_with_the_last_however_long_the_first_takes(
    report: Opening, chosen: list[int]
) -> None:
    tunes = three_tunes(ABC)
    opened = report(tunes).drawn().open(1)
    opened.page.evaluate(FIRST_IS_SLOW)
    opened.page.evaluate(
        """numbers => numbers.forEach(i => {
            const control = document.getElementsByName("tune")[i];
            control.checked = true;
            control.dispatchEvent(new Event("change"));
        })""",
        chosen,
    )
    opened.page.wait_for_timeout(700)
    last = tunes[NAMES[chosen[-1]]]
    assert np.allclose(opened.z(), last.layer_token(1), atol=1e-3)
    assert f"TuCo {last[1].tuco:.4f}" in opened.page.locator("#values").text_content()
    assert opened.cells("tuco") == [f"{item.tuco:.4f}" for item in last]


# --- keyboard, looks, paper -----------------------------------------------------------------------------------------


def test_the_switch_is_reached_and_worked_with_the_keyboard(report: Opening) -> None:
    tunes = three_tunes(ABC)
    opened = report(tunes).drawn().open(1)
    opened.page.evaluate("scrollTo(0, 0)")
    opened.page.locator(".skip").first.focus()
    visited: list[str] = []
    while "tune" not in visited and len(visited) < 8:
        opened.page.keyboard.press("Tab")
        visited.append(opened.page.evaluate("document.activeElement.name || document.activeElement.className"))
    assert visited[-1] == "tune"
    opened.page.keyboard.press("ArrowRight")
    opened.until("#values", f"TuCo {tunes['second'][1].tuco:.4f}")
    opened.page.keyboard.press("ArrowLeft")
    opened.until("#values", f"TuCo {tunes['first'][1].tuco:.4f}")
    assert opened.page.locator("[name=tune]").first.evaluate("control => control === document.activeElement")


@pytest.mark.parametrize("width", [1280, 390])
def test_many_tunes_are_a_list_that_works_like_the_buttons(report: Opening, width: int) -> None:
    first = a_measurement(ABC)
    tunes = {f"checkpoint-{100 * i}": scaled(first, i / 4, f"run/{i}") for i in range(9)}
    opened = report(tunes, width).drawn()
    for number in (8, 3, 0):
        opened.choose_tune(number)
        assert opened.cells("tuco") == [f"{item.tuco:.4f}" for item in tunes[f"checkpoint-{100 * number}"]]
    opened.page.locator("select[name=tune]").focus()
    opened.page.keyboard.press("ArrowDown")
    opened.until("#values", f"TuCo {tunes['checkpoint-100'][0].tuco:.4f}")
    opened.page.reload()
    opened.drawn()
    assert opened.page.locator("select[name=tune]").input_value() == opened.hash.removeprefix("#prompt-0-tune-")
    assert opened.visit.overflow() == 0
    assert opened.visit.complaints == []


def test_the_switch_stays_in_view_and_hides_no_heading(report: Opening) -> None:
    opened = report(three_tunes([("a",)] * 30)).drawn().open(3)
    opened.page.evaluate("document.getElementById('viewer').scrollIntoView()")
    switch, heading = (opened.page.locator(name).bounding_box() for name in ("#tunes", "#viewer-heading"))
    assert switch["y"] == pytest.approx(0, abs=1)
    assert heading["y"] >= switch["y"] + switch["height"]


def test_each_tune_follows_the_look_that_the_reader_asks_for(report: Opening) -> None:
    opened = report(three_tunes(ABC)).drawn().choose_tune(1)
    for theme in ("dark", "light"):
        opened.page.emulate_media(color_scheme=theme)
        opened.page.wait_for_timeout(200)
        opened.choose_tune(2)
        for figure in ("heatmap", "profile", "distribution"):
            assert opened.layout("template.layout.paper_bgcolor", figure) == LOOKS[theme].paper
        opened.choose_tune(1)
    opened.visit.assert_innocent()


def test_paper_gets_the_chosen_tune_and_its_name_alone(report: Opening) -> None:
    tunes = three_tunes([("a",)] * 300)
    opened = report(tunes).drawn().choose_tune(1)
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("#tunes label:visible").all_text_contents() == [" second"]
    assert opened.cells("tuco") == [f"{item.tuco:.4f}" for item in tunes["second"]]
    assert opened.layout("width") + opened.layout("width", "profile") <= 690
    assert opened.page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_table_of_the_first_tune_is_there_and_says_whose_it_is(
    browser: Any, tmp_path: Path
) -> None:
    tunes = three_tunes(ABC)
    page = browser.new_page(java_script_enabled=False)
    page.goto(write_report(tunes, tmp_path / "report.html").as_uri())
    assert page.locator("#rows tbody td.tuco").all_text_contents() == [f"{item.tuco:.4f}" for item in tunes["first"]]
    assert page.locator("#rows tbody tr").first.is_visible()
    assert page.locator(".summary:visible").count() == 1
    assert page.locator("noscript p", has_text="of the tune first alone").is_visible()
    assert page.locator(".facts dd span:visible").all_text_contents() == ["first", "org/tuned"]
    assert page.locator("[name=tune]:visible").count() == 0
    page.close()


# --- hostile names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("n", [5, len(HOSTILE)])
def test_hostile_names_are_shown_as_text_and_nothing_runs(report: Opening, width: int, n: int) -> None:
    first = a_measurement([HOSTILE, ("a",)])
    tunes = {name: scaled(first, 1 + i, name) for i, name in enumerate(dict.fromkeys(HOSTILE[:n]))}
    opened = report(tunes, width, HOSTILE[0]).drawn()
    for number in range(len(tunes)):
        opened.choose_tune(number)
        assert opened.visit.overflow() == 0
    less(opened, 0)
    assert "script" in opened.page.locator("#map-scale").text_content()
    opened.choose_tune(0)
    assert HOSTILE[0] in opened.page.locator(".facts dd span:visible").all_text_contents()
    assert opened.page.locator("header img, header a, .tunes img, .tunes a, .tunes b, .tunes svg").count() == 0
    opened.visit.assert_innocent()
