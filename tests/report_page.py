"""The HTML report as tests look at it: the tags and texts of its page, and the page in a browser."""

from __future__ import annotations

import base64
import json
import math
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np

from tests.chromium import Visit


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

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(inflated(self.scripts[0]))


def inflated(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


class Report:
    """A report that is open in a browser: what stands in it, and what a reader can do with it."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.page = visit.page
        self.map, self.profile = self.page.locator("#heatmap"), self.page.locator("#profile")

    def drawn(self) -> Report:
        """The same, once its figures are drawn."""
        self.page.locator("#heatmap .heatmaplayer image").wait_for()
        self.page.locator("#profile .scatterlayer .trace").first.wait_for()
        return self

    def open(self, index: int) -> Report:
        """The same, once prompt `index` is shown."""
        self.page.evaluate(f"location.hash = '#prompt-{index}'")
        self.page.locator("#number", has_text=str(index)).wait_for()
        self.page.wait_for_timeout(50)  # the figures follow in the same turn as the heading
        return self.drawn()

    @property
    def number(self) -> str:
        return self.page.locator("#number").text_content()

    @property
    def hash(self) -> str:
        return self.page.evaluate("location.hash")

    def until(self, selector: str, text: str) -> None:
        """Waits for a text; not wait_for_function, which the page's content policy forbids."""
        self.page.locator(selector, has_text=text).first.wait_for()

    def shown_rows(self) -> list[int]:
        """Prompts in the table, from top to bottom."""
        cells = self.page.locator("#rows tbody tr:not([hidden]) td:first-child")
        return [int(text) for text in cells.all_text_contents()]

    def sort(self, column: str) -> list[int]:
        self.page.locator(f"th[data-column={column}] button").click()
        return self.shown_rows()

    def filter(self, needle: str = "", least: str = "", most: str = "") -> list[int]:
        for name, value in {"needle": needle, "least": least, "most": most}.items():
            self.page.locator(f"#{name}").fill(value)
        return self.shown_rows()

    def count(self) -> str:
        return self.page.locator("#count").text_content()

    def choose_tune(self, number: int) -> Report:
        """The same, once another tune is shown, chosen on the switch."""
        switch = self.page.locator("[name=tune]")
        if switch.first.evaluate("control => control.tagName") == "SELECT":
            switch.select_option(str(number))
        else:
            switch.nth(number).check()
        self.page.wait_for_timeout(100)  # figures follow once the maps are unpacked
        return self.drawn()

    def cells(self, column: str) -> list[str]:
        """A column of the table, from top to bottom."""
        return self.page.locator(f"#rows tbody td.{column}").all_text_contents()

    def z(self) -> Any:
        """The numbers that the map draws, [n_layers, n_tokens]."""
        z = self.page.evaluate("Array.from(document.getElementById('heatmap').data[0].z, row => Array.from(row))")
        return np.array([[math.nan if value is None else value for value in row] for row in z])

    def line(self, trace: int) -> list[float]:
        """The numbers of a line of the profile, from the first layer on."""
        return self.page.evaluate(f"Array.from(document.getElementById('profile').data[{trace}].x)")

    def layout(self, path: str, figure: str = "heatmap") -> Any:
        return self.page.evaluate(f"document.getElementById('{figure}').layout.{path}")

    def selects(self, token: int) -> None:
        """Wait for a click or key to have selected a token: plotly.js tells of it after the event."""
        self.page.locator(f"#strip #token-{token}[aria-selected=true]").wait_for(state="attached")
        assert self.selected_token() == token

    def selected_token(self) -> int:
        (name,) = self.page.locator("#strip [aria-selected=true]").evaluate_all("spans => spans.map(s => s.id)")
        assert self.page.locator("#strip").get_attribute("aria-activedescendant") == name
        return int(name.removeprefix("token-"))

    def band(self, name: str) -> float | None:
        """Where the middle of a band of the map is, as a share of the map's width; None if it is not shown."""
        band = self.page.locator(f"figure:has(#heatmap) .{name}")
        if not band.is_visible():
            return None
        box, area = band.bounding_box(), self.page.locator("#heatmap .nsewdrag").bounding_box()
        return (box["x"] + box["width"] / 2 - area["x"]) / area["width"]

    def at_cell(self, layer: int, token: int) -> tuple[float, float]:
        """Where a cell of the map is in the window."""
        self.map.scroll_into_view_if_needed()
        area = self.page.locator("#heatmap .nsewdrag").bounding_box()
        n_layers, n_tokens = self.z().shape
        x = area["x"] + area["width"] * (token + 0.5) / n_tokens
        return x, area["y"] + area["height"] * (1 - (layer + 0.5) / n_layers)

    def tick_labels(self) -> list[str]:
        return self.map.locator(".xtick text").all_text_contents()

    def background(self) -> str:
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")
