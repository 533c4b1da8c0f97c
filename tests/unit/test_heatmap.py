"""The layer × token map: its figure, read from the traces, and its refinements."""

from __future__ import annotations

import html
import itertools
import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.heatmap import BYTES_BAR, large_map
from tests.measurements import HOSTILE, a_measurement
from tuco_lens.engine.contributions import NormMaps
from tuco_lens.errors import InputError
from tuco_lens.plots import LayerTokenMap, layer_token_map, look
from tuco_lens.plots.display import described
from tuco_lens.plots.heatmap import PACKED_UNIT, packed
from tuco_lens.plots.labels import plotly_text, readable, token_label
from tuco_lens.plots.token_axis import (
    MAX_LABELLED,
    MAX_TICKS,
    TICK_CHARACTERS,
    TokenAxis,
    labelled_positions,
    role_colours,
)
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.results.measurement import PromptMeasurement

KINDS = ("cumulative", "local", "drift")
CHAT = ("template", "system", "system", "template", "user", "user", "user", "template")


def random(n_layers: int = 3, n_tokens: int = 4) -> torch.Tensor:
    return torch.rand(n_layers, n_tokens, generator=torch.Generator().manual_seed(n_layers * n_tokens))


def a_map(n_layers: int = 3, n_tokens: int = 4, **fields: Any) -> LayerTokenMap:
    texts = tuple(f" t{i}" for i in range(n_tokens))
    return LayerTokenMap(**{"values": random(n_layers, n_tokens), "token_texts": texts, **fields})


def with_everything(n_layers: int, n_tokens: int) -> LayerTokenMap:
    share, total = random(n_layers, n_tokens), 100 * random(n_layers, n_tokens).flip(0)
    ids, roles = tuple(range(100, 100 + n_tokens)), (CHAT * n_tokens)[:n_tokens]
    return a_map(
        n_layers, n_tokens, values=share, token_ids=ids, roles=roles, ptc=(1 - share) * total, ftc=share * total
    )


def heat(figure: go.Figure) -> Any:
    """The trace of the map; that of the band, if any, comes behind it."""
    return figure.data[0]


def said(figure: go.Figure) -> str:
    """Everything above the map."""
    title = figure.layout.title
    return f"{title.text} {title.subtitle.text} {[note.text for note in figure.layout.annotations]}"


def item(n_layers: int = 3, n_tokens: int = 4, drift: bool = True) -> PromptMeasurement:
    maps = [random(n_layers, n_tokens) * scale for scale in (1, 2, 3, 4, 0.5)]
    tokens = tuple(f" t{i}" for i in range(n_tokens))
    prompt = Prompt("".join(tokens), tuple(range(50, 50 + n_tokens)), tokens, ("text",) * n_tokens)
    return PromptMeasurement(prompt, NormMaps(*maps[:4], drift=maps[4] if drift else None))


def test_the_trace_holds_the_map_in_float32_with_layer_0_at_the_bottom() -> None:
    values = random()
    figure = a_map(values=values.double()).figure()
    trace = heat(figure)
    assert isinstance(trace, go.Heatmap)
    assert trace.z.dtype == np.float32
    assert np.array_equal(trace.z, values.numpy())
    assert list(trace.y) == [0, 1, 2]
    assert list(figure.layout.yaxis.range) == [-0.5, 2.5]


def test_bfloat16_maps_are_drawn_too() -> None:
    assert heat(a_map(values=random().bfloat16()).figure()).z.dtype == np.float32


def test_repeated_tokens_keep_a_column_each() -> None:
    figure = a_map(token_texts=("the",) * 4).figure()
    assert len(set(heat(figure).x)) == 4
    assert list(figure.layout.xaxis.labelalias.values()) == ["the"] * 4


def test_the_scale_is_sequential_and_starts_at_zero() -> None:
    some = a_map()
    trace = heat(some.figure())
    assert (trace.zmin, trace.zmax) == (0.0, pytest.approx(some.values.max().item()))
    lightness = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for _, colour in trace.colorscale]
    assert lightness[0] < lightness[-1]


def test_a_clipped_map_has_the_range_it_was_given() -> None:
    trace = heat(a_map().clip(0.1, 0.7).figure())
    assert (trace.zmin, trace.zmax) == (0.1, 0.7)


