"""What objects say when their names are typed: a few lines, no tensor, and hostile prompts escaped."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

import tuco_lens
from tuco_lens import ModelPair
from tuco_lens.brief import Brief, brief
from tuco_lens.experiments.series import Series
from tuco_lens.stats.areas import auc
from tuco_lens.stats.roc import roc_points

HOSTILE = "The <script>window.ran = 1</script> sea\n" + "very " * 200 + "<img src=x onerror=alert(1)>"
OBJECTS: dict[str, Callable[[ModelPair], Any]] = {
    "pair": lambda pair: pair,
    "measurement": lambda pair: pair.measure([HOSTILE, "Name a river."], progress=False),
    "measurement of many": lambda pair: pair.measure(["Name a river."] * 40, progress=False),
    "prompt measurement": lambda pair: pair.measure(HOSTILE, progress=False)[0],
    "maps": lambda pair: pair.measure(HOSTILE, progress=False)[0].maps,
    "cache": lambda pair: pair.run_with_cache(HOSTILE)[1],
    "cache of some": lambda pair: pair.run_with_cache("Name a river.", layers=[0, 2, 3])[1],
    "prompt": lambda pair: pair.prompt(HOSTILE),
    "generation": lambda pair: pair.generate(HOSTILE, max_new_tokens=4),
    "generation without TuCo": lambda pair: pair.generate(HOSTILE, max_new_tokens=4, tuco=False),
    "scaling": lambda pair: pair.scaled(0.5),
    "map": lambda pair: pair.measure(HOSTILE, progress=False).map(0),
    "profile": lambda pair: pair.measure(HOSTILE, progress=False).layer_profile(),
    "tokens": lambda pair: pair.measure(HOSTILE, progress=False)[0].colored_tokens(),
    "overview": lambda pair: pair.overview(pair.measure(["Name a river."] * 3, progress=False)),
    "auc": lambda _: auc(np.arange(500.0), np.arange(500.0) - 90),
    "roc": lambda _: roc_points(np.arange(500.0), np.arange(500.0) - 90),
}
HTML = ["pair", "measurement", "measurement of many", "generation", "generation without TuCo", "tokens"]


@pytest.mark.parametrize("name", OBJECTS)
def test_a_repr_is_a_few_lines_without_numbers_of_tensors(demo_pair: ModelPair, name: str) -> None:
    text = repr(OBJECTS[name](demo_pair))
    assert len(text) <= 900
    assert text.count("\n") <= 7
    assert not any(
        word in text for word in ("tensor(", "array(", "very very very very very very very very very very very")
    )


@pytest.mark.parametrize("name", HTML)
def test_a_view_is_small_and_runs_nothing_of_a_prompt(demo_pair: ModelPair, name: str) -> None:
    view = OBJECTS[name](demo_pair)._repr_html_()
    assert len(view) <= 20_000 or name == "tokens"
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)
    parser.feed(view)
    assert "img" not in tags
    assert "script" not in tags or name == "tokens"


def test_a_pair_says_what_it_is(demo_pair: ModelPair) -> None:
    text = repr(demo_pair)
    n_bytes = sum(p.numel() * p.element_size() for m in (demo_pair.base, demo_pair.tuned) for p in set(m.parameters()))
    for part in (
        demo_pair.backend,
        f"{demo_pair.n_layers} layers × {demo_pair.d_model}",
        f"{n_bytes / 1e6:,.1f} MB",
        "cpu",
    ):
        assert part in text
        assert part in demo_pair._repr_html_()


def test_a_measurement_says_its_median_and_range(demo_pair: ModelPair) -> None:
    found = demo_pair.measure(["Name a river.", "The sea", "A"], progress=False)
    values = found.tuco
    said = f"3 prompts: TuCo {values.median():.4f} (median), {values.min():.4f} to {values.max():.4f}"
    assert said in repr(found)
    assert said in found._repr_html_()


def test_a_cache_says_names_layers_and_shapes(demo_pair: ModelPair) -> None:
    _, cache = demo_pair.run_with_cache("Name a river.", layers=[0, 2, 3])
    text = " ".join(repr(cache).split())
    assert "ptc 0, 2-3; ftc 0, 2-3" in text
    assert f"float32[{len(cache.positions)}, {demo_pair.d_model}] each" in text


def test_everything_public_that_holds_numbers_is_brief() -> None:
    loud: list[str] = []
    for module in pkgutil.walk_packages(tuco_lens.__path__, "tuco_lens."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name):
                continue
            types = " ".join(str(field.type) for field in dataclasses.fields(kind) if field.repr)
            holds = any(word in types for word in ("Tensor", "ndarray", "DataFrame", "Prompt,", "PromptMeasurement"))
            if holds and not name.startswith("_") and not issubclass(kind, Brief):
                loud.append(f"{module.name}.{name}")
    assert loud == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, 4), "float32[3, 4]"),
        (np.zeros((2, 5)), "float64[2, 5]"),
        ("x" * 100, "'" + "x" * 60 + "'…"),
        (0.123456, "0.1235"),
        ((1, 2), "(1, 2)"),
        (list(range(9)), "[9 × int]"),
        ({"a": 1.0}, "{'a': 1}"),
        (None, "None"),
    ],
)
def test_one_value_in_a_few_words(value: Any, said: str) -> None:
    assert brief(value) == said


def test_a_series_of_an_experiment_is_brief() -> None:
    assert issubclass(Series, Brief)
