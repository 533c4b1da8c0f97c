"""Measurements made of random numbers, for tests of figures and reports: no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tuco_lens.engine.contributions import NormMaps
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.results.measurement import Measurement, MeasurementSettings, PromptMeasurement

HOSTILE = (
    "</script><script>window.ran=1;alert(1)</script>",
    "<img src=x onerror='window.ran=1;alert(1)'>",
    "<b>bold</b><br>",
    "<a href='javascript:window.ran=1'>link</a>",
    "<svg onload='window.ran=1'>",
    '" onmouseover="window.ran=1',
    "\u202e\u2066reversed",
    "שלום",
    "👩\u200d💻",
    "\x00\x01",
    "\ud800",
    "A" * 10_000,
    "<!--",
    "]]>",
    "$x^2$",
    "$title ${title}",
    "%{y}",
    "&lt;b&gt;",
    " the",
    " the",
    "\n\n",
)
"""Tokens that a page or a figure must show and not obey."""


def a_measurement(
    prompts: Sequence[tuple[str, ...]], n_layers: int = 3, *, drift: bool = False, **settings: Any
) -> Measurement:
    """A measurement of prompts that are given as their tokens, with random norms.

    Args:
        prompts: Tokens of each prompt.
        n_layers: Layers of the maps.
        drift: Whether there is a drift map.
        settings: Of `MeasurementSettings`, in place of the ones made up here.
    """
    generator = torch.Generator().manual_seed(len(prompts))
    items: list[PromptMeasurement] = []
    for tokens in prompts:
        norms = [torch.rand(n_layers, len(tokens), generator=generator) * scale for scale in (10, 3, 50, 20)]
        share = torch.rand(n_layers, len(tokens), generator=generator) if drift else None
        prompt = Prompt("".join(tokens), tuple(range(len(tokens))), tokens, ("user",) * len(tokens))
        items.append(PromptMeasurement(prompt, NormMaps(*norms, share)))
    named = {"base": "org/base", "tuned": "org/tuned", "backend": "bridge", "dtype": "float32", "norm": "l1"}
    facts = {"chat": False, "drift": drift, "n_layers": n_layers, "d_model": 16, "version": "9.8.7"}
    return Measurement(tuple(items), MeasurementSettings(**{**named, **facts, **settings}))


def scaled(measurement: Measurement, by: float, tuned: str = "org/other") -> Measurement:
    """The same prompts with another fine-tuning component: every FTC times a number."""
    items: list[PromptMeasurement] = []
    for item in measurement:
        maps = item.maps
        ptc, cumulative_ptc = maps.ptc.clone(), maps.cumulative_ptc.clone()
        norms = NormMaps(ptc, by * maps.ftc, cumulative_ptc, by * maps.cumulative_ftc, maps.drift)
        items.append(replace(item, maps=norms))
    return Measurement(tuple(items), replace(measurement.settings, tuned=tuned))


def three_tunes(prompts: Sequence[tuple[str, ...]], n_layers: int = 3, **settings: Any) -> dict[str, Measurement]:
    """Three tunes of one base that measured the same prompts: TuCo is lowest in the second, highest in the third."""
    first = a_measurement(prompts, n_layers, **settings)
    return {"first": first, "second": scaled(first, 0.1, "org/second"), "third": scaled(first, 3.0, "org/third")}
