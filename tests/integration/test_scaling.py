"""Laws of `pair.scaled`: what it changes, what it leaves alone, and that nothing of it is left behind."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import make_ids, make_model, make_tokenizer
from tests.checkpoints import save_adapter
from tests.integration.test_engine import BACKENDS, n_hooks
from tests.oracle import scaled_logits
from tests.pairs import VOCAB, byte_tokenizer, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import InputError, ModelPair
from tuco_lens.engine.kv_caches import new_cache
from tuco_lens.steering.scaling import METHODS

IDS = torch.tensor([[0, 5, 9, 200, 31, 7, 120], [4, 4, 250, 8, 2, 3, 99]])
N = IDS.shape[1]
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked":
        pytest.importorskip(
            "transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer"
        )
    return tiny_pair(request.param)


@functools.cache
def plain_models() -> tuple[Any, Any]:
    """The transformers models that `tiny_pair` is made of."""
    base = tiny_llama()
    return base, tuned_copy(base)


def no_cache(pair: ModelPair) -> dict[str, Any]:
    return {"use_cache": False} if pair.backend == "bridge" else {}


@torch.no_grad()
def logits_of(pair: ModelPair, ids: Tensor = IDS) -> Tensor:
    return pair.tuned(ids, **no_cache(pair))


@torch.no_grad()
def activations(pair: ModelPair) -> tuple[Tensor, dict[str, Tensor]]:
    logits, cache = pair.tuned.run_with_cache(IDS, **no_cache(pair))
    return logits, dict(cache.items())


def scaled_logits_of(pair: ModelPair, alpha: Any, ids: Tensor = IDS, **options: Any) -> Tensor:
    with pair.scaled(alpha, **options):
        return logits_of(pair, ids)


def continued(pair: ModelPair, *, cached: bool, n_new: int = 8) -> list[list[int]]:
    """Greedy, by TransformerLens' own generate."""
    options = {"return_type": "tokens", "do_sample": False, "stop_at_eos": False, "verbose": False}
    return pair.tuned.generate(IDS, max_new_tokens=n_new, use_past_kv_cache=cached, **options).tolist()


def cache_option(pair: ModelPair, cache: Any) -> dict[str, Any]:
    return {"use_cache": True, "past_key_values": cache} if pair.backend == "bridge" else {"past_kv_cache": cache}


# What it computes


@pytest.mark.parametrize("method", METHODS)
def test_alpha_one_changes_nothing_bit_for_bit(pair: ModelPair, method: Any) -> None:
    logits, cache = activations(pair)
    tokens = continued(pair, cached=True)
    with pair.scaled(1.0, method=method):
        assert torch.equal(logits_of(pair), logits)
        scaled, scaled_cache = activations(pair)
        assert continued(pair, cached=True) == tokens
    assert torch.equal(scaled, logits)
    assert scaled_cache.keys() == cache.keys()
    assert all(torch.equal(scaled_cache[name], value) for name, value in cache.items())


def test_alpha_zero_is_the_base_blocks_on_the_tuned_embedding_and_unembedding(pair: ModelPair) -> None:
    base, tuned = plain_models()
    mixed = copy.deepcopy(tuned)
    mixed.model.layers.load_state_dict(base.model.layers.state_dict())
    with torch.no_grad():
        expected = mixed(IDS).logits
    torch.testing.assert_close(scaled_logits_of(pair, 0.0), expected, **EXACT)


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 2.0])
def test_run_with_cache_shows_the_scaled_stream(pair: ModelPair, alpha: float) -> None:
    plain = activations(pair)[1]
    with pair.scaled(alpha):
        logits, cache = activations(pair)
        assert torch.equal(logits, logits_of(pair))
    for layer in range(pair.n_layers - 1):
        after, before = cache[f"blocks.{layer}.hook_resid_post"], cache[f"blocks.{layer + 1}.hook_resid_pre"]
        assert torch.equal(after, before)
        assert not torch.allclose(after, plain[f"blocks.{layer}.hook_resid_post"], atol=1e-4)
    (expected,) = scaled_logits(*plain_models(), IDS, [[alpha] * pair.n_layers])
    torch.testing.assert_close(logits.double(), expected, **EXACT)