def test_a_map_of_zeros_has_a_scale_of_some_width() -> None:
    assert heat(a_map(values=torch.zeros(3, 4)).figure()).zmax == 1.0


def test_nan_is_missing_and_said_and_does_not_reach_the_scale() -> None:
    values = random()
    values[1, 2] = math.nan
    figure = a_map(values=values).figure()
    trace = heat(figure)
    assert math.isnan(trace.z[1, 2])
    assert not trace.hoverongaps
    assert trace.zmax == pytest.approx(values.nan_to_num(0).max().item())
    assert "1 of 12 values missing" in said(figure)
    assert figure.layout.plot_bgcolor == look("light").missing
    assert heat(a_map(values=torch.full((3, 4), math.nan)).figure()).zmax == 1.0


def test_a_map_without_gaps_says_nothing_about_them() -> None:
    assert "missing" not in said(a_map().figure())


def test_a_missing_tuco_is_called_missing() -> None:
    values = random()
    values[-1, -1] = math.nan
    assert "TuCo missing" in said(a_map(values=values).figure())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_every_map_says_which_it_is_and_in_which_norm(kind: Any, norm: Any) -> None:
    figure = a_map(kind=kind, norm=norm).figure()
    words = f"{figure.layout.title.text} {heat(figure).colorbar.title.text}"
    assert kind in words.lower()
    assert norm.upper() in words
    assert not any(other in words.lower() for other in set(KINDS) - {kind})


def test_only_the_cumulative_map_marks_the_prompts_tuco() -> None:
    some = a_map()
    figure = some.figure()
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 1.5, 2.5)
    assert f"TuCo {some.values[-1, -1].item():.4f}" in said(figure)
    for kind in ("local", "drift"):
        assert not a_map(kind=kind).figure().layout.shapes


def test_the_mark_of_a_measured_prompt_is_its_tuco() -> None:
    measured = item()
    assert layer_token_map(measured).tuco == pytest.approx(measured.tuco)
    assert f"{measured.tuco:.4f}" in said(measured.heatmap())


def test_a_part_is_marked_only_if_it_has_the_last_layer_and_the_last_token() -> None:
    some = a_map(6, 8)
    for part in (some.layers(-2), some.tokens(5), some.layers(1).tokens(-1), some.layers(0, 6).tokens(2, 8)):
        assert part.tuco == some.tuco
        (frame,) = part.figure().layout.shapes
        assert (frame.x1, frame.y1) == (part.n_tokens - 0.5, 5.5)
    for part in (some.layers(0, -1), some.tokens(0, -1), some.layers(0, -1).tokens(2), some.tokens(0, 7).layers(-1)):
        assert part.tuco is None
        assert not part.figure().layout.shapes


@pytest.mark.parametrize("kind", KINDS)
def test_a_measured_prompt_is_drawn_with_the_norms_of_that_map(kind: Any) -> None:
    measured = item()
    trace = heat(layer_token_map(measured, kind).figure())
    assert np.array_equal(trace.z, measured.layer_token(kind).numpy())
    if kind == "drift":
        assert trace.customdata is None
        return
    maps = measured.maps
    ptc, ftc = (maps.cumulative_ptc, maps.cumulative_ftc) if kind == "cumulative" else (maps.ptc, maps.ftc)
    assert np.array_equal(trace.customdata, torch.stack([ptc, ftc], dim=-1).numpy())
    assert trace.customdata.dtype == np.float32
    assert "customdata[1]" in trace.hovertemplate


def test_a_measurement_gives_the_map_and_the_heatmap_of_each_prompt() -> None:
    measured = a_measurement([tuple("ab"), tuple("cde")], drift=True)
    for kind in KINDS:
        assert torch.equal(measured.map(1, kind).values, measured.layer_token(1, kind))  # type: ignore[arg-type]
    assert measured.heatmap(1) == measured[1].heatmap() == measured.map(1).figure() == measured[1].map().figure()
    assert measured.heatmap(0, theme="dark") == measured.map(0).figure("dark")


