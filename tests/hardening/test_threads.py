"""Several threads on one pair: each gets the numbers that it would get alone, or is told that the pair is in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from tests.pairs import tiny_pair
from tuco_lens import InputError, ModelPair
from tuco_lens.engine.use import guard, use_of
from tuco_lens.steering.scaling import Scaling, method_of, scaling_settings

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
PROMPTS = [f"boat {i} on the river" * (1 + i % 3) for i in range(20)]
SECONDS = 60


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked":
        transformer_lens = pytest.importorskip("transformer_lens")
        if not hasattr(transformer_lens, "HookedTransformer"):
            pytest.skip("the installed transformer-lens has no HookedTransformer")
    return tiny_pair(request.param)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls in a thread each, all begun at once; what a call raises, the test does."""
    start = threading.Barrier(len(calls))

    def begun(call: Callable[[], Any]) -> Any:
        start.wait(SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(SECONDS) for future in [pool.submit(begun, call) for call in calls]]


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to rounding: in a new thread torch may share a sum among another number of processors."""
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_measuring_in_two_threads_gives_what_each_measures_alone(pair: ModelPair) -> None:
    alone = pair.measure(PROMPTS, progress=False, batch_size=2).tuco
    for _ in range(3):
        for found in together(*[lambda: pair.measure(PROMPTS, progress=False, batch_size=2).tuco] * 3):
            assert is_close(found, alone)


def test_streams_of_two_threads_do_not_mix(pair: ModelPair) -> None:
    alone = [item.tuco for item in pair.measure_stream(PROMPTS, batch_size=2, chunk_size=4)]
    for found in together(
        *[lambda: [item.tuco for item in pair.measure_stream(PROMPTS, batch_size=2, chunk_size=4)]] * 2
    ):
        assert found == pytest.approx(alone, abs=1e-6)


def test_plain_calls_see_no_scaling_of_another_thread(pair: ModelPair) -> None:
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        plain = pair.tuned(ids)
    expected = pair.generate(PROMPTS[0], alpha=0.3, max_new_tokens=12)

    def call() -> bool:
        with torch.no_grad():
            return all(is_close(pair.tuned(ids), plain) for _ in range(40))

    for method in ("ftc", "weights", "logits"):
        generated, unscaled, measured = together(
            lambda method=method: pair.generate(PROMPTS[0], alpha=0.3, method=method, max_new_tokens=12),
            call,
            lambda: pair.measure(PROMPTS[:6], progress=False).tuco,
        )
        assert unscaled
        assert is_close(measured, pair.measure(PROMPTS[:6], progress=False).tuco)
        if method == "ftc":
            assert generated.token_ids == expected.token_ids  # pyright: ignore


def test_a_call_that_waits_behind_a_scaling_of_logits_is_not_scaled_by_it(pair: ModelPair) -> None:
    """PyTorch looks up a module's forward before its hooks run, and so before the call waits for its turn."""
    ids = torch.arange(2, 22)[None]
    with torch.no_grad():
        plain = pair.tuned(ids)
    looked_up = threading.Event()

    def waits(*_: Any) -> None:
        looked_up.set()

    scaling = method_of(pair, scaling_settings(0.3, pair.n_layers, method="logits"))
    with ThreadPoolExecutor(1) as pool:
        with Scaling(pair, None, lambda: scaling), torch.no_grad():
            handle = pair.tuned.register_forward_pre_hook(waits, prepend=True)
            try:
                waiting = pool.submit(lambda: pair.tuned(ids).detach())
                assert looked_up.wait(SECONDS)
            finally:
                handle.remove()
        assert is_close(waiting.result(SECONDS), plain)


def test_a_user_who_has_a_scaling_open_has_the_pair_and_others_are_told(pair: ModelPair) -> None:
    ids = torch.arange(2, 22)[None]
    with pair.scaled(0.5):
        for use in (
            lambda: pair.tuned(ids),
            lambda: pair.measure(PROMPTS[0], progress=False),
            lambda: pair.generate(PROMPTS[0], max_new_tokens=2),
            lambda: pair.run_with_cache(PROMPTS[0]),
            lambda: pair.scaled(0.1).apply(),
        ):
            with pytest.raises(InputError, match="another thread has a scaling of it open"):
                together(use)
        pair.measure(PROMPTS[0], progress=False)  # its own thread goes on as ever
    assert len(together(lambda: pair.measure(PROMPTS[0], progress=False))) == 1


def test_a_pass_that_fails_gives_the_pair_back(pair: ModelPair) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        pair.tuned(torch.tensor([[10_000]]))
    hook = pair.tuned.blocks[1].hook_resid_pre.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pair.measure(PROMPTS[0], progress=False)
    hook.remove()
    (found,) = together(lambda: pair.measure(PROMPTS[0], progress=False).tuco)
    assert is_close(found, pair.measure(PROMPTS[0], progress=False).tuco)


@pytest.mark.parametrize("method", ["ftc", "weights", "logits"])
def test_a_stream_that_is_not_read_to_its_end_leaves_the_models_as_they_were(pair: ModelPair, method: Any) -> None:
    before = pair.measure(PROMPTS[:3], progress=False).tuco
    stream: Any = pair.generate(PROMPTS[0], alpha=0.2, method=method, max_new_tokens=20, stream=True)
    next(stream), next(stream)
    assert is_close(pair.measure(PROMPTS[:3], progress=False).tuco, before)  # while it is open
    rest = [token.token_id for token in stream]
    whole = pair.generate(PROMPTS[0], alpha=0.2, method=method, max_new_tokens=20)
    assert rest == list(whole.token_ids[2:])  # pyright: ignore
    abandoned: Any = pair.generate(PROMPTS[0], alpha=0.2, method=method, max_new_tokens=20, stream=True)
    next(abandoned)
    del abandoned
    assert is_close(pair.measure(PROMPTS[:3], progress=False).tuco, before)


def test_a_stream_may_be_read_in_another_thread_than_it_was_made_in(pair: ModelPair) -> None:
    whole: Any = pair.generate(PROMPTS[0], max_new_tokens=8)
    stream: Any = pair.generate(PROMPTS[0], max_new_tokens=8, stream=True)
    first = next(stream).token_id
    (rest,) = together(lambda: [token.token_id for token in stream])
    assert (first, *rest) == whole.token_ids


def test_a_call_within_a_call_that_is_refused_gives_back_no_lock_but_its_own() -> None:
    outer, inner = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    guard(outer)
    guard(inner)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        use_of(inner).take(open_ended=True)
        held.set()
        done.wait(SECONDS)
        use_of(inner).give_back(open_ended=True)

    def call_inner(*_: Any) -> None:
        with pytest.raises(InputError, match="in use"):
            inner(torch.ones(1))

    hook = outer.register_forward_pre_hook(call_inner)
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        held.wait(SECONDS)
        outer(torch.ones(1))
        hook.remove()
        done.set()
        holding.result(SECONDS)
    together(lambda: outer(torch.ones(1)), lambda: inner(torch.ones(1)))  # else one waits for ever


@pytest.mark.bridge
def test_pairs_that_load_in_two_threads_leave_the_libraries_as_they_were() -> None:
    found = vars(AutoProcessor)["from_pretrained"]
    together(*[lambda: [tiny_pair("bridge") for _ in range(4)]] * 3)
    assert vars(AutoProcessor)["from_pretrained"] is found
