"""Every causal model class that TransformerLens lists: exact on each backend, or one line that says what to do.

At tiny size, with random weights; the reference is `tests/oracle.py`, transformers in float64. What a class needs of
transformer-lens is a row of `LINES`. Runs with transformer-lens 4.x too (`-m bridge`).
"""

from __future__ import annotations

import copy
import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.architectures import from_config, make_ids, make_tokenizer, tuned_from
from tests.oracle import oracle, scaled_logits
from tests.registry import buildable, tiny_config
from tuco_lens import ModelPair
from tuco_lens.engine.kv_caches import new_cache
from tuco_lens.errors import LoadError
from tuco_lens.models import hooked
from tuco_lens.models.checks import require_sane_config

MAJOR = int(importlib.metadata.version("transformer-lens").split(".")[0])
NEWER = "install transformer-lens 4.3 or later"
LINES: dict[str, dict[int, str]] = {
    "Cohere2ForCausalLM": {3: NEWER},
    "CohereForCausalLM": {3: NEWER},
    "HunYuanDenseV1ForCausalLM": {3: NEWER},
    "Qwen3NextForCausalLM": {3: NEWER},
    "Qwen3_5ForCausalLM": {3: NEWER},
    "Qwen3_5MoeForCausalLM": {3: NEWER},
}
"""Model class -> major release of transformer-lens -> what the one line ends with; every other class is exact."""
NOT_TRIED = {
    "Gemma3nForConditionalGeneration": "needs timm",
    "DeepseekV4ForCausalLM": "its streams are four, and the oracle knows one",
    "HrmTextForCausalLM": "its blocks run in cycles, and the oracle knows a sequence",
    "OpenAIGPTLMHeadModel": "its blocks return lists",
    "XGLMForCausalLM": "its mask overflows at tiny size",
}
CLASSES = buildable()
ALPHA = 0.4


@pytest.fixture(autouse=True)
def no_program_is_started(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TransformerLens installs torchvision with pip where a model's processor of images is not found."""
    started: list[Any] = []
    monkeypatch.setattr("subprocess.check_call", lambda command, *args, **kwargs: started.append(command))
    yield
    assert started == []


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=[pytest.mark.bridge] if backend == "bridge" else [])
        for name, model_type in CLASSES.items()
        if name not in NOT_TRIED
        for backend in ("hooked", "bridge")
        if backend == "bridge" or (MAJOR < 4 and hooked.unsupported_reason(tiny_config(model_type)) is None)
    ],
)
def test_every_class_is_exact_or_one_line_says_what_to_do(name: str, backend: Any) -> None:
    base = from_config(tiny_config(CLASSES[name]))
    tuned = tuned_from(base)
    line = LINES.get(name, {}).get(MAJOR)
    if line is not None:
        with pytest.raises(LoadError, match=re.escape(line)) as raised:
            load(base, tuned, backend)
        assert "\n" not in str(raised.value)
        return
    everything_is_exact(base, tuned, backend)


FOUR = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma 4 that shares keys": ("gemma4_text", {**FOUR, "num_kv_shared_layers": 2}),
    "gemma 4 with experts": ("gemma4_text", {**FOUR, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}),
    "gemma 4 with keys for values": ("gemma4_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
    "granite without experts": ("granitemoehybrid", {"num_local_experts": 0, "num_experts_per_tok": 0}),
    "granite without positions": ("granitemoehybrid", {"position_embedding_type": "nope"}),
    "granite that names no positions": ("granitemoehybrid", {"position_embedding_type": None}),
}
"""Settings within the classes that published checkpoints have."""


@pytest.mark.bridge
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_exact(name: str) -> None:
    model_type, settings = VARIANTS[name]
    base = from_config(tiny_config(model_type, **settings))
    everything_is_exact(base, tuned_from(base), "bridge")


@pytest.mark.bridge
def test_what_a_library_raises_is_one_line_and_no_backend_is_named_that_does_not_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Original component\nnot set")

    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge.boot_transformers", fails)
    base = from_config(tiny_config("granitemoehybrid"))
    with pytest.raises(LoadError, match=r"does not run GraniteMoeHybridForCausalLM \(RuntimeError: .*\); choose") as it:
        load(base, tuned_from(base), "bridge")
    assert "backend=" not in str(it.value)
    with pytest.raises(LoadError, match="hooked"):
        load(base, tuned_from(base), "hooked")


