"""Coloured tokens: the HTML around circuitsvis; a browser runs it in tests/browser/test_tokens_browser.py."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.engine.contributions import NormMaps
from tuco_lens.errors import InputError, LoadError, OutputError
from tuco_lens.plots import tokens as module
from tuco_lens.plots.display import Carrier
from tuco_lens.plots.labels import readable
from tuco_lens.plots.tokens import NEGATIVE, POSITIVE, ColoredTokens, colored_tokens, script_source
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.results.measurement import PromptMeasurement

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "&lt;b&gt;&#60;i&#62;",
    "<!--",
    "\u202eabc",
    "\ud800",
    "שלום",
]


class Reader(HTMLParser):
    """Tags with their attributes, the scripts, and all other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.scripts: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data


def props(shown: ColoredTokens) -> dict[str, Any]:
    """What circuitsvis is given."""
    (call,) = Reader(shown.html(script=False)).scripts
    return json.loads(call[call.rindex('", {"tokens"') + 3 : call.rindex(");")])


def an_item(n_layers: int = 3, n_tokens: int = 4) -> PromptMeasurement:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(n_layers, n_tokens, generator=generator) + 0.1 for _ in range(4)]
    tokens = tuple("abcdefgh"[:n_tokens])
    return PromptMeasurement(Prompt("x", tuple(range(n_tokens)), tokens, ("user",) * n_tokens), NormMaps(*maps))


def test_a_measured_prompt_is_coloured_by_tuco_whose_last_value_is_the_prompts() -> None:
    item = an_item()
    shown = item.colored_tokens()
    assert shown.values == tuple(item.layer_token()[-1].tolist())
    assert shown.values[-1] == pytest.approx(item.tuco, rel=1e-6)
    assert (shown.token_texts, shown.name) == (item.prompt.tokens, "TuCo")
    assert shown.notes == ("user, position 0", "user, position 1", "user, position 2", "user, position 3")


def test_any_layer_of_any_map_colours_a_prompt_and_says_which() -> None:
    item = an_item()
    shown = item.colored_tokens("local", 1)
    assert shown.values == tuple(item.layer_token("local")[1].tolist())
    assert shown.name.endswith("layer 1")
    assert item.colored_tokens("cumulative", -2) == item.colored_tokens("cumulative", 1)
    assert item.colored_tokens("cumulative", 2) == item.colored_tokens()


@pytest.mark.parametrize(("kind", "layer", "why"), [("local", 3, "3"), ("local", -4, "-4"), ("drift", 0, "drift")])
def test_a_layer_or_map_that_is_not_there_is_refused(kind: Any, layer: int, why: str) -> None:
    with pytest.raises(InputError, match=why):
        an_item().colored_tokens(kind, layer)


def test_the_component_gets_tokens_numbers_and_what_tooltips_say() -> None:
    given_props = props(colored_tokens([" a", "b"], [0.25, 0.123456], name="TuCo", notes=["one", "two\nlines"]))
    assert given_props["tokens"] == [" a", "b"]
    assert given_props["values"] == [["TuCo 0.25\none", 0.25], ["TuCo 0.1235\ntwo\nlines", 0.123456]]
    assert (given_props["minValue"], given_props["maxValue"]) == (0.0, 0.25)
    assert (given_props["negativeColor"], given_props["positiveColor"]) == (NEGATIVE, POSITIVE)


def test_colours_go_from_white_at_zero_both_ways_and_stop_at_the_ends() -> None:
    strip = colored_tokens(["a", "b", "c"], [-2.0, 0.0, 4.0]).strip()
    assert (strip.low, strip.high) == (-2.0, 4.0)
    assert strip.colour(0.0) == (255, 255, 255)
    assert "#{:02X}{:02X}{:02X}".format(*strip.colour(-2.0)) == NEGATIVE
    assert "#{:02X}{:02X}{:02X}".format(*strip.colour(4.0)) == POSITIVE
    assert strip.colour(9.0) == strip.colour(math.inf) == strip.colour(4.0)
    assert colored_tokens(["a"], [1.0]).strip().colour(-1.0) == (255, 255, 255)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=8))
def test_any_values_make_valid_json_within_the_range(values: list[float]) -> None:
    found = props(colored_tokens(["a"] * len(values), values))
    assert found["minValue"] <= 0 < found["maxValue"]
    for (_, number), value in zip(found["values"], values, strict=True):
        assert found["minValue"] <= number <= found["maxValue"]
        assert number == value or not math.isfinite(value)


def test_a_missing_value_is_grey_in_both_views_and_counted() -> None:
    shown = colored_tokens(["a", "b", "c"], [0.5, math.nan, 0.1])
    page = shown.html(script=False)
    assert "1 of 3 values missing" in Reader(page).text
    assert props(shown)["values"][1] == ["value missing", 0.0]
    assert page.count("span:nth-of-type(2)>span") == 1
    assert page.count("background:rgb(217,217,217)") == 1
    assert "nan" not in page.lower()


def test_values_may_all_be_missing_or_equal_or_zero() -> None:
    for values in ([math.nan] * 2, [0.0, 0.0], [0.3, 0.3], [-0.5, -0.5]):
        shown = colored_tokens(["a", "a"], values)
        assert shown.low <= 0 < shown.high
        assert Reader(shown.html(script=False)).text.startswith("aa")


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), min_size=1, max_size=6))
def test_whatever_the_tokens_hold_the_html_has_only_our_tags(tokens: list[str]) -> None:
    shown = colored_tokens(tokens, [0.5] * len(tokens), name=tokens[0], notes=tokens)
    reader = Reader(shown.html(script=False))
    assert set(reader.tags) <= {"div", "span", "br", "style", "script"}
    assert reader.tags.count("script") == reader.tags.count("style") == 1
    assert reader.names <= {"class", "style", "title"}
    (call,) = reader.scripts
    assert "<" not in call
    shown.html().encode("utf-8")


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)))
def test_a_token_put_into_a_page_as_markup_is_the_text_it_was(token: str) -> None:
    """circuitsvis sets innerHTML, with a no-break space for each white space."""
    (given_token,) = props(colored_tokens([token], [0.0]))["tokens"]
    reader = Reader(re.sub(r"\s", "&nbsp;", given_token))
    assert reader.tags == []
    seen = reader.text.replace("\u2060", "")
    expected = "↵\n".join(readable(line, 10_000) for line in token.split("\n")) if token else "∅"
    assert seen == re.sub(r"\s", "\xa0", expected).replace("\u2060", "")


def test_the_static_strip_is_in_every_piece_and_the_script_only_where_asked_for() -> None:
    shown = colored_tokens(["a", "b"], [0.1, 0.2])
    without, with_script = shown.html(script=False), shown.html()
    for page in (without, with_script):
        assert shown.strip().html() in page
    assert len(without) < 10_000
    assert len(Reader(without).scripts) == 1
    assert Reader(with_script).scripts[0] == script_source()


def test_the_script_cannot_end_its_element_and_names_no_source_map() -> None:
    source = script_source()
    assert "ColoredTokens" in source
    assert "</script" not in source.lower()
    assert "<!--" not in source
    assert "sourceMappingURL" not in source


def test_nothing_in_a_piece_or_page_is_fetched() -> None:
    shown = colored_tokens(["a"], [0.1])
    for page in (shown.html(), shown.page()):
        reader = Reader(page)
        assert not reader.names & {"src", "srcset", "data", "action"}
        assert not set(reader.tags) & {"img", "iframe", "object", "embed", "a"}
        assert page.count("href=") == page.count('href="data:,"') + script_source().count("href=")


def test_the_pages_policy_names_exactly_its_own_scripts() -> None:
    page = colored_tokens(HOSTILE[:5], [0.5] * 5, name=HOSTILE[0]).page()
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in Reader(page).scripts}
    assert set(re.findall(r"'sha256-([^']+)'", page)) == digests
    assert len(digests) == 2
    assert "default-src 'none'" in page


def test_saving_writes_the_page_or_leaves_nothing(tmp_path: Path) -> None:
    shown = colored_tokens(["a"], [0.1])
    assert shown.save(tmp_path / "tokens.html").read_text(encoding="utf-8") == shown.page()
    with pytest.raises(OutputError, match="absent"):
        shown.save(tmp_path / "absent" / "tokens.html")
    assert [file.name for file in tmp_path.iterdir()] == ["tokens.html"]