def test_prompts_are_compared_on_one_scale() -> None:
    assert heat(layer_token_map(item()).clip(0, 0.7).figure()).zmax == 0.7


def test_drift_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="drift"):
        layer_token_map(item(drift=False), "drift")
    with pytest.raises(InputError, match="no map 'other'"):
        layer_token_map(item(), "other")  # type: ignore[arg-type]


def test_the_hover_text_has_position_id_role_and_token() -> None:
    figure = a_map(token_ids=(7, 8, 9, 7), roles=("system", "user", "user", "template")).figure()
    assert heat(figure).x[1] == "1, id 8, user: ·t1"
    assert "%{x:c}" in heat(figure).hovertemplate  # the category itself; %{x} would be its label on the axis
    assert "%{y}" in heat(figure).hovertemplate


def test_what_is_said_of_a_token_is_sent_once_and_not_per_layer() -> None:
    few, many = (json.dumps(a_map(n, 50).figure().to_plotly_json(), default=str) for n in (1, 30))
    assert few.count("·t49") == many.count("·t49")


@given(
    low=st.integers(-12, 12) | st.none(),
    high=st.integers(-12, 12) | st.none(),
    n=st.integers(1, 10),
)
def test_refinements_take_what_slices_take(low: int | None, high: int | None, n: int) -> None:
    kept = list(range(n))[low:high]
    some = a_map(n, n)
    for refine, first in ((some.layers, "first_layer"), (some.tokens, "first_token")):
        if not kept:
            with pytest.raises(InputError, match="left"):
                refine(low, high)
            continue
        part = refine(low, high)
        assert getattr(part, first) == kept[0]
        rows = part.values if first == "first_layer" else part.values.T
        whole = some.values if first == "first_layer" else some.values.T
        assert torch.equal(rows, whole[kept])


def test_refinements_keep_true_numbers_and_compose() -> None:
    some = with_everything(10, 12)
    part = some.layers(2, 9).tokens(3, 10).layers(4, 6).tokens(5).clip(0.0, 0.5)
    assert torch.equal(part.values, some.values[4:6, 5:10])
    assert part.ptc is not None
    assert some.ptc is not None
    assert torch.equal(part.ptc, some.ptc[4:6, 5:10])
    assert part.token_texts == some.token_texts[5:10]
    assert (part.zmin, part.zmax) == (0.0, 0.5)
    figure = part.figure()
    assert list(heat(figure).y) == [4, 5]
    assert [name.split(",")[0] for name in heat(figure).x] == ["5", "6", "7", "8", "9"]
    assert list(figure.layout.yaxis.range) == [3.5, 5.5]
    assert heat(figure).x[0] == heat(some.figure()).x[5]


def test_maps_are_immutable_and_refining_leaves_them_as_they_were() -> None:
    some = with_everything(5, 6)
    before = some.figure().to_json()
    some.layers(1, 2).tokens(2, 3).clip(0, 0.1).figure()
    assert some.figure().to_json() == before
    with pytest.raises(FrozenInstanceError):
        some.zmax = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("ends", [(0.5, 0.5), (1, 0), (math.nan, 1), (0, math.inf)])
def test_a_range_that_is_none_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="no range"):
        a_map().clip(*ends)


def test_a_map_shows_itself_in_a_notebook_as_its_figure() -> None:
    bundle, figure = a_map()._repr_mimebundle_(), a_map().figure()
    assert bundle["application/vnd.plotly.v1+json"] == json.loads(str(figure.to_json()))
    assert bundle["text/plain"] == described(figure)
    assert described(figure).startswith("Figure: ")
    assert "heatmap of " in bundle["text/plain"]
    assert bundle["text/plain"].replace("<", "&lt;") in bundle["text/html"]
    assert "image/png" not in bundle


def test_spans_become_a_band_under_the_map() -> None:
    figure = a_map(3, 8, roles=CHAT).figure()
    _, band = figure.data
    assert band.z.shape == (1, 8)
    codes = list(role_colours(look("light")))
    assert [codes[int(code)] for code in band.z[0]] == list(CHAT)
    assert band.yaxis == "y2"
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]