def test_run_with_hooks_is_scaled_and_its_hooks_are_respected(pair: ModelPair) -> None:
    seen: list[Tensor] = []
    with pair.scaled(0.5), torch.no_grad():
        plain = logits_of(pair)
        same = pair.tuned.run_with_hooks(
            IDS, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: seen.append(x))], **no_cache(pair)
        )
        other = pair.tuned.run_with_hooks(
            IDS, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * 0.5)], **no_cache(pair)
        )
        assert torch.equal(activations(pair)[1]["blocks.1.hook_resid_post"], seen[0])
    assert torch.equal(same, plain)
    assert (other - plain).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_transformer_lens_own_generate_is_scaled_with_and_without_its_cache(pair: ModelPair, alpha: float) -> None:
    with pair.scaled(alpha):
        cached, uncached = continued(pair, cached=True), continued(pair, cached=False)
    assert cached == uncached
    for row, given in zip(cached, IDS.tolist(), strict=True):
        ours = pair.generate(given, alpha=alpha, max_new_tokens=8)
        assert row == [*given, *ours.token_ids]  # pyright: ignore[reportAttributeAccessIssue]


def test_scaling_matters_to_what_is_generated(pair: ModelPair) -> None:
    """Else the test above could pass on a scaling that does nothing."""
    texts = []
    for alpha in (-1.0, 1.0, 3.0):
        with pair.scaled(alpha):
            texts.append(continued(pair, cached=True))
    assert texts[0] != texts[1] != texts[2]


def test_both_blocks_read_what_a_users_hook_makes_of_the_stream(pair: ModelPair) -> None:
    vector = torch.randn(pair.d_model, generator=torch.Generator().manual_seed(0))
    hooks = [("blocks.1.hook_resid_pre", lambda x, hook: torch.zeros_like(x) + vector)]
    shown: dict[float, Tensor] = {}
    with pair.tuned.hooks(fwd_hooks=hooks):
        for alpha in (0.0, 0.5, 1.0):
            with pair.scaled(alpha):
                shown[alpha] = activations(pair)[1]["blocks.1.hook_resid_post"]
    # The same x_1 whatever α is, so the output of block 1 is linear in α.
    torch.testing.assert_close(shown[0.5], (shown[0.0] + shown[1.0]) / 2, **EXACT)
    assert (shown[0.0] - shown[1.0]).abs().max() > 1e-3


def test_a_hook_on_resid_post_added_before_or_within_changes_the_scaled_stream(pair: ModelPair) -> None:
    hooks = [("blocks.1.hook_resid_post", lambda x, hook: x + 1)]
    with pair.scaled(0.5):
        plain = activations(pair)[1]["blocks.1.hook_resid_post"]
        with pair.tuned.hooks(fwd_hooks=hooks):
            within = activations(pair)[1]["blocks.2.hook_resid_pre"]
    with pair.tuned.hooks(fwd_hooks=hooks), pair.scaled(0.5):
        before = activations(pair)[1]["blocks.2.hook_resid_pre"]
    torch.testing.assert_close(within, plain + 1, **EXACT)
    assert torch.equal(within, before)


def test_a_hook_on_the_base_model_takes_part_with_weight_one_minus_alpha(pair: ModelPair) -> None:
    with pair.scaled(0.25):
        plain = activations(pair)[1]["blocks.1.hook_resid_post"]
        with pair.base.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x + 1)]):
            hooked = activations(pair)[1]["blocks.1.hook_resid_post"]
    torch.testing.assert_close(hooked, plain + 0.75, **EXACT)


