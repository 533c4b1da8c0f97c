"""The report in a real browser: it draws, fetches nothing, and runs nothing that a prompt brought along."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tuco_lens.measurement import Measurement, MeasurementSettings, NormMaps, PromptMeasurement
from tuco_lens.plots import layer_token_heatmap
from tuco_lens.prompts import Prompt

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # ms; far more than it takes, for machines busy with other work
HOSTILE = (
    "</script><script>window.ran=1;alert(1)</script>",
    "<img src=x onerror='window.ran=1;alert(1)'>",
    "<b>bold</b><br>",
    "<a href='javascript:window.ran=1'>link</a>",
    "<svg onload='window.ran=1'>",
    "\u202e\u2066reversed",
    "שלום",
    "👩\u200d💻",
    "\x00\x01",
    "A" * 10_000,
    "<!--",
    "$x^2$",
    "%{y}",
    "&lt;b&gt;",
    " the",
    " the",
    "\n\n",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


class Visit:
    """A page opened from a file, and all that it should not have done meanwhile."""

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(file.as_uri())
        self.file = file

    def open_map(self, index: int) -> Any:
        """The drawn plot of a prompt."""
        details = self.page.locator(f"#prompt-{index}")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        details.scroll_into_view_if_needed()
        plot = details.locator(".plot-container")
        plot.wait_for()
        return details

    def tick_labels(self, index: int) -> list[str]:
        return self.open_map(index).locator(".xtick text").all_text_contents()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def assert_innocent(self) -> None:
        assert self.requests == [self.file.as_uri()]
        assert self.complaints == []
        assert self.dialogs == []
        assert self.page.evaluate("window.ran === undefined")


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def opened(file: Path, width: int = 1280) -> Visit:
        visits.append(Visit(browser, file, width))
        return visits[-1]

    yield opened
    for each in visits:
        each.page.close()


def a_report(folder: Path, prompts: list[tuple[str, ...]], name: str = "base", title: str = "A report") -> Path:
    generator = torch.Generator().manual_seed(0)
    items = []
    for tokens in prompts:
        maps = [torch.rand(4, len(tokens), generator=generator) * scale for scale in (10, 3, 50, 20)]
        prompt = Prompt("".join(tokens), tuple(range(len(tokens))), tokens, ("user",) * len(tokens))
        items.append(PromptMeasurement(prompt, NormMaps(*maps)))
    settings = MeasurementSettings(name, name, "bridge", "float32", "l1", False, False, 4, 16, "0.0.0")
    return Measurement(tuple(items), settings).report(folder / "report.html", title=title)


WORDS = tuple(f" word{i}" for i in range(100))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_draws_without_network_and_without_complaint(
    tmp_path: Path, visit: Callable[..., Visit], width: int
) -> None:
    report = visit(a_report(tmp_path, [WORDS, tuple("ab"), ("a",)]), width)
    for index in range(3):
        assert report.open_map(index).locator(".heatmaplayer image").count() == 1
    assert report.overflow() == 0
    report.assert_innocent()


def test_a_map_is_drawn_only_when_it_is_opened(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    report = visit(a_report(tmp_path, [tuple("ab")] * 3))
    report.open_map(0)
    assert report.page.locator(".plot-container").count() == 1
    report.open_map(2)
    assert report.page.locator(".plot-container").count() == 2


def test_a_row_of_the_table_opens_its_map(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    report = visit(a_report(tmp_path, [tuple("ab")] * 3))
    report.page.locator("table a").nth(2).click()
    report.page.locator("#prompt-2 .plot-container").wait_for()


def test_labels_are_as_many_as_the_width_holds(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    file = a_report(tmp_path, [WORDS])
    many, few = visit(file, 1280).tick_labels(0), visit(file, 390).tick_labels(0)
    assert len(few) < len(many) < len(WORDS)
    assert many[-1] == few[-1] == "·word99"


def test_labels_follow_the_window_when_it_is_resized(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    report = visit(a_report(tmp_path, [WORDS]), 1280)
    before = len(report.tick_labels(0))
    report.page.set_viewport_size({"width": 390, "height": 800})
    # Not wait_for_function, which the page's content policy forbids.
    sync_api.expect(report.page.locator("#prompt-0 .xtick")).not_to_have_count(before, timeout=PATIENCE)
    assert len(report.tick_labels(0)) < before
    assert report.overflow() == 0


def test_pointing_at_a_cell_says_token_position_layer_and_values(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    report = visit(a_report(tmp_path, [(" the", " the", "\n")]))
    box = report.open_map(0).locator(".nsewdrag").bounding_box()
    report.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    said = report.page.locator(".hovertext").text_content()
    for part in ("·the", "user, position 1, layer 3", "TuCo so far 0.", "‖ΣPTC‖₁", "‖ΣFTC‖₁"):
        assert part in said


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_prompts_are_shown_as_text_and_nothing_runs(
    tmp_path: Path, visit: Callable[..., Visit], width: int
) -> None:
    prompts = [HOSTILE] + [(text,) for text in HOSTILE]
    report = visit(a_report(tmp_path, prompts, name=HOSTILE[0], title=HOSTILE[1]), width)
    for index in range(0, len(prompts), 3):
        report.open_map(index)
    assert report.page.locator("h1").text_content() == HOSTILE[1]
    assert report.page.locator("main img, main a:not([href^='#prompt-']), .map b, .map a, .map script").count() == 0
    assert report.overflow() == 0
    report.assert_innocent()


def test_labels_on_the_axis_show_markup_as_it_is(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    labels = visit(a_report(tmp_path, [("<b>x</b>", "&lt;", "$x^2$", "a<br>b", " ", "\x00")])).tick_labels(0)
    assert labels == ["<b>x</b>", "&lt;", "$x^2$", "a<br>b", "·", "␀"]


def test_a_figure_on_its_own_draws_and_offers_no_upload(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    values = torch.rand(4, len(HOSTILE), generator=torch.Generator().manual_seed(0))
    file = tmp_path / "figure.html"
    layer_token_heatmap(values, HOSTILE).write_html(file, include_plotlyjs=True)
    page = visit(file).page
    page.locator(".heatmaplayer image").wait_for()
    titles = page.locator(".modebar-btn").evaluate_all("buttons => buttons.map(b => b.dataset.title)")
    assert any("Download" in title for title in titles)
    assert not any("Share" in title or "loud" in title for title in titles)
    assert page.evaluate("window.ran === undefined")
    (label,) = page.locator(".xtick text").all_text_contents()[:1]
    assert label == "</script><scr…"
