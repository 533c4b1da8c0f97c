"""What prompts begin with runs once: the numbers are those of each prompt alone, the passes those of the plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.architectures import BACKENDS, CASES, make_pair, make_tokenizer
from tests.integration.test_batch_independence import dynamic, longrope, made, prompt_of
from tests.oracle import oracle
from tests.pairs import tiny_pair
from tests.passes import run_tokens
from tuco_lens import ModelPair
from tuco_lens.engine import sharing
from tuco_lens.engine.kv_caches import shares_beginnings
from tuco_lens.engine.sharing import Node, beginnings
from tuco_lens.experiments.scores import score_prompts

FIRST = list(range(10, 22))  # longer than the sliding windows of tests/architectures.py
SECOND = [*FIRST, *range(60, 71)]
ROWS = [
    [*SECOND, 31, 7, 90],
    [*FIRST, 55],
    SECOND,  # ends where others go on
    [*SECOND, 31, 40],
    [99, 3, 4, 5],  # shares nothing
    [*SECOND, 31, 7, 90],  # a duplicate
    [*FIRST, 40, 41, 42, 43, 44],
]
PASSES = [4, 12, 5, 1, 11, 1, 1, 2]
"""Tokens of each pass where all is shared: the stranger, FIRST, two that go on from it, SECOND, 31, 40, 7 90."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_prompt_has_the_norms_that_it_has_alone(name: str, backend: str) -> None:
    base, tuned = make_pair(name)
    pair = ModelPair.from_pretrained(
        copy.deepcopy(base), copy.deepcopy(tuned), tokenizer=make_tokenizer(), backend=backend
    )
    assert shares_beginnings(pair.tuned)  # found out once per model, by passes that shall not count here
    with run_tokens(pair.tuned) as passes:
        measured = pair.measure(ROWS, drift=True, progress=False)
    assert sorted(passes) == sorted(PASSES)
    whole = pair.measure(ROWS, drift=True, share_prefixes=False, batch_size=1, progress=False)
    last = pair.measure(ROWS, drift=True, keep="last", progress=False)
    for row, item, alone, end in zip(ROWS, measured, whole, last, strict=True):
        expected = oracle(base, tuned, torch.tensor([row]))
        cumulative = [vectors[:, 0].norm(p=1, dim=-1).float() for vectors in expected.cumulative()]
        found = [item.maps.cumulative_ptc, item.maps.cumulative_ftc]
        for a, b in zip(found, cumulative, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.max().item())
        assert item.tuco == pytest.approx(expected.tuco().item(), abs=1e-5)
        assert end.tuco == pytest.approx(expected.tuco().item(), abs=1e-5)
        torch.testing.assert_close(item.maps.drift, alone.maps.drift, rtol=1e-5, atol=1e-5)
        assert end.output_co == pytest.approx(alone.output_co, abs=1e-5)


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    pair = tiny_pair(request.param)
    assert shares_beginnings(pair.tuned)
    return pair


def n_run(pair: ModelPair, rows: Sequence[Sequence[int]] = ROWS, **options: Any) -> tuple[int, list[float]]:
    """Tokens that went through the tuned model, and every prompt's TuCo."""
    with run_tokens(pair.tuned) as passes:
        measured = pair.measure([list(row) for row in rows], progress=False, **options)
    return sum(passes), [item.tuco for item in measured]


@pytest.mark.usefixtures("eager")
def test_whole_prompts_run_where_asked_for_and_where_a_hook_may_look(pair: ModelPair) -> None:
    whole, expected = n_run(pair, share_prefixes=False)
    seen = list[tuple[int, ...]]()

    def see(_module: Any, _args: Any, stream: torch.Tensor) -> None:
        seen.append(tuple(stream.shape[:2]))

    point = pair.tuned.blocks[1].hook_resid_pre
    handle = point.register_forward_hook(see)
    assert n_run(pair)[0] == whole
    handle.remove()
    assert sum(n_rows * longest for n_rows, longest in seen) == whole
    assert {longest for _, longest in seen} <= set(map(len, ROWS))
    handle = point.register_forward_pre_hook(lambda *_: None)
    assert n_run(pair)[0] == whole
    handle.remove()
    pair.base.add_hook("blocks.0.hook_resid_pre", lambda stream, hook: stream)
    assert n_run(pair)[0] == whole
    pair.base.reset_hooks()
    shared, found = n_run(pair)
    assert shared == sum(PASSES) < whole
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("eager")
def test_the_scores_of_experiments_are_those_of_each_prompt_alone(pair: ModelPair) -> None:
    prompts = [pair.prompt(list(row)) for row in ROWS]
    assert shares_beginnings(pair.base)
    with run_tokens(pair.base) as passes:
        together = score_prompts(pair, prompts)
    alone = [score_prompts(pair, [prompt])[0] for prompt in prompts]
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    # On its own, and beside the tuned model, where every prompt has one token more.
    assert sum(passes) <= 2 * sum(PASSES) + len(ROWS)


