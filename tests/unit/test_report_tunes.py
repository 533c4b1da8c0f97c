"""The report of several tunes as a file: prompts in it once, numbers once per tune, and what is unlike is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.measurements import HOSTILE, a_measurement, scaled, three_tunes
from tests.report_page import Page, inflated
from tuco_lens.engine.contributions import NormMaps
from tuco_lens.errors import InputError
from tuco_lens.report import render_report, write_report
from tuco_lens.report.data import colour_top, distribution, report_data
from tuco_lens.report.packing import COARSE, FINE, share_error
from tuco_lens.report.page import MOST_BUTTONS, TUNE_CHARACTERS, rows
from tuco_lens.results.measurement import Measurement, PromptMeasurement

PROMPTS = [tuple("abcd"), tuple("ef")]


def unpacked_map(codes: Any, item: PromptMeasurement, top: float) -> Any:
    low, high, *_ = codes.astype(int).reshape(-1, *item.maps.ptc.shape)
    return (low + 256 * high) / FINE * top


# --- what is in the page --------------------------------------------------------------------------------------------


def test_a_measurement_by_itself_is_a_page_without_a_switch() -> None:
    measurement = a_measurement(PROMPTS)
    page = Page(render_report(measurement))
    assert "others" not in page.data
    assert not [
        attributes
        for _, attributes in page.tags
        if "data-tune" in attributes or attributes.get("name") in ("tune", "less")
    ]
    named = render_report({"only": measurement})
    assert Page(named).data == page.data
    assert "<div><dt>tune</dt><dd><bdi>only</bdi></dd></div>" in named
    assert [tag for tag, _ in Page(named).tags].count("input") == [tag for tag, _ in page.tags].count("input")


def test_numbers_of_every_tune_are_in_the_page_and_prompts_and_tokens_once() -> None:
    tunes = three_tunes([*PROMPTS, ("a-token-that-is-not-elsewhere",)])
    data = Page(render_report(tunes)).data
    every = [{"columns": data["columns"], "distribution": data["distribution"]}, *data["others"]]
    for measurement, found in zip(tunes.values(), every, strict=True):
        assert found["columns"]["tuco"] == [item.tuco for item in measurement]
        assert found["columns"]["beta"] == [item.beta for item in measurement]
    assert str(data).count("a-token-that-is-not-elsewhere") == 2  # its prompt's text, and the token
    assert [set(other) for other in data["others"]] == [{"columns", "distribution", "scales"}] * 2


def test_the_maps_of_every_tune_are_the_measured_ones() -> None:
    tunes = three_tunes(PROMPTS)
    page = Page(render_report(tunes))
    packed = [np.frombuffer(inflated(line), np.uint8) for line in page.scripts[1].split("\n")]
    scales = [
        [prompt["scales"] for prompt in page.data["prompts"]],
        *(other["scales"] for other in page.data["others"]),
    ]
    expected = [item for measurement in tunes.values() for item in measurement]
    assert len(packed) == len(expected)
    for item, codes, scale in zip(expected, packed, [each for tune in scales for each in tune], strict=True):
        top = scale[0][0]
        found = unpacked_map(codes, item, top)
        assert np.allclose(found, item.layer_token(), atol=share_error(top, FINE) * 1.01, rtol=0)


@pytest.mark.parametrize("drift", [False, True])
def test_a_colour_scale_is_that_of_the_maps_of_all_tunes(drift: bool) -> None:
    tunes = three_tunes(PROMPTS, drift=drift)
    for kind in report_data(*tunes.values()).values["kinds"]:
        cells = [m.layer_token(i, kind["name"]).numpy() for m in tunes.values() for i in range(len(m))]
        assert (kind["top"], kind["above"]) == colour_top(cells)


def test_histograms_share_their_bins_and_count_each_tune() -> None:
    tunes = three_tunes([("a",)] * 30)
    found = [distribution(each, *(other for other in tunes.values() if other is not each)) for each in tunes.values()]
    lowest, highest = (f(item.tuco for each in tunes.values() for item in each) for f in (min, max))
    for each, histogram in zip(tunes.values(), found, strict=True):
        assert histogram is not None
        assert found[0] is not None
        assert histogram["edges"] == found[0]["edges"]
        assert (histogram["edges"][0], histogram["edges"][-1]) == pytest.approx((lowest, highest))
        assert sum(histogram["counts"]) == len(each)
        inner = histogram["edges"][1:-1]
        assert histogram["counts"][0] == sum(item.tuco < inner[0] for item in each)


def test_a_tune_without_a_single_tuco_has_no_histogram_and_the_others_keep_theirs() -> None:
    tunes = three_tunes(PROMPTS)
    for item in tunes["second"]:
        item.maps.cumulative_ftc[-1, -1] = math.nan
    data = Page(render_report(tunes)).data
    assert data["others"][0]["distribution"] is None
    assert sum(data["distribution"]["counts"]) == sum(data["others"][1]["distribution"]["counts"]) == len(PROMPTS)


def test_summary_and_facts_are_those_of_each_tune_of_which_one_is_shown() -> None:
    tunes = three_tunes([("a",)] * 9)
    html = render_report(tunes)
    blocks = re.findall(r'<div data-tune="(\d)"( hidden)?>\s*<dl class="summary">(.*?)</dl>', html, re.DOTALL)
    assert [(number, bool(hidden)) for number, hidden, _ in blocks] == [("0", False), ("1", True), ("2", True)]
    for measurement, (_, _, summary) in zip(tunes.values(), blocks, strict=True):
        assert f"{measurement.tuco.median():.4f}" in summary
        assert f"{measurement.tuco.max():.4f}" in summary
    for name in (*tunes, "org/tuned", "org/second", "org/third"):
        assert name in Page(html).text


def test_the_table_is_that_of_the_first_tune_and_says_so_where_no_script_runs() -> None:
    tunes = three_tunes(PROMPTS)
    html = render_report(tunes)
    assert f"<tbody>\n{rows(tunes['first'])}\n</tbody>" in html
    assert "The table below is of the tune first alone." in Page(html).text
    turned = dict(reversed(tunes.items()))
    assert "The table below is of the tune third alone." in Page(render_report(turned)).text


@pytest.mark.parametrize("n", [2, MOST_BUTTONS, MOST_BUTTONS + 1])
def test_few_tunes_are_buttons_and_many_a_list(n: int) -> None:
    first = a_measurement(PROMPTS)
    html = render_report({f"tune {i}": scaled(first, i) for i in range(n)})
    page = Page(html)
    buttons = [a for tag, a in page.tags if tag == "input" and a.get("name") == "tune"]
    options = re.findall(r'<option value="(\d+)">', _switch_of(html))
    assert len(buttons) == (n if n <= MOST_BUTTONS else 0)
    assert options == ([] if n <= MOST_BUTTONS else [str(i) for i in range(n)])
    assert [b["value"] for b in buttons if "checked" in b] == (["0"] if buttons else [])


def test_the_foot_of_the_page_speaks_for_the_maps_of_all_tunes() -> None:
    tunes = three_tunes(PROMPTS)
    said = re.search(r"shares by up to (\S+) \(cumulative\), (\S+) \(local\)", Page(render_report(tunes)).text)
    assert said is not None
    for number, kind, n in ((said[1], "cumulative", FINE), (said[2], "local", COARSE)):
        largest = max(m.layer_token(i, kind).max().item() for m in tunes.values() for i in range(len(m)))
        assert float(number) == pytest.approx(largest / (2 * n), rel=0.5)


def test_the_order_of_the_tunes_changes_no_number() -> None:
    tunes = three_tunes(PROMPTS)
    numbers = [_by_name(given) for given in (tunes, dict(reversed(tunes.items())))]
    assert numbers[0] == numbers[1]


def _by_name(tunes: Mapping[str, Measurement]) -> dict[str, Any]:
    data = report_data(*tunes.values())
    values = data.values
    scales = [prompt["scales"] for prompt in values["prompts"]]
    every = [
        {"columns": values["columns"], "distribution": values["distribution"], "scales": scales},
        *values["others"],
    ]
    n = len(values["prompts"])
    return {
        name: (numbers, data.maps[i * n : (i + 1) * n], values["kinds"])
        for i, (name, numbers) in enumerate(zip(tunes, every, strict=True))
    }


# --- what is refused ------------------------------------------------------------------------------------------------


def test_other_prompts_are_refused_by_their_number_and_not_by_their_text() -> None:
    first = a_measurement([("a",), ("secret words",)])
    with pytest.raises(InputError, match=r"'one' has 2 prompts and 'two' 1; measure the same prompts") as raised:
        render_report({"one": first, "two": a_measurement([("a",)])})
    with pytest.raises(InputError, match="prompt 1 of 'one' is not that of 'two'") as raised:
        render_report({"one": first, "two": a_measurement([("a",), ("other",)])})
    assert "secret" not in str(raised.value)
    other_ids = replace(first[1], prompt=replace(first[1].prompt, token_ids=(7,)))
    with pytest.raises(InputError, match="prompt 1 of 'one' is not that of 'two'"):
        render_report({"one": first, "two": replace(first, items=(first[0], other_ids))})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("base", "org/b2"), ("n_layers", 4), ("norm", "l2"), ("dtype", "bfloat16"), ("chat", True), ("drift", True)],
)
def test_other_settings_are_refused_and_named(setting: str, value: Any) -> None:
    first = a_measurement(PROMPTS)
    other = replace(first, settings=replace(first.settings, **{setting: value}))
    with pytest.raises(InputError, match=rf"{setting} is \S+ in 'one' and \S+ in 'two'; measure them alike"):
        render_report({"one": first, "two": other})


def test_no_tunes_and_tunes_without_maps_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none"):
        write_report({}, tmp_path / "r.html")
    tunes = three_tunes(PROMPTS)
    last = [replace(i, maps=NormMaps(*(m[:, -1:] for m in _norms(i.maps)), None)) for i in tunes["third"]]
    tunes["third"] = replace(tunes["third"], items=tuple(last))
    with pytest.raises(InputError, match='measured with keep="last"'):
        write_report(tunes, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def _norms(maps: NormMaps) -> list[Any]:
    return [maps.ptc, maps.ftc, maps.cumulative_ptc, maps.cumulative_ftc]


def test_an_error_about_hostile_names_is_one_line() -> None:
    first = a_measurement(PROMPTS)
    with pytest.raises(InputError) as raised:
        render_report({"a\nb\u202e": first, "c": a_measurement([("a",)])})
    assert "\n" not in str(raised.value)
    assert "\u202e" not in str(raised.value)


# --- hostile names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [len(HOSTILE), 3])
def test_hostile_names_add_no_tag_and_no_attribute(n: int) -> None:
    first = a_measurement([("a",)])
    names = list(dict.fromkeys(HOSTILE))[:n]
    assert len({scaled(first, 1, name).settings.tuned for name in names}) == len(names)
    hostile, harmless = (
        Page(render_report({name: scaled(first, i, name) for i, name in enumerate(each)}))
        for each in (names, [f"tune {i}" for i in range(len(names))])
    )
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in harmless.tags
    ]
    assert hostile.scripts[1:] == harmless.scripts[1:]
    assert names[0] in hostile.text


def test_a_page_of_hostile_names_is_clean_utf_8_and_long_names_are_cut() -> None:
    first = a_measurement([("a",)])
    encoded = render_report(dict.fromkeys(HOSTILE, first)).encode("utf-8")
    assert b"\x00" not in encoded
    assert "\u202e".encode() not in encoded
    assert "x" * (TUNE_CHARACTERS + 1) not in _switch_of(render_report({"x" * 5000: first, "y": first}))


def _switch_of(html: str) -> str:
    found = re.search(r'<(fieldset|div) class="(?:kinds )?tunes.*?</\1>', html, re.DOTALL)
    assert found is not None
    return found[0]


def test_a_page_of_three_tunes_of_five_hundred_prompts_grows_by_its_maps_alone() -> None:
    prompts = [tuple(f" tok{(7 * i + j) % 997}" for j in range(40)) for i in range(100)]
    tunes = three_tunes(prompts, n_layers=8)
    one, all_of_them = (len(render_report(each)) for each in (tunes["first"], tunes))
    maps = len("\n".join(report_data(tunes["first"]).maps))
    numbers = 100 * 120  # characters, deflated, of four columns and the scales of two kinds
    assert all_of_them - one < 2 * (1.2 * maps + numbers)
