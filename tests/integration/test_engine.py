"""Laws of the engine on real TransformerLens models: exactness, batches, hooks, memory."""

from __future__ import annotations

import gc
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks._live_bytes import LiveBytes
from tests.oracle import oracle
from tests.pairs import CONTEXT, VOCAB, byte_tokenizer, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import InputError, ModelPair
from tuco_lens.engine.contributions import batch_norms
from tuco_lens.models.numerics import NoiseFloorWarning
from tuco_lens.plots import layer_profile, layer_token_map
from tuco_lens.report import write_report
from tuco_lens.results.measurement import Measurement

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
IDS = [[0, 5, 9, 200, 31, 7], [0, 8], [4, 4, 4, 4, 250, 1, 2, 3, 99, 100, 101]]


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param == "hooked":
        pytest.importorskip(
            "transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer"
        )
    return tiny_pair(request.param)


def n_hooks(pair: ModelPair) -> int:
    """Every torch hook on either model, of whatever kind."""
    modules = [module for model in (pair.base, pair.tuned) for module in model.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)


def resid_points(model: Any, name: str) -> list[nn.Module]:
    return [getattr(block, name) for block in model.blocks]


def test_measurements_agree_with_the_float64_oracle_in_both_norms(pair: ModelPair) -> None:
    base = tiny_llama()
    reference = oracle(base, tuned_copy(base), torch.tensor([IDS[2]]))
    for norm, order in (("l1", 1), ("l2", 2)):
        item = pair.measure([IDS[2]], norm=norm)[0]
        assert item.tuco == pytest.approx(reference.tuco(order).item(), abs=2e-6)
        assert item.beta == pytest.approx(reference.beta(order).item(), abs=2e-6)
        torch.testing.assert_close(item.beta_by_layer.double(), reference.beta_by_layer(order)[:, 0], rtol=0, atol=2e-6)
        p, f = (x[:, 0].norm(order, dim=-1) for x in reference.cumulative())
        torch.testing.assert_close(item.layer_token().double(), f / (p + f), rtol=0, atol=2e-6)
        p, f = (x[:, 0].norm(order, dim=-1) for x in (reference.ptc, reference.ftc))
        torch.testing.assert_close(item.layer_token("local").double(), f / (p + f), rtol=0, atol=2e-6)


def test_the_last_row_at_the_last_token_is_tuco_and_preco_is_its_complement(pair: ModelPair) -> None:
    for item in pair.measure(IDS):
        assert item.layer_token()[-1, -1].item() == item.tuco
        assert item.preco == 1 - item.tuco
        assert 0 < item.tuco < 1


def test_the_stream_is_the_embedding_plus_both_components(pair: ModelPair) -> None:
    _, cache = pair.run_with_cache(IDS[0])
    last = pair.n_layers
    rebuilt = cache["resid_pre", 0] + cache["cumulative_ptc", last] + cache["cumulative_ftc", last]
    assert (rebuilt - cache["resid_pre", last]).abs().sum() <= 1e-5 * cache["resid_pre", last].abs().sum()
    torch.testing.assert_close(cache.stack("ptc").sum(0), cache["cumulative_ptc", last])


def test_the_cache_and_the_measurement_give_the_same_norms(pair: ModelPair) -> None:
    _, cache = pair.run_with_cache(IDS[2])
    maps = pair.measure([IDS[2]])[0].maps
    torch.testing.assert_close(cache.stack("ftc").abs().sum(-1), maps.ftc, rtol=1e-5, atol=0)
    torch.testing.assert_close(cache.stack("cumulative_ptc")[1:].abs().sum(-1), maps.cumulative_ptc, rtol=1e-5, atol=0)


