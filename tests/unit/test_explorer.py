"""The explorer: what it shows, against plain calls of the pair; its controls, driven without a browser.

In a real JupyterLab it is in tests/browser/test_explorer_browser.py.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.errors import InputError, LoadError
from tuco_lens.explorer import html as pages
from tuco_lens.explorer.view import (
    ExplorerRequest,
    ExplorerView,
    NextTokens,
    Viewer,
    base_next_probability,
    next_tokens,
)
from tuco_lens.plots.labels import token_label

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install 'tuco_lens[notebook]'")
pytest.importorskip("anywidget", reason="anywidget is not installed: pip install 'tuco_lens[notebook]'")

TAGS = {"div", "span", "br", "h4", "table", "thead", "tbody", "tr", "th", "td"}
HOSTILE = "</textarea><script>x</script><img src=x onerror=y> <b>&lt;\u202e"


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair("hooked")


def request(
    pair: ModelPair, prompt: str = "abcdef", alpha: float | tuple[float, ...] = 1.0, **options: Any
) -> ExplorerRequest:
    alphas = alpha if isinstance(alpha, tuple) else (alpha,) * pair.n_layers
    return ExplorerRequest(prompt, False, alphas, **{"max_new_tokens": 5, **options})


@contextmanager
def passes(pair: ModelPair) -> Iterator[dict[str, int]]:
    """Counts how often the first block of each model runs."""
    counts = {"tuned": 0, "base": 0}

    def counter(name: str) -> Any:
        return lambda *_: counts.update({name: counts[name] + 1})

    handles = [
        pair.tuned.blocks[0].register_forward_hook(counter("tuned")),
        pair.base.blocks[0].register_forward_hook(counter("base")),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def hooks(pair: ModelPair) -> int:
    modules = [module for model in (pair.base, pair.tuned) for module in model.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_view_is_what_the_pairs_own_methods_say(backend: str) -> None:
    pair = tiny_pair(backend)
    alphas = (0.5, 1.0, 0.25)
    view = Viewer(pair).view(request(pair, alpha=alphas, n_likeliest=4))
    with pair.scaled(alphas):
        measured = pair.measure("abcdef")[0]
        scaled = pair.run_with_cache("abcdef")[0][-1].softmax(-1)
    tuned = pair.run_with_cache("abcdef")[0][-1].softmax(-1)
    ids = torch.tensor([view.prompt.token_ids])
    base = pair.base(ids, return_type="logits")[0, -1].softmax(-1)
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(view.scaled.measurement.layer_token(), measured.layer_token(), **close)
    torch.testing.assert_close(view.tuned.measurement.layer_token(), pair.measure("abcdef")[0].layer_token(), **close)
    torch.testing.assert_close(view.scaled.next_probability, scaled, **close)
    torch.testing.assert_close(view.tuned.next_probability, tuned, **close)
    table = view.next_tokens
    assert table.base is not None
    for column, all_of_them in ((table.base, base), (table.tuned, tuned), (table.scaled, scaled)):
        torch.testing.assert_close(torch.tensor(column), all_of_them[list(table.token_ids)], **close)
        assert set(all_of_them.topk(4).indices.tolist()) <= set(table.token_ids)
    assert view.scaled.generation.text == pair.generate("abcdef", alpha=alphas, max_new_tokens=5).text
    assert view.tuned.generation.text == pair.generate("abcdef", max_new_tokens=5).text


def test_the_first_token_of_a_continuation_is_the_likeliest_of_the_table(pair: ModelPair) -> None:
    view = Viewer(pair).view(request(pair, alpha=0.3))
    for side in (view.scaled, view.tuned):
        first = side.generation.token_ids[0]
        assert first == side.next_probability.argmax().item()
        torch.testing.assert_close(side.next_probability[first], side.generation.probability[0], rtol=1e-4, atol=1e-6)
    assert view.next_tokens.token_ids[0] == view.scaled.generation.token_ids[0]


def test_at_alpha_one_the_scaled_side_is_the_tuned_one(pair: ModelPair) -> None:
    view = Viewer(pair).view(request(pair))
    assert view.scaled is view.tuned
    assert view.next_tokens.scaled == view.next_tokens.tuned


def test_a_new_alpha_computes_its_own_side_only_and_alpha_one_nothing(pair: ModelPair) -> None:
    viewer = Viewer(pair)
    with passes(pair) as counts:
        first = viewer.view(request(pair, alpha=0.5))
        n_tokens = max(first.scaled.generation.n_tokens, first.tuned.generation.n_tokens)
        # One batch generates both continuations; each side has a map and its logits.
        assert counts["tuned"] == n_tokens + 2 * 2
        before = counts["tuned"]
        second = viewer.view(request(pair, alpha=0.8))
        assert counts["tuned"] == before + second.scaled.generation.n_tokens + 2
        assert second.tuned is first.tuned
        after = dict(counts)
        third = viewer.view(request(pair))
        assert viewer.view(request(pair)) is third
        viewer.view(request(pair, n_likeliest=2))
        assert counts == after
    assert third.scaled is first.tuned


def test_another_prompt_or_length_is_answered_anew(pair: ModelPair) -> None:
    viewer = Viewer(pair)
    first = viewer.view(request(pair, alpha=0.5))
    other = viewer.view(request(pair, "xyz", alpha=0.5))
    longer = viewer.view(request(pair, "xyz", alpha=0.5, max_new_tokens=7))
    fresh = Viewer(pair).view(request(pair, "xyz", alpha=0.5, max_new_tokens=7))
    assert first.tuned.generation.prompt.text == "abcdef"
    assert other.tuned.generation.prompt.text == other.scaled.measurement.prompt.text == "xyz"
    assert longer.scaled.generation.n_tokens == 7
    assert longer.next_tokens == fresh.next_tokens
    assert longer.scaled.generation.token_ids == fresh.scaled.generation.token_ids


def test_a_hook_or_a_weight_that_changes_is_noticed() -> None:
    pair = tiny_pair("hooked")
    viewer = Viewer(pair)
    first = viewer.view(request(pair))
    assert viewer.view(request(pair)) is first
    handle = pair.tuned.blocks[1].hook_resid_pre.register_forward_hook(lambda _, __, stream: stream * -1.0)
    hooked = viewer.view(request(pair))
    assert hooked.tuned.measurement.tuco != first.tuned.measurement.tuco
    handle.remove()
    assert viewer.view(request(pair)).tuned.measurement.tuco == first.tuned.measurement.tuco
    with torch.no_grad():
        next(pair.base.blocks.parameters()).mul_(2.0)
    assert viewer.view(request(pair)).tuned.measurement.tuco != first.tuned.measurement.tuco


def test_an_open_scaling_of_the_users_changes_nothing_in_a_view_and_is_left_on(pair: ModelPair) -> None:
    expected = Viewer(pair).view(request(pair, alpha=0.5))
    with pair.scaled(-1.0) as outer:
        found = Viewer(pair).view(request(pair, alpha=0.5))
        assert outer.is_on
    assert found.next_tokens == expected.next_tokens
    assert found.tuned.generation.text == expected.tuned.generation.text


def test_an_error_in_the_middle_leaves_no_hook_and_the_next_answer_is_right(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, before = Viewer(pair), hooks(pair)
    viewer.view(request(pair, alpha=0.5))

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("in the middle")

    for place in ("measure", "generate"):
        with monkeypatch.context() as patched:
            patched.setattr(ModelPair, place, fail)
            with pytest.raises(RuntimeError, match="in the middle"):
                viewer.view(request(pair, "other", alpha=0.7))
        assert hooks(pair) == before
        assert pair.active_scalings == []
    again = viewer.view(request(pair, alpha=0.5))
    assert again.next_tokens == Viewer(pair).view(request(pair, alpha=0.5)).next_tokens


def test_a_base_without_the_prompts_tokens_has_no_column_and_the_table_says_so(pair: ModelPair) -> None:
    prompt = pair.prompt("abc")
    lacking: Any = SimpleNamespace(base=SimpleNamespace(cfg=SimpleNamespace(d_vocab=max(prompt.token_ids))))
    assert base_next_probability(lacking, prompt) is None
    view = Viewer(pair).view(request(pair))
    table = next_tokens(pair.tokenizer, None, view.tuned, view.scaled)
    page = pages.next_token_table(table, "α = 1")
    assert table.base is None
    assert "no base: it lacks a token of the prompt" in page
    assert "<th>base</th>" not in page
    assert table.to_frame()["base"].isna().all()


@pytest.mark.parametrize("size", [3, 400])
def test_a_base_vocabulary_of_another_size_is_compared_token_by_token(pair: ModelPair, size: int) -> None:
    view = Viewer(pair).view(request(pair))
    base = torch.linspace(0, 1, size) / size
    table = next_tokens(pair.tokenizer, base, view.tuned, view.scaled)
    assert table.base is not None
    for token_id, probability in zip(table.token_ids, table.base, strict=True):
        expected = base[token_id].item() if token_id < size else float("nan")
        assert probability == pytest.approx(expected, nan_ok=True)
    assert all(token_id < len(view.tuned.next_probability) for token_id in table.token_ids)
    assert size > 3 or "not in its vocabulary" in pages.next_token_table(table, "α = 1")


def test_the_three_strips_share_one_range_that_holds_every_value(pair: ModelPair) -> None:
    view = Viewer(pair).view(request(pair, alpha=1.5))
    strips = [view.prompt_strip(), *view.continuation_strips()]
    assert len({(strip.low, strip.high) for strip in strips}) == 1
    assert all(value <= strips[0].high for strip in strips for value in strip.values)
    assert strips[0].tokens == view.prompt.tokens
    assert strips[0].values[-1] == pytest.approx(view.scaled.measurement.tuco)
    assert view.strip_end < 1 or max(value for strip in strips for value in strip.values) > 0.6


def test_the_table_is_a_frame_whose_rows_are_its_tokens(pair: ModelPair) -> None:
    table = Viewer(pair).view(request(pair, alpha=0.5)).next_tokens
    frame = table.to_frame()
    assert list(frame.columns) == ["token_id", "token", "base", "tuned", "scaled"]
    assert tuple(frame["token_id"]) == table.token_ids
    assert frame["scaled"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("alphas", "words"),
    [
        ((0.8, 0.8, 0.8), "α = 0.8"),
        ((1.0, 1.0, 1.0), "α = 1"),
        ((1.0, 0.5, 0.5), "α = 0.5 in layers 1 to 2"),
        ((1.0, 0.0, 1.0), "α = 0 in layer 1"),
        ((0.5, 1.0, 0.5), "α by layer"),
        ((0.1, 0.2, 1.0), "α by layer"),
    ],
)
def test_alpha_is_put_into_words(alphas: tuple[float, ...], words: str) -> None:
    assert pages.alpha_words(alphas) == words


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


@given(st.one_of(st.just(HOSTILE), st.text(max_size=30)))
def test_tokens_and_messages_are_escaped(text: str) -> None:
    table = NextTokens((0,), (text,), (0.5,), (0.5,), (0.5,))
    assert Tags(pages.next_token_table(table, text)).tags <= TAGS - {"div", "br"}
    assert Tags(pages.failure(text)).tags == {"span"}
    assert "\n" not in pages.failure(text)


def explorer(pair: ModelPair, prompt: str = "abcdef", **options: Any) -> Any:
    return pair.explore(prompt, **{"max_new_tokens": 4, **options})


def test_the_explorer_shows_map_strip_continuations_and_table(pair: ModelPair) -> None:
    shown = explorer(pair, alpha=0.5)
    view: ExplorerView = shown.view
    np.testing.assert_array_equal(shown.figure.data[0].z, view.scaled.measurement.layer_token().numpy())
    assert shown.strip.value.endswith(view.prompt_strip().html())
    assert view.continuation_strips()[0].html() in shown.scaled.value
    assert view.continuation_strips()[1].html() in shown.tuned.value
    assert "Continuation at α = 0.5" in shown.scaled.value
    assert "Continuation at α = 1" in shown.tuned.value
    assert shown.next_tokens.value.count("<tr>") == 1 + len(view.next_tokens.token_ids)
    assert shown.status.value.startswith(f"α = 0.5: TuCo {view.scaled.measurement.tuco:.4f} at the last of 6 tokens")


def test_each_change_of_a_control_is_answered_once(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = explorer(pair)
    asked: list[ExplorerRequest] = []
    view = Viewer.view
    monkeypatch.setattr(Viewer, "view", lambda self, request: asked.append(request) or view(self, request))
    controls = shown.controls
    controls.prompt.value = "xyz"
    controls.alpha.value = 0.5
    controls.layers.value = (1, 1)
    controls.max_new_tokens.value = 2
    controls.by_layer.value = True
    controls.sliders[2].value = -0.5
    controls.reset.click()
    controls.run.click()
    assert [len(request.prompt) for request in asked] == [3] * 8
    assert [request.alphas for request in asked] == [
        (1, 1, 1),
        (0.5, 0.5, 0.5),
        (1, 0.5, 1),
        (1, 0.5, 1),
        (1, 0.5, 1),
        (1, 0.5, -0.5),
        (1, 1, 1),
        (1, 1, 1),
    ]
    assert [request.max_new_tokens for request in asked] == [4, 4, 4, 2, 2, 2, 2, 2]
    assert shown.view.request == asked[-1]


def test_a_changed_prompt_and_a_changed_alpha_redraw(pair: ModelPair) -> None:
    shown = explorer(pair)
    before = shown.strip.value, shown.scaled.value, shown.figure.data[0].z.copy()
    shown.controls.alpha.value = -1.0
    assert shown.scaled.value != before[1]
    assert not np.array_equal(shown.figure.data[0].z, before[2])
    shown.controls.prompt.value = "something else"
    assert shown.strip.value != before[0]
    assert shown.figure.data[0].z.shape[1] == len("something else")
    expected = explorer(pair, "something else", alpha=-1.0)
    assert len(shown.figure.data) == len(expected.figure.data)
    np.testing.assert_array_equal(shown.figure.data[0].z, expected.figure.data[0].z)
    assert shown.figure.layout.xaxis == expected.figure.layout.xaxis
    assert shown.figure.layout.title == expected.figure.layout.title


def test_a_click_on_a_map_that_is_being_drawn_again_does_not_deafen_it_for_the_next() -> None:
    import plotly.graph_objects as go

    from tuco_lens.explorer.layout import Picture

    def click_of_trace(index: int) -> dict[str, Any]:
        points = {"xs": ["a"], "ys": [0], "point_indexes": [[0, 0]], "trace_indexes": [index]}
        return {"event_type": "plotly_click", "points": points, "device_state": None, "selector": None}

    picture, heard = Picture(lambda call: call()), list[Any]()
    for _ in range(2):  # drawn, and drawn again
        picture.draw(go.Figure(go.Heatmap(x=["a", "b"], z=[[1, 2]])))
    picture.figure.data[0].on_click(lambda _trace, points, _state: heard.append(points.xs))
    picture.figure._js2py_pointsCallback = click_of_trace(1)  # the page still had the old map beside the new one
    assert picture.figure._js2py_pointsCallback is None  # or the page would not send the same click again
    assert heard == []
    picture.figure._js2py_pointsCallback = click_of_trace(0)
    assert heard == [["a"]]


def test_a_click_that_fails_is_told_and_does_not_hide_the_next() -> None:
    import plotly.graph_objects as go

    from tuco_lens.explorer.layout import Picture

    def fail(*_: Any) -> None:
        raise KeyError("of the callback's own")

    picture = Picture(lambda call: call())
    picture.draw(go.Figure(go.Heatmap(x=["a", "b"], z=[[1, 2]])))
    picture.figure.data[0].on_click(fail)
    points = {"xs": ["a"], "ys": [0], "point_indexes": [[0, 0]], "trace_indexes": [0]}
    with pytest.raises(KeyError, match="of the callback's own"):
        picture.figure._js2py_pointsCallback = {"event_type": "plotly_click", "points": points}
    assert picture.figure._js2py_pointsCallback is None


def test_the_other_map_is_drawn_without_running_a_model(pair: ModelPair) -> None:
    shown = explorer(pair)
    with passes(pair) as counts:
        shown.controls.map.value = "local"
    assert counts == {"tuned": 0, "base": 0}
    np.testing.assert_array_equal(shown.figure.data[0].z, shown.view.scaled.measurement.layer_token("local").numpy())


@pytest.mark.parametrize(("prompt", "why"), [("  ", "empty"), ("x" * 1000, "1000 tokens"), ("\ud800", "surrogate")])
def test_a_bad_prompt_is_one_line_and_the_last_good_answer_stays(pair: ModelPair, prompt: str, why: str) -> None:
    shown, before = explorer(pair), hooks(pair)
    good = shown.view, shown.strip.value, shown.scaled.value, shown.next_tokens.value, shown.figure.to_json()
    shown.controls.prompt.value = prompt
    assert 'class="error"' in shown.status.value
    assert why in shown.status.value
    assert "\n" not in shown.status.value
    now = shown.view, shown.strip.value, shown.scaled.value, shown.next_tokens.value, shown.figure.to_json()
    assert now == good
    assert hooks(pair) == before
    shown.controls.prompt.value = "abcdef"
    assert "error" not in shown.status.value


def test_a_bad_first_prompt_is_shown_and_not_raised(pair: ModelPair) -> None:
    shown = explorer(pair, "")
    assert "it is empty" in shown.status.value
    assert shown.view is None
    assert shown.map.box.children == ()
    shown.controls.map.value = "local"
    shown.controls.prompt.value = "abc"
    assert shown.view.prompt.text == "abc"


def test_a_chat_without_a_template_is_one_line(pair: ModelPair) -> None:
    shown = explorer(pair)
    shown.controls.chat.value = True
    assert "no chat template" in html.unescape(shown.status.value)
    assert shown.view.request.chat is False


def test_a_defect_or_an_interrupt_is_shown_and_raised(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, before = explorer(pair), hooks(pair)
    for error in (RuntimeError("<b>first\nsecond"), KeyboardInterrupt()):
        with monkeypatch.context() as patched:

            def fail(*_: Any, error: BaseException = error, **__: Any) -> Any:
                raise error

            patched.setattr(ModelPair, "measure", fail)
            with pytest.raises(type(error)):
                shown.controls.alpha.value -= 0.25
        assert type(error).__name__ in shown.status.value
        assert "<b>" not in shown.status.value
        assert "working" not in shown.status.value
        assert hooks(pair) == before


def test_hostile_prompts_are_escaped_in_every_widget(pair: ModelPair) -> None:
    shown = explorer(pair, HOSTILE[:40])
    for text in (shown.status, shown.strip, shown.scaled, shown.tuned, shown.next_tokens):
        assert Tags(text.value).tags <= TAGS


def test_alpha_to_begin_with_may_be_a_number_a_range_or_by_layer(pair: ModelPair) -> None:
    shown = explorer(pair, alpha=2.5)
    assert (shown.controls.alpha.value, shown.controls.alpha.max) == (2.5, 2.5)
    shown = explorer(pair, alpha={range(1, 3): 0.5})
    assert (shown.controls.alpha.value, shown.controls.layers.value) == (0.5, (1, 2))
    assert not shown.controls.by_layer.value
    shown = explorer(pair, alpha=[0.1, 0.2, 1.0])
    assert shown.controls.by_layer.value
    assert shown.view.request.alphas == (0.1, 0.2, 1.0)


def test_switching_to_layers_and_back_keeps_what_can_be_kept(pair: ModelPair) -> None:
    controls = explorer(pair, alpha={1: 0.5}).controls
    controls.by_layer.value = True
    assert [slider.value for slider in controls.sliders] == [1.0, 0.5, 1.0]
    controls.by_layer.value = False
    assert controls.alphas() == (1.0, 0.5, 1.0)


def test_a_slider_for_each_of_many_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = explorer(tiny_pair("hooked", n_layers=33), alpha=lambda layer: layer / 32)
    assert len(shown.controls.sliders) == 33
    assert shown.view.request.alphas[16] == 0.5
    assert shown.controls.equaliser.layout.flex_flow == "row wrap"


def test_callbacks_on_other_threads_wait_for_the_thread_that_made_the_explorer(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterLab runs callbacks of widgets on other threads, beside the cells."""
    used: list[int] = []
    view = Viewer.view
    monkeypatch.setattr(Viewer, "view", lambda *args: used.append(threading.get_ident()) or view(*args))

    async def cell() -> Any:
        shown = explorer(pair)
        acts = [
            lambda: setattr(shown.controls.prompt, "value", "xyz"),
            lambda: setattr(shown.controls.alpha, "value", 0.5),
            lambda: setattr(shown.controls.by_layer, "value", True),
            shown.controls.run.click,
        ]
        for act in acts:
            thread = threading.Thread(target=act)
            thread.start()
            thread.join()
        assert len(used) == 1, "nothing runs before the cell has ended"
        while len(used) < 1 + len(acts):
            await asyncio.sleep(0.01)
        return shown

    shown = asyncio.run(cell())
    assert set(used) == {threading.get_ident()}
    assert (shown.view.prompt.text, shown.view.request.alphas) == ("xyz", (0.5, 0.5, 0.5))
    assert [slider.value for slider in shown.controls.sliders] == [0.5, 0.5, 0.5]


