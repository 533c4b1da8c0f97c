"""The explorer, and coloured tokens, in a real JupyterLab in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chromium import NEEDS_CHROMIUM, PATIENCE

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
LACKING = [name for name in ("jupyterlab", "ipykernel", "ipywidgets", "anywidget") if find_spec(name) is None]
pytestmark = [
    *NEEDS_CHROMIUM,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (make test installs them)"),
]
CELLS = (
    "import os; from pathlib import Path; Path('kernel.pid').write_text(str(os.getpid()))",
    "import warnings; warnings.simplefilter('ignore')\n"
    "import tuco_lens as tl; pair = tl.ModelPair.demo()\n"
    "pair.measure('The first output carries the script.')[0].colored_tokens()",
    "pair.measure('The <b>second</b> one does not.')[0].colored_tokens()",
    "e = pair.explore('Tell me about the sea.', chat=True, max_new_tokens=8)\ne",
)
HOSTILE = (
    "</textarea></script><script>window.ran=1;alert(1)</script><img src=x onerror='window.ran=1;alert(1)'>"
    "<svg/onload='window.ran=1'> <b>bold</b> $x^2$ %{y} \u202eback"
)
SETTINGS = {"notification": {"checkForUpdates": False, "fetchNews": "false"}, "themes": {"theme": "JupyterLab Light"}}


class Lab:
    """A JupyterLab server of this interpreter, all of whose files are in one folder; `stop` ends its kernels too."""

    def __init__(self, folder: Path, settings: dict[str, dict[str, Any]]) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        _write_settings(folder / "settings", settings)
        (folder / "explorer.ipynb").write_text(json.dumps(_notebook()), encoding="utf-8")
        own = {name: str(folder / name.lower()) for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
        own |= {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "JUPYTER_DATA_DIR": str(folder / "data")}
        own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "work")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += ["--port=0", f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={folder}"]
        command += ["--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
        command += ["--LabApp.expose_app_in_browser=True"]  # by which tests change its theme
        self.log = (folder / "server.log").open("wb")
        self.server = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **own}, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def address(self) -> str:
        """Its address, once it answers."""
        deadline = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < deadline and self.server.poll() is None:
            url = self._answering()
            if url is not None:
                return url
            time.sleep(0.2)
        pytest.fail("JupyterLab did not start: " + (self.folder / "server.log").read_text(errors="replace")[-2000:])

    def _answering(self) -> str | None:
        for file in (self.folder / "runtime").glob("jpserver-*.json"):
            # The file may be half-written, and the server not listening yet.
            with contextlib.suppress(ValueError, OSError):
                url: str = json.loads(file.read_text())["url"]
                head = {"Authorization": f"token {self.token}"}
                with urllib.request.urlopen(urllib.request.Request(f"{url}api/status", headers=head), timeout=10):
                    return url
        return None

    def stop(self) -> None:
        """End the server, which ends its kernels; and whatever of them is still there."""
        pid_file = self.folder / "kernel.pid"
        _end(self.server.pid)
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait(20)
        self.log.close()
        if pid_file.exists():
            _end(int(pid_file.read_text()), signal.SIGKILL)


def _end(pid: int, how: int = signal.SIGTERM) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def _write_settings(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    of_extension = folder / "@jupyterlab" / "apputils-extension"
    of_extension.mkdir(parents=True)
    for name, values in settings.items():
        (of_extension / f"{name}.jupyterlab-settings").write_text(json.dumps(values))


def _notebook() -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}
        for i, cell in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


class Notebook:
    """The notebook in JupyterLab, all its cells run, and whatever the page should not have done."""

    def __init__(self, browser: Any, lab: Lab) -> None:
        url = lab.address()
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.goto(f"{url}doc/tree/explorer.ipynb?token={lab.token}")
        self.page.get_by_text("| Idle").first.wait_for()  # a cell that is run before is dropped
        for i in range(len(CELLS)):
            self.page.locator(".jp-CodeCell .cm-content").nth(i).click()
            self.page.keyboard.press("Control+Enter")
        self.explorer = self.page.locator(".tuco-lens-explorer")
        self.explorer.wait_for()

    def output(self, cell: int) -> Any:
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea")

    def ask(self, prompt: str) -> None:
        """Type a prompt and run it."""
        self.explorer.locator("textarea").fill(prompt)
        self.explorer.locator("button", has_text="Run").click()

    def set_alpha(self, alpha: str) -> None:
        readout = self.explorer.locator(".widget-slider", has_text="α").locator(".widget-readout").first
        readout.fill(alpha)
        readout.press("Enter")

    def text(self, name: str) -> Any:
        """One of the explorer's texts: status, prompt, scaled, tuned or next."""
        return self.explorer.locator(f".tuco-lens-{name} .widget-html-content")

    def shows(self, name: str, text: str) -> None:
        sync_api.expect(self.text(name)).to_contain_text(text, timeout=PATIENCE)

    def click_corner(self, tab: Any) -> None:
        """Click a map's last layer at the last token."""
        plot = tab.locator(".nsewdrag").first
        plot.scroll_into_view_if_needed()  # a click outside the window falls on nothing
        box = plot.bounding_box()
        self.page.mouse.click(box["x"] + box["width"] - 4, box["y"] + 4)

    def set_theme(self, theme: str) -> None:
        """JupyterLab's own, "Light" or "Dark"."""
        self.page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', { theme: `JupyterLab ${theme}` })", theme
        )
        self.page.locator(f'body[data-jp-theme-light="{str(theme == "Light").lower()}"]').wait_for(state="attached")

    def tick_labels(self) -> list[str]:
        """Tokens below the map."""
        return self.explorer.locator(".xtick text").all_text_contents()

    def assert_innocent(self) -> None:
        hosts = {urlsplit(url).hostname for url in self.requests if urlsplit(url).scheme not in ("data", "blob")}
        assert hosts == {"127.0.0.1"}
        assert self.dialogs == []
        assert self.page.evaluate("window.ran === undefined")


