"""GCG on tiny models: its gradient, its losses, its candidates, and what it leaves behind.

Goals and targets are meaningless words. The embedded pair is in `tests/integration/test_gcg_demo.py`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from transformers import AutoTokenizer

from tests.architectures import VOCAB, from_config, make_pair, make_tokenizer
from tuco_lens import InputError, ModelPair
from tuco_lens.attacks import gcg
from tuco_lens.attacks.framing import Frame, Framing, allowed_tokens, make_frames, with_attack
from tuco_lens.attacks.gcg import GcgSettings, optimise, ranked_substitutes
from tuco_lens.attacks.objective import Objective
from tuco_lens.pair import DEMO_FOLDER
from tuco_lens.prompts.prompt import make_prompt

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
FRAMES = [  # before the string longer than the sliding windows of tests/architectures.py
    Frame("", tuple(range(10, 24)), (31, 32, 33), (40, 41, 42)),
    Frame("", (50,), (), (60,)),
    Frame("", (), (61, 62), (63, 64)),
]
ROWS = torch.tensor([[5, 9, 100], [7, 7, 7], [120, 9, 100], [5, 80, 81], [5, 9, 101]])
QUICK = GcgSettings(n_tokens=3, steps=4, top_k=8, n_candidates=12, seed=3)
TEMPLATE = (
    "{% for m in messages %}<s> w3 {{ 'w8 ' if m['role'] == 'system' }}{{ m['content'] }} w4 {% endfor %}"
    "{% if add_generation_prompt %}<s> w5{% endif %}"
)


class Wide(TorchFunctionMode):
    """Float64 throughout: transformers casts norms and softmax to float32, too coarse for finite differences."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is Tensor.float:
            func = Tensor.double
        return func(*map(wide, args), **{name: wide(value) for name, value in (kwargs or {}).items()})


@pytest.fixture
def wide() -> Iterator[None]:
    with Wide():
        yield


def chat_tokenizer() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@cache
def hf_pair(name: str) -> tuple[Any, Any]:
    return make_pair(name)


def in_float64(model: Any) -> Any:
    """A copy: a bridge changes the model that it wraps."""
    return copy.deepcopy(model).double()


def load(name: str, backend: str) -> ModelPair:
    if backend == "hooked":
        pytest.importorskip(
            "transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer"
        )
    base, tuned = map(in_float64, hf_pair(name))
    return ModelPair.from_pretrained(base, tuned, tokenizer=chat_tokenizer(), backend=backend, dtype="float64")


loaded = cache(load)


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    return load("llama", request.param)


def plain_loss(name: str, frame: Frame, string: Tensor, table: Tensor | None = None) -> Tensor:
    """The loss of one string, of ids or of weights over the vocabulary [slot, d_vocab], by plain transformers."""
    model = in_float64(hf_pair(name)[1])
    embed = model.get_input_embeddings()
    own = embed(string) if table is None else string @ table
    parts = [embed(torch.tensor(ids, dtype=torch.long)) for ids in (frame.before, (*frame.after, *frame.target[:-1]))]
    logits = model(inputs_embeds=torch.cat([parts[0], own, parts[1]])[None], use_cache=False).logits[0]
    return cross_entropy(logits[-len(frame.target) :], torch.tensor(frame.target))