def test_the_theme_is_the_maps(pair: ModelPair) -> None:
    light, dark = explorer(pair), explorer(pair, theme="dark")
    assert light.figure.layout.template.layout.paper_bgcolor != dark.figure.layout.template.layout.paper_bgcolor


def test_a_display_is_of_the_widget_and_has_no_markup_of_its_own(pair: ModelPair) -> None:
    bundle = explorer(pair)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"prompt": 3}, "it is a int"),
        ({"max_new_tokens": 0}, "from 1 to 64"),
        ({"max_new_tokens": 65}, "from 1 to 64"),
        ({"max_new_tokens": 1.5}, "from 1 to 64"),
        ({"alpha": float("nan")}, "not a finite number"),
        ({"alpha": [1.0]}, "3 layers"),
        ({"theme": "blue"}, "blue"),
    ],
)
def test_options_that_cannot_be_are_refused(pair: ModelPair, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        pair.explore(**{"prompt": "abc", **options})


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_without_the_notebook_extra_one_line_says_what_to_install(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for module in ("widgets", "why", "layout"):
        monkeypatch.delitem(sys.modules, f"tuco_lens.explorer.{module}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LoadError, match=rf"{missing} is not installed; install it with `pip install"):
        pair.explore()
    monkeypatch.undo()
    importlib.import_module("tuco_lens.explorer.widgets")


def test_the_chat_toggle_puts_the_prompt_into_the_template() -> None:
    shown = ModelPair.demo().explore("How are you?", max_new_tokens=3)
    assert set(shown.view.prompt.roles) <= {"text", "template"}
    shown.controls.chat.value = True
    assert "user" in shown.view.prompt.roles
    assert shown.view.prompt.n_tokens == shown.figure.data[0].z.shape[1]


def clicked(shown: Any, layer: int, position: int) -> None:
    """What a click on a cell of the Why tab's map brings."""
    trace = shown.why.picture.figure.data[0]
    shown.why._click(SimpleNamespace(xs=[trace.x[position]], ys=[float(layer)]))


def test_the_why_tab_is_answered_when_it_is_open_and_follows_alpha(pair: ModelPair) -> None:
    shown = explorer(pair, "abcdef")
    assert shown.why.found is None
    shown.tabs.selected_index = 1
    table = shown.view.next_tokens
    first, theirs = (int(np.argmax(column)) for column in (table.tuned, table.base))
    assert shown.why._ids[shown.why.answer.value] == table.token_ids[first]
    other = theirs if theirs != first else int(np.argsort(table.tuned)[-2])
    assert shown.why._ids[shown.why.against.value] == table.token_ids[other]
    asked: dict[str, Any] = {"answer": table.token_ids[first], "against": table.token_ids[other]}
    expected = pair.integrated_gradients("abcdef", **asked)
    assert shown.why.found.values == pytest.approx(expected.values, abs=1e-5)
    assert shown.why.picture.figure.data[0].z == pytest.approx(expected.values, abs=1e-5)
    shown.controls.alpha.value = 0.5
    half = pair.integrated_gradients("abcdef", alpha=0.5, **asked)
    assert shown.why.found.values == pytest.approx(half.values, abs=1e-5)
    assert "at α = 0.5" in shown.why.status.value
    shown.tabs.selected_index = 0
    shown.controls.alpha.value = 0.7
    assert "at α = 0.5" in shown.why.status.value  # it waits until it is looked at
    shown.tabs.selected_index = 1
    assert "at α = 0.7" in shown.why.status.value


def test_a_click_tells_the_words_and_components_of_the_cell(pair: ModelPair) -> None:
    shown = explorer(pair, "abcdef")
    shown.tabs.selected_index = 1
    clicked(shown, 1, 3)
    answer, against = (shown.why._ids[box.value] for box in (shown.why.answer, shown.why.against))
    found = pair.integrated_gradients("abcdef", answer=answer, against=against, over="component")
    lens = pair.logit_lens("abcdef", of="ftc", k=5, positions=[3])
    assert found.split is not None
    assert f"{found.values[1, 3]:+.3f} of the change" in shown.why.cell.value
    for part, value in zip(found.parts, found.split[1, 3], strict=True):
        assert f'<td>{part}</td><td class="number">{value:+.3f}</td>' in shown.why.cell.value
    words = [token_label(lens.text(int(each)), 24) for each in lens.promoted[1, 0]]
    assert all(html.escape(word) in shown.why.cell.value for word in words)


def test_free_text_in_the_boxes_is_asked_and_bad_text_is_one_line(pair: ModelPair) -> None:
    shown = explorer(pair, "abcdef")
    shown.tabs.selected_index = 1
    shown.why.answer.value = "x"
    shown.why.against.value = ""
    assert "&#x27;x&#x27;: " in shown.why.status.value
    last = shown.why.found
    shown.why.answer.value = "xyz"
    assert "3 tokens" in shown.why.status.value
    assert shown.why.found is last
    shown.controls.prompt.value = "fedcba"
    assert "error" not in shown.why.status.value  # the boxes are filled anew for another prompt
    with pair.scaled(0.5):
        shown.why.against.value = "y"
    assert "a scaling is on" in shown.why.status.value


def test_hostile_text_is_escaped_in_the_why_tab(pair: ModelPair) -> None:
    shown = explorer(pair, "<script>x</script>")
    shown.tabs.selected_index = 1
    shown.why.answer.value = "<"
    clicked(shown, 0, 1)
    for text in (shown.why.status.value, shown.why.cell.value):
        assert "<script" not in text
    shown.why.answer.value = "<script>"
    assert "<script" not in shown.why.status.value
    assert "&lt;script&gt;" in shown.why.status.value
