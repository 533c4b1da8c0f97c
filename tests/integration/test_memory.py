"""Running out of memory, in every form that devices have: batches are halved, results are those without."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pairs import tiny_pair
from tuco_lens import InputError, ModelPair
from tuco_lens.engine.memory import FittingBatches, TokenBudget, token_budget, worth_padding
from tuco_lens.experiments.scores import score_prompts, tuco_of_prompts
from tuco_lens.models.failures import explained, is_out_of_memory
from tuco_lens.steering.scoring import answer_logits

ERRORS: dict[str, Callable[[], BaseException]] = {
    "PyTorch's allocator": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "Python": MemoryError,
    "CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    "CUDA": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "MPS": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
}
PROMPTS = [f"boat {i} on a river" for i in range(7)]


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair("bridge")


@contextmanager
def room_for(pair: ModelPair, rows: int, error: Callable[[], BaseException]) -> Iterator[list[int]]:
    """While open, a pass of more rows than that fails in the second block; yields the sizes of those that did not."""
    sizes: list[int] = []

    def tight(_module: Any, _args: Any, stream: torch.Tensor) -> None:
        if len(stream) > rows:
            raise error()
        sizes.append(len(stream))

    handle = pair.tuned.blocks[1].hook_resid_pre.register_forward_hook(tight)
    try:
        yield sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ERRORS)
def test_every_form_of_it_is_known(kind: str) -> None:
    assert is_out_of_memory(ERRORS[kind]())
    with pytest.raises(type(ERRORS[kind]())), explained("cannot load", None, "bridge"):
        raise ERRORS[kind]()  # and loading passes it on, and does not call it a model that cannot be run


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.bridge
@pytest.mark.parametrize("kind", ERRORS)
def test_measuring_generating_and_scoring_halve_and_go_on(kind: str, pair: ModelPair) -> None:
    ready = [pair.prompt(prompt) for prompt in PROMPTS]
    calls: dict[str, Callable[[], Any]] = {
        "measure": lambda: pair.measure(PROMPTS, progress=False).tuco.tolist(),
        "generate": lambda: [each.token_ids for each in pair.generate(PROMPTS, max_new_tokens=4)],  # pyright: ignore
        "answers": lambda: torch.stack(answer_logits(pair, ready, [[5, 6]] * len(ready), 0.5)).flatten().tolist(),
        "scores": lambda: [row["tuco_generated"] for row in score_prompts(pair, ready)],
        "tuco": lambda: tuco_of_prompts(pair, ready),
    }
    for name, call in calls.items():
        expected = call()
        with room_for(pair, 2, ERRORS[kind]) as sizes:
            found = call()
        assert set(sizes) <= {1, 2}, name
        assert 2 in sizes, name
        assert found == (expected if name == "generate" else pytest.approx(expected, abs=1e-6)), name


@pytest.mark.bridge
def test_a_stream_that_runs_out_of_memory_gives_no_token_twice(pair: ModelPair) -> None:
    whole: Any = pair.generate(PROMPTS[:4], max_new_tokens=6)
    stream: Any = pair.generate(PROMPTS[:4], max_new_tokens=6, stream=True)
    tokens = [next(stream) for _ in range(4)]
    with room_for(pair, 2, ERRORS["MPS"]):
        tokens += list(stream)
    for row, generation in enumerate(whole):
        mine = [token for token in tokens if token.row == row]
        assert [token.position for token in mine] == list(range(generation.n_tokens))
        assert tuple(token.token_id for token in mine) == generation.token_ids


@pytest.mark.bridge
@pytest.mark.parametrize("kind", ERRORS)
def test_a_single_row_that_does_not_fit_is_one_line(kind: str, pair: ModelPair) -> None:
    for call in (
        lambda: pair.measure(PROMPTS, progress=False),
        lambda: pair.generate(PROMPTS, max_new_tokens=2),
    ):
        with room_for(pair, 0, ERRORS[kind]), pytest.raises(InputError, match="out of memory with a single") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_budget_doubles_while_batches_fit_and_stays_where_one_did_not() -> None:
    budget = TokenBudget(1000, grows=True)
    fitting = FittingBatches(1000, budget=budget)
    tried = list[int]()

    def compute(batch: list[int]) -> None:
        tried.append(10 * len(batch))
        if tried[-1] > 3000:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    done = [
        i for batch, _ in fitting.run_by_length(dict.fromkeys(range(1700), 10), compute, [0] * 1700, 1) for i in batch
    ]
    assert done == list(range(1700))
    assert tried[:5] == [1000, 2000, 4000, 2000, 2000]
    assert max(tried[3:]) == budget.tokens == 2000


def test_a_budget_is_remembered_for_each_model_and_device_and_given_ones_are_not() -> None:
    model, device = torch.nn.Linear(1, 1), torch.device("cuda:0")
    token_budget(model, device, "auto").failed(77)
    assert token_budget(model, device, "auto").tokens == 77
    assert token_budget(model, torch.device("cuda:1"), "auto").tokens > 77
    assert token_budget(torch.nn.Linear(1, 1), device, "auto").tokens > 77
    assert token_budget(model, device, 500).tokens == 500
    assert not token_budget(model, torch.device("cpu"), "auto").grows


@pytest.mark.parametrize("batch_tokens", [0, -1, 1.5, True, "all", None])
def test_a_budget_that_is_none_is_one_line(batch_tokens: Any, pair: ModelPair) -> None:
    with pytest.raises(InputError, match='give a whole number above 0, or "auto"'):
        pair.measure(PROMPTS, batch_tokens=batch_tokens, progress=False)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 200))
def test_padding_that_costs_more_than_a_pass_is_not_done(lengths: list[int], pass_tokens: int) -> None:
    rows = sorted(lengths, reverse=True)
    batches = list[list[int]]()
    while rows:
        batches.append(rows[: worth_padding(rows, pass_tokens)])
        rows = rows[len(batches[-1]) :]
    assert sorted(itertools.chain(*batches)) == sorted(lengths)

    def cost(parts: Sequence[Sequence[int]]) -> int:
        return sum(len(part) * part[0] + pass_tokens for part in parts)

    assert cost(batches) <= cost([sorted(lengths, reverse=True)])
    for batch in batches:
        assert all(cost([batch]) <= cost([batch[:cut], batch[cut:]]) for cut in range(1, len(batch)))


REAL = """
import resource, sys, torch
sys.path.insert(0, ".")
from tests.pairs import tiny_pair
pair = tiny_pair("bridge", n_layers=2, d_model=512)
prompts = ["river " * 10] * 64
pair.measure(prompts[:1], progress=False)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)
sizes = []
pair.tuned.blocks[1].hook_resid_pre.register_forward_hook(lambda m, a, x: sizes.append(len(x)))
found = pair.measure(prompts, batch_size=64, progress=False).tuco
assert len(found) == 64 and max(sizes) < 64, sizes
print("halved to", max(sizes))
"""


@pytest.mark.bridge
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_a_process_that_really_runs_out_of_memory_goes_on_with_smaller_batches() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=250, check=False)
    assert "halved to" in done.stdout, done.stderr[-2000:]
