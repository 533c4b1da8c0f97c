"""The layer × token heatmap, read from its traces."""

from __future__ import annotations

import html
import itertools
import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuco_lens.errors import InputError
from tuco_lens.measurement import NormMaps, PromptMeasurement
from tuco_lens.plots import TEMPLATE, layer_token_heatmap, measurement_heatmap
from tuco_lens.plots.heatmap import MAX_TICKS, TICK_CHARACTERS, labelled_positions
from tuco_lens.plots.labels import plotly_text, readable, token_label
from tuco_lens.prompts import Prompt

KINDS = ("cumulative", "local", "drift")


def a_map(n_layers: int = 3, n_tokens: int = 4) -> torch.Tensor:
    return torch.rand(n_layers, n_tokens, generator=torch.Generator().manual_seed(n_layers * n_tokens))


def item(n_layers: int = 3, n_tokens: int = 4, drift: bool = True) -> PromptMeasurement:
    maps = [a_map(n_layers, n_tokens) * scale for scale in (1, 2, 3, 4, 0.5)]
    tokens = tuple(f" t{i}" for i in range(n_tokens))
    prompt = Prompt("".join(tokens), tuple(range(n_tokens)), tokens, ("text",) * n_tokens)
    return PromptMeasurement(prompt, NormMaps(*maps[:4], drift=maps[4] if drift else None))


def test_the_trace_holds_the_map_in_float32_with_layer_0_at_the_bottom() -> None:
    values = a_map()
    figure = layer_token_heatmap(values.double(), ["a", "b", "c", "d"])
    (trace,) = figure.data
    assert isinstance(trace, go.Heatmap)
    assert trace.z.dtype == np.float32
    assert np.array_equal(trace.z, values.numpy())
    assert list(figure.layout.yaxis.range) == [-0.5, 2.5]


def test_bfloat16_maps_are_drawn_too() -> None:
    assert layer_token_heatmap(a_map().bfloat16(), list("abcd")).data[0].z.dtype == np.float32


def test_repeated_tokens_keep_a_column_each() -> None:
    figure = layer_token_heatmap(a_map(), ["the", "the", "the", "the"])
    assert list(figure.data[0].x) == [0, 1, 2, 3]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3]
    assert list(figure.layout.xaxis.ticktext) == ["the"] * 4


def test_the_scale_is_sequential_and_starts_at_zero() -> None:
    values = a_map()
    (trace,) = layer_token_heatmap(values, list("abcd")).data
    assert (trace.zmin, trace.zmax) == (0.0, pytest.approx(values.max().item()))
    assert layer_token_heatmap(values, list("abcd"), zmax=0.7).data[0].zmax == 0.7
    lightness = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for _, colour in trace.colorscale]
    assert lightness[0] < lightness[-1]


def test_a_map_of_zeros_has_a_scale_of_some_width() -> None:
    assert layer_token_heatmap(torch.zeros(3, 4), list("abcd")).data[0].zmax == 1.0


def test_nan_is_missing_and_does_not_reach_the_scale() -> None:
    values = a_map()
    values[1, 2] = math.nan
    (trace,) = layer_token_heatmap(values, list("abcd")).data
    assert math.isnan(trace.z[1, 2])
    assert not trace.hoverongaps
    assert trace.zmax == pytest.approx(values.nan_to_num(0).max().item())
    assert layer_token_heatmap(torch.full((2, 2), math.nan), list("ab")).data[0].zmax == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_every_map_says_which_it_is_and_in_which_norm(kind: str, norm: str) -> None:
    figure = layer_token_heatmap(a_map(), list("abcd"), kind=kind, norm=norm)  # type: ignore[arg-type]
    said = f"{figure.layout.title.text} {figure.data[0].colorbar.title.text}"
    assert kind in said.lower()
    assert norm.upper() in said
    others = set(KINDS) - {kind}
    assert not any(other in said.lower() for other in others)


def test_only_the_cumulative_map_marks_the_prompts_tuco() -> None:
    values = a_map()
    figure = layer_token_heatmap(values, list("abcd"))
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 1.5, 2.5)
    assert f"{values[-1, -1].item():.4f}" in figure.layout.annotations[0].text
    for kind in ("local", "drift"):
        assert not layer_token_heatmap(values, list("abcd"), kind=kind).layout.shapes