def test_a_cache_of_some_layers_and_positions_is_a_part_of_the_whole(pair: ModelPair) -> None:
    _, whole = pair.run_with_cache(IDS[2])
    logits, part = pair.run_with_cache(IDS[2], layers=[-1, 0], positions=[3, -1])
    assert part.positions == (3, 10)
    assert part.layers("ftc") == [0, 2]
    assert logits.shape == (11, VOCAB)
    for key, vectors in part.vectors.items():
        assert torch.equal(vectors, whole[key][[3, 10]]), key
    with pytest.raises(KeyError, match="kept for layers"):
        part["ftc", 1]
    with pytest.raises(KeyError, match="cumulative_ptc"):
        part["fct", 1]
    with pytest.raises(KeyError, match="use \\(name, layer\\)"):
        part.stack("ftcc")


def test_the_logits_of_run_with_cache_are_the_tuned_models(pair: ModelPair) -> None:
    base = tiny_llama()
    with torch.no_grad():
        expected = tuned_copy(base)(torch.tensor([IDS[0]])).logits[0]
    torch.testing.assert_close(pair.run_with_cache(IDS[0])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_model_against_its_own_copy_gives_exactly_zero(pair: ModelPair) -> None:
    same = tiny_pair(pair.backend, strength=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # exactly 0 is exact: nothing to warn of
        measurement = same.measure(IDS, drift=True)
    assert measurement.tuco.tolist() == [0.0] * 3
    assert measurement.beta.tolist() == [0.0] * 3
    assert all((item.maps.ftc == 0).all() and (item.maps.cumulative_ftc == 0).all() for item in measurement)
    assert measurement.output_co.tolist() == [0.0] * 3


def test_drift_and_output_co_are_those_of_two_independent_runs(pair: ModelPair) -> None:
    base = tiny_llama()
    tuned = tuned_copy(base)
    streams = []
    for model in (base, tuned):
        layers = model.model.layers
        kept: list[Tensor] = []
        handles = [layer.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o)) for layer in layers]
        with torch.no_grad():
            model(torch.tensor([IDS[2]]))
        for handle in handles:
            handle.remove()
        streams.append(torch.stack(kept)[:, 0])
    delta, own = (streams[1] - streams[0]).abs().sum(-1), streams[0].abs().sum(-1)
    item = pair.measure([IDS[2]], drift=True)[0]
    torch.testing.assert_close(item.layer_token("drift"), delta / (own + delta), rtol=1e-5, atol=1e-6)
    assert item.output_co == item.layer_token("drift")[-1, -1].item()
    with pytest.raises(InputError, match="drift=True"):
        pair.measure([IDS[2]])[0].layer_token("drift")


@pytest.mark.bridge
@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 257), min_size=1, max_size=20), min_size=1, max_size=7), st.integers(1, 4))
def test_a_batch_equals_its_prompts_one_by_one(ids: list[list[int]], batch_size: int) -> None:
    ids = [row if any(row) else [5] for row in ids]
    pair = _shared_pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseFloorWarning)
        together = pair.measure(ids, batch_size=batch_size, drift=True)
        for row, item in zip(ids, together, strict=True):
            alone = pair.measure([row], drift=True)[0]
            assert item.prompt.token_ids == tuple(row)
            torch.testing.assert_close(item.layer_token(), alone.layer_token(), rtol=0, atol=1e-5)
            torch.testing.assert_close(item.layer_token("drift"), alone.layer_token("drift"), rtol=0, atol=1e-5)
            assert item.tuco == pytest.approx(alone.tuco, abs=1e-5)


_PAIRS: list[ModelPair] = []


def _shared_pair() -> ModelPair:
    """One pair for all examples of hypothesis, on the bridge, which every release has."""
    if not _PAIRS:
        _PAIRS.append(tiny_pair("bridge"))
    return _PAIRS[0]


def test_a_users_hook_on_the_stream_changes_what_both_blocks_read(pair: ModelPair) -> None:
    pair.tuned.blocks[1].hook_resid_pre.add_hook(lambda x, hook: x * 0)
    try:
        _, cache = pair.run_with_cache(IDS[0])
    finally:
        pair.tuned.reset_hooks()
    assert (cache["resid_pre", 1] == 0).all()
    assert (cache["resid_pre", 2] == cache["ptc", 1] + cache["ftc", 1]).all()


