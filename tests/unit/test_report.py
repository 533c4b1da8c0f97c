"""The HTML report as a file: what it holds, what it must never hold, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from plotly.offline import get_plotlyjs

from tests.measurements import HOSTILE, a_measurement
from tests.report_page import Page, inflated
from tuco_lens.errors import OutputError
from tuco_lens.plots.template import LOOKS
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.report import render_report, write_report
from tuco_lens.report.data import colour_top, columns, distribution, report_data, shown_token
from tuco_lens.report.packing import COARSE, FINE, norm_error, pack_norms, pack_shares, share_error, share_planes
from tuco_lens.report.page import rows, spoken
from tuco_lens.results.measurement import Measurement, PromptMeasurement


def unpacked_shares(codes: np.ndarray[Any, Any], steps: int, top: float) -> np.ndarray[Any, Any]:
    return np.where(codes > steps, np.nan, codes / steps * top)


def unpacked_norms(codes: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    values = np.exp(low + (high - low) * (codes.astype(float) - 1) / (COARSE - 1))
    return np.where(codes == 255, np.nan, np.where(codes == 0, 0.0, values))


def with_value(measurement: Measurement, index: int, value: float) -> Measurement:
    """The measurement with the value as ‖F‖ of one prompt's last layer and token: NaN makes its TuCo missing."""
    measurement[index].maps.cumulative_ftc[-1, -1] = value
    return measurement


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_measured() -> None:
    measurement = a_measurement([("a ", "word"), ("b",)])
    text = Page(render_report(measurement, title="My <title>")).text
    for expected in ("My <title>", "org/base", "org/tuned", "bridge", "float32", "L1", "9.8.7", "a word"):
        assert expected in text
    for item in measurement:
        for value in (item.tuco, item.preco, item.beta):
            assert f"{value:.4f}" in text


def test_the_summary_is_count_median_spread_lowest_and_highest() -> None:
    measurement = a_measurement([("a",)] * 21)
    text = Page(render_report(measurement)).text
    tucos = measurement.tuco.sort().values.tolist()
    for name, value in {
        "prompts": "21",
        "median TuCo": f"{tucos[10]:.4f}",
        r"middle 90\s%": f"{tucos[1]:.4f} – {tucos[19]:.4f}",
        r"middle 50\s%": f"{tucos[5]:.4f} – {tucos[15]:.4f}",
        "lowest TuCo": f"{tucos[0]:.4f} #{measurement.tuco.argmin()}",
        "highest TuCo": f"{tucos[20]:.4f} #{measurement.tuco.argmax()}",
    }.items():
        assert re.search(rf"{name}\s*{value}", text), name


@pytest.mark.parametrize("drift", [False, True])
def test_output_co_has_a_column_if_it_was_measured(drift: bool) -> None:
    measurement = a_measurement([("a",), ("b",)], drift=drift)
    page = Page(render_report(measurement))
    names = ["index", "text", "tokens", "tuco", "preco", "beta", *(["output_co"] if drift else [])]
    assert page.attributes("th", "data-column") == names
    assert [set(names[2:]), 2] == [set(columns(measurement)), len(columns(measurement)["tuco"])]
    if drift:
        assert f"{measurement[1].output_co:.4f}" in rows(measurement)
        assert columns(measurement)["output_co"] == measurement.output_co.tolist()


def test_every_prompt_has_a_row_with_its_address() -> None:
    links = [name for name in Page(rows(a_measurement([("a",)] * 5))).attributes("a", "href") if name]
    assert links == [f"#prompt-{i}" for i in range(5)]