@pytest.mark.parametrize("roles", [None, ("text",) * 4, ("template", "text", "text", "text")])
def test_plain_text_has_no_band(roles: tuple[str, ...] | None) -> None:
    figure = a_map(roles=roles).figure()
    assert len(figure.data) == 1
    assert "yaxis2" not in figure.to_dict()["layout"]


def test_every_role_is_named_in_the_band_or_in_the_legend() -> None:
    narrow = a_map(3, 8, roles=CHAT).tokens(0, 8)
    long = LayerTokenMap(random(2, 200), ("a",) * 200, roles=("template", *("user",) * 100, *("assistant",) * 99))
    for some in (narrow, long):
        figure = some.figure()
        assert some.roles is not None
        for role in set(some.roles):
            assert role in said(figure)
    legend = long.figure().layout.title.subtitle.text
    assert "template" in legend
    assert "user" not in legend


@given(roles=st.lists(st.sampled_from(["system", "user", "assistant", "template", "text"]), min_size=1, max_size=30))
def test_spans_cover_a_chat_without_overlap(roles: list[str]) -> None:
    n = len(roles)
    spans = TokenAxis(("a",) * n, tuple(map(str, range(n))), roles=tuple(roles)).spans
    if not {"system", "user", "assistant"} & set(roles):
        assert spans == []
        return
    assert [role for first, after, role in spans for _ in range(first, after)] == roles
    assert all(one[2] != next_one[2] for one, next_one in itertools.pairwise(spans))


@given(n_tokens=st.integers(1, 3000), max_ticks=st.integers(1, 60))
def test_labels_are_evenly_thinned_and_the_last_token_keeps_its_own(n_tokens: int, max_ticks: int) -> None:
    positions = labelled_positions(n_tokens, max_ticks)
    assert 1 <= len(positions) <= max_ticks
    assert positions[-1] == n_tokens - 1
    assert len({b - a for a, b in itertools.pairwise(positions)}) <= 1
    if n_tokens <= max_ticks:
        assert positions == list(range(n_tokens))


def test_a_prompt_of_moderate_length_has_every_label_for_the_browser_to_choose_from() -> None:
    axis = a_map(2, MAX_LABELLED).figure().layout.xaxis
    assert len(axis.labelalias) == MAX_LABELLED
    assert axis.tickvals is None


def test_a_longer_prompt_has_thinned_labels_and_all_its_columns() -> None:
    n = MAX_LABELLED + 1
    figure = a_map(2, n).figure()
    assert 1 < len(figure.layout.xaxis.tickvals) <= MAX_TICKS
    assert heat(figure).z.shape == (2, n)
    assert [f"{i}: ·t{i}" for i in figure.layout.xaxis.tickvals] == list(figure.layout.xaxis.ticktext)
    part = a_map(2, n + 700).tokens(700).figure()
    assert [f"{700 + i}: ·t{700 + i}" for i in part.layout.xaxis.tickvals] == list(part.layout.xaxis.ticktext)


@pytest.mark.parametrize("chat", [False, True])
def test_a_large_map_is_small_as_a_file(chat: bool) -> None:
    assert len((large_map(chat=chat).figure().to_json() or "").encode()) <= BYTES_BAR


def test_the_values_of_a_large_map_survive_to_the_digits_that_are_shown() -> None:
    large = large_map(chat=True)
    trace = heat(large.figure())
    assert large.ptc is not None
    assert large.ftc is not None
    assert trace.z.dtype == trace.customdata.dtype == np.uint16
    assert np.abs(trace.z * PACKED_UNIT - large.values.numpy()).max() <= PACKED_UNIT
    sums = (large.ptc + large.ftc).numpy()
    exponent = int(trace.hovertemplate.split("<sup>")[1].split("</sup>")[0])
    assert np.abs(trace.customdata * 10.0**exponent - sums).max() <= sums.max() / 13_000
    assert trace.zmax * PACKED_UNIT == pytest.approx(large.values.max().item())
    clipped = heat(large.clip(0.1, 0.5).figure())
    assert (clipped.zmin * PACKED_UNIT, clipped.zmax * PACKED_UNIT) == pytest.approx((0.1, 0.5))
    for at, text in zip(trace.colorbar.tickvals, trace.colorbar.ticktext, strict=True):
        assert at * PACKED_UNIT == pytest.approx(float(text))


