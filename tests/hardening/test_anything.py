"""Whatever is given as a prompt, as α or as positions: the numbers are right, or one line says why not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pairs import CONTEXT, VOCAB, byte_tokenizer, tiny_llama, tuned_copy
from tuco_lens import InputError, ModelPair
from tuco_lens.steering.alpha import layer_alphas

pytestmark = pytest.mark.bridge

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
N_LAYERS = 3
MANY = settings(max_examples=400, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any, ModelPair]:
    base = tiny_llama()
    tuned, tokenizer = tuned_copy(base), byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return base, tuned, ModelPair.from_pretrained(base, tuned, tokenizer=tokenizer, backend="bridge")


text = st.text(max_size=24)
part = st.fixed_dictionaries({"type": st.sampled_from(["text", "text", "image"])}, optional={"text": text})
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "poet"])},
    optional={
        "content": st.one_of(text, st.none(), st.lists(part, max_size=3)),
        "tool_calls": st.one_of(
            st.none(), st.lists(st.just({"function": {"name": "f", "arguments": "{}"}}), max_size=1)
        ),
    },
)
sound = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
chat_of = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"]), "content": sound}),
    min_size=1,
    max_size=3,
)
prompt = st.one_of(
    sound,
    chat_of,
    st.lists(st.integers(0, VOCAB - 50), min_size=1, max_size=CONTEXT),
    text,
    st.lists(message, max_size=4),
    st.lists(st.integers(-3, VOCAB + 3), max_size=CONTEXT + 4),
    st.fixed_dictionaries({"messages": st.lists(message, max_size=2)}, optional={"tools": st.none()}),
    st.none(),
    st.integers(),
    st.binary(max_size=3),
)
options = st.fixed_dictionaries(
    {},
    optional={
        "chat": st.booleans(),
        "system": st.one_of(st.none(), text),
        "prefill": st.one_of(st.none(), text),
        "continue_final": st.booleans(),
        "special_tokens": st.sampled_from(["control", "text", "else"]),
        "template_kwargs": st.one_of(
            st.none(), st.dictionaries(st.sampled_from(["a", "tokenize", "tools"]), st.none())
        ),
    },
)


def require_one_line(error: InputError) -> None:
    assert "\n" not in str(error)
    assert 0 < len(str(error)) < 2_000


def require_off(pair: ModelPair) -> None:
    assert pair.active_scalings == []


@MANY
@given(given_prompt=prompt, given_options=options)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_prompt_is_measured_as_a_plain_loop_does_or_one_line_says_why_not(
    models: tuple[Any, Any, ModelPair], given_prompt: Any, given_options: dict[str, Any]
) -> None:
    base, tuned, pair = models
    try:
        made = pair.prompt(given_prompt, **given_options)
    except InputError as error:
        require_one_line(error)
        return
    assert len(made.token_ids) == len(made.tokens) == len(made.roles) <= CONTEXT
    found = pair.measure([made, [5, 6, 7]], progress=False)[0].tuco
    assert found == pytest.approx(plain_tuco(base, tuned, list(made.token_ids)), abs=3e-6)


@torch.no_grad()
def plain_tuco(base: Any, tuned: Any, ids: list[int]) -> float:
    """The paper's definition in float32, a layer at a time, with hooks of PyTorch only."""
    calls: list[tuple[Any, Any, torch.Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda _, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True)
        for layer in tuned.model.layers
    ]
    tuned(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    ptc, ftc = torch.zeros(32), torch.zeros(32)
    for layer, (args, kwargs, out) in zip(base.model.layers, calls, strict=True):
        from_base = layer(*args, **kwargs)
        ptc, ftc = ptc + (from_base - args[0])[0, -1], ftc + (out - from_base)[0, -1]
    return (ftc.abs().sum() / (ptc.abs().sum() + ftc.abs().sum())).item()


number = st.one_of(st.floats(-3, 3), st.integers(-2, 2), st.just(math.nan), st.just(math.inf))
alpha = st.one_of(
    number,
    st.lists(number, max_size=N_LAYERS + 1),
    st.dictionaries(st.one_of(st.integers(-N_LAYERS - 1, N_LAYERS), st.just(range(2))), number, max_size=3),
    st.lists(st.floats(-2, 2), min_size=N_LAYERS, max_size=N_LAYERS).map(torch.tensor),
    st.sampled_from(["1", None, "0.5x", b"1", [[1.0]], {"0": 1.0}, {0: "x"}]),
)
positions = st.one_of(
    st.none(),
    st.sampled_from(["prompt", "generated", "user", "template", "nowhere"]),
    st.slices(6),
    st.lists(st.integers(-8, 8), max_size=4),
    st.just(range(1, 3)),
    st.just(1.5),
)


@MANY
@given(given_alpha=alpha, given_positions=positions)
def test_an_alpha_scales_what_it_says_or_one_line_says_why_not(
    models: tuple[Any, Any, ModelPair], given_alpha: Any, given_positions: Any
) -> None:
    base, tuned, pair = models
    ids = torch.tensor([[5, 60, 7, 80, 9, 100]])
    try:
        with torch.no_grad(), pair.scaled(given_alpha, positions=given_positions):
            logits = pair.tuned(ids, use_cache=False)
        values = layer_alphas(given_alpha, N_LAYERS)
    except InputError as error:
        require_one_line(error)
        require_off(pair)
        return
    acts = where(given_positions, ids.shape[1])
    assert torch.allclose(logits, plain_scaled(base, tuned, ids, values, acts), rtol=1e-4, atol=2e-4)


def where(given_positions: Any, n_tokens: int) -> list[bool]:
    if given_positions is None or given_positions == "prompt":
        return [True] * n_tokens
    if given_positions == "generated":
        return [False] * n_tokens
    chosen = set(range(n_tokens)[given_positions]) if isinstance(given_positions, slice) else set(given_positions)
    return [i in chosen or i - n_tokens in chosen for i in range(n_tokens)]


@torch.no_grad()
def plain_scaled(base: Any, tuned: Any, ids: torch.Tensor, alphas: tuple[float, ...], acts: list[bool]) -> torch.Tensor:
    """x_{l+1} = base + α (tuned − base) where it acts, with hooks of PyTorch only."""
    mask = torch.tensor(acts)[None, :, None]

    def mixing(layer: Any, value: float) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, out: torch.Tensor) -> torch.Tensor:
            from_base = layer(*args, **kwargs)
            return torch.where(mask, from_base + value * (out - from_base), out)

        return hook

    pairs = zip(tuned.model.layers, base.model.layers, alphas, strict=True)
    handles = [layer.register_forward_hook(mixing(other, value), with_kwargs=True) for layer, other, value in pairs]
    logits = tuned(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits
