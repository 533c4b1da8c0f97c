"""Laws of `pair.generate`: its tokens, and TuCo, layer profile and probability of each of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.architectures import make_ids, make_model, make_tokenizer
from tests.integration.test_engine import BACKENDS, n_hooks
from tests.oracle import scaled_logits
from tests.pairs import CONTEXT, VOCAB, byte_tokenizer, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import InputError, ModelPair
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.steering.generating import TokenStream
from tuco_lens.steering.generation import GeneratedToken, Generation
from tuco_lens.steering.sampling import Sampler, SamplingOptions
from tuco_lens.steering.scaling import METHODS

PROMPTS = [[0, 5, 9, 200, 31, 7], [0, 8], [4, 4, 4, 4, 250, 9, 2, 3, 99, 100, 101]]
CLOSE = 1e-5


def endless(backend: str) -> ModelPair:
    """The tiny pair without the end-of-sequence token that its config names by default."""
    return dataclasses.replace(tiny_pair(backend), eos_token_ids=frozenset())


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked":
        pytest.importorskip(
            "transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer"
        )
    return endless(request.param)


@functools.cache
def bridge_pair() -> ModelPair:
    """One pair for all examples of hypothesis, on the bridge, which every release has."""
    return endless("bridge")


@functools.cache
def plain_models() -> tuple[Any, Any]:
    """The transformers models that `tiny_pair` is made of."""
    base = tiny_llama()
    return base, tuned_copy(base)


def one(pair: ModelPair, prompt: Any, **options: Any) -> Generation:
    found = pair.generate(prompt, **options)
    assert isinstance(found, Generation)
    return found


def many(pair: ModelPair, prompts: Any, **options: Any) -> list[Generation]:
    found = pair.generate(prompts, **options)
    assert isinstance(found, list)
    return found


def streamed(pair: ModelPair, prompts: Any, **options: Any) -> tuple[list[GeneratedToken], list[Generation]]:
    stream = pair.generate(prompts, stream=True, **options)
    assert isinstance(stream, TokenStream)
    tokens = list(stream)
    return tokens, stream.generations


def profile_of(generation: Generation) -> torch.Tensor:
    assert generation.layer_profile is not None
    return generation.layer_profile


def beginnings(generation: Generation) -> list[Prompt]:
    """What was before each generated token. As Prompts: the models know ids that the tokenizer does not."""
    ids = [*generation.prompt.token_ids, *generation.token_ids]
    lengths = range(generation.prompt.n_tokens, len(ids))
    return [Prompt("", tuple(ids[:n]), ("",) * n, ("text",) * n) for n in lengths]


def assert_same(one: Generation, other: Generation) -> None:
    assert one.token_ids == other.token_ids
    assert (one.text, one.stop_reason, one.scaling) == (other.text, other.stop_reason, other.scaling)
    torch.testing.assert_close(profile_of(one), profile_of(other), rtol=0, atol=CLOSE)
    torch.testing.assert_close(one.probability, other.probability, rtol=0, atol=CLOSE)


# Tokens


def test_greedy_tokens_at_alpha_one_are_those_of_transformers_own_generate(pair: ModelPair) -> None:
    tuned = plain_models()[1]
    for prompt, found in zip(PROMPTS, many(pair, PROMPTS, max_new_tokens=20), strict=True):
        ids = tuned.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
        assert found.token_ids == tuple(ids[0, len(prompt) :].tolist())
        assert found.alpha == 1.0
        assert found.stop_reason == "length"


@pytest.mark.bridge
@settings(max_examples=12)
@given(
    st.lists(st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=24), min_size=1, max_size=5),
    st.sampled_from([-0.5, 0.0, 0.7, 1.0, 1.6]),
    st.integers(1, 4),
)
def test_cached_equals_uncached_and_a_batch_its_prompts_one_by_one(
    prompts: list[list[int]], alpha: float, batch_size: int
) -> None:
    # The tokenizer of the pair knows the ids below 258 only, of which the first two are special; the model has more.
    prompts = [[2 + i % 256 for i in prompt] for prompt in prompts]
    options: dict[str, Any] = {"alpha": alpha, "max_new_tokens": 6}
    together = many(bridge_pair(), prompts, batch_size=batch_size, **options)
    uncached = many(bridge_pair(), prompts, batch_size=batch_size, use_cache=False, **options)
    for prompt, cached, again in zip(prompts, together, uncached, strict=True):
        assert cached.prompt.token_ids == tuple(prompt)
        assert_same(cached, again)
        assert_same(cached, one(bridge_pair(), prompt, **options))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_several_alphas_side_by_side_equal_one_by_one(pair: ModelPair, method: Any, use_cache: bool) -> None:
    alphas = (-0.5, 0.0, 0.6, 1.0, 1.7)
    options: dict[str, Any] = {"method": method, "max_new_tokens": 6, "use_cache": use_cache}
    found = many(pair, PROMPTS, alphas=alphas, batch_size=4, **options)
    assert [generation.alpha for generation in found] == [*alphas] * len(PROMPTS)
    for i, generation in enumerate(found):
        assert_same(generation, one(pair, PROMPTS[i // len(alphas)], alpha=alphas[i % len(alphas)], **options))


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        ("prompt", lambda n, end: range(n)),
        ("generated", lambda n, end: range(n, end)),
        (slice(1, 4), lambda n, end: range(1, min(4, end))),
        (slice(-2, None), lambda n, end: range(n - 2, end)),
        ([0, -1], lambda n, end: (0, n - 1)),
    ],
)
def test_alpha_acts_at_the_positions_given_in_a_padded_batch(
    pair: ModelPair, positions: Any, chosen: Callable[[int, int], Any], use_cache: bool
) -> None:
    options = {"alpha": -1.0, "positions": positions, "use_cache": use_cache}
    for generation in many(pair, PROMPTS, max_new_tokens=5, **options):
        n_prompt = generation.prompt.n_tokens
        ids = torch.tensor([[*generation.prompt.token_ids, *generation.token_ids]])
        alpha = torch.ones(ids.shape[1], 1, dtype=torch.float64)
        alpha[list(chosen(n_prompt, ids.shape[1]))] = -1.0
        (logits,) = scaled_logits(*plain_models(), ids, [[alpha] * pair.n_layers])
        expected = logits[0, n_prompt - 1 : -1].softmax(-1)
        assert generation.token_ids == tuple(expected.argmax(-1).tolist())
        torch.testing.assert_close(generation.probability.double(), expected.amax(-1), rtol=0, atol=CLOSE)


def test_positions_may_be_the_tokens_of_a_role_where_the_prompt_has_any() -> None:
    demo = ModelPair.demo()
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
    roles = demo.prompt(chat).roles
    for role in ("system", "user", "template"):
        listed = [i for i, each in enumerate(roles) if each == role]
        options: dict[str, Any] = {"alpha": 0.2, "max_new_tokens": 4}
        assert_same_but_positions(
            one(demo, chat, positions=role, **options), one(demo, chat, positions=listed, **options)
        )
    with pytest.raises(InputError, match="positions 'user': the prompt has no such token"):
        demo.generate("plain text", positions="user")


def assert_same_but_positions(one: Generation, other: Generation) -> None:
    assert one.token_ids == other.token_ids
    assert torch.equal(one.probability, other.probability)


# TuCo along the generation


@pytest.mark.parametrize("use_cache", [True, False])
def test_tuco_of_every_token_is_that_of_measuring_what_came_before_it(pair: ModelPair, use_cache: bool) -> None:
    for generation in many(pair, PROMPTS, max_new_tokens=5, use_cache=use_cache):
        assert generation.tuco is not None
        measured = pair.measure(beginnings(generation), progress=False)
        torch.testing.assert_close(generation.tuco, measured.tuco.float(), rtol=0, atol=CLOSE)
        for k, item in enumerate(measured):
            torch.testing.assert_close(profile_of(generation)[:, k], item.layer_token()[:, -1], rtol=0, atol=CLOSE)
        assert torch.equal(generation.tuco, profile_of(generation)[-1])


def test_tuco_under_scaling_is_that_of_measuring_within_the_scaling(pair: ModelPair) -> None:
    for alpha in (0.0, 0.5, [0.5, 1.0, 2.0]):
        generation = one(pair, PROMPTS[0], alpha=alpha, max_new_tokens=4)
        with pair.scaled(alpha):
            measured = pair.measure(beginnings(generation), progress=False)
        torch.testing.assert_close(generation.tuco, measured.tuco.float(), rtol=0, atol=CLOSE)
        assert bool((measured.tuco == 0).all()) == (alpha == 0.0)


def test_tuco_beside_the_baselines_reads_their_streams(pair: ModelPair) -> None:
    for method in ("logits", "weights"):
        generation = one(pair, PROMPTS[0], alpha=0.5, method=method, max_new_tokens=3)
        with pair.scaled(0.5, method=method):
            measured = pair.measure(beginnings(generation), progress=False)
        torch.testing.assert_close(generation.tuco, measured.tuco.float(), rtol=0, atol=CLOSE)


def test_the_probability_is_the_softmax_at_temperature_one_also_when_sampled(pair: ModelPair) -> None:
    generation = one(pair, PROMPTS[0], alpha=1.5, max_new_tokens=6, temperature=2.5, top_k=40, seed=3)
    ids = torch.tensor([[*PROMPTS[0], *generation.token_ids]])
    (logits,) = scaled_logits(*plain_models(), ids, [[1.5] * pair.n_layers])
    expected = logits[0, len(PROMPTS[0]) - 1 : -1].softmax(-1).gather(-1, ids[0, len(PROMPTS[0]) :, None])[:, 0]
    torch.testing.assert_close(generation.probability.double(), expected, rtol=0, atol=CLOSE)


def test_without_tuco_the_tokens_are_the_same_and_the_base_blocks_do_not_run(pair: ModelPair) -> None:
    calls: list[int] = []
    handle = pair.base.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        bare = one(pair, PROMPTS[0], max_new_tokens=5, tuco=False)
        assert calls == []
        full = one(pair, PROMPTS[0], max_new_tokens=5)
        assert len(calls) == 5  # one pass per token and no more
    finally:
        handle.remove()
    assert bare.token_ids == full.token_ids
    assert (bare.tuco, bare.layer_profile) == (None, None)
    assert bare.to_frame()["tuco"].isna().all()
    with pytest.raises(InputError, match="generate with tuco=True"):
        bare.token_strip()


def test_the_frame_has_a_row_per_token_and_the_strip_shows_them(pair: ModelPair) -> None:
    generation = one(pair, PROMPTS[0], max_new_tokens=4)
    frame = generation.to_frame()
    assert list(frame.columns) == ["position", "token_id", "token", "probability", "tuco"]
    assert frame["token_id"].tolist() == list(generation.token_ids)
    assert frame["tuco"].tolist() == generation.tuco.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    assert frame["position"].tolist() == [0, 1, 2, 3]
    strip = generation.token_strip()
    assert strip.tokens == generation.tokens
    assert strip.values == tuple(frame["tuco"])
    assert f"probability {frame['probability'][2]:.3f}" in strip.html()


# Sampling


def test_the_same_seed_gives_the_same_text_and_another_seed_another(pair: ModelPair) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0}
    texts = [one(pair, PROMPTS[0], seed=seed, **options).token_ids for seed in (1, 1, 2, -1)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_sampled_text_does_not_depend_on_what_shares_its_batch(pair: ModelPair) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.3, "seed": 5}
    whole = many(pair, PROMPTS, batch_size=3, **options)
    for batch_size in (1, 2):
        for found, expected in zip(many(pair, PROMPTS, batch_size=batch_size, **options), whole, strict=True):
            assert found.token_ids == expected.token_ids
    assert one(pair, PROMPTS[0], **options).token_ids == whole[0].token_ids
    # All α of a prompt draw with the same numbers.
    twice = many(pair, PROMPTS, alphas=[1.0, 1.0], **options)
    assert [g.token_ids for g in twice] == [g.token_ids for g in whole for _ in range(2)]


def test_drawing_among_one_token_is_greedy_and_so_is_temperature_zero(pair: ModelPair) -> None:
    greedy = one(pair, PROMPTS[0], max_new_tokens=8).token_ids
    assert one(pair, PROMPTS[0], max_new_tokens=8, temperature=1.7, top_k=1).token_ids == greedy
    assert one(pair, PROMPTS[0], max_new_tokens=8, temperature=1.7, top_p=1e-6).token_ids == greedy
    assert one(pair, PROMPTS[0], max_new_tokens=8, temperature=1e-4).token_ids == greedy


@pytest.mark.bridge
def test_draws_follow_the_softmax_of_the_tempered_logits_cut_by_top_k_and_top_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    cases = {
        SamplingOptions(1.0): logits.softmax(-1),
        SamplingOptions(2.0): (logits / 2).softmax(-1),
        SamplingOptions(0.5): (logits / 0.5).softmax(-1),
        SamplingOptions(1.0, top_k=2): torch.tensor([2.0, 1.0, -torch.inf, -torch.inf, -torch.inf]).softmax(-1),
        # 0.57 + 0.21 < 0.8: the third is needed, and the fourth is not.
        SamplingOptions(1.0, top_p=0.8): torch.tensor([2.0, 1.0, 0.5, -torch.inf, -torch.inf]).softmax(-1),
    }
    for options, expected in cases.items():
        sampler = Sampler(options, [0], torch.device("cpu"))
        draws = torch.stack([sampler(logits[None])[0] for _ in range(2000)])
        share = torch.bincount(draws, minlength=5) / len(draws)
        assert (share - expected).abs().max() <= 4 * (0.25 / len(draws)) ** 0.5, options
        assert (share[expected == 0] == 0).all()


# Ends


def test_stop_strings_end_the_text_and_are_cut_and_never_shown(pair: ModelPair) -> None:
    whole = one(pair, PROMPTS[0], max_new_tokens=24, temperature=1.0, seed=4)
    for length in (1, 2, 3):
        stop = whole.text[8 : 8 + length]
        tokens, (generation,) = streamed(
            pair, PROMPTS[0], max_new_tokens=24, temperature=1.0, seed=4, stop=[stop, "\0\0"]
        )
        assert generation.stop_reason == "stop"
        assert generation.text == whole.text[: whole.text.find(stop)]
        assert generation.token_ids == whole.token_ids[: generation.n_tokens]
        shown = ""
        for token in tokens:
            shown += token.text
            assert generation.text.startswith(shown)
        assert shown == generation.text
    assert one(pair, PROMPTS[0], max_new_tokens=4, stop="not in it").stop_reason == "length"


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_yields_exactly_the_tokens_and_its_pieces_join_to_the_text(pair: ModelPair, method: Any) -> None:
    options: dict[str, Any] = {"alphas": [0.5, 1.0], "max_new_tokens": 10, "temperature": 1.0, "method": method}
    tokens, generations = streamed(pair, PROMPTS, batch_size=4, **options)
    for expected, generation in zip(many(pair, PROMPTS, **options), generations, strict=True):
        assert_same(generation, expected)
    for row, generation in enumerate(generations):
        mine = [token for token in tokens if token.row == row]
        assert [token.token_id for token in mine] == list(generation.token_ids)
        assert [token.position for token in mine] == list(range(generation.n_tokens))
        assert [token.tuco for token in mine] == generation.tuco.tolist()  # pyright: ignore
        assert [token.probability for token in mine] == pytest.approx(generation.probability.tolist(), abs=0)
        assert "".join(token.text for token in mine) == generation.text


def test_an_end_of_sequence_token_ends_its_row_alone_and_is_no_text(pair: ModelPair) -> None:
    free = many(pair, PROMPTS, max_new_tokens=12)
    eos = free[0].token_ids[4]
    ending = dataclasses.replace(pair, eos_token_ids=frozenset({eos}))
    for before, generation in zip(free, many(ending, PROMPTS, max_new_tokens=12), strict=True):
        n = before.token_ids.index(eos) + 1 if eos in before.token_ids else 12
        assert generation.token_ids == before.token_ids[:n]
        assert generation.stop_reason == ("eos" if eos in before.token_ids else "length")
        kept = [i for i in generation.token_ids if i != eos]
        assert generation.text == pair.tokenizer.decode(kept, skip_special_tokens=True)
    assert free[0].token_ids.index(eos) <= 4


def test_a_full_context_ends_the_text_and_the_last_token_need_not_fit(pair: ModelPair) -> None:
    for n_prompt in (CONTEXT, CONTEXT - 1, CONTEXT - 5):
        prompt = [5 + i % 200 for i in range(n_prompt)]
        for use_cache in (True, False):
            found = one(pair, prompt, max_new_tokens=10, use_cache=use_cache)
            assert (found.n_tokens, found.stop_reason) == (CONTEXT - n_prompt + 1, "context")
    # A shorter prompt that would not fit beside it, padded, gets a batch of its own and all its tokens.
    prompts = [[5 + i % 200 for i in range(n)] for n in (CONTEXT - 2, 3)]
    for found, prompt in zip(many(pair, prompts, max_new_tokens=20), prompts, strict=True):
        assert_same(found, one(pair, prompt, max_new_tokens=20))
    assert one(pair, prompts[0], max_new_tokens=3).stop_reason == "length"


# Streams that are left, and errors on the way


@pytest.mark.parametrize("method", METHODS)
def test_an_abandoned_stream_leaves_no_hook_and_the_weights_as_they_were(pair: ModelPair, method: Any) -> None:
    ids = torch.tensor([PROMPTS[2]])
    pair.tuned(ids)  # the bridge wires hooks of its own at its first pass
    plain, hooks = pair.tuned(ids), n_hooks(pair)
    stream = pair.generate(PROMPTS, alpha=0.5, method=method, stream=True)
    assert isinstance(stream, TokenStream)
    next(stream)
    if method != "weights":  # between two tokens the models are as they are without
        assert n_hooks(pair) == hooks
        assert torch.equal(pair.tuned(ids), plain)
    stream.close()
    assert list(stream) == []
    assert stream.generations == []
    other = pair.generate(PROMPTS, alpha=0.5, method=method, stream=True)
    next(other)  # pyright: ignore
    del other
    assert n_hooks(pair) == hooks
    assert pair.active_scalings == []
    assert torch.equal(pair.tuned(ids), plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("method", METHODS)
def test_an_error_within_a_pass_leaves_no_hook(pair: ModelPair, method: Any, error: type[BaseException]) -> None:
    ids = torch.tensor([PROMPTS[2]])
    pair.tuned(ids)
    plain, hooks = pair.tuned(ids), n_hooks(pair)
    calls: list[int] = []

    def fail_at_the_third(*_: object, **__: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise error

    point = pair.tuned.blocks[1].hook_resid_post
    point.add_hook(fail_at_the_third)
    try:
        with pytest.raises(error):
            pair.generate(PROMPTS, alpha=0.5, method=method, max_new_tokens=6)
    finally:
        point.remove_hooks()
    assert n_hooks(pair) == hooks
    assert pair.active_scalings == []
    assert torch.equal(pair.tuned(ids), plain)


def test_within_a_scaling_it_goes_on_with_that_one_unless_it_is_given_another(pair: ModelPair) -> None:
    with pair.scaled(0.3, positions="prompt"):
        inherited, own = one(pair, PROMPTS[0]), one(pair, PROMPTS[0], alpha=1.0)
    assert_same(inherited, one(pair, PROMPTS[0], alpha=0.3, positions="prompt"))
    assert_same(own, one(pair, PROMPTS[0]))


def test_a_users_hook_acts_on_every_pass(pair: ModelPair) -> None:
    lengths: list[int] = []
    with pair.tuned.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: lengths.append(x.shape[1]))]):
        pair.generate(PROMPTS[0], alpha=0.5, max_new_tokens=4)
    assert lengths == [6, 1, 1, 1]


@pytest.mark.bridge
def test_an_adapter_generates_like_its_merged_model(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    from tests.checkpoints import save_adapter

    base, tokenizer = make_model("llama"), make_tokenizer()
    merged = save_adapter(tmp_path, base, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    whole = ModelPair.from_pretrained(copy.deepcopy(base), merged, tokenizer=tokenizer, backend="bridge")
    lora = ModelPair.from_pretrained(base, adapter=tmp_path, tokenizer=tokenizer, backend="bridge")
    prompts = [row[:n].tolist() for row, n in zip(make_ids(2), (9, 4), strict=True)]
    for method in METHODS:
        options: dict[str, Any] = {"alphas": [0.0, 0.5, 1.0], "method": method, "max_new_tokens": 6}
        for found, expected in zip(many(lora, prompts, **options), many(whole, prompts, **options), strict=True):
            assert found.token_ids == expected.token_ids
            torch.testing.assert_close(found.tuco, expected.tuco, rtol=0, atol=CLOSE)


# What comes back, and bad input


def test_one_prompt_at_one_alpha_gives_one_result_and_all_else_a_list(pair: ModelPair) -> None:
    options: dict[str, Any] = {"max_new_tokens": 1}
    assert isinstance(pair.generate("text", **options), Generation)
    assert isinstance(pair.generate([5, 6], **options), Generation)
    assert isinstance(pair.generate(pair.prompt("text"), **options), Generation)
    for prompts, alphas, n in ((["text"], None, 1), ("text", [0.5], 1), (["a", "b"], [0.5, {0: 2.0}, 1.0], 6)):
        found = pair.generate(prompts, alphas=alphas, **options)
        assert isinstance(found, list)
        assert len(found) == n
    assert many(pair, "text", alphas=torch.tensor([0.5, 1.0]))[0].alpha == 0.5


def test_a_chat_goes_through_the_template() -> None:
    demo = ModelPair.demo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat = one(demo, "Name a river.", chat=True, system="Be brief.", max_new_tokens=3)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
    assert chat.prompt == demo.prompt(messages)
    assert_same(chat, one(demo, messages, max_new_tokens=3))


def small_vocabulary() -> ModelPair:
    base, tuned = (copy.deepcopy(model) for model in plain_models())
    base.resize_token_embeddings(VOCAB - 50)
    return ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend="bridge")


BAD: list[tuple[str, Callable[[ModelPair], Any], str]] = [
    ("beams", lambda p: p.generate("a", num_beams=2), r"num_beams is 2: beams change places .*; use num_beams=1"),
    ("no tokens", lambda p: p.generate("a", max_new_tokens=0), "max_new_tokens is 0: it must be a whole number over 0"),
    ("half a token", lambda p: p.generate("a", max_new_tokens=2.5), "max_new_tokens is 2.5"),
    ("no batch", lambda p: p.generate("a", batch_size=0), "batch_size is 0: it must be a whole number over 0; give"),
    ("cold", lambda p: p.generate("a", temperature=-1), "temperature is -1: it must be at least 0 and finite; give"),
    ("nan", lambda p: p.generate("a", temperature=float("nan")), "temperature is nan"),
    ("hot", lambda p: p.generate("a", temperature=float("inf")), "temperature is inf"),
    ("top_k", lambda p: p.generate("a", temperature=1, top_k=0), "top_k is 0: it must be a whole number over 0; give"),
    ("half", lambda p: p.generate("a", temperature=1, top_k=1.5), "top_k is 1.5"),
    ("top_p", lambda p: p.generate("a", temperature=1, top_p=0), "top_p is 0: it must be over 0 and at most 1; give"),
    ("over 1", lambda p: p.generate("a", temperature=1, top_p=1.1), "top_p is 1.1"),
    (
        "greedy top_k",
        lambda p: p.generate("a", top_k=5),
        "top_k or top_p without a temperature: .*; give a temperature",
    ),
    ("greedy top_p", lambda p: p.generate("a", top_p=0.5), "top_k or top_p without a temperature"),
    ("seed", lambda p: p.generate("a", seed=2**63), r"it must be a whole number below 2\*\*32; give"),
    ("seed of text", lambda p: p.generate("a", seed="1"), "seed is 1: it must be a whole number"),
    ("empty stop", lambda p: p.generate("a", stop=["x", ""]), "an empty stop string: it stands everywhere; leave it"),
    ("stop number", lambda p: p.generate("a", stop=[5]), "5 as a stop string: it is a int; give text"),
    ("both alphas", lambda p: p.generate("a", alpha=1, alphas=[1]), "alpha and alphas: both are given; give one"),
    ("no alphas", lambda p: p.generate("a", alphas=[]), "alphas is empty: there is nothing to generate; give"),
    ("one alphas", lambda p: p.generate("a", alphas=0.5), "alphas is 0.5: it is no list; give a list, or alpha"),
    ("bad among alphas", lambda p: p.generate("a", alphas=[1, float("inf")]), "alpha of layer 0 is inf"),
    ("layer", lambda p: p.generate("a", alphas=[{7: 0.5}]), "layer 7 is out of range: there are 3; give 0 to 2"),
    ("method", lambda p: p.generate("a", method="x"), "no method 'x': there are ftc, logits, weights; name one"),
    ("outside", lambda p: p.generate([5, 6], positions=[2]), "position 2 is outside the prompt: it has 2 tokens; give"),
    ("no role", lambda p: p.generate([5, 6], positions="user"), "positions 'user': the prompt has no such token; give"),
    ("baseline by part", lambda p: p.generate("a", method="logits", positions="prompt"), "acts on the whole model"),
    ("empty prompt", lambda p: p.generate(["a", ""]), "prompt 1: it is empty"),
    ("no prompts", lambda p: p.generate([]), "no prompts: the list is empty; give"),
    ("too long", lambda p: p.generate([[5] * (CONTEXT + 1)]), f"prompt 0: .*{CONTEXT + 1} tokens"),
    ("vocabulary", lambda _: small_vocabulary().generate("a", alpha=0.5, method="logits"), "; use method='ftc'"),
]


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_in_one_line_with_its_remedy_before_anything_is_generated(
    pair: ModelPair, call: Callable[[ModelPair], Any], words: str
) -> None:
    passes: list[int] = []
    handle = pair.tuned.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(InputError, match=words) as caught:
            call(pair)
    finally:
        handle.remove()
    assert "\n" not in str(caught.value)
    assert passes == []
    assert pair.active_scalings == []


def test_within_an_open_scaling_a_method_or_positions_without_alpha_is_refused(pair: ModelPair) -> None:
    for options in ({"method": "logits"}, {"positions": "prompt"}):
        with pair.scaled(0.5), pytest.raises(InputError, match="the open"):
            pair.generate("a", **options)
    with pair.scaled(0.5):
        assert one(pair, "a", max_new_tokens=1).alpha == 0.5
