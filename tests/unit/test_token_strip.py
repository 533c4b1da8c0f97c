"""Token strips: every token escaped, colours by value, no script and no network."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.plots.template import MISSING
from tuco_lens.plots.token_strip import TokenStrip

HOSTILE = ["</span><script>alert(1)</script>", '" onmouseover="x', "<img src=x>", "&amp;", "\u202eabc", "\x1b[2J"]


class Reader(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(strip: TokenStrip) -> Reader:
    reader = Reader()
    reader.feed(strip.html())
    return reader


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), min_size=1, max_size=6))
def test_whatever_the_tokens_hold_the_page_has_only_our_tags_and_attributes(tokens: list[str]) -> None:
    reader = read(TokenStrip(tuple(tokens), (0.5,) * len(tokens), "<b>TuCo", tuple(tokens)))
    assert set(reader.tags) <= {"div", "span", "br"}
    assert {name for attributes in reader.attributes for name in attributes} <= {"style", "title"}
    assert reader.tags.count("span") == len(tokens) + 2  # and the two ends of the legend
    assert not any(character in reader.text for character in "\x1b\u202e")


def test_a_token_reads_as_it_is_and_its_tooltip_has_value_and_note() -> None:
    reader = read(TokenStrip((" a·b", "<b>"), (0.25, 0.5), "TuCo", ("one", "two")))
    assert reader.text.startswith(" a·b<b>")
    titles = [attributes["title"] for attributes in reader.attributes if "title" in attributes]
    assert titles == ["·a·b\nTuCo 0.250\none", "<b>\nTuCo 0.500\ntwo"]


def test_newlines_are_shown_and_break_the_line_where_they_are_and_empty_tokens_are_seen() -> None:
    strip = TokenStrip(("x\ny", "", "↵"), (0.0, 0.0, 0.0), "v")
    assert "x↵<br>y</span>" in strip.html()
    assert strip.html().count("<br>") == 1
    assert ">∅</span>" in strip.html()


def test_colours_go_with_the_value_and_stop_at_the_ends_of_the_scale() -> None:
    strip = TokenStrip(("a",), (0.5,), "v")
    ends = strip.colour(0.0), strip.colour(1.0)
    assert (strip.colour(-5.0), strip.colour(7.0), strip.colour(float("inf"))) == (ends[0], ends[1], ends[1])
    lightness = [sum(strip.colour(i / 10)) for i in range(11)]
    assert lightness == sorted(lightness)
    narrow = strip.clip(0.4, 0.6)
    assert (narrow.colour(0.4), narrow.colour(0.6)) == ends
    assert narrow.colour(0.5) == strip.colour(0.5)
    assert strip.clip(0.3, 0.3).colour(0.9) == ends[0]
    assert "0.40" in narrow.html()
    assert strip.low == 0.0, "refinements return new strips"


def test_a_missing_value_is_grey() -> None:
    strip = TokenStrip(("a",), (float("nan"),), "v")
    assert "#{:02x}{:02x}{:02x}".format(*strip.colour(float("nan"))) == MISSING
    assert "background:rgb(217,217,217)" in strip.html()


def test_every_token_can_be_read_on_its_colour() -> None:
    """WCAG contrast of text and ground, at least 4.5."""

    def luminance(rgb: tuple[int, ...]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for i in range(101):
        strip = TokenStrip(("a",), (i / 100,), "v")
        ground = luminance(strip.colour(i / 100))
        contrast = (
            (ground + 0.05) / 0.05 if "color:#000000" in strip.html().split("</span>")[0] else 1.05 / (ground + 0.05)
        )
        assert contrast >= 4.5, i


def test_the_strip_shows_itself_in_a_notebook_and_lengths_must_agree() -> None:
    strip = TokenStrip(("a", "b"), (0.1, 0.2), "v")
    assert strip._repr_html_() == strip.html()
    with pytest.raises(ValueError, match="zip"):
        TokenStrip(("a", "b"), (0.1,), "v").html()