def test_a_users_hook_on_the_base_model_changes_ptc_alone(pair: ModelPair) -> None:
    _, plain = pair.run_with_cache(IDS[0])
    pair.base.blocks[1].hook_resid_post.add_hook(lambda x, hook: x + 1)
    try:
        _, hooked = pair.run_with_cache(IDS[0])
    finally:
        pair.base.reset_hooks()
    torch.testing.assert_close(hooked["ptc", 1], plain["ptc", 1] + 1, rtol=0, atol=1e-5)
    torch.testing.assert_close(hooked["resid_pre", 3], plain["resid_pre", 3])


def test_tensors_that_a_users_hook_keeps_are_not_changed_later(pair: ModelPair) -> None:
    kept: list[tuple[Tensor, Tensor]] = []
    for point in resid_points(pair.tuned, "hook_resid_post") + resid_points(pair.base, "hook_resid_post"):
        point.add_hook(lambda x, hook: kept.append((x, x.clone())))
    try:
        pair.measure([IDS[0]])
    finally:
        pair.tuned.reset_hooks()
        pair.base.reset_hooks()
    assert len(kept) == 2 * pair.n_layers
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("model", ["base", "tuned"])
def test_no_hook_is_left_after_an_exception(pair: ModelPair, model: str, error: type[BaseException]) -> None:
    pair.measure([IDS[1]])  # the bridge wires hooks of its own at its first pass

    def fail(x: Tensor, hook: Any) -> None:
        raise error

    before = n_hooks(pair)
    point = getattr(pair, model).blocks[1].hook_resid_post
    calls: list[Callable[[], object]] = [
        lambda: pair.measure(IDS),
        lambda: pair.measure(IDS, drift=True),
        lambda: pair.run_with_cache(IDS[0]),
    ]
    for call in calls:
        point.add_hook(fail)
        with pytest.raises(error):
            call()
        point.remove_hooks()
        assert n_hooks(pair) == before
    assert pair.measure([IDS[0]]).tuco.item() > 0


def test_out_of_memory_halves_the_batch_and_every_prompt_is_still_measured(pair: ModelPair) -> None:
    sizes: list[int] = []

    def tight(x: Tensor, hook: Any) -> None:
        sizes.append(x.shape[0])
        if x.shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    ids = [[i + 3, 7, 9] for i in range(11)]
    expected = pair.measure(ids)
    pair.tuned.blocks[0].hook_resid_pre.add_hook(tight)
    try:
        measured = pair.measure(ids, batch_size=8)
        assert max(sizes) == 8
        assert sizes.count(8) == 1
        torch.testing.assert_close(measured.tuco, expected.tuco, rtol=0, atol=1e-5)
        sizes.clear()
        pair.tuned.blocks[0].hook_resid_pre.add_hook(lambda x, hook: (_ for _ in ()).throw(torch.OutOfMemoryError()))
        with pytest.raises(InputError, match="single prompt"):
            pair.measure(ids)
    finally:
        pair.tuned.reset_hooks()


def test_a_stream_of_prompts_comes_back_in_order_and_is_read_in_chunks(pair: ModelPair) -> None:
    read: list[int] = []

    def prompts() -> Any:
        for i in range(25):
            read.append(i)
            yield [3 + i] * (1 + 7 * i % 13)

    stream = pair.measure_stream(prompts(), chunk_size=10, batch_size=3)
    assert next(stream).prompt.token_ids == (3,)
    assert len(read) == 10
    assert [item.prompt.token_ids[0] for item in stream] == [4 + i for i in range(24)]