def test_a_part_of_a_large_map_is_drawn_in_full_precision_again() -> None:
    part = large_map(chat=True).tokens(1000, 1100)
    trace = heat(part.figure())
    assert np.array_equal(trace.z, part.values.numpy())
    assert trace.customdata.shape == (32, 100, 2)


def test_a_large_map_with_missing_values_keeps_them_missing() -> None:
    large = large_map(chat=False)
    values = large.values.clone()
    values[3, 5] = math.nan
    figure = replace(large, values=values).figure()
    assert np.isnan(heat(figure).z).sum() == 1
    assert "1 of 64000 values missing" in said(figure)


@given(st.lists(st.floats(0, 1e9, width=32) | st.just(math.nan), min_size=1, max_size=50))
def test_packing_keeps_values_to_a_thirteen_thousandth_of_the_largest(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    multiples, exponent = packed(array)
    finite = np.nan_to_num(array).astype(np.float64)
    assert np.abs(multiples * 10.0**exponent - finite).max() <= finite.max() / 13_000 + 1e-300


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" the", "·the"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("\x00", "␀"),
        ("\x7f", "␡"),
        ("", "∅"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("שלום", "שלום"),
        ("x" * 10_000, "x" * 13 + "…"),
    ],
)
def test_tokens_are_made_visible(token: str, label: str) -> None:
    assert token_label(token, TICK_CHARACTERS) == label


@pytest.mark.parametrize("token", [*HOSTILE, "<br>", "&lt;", "$x$", "a&b"])
def test_markup_in_a_token_or_role_is_given_to_plotly_as_text(token: str) -> None:
    figure = LayerTokenMap(random(1, 1), (token,), roles=("<b>$",)).figure()
    (name,) = heat(figure).x
    (label,) = figure.layout.xaxis.labelalias.values()
    for drawn in (label, name):
        assert not set("<>$") & set(drawn)
    assert html.unescape(label) == token_label(token, TICK_CHARACTERS)
    assert html.unescape(name).startswith("0, <b>$: ")
    assert heat(figure).hovertemplate == heat(a_map(1, 1).figure()).hovertemplate


@given(st.text())
@settings(max_examples=200)
def test_any_text_survives_escaping_and_prints(text: str) -> None:
    shown = readable(text, 40)
    assert all(character.isprintable() or character in "\u200c\u200d" for character in shown)
    assert html.unescape(plotly_text(text)) == text
    shown.encode("utf-8")


@given(n_layers=st.integers(1, 40), n_tokens=st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_figures_of_any_shape_are_complete_and_serialise(n_layers: int, n_tokens: int) -> None:
    figure = with_everything(n_layers, n_tokens).figure()
    assert heat(figure).z.shape == (n_layers, n_tokens)
    assert figure.layout.height >= 150
    assert '"heatmap"' in (figure.to_json() or "")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_use_the_template_of_their_theme(theme: Any) -> None:
    assert a_map().figure(theme).layout.template == look(theme).template


def test_an_unknown_theme_is_refused() -> None:
    with pytest.raises(InputError, match="no theme 'blue'"):
        a_map().figure("blue")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "texts", "extra", "expected"),
    [
        (torch.rand(3), ("a",) * 3, {}, r"shape is \(3,\)"),
        (torch.rand(3, 0), (), {}, r"shape is \(3, 0\)"),
        (torch.rand(0, 3), ("a",) * 3, {}, r"shape is \(0, 3\)"),
        (torch.rand(3, 4), ("a",) * 3, {}, "4 columns and there are 3 tokens"),
        (torch.rand(3, 4), ("a",) * 4, {"roles": ("user",)}, "4 columns and there are 1 roles"),
        (torch.rand(3, 4), ("a",) * 4, {"token_ids": (1, 2)}, "4 columns and there are 2 token ids"),
        (torch.rand(3, 4), ("a",) * 4, {"ptc": torch.rand(4, 3)}, r"that of ptc is \(4, 3\)"),
    ],
)
def test_shapes_that_disagree_are_refused(values: torch.Tensor, texts: Any, extra: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        LayerTokenMap(values, texts, **extra)
