"""Features of a dictionary: one whose features are known, and one that SAELens trains on the demo pair."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from tests.integration.test_components import BACKENDS
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.features import Features, OtherPlaceWarning
from tuco_lens.errors import InputError

PROMPTS = ["one two", "a", "three little words", "0123456789", "zzz"]
SAE_LENS = pytest.mark.skipif(
    importlib.util.find_spec("sae_lens") is None, reason="sae-lens is not installed: it needs transformer-lens below 4"
)


class Known:
    """Every entry of the stream is two features, its positive and its negative part: nothing is left unexplained."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=-1).relu()

    def decode(self, feature_acts: Tensor) -> Tensor:
        ours, theirs = feature_acts.chunk(2, dim=-1)
        return ours - theirs


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_features_change_as_the_two_streams_do(backend: str) -> None:
    pair = tiny_pair(backend)
    found = pair.features(PROMPTS, Known(), 1, batch_size=2)
    sides: list[list[Tensor]] = [[], []]
    for prompt in PROMPTS:
        _, cache = pair.run_with_cache(prompt)
        base = cache["resid_pre", 1] + cache["ptc", 1]
        for side, stream in zip(sides, (base, base + cache["ftc", 1]), strict=True):
            side.append(Known().encode(stream[-1]).double())
    base, tuned = (torch.stack(side).numpy() for side in sides)
    change = tuned - base
    assert found.values == pytest.approx(change.mean(axis=0), abs=1e-5)
    assert found.base_means == pytest.approx(base.mean(axis=0), abs=1e-5)
    assert found.tuned_means == pytest.approx(tuned.mean(axis=0), abs=1e-5)
    assert found.base_active == pytest.approx((base > 0).mean(axis=0))
    assert found.tuned_active == pytest.approx((tuned > 0).mean(axis=0))
    m = int(((base > 0) | (tuned > 0)).any(axis=0).sum())
    ends = [
        scipy.stats.t.interval(1 - 0.05 / m, 4, column.mean(), scipy.stats.sem(column))
        for column in change.T
        if column.any()
    ]
    there = change.any(axis=0)
    assert np.stack([found.low[there], found.high[there]], axis=1) == pytest.approx(np.array(ends), abs=1e-4)
    assert (found.base_error, found.tuned_error, found.change_error) == pytest.approx((0, 0, 0), abs=1e-8)
    top = found.top(3)
    assert top[:3] == np.argsort(-found.values)[:3].tolist()
    assert top[3:] == np.argsort(-found.values)[-3:].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_block_behind_the_layer_runs(backend: str) -> None:
    pair = tiny_pair(backend)
    ran: list[int] = []
    for model in (pair.base, pair.tuned):
        for layer, block in enumerate(model.blocks):
            block.register_forward_hook(lambda _m, _a, _o, layer=layer: ran.append(layer))
    pair.features("one two", Known(), 1)
    assert sorted(ran) == [0, 0, 1, 1]


def test_a_direction_that_fine_tuning_adds_is_the_feature_that_rises() -> None:
    pair = tiny_pair("bridge")
    unit = torch.nn.functional.normalize(torch.linspace(-1, 2, pair.d_model), dim=0)
    directions = torch.linalg.qr(torch.cat([unit[:, None], torch.randn(pair.d_model, pair.d_model - 1)], 1))[0]
    directions[:, 0] = unit

    class Directions(Known):
        def encode(self, x: Tensor) -> Tensor:
            return x @ directions

        def decode(self, feature_acts: Tensor) -> Tensor:
            return feature_acts @ directions.T

    hook = pair.tuned.blocks[1].hook_resid_post.register_forward_hook(lambda _m, _a, stream: stream + 3 * unit)
    found = pair.features(PROMPTS, Directions(), 1, positions=None)
    plain = tiny_pair("bridge").features(PROMPTS, Directions(), 1, positions=None)
    hook.remove()
    assert (found.values - plain.values)[0] == pytest.approx(3, abs=1e-4)
    assert (found.values - plain.values)[1:] == pytest.approx(0, abs=1e-4)
    assert found.top(1)[0] == 0
    assert found.is_changed[0]
    assert "0 (+" in found.summary()
    assert not any(m._forward_hooks for m in pair.tuned.blocks[1].modules() if m is not pair.tuned.blocks[1])