def test_a_chat_is_called_by_what_the_user_said_last() -> None:
    tokens = ("<u>", "one", "</u>", "<a>", "two", "</a>", "<u>", " three", " four", "</u>")
    roles = (
        "template",
        "user",
        "template",
        "template",
        "assistant",
        "template",
        "template",
        "user",
        "user",
        "template",
    )
    chat = Prompt("".join(tokens), tuple(range(10)), tokens, roles)
    assert spoken(chat) == " three four"
    assert spoken(replace(chat, roles=("text",) * 10)) == chat.text
    # Halves of a character in two tokens: the text has the whole of it.
    halves = Prompt(
        "<u>é</u>", (0, 1, 2, 3), ("<u>", "\ufffd", "\ufffd", "</u>"), ("template", "user", "user", "template")
    )
    assert spoken(halves) == halves.text


def test_the_colours_are_those_of_the_figures_in_both_looks() -> None:
    page = render_report(a_measurement([("a",)]))
    for look in LOOKS.values():
        assert f"--ink: {look.ink}; --paper: {look.paper}; --mark: {look.mark}; --missing: {look.missing};" in page


def test_missing_values_and_those_under_the_noise_floor_are_said() -> None:
    measurement = with_value(a_measurement([("a",), ("b",), ("c",)], dtype="bfloat16"), 0, math.nan)
    with_value(measurement, 1, 1e-3)
    text = Page(render_report(measurement)).text
    assert "1 of 3 TuCo values are missing" in text
    assert "1 of 3 TuCo values lie under the noise floor of bfloat16, 0.025" in text
    assert "noise floor" not in Page(render_report(a_measurement([("a",)]))).text


def test_a_measurement_without_prompts_makes_a_page() -> None:
    page = Page(render_report(a_measurement([])))
    assert page.attributes("body", "class") == ["empty"]
    assert page.data["prompts"] == []
    assert page.data["distribution"] is None


# --- its data -------------------------------------------------------------------------------------------------------

norms = st.floats(0, 1e6, width=32) | st.sampled_from([0.0, math.nan, math.inf])
matrices = array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: arrays(np.float32, shape, elements=norms)
)


@given(matrices, st.sampled_from([FINE, COARSE]))
def test_a_packed_share_is_off_by_half_a_step_at_most(values: Any, steps: int) -> None:
    packed = pack_shares(values, steps)
    back = unpacked_shares(packed.codes.astype(int), steps, packed.top)
    finite = np.isfinite(values)
    assert np.array_equal(np.isnan(back), ~finite)
    assert np.abs(back - values)[finite].max(initial=0) <= share_error(packed.top, steps) * (1 + 1e-4)


@given(matrices)
def test_a_packed_norm_is_off_by_half_a_step_of_its_logarithm_at_most(values: Any) -> None:
    packed = pack_norms(values)
    back = unpacked_norms(packed.codes, packed.low, packed.high)
    finite = np.isfinite(values)
    assert np.array_equal(np.isnan(back), ~finite)
    assert np.array_equal(back[finite] == 0, values[finite] == 0)
    positive = finite & (values > 0)
    error = np.abs(back[positive] / values[positive].astype(float) - 1)
    assert error.max(initial=0) <= norm_error(packed.low, packed.high) + 1e-6


def test_a_map_takes_two_bytes_a_cell_if_fine_and_one_if_coarse() -> None:
    values = np.random.default_rng(0).random((3, 4), dtype=np.float32)
    assert [len(plane) for plane in share_planes(pack_shares(values, FINE), FINE)] == [12, 12]
    assert [len(plane) for plane in share_planes(pack_shares(values, COARSE), COARSE)] == [12]


def test_the_maps_in_the_page_are_the_measured_ones() -> None:
    measurement = a_measurement([tuple("abcd"), tuple("ef")])
    page = Page(render_report(measurement))
    packed = [np.frombuffer(inflated(line), np.uint8) for line in page.scripts[1].split("\n")]
    for item, prompt, codes in zip(measurement, page.data["prompts"], packed, strict=True):
        low, high, sums, local, local_sums = codes.astype(int).reshape(5, *item.maps.ptc.shape)
        (top, *range_), (local_top, *local_range) = prompt["scales"]
        shares = unpacked_shares(low + 256 * high, FINE, top)
        assert np.allclose(shares, item.layer_token(), atol=share_error(top, FINE) * 1.01, rtol=0)
        shares = unpacked_shares(local, COARSE, local_top)
        assert np.allclose(shares, item.layer_token("local"), atol=share_error(local_top, COARSE) * 1.01, rtol=0)
        total = item.maps.cumulative_ptc + item.maps.cumulative_ftc
        assert np.allclose(unpacked_norms(sums, *range_), total, rtol=norm_error(*range_) + 1e-4)
        total = item.maps.ptc + item.maps.ftc
        assert np.allclose(unpacked_norms(local_sums, *local_range), total, rtol=norm_error(*local_range) + 1e-4)