@pytest.mark.bridge
def test_loading_looks_for_no_processor_and_leaves_transformers_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *args, **kwargs: asked.append(args))
    base = from_config(tiny_config("gemma4_unified"))
    load(base, tuned_from(base), "bridge")
    assert asked == []
    AutoProcessor.from_pretrained("a user's own")
    assert asked == [("a user's own",)]


def everything_is_exact(base: Any, tuned: Any, backend: Any) -> None:
    pair = load(base, tuned, backend)
    measuring_is_exact(pair, base, tuned)
    scaling_is_exact(pair, base, tuned)
    generating_is_exact(pair)


@pytest.mark.parametrize("model_type", sorted(set(CLASSES.values())))
def test_the_sizes_of_published_configs_are_sane(model_type: str) -> None:
    require_sane_config(CONFIG_MAPPING[model_type](), "a published config")
    require_sane_config(tiny_config(model_type), "a tiny one")


def test_a_dense_model_of_a_family_with_experts_has_none() -> None:
    require_sane_config(tiny_config("granitemoehybrid", num_local_experts=0), "a dense one")
    with pytest.raises(LoadError, match="num_local_experts = -1"):
        require_sane_config(tiny_config("granitemoehybrid", num_local_experts=-1), "a broken one")


@pytest.mark.bridge
def test_a_model_that_reads_later_tokens_is_refused() -> None:
    config = tiny_config("bert")
    config.is_decoder = False
    base = from_config(config)
    with pytest.raises(LoadError, match=r"reads the tokens that come after.*is_decoder"):
        load(base, tuned_from(base), "bridge")


@pytest.mark.bridge
@pytest.mark.parametrize("model_type", ["falcon_h1", "jamba", "llama"])
def test_a_user_s_own_passes_that_go_on_from_a_cache_are_scaled_alike(model_type: str) -> None:
    base = from_config(tiny_config(model_type))
    pair = load(base, tuned_from(base), "bridge")
    ids, cache = make_ids(1, 9), new_cache(pair.tuned, 1)
    with torch.no_grad(), pair.scaled(ALPHA):
        whole = pair.tuned(ids, use_cache=False)
        parts = [pair.tuned(part, use_cache=True, past_key_values=cache) for part in ids.split([6, 1, 1, 1], dim=1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=2e-5)


def load(base: Any, tuned: Any, backend: Any) -> ModelPair:
    ours = copy.deepcopy(base), copy.deepcopy(tuned)
    return ModelPair.from_pretrained(*ours, tokenizer=make_tokenizer(), backend=backend, dtype="float32")


def measuring_is_exact(pair: ModelPair, base: Any, tuned: Any) -> None:
    prompts = [make_ids(1, n, seed=n) for n in (20, 9, 14)]
    found = pair.measure([prompt[0].tolist() for prompt in prompts], batch_size=3, progress=False)
    for ids, tuco in zip(prompts, found.tuco.tolist(), strict=True):
        assert tuco == pytest.approx(oracle(eager(base), eager(tuned), ids).tuco().item(), abs=3e-6)


def scaling_is_exact(pair: ModelPair, base: Any, tuned: Any) -> None:
    ids = make_ids(1)
    (expected,) = scaled_logits(eager(base), eager(tuned), ids, [[ALPHA] * pair.n_layers])
    with torch.no_grad(), pair.scaled(ALPHA):
        logits = pair.tuned(ids)
    error = ((logits.double() - expected).abs().sum() / expected.abs().sum()).item()
    assert error < 1e-5


def generating_is_exact(pair: ModelPair) -> None:
    """Texts of several lengths together, with whatever the model keeps of earlier passes, against whole passes."""
    prompts = [make_ids(1, n, seed=n)[0].tolist() for n in (12, 7)]
    results = pair.generate(prompts, alpha=ALPHA, max_new_tokens=5, temperature=0)
    for ids, result in zip(prompts, results, strict=True):
        assert list(result.token_ids) == greedy(pair, ids, len(result.token_ids))


@torch.no_grad()
def greedy(pair: ModelPair, ids: list[int], n_tokens: int) -> list[int]:
    text = list(ids)
    for _ in range(n_tokens):
        with pair.scaled(ALPHA):
            text.append(int(pair.tuned(torch.tensor([text]))[0, -1].argmax()))
    return text[len(ids) :]


def eager(model: Any) -> Any:
    """A copy whose experts are computed one by one: grouped products know no float64."""
    model = copy.deepcopy(model)
    model.set_experts_implementation("eager")
    return model