def test_measuring_within_sees_alpha_times_ftc(pair: ModelPair) -> None:
    ids = IDS[0].tolist()
    plain = pair.measure(ids)[0]
    for alpha in (-0.5, 0.5, 2.0):
        with pair.scaled(alpha):
            item = pair.measure(ids)[0]
            logits, cache = pair.run_with_cache(ids)
        # Block 0 reads the embedding, whatever α is.
        torch.testing.assert_close(item.maps.ftc[0], abs(alpha) * plain.maps.ftc[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(item.maps.ptc[0], plain.maps.ptc[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits, scaled_logits_of(pair, alpha, IDS[:1])[0], **EXACT)
        rebuilt = cache["resid_pre", 0] + cache["cumulative_ptc", 3] + cache["cumulative_ftc", 3]
        torch.testing.assert_close(rebuilt, cache["resid_pre", 3], **EXACT)
    with pair.scaled(0.0):
        assert pair.measure(ids)[0].tuco == 0
    with pair.scaled(1.0):
        assert pair.measure(ids)[0].tuco == plain.tuco


def test_gradients_flow_through_the_scaled_stream(pair: ModelPair) -> None:
    vector = torch.zeros(pair.d_model, requires_grad=True)
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: x + vector)]
    with pair.scaled(0.5), pair.tuned.hooks(fwd_hooks=hooks):
        pair.tuned(IDS, **no_cache(pair))[0, -1, 7].backward()
    assert vector.grad is not None
    assert vector.grad.abs().sum() > 0


# What α and positions may be


def test_the_forms_of_alpha_by_layer_agree(pair: ModelPair) -> None:
    values = [0.5, 0.5, 1.5]
    expected = scaled_logits_of(pair, values)
    forms: list[Any] = [
        tuple(values),
        torch.tensor(values),
        {0: 0.5, 1: 0.5, 2: 1.5},
        {range(2): 0.5, -1: 1.5},
        {range(-3, -1): 0.5, 2: 1.5},
        lambda layer: 1.5 if layer == 2 else 0.5,
    ]
    for form in forms:
        assert torch.equal(scaled_logits_of(pair, form), expected), form
    (reference,) = scaled_logits(*plain_models(), IDS, [values])
    torch.testing.assert_close(expected.double(), reference, **EXACT)
    assert torch.equal(scaled_logits_of(pair, {1: 0.5}), scaled_logits_of(pair, [1, 0.5, 1]))


POSITIONS: list[tuple[Any, list[int]]] = [
    ("prompt", list(range(N))),
    ("generated", []),
    (slice(2, 5), [2, 3, 4]),
    (slice(None), list(range(N))),
    (slice(-3, None), [4, 5, 6]),
    (slice(1, -2, 2), [1, 3]),
    (slice(-100, 2), [0, 1]),
    (slice(5, 100), [5, 6]),
    (range(2, 5), [2, 3, 4]),
    (range(-3, 0), [4, 5, 6]),
    (range(-3, -1), [4, 5]),
    ([2, 3, 4], [2, 3, 4]),
    ([-1], [6]),
    ([0, -2], [0, 5]),
    ([], []),
]


@pytest.mark.parametrize(("positions", "chosen"), POSITIONS, ids=lambda value: str(value))
def test_alpha_acts_at_the_positions_given_and_nowhere_else(pair: ModelPair, positions: Any, chosen: list[int]) -> None:
    alpha = torch.ones(N, 1, dtype=torch.float64)
    alpha[chosen] = 0.25
    (expected,) = scaled_logits(*plain_models(), IDS, [[alpha] * pair.n_layers])
    found = scaled_logits_of(pair, 0.25, positions=positions)
    torch.testing.assert_close(found.double(), expected, **EXACT)


@pytest.mark.parametrize("positions", ["prompt", "generated", slice(2, 5), slice(-2, None), slice(4, 12, 3), [1, -1]])
def test_positions_go_on_counting_along_a_kv_cache(pair: ModelPair, positions: Any) -> None:
    """A prompt of 4 tokens, then the other 3 one by one; the reference is one pass with α by position."""
    n_prompt = 4
    where = {
        "prompt": range(n_prompt),
        "generated": range(n_prompt, N),
        "slice(2, 5, None)": range(2, 5),
        "slice(-2, None, None)": range(2, N),
        "slice(4, 12, 3)": range(4, N, 3),
        "[1, -1]": [1, 3],
    }
    alpha = torch.ones(N, 1, dtype=torch.float64)
    alpha[list(where[str(positions)])] = -0.5
    (expected,) = scaled_logits(*plain_models(), IDS, [[alpha] * pair.n_layers])
    options = cache_option(pair, new_cache(pair.tuned, len(IDS)))
    with pair.scaled(-0.5, positions=positions), torch.no_grad():
        parts = [pair.tuned(IDS[:, :n_prompt], **options)]
        parts += [pair.tuned(IDS[:, i : i + 1], **options) for i in range(n_prompt, N)]
    torch.testing.assert_close(torch.cat(parts, 1).double(), expected, **EXACT)


# On and off


def test_of_nested_scalings_the_innermost_alone_acts(pair: ModelPair) -> None:
    outer, inner = scaled_logits_of(pair, 0.5), scaled_logits_of(pair, 1.5)
    plain = logits_of(pair)
    for method in METHODS:
        other = scaled_logits_of(pair, 0.5, method=method)
        with pair.scaled(0.5):
            with pair.scaled(1.5):
                assert torch.equal(logits_of(pair), inner)
            assert torch.equal(logits_of(pair), outer)
            with pair.scaled(0.5, method=method):
                assert torch.equal(logits_of(pair), other)
                with pair.scaled(1.0):
                    assert torch.equal(logits_of(pair), plain)
                assert torch.equal(logits_of(pair), other)
            assert torch.equal(logits_of(pair), outer)
        assert torch.equal(logits_of(pair), plain)
    assert pair.active_scalings == []


@pytest.mark.parametrize("method", METHODS)
def test_one_entered_twice_acts_until_it_has_been_left_twice_and_can_be_put_on_again(
    pair: ModelPair, method: Any
) -> None:
    plain, hooks = logits_of(pair), n_hooks(pair)
    scaled = scaled_logits_of(pair, 0.5, method=method)
    scaling = pair.scaled(0.5, method=method)
    for _ in range(2):
        with scaling:
            with scaling:
                assert torch.equal(logits_of(pair), scaled)
            assert torch.equal(logits_of(pair), scaled)
            assert scaling.is_on
        assert not scaling.is_on
        assert torch.equal(logits_of(pair), plain)
        assert n_hooks(pair) == hooks


def test_handles_can_be_removed_in_any_order(pair: ModelPair) -> None:
    plain, hooks = logits_of(pair), n_hooks(pair)
    first, second = pair.scaled(0.5).apply(), pair.scaled(1.5, method="weights").apply()
    both = logits_of(pair)
    assert repr(first).endswith("on)")
    first.remove()
    assert torch.equal(logits_of(pair), both)
    first.remove()  # without effect
    second.remove()
    assert torch.equal(logits_of(pair), plain)
    assert n_hooks(pair) == hooks
    assert repr(first).endswith("off)")


def test_hooks_that_the_user_resets_within_leave_the_scaling_on(pair: ModelPair) -> None:
    scaled = scaled_logits_of(pair, 0.5)
    with pair.scaled(0.5):
        pair.tuned.reset_hooks()
        assert torch.equal(logits_of(pair), scaled)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["between passes", "base", "tuned"])