@SAE_LENS
@pytest.mark.filterwarnings("ignore")
def test_an_sae_that_sae_lens_trains_on_the_demo_pair() -> None:
    from sae_lens import SAE
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    pair = ModelPair.demo(backend="hooked")
    layer, d_model = 4, pair.d_model
    ids = torch.randint(300, 4000, (16, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, cache = pair.tuned.run_with_cache(ids, names_filter=f"blocks.{layer}.hook_resid_post")
    streams = cache[f"blocks.{layer}.hook_resid_post"].flatten(0, 1)
    torch.manual_seed(0)
    config = StandardTrainingSAEConfig(d_in=d_model, d_sae=2 * d_model, l1_coefficient=0.05, device="cpu")
    config.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    trained = StandardTrainingSAE(config)

    def batches() -> Any:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield streams[torch.randint(len(streams), (256,), generator=generator)]

    settings = SAETrainerConfig(
        total_training_samples=256 * 300,
        train_batch_size_samples=256,
        lr=3e-3,
        lr_end=3e-3,
        n_batches_for_norm_estimate=2,
    )
    SAETrainer(settings, trained, batches()).fit()
    assert isinstance(trained, SAE)
    texts = ["How do I boil an egg?", "What is the capital of France?", "Write a poem.", "Why is the sky blue?"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtherPlaceWarning)
        found = pair.features(texts, trained, layer, chat=True, positions=None)
    ours: list[Tensor] = []
    for text in texts:
        _, seen = pair.run_with_cache(text, chat=True)
        base = seen["resid_pre", layer] + seen["ptc", layer]
        with torch.no_grad():
            ours.append((trained.encode(base + seen["ftc", layer]) - trained.encode(base)).mean(0))
    assert found.values == pytest.approx(torch.stack(ours).mean(0).numpy(), abs=1e-3)
    assert found.tuned_error < 0.7  # it was trained, if not for long
    assert found.base_error > 0
    with pytest.warns(
        OtherPlaceWarning, match=r"trained at blocks\.4\.hook_resid_post, not blocks\.2\.hook_resid_post"
    ):
        pair.features(texts[:1], trained, 2)


def test_the_result_is_a_table_a_file_and_a_figure(tmp_path: Path) -> None:
    found = tiny_pair("bridge").features(PROMPTS, Known(), -1)
    frame = found.to_frame()
    assert frame["change"].to_numpy() == pytest.approx(found.values)
    loaded = Features.load(found.save(tmp_path / "features.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert loaded.summary() == found.summary()
    assert "layer 2 over 5 prompts" in found.summary()
    for theme in ("light", "dark"):
        figure: Any = found.figure(theme, k=4)
        assert figure.data[0].x == pytest.approx(found.values[found.top(4)], rel=1e-5)
        assert list(figure.layout.yaxis.ticktext) == [str(i) for i in found.top(4)]
    one = tiny_pair("bridge").features("one", Known(), 0)
    assert np.isnan(one.low).all()
    assert not one.is_changed.any()
    assert "0 change beyond doubt" in one.summary()
    equal = tiny_pair("bridge", strength=0.0).features(PROMPTS, Known(), 0)
    assert np.abs(equal.values).max() <= 1e-6


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")

    class Wide(Known):
        def encode(self, x: Tensor) -> Tensor:
            return x @ torch.ones(48, 9)

    class Configured(Known):
        class cfg:
            d_in = 48

    class Narrow(Known):
        def decode(self, feature_acts: Tensor) -> Tensor:
            return feature_acts[..., :3]

    for sae, options, why in [
        (Wide(), {}, "does not read a stream of 32: RuntimeError"),
        (Configured(), {}, "it reads vectors of 48, and the stream is 32 wide"),
        (object(), {}, "no attribute 'encode'"),
        (Known(), {"layer": 3}, "layer 3 is out of range"),
        (Known(), {"positions": [9]}, "outside the prompt"),
        (Known(), {"positions": slice(50, 60)}, "no tokens chosen"),
        (Known(), {"confidence": 95}, "between 0 and 1"),
    ]:
        with pytest.raises(InputError, match=why):
            pair.features("one", sae, **{"layer": 0, **options})  # pyright: ignore[reportArgumentType]

    class Failing(Known):
        def decode(self, feature_acts: Tensor) -> Tensor:
            raise RuntimeError("a user's dictionary")

    with pytest.raises(RuntimeError, match="a user's dictionary"):
        pair.features("one", Failing(), 0)
    blocks = [*pair.base.blocks, *pair.tuned.blocks]
    assert not any(m._forward_hooks for block in blocks for m in block.modules() if m is not block)
    found = pair.features("one", Narrow(), 0)
    assert np.isnan([found.base_error, found.tuned_error, found.change_error]).all()  # a transcoder to something else
