"""A prompt's numbers are those it has alone, where rotary angles depend on how long the longest text of a pass is.

`longrope` takes a second set of angles beyond a length, `dynamic` stretches them with every token beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from tests.oracle import oracle, scaled_logits
from tests.pairs import CONTEXT, byte_tokenizer, tiny_pair, tuned_copy
from tuco_lens import ModelPair
from tuco_lens.attacks.framing import Frame
from tuco_lens.attacks.objective import Objective
from tuco_lens.experiments.nested import score_nested
from tuco_lens.experiments.scores import score_prompts
from tuco_lens.steering.scoring import answer_logits

pytestmark = pytest.mark.bridge

SWITCH = 32
SIZE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def longrope() -> hf.PreTrainedModel:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0]}
    rope = {"rope_type": "longrope", "rope_theta": 5000.0, "original_max_position_embeddings": SWITCH, **factors}
    config = hf.Phi3Config(
        **SIZE, max_position_embeddings=128, original_max_position_embeddings=SWITCH, rope_parameters=rope
    )
    return hf.Phi3ForCausalLM(config).eval()


def dynamic() -> hf.PreTrainedModel:
    rope = {"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZE, max_position_embeddings=SWITCH, rope_parameters=rope)).eval()


def made(make: Callable[[], hf.PreTrainedModel]) -> tuple[Any, Any, ModelPair]:
    torch.manual_seed(0)
    base = make()
    tuned = tuned_copy(base)
    pair = ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend="bridge")
    pair.tuned.cfg.n_ctx = 128  # TransformerLens takes max_position_embeddings, which `dynamic` goes beyond
    return base, tuned, pair


@pytest.fixture(scope="module", params=[longrope, dynamic])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any, ModelPair]:
    return made(request.param)


def prompt_of(n_tokens: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 258, (n_tokens,), generator=generator).tolist()


def tuco_alone(models: tuple[Any, Any, ModelPair], ids: list[int]) -> float:
    return oracle(models[0], models[1], torch.tensor([ids])).tuco().item()


@pytest.mark.parametrize("order", [(18, 102, 32, 33, 60, 60), (102, 18, 60, 33, 60, 32)])
def test_the_tuco_of_prompts_of_many_lengths_is_that_of_each_alone(
    models: tuple[Any, Any, ModelPair], order: tuple[int, ...]
) -> None:
    prompts = [prompt_of(n, seed=i) for i, n in enumerate(order)]
    measured = models[2].measure(prompts, batch_size=8, progress=False).tuco
    expected = torch.tensor([tuco_alone(models, ids) for ids in prompts])
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-6)


def test_the_lengths_matter_at_all(models: tuple[Any, Any, ModelPair]) -> None:
    short, long = prompt_of(18), prompt_of(102)
    fake = torch.tensor([short + long[18:]])  # the short prompt within a pass of 102 tokens
    beside = oracle(models[0], models[1], fake).cumulative()
    p, f = (x[-1, 0, 17].norm(1) for x in beside)
    assert abs((f / (p + f)).item() - tuco_alone(models, short)) > 1e-5


def test_a_short_prompt_is_not_changed_by_a_longer_one_before_it(models: tuple[Any, Any, ModelPair]) -> None:
    pair = models[2]
    for n in (102, 32, 50, 18):
        ids = prompt_of(n, seed=n)
        _, cache = pair.run_with_cache(ids)
        p, f = (cache[f"cumulative_{kind}", pair.n_layers][-1].norm(1) for kind in ("ptc", "ftc"))
        assert (f / (p + f)).item() == pytest.approx(tuco_alone(models, ids), abs=1e-6)


def test_texts_that_grow_past_the_switch_are_generated_as_each_alone(models: tuple[Any, Any, ModelPair]) -> None:
    base, tuned, pair = models
    prompts = [prompt_of(n, seed=n) for n in (8, 28, 28, 40)]
    for found, ids in zip(pair.generate(prompts, alpha=0.5, max_new_tokens=8), prompts, strict=True):
        text = list(ids)
        for token in found.token_ids:
            (logits,) = scaled_logits(base, tuned, torch.tensor([text]), [[0.5] * 3])
            assert token == logits[0, -1].argmax().item()
            text.append(token)


def test_the_tuco_of_a_generated_token_is_that_of_the_text_before_it(models: tuple[Any, Any, ModelPair]) -> None:
    found = models[2].generate([prompt_of(28), prompt_of(40)], max_new_tokens=7)
    for generation in found:
        assert generation.tuco is not None
        for k, value in enumerate(generation.tuco.tolist()):
            ids = [*generation.prompt.token_ids, *generation.token_ids[:k]]
            assert value == pytest.approx(tuco_alone(models, ids), abs=1e-6)


@pytest.mark.parametrize("lengths", [(20, 30), (34, 60, 34), (20, 33, 60)])
def test_answers_behind_a_shared_beginning_are_those_without(
    models: tuple[Any, Any, ModelPair], lengths: tuple[int, ...]
) -> None:
    base, tuned, pair = models
    whole = prompt_of(70)
    rows = [whole[: n - 2] + prompt_of(2, seed=n + i) for i, n in enumerate(lengths)]
    found = answer_logits(pair, [pair.prompt(row) for row in rows], [[5, 6]] * len(rows), 0.5)
    for row, values in zip(rows, found, strict=True):
        (logits,) = scaled_logits(base, tuned, torch.tensor([row]), [[0.5] * 3])
        torch.testing.assert_close(values.double(), logits[0, -1, [5, 6]], rtol=0, atol=2e-5)


def test_scores_of_prompts_at_the_switch_are_those_of_each_alone(models: tuple[Any, Any, ModelPair]) -> None:
    prompts = [prompt_of(n, seed=n) for n in (30, 31, 32, 33, 60)]
    pair = models[2]
    for scores, ids in zip(score_prompts(pair, [pair.prompt(ids) for ids in prompts]), prompts, strict=True):
        assert scores["tuco"] == pytest.approx(tuco_alone(models, ids), abs=1e-6)
        longer = [*ids, oracle(models[0], models[1], torch.tensor([ids])).logits[0, -1].argmax().item()]
        assert scores["tuco_generated"] == pytest.approx(tuco_alone(models, longer), abs=1e-6)


def test_prompts_that_grow_one_from_another_have_the_scores_of_each_alone(models: tuple[Any, Any, ModelPair]) -> None:
    pair, whole = models[2], prompt_of(80)
    rows = [[*whole[:n], *prompt_of(3, seed=n)] for n in (10, 20, 28, 31, 50)]
    for scores, ids in zip(score_nested(pair, [pair.prompt(row) for row in rows]), rows, strict=True):
        assert scores.tuco == pytest.approx(tuco_alone(models, ids), abs=1e-6)


def test_the_loss_of_an_attack_string_is_the_same_with_a_cached_beginning(models: tuple[Any, Any, ModelPair]) -> None:
    frame = Frame("", tuple(prompt_of(28)), tuple(prompt_of(4, seed=1)), tuple(prompt_of(3, seed=2)))
    strings = torch.tensor([prompt_of(5, seed=i) for i in range(3, 6)])
    whole, shared = (Objective(models[2].tuned, [frame], share_prefix=on).losses(strings)[0] for on in (False, True))
    torch.testing.assert_close(shared, whole, rtol=0, atol=2e-6)


def test_a_score_that_a_prompt_has_not_is_missing_of_that_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair("bridge")
    monkeypatch.setattr(pair.base.cfg, "d_vocab", 250)  # and so the last of the tuned model's tokens are new
    prompts = [pair.prompt([*range(20, 20 + n), last]) for n, last in ((9, 5), (12, 255), (CONTEXT - 1, 5))]
    together = score_prompts(pair, prompts, batch_size=3)
    for scores, alone in zip(together, (score_prompts(pair, [prompt])[0] for prompt in prompts), strict=True):
        assert scores == pytest.approx(alone, abs=1e-6, nan_ok=True)
    assert [math.isnan(scores["output_co"]) for scores in together] == [False, True, False]
    assert [math.isnan(scores["tuco_generated"]) for scores in together] == [False, False, True]
