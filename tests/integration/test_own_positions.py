"""Pairs whose models make other masks or rotary angles: the base block has those of its own model.

The oracle is plain transformers: the base model runs by itself once, what it hands to its layers is kept, and its
layers are run with that on the tuned model's stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as hf

from tests.pairs import byte_tokenizer
from tuco_lens import ModelPair
from tuco_lens.steering.scoring import answer_logits

SIZE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
THETA = {"rope_type": "default", "rope_theta": 5000.0}
LONGER = {"rope_type": "default", "rope_theta": 400_000.0}
YARN = {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {**LONGER, "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {**THETA, "rope_type": "longrope", "original_max_position_embeddings": 64}
LONGROPE |= {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]}
LLAMA, MISTRAL, PHI3, GEMMA3 = hf.LlamaConfig, hf.MistralConfig, hf.Phi3Config, hf.Gemma3TextConfig


def gemma3(theta: float, window: int, types: tuple[str, ...]) -> dict[str, Any]:
    rope = {"sliding_attention": THETA, "full_attention": {**THETA, "rope_theta": theta}}
    names = [f"{name}_attention" for name in types]
    return {"head_dim": 8, "sliding_window": window, "rope_parameters": rope, "layer_types": names}


@dataclass(frozen=True)
class Case:
    config: Callable[..., hf.PreTrainedConfig]
    base: dict[str, Any]
    tuned: dict[str, Any]
    hooked: bool = True
    """Whether both load as HookedTransformers."""


CASES = {
    "rope_theta and length": Case(LLAMA, {"rope_parameters": THETA}, {"rope_parameters": LONGER}),
    "llama3": Case(LLAMA, {"rope_parameters": THETA}, {"rope_parameters": LLAMA3}),
    "yarn": Case(LLAMA, {"rope_parameters": THETA}, {"rope_parameters": YARN}, hooked=False),
    "longrope": Case(PHI3, {"rope_parameters": THETA}, {"rope_parameters": LONGROPE}, hooked=False),
    "window given up": Case(MISTRAL, {"sliding_window": 8}, {"sliding_window": None}),
    "window narrowed": Case(MISTRAL, {"sliding_window": None}, {"sliding_window": 8}),
    "window widened": Case(MISTRAL, {"sliding_window": 8}, {"sliding_window": 20}),
    "layer types": Case(
        GEMMA3, gemma3(9e4, 8, ("sliding", "full", "sliding")), gemma3(4e5, 12, ("full", "full", "sliding"))
    ),
}
LONGEST = 96


def build(case: Case) -> tuple[Any, Any]:
    models: list[Any] = []
    for settings, length in ((case.base, 64), (case.tuned, 128)):
        torch.manual_seed(0)
        config = case.config(**{**SIZE, **settings, "max_position_embeddings": length})
        models.append(hf.AutoModelForCausalLM.from_config(config).eval())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for mine in models[1].parameters():
            mine.add_(torch.randn(mine.shape, generator=generator) * 0.1 * mine.square().mean().sqrt())
    return models[0], models[1]


def handed(model: Any, ids: torch.Tensor) -> list[dict[str, Any]]:
    """What a model hands to each of its layers, in a run of its own."""
    found: list[dict[str, Any]] = []
    handles = [
        layer.register_forward_pre_hook(lambda _m, _a, kwargs: found.append(dict(kwargs)), with_kwargs=True)
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def scaled_run(base: Any, tuned: Any, ids: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits under FTC_α-scaling, and TuCo of every token at α = 1, in float64."""
    base, tuned = (copy.deepcopy(model).double() for model in (base, tuned))
    for model in (base, tuned):
        model.set_attn_implementation("eager")
    own, theirs = handed(base, ids), handed(tuned, ids)
    with torch.no_grad():
        stream = tuned.model.embed_tokens(ids)
        ptc = ftc = torch.zeros_like(stream)
        for mine, other, mine_given, other_given in zip(
            tuned.model.layers, base.model.layers, theirs, own, strict=True
        ):
            after, without = mine(stream, **mine_given), other(stream, **other_given)
            ptc, ftc = ptc + (without - stream), ftc + (after - without)
            stream = without + alpha * (after - without)
        logits = tuned.lm_head(tuned.model.norm(stream))
    p, f = ptc.abs().sum(-1), ftc.abs().sum(-1)
    return logits[0], (f / (p + f))[0]