@pytest.mark.usefixtures("eager")
def test_whole_prompts_run_inside_an_open_scaling(pair: ModelPair) -> None:
    whole, _ = n_run(pair, share_prefixes=False)
    with pair.scaled(0.5, method="ftc"):
        found = n_run(pair)
        expected = n_run(pair, share_prefixes=False)
    assert found[0] == expected[0] == whole
    assert found[1] == pytest.approx(expected[1], abs=1e-6)


def test_beginnings_that_do_not_pay_run_with_their_prompts(pair: ModelPair) -> None:
    assert n_run(pair)[0] == len(ROWS) * max(map(len, ROWS))  # fewer tokens are saved than two passes cost
    rows = [[*([10, 11, 12] * 15), *(20 + i,) * 3] for i in range(5)]
    assert n_run(pair, rows)[0] == 45 + 5 * 3


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"batch_tokens": 1}, {"batch_tokens": 7}, {"batch_size": 1}, {"chunk_size": 3}])
def test_the_numbers_do_not_depend_on_the_batches(pair: ModelPair, options: dict[str, Any]) -> None:
    _, expected = n_run(pair, share_prefixes=False, batch_size=1)
    stream = pair.measure_stream([list(row) for row in ROWS], **options)
    assert [item.tuco for item in stream] == pytest.approx(expected, abs=1e-6)
    _, backwards = n_run(pair, ROWS[::-1])
    assert backwards[::-1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.bridge
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("make", [longrope, dynamic])
def test_only_lengths_with_the_same_angles_share(make: Callable[[], Any]) -> None:
    base, tuned, pair = made(make)
    text = prompt_of(60)
    rows = [text[:12] + prompt_of(n, seed=n) for n in (3, 4, 5)]  # all within the switch, as is their beginning
    rows += [text[:40] + prompt_of(n, seed=n) for n in (9, 10, 10)]  # all beyond, as is their beginning
    rows += [text[:12] + prompt_of(30, seed=1)]  # beyond, and what it shares with others is not
    assert shares_beginnings(pair.tuned)
    for batch_tokens in (1, 50, 100_000):
        with run_tokens(pair.tuned) as passes:
            measured = pair.measure(rows, batch_tokens=batch_tokens, progress=False)
        for row, item in zip(rows, measured, strict=True):
            assert item.tuco == pytest.approx(oracle(base, tuned, torch.tensor([row])).tuco().item(), abs=1e-6)
        assert 12 in passes
        assert (40 in passes) == (make is longrope)  # `dynamic` has other angles for every length beyond


@pytest.mark.usefixtures("eager")
def test_a_beginning_without_room_in_memory_runs_with_each_prompt(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in ROWS if row != SECOND]
    _, expected = n_run(pair, rows, share_prefixes=False)
    grow = sharing.Beginning.copies

    def tight(self: sharing.Beginning, n_rows: int, *, forgets: bool = True) -> Any:
        if not forgets and self.ids == tuple(FIRST):  # on the way to SECOND
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return grow(self, n_rows, forgets=forgets)

    monkeypatch.setattr(sharing.Beginning, "copies", tight)
    with run_tokens(pair.tuned) as passes:
        found = [item.tuco for item in pair.measure(rows, progress=False)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert sorted(passes) == sorted([4, len(FIRST), 5, 1, 3 * (11 + 3)])


def below(roots: Sequence[Node]) -> Iterator[Node]:
    todo = list(roots)
    while todo:
        node = todo.pop()
        yield node
        todo += node.children


TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=9)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 3), st.booleans())
def test_a_plan_has_every_text_once_and_true_beginnings(
    rows: list[list[int]], pass_tokens: int, of_kinds: bool
) -> None:
    def kind(n_tokens: int) -> int:
        return int(of_kinds and n_tokens > 4)

    roots = beginnings(rows, kind, pass_tokens)
    for node in below(roots):
        (start,) = {tuple(rows[i][: node.n_tokens]) for i in node.rows}
        assert len(start) == node.n_tokens > 0
        assert {kind(len(rows[i])) for i in node.rows} == {kind(node.n_tokens)}
        assert (len(node.rows) - 1) * node.n_tokens >= 2 * pass_tokens or node not in roots
        for child in node.children:
            assert child.n_tokens > node.n_tokens
            assert set(child.rows) <= set(node.rows)
    ends = [i for node in below(roots) for i in node.alone]
    assert sorted(ends) == sorted({i for root in roots for i in root.rows})


@settings(deadline=None)
@given(TEXTS)
def test_a_plan_where_passes_cost_nothing_runs_no_beginning_twice(rows: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "LEAST_SHARE", 0.0)
        roots = beginnings(rows, lambda _: 0, 0)
    n_tokens = sum(len(row) for i, row in enumerate(rows) if not any(i in root.rows for root in roots))
    todo = [(root, 0) for root in roots]
    while todo:
        node, before = todo.pop()
        n_tokens += node.n_tokens - before + sum(len(rows[i]) - node.n_tokens for i in node.alone)
        todo += [(child, node.n_tokens) for child in node.children]
    assert n_tokens == len({tuple(row[: n + 1]) for row in rows for n in range(len(row))})


def test_a_long_chain_of_prompts_is_planned_without_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "LEAST_SHARE", 0.0)
    rows = [[0] * n for n in range(1, 2000)]
    assert len(list(below(beginnings(rows, lambda _: 0, 0)))) > 1000
