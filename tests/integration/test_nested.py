"""Prompts that grow one from the other: scored as by themselves, with what they share computed once."""

from __future__ import annotations

import itertools

import pytest

from tests.passes import run_tokens
from tuco_lens import ModelPair
from tuco_lens.engine.kv_caches import shares_beginnings
from tuco_lens.engine.sharing import shared_beginning
from tuco_lens.experiments.nested import score_nested
from tuco_lens.steering.scoring import answer_logits

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_prompts_that_grow_have_the_scores_of_prompts_by_themselves(backend: str) -> None:
    pair = ModelPair.demo(backend=backend)
    texts = ["Where is Rome? ", "Tell me about the sea. ", "Who are you? ", "Name a bird. "]
    prompts = [pair.prompt("".join(texts[:k]) + "What is it?", chat=True) for k in (1, 2, 4)]
    prompts += [pair.prompt("Another beginning.", chat=False), prompts[1]]  # what does not grow is scored as well
    found = score_nested(pair, prompts)
    for ends, item in zip(found, pair.measure(prompts, drift=True, progress=False), strict=True):
        assert item.maps.drift is not None
        assert ends.tuco == pytest.approx(item.tuco, rel=1e-5)
        assert ends.output_co == pytest.approx(item.output_co, rel=1e-5)
        assert ends.drift == pytest.approx(item.maps.drift[:, -1].mean().item(), rel=1e-5)
    logits = answer_logits(pair, prompts, [[5, 6, 7]] * len(prompts))
    for ends, expected in zip(found, logits, strict=True):
        assert ends.logits[[5, 6, 7]].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.bridge
@pytest.mark.usefixtures("eager")
def test_what_growing_prompts_share_is_computed_once() -> None:
    demo = ModelPair.demo(backend="bridge")
    prompts = [demo.prompt("The sea is wide. " * k + "What is it?", chat=True) for k in (1, 4, 16)]
    rows = [list(prompt.token_ids) for prompt in prompts]
    assert shares_beginnings(demo.tuned)  # found out once per model, by passes that shall not count here
    with run_tokens(demo.tuned) as n_run:
        score_nested(demo, prompts)
    branches = sum(len(row) - shared_beginning([row, after]) for row, after in itertools.pairwise(rows))
    assert sum(n_run) == len(rows[-1]) + branches