def test_leaving_by_any_exception_restores_both_models(
    pair: ModelPair, where: str, method: Any, error: type[BaseException]
) -> None:
    plain, hooks = logits_of(pair), n_hooks(pair)
    before = [(p, p.data_ptr(), p.detach().clone()) for m in (pair.base, pair.tuned) for p in m.parameters()]

    def fail(*_: object, **__: object) -> None:
        raise error

    def run() -> None:
        with pair.scaled(0.5, method=method):
            logits_of(pair)
            raise error  # where no pass has: between passes, or on the base model, which interpolated weights never run

    point = getattr(pair, "base" if where == "base" else "tuned").blocks[1].hook_resid_post
    if where != "between passes":
        point.add_hook(fail)
    with pytest.raises(error):
        run()
    point.remove_hooks()
    after = [p for m in (pair.base, pair.tuned) for p in m.parameters()]
    for now, (parameter, pointer, value) in zip(after, before, strict=True):
        assert now is parameter
        assert now.data_ptr() == pointer
        assert torch.equal(now, value)
    assert n_hooks(pair) == hooks
    assert "forward" not in vars(pair.tuned)
    assert pair.active_scalings == []
    assert torch.equal(logits_of(pair), plain)


@pytest.mark.parametrize("method", ["ftc", "logits"])
def test_a_kv_cache_filled_outside_or_in_another_scaling_is_refused(pair: ModelPair, method: Any) -> None:
    caches = [new_cache(pair.tuned, len(IDS)) for _ in range(2)]
    options = [cache_option(pair, cache) for cache in caches]
    with torch.no_grad():
        pair.tuned(IDS, **options[0])
        with pair.scaled(0.5, method=method):
            pair.tuned(IDS, **options[1])
        for option in options:
            with pair.scaled(0.7, method=method), pytest.raises(InputError, match="filled outside this scaling") as got:
                pair.tuned(IDS[:, :1], **option)
            assert "within one `with pair.scaled(...)`" in str(got.value)