@pytest.mark.bridge
def test_peak_memory_is_six_streams_and_one_blocks_working_set_whatever_the_depth() -> None:
    batch, tokens, d_model = 8, 48, 64
    ids = torch.randint(3, VOCAB, (batch, tokens))
    peaks = {}
    for n_layers in (2, 12):
        pair = tiny_pair("bridge", n_layers=n_layers, d_model=d_model)
        batch_norms(pair.base, pair.tuned, ids)  # the bridge wires itself at its first pass
        block, stream = pair.base.blocks[0].original_component, torch.randn(batch, tokens, d_model)
        rotary = pair.base.original_model.model.rotary_emb(stream, torch.arange(tokens)[None])
        with torch.no_grad(), LiveBytes() as alone:
            block(stream, position_embeddings=rotary, attention_mask=None)
        with LiveBytes() as whole:
            batch_norms(pair.base, pair.tuned, ids)
        norms = 5 * n_layers * batch * tokens * 4  # the maps themselves, beside the vectors
        peaks[n_layers] = whole.peak - norms
        assert peaks[n_layers] <= 6 * batch * tokens * d_model * 4 + alone.peak
    assert peaks[12] <= 1.05 * peaks[2]


@pytest.mark.bridge
@pytest.mark.slow
def test_a_thousand_measurements_leave_no_tensor_behind() -> None:
    pair = _shared_pair()

    def n_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    for _ in range(20):
        pair.measure([IDS[1]])
    before, hooks = n_tensors(), n_hooks(pair)
    for _ in range(1000):
        pair.measure([IDS[1]])
    assert n_tensors() <= before + 5
    assert n_hooks(pair) == hooks


def test_a_saved_measurement_loads_as_it_was(pair: ModelPair, tmp_path: Any) -> None:
    measurement = pair.measure([*IDS, "text with \N{SNOWMAN}"], drift=True)
    path = measurement.save(tmp_path / "m.safetensors")
    loaded = Measurement.load(path)
    assert loaded.settings == measurement.settings
    assert [item.prompt for item in loaded] == [item.prompt for item in measurement]
    for name in ("ptc", "ftc", "cumulative_ptc", "cumulative_ftc", "drift"):
        for one, other in zip(loaded, measurement, strict=True):
            assert torch.equal(getattr(one.maps, name), getattr(other.maps, name))
    assert loaded.to_frame().equals(measurement.to_frame())
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]
    content = path.read_bytes()
    assert all(measurement.save(path).read_bytes() == content for _ in range(8))  # one measurement, one file
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["measurement"])
        first_form = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    entries = {name: json.dumps(header[name]) for name in ("settings", "prompts")}
    save_file(first_form, tmp_path / "first.safetensors", {"format": header["format"], **entries})
    assert Measurement.load(tmp_path / "first.safetensors").to_frame().equals(measurement.to_frame())


def test_what_keeps_the_last_token_alone_has_no_maps_and_no_beta(pair: ModelPair, tmp_path: Any) -> None:
    prompts = [[5, 6, 7, 8], [9, 10]]
    full = pair.measure(prompts, drift=True, progress=False)
    last = pair.measure(prompts, drift=True, keep="last", progress=False)
    for item, whole in zip(last, full, strict=True):
        assert item.maps.ptc.shape == (pair.tuned.cfg.n_layers, 1)
        for kind in ("cumulative", "local", "drift"):
            torch.testing.assert_close(item.last_token(kind), whole.layer_token(kind)[:, -1])
        assert math.isnan(item.beta)
        with pytest.raises(InputError, match='keep="last"'):
            item.layer_token()
    torch.testing.assert_close(last.tuco, full.tuco)
    torch.testing.assert_close(last.output_co, full.output_co)
    again = Measurement.load(last.save(tmp_path / "last.safetensors"))
    assert again.to_frame().equals(last.to_frame())
    assert [item.maps.ptc.shape for item in again] == [item.maps.ptc.shape for item in last]
    with pytest.raises(InputError, match="there are maps and last"):
        pair.measure(prompts, keep="first")  # pyright: ignore[reportArgumentType]


