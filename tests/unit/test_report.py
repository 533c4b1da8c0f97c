"""The HTML report as a file: what it holds, what it must never hold, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from tuco_lens.errors import OutputError
from tuco_lens.measurement import Measurement, MeasurementSettings, NormMaps, PromptMeasurement
from tuco_lens.prompts import Prompt
from tuco_lens.report import _script_json, render_report, write_report

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "\u202egnirts",
    "\x00\x01",
    "\ud800",
    "👩\u200d💻",
    "x" * 10_000,
    "<!--",
    "]]>",
    "$title",
)


def a_measurement(prompts: list[tuple[str, ...]], n_layers: int = 3, **settings: Any) -> Measurement:
    generator = torch.Generator().manual_seed(len(prompts))
    items = []
    for tokens in prompts:
        maps = [torch.rand(n_layers, len(tokens), generator=generator) * scale for scale in (10, 3, 50, 20)]
        prompt = Prompt("".join(tokens), tuple(range(len(tokens))), tokens, ("user",) * len(tokens))
        items.append(PromptMeasurement(prompt, NormMaps(*maps)))
    named = {"base": "org/base", "tuned": "org/tuned", "backend": "bridge", "dtype": "float32", "norm": "l1"}
    facts = {"chat": False, "drift": False, "n_layers": n_layers, "d_model": 16, "version": "9.8.7"}
    return Measurement(tuple(items), MeasurementSettings(**{**named, **facts, **settings}))


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and the contents of the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def data_of(page: Page) -> dict[str, Any]:
    return json.loads(page.scripts[0])


def test_the_report_says_what_was_measured() -> None:
    measurement = a_measurement([("a ", "word"), ("b",)])
    text = Page(render_report(measurement, title="My <title>")).text
    for expected in ("My <title>", "org/base", "org/tuned", "bridge", "float32", "L1", "9.8.7", "a word"):
        assert expected in text
    for item in measurement:
        for value in (item.tuco, item.preco, item.beta):
            assert f"{value:.4f}" in text


def test_the_summary_is_median_lowest_and_highest() -> None:
    measurement = a_measurement([("a",), ("b",), ("c",)])
    text = Page(render_report(measurement)).text
    low, middle, high = (f"{value:.4f}" for value in measurement.tuco.sort().values.tolist())
    assert re.search(rf"median TuCo\s*{middle}\s*lowest TuCo\s*{low}\s*highest TuCo\s*{high}", text)


def test_the_maps_in_the_page_are_the_measured_ones_to_four_digits() -> None:
    measurement = a_measurement([tuple("abcd"), tuple("ef")])
    stored = data_of(Page(render_report(measurement)))["prompts"]
    for item, prompt in zip(measurement, stored, strict=True):
        z, norms = torch.tensor(prompt["z"]), torch.tensor(prompt["norms"])
        torch.testing.assert_close(z, item.layer_token(), rtol=5e-4, atol=0)
        torch.testing.assert_close(z * norms, item.maps.cumulative_ftc, rtol=1e-3, atol=0)
        torch.testing.assert_close((1 - z) * norms, item.maps.cumulative_ptc, rtol=1e-3, atol=1e-2)
        assert prompt["tokens"] == list(item.prompt.tokens)
        assert prompt["roles"] == list(item.prompt.roles)


def test_all_maps_have_one_colour_scale_from_zero_to_the_largest_value() -> None:
    measurement = a_measurement([tuple("abcd"), tuple("ef")])
    (trace,) = data_of(Page(render_report(measurement)))["figure"]["data"]
    assert trace["zmin"] == 0
    assert trace["zmax"] == pytest.approx(max(item.layer_token().max().item() for item in measurement))


def test_every_prompt_has_a_row_that_leads_to_its_map() -> None:
    page = Page(render_report(a_measurement([("a",)] * 5)))
    targets = [attributes["id"] for tag, attributes in page.tags if tag == "details"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert targets == [f"prompt-{i}" for i in range(5)]
    assert links == [f"#{target}" for target in targets]


def test_hostile_text_adds_no_tag_and_no_attribute() -> None:
    harmless = Page(render_report(a_measurement([("a",)] * (len(HOSTILE) + 1), base="b"), title="t"))
    prompts = [(text,) for text in HOSTILE] + [HOSTILE]
    hostile = Page(render_report(a_measurement(prompts, base=HOSTILE[0]), title=HOSTILE[0]))
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in harmless.tags
    ]
    assert hostile.scripts[1:] == harmless.scripts[1:]
    assert HOSTILE[0] in hostile.text
    assert HOSTILE[1] in hostile.text


def test_the_data_cannot_end_their_script_element_even_unescaped() -> None:
    value = {"token": HOSTILE[0], "comment": "<!--<script>"}
    written = _script_json(value)
    assert "<" not in written
    assert json.loads(written) == value
    assert "<" not in Page(render_report(a_measurement([HOSTILE]))).scripts[0]


def test_the_page_is_clean_utf_8_whatever_the_prompts_hold() -> None:
    encoded = render_report(a_measurement([HOSTILE])).encode("utf-8")
    assert b"\x00" not in encoded
    assert "\u202e".encode() not in encoded


def test_the_page_names_no_other_resource() -> None:
    page = Page(render_report(a_measurement([("a",)])))
    named = [value for _, attributes in page.tags for key, value in attributes.items() if key in {"src", "href"}]
    assert set(named) == {"data:,", "#prompt-0"}


def test_only_the_two_scripts_of_the_page_may_run() -> None:
    page = Page(render_report(a_measurement([HOSTILE])))
    policy = next(tag[1]["content"] for tag in page.tags if "http-equiv" in tag[1])
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts[1:]]
    assert policy is not None
    assert re.search(r"script-src ([^;]*)", policy)[1] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert policy.startswith("default-src 'none'")


def test_plotly_is_in_the_page_once() -> None:
    assert render_report(a_measurement([("a",)] * 3)).count("* plotly.js v") == 1


def test_two_hundred_prompts_of_a_hundred_tokens_stay_small() -> None:
    tokens = tuple(f" token{i}" for i in range(100))
    alone = len(render_report(a_measurement([("a",)], n_layers=8)))
    assert len(render_report(a_measurement([tokens] * 200, n_layers=8))) - alone < 4_000_000


def test_nan_is_missing_and_the_data_stay_json() -> None:
    measurement = a_measurement([tuple("abc"), tuple("de")])
    measurement[0].maps.cumulative_ftc[-1, -1] = math.nan
    page = Page(render_report(measurement))
    assert "TuCo missing" in page.text
    assert data_of(page)["prompts"][0]["z"][-1][-1] is None
    assert f"{measurement[1].tuco:.4f}" in page.text


def test_a_measurement_without_prompts_makes_a_page() -> None:
    page = Page(render_report(a_measurement([])))
    assert data_of(page) == {"figure": None, "prompts": []}


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
    with pytest.raises(OutputError, match="cannot write the report"):
        write_report(a_measurement([("a",)]), tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(a_measurement([("a",)]), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