def test_a_cache_goes_on_in_the_same_scaling_entered_again_and_not_after_passes_without_it(pair: ModelPair) -> None:
    whole = scaled_logits_of(pair, 0.5)
    scaling, options = pair.scaled(0.5), cache_option(pair, new_cache(pair.tuned, len(IDS)))
    with torch.no_grad():
        with scaling:
            pair.tuned(IDS[:, :3], **options)
        with scaling:
            again = pair.tuned(IDS[:, 3:5], **options)
        torch.testing.assert_close(again, whole[:, 3:5], **EXACT)
        pair.tuned(IDS[:, 5:6], **options)  # the base blocks do not see this token
        with scaling, pytest.raises(InputError, match="filled outside"):
            pair.tuned(IDS[:, 6:7], **options)


# The baselines


def test_the_logits_method_mixes_the_logits_of_two_independent_runs(pair: ModelPair) -> None:
    with torch.no_grad():
        base, tuned = (model(IDS, **no_cache(pair)) for model in (pair.base, pair.tuned))
        for alpha in (-0.5, 0.0, 0.5, 2.0):
            expected = tuned + (alpha - 1) * (tuned - base)
            with pair.scaled(alpha, method="logits"):
                torch.testing.assert_close(logits_of(pair), expected, **EXACT)
                torch.testing.assert_close(activations(pair)[0], expected, **EXACT)
                assert pair.tuned(IDS, return_type=None, **no_cache(pair)) is None
                both, loss = pair.tuned(IDS, return_type="both", **no_cache(pair))
                alone = pair.tuned(IDS, return_type="loss", **no_cache(pair))
                cached, uncached = continued(pair, cached=True), continued(pair, cached=False)
            assert cached == uncached
            torch.testing.assert_close(both, expected, **EXACT)
            by_hand = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
            assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
            assert alone.item() == loss.item()


def test_the_logits_method_takes_text_and_single_rows_as_the_model_does(pair: ModelPair) -> None:
    for given in ("some text", ["some text", "more"], IDS[0]):
        with torch.no_grad():
            base, tuned = (model(given) for model in (pair.base, pair.tuned))
            with pair.scaled(0.5, method="logits"):
                torch.testing.assert_close(pair.tuned(given), (base + tuned) / 2, **EXACT)


def test_the_weights_method_is_a_model_built_of_interpolated_weights(pair: ModelPair) -> None:
    base, tuned = plain_models()
    others = dict(base.named_parameters())
    for alpha in (-0.5, 0.0, 0.5, 2.0):
        between = copy.deepcopy(tuned)
        with torch.no_grad():
            for name, weight in between.named_parameters():
                weight.copy_(others[name] + alpha * (weight - others[name]))
            expected = between(IDS).logits
        torch.testing.assert_close(scaled_logits_of(pair, alpha, method="weights"), expected, **EXACT)


def test_the_three_methods_differ(pair: ModelPair) -> None:
    found = [scaled_logits_of(pair, 0.5, method=method) for method in METHODS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (found[one] - found[other]).abs().max() > 1e-3


# Other pairs


ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "merged into copies": ("gpt2", {"target_modules": ["c_attn"]}),
    "every linear layer": ("gemma3", {"target_modules": "all-linear"}),
    "embeddings": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "saved modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"]}),
    "biases": ("llama, biases", {"target_modules": ["q_proj"], "bias": "all"}),
    "experts": ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}),
}