FIGURES: dict[str, Callable[[Measurement, Any], Any]] = {
    "heatmap": lambda measured, _: layer_token_map(measured[0]),
    "layer profile of β": lambda measured, _: layer_profile(measured, kind="beta"),
    "report": lambda measured, folder: write_report(measured, folder / "r.html"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_all_tokens_refuse_what_keeps_the_last_alone(pair: ModelPair, name: str, tmp_path: Any) -> None:
    last = pair.measure([[5, 6, 7, 8]], keep="last", progress=False)
    with pytest.raises(InputError, match='keep="last"'):
        FIGURES[name](last, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert layer_profile(last).groups


def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path: Any, pair: ModelPair) -> None:
    path = pair.measure([IDS[0]]).save(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "other.txt").write_text("hello")
    for name in ("m.safetensors", "other.txt", "absent.safetensors"):
        with pytest.raises(InputError) as caught:
            Measurement.load(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_the_frame_has_a_row_per_prompt_in_order(pair: ModelPair) -> None:
    frame = pair.measure(IDS).to_frame()
    assert list(frame.columns) == ["index", "prompt", "n_tokens", "tuco", "preco", "beta"]
    assert frame["n_tokens"].tolist() == [6, 2, 11]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "no prompts"),
        (["fine", ""], "prompt 1"),
        ([list(range(CONTEXT + 1))], f"{CONTEXT + 1} tokens"),
        ([[VOCAB]], "vocabulary|no token"),
    ],
)
def test_bad_prompts_are_refused_by_index_before_anything_is_measured(
    pair: ModelPair, prompts: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pair.measure(prompts)


def test_misspelt_options_raise(pair: ModelPair) -> None:
    with pytest.raises(InputError, match="no norm"):
        pair.measure(IDS, norm="L3")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="out of range"):
        pair.run_with_cache(IDS[0], layers=[pair.n_layers])
    with pytest.raises(InputError, match="no map"):
        pair.measure(IDS).layer_token(0, "cumulated")  # pyright: ignore[reportArgumentType]


@pytest.mark.bridge
def test_values_under_the_noise_floor_of_the_dtype_are_warned_of() -> None:
    base = tiny_llama()
    tuned = tuned_copy(base, strength=1e-3)
    pair = ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend="bridge", dtype="bfloat16")
    with pytest.warns(NoiseFloorWarning, match="bfloat16"):
        pair.measure([IDS[0]])


def test_chunks_do_not_change_the_numbers(pair: ModelPair) -> None:
    prompts = [pair.prompt(ids) for ids in IDS * 3]
    whole = list(pair.measure_stream(prompts, batch_size=4))
    parts = list(pair.measure_stream(prompts, batch_size=4, chunk_size=2))
    assert [a.tuco for a in whole] == pytest.approx([b.tuco for b in parts], abs=1e-5)


@pytest.mark.bridge
def test_tokens_that_only_the_tuned_model_has_are_measured_and_refused_for_drift_alone() -> None:
    base = tiny_llama()
    tuned = tuned_copy(base)
    base.resize_token_embeddings(VOCAB - 50)
    pair = ModelPair.from_pretrained(base, tuned, tokenizer=byte_tokenizer(), backend="bridge")
    full = tiny_pair("bridge")
    ids = [5, VOCAB - 45 - 1, 9]  # the last byte tokens, which the smaller embedding lacks
    assert pair.measure([ids]).tuco.tolist() == pytest.approx(full.measure([ids]).tuco.tolist(), abs=1e-6)
    with pytest.raises(InputError, match=f"prompt 1.*vocabulary of {VOCAB - 50} lacks"):
        pair.measure([[5, 6], ids], drift=True)


@pytest.mark.parametrize("drift", [False, True])
def test_a_measurement_costs_one_call_of_every_block_and_one_more_of_the_base_for_drift(
    pair: ModelPair, drift: bool
) -> None:
    calls = {"base": 0, "tuned": 0}

    def counter(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            calls[name] += 1

        return count

    handles = [block.register_forward_hook(counter(name)) for name in calls for block in getattr(pair, name).blocks]
    try:
        pair.measure([IDS[0]], drift=drift)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == {"base": (2 if drift else 1) * pair.n_layers, "tuned": pair.n_layers}


def test_a_pair_can_be_a_key_though_a_config_cannot(demo_pair: ModelPair) -> None:
    assert demo_pair.config is not None
    assert {demo_pair: "found"}[demo_pair] == "found"
