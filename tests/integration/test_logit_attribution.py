"""A logit as a sum over the parts of both models: it is the model's own, and each part is plain transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.architectures import make_ids, make_pair
from tests.integration.test_components import BACKENDS, CASES, PROMPT, reference, to_pair
from tests.oracle import oracle
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.logit_attribution import LogitAttribution
from tuco_lens.errors import InputError


def raw_logits(name: str, logits: torch.Tensor) -> torch.Tensor:
    """Before the soft-cap of 2 that the tests' Gemma 2 has."""
    return 2 * torch.atanh(logits / 2) if name == "gemma2" else logits


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_sum_is_the_tuned_models_own_logit(name: str, backend: str) -> None:
    models = make_pair(name)
    pair = to_pair(*models, backend)
    expected = raw_logits(name, oracle(*models, make_ids()[:1]).logits[0, -1])
    span = float(expected.max() - expected.min())
    one = pair.logit_attribution(PROMPT, answer=7)
    assert one.values.sum() + sum(one.outside.values()) == pytest.approx(float(expected[7]), abs=1e-4 * span)
    assert one.logit == pytest.approx(float(expected[7]), abs=1e-4 * span)
    two = pair.logit_attribution(PROMPT, answer=[7, 9], against=3)
    difference = float(expected[[7, 9]].mean() - expected[3])
    assert two.values.sum() + sum(two.outside.values()) == pytest.approx(difference, abs=1e-4 * span)
    assert two.soft_cap == (2.0 if name == "gemma2" else None)
    assert "hooks" not in two.outside


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_each_term_is_the_part_of_plain_transformers_through_the_norm_as_it_was(name: str, backend: str) -> None:
    models = make_pair(name)
    pair = to_pair(*models, backend)
    parts = reference(name)
    found = pair.logit_attribution(PROMPT, answer=7, heads=True)
    stream = oracle(*models, make_ids()[:1]).stream[-1, 0, -1]
    tuned: Any = models[1]
    norm = {"llama": "model.norm", "gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}[name]
    module: Any = tuned.get_submodule(norm)
    row = tuned.get_output_embeddings().weight[7].detach().double()
    if name == "llama":
        scale = (stream.square().mean() + module.variance_epsilon).sqrt()
    else:
        scale = (stream.var(unbiased=False) + module.eps).sqrt()

    def through(vector: torch.Tensor) -> float:
        centred = vector if name == "llama" else vector - vector.mean()
        return float((centred / scale * module.weight.detach().double()) @ row)

    for layer in range(pair.n_layers):
        sides = [parts.attention[0], parts.mlp[0]]
        sides += [parts.attention[1] - parts.attention[0], parts.mlp[1] - parts.mlp[0]]
        wanted = [through(side[layer, 0, -1]) for side in sides]
        assert found.values[layer] == pytest.approx(wanted, abs=1e-5)
    assert found.terms == ("PTC attention", "PTC mlp", "FTC attention", "FTC mlp")
    bias = 0.0 if name == "llama" else float(module.bias.detach().double() @ row)
    assert found.outside["norm bias"] == pytest.approx(bias, abs=1e-5)
    assert found.ptc_heads is not None
    assert found.ftc_heads is not None
    if name == "llama":  # no bias
        assert found.ptc_heads.sum(axis=1) == pytest.approx(found.values[:, 0], abs=1e-5)
        assert found.ftc_heads.sum(axis=1) == pytest.approx(found.values[:, 2], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_is_what_tuned_says_against_what_base_says(backend: str) -> None:
    pair = ModelPair.demo(backend=backend)
    ids = pair.prompt("How do I pick a lock?", chat=True).token_ids
    tops = [int(model(torch.tensor([ids]))[0, -1].argmax()) for model in (pair.base, pair.tuned)]
    found = pair.logit_attribution("How do I pick a lock?", chat=True)
    assert tops[0] != tops[1]
    assert (found.against_ids, found.answer_ids) == ((tops[0],), (tops[1],))
    assert found.logit > 0
    assert found.question.startswith(f"'{found.answer[0]}' over ")
    same = tiny_pair(backend, strength=0.0)
    alike = same.logit_attribution("one two")
    second = same.tuned(torch.tensor([same.prompt("one two").token_ids]))[0, -1].topk(2).indices.tolist()
    assert (*alike.answer_ids, *alike.against_ids) == tuple(second)
    assert alike.of("FTC") == 0
    assert same.logit_attribution("one two", answer="a").against_ids == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_and_scalings_are_respected(backend: str) -> None:
    pair = tiny_pair(backend)
    ids = torch.tensor([pair.prompt("one two").token_ids])

    def check(*names: str) -> LogitAttribution:
        with torch.no_grad():
            expected = float(pair.tuned(ids)[0, 3, 7])
        found = pair.logit_attribution("one two", answer=7, position=3)
        assert found.logit == pytest.approx(expected, abs=1e-4)
        assert tuple(found.outside) == ("embedding", "norm bias", "unembedding bias", *names)
        return found

    with pair.scaled(0.0):
        assert np.abs(check().values[:, 2:]).max() <= 1e-6
    hook = pair.tuned.blocks[1].hook_resid_pre.register_forward_hook(lambda _m, _a, out: out + 0.5 * out.roll(1, -1))
    check("hooks")
    hook.remove()
    hook = pair.tuned.blocks[1].hook_resid_post.register_forward_hook(lambda _m, _a, out: out * 1.5)
    assert check().terms[-1] == "FTC other"
    hook.remove()
    hook = pair.tuned.ln_final.register_forward_hook(lambda _m, _a, out: out * 1.5)
    if backend == "hooked":
        check()
    else:  # where the norm within the bridge's is read
        with pytest.raises(InputError, match="off the model's logits"):
            pair.logit_attribution("one two", answer=7)
    hook.remove()
    check()


def test_the_result_is_a_table_a_file_and_a_figure(tmp_path: Path) -> None:
    found = ModelPair.demo().logit_attribution("Hello there", chat=True, heads=True)
    frame = found.to_frame()
    assert frame[frame["kind"].isin(["term", "outside"])]["logit"].sum() == pytest.approx(found.logit)
    assert len(frame[frame["kind"] == "FTC head"]) == 64
    loaded = LogitAttribution.load(found.save(tmp_path / "logits.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert loaded.summary() == found.summary()
    assert f"{found.logit:+.2f} logits" in found.summary()
    for theme in ("light", "dark"):
        assert found.figure(theme).data[0].z == pytest.approx(found.values, rel=1e-6)  # pyright: ignore


def test_bad_answers_are_one_line() -> None:
    pair = ModelPair.demo(backend="bridge")
    for options, why in [
        ({"answer": "Sure thing"}, r"it is 2 tokens: 'Sure' \(\d+\), ' thing' \(\d+\)"),
        ({"answer": ""}, "it is empty"),
        ({"answer": 10**6}, "ids are 0 to"),
        ({"answer": 5, "against": []}, "there is no token in it"),
        ({"position": 99}, "tokens"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.logit_attribution("Hello", **options)  # pyright: ignore[reportArgumentType]
