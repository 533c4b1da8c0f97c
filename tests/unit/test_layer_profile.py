"""Profiles by layer: medians and bands against a plain loop, and their figure."""

from __future__ import annotations

import math
import statistics
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from tests.measurements import HOSTILE, a_measurement
from tuco_lens.errors import InputError
from tuco_lens.plots import LayerProfile, layer_profile, look
from tuco_lens.results.measurement import Measurement

PROMPTS = [tuple("abc"), tuple("de"), tuple("f"), tuple("ghij"), tuple("kl")]


def measured(n: int = 5, n_layers: int = 4, **settings: Any) -> Measurement:
    return a_measurement(PROMPTS[:n], n_layers, drift=True, **settings)


def line(profile: LayerProfile, index: int = 0, theme: Any = "light") -> Any:
    return [trace for trace in profile.figure(theme).data if trace.fill != "toself"][index]


def bands(profile: LayerProfile) -> list[Any]:
    return [trace for trace in profile.figure().data if trace.fill == "toself"]


def said(profile: LayerProfile) -> str:
    title = profile.figure().layout.title
    return f"{title.text} {title.subtitle.text}"


@pytest.mark.parametrize("kind", ["cumulative", "local", "drift"])
def test_the_line_is_the_median_over_prompts_of_the_last_token(kind: Any) -> None:
    some = measured()
    expected = [
        statistics.median(float(item.layer_token(kind)[layer, -1]) for item in some)
        for layer in range(some.settings.n_layers)
    ]
    trace = line(some.layer_profile(kind))
    assert trace.y == pytest.approx(expected)
    assert trace.y.dtype == np.float32
    assert list(trace.x) == [0, 1, 2, 3]


def test_the_profile_of_beta_is_beta_by_layer() -> None:
    some = measured()
    expected = torch.stack([item.beta_by_layer for item in some]).quantile(0.5, dim=0)
    assert torch.allclose(some.layer_profile("beta").median("prompts"), expected)
    assert "β" in said(some.layer_profile("beta"))


def test_the_band_is_the_quantiles_asked_for() -> None:
    some = measured()
    values = np.stack([item.layer_token("local")[:, -1].numpy() for item in some])
    profile = some.layer_profile("local", quantiles=(0.1, 0.8))
    low, high = np.quantile(values, 0.1, axis=0), np.quantile(values, 0.8, axis=0)
    (band,) = bands(profile)
    assert band.y == pytest.approx(np.concatenate([high, low[::-1]]))
    assert line(profile).customdata == pytest.approx(np.stack([low, high], axis=-1))
    assert "10–80 %" in said(profile)
    assert "10–80 %" in line(profile).hovertemplate


def test_groups_are_lines_that_say_how_many_prompts_they_have() -> None:
    profile = layer_profile({"chat": measured(5), "web": measured(3)})
    assert [line(profile, i).name for i in (0, 1)] == ["chat (n = 5)", "web (n = 3)"]
    assert line(profile, 0).line.color != line(profile, 1).line.color
    assert line(profile, 0).line.dash != line(profile, 1).line.dash
    assert profile.figure().layout.showlegend
    assert len(bands(profile)) == 2


def test_one_group_says_n_above_the_figure() -> None:
    assert "n = 5" in said(measured(5).layer_profile())
    assert not measured(5).layer_profile().figure().layout.showlegend


def test_one_prompt_is_a_line_without_a_band_and_said_so() -> None:
    alone = measured(1).layer_profile()
    assert not bands(alone)
    assert "one prompt, no band" in said(alone)
    assert line(alone).y == pytest.approx(measured(1)[0].layer_token()[:, -1].numpy())
    beside = layer_profile({"many": measured(4), "one": measured(1)})
    assert len(bands(beside)) == 1
    assert "no band for one prompt" in said(beside)


def test_one_layer_will_do() -> None:
    assert len(line(measured(3, 1).layer_profile()).y) == 1


def test_missing_values_are_left_out_and_said() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, math.nan], [5.0, 4.0]])
    profile = LayerProfile({"some": values})
    assert line(profile).y == pytest.approx([3.0, 3.0])
    assert "1 of 6 values missing" in said(profile)
    assert "missing" not in said(measured().layer_profile())


def test_a_layer_without_any_value_is_a_gap() -> None:
    profile = LayerProfile({"some": torch.tensor([[1.0, math.nan], [2.0, math.nan]])})
    assert np.isnan(line(profile).y).tolist() == [False, True]
    assert np.isfinite(bands(profile)[0].y).all()


def test_refinements_are_immutable_and_compose() -> None:
    whole = layer_profile({"chat": measured(5, 8), "web": measured(3, 8)})
    before = whole.figure().to_json()
    part = whole.layers(2, 7).layers(-3).clip(0.1, 0.6)
    assert torch.equal(part.median("web"), whole.median("web")[4:7])
    assert list(line(part).x) == [4, 5, 6]
    assert list(part.figure().layout.yaxis.range) == [0.1, 0.6]
    assert whole.figure().to_json() == before
    with pytest.raises(FrozenInstanceError):
        whole.low = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_have_the_template_and_colours_of_their_theme(theme: Any) -> None:
    profile = measured().layer_profile()
    assert profile.figure(theme).layout.template == look(theme).template
    assert line(profile, theme=theme).line.color == look(theme).colorway[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_groups_are_given_to_plotly_as_text(name: str) -> None:
    trace = line(LayerProfile({name: torch.rand(3, 2)}))
    assert not set("<>$") & set(trace.name + trace.meta)
    assert trace.hovertemplate == line(LayerProfile({"a": torch.rand(3, 2)})).hovertemplate


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, "no group"),
        ({"chat": torch.rand(2, 3), "web": torch.rand(0, 3)}, "group 'web' has no prompts"),
        ({"chat": torch.rand(2, 0)}, r"shape of a group is \(2, 0\)"),
        ({"chat": torch.rand(3)}, r"shape of a group is \(3,\)"),
        ({"chat": torch.rand(2, 3), "web": torch.rand(2, 4)}, "different numbers of layers: 3, 4"),
    ],
)
def test_groups_that_cannot_be_drawn_are_refused(groups: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        LayerProfile(groups)


def test_empty_measurements_and_wrong_options_are_refused() -> None:
    with pytest.raises(InputError, match="has no prompts"):
        measured(0).layer_profile()
    with pytest.raises(InputError, match="no group"):
        layer_profile({})
    with pytest.raises(InputError, match="different norms: l1, l2"):
        layer_profile({"a": measured(), "b": measured(norm="l2")})
    with pytest.raises(InputError, match="no profile 'other'"):
        measured().layer_profile("other")  # type: ignore[arg-type]
    for quantiles in ((0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)):
        with pytest.raises(InputError, match="no quantiles"):
            measured().layer_profile(quantiles=quantiles)
    with pytest.raises(InputError, match="drift"):
        a_measurement(PROMPTS).layer_profile("drift")