def test_the_same_tokens_give_the_same_html_and_others_another_name() -> None:
    first, same = (colored_tokens(["a", "b"], [0.1, 0.2]) for _ in range(2))
    other = colored_tokens(["a", "b"], [0.1, 0.3])
    assert first.html(script=False) == same.html(script=False)
    names = [re.findall(r"tuco-lens-[0-9a-f]{16}", each.html(script=False))[0] for each in (first, other)]
    assert names[0] != names[1]


def test_refinements_return_new_objects_and_compose() -> None:
    shown = colored_tokens(list("abcd"), [0.1, 0.2, 0.3, 0.4], notes=list("wxyz"))
    part = shown.tokens(1, -1).clip(-1.0, 2.0)
    assert (part.token_texts, part.values, part.notes) == (("b", "c"), (0.2, 0.3), ("x", "y"))
    assert (part.low, part.high) == (-1.0, 2.0)
    assert (shown.token_texts, shown.high) == (tuple("abcd"), 0.4)
    assert colored_tokens(["a", "b"], [1, 2]).tokens(1).notes == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.low = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (-1.0, 0.0), (-1.0, -0.5), (0.0, math.inf), (math.nan, 1.0)])
def test_a_range_without_zero_or_without_end_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="white, at 0"):
        colored_tokens(["a"], [0.1]).clip(low, high)


def test_what_cannot_be_coloured_is_refused() -> None:
    with pytest.raises(InputError, match="no tokens"):
        colored_tokens([], [])
    with pytest.raises(InputError, match="2 tokens and 1 values"):
        colored_tokens(["a", "b"], [0.1])
    with pytest.raises(InputError, match="2 tokens and 1 notes"):
        colored_tokens(["a", "b"], [0.1, 0.2], notes=["x"])
    with pytest.raises(InputError, match="keeps none"):
        colored_tokens(["a"], [0.1]).tokens(3, 2)


def test_a_circuitsvis_without_its_script_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    script_source.cache_clear()
    try:
        with pytest.raises(LoadError, match="pip install circuitsvis"):
            colored_tokens(["a"], [0.1]).html()
        assert "aa" not in colored_tokens(["a"], [0.1]).html(script=False)  # needs no script
    finally:
        script_source.cache_clear()


class Kernel:
    """Stands for IPython: which cell is run by which message."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parent: dict[str, Any] = {}
        shell = SimpleNamespace(get_parent=lambda: self.parent)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setattr(module, "_CARRIER", Carrier())
        self.n_messages = 0

    def run(self, cell: str | None, *, deleted: tuple[str, ...] = (), n_outputs: int = 1) -> list[bool]:
        """Which of the outputs of a cell carry the script."""
        self.n_messages += 1
        metadata = {"deletedCells": deleted} | ({} if cell is None else {"cellId": cell})
        self.parent = {"header": {"msg_id": str(self.n_messages)}, "metadata": metadata}
        outputs = [colored_tokens(["a"], [0.1])._repr_html_() for _ in range(n_outputs)]
        return [len(Reader(output).scripts) == 2 for output in outputs]


def test_the_first_output_of_a_kernel_carries_the_script_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    assert kernel.run("one", n_outputs=3) == [True, False, False]
    assert kernel.run("two") == [False]


def test_the_script_is_carried_again_when_its_cell_runs_again_or_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    kernel.run("one")
    assert kernel.run("one", n_outputs=2) == [True, False]
    assert kernel.run("two") == [False]
    assert kernel.run("three", deleted=("two",)) == [False]
    assert kernel.run("two", deleted=("one",)) == [True]
    assert kernel.run("three") == [False]


def test_a_kernel_that_does_not_name_its_cells_carries_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    assert [kernel.run(None) for _ in range(3)] == [[True], [False], [False]]


def test_where_outputs_share_no_page_each_carries_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert [kernel.run("one"), kernel.run("two")] == [[True], [True]]


def test_without_a_kernel_each_piece_carries_it() -> None:
    pieces = [colored_tokens(["a"], [0.1])._repr_html_() for _ in range(2)]
    assert [len(Reader(piece).scripts) for piece in pieces] == [2, 2]
