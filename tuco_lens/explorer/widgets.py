"""The explorer's controls, as ipywidgets. What they show is computed in `view.py` and written in `html.py`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from tuco_lens.errors import InputError, TucoLensError
from tuco_lens.explorer import html as pages
from tuco_lens.explorer.layout import Picture, column, fitted, ipywidgets, row, text
from tuco_lens.explorer.view import ExplorerRequest, ExplorerView, Viewer
from tuco_lens.explorer.why import WhyTab
from tuco_lens.plots.heatmap import layer_token_map, set_title
from tuco_lens.plots.template import Theme, look
from tuco_lens.steering.alpha import Alpha, layer_alphas

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.results.measurement import MapKind

LOWEST, HIGHEST, STEP = -1.0, 2.0, 0.05
"""The α sliders' range, which is widened to hold the α given, and their step."""
MAPS: Final = {"TuCo so far (cumulative)": "cumulative", "each layer alone (local)": "local"}


class Explorer:
    """A prompt, α, and what follows from them; shows itself in a notebook. Made by `ModelPair.explore`.

    `view` has what is shown, as data; it is the last good one while the status line shows an error.
    """

    def __init__(
        self,
        pair: ModelPair,
        prompt: str,
        *,
        chat: bool = False,
        alpha: Alpha = 1.0,
        max_new_tokens: int = 16,
        theme: Theme = "light",
    ) -> None:
        _check(pair, prompt, max_new_tokens)
        look(theme)  # refuses an unknown theme
        alphas = layer_alphas(alpha, pair.n_layers)
        self.viewer = Viewer(pair)
        self.theme: Theme = theme
        self.view: ExplorerView | None = None
        """What is shown; None before the first good answer."""
        self._is_quiet = False
        self._home = _Home()
        self.controls = Controls(prompt, chat, alphas, max_new_tokens, pair.n_ctx)
        self.status, self.strip = text("status"), text("prompt")
        self.scaled, self.tuned, self.next_tokens = text("scaled", 320), text("tuned", 320), text("next", 320)
        self.map, self.why = Picture(self._home.run), WhyTab(pair, theme, self._home.run)
        self.tabs = ipywidgets.Tab(layout=ipywidgets.Layout(width="100%", overflow="visible"))
        self.widget: Any = self._arranged()
        self._observe()
        self.update()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.map.is_shown_anew()
        self.why.picture.is_shown_anew()
        return self.widget._repr_mimebundle_(**options)

    def request(self) -> ExplorerRequest:
        """What the controls ask for."""
        controls = self.controls
        return ExplorerRequest(
            controls.prompt.value, controls.chat.value, controls.alphas(), controls.max_new_tokens.value
        )

    def update(self) -> None:
        """Answer what the controls ask for; an error is shown in the status line, above the last good answer."""
        self.status.value = "working …"
        start = time.perf_counter()
        try:
            view = self.viewer.view(self.request())
            if view is not self.view:
                self._draw(view)
        except TucoLensError as error:
            self.status.value = pages.failure(str(error))
        except BaseException as error:  # an interrupt, or a defect: shown, and left to Jupyter's log
            self.status.value = pages.failure(f"{type(error).__name__}: {error}")
            raise
        else:
            self.view = view
            self.status.value = pages.status(view, time.perf_counter() - start)
            self._ask_why()

    @property
    def figure(self) -> Any:
        """The map, a FigureWidget; None before the first good answer."""
        return self.map.figure

    def _ask_why(self) -> None:
        """Gradients cost as much as many passes, so they are taken while their tab is open."""
        if self.tabs.selected_index == 1 and self.view is not None:
            self.why.update(self.view)

    def _draw(self, view: ExplorerView) -> None:
        words = pages.alpha_words(view.request.alphas)
        scaled, tuned = view.continuation_strips()
        self.strip.value = pages.prompt_html(view.prompt_strip())
        self.scaled.value = pages.continuation(view.scaled, scaled, f"Continuation at {words}")
        self.tuned.value = pages.continuation(view.tuned, tuned, "Continuation at α = 1")
        self.next_tokens.value = pages.next_token_table(view.next_tokens, words)
        self._draw_map(view, words)

    def _draw_map(self, view: ExplorerView, words: str) -> None:
        drawn: Any = layer_token_map(view.scaled.measurement, self._map_kind()).figure(self.theme)
        set_title(drawn, drawn.layout.title.text, words, drawn.layout.title.subtitle.text)
        self.map.draw(drawn)

    def _observe(self) -> None:
        controls, home = self.controls, self._home
        for control in controls.asking():
            control.observe(lambda _: self._changed(), "value")
        controls.map.observe(lambda _: home.run(self._draw_again), "value")
        controls.by_layer.observe(lambda _: home.run(self._switch), "value")
        self.tabs.observe(lambda _: home.run(self._ask_why), "selected_index")
        controls.run.on_click(lambda _: home.run(self.update))
        controls.reset.on_click(lambda _: home.run(self._reset))

    def _changed(self) -> None:
        if not (self._is_quiet and self._home.is_here()):
            self._home.run(self.update)

    def _draw_again(self) -> None:
        if self.view is not None:
            self._draw(self.view)

    def _map_kind(self) -> MapKind:
        return cast("MapKind", self.controls.map.value)

    def _switch(self) -> None:
        with self._quietly():
            self.controls.switch()
        self.update()

    def _reset(self) -> None:
        with self._quietly():
            self.controls.set_alphas([1.0] * self.viewer.pair.n_layers)
        self.update()

    @contextmanager
    def _quietly(self) -> Generator[None]:
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False

    def _arranged(self) -> Any:
        controls = self.controls
        response = column(
            self.strip,
            self.map.box,
            row(self.scaled, self.tuned, align_items="flex-start"),
            self.next_tokens,
        )
        self.tabs.children, self.tabs.titles = (response, self.why.widget), ("Response", "Why")
        self.tabs.selected_index = 0
        box = column(
            ipywidgets.HTML(pages.STYLE, layout=ipywidgets.Layout(display="none")),
            controls.prompt,
            row(controls.chat, controls.max_new_tokens, controls.map, controls.run),
            row(controls.alpha, controls.layers, controls.by_layer, controls.reset),
            controls.equaliser,
            self.status,
            self.tabs,
        )
        box.add_class("tuco-lens-explorer")
        return box