def adapter_pairs(folder: Path, name: str, **options: Any) -> tuple[ModelPair, ModelPair]:
    """A pair by adapter, with one copy of the base weights, and one of PEFT's own merged model."""
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    base, tokenizer = make_model(name), make_tokenizer()
    merged = save_adapter(folder, base, peft.LoraConfig(r=4, **options))
    whole = ModelPair.from_pretrained(copy.deepcopy(base), merged, tokenizer=tokenizer, backend="bridge")
    return ModelPair.from_pretrained(base, adapter=folder, tokenizer=tokenizer, backend="bridge"), whole


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_scaled_like_a_merged_model_by_all_methods(tmp_path: Path, kind: str) -> None:
    name, options = ADAPTERS[kind]
    lora, whole = adapter_pairs(tmp_path, name, **options)
    ids = make_ids()
    plain = logits_of(lora, ids)
    for method in METHODS:
        for alpha in (-0.5, 0.0, 0.5, 2.0):
            found = scaled_logits_of(lora, alpha, ids, method=method)
            torch.testing.assert_close(found, scaled_logits_of(whole, alpha, ids, method=method), rtol=0, atol=5e-5)
            assert (found - plain).abs().max() > 0.01
    assert torch.equal(logits_of(lora, ids), plain)


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_weights_of_a_dora_adapter_are_refused_and_left_alone(tmp_path: Path) -> None:
    dora, whole = adapter_pairs(tmp_path, "llama", target_modules=["q_proj"], use_dora=True)
    ids = make_ids()
    plain = logits_of(dora, ids)
    with pytest.raises(InputError, match=r"a DoRA adapter: .*; use method='ftc'"):
        dora.scaled(0.5, method="weights").apply()
    assert dora.active_scalings == []
    assert torch.equal(logits_of(dora, ids), plain)
    torch.testing.assert_close(scaled_logits_of(dora, 0.5, ids), scaled_logits_of(whole, 0.5, ids), rtol=0, atol=5e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_pair_is_scaled_in_its_dtype(pair: ModelPair, method: Any) -> None:
    base, tuned = (copy.deepcopy(model) for model in plain_models())
    half = ModelPair.from_pretrained(
        base, tuned, tokenizer=byte_tokenizer(), backend=pair.backend, dtype="bfloat16", device="cpu"
    )
    plain = logits_of(half)
    assert torch.equal(scaled_logits_of(half, 1.0, method=method), plain)
    found = scaled_logits_of(half, 0.0, method=method)
    assert found.dtype == torch.bfloat16
    expected = scaled_logits_of(pair, 0.0, method=method)
    assert (found - expected).abs().mean() <= 0.02 * expected.abs().mean()
    assert (plain - expected).abs().mean() > 0.1 * expected.abs().mean()
    assert half.generate("hello", alpha=0.5, method=method, max_new_tokens=3).n_tokens == 3  # pyright: ignore


@pytest.mark.bridge
def test_with_a_smaller_base_vocabulary_ftc_and_weights_work_and_logits_says_what_to_do() -> None:
    base, tuned = (copy.deepcopy(model) for model in plain_models())
    base.resize_token_embeddings(VOCAB - 50)
    small = ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend="bridge")
    ids = torch.tensor([[5, VOCAB - 46, 9]])  # the middle one is a token that the base lacks
    (expected,) = scaled_logits(*plain_models(), ids, [[0.5] * 3])
    torch.testing.assert_close(scaled_logits_of(small, 0.5, ids).double(), expected, **EXACT)
    plain = logits_of(small, ids)
    with pytest.raises(InputError, match=f"the base model has {VOCAB - 50} tokens and the tuned one {VOCAB}; use"):
        small.scaled(0.5, method="logits").apply()
    assert torch.equal(logits_of(small, ids), plain)
    zero = scaled_logits_of(small, 0.0, torch.tensor([[5, 6, 9]]), method="weights")
    with torch.no_grad():
        torch.testing.assert_close(zero[..., : VOCAB - 50], base(torch.tensor([[5, 6, 9]])).logits, **EXACT)
    assert torch.equal(logits_of(small, ids), plain)