def prompt_of(n_tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(2, 258, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, backend), id=f"{name}-{backend}", marks=[pytest.mark.bridge] if backend == "bridge" else [])
        for name, case in CASES.items()
        for backend in ("hooked", "bridge")
        if case.hooked or backend == "bridge"
    ],
)
def made(request: pytest.FixtureRequest) -> tuple[Any, Any, ModelPair]:
    name, backend = request.param
    base, tuned = build(CASES[name])
    return base, tuned, ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend=backend)


def test_tuco_is_that_of_blocks_with_their_own_masks_and_angles(made: tuple[Any, Any, ModelPair]) -> None:
    base, tuned, pair = made
    prompts = [prompt_of(n, seed=n) for n in (5, 24, LONGEST)]
    for item, ids in zip(pair.measure(prompts, progress=False), prompts, strict=True):
        _, tuco = scaled_run(base, tuned, torch.tensor([ids]), 1.0)
        torch.testing.assert_close(item.layer_token()[-1].double(), tuco, rtol=0, atol=2e-6)


def test_scaled_passes_and_cached_generation_agree_with_it(made: tuple[Any, Any, ModelPair]) -> None:
    base, tuned, pair = made
    ids = prompt_of(24)
    expected, _ = scaled_run(base, tuned, torch.tensor([ids]), 0.5)
    with pair.scaled(0.5), torch.no_grad():
        found = pair.tuned(torch.tensor([ids]))[0].double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    generations: Any = pair.generate([ids, prompt_of(7)], alpha=0.5, max_new_tokens=6)
    for generation in generations:
        text = list(generation.prompt.token_ids)
        for token in generation.token_ids:
            logits, _ = scaled_run(base, tuned, torch.tensor([text]), 0.5)
            assert token == logits[-1].argmax().item()
            text.append(token)


@pytest.mark.parametrize("alpha", [[1.0, 0.5, 1.0], [0.3, 1.0, 1.0]])
def test_alpha_by_layer_works_with_a_cache(made: tuple[Any, Any, ModelPair], alpha: list[float]) -> None:
    pair, ids = made[2], prompt_of(20)
    cached, whole = (pair.generate(ids, alpha=alpha, max_new_tokens=6, use_cache=on) for on in (True, False))
    assert cached.token_ids == whole.token_ids  # pyright: ignore
    torch.testing.assert_close(cached.tuco, whole.tuco, rtol=0, atol=1e-6)  # pyright: ignore


def test_answers_behind_a_shared_beginning_agree_with_it(made: tuple[Any, Any, ModelPair]) -> None:
    base, tuned, pair = made
    rows = [[*prompt_of(18), *prompt_of(n, seed=n)] for n in (3, 6)]
    for row, values in zip(
        rows, answer_logits(pair, [pair.prompt(row) for row in rows], [[5, 6]] * 2, 0.5), strict=True
    ):
        logits, _ = scaled_run(base, tuned, torch.tensor([row]), 0.5)
        torch.testing.assert_close(values.double(), logits[-1, [5, 6]], rtol=0, atol=2e-5)


def test_no_hook_is_left_and_the_models_are_as_they_were(made: tuple[Any, Any, ModelPair]) -> None:
    pair = made[2]
    before = torch.tensor([prompt_of(20)])
    with torch.no_grad():
        alone = pair.base(before), pair.tuned(before)
        pair.measure([prompt_of(20)], progress=False)
        with pytest.raises(IndexError), pair.scaled(lambda layer: 0.5):
            pair.tuned(torch.tensor([[10_000]]))
        again = pair.base(before), pair.tuned(before)
    assert all(torch.equal(*both) for both in zip(alone, again, strict=True))