def test_the_foot_of_the_page_says_how_far_its_maps_may_be_off() -> None:
    measurement = a_measurement([tuple("abcd"), tuple("ef")])
    said = re.search(
        r"rounded: shares by up to (\S+) \(cumulative\), (\S+) \(local\), norms by up to (\S+)\s%",
        Page(render_report(measurement)).text,
    )
    assert said is not None
    scales = [prompt["scales"] for prompt in report_data(measurement).values["prompts"]]
    fine, coarse = (max(scale[i][0] for scale in scales) / (2 * n) for i, n in ((0, 4094), (1, 254)))
    ratio = max(math.exp(high - low) for scale in scales for _, low, high in scale)
    expected = [fine, coarse, 100 * (ratio ** (1 / 506) - 1)]
    assert [float(number) for number in said.groups()] == pytest.approx(expected, rel=0.5)


def test_tokens_roles_and_numbers_of_the_page_are_those_of_the_prompts() -> None:
    measurement = a_measurement([tuple("abca"), tuple("ab")])
    data = report_data(measurement).values
    for item, prompt in zip(measurement, data["prompts"], strict=True):
        assert [data["tokens"][place] for place in prompt["tokens"]] == [
            (text, i) for i, text in enumerate(item.prompt.tokens)
        ]
        assert [role for role, n in prompt["roles"] for _ in range(n)] == list(item.prompt.roles)
        assert prompt["text"] == item.prompt.text
    assert data["columns"]["tuco"] == [item.tuco for item in measurement]
    assert data["columns"]["tokens"] == [4, 2]


def test_a_token_is_shown_as_it_reads_with_its_line_breaks() -> None:
    assert shown_token(" a\n\nb\x00") == " a↵\n↵\nb␀"
    assert shown_token("") == "∅"
    assert len(shown_token("x" * 30_000)) == 10_000


def test_a_colour_scale_ends_where_one_cell_in_a_hundred_lies_above() -> None:
    values = np.linspace(0, 1, 1001, dtype=np.float32).reshape(7, 143)
    top, above = colour_top([values[:3], values[3:]])
    assert top == pytest.approx(0.99, abs=1e-3)
    assert above
    assert colour_top([np.full((2, 2), 0.25, np.float32)]) == (0.25, False)
    assert colour_top([np.zeros((2, 2), np.float32)]) == colour_top([]) == (1.0, False)
    assert colour_top([np.full((1, 1), np.nan, np.float32)]) == (1.0, False)


def test_the_distribution_counts_every_prompt_that_has_a_tuco() -> None:
    measurement = with_value(a_measurement([("a",)] * 60), 7, math.nan)
    found = distribution(measurement)
    assert found is not None
    tucos = [item.tuco for item in measurement if math.isfinite(item.tuco)]
    assert sum(found["counts"]) == len(tucos) == 59
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert [found["edges"][0], found["edges"][-1]] == pytest.approx([min(tucos), max(tucos)])
    for left, right, count in zip(found["edges"], found["edges"][1:-1], found["counts"], strict=False):
        assert count == sum(left <= tuco < right for tuco in tucos)


def test_the_distribution_of_one_prompt_is_one_narrow_bar_around_it() -> None:
    measurement = a_measurement([("a",)])
    found = distribution(measurement)
    assert found is not None
    assert sum(found["counts"]) == 1
    assert found["edges"][0] < measurement[0].tuco < found["edges"][-1]
    assert found["edges"][-1] - found["edges"][0] == pytest.approx(0.01)
    assert distribution(with_value(measurement, 0, math.nan)) is None