@pytest.mark.bridge
@pytest.mark.parametrize("alpha", [0.4, 1.6])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_transformers_beam_search_is_scaled_and_its_cache_moves_with_the_beams(name: str, alpha: float) -> None:
    """Beams change rows of the KV cache; the base blocks' cache must follow. Mistral's has a sliding window."""
    base = make_model(name)
    tuned = tuned_copy(base)
    beams = ModelPair.from_pretrained(base, tuned, tokenizer=make_tokenizer(), backend="bridge")

    def search(**options: Any) -> list[list[int]]:
        model = beams.tuned.original_model
        found = model.generate(make_ids(2, 10), max_new_tokens=12, do_sample=False, eos_token_id=None, **options)
        return found.tolist()

    plain = search(num_beams=3)
    with beams.scaled(alpha):
        cached = search(num_beams=3, use_cache=True)
        assert cached == search(num_beams=3, use_cache=False)
        assert search(num_beams=1, use_cache=True) == search(num_beams=1, use_cache=False) != cached
    assert cached != plain


# Bad input


BAD: list[tuple[str, Callable[[ModelPair], Any], str]] = [
    ("not finite", lambda p: p.scaled(float("nan")), "alpha of layer 0 is nan: it is not a finite number; give one"),
    ("infinite by layer", lambda p: p.scaled({1: float("inf")}), "alpha of layer 1 is inf: it is not a finite number"),
    ("text", lambda p: p.scaled("0.5"), "alpha of layer 0 is '0.5': it is not a finite number"),
    ("None", lambda p: p.scaled(None), "alpha of layer 0 is None"),
    ("from a function", lambda p: p.scaled(lambda layer: None), "alpha of layer 0 is None"),
    (
        "too few",
        lambda p: p.scaled([1.0, 0.5]),
        "2 values of alpha: the model has 3 layers; give one value, or one per",
    ),
    ("too many", lambda p: p.scaled(torch.ones(4)), "4 values of alpha"),
    ("two axes", lambda p: p.scaled(torch.ones(3, 2)), "alpha of layer 0 is tensor"),
    ("no such layer", lambda p: p.scaled({3: 0.5}), "layer 3 is out of range: there are 3; give 0 to 2"),
    ("range too long", lambda p: p.scaled({range(2, 5): 0.5}), "layer 3 is out of range"),
    ("layer twice", lambda p: p.scaled({range(2): 0.5, 1: 0.7}), "alpha of layer 1 is given twice"),
    ("no layer", lambda p: p.scaled({"1": 0.5}), "'1' is no layer: layers are numbers or ranges; give"),
    ("method", lambda p: p.scaled(0.5, method="fct"), "no method 'fct': there are ftc, logits, weights; name one"),
    ("logits by layer", lambda p: p.scaled([0.5, 1, 1], method="logits"), "method 'logits' by layer or position"),
    ("weights by position", lambda p: p.scaled(0.5, positions=[0], method="weights"), "method 'weights' by layer or"),
    ("part", lambda p: p.scaled(0.5, positions="prompts"), "no positions 'prompts': there are prompt, generated, text"),
    (
        "role",
        lambda p: p.scaled(0.5, positions="user"),
        "positions 'user': .* known only with the prompt; use pair.gen",
    ),
    ("number", lambda p: p.scaled(0.5, positions=3), "positions are 3: .*; give 'prompt'"),
    ("words", lambda p: p.scaled(0.5, positions=["a"]), "neither a part, a slice nor a list of numbers"),
    ("slice of words", lambda p: p.scaled(0.5, positions=slice("a", None)), "its ends are no whole numbers; give"),
    ("backwards", lambda p: p.scaled(0.5, positions=slice(5, 2, -1)), "it runs backwards; give a step of 1"),
    ("mixed range", lambda p: p.scaled(0.5, positions=range(-2, 2)), "it holds negative positions and others; give"),
    ("outside the prompt", lambda p: scaled_logits_of(p, 0.5, positions=[N]), f"position {N} is outside the prompt"),
    ("before the prompt", lambda p: scaled_logits_of(p, 0.5, positions=[-N - 1]), f"it has {N} tokens; give"),
]


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_in_one_line_with_its_remedy(
    pair: ModelPair, call: Callable[[ModelPair], Any], words: str
) -> None:
    hooks = n_hooks(pair)
    with pytest.raises(InputError, match=words) as caught:
        call(pair)
    assert "\n" not in str(caught.value)
    assert (n_hooks(pair), pair.active_scalings) == (hooks, [])