@pytest.fixture(scope="module")
def notebook(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    lab = Lab(tmp_path_factory.mktemp("lab"), SETTINGS)
    try:
        yield Notebook(browser, lab)
    finally:
        lab.stop()


def test_the_explorer_draws_its_map_over_the_whole_width(notebook: Notebook) -> None:
    notebook.explorer.locator(".heatmaplayer image").first.wait_for()
    notebook.shows("status", "α = 1: TuCo")
    notebook.shows("tuned", "Continuation at α = 1")
    notebook.shows("next", "base")
    assert any("sea" in label for label in notebook.tick_labels())
    plot, whole = notebook.explorer.locator(".main-svg").first, notebook.explorer
    notebook.page.wait_for_function(
        "([a, b]) => Math.abs(a.clientWidth - b.clientWidth) < 20",
        arg=[plot.element_handle(), whole.element_handle()],
    )
    notebook.assert_innocent()


def test_a_changed_prompt_redraws_strip_and_map(notebook: Notebook) -> None:
    notebook.ask("Where is the king?")
    notebook.shows("prompt", "king")
    sync_api.expect(notebook.explorer.locator(".xtick text", has_text="king")).to_have_count(1, timeout=PATIENCE)
    assert not any("sea" in label for label in notebook.tick_labels())
    notebook.assert_innocent()


def test_the_slider_changes_the_continuation_and_alpha_one_is_the_tuned_model(notebook: Notebook) -> None:
    notebook.set_alpha("-0.5")
    notebook.shows("scaled", "Continuation at α = -0.5")
    notebook.shows("next", "α = -0.5")
    assert _tokens(notebook.text("scaled")) != _tokens(notebook.text("tuned"))
    notebook.explorer.locator("button", has_text="α = 1").click()
    notebook.shows("scaled", "Continuation at α = 1")
    assert _tokens(notebook.text("scaled")) == _tokens(notebook.text("tuned"))


def test_each_layer_has_a_slider_of_its_own(notebook: Notebook) -> None:
    notebook.explorer.locator("label", has_text="each layer by itself").click()
    sliders = notebook.explorer.locator(".widget-slider.widget-vslider, .widget-vslider")
    sync_api.expect(sliders.first).to_be_visible(timeout=PATIENCE)
    readout = sliders.nth(2).locator(".widget-readout")
    readout.fill("0.25")
    readout.press("Enter")
    notebook.shows("status", "α = 0.25 in layer 2: TuCo")
    notebook.explorer.locator("label", has_text="each layer by itself").click()
    notebook.explorer.locator("button", has_text="α = 1").click()
    notebook.shows("status", "α = 1: TuCo")


def test_a_hostile_prompt_is_shown_as_text_and_nothing_runs(notebook: Notebook) -> None:
    notebook.ask(HOSTILE)
    notebook.shows("prompt", "window.ran=1")
    notebook.shows("status", "TuCo")
    drawn = notebook.explorer.locator("script, b, .tuco-lens-prompt img, .tuco-lens-next img, .tuco-lens-prompt svg")
    assert drawn.count() == 0
    notebook.assert_innocent()


def test_an_error_is_one_line_and_the_last_answer_stays(notebook: Notebook) -> None:
    notebook.ask("Hello there")
    notebook.shows("prompt", "there")
    notebook.ask(" ")
    notebook.shows("status", "it is empty")
    assert "there" in notebook.text("prompt").text_content()
    notebook.ask("Hello again")
    notebook.shows("prompt", "again")
    notebook.shows("status", "TuCo")


def test_the_first_coloured_tokens_of_a_notebook_carry_the_script_for_all(notebook: Notebook) -> None:
    first, second = notebook.output(1), notebook.output(2)
    for output, word in ((first, "first"), (second, "does")):
        output.locator(".tuco-lens-live .colored-tokens > span", has_text=word).wait_for()
    assert len(first.inner_html()) > 1_000_000
    assert len(second.inner_html()) < 50_000
    second.locator(".colored-tokens > span", has_text="does").hover()
    second.locator(".colored-tokens > div", has_text="TuCo 0.").wait_for()
    notebook.assert_innocent()


@pytest.mark.parametrize(
    ("width", "theme", "word"),
    [(1280, "Dark", "bird"), (1280, "Light", "tree"), (390, "Dark", "river"), (390, "Light", "house")],
)
def test_the_why_tab_draws_its_map_and_a_click_tells_words_and_components(
    notebook: Notebook, width: int, theme: str, word: str
) -> None:
    notebook.set_theme(theme)
    notebook.page.set_viewport_size({"width": width, "height": 1000})
    notebook.ask(f"Where is the {word}?")
    notebook.shows("prompt", word)
    notebook.explorer.locator(".lm-TabBar-tab", has_text="Why").click()
    notebook.shows("why-status", "at α = 1, a change of")
    why = notebook.explorer.locator(".widget-tab-contents > *", has=notebook.page.locator(".tuco-lens-why-status"))
    sync_api.expect(why.locator(".xtick text", has_text=word)).to_have_count(1, timeout=PATIENCE)
    n_traces = 2  # the map, and the band of roles below it: the last prompt's are gone
    sync_api.expect(why.locator(".heatmaplayer image")).to_have_count(n_traces, timeout=PATIENCE)
    plot = why.locator(".main-svg").first
    notebook.page.wait_for_function(
        "([a, b]) => Math.abs(a.clientWidth - b.clientWidth) < 20",
        arg=[plot.element_handle(), notebook.explorer.element_handle()],
    )
    assert notebook.explorer.evaluate("box => box.scrollWidth - box.clientWidth") <= 2
    notebook.click_corner(why)
    notebook.shows("why-cell", "Layer 7 at")
    notebook.shows("why-cell", "attention")
    notebook.shows("why-cell", "FTC writes")
    for name in ("why-status", "why-cell"):
        red = int(notebook.text(name).evaluate("text => getComputedStyle(text).color.match(/\\d+/)[0]"))
        assert red > 150 if theme == "Dark" else red < 100, name
    notebook.set_alpha("0.5")
    notebook.shows("why-status", "at α = 0.5, a change of")
    notebook.explorer.locator("button", has_text="α = 1").click()
    notebook.shows("why-status", "at α = 1, a change of")
    notebook.explorer.locator(".lm-TabBar-tab", has_text="Response").click()
    notebook.assert_innocent()


def _tokens(text: Any) -> list[str]:
    """The tokens of a continuation, without heading and legend."""
    return text.locator("div > div:first-child > span").all_text_contents()
