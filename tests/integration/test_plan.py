"""`tuco-lens plan`: what it counts beside models that are really loaded, where it places them, and how it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks import plan as plan_benchmark
from benchmarks._live_bytes import LiveBytes
from tests.architectures import from_config, make_model, make_tokenizer
from tests.checkpoints import save_adapter, save_checkpoint, save_gguf
from tuco_lens import LoadError
from tuco_lens.cli.app import run
from tuco_lens.engine.contributions import batch_norms
from tuco_lens.models.sizes import model_sizes
from tuco_lens.models.sources import LoadOptions, resolve_source
from tuco_lens.prompts.files import PromptSource
from tuco_lens.runs import calibration
from tuco_lens.runs.devices import GIB, KNOWN, Device
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.placement import Placing, PlanMemory, bytes_per_token
from tuco_lens.runs.plan import PlanJob, plan_run
from tuco_lens.runs.planned_pair import planned_pair
from tuco_lens.runs.workload import assumed

pytestmark = pytest.mark.usefixtures("one_thread")
SaveFolders = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> SaveFolders:
    """Checkpoints of a tiny random pair, by the architecture's name."""

    def saved(name: str) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp(name)
        return save_checkpoint(root / "base", make_model(name, 0)), save_checkpoint(root / "tuned", make_model(name, 1))

    return saved


@pytest.fixture(scope="module")
def llamas(folders: SaveFolders) -> tuple[Path, Path]:
    return folders("llama")


def chosen(paths: tuple[Path, Path], **options: Any) -> PairChoice:
    return PairChoice(str(paths[0]), str(paths[1]), None, **options)