def test_nan_is_missing_and_the_data_stay_json() -> None:
    measurement = with_value(a_measurement([tuple("abc"), tuple("de")]), 0, math.nan)
    page = Page(render_report(measurement))
    assert ">missing</td>" in rows(measurement)
    assert page.data["columns"]["tuco"][0] is None
    assert f"{measurement[1].tuco:.4f}" in page.text


def test_five_hundred_prompts_of_a_hundred_tokens_and_thirty_layers_fit_into_twelve_megabytes() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50_000, (500, 100), generator=generator).tolist()
    prompts = [tuple(f" tok{i}" for i in row) for row in ids]
    page = render_report(a_measurement(prompts, n_layers=30))
    assert len(page.encode("utf-8")) <= 12_000_000


# --- hostile text ---------------------------------------------------------------------------------------------------


def test_hostile_text_adds_no_tag_and_no_attribute() -> None:
    harmless = Page(render_report(a_measurement([("a",)] * (len(HOSTILE) + 1), base="b"), title="t"))
    prompts = [(text,) for text in HOSTILE] + [HOSTILE]
    hostile = Page(render_report(a_measurement(prompts, base=HOSTILE[0]), title=HOSTILE[0]))
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in harmless.tags
    ]
    assert hostile.scripts[2:] == harmless.scripts[2:]
    for text in (HOSTILE[0], HOSTILE[1], "$title ${title}"):
        assert text in hostile.text


def test_the_data_of_a_page_hold_no_character_that_means_anything_to_html() -> None:
    data, maps, plotly, _ = Page(render_report(a_measurement([HOSTILE, ("a",)]))).scripts
    for packed in (data, maps, plotly):
        assert re.fullmatch(r"[A-Za-z0-9+/=\n]+", packed)


def test_the_page_is_clean_utf_8_whatever_the_prompts_hold() -> None:
    encoded = render_report(a_measurement([HOSTILE])).encode("utf-8")
    assert b"\x00" not in encoded
    assert "\u202e".encode() not in encoded


def test_the_page_names_no_other_resource() -> None:
    page = Page(render_report(a_measurement([("a",)])))
    named = [value for _, attributes in page.tags for key, value in attributes.items() if key in {"src", "href"}]
    assert set(named) == {"data:,", "#prompt-0", "#table", "#viewer"}


def test_only_the_two_scripts_of_the_page_may_run() -> None:
    page = Page(render_report(a_measurement([HOSTILE])))
    policy = next(tag[1]["content"] for tag in page.tags if "http-equiv" in tag[1])
    plotly, script = inflated(page.scripts[2]), page.scripts[3].encode()
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (plotly, script)]
    assert policy is not None
    assert re.search(r"script-src ([^;]*)", policy)[1] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy.startswith("default-src 'none'")
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == [*["text/plain"] * 3, None]


def test_the_plotly_of_the_page_is_the_installed_one() -> None:
    assert inflated(Page(render_report(a_measurement([("a",)]))).scripts[2]).decode() == get_plotlyjs()


# --- writing --------------------------------------------------------------------------------------------------------


def test_writing_returns_the_path_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    measurement = a_measurement([("a",)])
    assert write_report(measurement, str(path)) == path
    assert path.read_text(encoding="utf-8") == render_report(measurement)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none/report.html", "folder"])
def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*(report\.html|folder)"):
        write_report(a_measurement([("a",)]), tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(a_measurement([("a",)]), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_prompt_keeps_its_maps_when_the_page_is_made() -> None:
    measurement = a_measurement([tuple("abc")])
    before: PromptMeasurement = measurement[0]
    kept = before.maps.cumulative_ftc.clone()
    render_report(measurement)
    assert torch.equal(before.maps.cumulative_ftc, kept)