CASES = ["llama", "gpt2", "gemma3", "mistral", "opt"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("wide")
@torch.no_grad()
def test_the_one_hot_gradient_is_the_finite_difference_of_the_loss(name: str, backend: str) -> None:
    pair, row, step = loaded(name, backend), ROWS[0], 1e-6
    one_hot = torch.nn.functional.one_hot(row, VOCAB).double()
    table = in_float64(hf_pair(name)[1]).get_input_embeddings()(torch.arange(VOCAB))
    generator = torch.Generator().manual_seed(0)
    for frame in FRAMES:
        gradients = [Objective(pair.tuned, [frame], share_prefix=share).gradient(row) for share in (True, False)]
        for _ in range(2):
            direction = torch.randn(one_hot.shape, generator=generator, dtype=torch.float64)
            ends = [plain_loss(name, frame, one_hot + sign * step * direction, table) for sign in (1, -1)]
            expected = (ends[0] - ends[1]) / (2 * step)
            for gradient in gradients:
                torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("wide")
@torch.no_grad()
def test_losses_with_and_without_a_cached_prefix_and_in_any_batch_are_those_of_plain_transformers(
    name: str, backend: str
) -> None:
    pair = loaded(name, backend)
    for frames in ([FRAMES[0]], [FRAMES[1]], [FRAMES[2]], FRAMES):
        expected = torch.stack([torch.stack([plain_loss(name, f, row) for f in frames]).mean() for row in ROWS])
        for options in ({}, {"share_prefix": False}, {"batch_size": 1}, {"batch_size": 2, "share_prefix": False}):
            losses, _ = Objective(pair.tuned, frames, **options).losses(ROWS)
            torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_several_frames_have_the_mean_of_their_gradients(pair: ModelPair) -> None:
    alone = [Objective(pair.tuned, [frame]).gradient(ROWS[0]) for frame in FRAMES]
    torch.testing.assert_close(Objective(pair.tuned, FRAMES).gradient(ROWS[0]), torch.stack(alone).mean(0))


@torch.no_grad()
def test_a_target_is_reached_exactly_if_it_is_the_greedy_answer(pair: ModelPair) -> None:
    answers: list[tuple[int, ...]] = []
    for row in ROWS.tolist():
        ids = [10, 11, *row, 12]
        for _ in range(2):
            ids.append(int(pair.tuned(torch.tensor([ids]))[0, -1].argmax()))
        answers.append(tuple(ids[-2:]))
    for i, answer in enumerate(answers):
        reached = Objective(pair.tuned, [Frame("", (10, 11), (12,), answer)]).losses(ROWS)[1]
        assert reached.tolist() == [other == answer for other in answers]
        wrong = (answer[0], (answer[1] + 1) % VOCAB)
        assert not Objective(pair.tuned, [Frame("", (10, 11), (12,), wrong)]).losses(ROWS)[1][i]


def run(pair: ModelPair, how: GcgSettings = QUICK, goals: Sequence[str] = ("w20 w21", "w22")) -> gcg.GcgResult:
    return optimise(pair, goals, ["w30 w31", "w32"][: len(goals)], how, progress=False)


def test_the_same_seed_gives_the_same_result_bit_for_bit_and_another_seed_another(pair: ModelPair) -> None:
    assert run(pair) == run(pair)
    assert run(pair).attack != run(pair, replace(QUICK, seed=4)).attack


@pytest.mark.parametrize("place", ["prefix", "suffix"])
@pytest.mark.parametrize("system", [None, "w90 w91"])
def test_the_result_is_what_its_message_does_in_the_tuned_models_chat(pair: ModelPair, place: Any, system: Any) -> None:
    result = run(pair, replace(QUICK, place=place, system=system))
    frames: list[Frame] = []
    for goal, target in (("w20 w21", (30, 31)), ("w22", (32,))):
        ids = pair.prompt(result.message(goal), chat=True, system=system).token_ids
        goal_ids = tuple(int(word[1:]) for word in goal.split())
        wanted = (*result.token_ids, *goal_ids) if place == "prefix" else (*goal_ids, *result.token_ids)
        first = next(i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted)
        frames.append(Frame(goal, ids[:first], ids[first + len(wanted) :], target))
        assert frames[-1].before == ((1, 3, 8, 90, 91, 4, 1, 3) if system else (1, 3))
        assert frames[-1].after == (4, 1, 5)
    whole = [replace_string(frame, result.token_ids, place) for frame in frames]
    losses = [plain_loss("llama", frame, torch.tensor(ids)).item() for frame, ids in whole]
    assert result.loss == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert result.loss == min(result.losses) < result.losses[0]
    assert len(result.losses) == 1 + QUICK.steps
    assert result.n_evaluated == 1 + QUICK.steps * QUICK.n_candidates


def replace_string(frame: Frame, token_ids: tuple[int, ...], place: str) -> tuple[Frame, list[int]]:
    goal = [int(word[1:]) for word in frame.goal.split()]
    return frame, [*token_ids, *goal] if place == "prefix" else [*goal, *token_ids]


def small_pair(seed: int, backend: str) -> ModelPair:
    """A random pair of 24 tokens, 21 of them words, so that all strings of two can be tried."""
    import transformers as hf

    size = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.LlamaConfig(**size, intermediate_size=48, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    models = [from_config(config, seed + i) for i in range(2)]
    tokenizer = chat_tokenizer()
    return ModelPair.from_pretrained(*models, tokenizer=tokenizer, backend=backend)


def every_loss(pair: ModelPair, n_words: int = 24) -> dict[tuple[int, ...], float]:
    """Loss of every string of two words, from its rendered message."""
    strings = list(itertools.product(range(3, n_words), repeat=2))
    messages = [with_attack("w20 w21", " ".join(f"w{i}" for i in ids), "prefix") for ids in strings]
    rows = [[*pair.prompt(message, chat=True).token_ids, 10] for message in messages]
    log_p = pair.tuned(torch.tensor(rows)).log_softmax(-1)
    losses = -(log_p[:, -2, 10] + log_p[:, -1, 11]) / 2
    return dict(zip(strings, losses.tolist(), strict=True))


@pytest.mark.bridge
@torch.no_grad()
def test_on_a_small_vocabulary_the_search_finds_the_string_that_exhaustive_search_finds() -> None:
    for model_seed in range(3):
        pair = small_pair(model_seed, "bridge")
        losses = every_loss(pair)
        known_best = min(losses, key=lambda ids: losses[ids])
        assert losses[known_best] < sorted(losses.values())[1] - 1e-4  # one string is best, beyond rounding
        how = GcgSettings(n_tokens=2, steps=8, top_k=24, n_candidates=48, early_stop=False)
        for seed in range(4):
            result = optimise(pair, ["w20 w21"], ["w10 w11"], replace(how, seed=seed), progress=False)
            assert result.token_ids == known_best
            assert result.loss == pytest.approx(losses[known_best], abs=1e-5)


@pytest.mark.bridge
@torch.no_grad()
def test_a_full_step_goes_on_with_the_best_of_all_single_substitutions() -> None:
    pair = small_pair(0, "bridge")
    losses = every_loss(pair)
    how = GcgSettings(n_tokens=2, steps=0, top_k=24, n_candidates=48, early_stop=False)
    for seed in range(4):
        start = optimise(pair, ["w20 w21"], ["w10 w11"], replace(how, seed=seed), progress=False)
        after = optimise(pair, ["w20 w21"], ["w10 w11"], replace(how, seed=seed, steps=1), progress=False)
        near = [ids for ids in losses if sum(a != b for a, b in zip(ids, start.token_ids, strict=True)) == 1]
        assert after.losses == pytest.approx([losses[start.token_ids], min(losses[ids] for ids in near)], abs=1e-5)
        assert after.n_evaluated == 1 + len(near)


LEGS = replace(QUICK, steps=5, top_k=4, n_candidates=3)


@pytest.mark.parametrize("guide", ["gradient", "chance"])
@pytest.mark.parametrize("cuts", [(0,), (2,), (4,), (2, 4), (0, 2, 2, 4)])
def test_a_search_left_and_gone_on_with_is_the_search_that_was_never_left(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch, guide: Any, cuts: tuple[int, ...]
) -> None:
    monkeypatch.setattr(gcg, "LEG", 2)
    how = replace(LEGS, guide=guide)
    whole = optimise(pair, ["w20 w21"], ["w30 w31"], how, progress=False)
    found = None
    for steps in (*cuts, how.steps):
        found = optimise(pair, ["w20 w21"], ["w30 w31"], replace(how, steps=steps), after=found, progress=False)
    assert found == whole
    assert len(whole.losses) == 1 + how.steps


def test_a_search_can_only_be_gone_on_with_as_it_was(pair: ModelPair) -> None:
    begun = optimise(pair, ["w20"], ["w30"], replace(LEGS, steps=0), progress=False)
    left_in_a_leg = optimise(pair, ["w20"], ["w30"], replace(LEGS, steps=1), progress=False)
    for goal, how, after in (
        ("w21", LEGS, begun),
        ("w20", replace(LEGS, seed=9), begun),
        ("w20", replace(LEGS, guide="chance"), begun),
        ("w20", LEGS, left_in_a_leg),
    ):
        with pytest.raises(InputError, match="cannot go on with this search"):
            optimise(pair, [goal], ["w30"], how, after=after, progress=False)


def test_a_search_that_has_reached_its_target_stays_where_it_is(pair: ModelPair, monkeypatch: Any) -> None:
    monkeypatch.setattr(gcg, "LEG", 1)
    ended = replace(optimise(pair, ["w20"], ["w30"], replace(LEGS, steps=1), progress=False), reached=True)
    gone_on = optimise(pair, ["w20"], ["w30"], LEGS, after=ended, progress=False)
    assert replace(gone_on, settings=ended.settings) == ended


def test_random_search_costs_in_each_step_what_a_gradient_step_costs(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcg, "Objective", Recorder)
    by_guide: dict[str, list[int]] = {}
    starts: list[Tensor] = []
    for guide in ("gradient", "chance"):
        monkeypatch.setattr(Recorder, "batches", ())
        result = run(pair, replace(QUICK, guide=guide))
        start, *steps = Recorder.batches
        starts.append(start)
        assert result.n_evaluated == 1 + sum(map(len, steps))
        n_gradients = len(steps) if guide == "gradient" else 0
        by_guide[guide] = [1 + gcg.GRADIENT_COST * n_gradients + sum(map(len, steps)), len(steps)]
    assert by_guide["gradient"] == by_guide["chance"]
    assert torch.equal(*starts)


def test_random_search_draws_any_allowed_substitution_and_asks_for_no_gradient(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("random search asked for a gradient")

    monkeypatch.setattr(Recorder, "gradient", refuse)
    monkeypatch.setattr(gcg, "Objective", Recorder)
    monkeypatch.setattr(Recorder, "batches", ())
    allowed = allowed_tokens(pair.tokenizer, pair.tuned.cfg.d_vocab)
    n_all = QUICK.n_tokens * (int(allowed.sum()) - 1)
    run(pair, replace(QUICK, guide="chance", steps=1, n_candidates=n_all))
    start, rows = Recorder.batches
    assert len({tuple(row) for row in rows.tolist()}) == len(rows) == n_all
    assert allowed[rows].all()
    assert ((rows != start).sum(1) == 1).all()


def test_the_strength_of_the_methods_paper_is_that_of_its_authors() -> None:
    # Zou et al. 2023, the defaults of their code: length, steps, top-k, candidates.
    how = gcg.STRENGTHS["paper"]
    assert (how.n_tokens, how.steps, how.top_k, how.n_candidates) == (20, 500, 256, 512)
    assert gcg.STRENGTHS["quick"] == GcgSettings()


def test_substitutes_are_the_allowed_tokens_of_steepest_descent_in_order_and_never_the_present_one() -> None:
    gradient = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    allowed = torch.arange(40) % 3 != 0
    row = gradient.masked_fill(~allowed, torch.inf).argmin(1)  # the present token would be ranked first
    row[0] = 0
    for top_k in (1, 7, 100):
        ranked = ranked_substitutes(row, gradient, allowed, top_k)
        for slot in range(5):
            others = [i for i in range(40) if allowed[i] and i != row[slot]]
            others.sort(key=lambda i, slot=slot: gradient[slot, i].item())
            assert ranked[slot].tolist() == others[: min(top_k, int(allowed.sum()) - 1)]


class Recorder(Objective):
    """Keeps every batch of strings whose losses are asked for."""

    batches: tuple[Tensor, ...] = ()

    def losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        Recorder.batches = (*Recorder.batches, rows)
        return super().losses(rows)


def test_candidates_differ_from_the_string_in_one_token_and_from_each_other(
    pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcg, "Objective", Recorder)
    monkeypatch.setattr(Recorder, "batches", ())
    result = run(pair)
    start, *steps = Recorder.batches
    assert len(start) == 1
    assert len(steps) == QUICK.steps
    current = start[0]
    for rows, loss in zip(steps, result.losses[1:], strict=True):
        assert rows.shape == (QUICK.n_candidates, QUICK.n_tokens)
        assert ((rows != current).sum(1) == 1).all()
        assert len({tuple(row) for row in rows.tolist()}) == len(rows)
        losses = Objective(pair.tuned, make_frames_of(pair)).losses(rows)[0]
        assert losses.min().item() == pytest.approx(loss)
        current = rows[losses.argmin()]


def make_frames_of(pair: ModelPair) -> list[Frame]:
    return [
        Frame("w20 w21", (1, 3), (20, 21, 4, 1, 5), (30, 31)),
        Frame("w22", (1, 3), (22, 4, 1, 5), (32,)),
    ]


def test_a_string_that_already_reaches_its_target_ends_the_search_unless_asked_to_go_on(pair: ModelPair) -> None:
    start = run(pair, replace(QUICK, steps=0), ["w20 w21"])
    prompt = pair.prompt(start.message("w20 w21"), chat=True).token_ids
    answer = int(pair.tuned(torch.tensor([prompt]))[0, -1].argmax())
    ended = optimise(pair, ["w20 w21"], [f"w{answer}"], QUICK, progress=False)
    assert (ended.token_ids, ended.reached, ended.n_evaluated) == (start.token_ids, True, 1)
    went_on = optimise(pair, ["w20 w21"], [f"w{answer}"], replace(QUICK, early_stop=False), progress=False)
    assert went_on.reached
    assert len(went_on.losses) == 1 + QUICK.steps
    assert went_on.loss <= ended.loss


@pytest.mark.parametrize("n_words", [0, 1])
def test_a_vocabulary_without_a_choice_is_refused(pair: ModelPair, monkeypatch: Any, n_words: int) -> None:
    monkeypatch.setattr(gcg, "allowed_tokens", lambda *_: torch.arange(VOCAB) >= VOCAB - n_words)
    with pytest.raises(InputError, match=f"{n_words} tokens of the vocabulary"):
        run(pair)


def test_a_search_ends_where_no_substitution_survives(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_self: Framing, rows: Tensor, _frames: Any) -> Tensor:
        return rows[:1] if len(rows) > QUICK.n_candidates else rows[:0]  # of the starts, one

    monkeypatch.setattr(Framing, "surviving", none)
    result = run(pair)
    assert (len(result.losses), result.n_evaluated) == (1, 1)


# What is left behind


def state(pair: ModelPair) -> list[Any]:
    modules = [module for model in (pair.base, pair.tuned) for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules]
    own = ["forward" in vars(m) for m in modules]
    parameters = [(p.requires_grad, p.grad is None) for m in (pair.base, pair.tuned) for p in m.parameters()]
    return [hooks, own, [m.training for m in modules], parameters, pair.active_scalings]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("failing_pass", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_anywhere_the_models_are_as_they_were(backend: str, failing_pass: int, error: type) -> None:
    pair = load("llama", backend)
    pair.tuned.train()
    for parameter in list(pair.tuned.parameters())[::2]:
        parameter.requires_grad_(False)
    passes = itertools.count()

    def fail(*_: Any) -> None:
        if next(passes) == failing_pass:
            raise error

    handle = pair.tuned.blocks[1].register_forward_hook(fail)
    before = state(pair)
    with pytest.raises(error):
        run(pair)
    assert state(pair) == before
    assert torch.is_grad_enabled()
    handle.remove()


def test_after_a_search_the_models_are_as_they_were_and_no_parameter_has_a_gradient(pair: ModelPair) -> None:
    before = state(pair)
    run(pair)
    assert state(pair) == before
    assert all(parameter.grad is None for parameter in pair.tuned.parameters())


@pytest.mark.bridge
def test_a_model_in_training_mode_is_attacked_without_its_dropout() -> None:
    pair = load("gpt2", "bridge")
    expected = run(pair)
    pair.tuned.train()
    modules = {*pair.tuned.modules(), *pair.tuned.original_model.modules()}
    for module in modules:
        module.training = True
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(pair.tuned(ids), pair.tuned(ids))  # the dropout is there
    assert run(pair) == expected
    assert all(module.training for module in modules)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off(pair: ModelPair, mode: Any) -> None:
    expected = run(pair)
    with mode():
        assert run(pair) == expected


# Tokens and text


@cache
def demo_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")


@cache
def demo_allowed() -> Tensor:
    return allowed_tokens(demo_tokenizer(), 4100)  # an embedding may be longer than its tokenizer


def test_allowed_tokens_read_as_printable_ascii_and_are_not_special() -> None:
    tokenizer, allowed = demo_tokenizer(), demo_allowed()
    assert allowed.shape == (4100,)
    assert not allowed[len(tokenizer) :].any()
    assert not allowed[[*tokenizer.all_special_ids]].any()
    for text in ("\n", "é", "€"):
        assert not any(allowed[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"])
    for i in allowed.nonzero().flatten().tolist():
        text = tokenizer.decode([i])
        assert text.strip()
        assert all(" " <= character <= "~" for character in text)
    assert allowed.sum() > 3000


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.sampled_from(["prefix", "suffix"]),
    st.sampled_from([None, "Be brief."]),
)
def test_a_string_survives_exactly_if_its_rendered_and_tokenised_message_holds_its_ids(
    numbers: list[int], place: Any, system: str | None
) -> None:
    allowed = demo_allowed().nonzero().flatten().tolist()
    ids = [allowed[number % len(allowed)] for number in numbers]
    framing = Framing(demo_tokenizer(), place, system)
    frame = demo_frame(place, system)
    survived = len(framing.surviving(torch.tensor([ids]), [frame])) == 1
    message = with_attack(frame.goal, demo_tokenizer().decode(ids).strip(" "), place)
    prompt = make_prompt(demo_tokenizer(), message, chat=True, system=system)
    assert survived == (prompt.token_ids == (*frame.before, *ids, *frame.after))


def demo_frame(place: Any, system: str | None) -> Frame:
    """Around the string of the two tokens of "cat dog", found by what stands on either side of it."""
    goal = "Tell me a story."
    ids = make_prompt(demo_tokenizer(), with_attack(goal, "zq7", place), chat=True, system=system).token_ids
    other = make_prompt(demo_tokenizer(), with_attack(goal, "vj8", place), chat=True, system=system).token_ids
    n = next(i for i in range(len(ids)) if ids[i] != other[i])
    m = next(i for i in range(len(ids)) if ids[-1 - i] != other[-1 - i])
    return Frame(goal, ids[:n], ids[-m:], (5,))


def test_some_strings_survive_and_some_do_not() -> None:
    tokenizer = demo_tokenizer()
    framing, frame = Framing(tokenizer, "prefix", None), demo_frame("prefix", None)
    good = tokenizer("The dog", add_special_tokens=False)["input_ids"]
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "The"]  # typed, these are one token or two
    spaced = tokenizer(" The dog", add_special_tokens=False)["input_ids"]
    for ids, kept in ((good, 1), (letters, 0), (spaced, 0)):
        assert len(framing.surviving(torch.tensor([ids]), [frame])) == kept


@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_a_row_is_kept_only_if_it_survives_in_every_frame(place: Any) -> None:
    tokenizer = chat_tokenizer()
    framing = Framing(tokenizer, place, None)
    rows = torch.tensor([[10, 11], [12, 13]])
    right = (
        Frame("w20", (1, 3), (20, 4, 1, 5), (6,)) if place == "prefix" else Frame("w20", (1, 3, 20), (4, 1, 5), (6,))
    )
    assert framing.surviving(rows, [right]).tolist() == rows.tolist()
    wrong = replace(right, before=(1, 9))
    assert framing.surviving(rows, [right, wrong]).shape == framing.surviving(rows, [wrong, right]).shape == (0, 2)


@pytest.mark.parametrize("n_tokens", [1, 9])
@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_every_start_survives_and_seeds_give_different_starts(place: Any, n_tokens: int) -> None:
    class Stub:  # all that `make_frames` asks of a pair
        n_ctx = 2048

        def prompt(self, *_: Any, **__: Any) -> None: ...

    framing, starts = Framing(demo_tokenizer(), place, None), set[tuple[int, ...]]()
    for seed in range(5):
        draws = torch.Generator().manual_seed(seed)
        frames, start = make_frames(
            Stub(),
            framing,
            ["Bake bread.", "Tell a story."],
            ["Sure"] * 2,
            demo_allowed(),
            n_tokens,
            draws,  # type: ignore[arg-type]
        )
        starts.add(tuple(start.tolist()))
        assert len(start) == n_tokens
        for frame in frames:
            message = with_attack(frame.goal, demo_tokenizer().decode(start.tolist()).strip(" "), place)
            ids = make_prompt(demo_tokenizer(), message, chat=True).token_ids
            assert ids == (*frame.before, *start.tolist(), *frame.after)
    assert len(starts) == 5


# Refusals


@pytest.mark.parametrize(
    ("goals", "targets", "match"),
    [
        ([], [], "0 goals and 0 targets"),
        (["w20"], [], "1 goals and 0 targets"),
        ("w20", "w21", "one string"),
        (["w20", " "], ["w30", "w31"], "prompt 1: it is empty"),
        (["w20"], [""], "target 0: it is empty"),
        (["w20 " * 70], ["w30"], "the context is 64"),
        (["w20 " * 55], ["w30"], "goal 0: with attack string and target it has 65"),
    ],
)
def test_bad_goals_are_refused_with_a_remedy(pair: ModelPair, goals: Any, targets: Any, match: str) -> None:
    with pytest.raises(InputError, match=match) as raised:
        optimise(pair, goals, targets, replace(QUICK, n_tokens=4), progress=False)
    assert raised.value.remedy
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_tokens": 0},
        {"steps": -1},
        {"top_k": 0},
        {"n_candidates": 0},
        {"batch_size": 2.5},
        {"guide": "luck"},
        {"seed": -1},
        {"place": "x"},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        GcgSettings(**wrong)


def test_a_scaled_model_is_refused(pair: ModelPair) -> None:
    with pair.scaled(0.5), pytest.raises(InputError, match="scaled"):
        run(pair)


def test_a_chat_in_which_no_string_survives_is_refused(pair: ModelPair) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}w3 {{ m['content'] | replace('w', 'w1') }} w4{% endfor %}"
    with pytest.raises(InputError, match="no start"):
        run(replace(pair, tokenizer=tokenizer))


def test_a_tokenizer_without_a_chat_template_is_refused(pair: ModelPair) -> None:
    with pytest.raises(InputError, match="chat template"):
        run(replace(pair, tokenizer=make_tokenizer()))