class _Home:
    """The thread that made the explorer, where alone it uses the models.

    JupyterLab may have a kernel run the callbacks of widgets on other threads, beside a cell. One that scaled the tuned
    model there would change what the cell computes. Here they wait until the cell has ended.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:  # not in a kernel
            self.loop = None

    def is_here(self) -> bool:
        """Whether this is that thread, or the only one that can be used."""
        return self.loop is None or threading.get_ident() == self.thread

    def run(self, act: Callable[[], None]) -> None:
        """Run it there, at once or as soon as that thread is free."""
        if self.loop is None or self.is_here():
            act()
        else:
            self.loop.call_soon_threadsafe(act)


class Controls:
    """What the user sets.

    Args:
        prompt: the text to begin with.
        chat: whether it goes through the chat template.
        alphas: α by layer.
        max_new_tokens: of the continuations.
        n_ctx: most tokens that can be asked for.
    """

    def __init__(self, prompt: str, chat: bool, alphas: Sequence[float], max_new_tokens: int, n_ctx: int) -> None:
        self.n_layers = len(alphas)
        ends = {"min": min(LOWEST, *alphas), "max": max(HIGHEST, *alphas), "step": STEP, "continuous_update": False}
        style = {"description_width": "initial"}
        self.prompt = ipywidgets.Textarea(
            prompt, placeholder="Prompt", rows=3, continuous_update=False, layout=ipywidgets.Layout(width="auto")
        )
        self.chat = ipywidgets.Checkbox(chat, description="chat template", indent=False, layout=fitted())
        self.max_new_tokens = ipywidgets.BoundedIntText(
            max_new_tokens, min=1, max=n_ctx, description="new tokens", style=style, layout=fitted("150px")
        )
        self.map = ipywidgets.Dropdown(options=MAPS, description="map", style=style, layout=fitted("250px"))
        self.run = ipywidgets.Button(description="Run", button_style="primary", layout=fitted("80px"))
        self.alpha = ipywidgets.FloatSlider(1.0, description="α", style=style, layout=fitted("340px"), **ends)
        self.layers = ipywidgets.IntRangeSlider(
            value=(0, self.n_layers - 1),
            min=0,
            max=self.n_layers - 1,
            description="layers",
            continuous_update=False,
            style=style,
            layout=fitted("340px"),
        )
        self.by_layer = ipywidgets.Checkbox(False, description="each layer by itself", indent=False, layout=fitted())
        self.reset = ipywidgets.Button(description="α = 1", tooltip="the tuned model", layout=fitted("80px"))
        self.sliders = [
            ipywidgets.FloatSlider(
                alpha,
                description=str(layer),
                orientation="vertical",
                readout_format=".2f",
                layout=ipywidgets.Layout(width="54px", height="150px"),
                **ends,
            )
            for layer, alpha in enumerate(alphas)
        ]
        self.equaliser = row(*self.sliders, margin="0 0 8px")
        self.by_layer.value = not self.set_alphas(alphas)
        self._show()

    def asking(self) -> list[Any]:
        """The controls whose values are what is asked for."""
        return [self.prompt, self.chat, self.max_new_tokens, self.alpha, self.layers, *self.sliders]

    def alphas(self) -> tuple[float, ...]:
        """α by layer: of the layer's own slider, or of the one slider within the range of layers and 1 elsewhere."""
        if self.by_layer.value:
            return tuple(slider.value for slider in self.sliders)
        first, last = self.layers.value
        return tuple(self.alpha.value if first <= layer <= last else 1.0 for layer in range(self.n_layers))

    def set_alphas(self, alphas: Sequence[float]) -> bool:
        """Set the sliders; says whether the one for a range of layers can express it."""
        for slider, alpha in zip(self.sliders, alphas, strict=True):
            slider.value = alpha
        others = [layer for layer, alpha in enumerate(alphas) if alpha != 1] or list(range(self.n_layers))
        first, last = others[0], others[-1]
        self.layers.value, self.alpha.value = (first, last), alphas[first]
        return len(set(alphas[first : last + 1])) == 1

    def switch(self) -> None:
        """Take over what the other kind of control says, as far as this one can."""
        if self.by_layer.value:
            first, last = self.layers.value
            for layer, slider in enumerate(self.sliders):
                slider.value = self.alpha.value if first <= layer <= last else 1.0
        else:
            self.set_alphas([slider.value for slider in self.sliders])
        self._show()

    def _show(self) -> None:
        by_layer = self.by_layer.value
        self.alpha.layout.display = self.layers.layout.display = "none" if by_layer else "flex"
        self.equaliser.layout.display = "flex" if by_layer else "none"


def _check(pair: ModelPair, prompt: object, max_new_tokens: object) -> None:
    if not isinstance(prompt, str):
        raise InputError("the prompt", f"it is a {type(prompt).__name__}", "give text; chat=True makes a chat of it")
    if not isinstance(max_new_tokens, int) or not 1 <= max_new_tokens <= pair.n_ctx:
        why = f"it must be a whole number from 1 to {pair.n_ctx}"
        raise InputError(f"max_new_tokens is {max_new_tokens!r}", why, "give such a number")