def bytes_of(*models: Any) -> int:
    """Bytes of the weights of these models, shared ones once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.parameters()}
    return sum(storages.values())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "mixtral", "opt", "phi3"])
def test_parameters_are_those_of_the_model_itself(name: str) -> None:
    model: Any = make_model(name)
    source = resolve_source(model, "base", LoadOptions())
    sizes = model_sizes(source, model.config, LoadOptions())
    assert sizes.n_parameters == sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model: Any = make_model(name)
    model.set_attn_implementation("eager")
    ids = torch.arange(3, 19)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.base_model(ids, use_cache=False)
    source = resolve_source(model, "base", LoadOptions())
    sizes = model_sizes(source, model.config, LoadOptions())
    # The angles of rotary positions are a product of matrices too, which grows with neither width nor depth.
    assert 16 * sizes.block_flops(16) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_only_the_chosen_experts_of_a_token_are_counted() -> None:
    model: Any = make_model("mixtral")
    source = resolve_source(model, "base", LoadOptions())
    sizes = model_sizes(source, model.config, LoadOptions())
    one = sum(p[0].numel() for name, p in model.named_parameters() if "experts." in name and p.ndim == 3)
    dense = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2)
    assert sizes.n_block_active == dense + model.config.num_experts_per_tok * one


@pytest.mark.parametrize(("name", "backend"), [("llama", "hooked"), ("gpt2", "hooked"), ("gpt2", "bridge")])
def test_planned_weights_are_those_of_the_loaded_pair(folders: SaveFolders, name: str, backend: str) -> None:
    choice = chosen(folders(name), backend=backend)
    if backend == "hooked":
        pytest.importorskip("transformer_lens.HookedTransformer", reason="needs HookedTransformer")
    pair = choice.load()
    # A HookedTransformer has biases of zeros besides, which tell only at this size.
    assert sum(planned_pair(choice).weights("float32")) == pytest.approx(bytes_of(pair.base, pair.tuned), rel=0.02)


@pytest.mark.bridge
def test_planned_weights_of_a_bridge_are_those_of_the_loaded_pair(llamas: tuple[Path, Path]) -> None:
    choice = chosen(llamas, backend="bridge", dtype="bfloat16")
    pair = choice.load()
    # A bridge's unembedding has a bias of zeros besides.
    assert sum(planned_pair(choice).weights("bfloat16")) == pytest.approx(bytes_of(pair.base, pair.tuned), rel=0.005)


@pytest.mark.bridge
def test_an_adapter_is_planned_with_one_copy_of_the_base(llamas: tuple[Path, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    save_adapter(tmp_path / "adapter", make_model("llama"), config)
    choice = PairChoice(str(llamas[0]), None, str(tmp_path / "adapter"), backend="bridge")
    pair = choice.load()
    planned = planned_pair(choice).weights("float32")
    assert planned[1] < planned[0] / 4
    assert sum(planned) == pytest.approx(bytes_of(pair.base, pair.tuned), rel=0.005)


def test_a_gguf_file_is_planned_at_its_dequantised_size(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    models = [save_gguf(tmp_path / f"{name}.gguf", seed=seed) for seed, name in enumerate(("base", "tuned"))]
    choice = PairChoice(str(tmp_path / "base.gguf"), str(tmp_path / "tuned.gguf"), None, backend="bridge")
    assert sum(planned_pair(choice).weights("bfloat16")) == sum(2 * p.numel() for m in models for p in m.parameters())


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_the_memory_of_a_batch_is_near_that_of_living_tensors(tmp_path: Path, backend: str) -> None:
    if backend == "hooked":
        pytest.importorskip("transformer_lens.HookedTransformer", reason="needs HookedTransformer")
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = replace_sizes(make_model("llama").config, **shape)
    paths = [save_checkpoint(tmp_path / str(seed), from_config(config, seed)) for seed in (0, 1)]
    choice = chosen((paths[0], paths[1]), backend=backend)
    pair, ids = choice.load(), torch.randint(3, 128, (8, 96))
    batch_norms(pair.base, pair.tuned, ids[:1])
    with LiveBytes() as live, torch.no_grad():
        batch_norms(pair.base, pair.tuned, ids)
    planned = ids.numel() * bytes_per_token(planned_pair(choice), 4, ids.shape[1], drift=False)
    assert 0.75 <= planned / live.peak <= 1.4


def replace_sizes(config: Any, **sizes: int) -> Any:
    return type(config)(**{**config.to_dict(), "head_dim": None, "max_position_embeddings": 256, **sizes})


def test_shared_beginnings_are_planned_as_they_are_run(
    llamas: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(f"w{3 + i % 40}" for i in range(40))
    texts = [f"{words} w{50 + i} w60 w61" for i in range(8)]
    (tmp_path / "prompts.txt").write_text("\n".join(texts) + "\n")
    choice = chosen(llamas, backend="bridge")
    plan = plan_run(PlanJob(choice, prompts=PromptSource((tmp_path / "prompts.txt",))))
    pair, embedded = choice.load(), [0]
    # Not by a hook: with one on a model, nothing is shared.
    table, plain = pair.tuned.W_E.data_ptr(), torch.nn.functional.embedding

    def counting(ids: torch.Tensor, weight: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        embedded[0] += ids.numel() if weight.data_ptr() == table else 0
        return plain(ids, weight, *args, **kwargs)

    pair.measure(texts, progress=False)  # whether it may share is tried once
    monkeypatch.setattr(torch.nn.functional, "embedding", counting)
    pair.measure(texts, progress=False)
    assert plan.work.n_tokens == sum(len(pair.prompt(text).token_ids) for text in texts)
    assert plan.work.n_computed == embedded[0] < plan.work.n_tokens


MEMORY = PlanMemory(16 * GIB, 16 * GIB, GIB, 0, 4 * 2**20, GIB, 0, on_cpu=False)


def placing(memory_gib: float, n_devices: int = 1, **options: Any) -> Placing:
    device = Device("any", "cuda", round(memory_gib * GIB), 1e15, 1e14)
    return Placing(MEMORY, assumed(1000, 256), device, n_devices, 32, 64, lambda _: 3600.0, **options)


def test_a_pair_goes_to_one_device_where_it_fits() -> None:
    (way,) = placing(80, n_devices=4).ways()
    assert (way.name, way.fits, way.n_workers, way.seconds, way.device_hours) == ("one device", True, 4, 900.0, 1.0)


def test_a_pair_that_is_too_large_is_spread_or_offloaded() -> None:
    one, spread, host, disk = placing(24, n_devices=4).ways()
    assert not one.fits
    assert spread.fits
    assert (spread.n_devices, spread.n_workers) == (2, 2)
    assert host.fits
    assert disk.fits
    assert host.bytes_offloaded > 32 * GIB + GIB - 24 * GIB
    assert host.seconds < disk.seconds


@pytest.mark.parametrize("gib", [2, 3, 5, 8, 12, 20, 30, 36, 40, 100])
def test_what_fits_leaves_some_of_each_device_free(gib: int) -> None:
    found = placing(gib, n_devices=8)
    for way in found.ways():
        assert not way.fits or way.bytes_each <= found.room
        assert math.isfinite(way.seconds) == way.works


def test_too_few_devices_are_told_from_too_little_memory() -> None:
    _, spread, *_ = placing(24, n_devices=1).ways()
    assert spread.fits
    assert not spread.works


def test_nothing_fits_where_one_prompt_does_not() -> None:
    small = replace(placing(1), work=assumed(10, 4096))
    assert not any(way.fits for way in small.ways())


def test_a_narrower_dtype_takes_less_and_is_faster(llamas: tuple[Path, Path]) -> None:
    wide, narrow = (
        plan_run(PlanJob(chosen(llamas, dtype=dtype), device="h100-80gb")) for dtype in ("float32", "bfloat16")
    )
    assert narrow.memory.base * 2 == wide.memory.base
    assert narrow.ways[0].seconds < wide.ways[0].seconds
    assert wide.flops == narrow.flops


def test_drift_is_a_third_pass(llamas: tuple[Path, Path]) -> None:
    two, three = (plan_run(PlanJob(chosen(llamas), device="l4-24gb", drift=drift)) for drift in (False, True))
    assert three.flops == pytest.approx(1.5 * two.flops)
    assert three.memory.per_token > two.memory.per_token


def test_planning_loads_no_weights(llamas: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    assert plan_run(PlanJob(chosen(llamas), device="a100-40gb", n_prompts=10)).best is not None


def test_a_short_run_separates_the_cost_of_a_batch_from_that_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: 0.5 + 0.01 * 8, 10: 0.5 + 0.01 * 80}
    monkeypatch.setattr(calibration, "_batch_seconds", lambda pair, length, rows, drift: times[rows])
    monkeypatch.setattr(PairChoice, "load", lambda self: None)
    found = calibration.calibrated(PairChoice("demo", None, None), 8, 10)
    assert found.seconds_per_batch == pytest.approx(0.5)
    assert found.seconds_per_token == pytest.approx(0.01)
    assert found.seconds(3, 100) == pytest.approx(2.5)


def test_measuring_here_takes_the_place_of_the_assumed_utilisation(llamas: tuple[Path, Path]) -> None:
    plan = plan_run(PlanJob(chosen(llamas), n_prompts=20, n_tokens=16, calibrate=True))
    assert plan.utilisation is None
    assert plan.calibration is not None
    assert plan.ways[0].seconds >= plan.work.n_computed * plan.calibration.seconds_per_token > 0


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = run(["plan", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def naming(paths: tuple[Path, Path]) -> tuple[object, ...]:
    return "--base", paths[0], "--tuned", paths[1], "--backend", "bridge"


def test_the_table_says_how_it_fits(llamas: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, *naming(llamas), "--device", "h100-80gb", "--n", 1_000_000)
    assert status == 0
    assert "one device" in out
    assert "1,000,000 prompts" in out
    assert "40%" in out


def test_json_holds_what_python_gives(llamas: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(capsys, *naming(llamas), "--device", "h100-80gb", "--n", 5000, "--json")
    record = json.loads(out[out.index("{") :])
    plan = plan_run(PlanJob(chosen(llamas, backend="bridge"), device="h100-80gb", n_prompts=5000))
    assert status == 0
    assert record["flops"] == plan.flops
    assert record["memory"]["base"] == plan.memory.base
    assert record["best"] == "one device"


@pytest.mark.parametrize("name", KNOWN)
def test_a_narrow_dtype_is_at_least_as_fast_on_every_known_device(name: str) -> None:
    device = KNOWN[name]
    assert device.peak("bfloat16") == device.peak("float16") >= device.peak("float32") > device.peak("float64") > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "h100"], "h100-80gb"),
        (["--n", "0"], "--n"),
        (["--devices", "0"], "--devices"),
        (["--prompts", "no such.txt"], "no such.txt"),
        (["--device", "l4-24gb", "--measure"], "--measure"),
    ],
)
def test_bad_usage_is_one_line(
    llamas: tuple[Path, Path], capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    status, out, err = told(capsys, *naming(llamas), *options)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_config_that_is_not_of_its_weights_is_refused(llamas: tuple[Path, Path], tmp_path: Path) -> None:
    """A config.json without sizes gets transformers' own, those of a model of 7 billion parameters."""
    for name, path in zip(("base", "tuned"), llamas, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())
        (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(LoadError, match=r"its config describes .* parameters, and its files have"):
        plan_run(PlanJob(PairChoice(str(tmp_path / "base"), str(tmp_path / "tuned"), None), device="l4-24gb"))


def test_a_config_without_sizes_is_refused() -> None:
    model: Any = make_model("llama")
    vars(model.config)["hidden_size"] = None  # transformers' own config refuses it; that of a stranger's code may not
    source = resolve_source(model, "base", LoadOptions())
    with pytest.raises(LoadError, match="its config has no d_model"):
        model_sizes(source, model.config, LoadOptions())


@pytest.mark.parametrize("kind", ["--tuned", "--adapter"])
def test_a_hub_that_does_not_answer_is_one_line(
    llamas: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, out, err = told(capsys, "--base", llamas[0], kind, "nobody/no-such-model", "--backend", "bridge")
    assert status != 0
    assert out == ""
    assert "HF_HUB_OFFLINE" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_planned_memory_is_near_what_a_process_adds(tmp_path: Path) -> None:
    case = replace(plan_benchmark.CASES[0], n_prompts=8, n_tokens=64)
    paths = plan_benchmark.write_pair(case, tmp_path)
    choice = PairChoice(paths["base"], paths["tuned"], None, backend="bridge")
    plan = plan_run(PlanJob(choice, n_prompts=8, n_tokens=64))
    work = {"pair": paths, "backend": "bridge", "dtype": "float32", "n": 8, "tokens": 64}
    found = plan_benchmark.child("benchmarks.plan", "--child", json.dumps(work))
    assert 0.6 <= plan.ways[0].bytes_each / (found["peak"] - found["libraries"]) <= 1.6


@pytest.mark.slow
def test_the_benchmark_of_accelerators_runs_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Every section runs; `torch.compile` may fail where there is no compiler, and is left out."""
    for section in (section for section in gpu.SECTIONS if section is not gpu.compiled):
        found = gpu.Run("cpu", tiny=True, seconds=1.0, peak=None)
        section(found)
        assert found.failures == []
    out = capsys.readouterr().out
    assert "batches of 12 rows were cut to 3" in out
    assert "cached and uncached texts are equal: True" in out


def test_prompts_are_counted_in_the_tokens_of_the_pair(llamas: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("w3 w4 w5\nw6\n")
    plan = plan_run(PlanJob(chosen(llamas), prompts=PromptSource((tmp_path / "prompts.txt",)), device="l4-24gb"))
    tokens = [len(make_tokenizer()(text)["input_ids"]) for text in ("w3 w4 w5", "w6")]
    assert (plan.work.n_prompts, plan.work.n_sampled, plan.work.n_tokens) == (2, 2, sum(tokens))
    assert plan.work.longest == max(tokens)