def test_the_mark_of_a_measured_prompt_is_its_tuco() -> None:
    measured = item()
    assert f"{measured.tuco:.4f}" in measurement_heatmap(measured).layout.annotations[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_a_measured_prompt_is_drawn_with_the_norms_of_that_map(kind: str) -> None:
    measured = item()
    (trace,) = measurement_heatmap(measured, kind).data  # type: ignore[arg-type]
    assert np.array_equal(trace.z, measured.layer_token(kind).numpy())  # type: ignore[arg-type]
    if kind == "drift":
        assert trace.customdata is None
        return
    maps = measured.maps
    ptc, ftc = (maps.cumulative_ptc, maps.cumulative_ftc) if kind == "cumulative" else (maps.ptc, maps.ftc)
    assert np.array_equal(trace.customdata, torch.stack([ptc, ftc], dim=-1).numpy())
    assert trace.customdata.dtype == np.float32
    assert "customdata[1]" in trace.hovertemplate


def test_drift_that_was_not_measured_is_refused() -> None:
    with pytest.raises(InputError, match="drift"):
        measurement_heatmap(item(drift=False), "drift")


def test_the_hover_text_has_token_role_and_position() -> None:
    figure = layer_token_heatmap(a_map(), list("abcd"), roles=["system", "user", "user", "template"])
    (trace,) = figure.data
    assert len(trace.text) == 3
    assert trace.text[2][1] == "<b>b</b><br>user, position 1"
    assert "%{y}" in trace.hovertemplate


@given(n_tokens=st.integers(1, 3000), max_ticks=st.integers(1, 60))
def test_labels_are_evenly_thinned_and_the_last_token_keeps_its_own(n_tokens: int, max_ticks: int) -> None:
    positions = labelled_positions(n_tokens, max_ticks)
    assert 1 <= len(positions) <= max_ticks
    assert positions[-1] == n_tokens - 1
    assert len({b - a for a, b in itertools.pairwise(positions)}) <= 1
    if n_tokens <= max_ticks:
        assert positions == list(range(n_tokens))


def test_a_long_prompt_has_thinned_labels_and_all_its_columns() -> None:
    figure = layer_token_heatmap(a_map(2, 500), [f"w{i}" for i in range(500)])
    assert len(figure.layout.xaxis.tickvals) <= MAX_TICKS
    assert figure.data[0].z.shape == (2, 500)
    assert [f"w{i}" for i in figure.layout.xaxis.tickvals] == list(figure.layout.xaxis.ticktext)


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


@pytest.mark.parametrize("token", ["<b>x</b>", '<a href="javascript:x">', "<br>", "&lt;", "$x$", "%{y}", "a&b"])
def test_markup_in_a_token_is_given_to_plotly_as_text(token: str) -> None:
    figure = layer_token_heatmap(a_map(1, 1), [token], roles=["<b>"])
    label = figure.layout.xaxis.ticktext[0]
    hover = figure.data[0].text[0][0]
    for drawn in (label, hover.removeprefix("<b>").replace("</b><br>", "").replace("&lt;b&gt;, position 0", "")):
        assert not set("<>$") & set(drawn)
    assert html.unescape(label) == token_label(token, TICK_CHARACTERS)


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
    figure = layer_token_heatmap(a_map(n_layers, n_tokens), ["a"] * n_tokens)
    assert figure.data[0].z.shape == (n_layers, n_tokens)
    assert figure.layout.height >= 150
    assert '"heatmap"' in figure.to_json()


def test_figures_use_the_one_template() -> None:
    assert layer_token_heatmap(a_map(), list("abcd")).layout.template == TEMPLATE


@pytest.mark.parametrize(
    ("values", "tokens", "extra", "expected"),
    [
        (torch.rand(3), ["a"] * 3, {}, r"shape is \(3,\)"),
        (torch.rand(3, 0), [], {}, r"shape is \(3, 0\)"),
        (torch.rand(3, 4), ["a"] * 3, {}, "4 columns and there are 3 tokens"),
        (torch.rand(3, 4), ["a"] * 4, {"roles": ["user"]}, "4 columns and there are 1 roles"),
        (torch.rand(3, 4), ["a"] * 4, {"ptc": torch.rand(4, 3)}, r"that of ptc is \(4, 3\)"),
    ],
)
def test_shapes_that_disagree_are_refused(values: torch.Tensor, tokens: list[str], extra: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        layer_token_heatmap(values, tokens, **extra)
