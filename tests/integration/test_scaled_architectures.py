"""Scaled logits are exact on every architecture, on both backends; so are generated batches of different lengths.

The reference is `tests/oracle.py`: plain transformers in float64. Runs with transformer-lens 4.x too (`-m bridge`).
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import ARCHITECTURES, VARIANTS, make_ids, make_pair
from tests.integration.test_architectures import CASES, to_pair
from tests.oracle import layers_of, scaled_logits
from tuco_lens.pair import ModelPair

TOLERANCE = 1e-4
"""Absolute, on logits."""
NUMBERS = (-0.5, 0.0, 0.5, 0.75, 1.25, 2.0)
BY_LAYER = (0.25, 1.5, -0.5)


@functools.cache
def models(name: str) -> tuple[Any, Any]:
    return make_pair(name)


def alphas_of(name: str) -> list[tuple[float, ...]]:
    """Each scaling of the tests, as α by layer."""
    n_layers = len(layers_of(models(name)[0]))
    return [*((alpha,) * n_layers for alpha in NUMBERS), BY_LAYER[:n_layers]]


@functools.cache
def reference(name: str) -> list[Tensor]:
    """Per scaling the logits [batch, pos, d_vocab] in float64."""
    return scaled_logits(*models(name), make_ids(), alphas_of(name))


@functools.lru_cache(maxsize=2)
def loaded(name: str, backend: str) -> ModelPair:
    return to_pair(*models(name), backend)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_scaled_logits_equal_the_float64_oracle(name: str, backend: str) -> None:
    pair = loaded(name, backend)
    options = {"use_cache": False} if backend == "bridge" else {}
    for alphas, expected in zip(alphas_of(name), reference(name), strict=True):
        alpha = alphas[0] if len(set(alphas)) == 1 else alphas
        with pair.scaled(alpha), torch.no_grad():
            logits = pair.tuned(make_ids(), **options)
        assert (logits - expected).abs().max() <= TOLERANCE, f"alpha {alpha}, logits to {expected.abs().max():.0f}"


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_cached_passes_of_a_padded_batch_equal_whole_uncached_ones(name: str, backend: str) -> None:
    """Prompts of three lengths, the longest over the sliding windows; what is generated is put to the plain model."""
    pair = loaded(name, backend)
    prompts = [row[:length].tolist() for row, length in zip(make_ids(3), (14, 5, 9), strict=True)]
    alphas = (0.5, 1.25)
    found = pair.generate(prompts, alphas=alphas, max_new_tokens=4)
    assert isinstance(found, list)
    for i, generation in enumerate(found):
        alpha = alphas[i % 2]
        whole = torch.tensor([[*generation.prompt.token_ids, *generation.token_ids]])
        n_layers = len(layers_of(models(name)[0]))
        (logits,) = scaled_logits(*models(name), whole, [(alpha,) * n_layers])
        probabilities = logits[0, generation.prompt.n_tokens - 1 : -1].softmax(-1)
        given = probabilities.gather(-1, torch.tensor(generation.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(generation.probability.double(), given, rtol=0, atol=1e-5)
        assert (probabilities.amax(-1) - given).max() <= 1e-5


def test_every_architecture_and_variant_is_here() -> None:
    assert {case.values[0] for case in CASES} == {*ARCHITECTURES, *VARIANTS}


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_interpolated_weights_equal_a_plain_model_of_such_weights(name: str, backend: str) -> None:
    """Also where the bridge or the conversion takes joint projections apart."""
    pair, (base, tuned) = loaded(name, backend), models(name)
    between = copy.deepcopy(tuned)
    others = dict(base.named_parameters())
    with torch.no_grad():
        for key, weight in between.named_parameters():
            weight.copy_(others[key] + 0.5 * (weight - others[key]))
        before = pair.tuned(make_ids())
        expected = between(make_ids()).logits
        with pair.scaled(0.5, method="weights"):
            logits = pair.tuned(make_ids())
        assert (logits - expected).abs().max() <= TOLERANCE
        assert torch.equal(pair.tuned(make_ids()), before)
