"""Pairs whose weights accelerate keeps elsewhere give the numbers of resident ones, bit for bit; or are refused."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from accelerate import cpu_offload, disk_offload

from tests.architectures import make_ids, make_pair, make_tokenizer
from tests.checkpoints import save_adapter, save_checkpoint
from tuco_lens import InputError, LoadError, ModelPair
from tuco_lens.cli.app import run
from tuco_lens.models.loading import BackendNotice
from tuco_lens.models.offload import is_offloaded, require_same_devices, stored_bytes

pytestmark = [pytest.mark.bridge, pytest.mark.usefixtures("one_thread")]

ALL: Any = {"": "disk"}
PART: Any = {"model.layers.0": "cpu", "model.layers.1": "cpu", "": "disk"}
Folders = tuple[Path, Path]


def checkpoints(folder: Path, name: str = "llama") -> Folders:
    """A base and a tuned model on disk."""
    models = make_pair(name)
    return tuple(save_checkpoint(folder / role, model) for role, model in zip(("base", "tuned"), models, strict=True))  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return checkpoints(tmp_path_factory.mktemp("llamas"))


@pytest.fixture(scope="module")
def resident(llamas: Folders) -> ModelPair:
    return ModelPair.from_pretrained(*llamas, backend="bridge")


def prompts() -> list[list[int]]:
    """Three prompts, one of them shorter."""
    return [*make_ids(2).tolist(), make_ids(1, seed=1)[0, :9].tolist()]


def everything(pair: ModelPair) -> list[torch.Tensor]:
    """What `measure`, `run_with_cache`, `scaled` and `generate` give, tensor by tensor."""
    found: list[torch.Tensor] = []
    for item in pair.measure(prompts(), drift=True, progress=False):
        found += [value for _, value in sorted(vars(item.maps).items())]
    logits, cache = pair.run_with_cache(prompts()[0])
    found += [logits, *(cache[key] for key in sorted(cache.vectors))]
    with pair.scaled(0.6), torch.no_grad():
        found.append(pair.tuned(make_ids()))
    generation: Any = pair.generate(prompts()[2], alpha=0.6, max_new_tokens=5)
    return [*found, torch.tensor(generation.token_ids), torch.as_tensor(generation.tuco)]


def assert_same(one: ModelPair, other: ModelPair) -> None:
    pairs = list(zip(everything(one), everything(other), strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("where", [ALL, PART], ids=["all on disk", "a part on disk"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_an_offloaded_pair_gives_the_numbers_of_the_resident_one(
    name: str, where: dict[str, Any], tmp_path: Path
) -> None:
    folders = checkpoints(tmp_path, name)
    offloaded = ModelPair.from_pretrained(*folders, device_map=where, offload_folder=tmp_path / "offload")
    assert is_offloaded(offloaded.base)
    assert is_offloaded(offloaded.tuned)
    assert offloaded.device == torch.device("cpu")
    assert_same(offloaded, ModelPair.from_pretrained(*folders, backend="bridge"))


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "mistral", "gptj", "gpt_neo", "opt", "phi", "olmo2"])
def test_other_architectures_measure_offloaded_what_they_measure_resident(name: str, tmp_path: Path) -> None:
    folders = checkpoints(tmp_path, name)
    offloaded = ModelPair.from_pretrained(*folders, device_map=ALL)
    resident = ModelPair.from_pretrained(*folders, backend="bridge")
    ours, theirs = (pair.measure(prompts(), progress=False) for pair in (offloaded, resident))
    assert torch.equal(ours.tuco, theirs.tuco)
    assert ours.tuco.min() > 0


def test_auto_keeps_in_memory_what_fits_and_the_rest_on_disk(llamas: Folders, resident: ModelPair) -> None:
    limit = 700 * 1024  # of 0.9 MB
    pair = ModelPair.from_pretrained(*llamas, device_map="auto", max_memory={"cpu": limit})
    models = [pair.base.original_model, pair.tuned.original_model]
    kept = [{name for name, weight in model.named_parameters() if not weight.is_meta} for model in models]
    assert kept[0] == kept[1]
    inside = sum(weight.nbytes for model in models for weight in model.parameters() if not weight.is_meta)
    assert 0.2 * limit < inside <= limit
    assert is_offloaded(pair.tuned)
    assert_same(pair, resident)


def test_with_room_for_everything_nothing_is_offloaded(llamas: Folders) -> None:
    pair = ModelPair.from_pretrained(*llamas, device_map="auto")
    assert not is_offloaded(pair.base)
    assert not is_offloaded(pair.tuned)


def put_on_disk(folder: Path, model: Any) -> Any:
    return disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def put_on_cpu(_folder: Path, model: Any) -> Any:
    return cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("put", [put_on_disk, put_on_cpu])
def test_models_that_accelerate_has_dispatched_are_taken_as_given(
    put: Callable[[Path, Any], Any], tmp_path: Path
) -> None:
    models = [put(tmp_path / name, model) for name, model in zip("bt", make_pair("llama"), strict=True)]
    with torch.no_grad():
        before = [model(make_ids()).logits for model in models]
    with pytest.warns(BackendNotice, match="device map"):
        pair = ModelPair.from_pretrained(*models, tokenizer=make_tokenizer())
    assert_same(pair, ModelPair.from_pretrained(*make_pair("llama"), backend="bridge", tokenizer=make_tokenizer()))
    with torch.no_grad():
        assert all(torch.equal(model(make_ids()).logits, old) for model, old in zip(models, before, strict=True))
    assert all(weight.is_meta for model in models for weight in model.parameters())


def test_what_transformers_has_dispatched_is_taken_as_given(
    llamas: Folders, resident: ModelPair, tmp_path: Path
) -> None:
    load = hf.AutoModelForCausalLM.from_pretrained
    models = [load(folder, device_map=ALL, dtype=torch.float32) for folder in llamas]
    pair = ModelPair.from_pretrained(*models, backend="bridge", tokenizer=make_tokenizer())
    assert_same(pair, resident)
    assert models[0].hf_device_map == ALL
    with pytest.raises(LoadError, match="dispatched by accelerate, and cannot be moved"):
        ModelPair.from_pretrained(*models, backend="bridge", dtype="bfloat16", tokenizer=make_tokenizer())


def test_weights_are_counted_wherever_they_lie(llamas: Folders, resident: ModelPair) -> None:
    offloaded = ModelPair.from_pretrained(*llamas, device_map=ALL)
    for ours, theirs in ((offloaded.base, resident.base), (offloaded.tuned, resident.tuned)):
        assert sum(stored_bytes(ours).values()) == sum(stored_bytes(theirs).values())
    line = next(line for line in repr(offloaded).splitlines() if "weights" in line)
    assert line in repr(resident)


def test_the_offload_folder_holds_what_had_to_be_written_and_is_emptied_with_the_pair(tmp_path: Path) -> None:
    folder = tmp_path / "offload"
    pair = ModelPair.from_pretrained(*checkpoints(tmp_path, "mixtral"), device_map=ALL, offload_folder=folder)
    assert len(list(folder.iterdir())) == 2
    assert list(folder.rglob("*experts*.safetensors"))
    del pair
    gc.collect()
    assert not list(folder.iterdir())


def test_nothing_is_written_where_the_checkpoint_can_be_read(llamas: Folders, tmp_path: Path) -> None:
    pair = ModelPair.from_pretrained(*llamas, device_map=ALL, offload_folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert is_offloaded(pair.tuned)


@pytest.fixture(scope="module")
def adapter(llamas: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, make_pair("llama")[0], peft.LoraConfig(r=4, target_modules="all-linear"))
    return folder


@pytest.mark.parametrize("where", [ALL, PART], ids=["all on disk", "a part on disk"])
def test_an_adapter_on_an_offloaded_base_gives_the_numbers_of_the_resident_pair(
    llamas: Folders, adapter: Path, where: dict[str, Any]
) -> None:
    pair = ModelPair.from_pretrained(llamas[0], adapter=adapter, device_map=where)
    assert_same(pair, ModelPair.from_pretrained(llamas[0], adapter=adapter, backend="bridge"))
    base, tuned = stored_bytes(pair.base), stored_bytes(pair.tuned)
    assert sum((base | tuned).values()) < 1.2 * sum(base.values())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True}, "LORA with use_dora reads the base model's weights"),
        ({"modules_to_save": ["lm_head"]}, "replaces lm_head.weight as a whole"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices reads"),
    ],
)
def test_an_adapter_that_needs_offloaded_weights_is_refused(
    llamas: Folders, tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], **settings)
    save_adapter(tmp_path, make_pair("llama")[0], config)
    with pytest.raises(LoadError, match=why):
        ModelPair.from_pretrained(llamas[0], adapter=tmp_path, device_map=ALL)


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox"])
def test_joint_projections_are_refused_offloaded(name: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"TransformerLens takes \S+ apart, and cannot where"):
        ModelPair.from_pretrained(*checkpoints(tmp_path, name), device_map=ALL)


def test_a_hooked_transformer_takes_no_device_map(llamas: Folders) -> None:
    pytest.importorskip("transformer_lens.HookedTransformer", reason="this TransformerLens has no HookedTransformer")
    with pytest.raises(LoadError, match=r"a HookedTransformer copies all weights .* give backend='bridge' or 'auto'"):
        ModelPair.from_pretrained(*llamas, backend="hooked", device_map="auto")


def test_weights_on_the_meta_device_that_nobody_has_are_refused() -> None:
    models = [model.to("meta") for model in make_pair("llama")]
    with pytest.raises(LoadError, match="on the meta device, and accelerate has no hook there"):
        ModelPair.from_pretrained(*models, tokenizer=make_tokenizer())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device_map": "everywhere"}, "neither 'auto' nor a mapping"),
        ({"device_map": {}}, "neither 'auto' nor a mapping"),
        ({"device_map": {"": None}}, "None is no device"),
        ({"device_map": {"": "hard drive"}}, "cannot use the device 'hard drive'"),
        ({"device_map": {"": "cuda:7"}}, "cannot use the device 'cuda:7'"),
        ({"device_map": {"model.layers": "disk"}}, "no place for model.embed_tokens.weight"),
        ({"device_map": {"": "cpu", "model.layer": "disk"}}, "no module 'model.layer'"),
        ({"device_map": "auto", "device": "cpu"}, "device='cpu' is given too"),
        ({"device_map": ALL, "max_memory": {"cpu": "1GiB"}}, "says where each module goes"),
        ({"max_memory": {"cpu": "1GiB"}}, "max_memory: it goes with a device map"),
        ({"offload_folder": "somewhere"}, "offload_folder: it goes with a device map"),
        ({"device_map": "auto", "max_memory": "8GiB"}, "no mapping from devices to sizes"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "'much' is no size"),
        ({"device_map": "auto", "max_memory": {"cpu": "-1GiB"}}, "'-1GiB' is no size"),
        ({"device_map": "auto", "max_memory": {"cpu": -1}}, "-1 is no size"),
        ({"device_map": "auto", "max_memory": {"cpu": True}}, "True is no size"),
        ({"device_map": "auto", "max_memory": {"ram": "1GiB"}}, "cannot use the device 'ram'"),
        (
            {"device_map": "auto", "max_memory": {"cpu": "100KiB"}},
            "no device has room for one layer: model.layers.0",
        ),
        ({"device_map": "auto", "max_memory": {"disk": "1GiB"}}, "no device has room for one layer"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused_in_one_line(
    llamas: Folders, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(LoadError, match=why) as caught:
        ModelPair.from_pretrained(*llamas, **options)
    assert "\n" not in str(caught.value)


def test_loaded_models_take_no_device_map(llamas: Folders) -> None:
    with pytest.raises(LoadError, match="the tuned model is given loaded, and stays where it is"):
        ModelPair.from_pretrained(*make_pair("llama"), tokenizer=make_tokenizer(), device_map="auto")


def test_an_offload_folder_is_asked_for_where_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"have to be written anew.*give offload_folder="):
        ModelPair.from_pretrained(*checkpoints(tmp_path, "mixtral"), device_map=ALL)


def test_an_offload_folder_that_cannot_be_written_to_is_refused(llamas: Folders, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(LoadError, match="cannot write to the offload folder"):
        ModelPair.from_pretrained(*llamas, device_map=ALL, offload_folder=file / "folder")


@pytest.mark.parametrize("of_safetensors", [False, True])
def test_an_offload_folder_that_is_full_is_one_line_and_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, of_safetensors: bool
) -> None:
    from safetensors import SafetensorError
    from transformers.integrations import accelerate as writer

    def full(*_: Any, **__: Any) -> None:
        if of_safetensors:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "save_file", full)
    folder = tmp_path / "offload"
    with pytest.raises(LoadError, match=r"the offload folder '.*' is full; give an offload_folder") as caught:
        ModelPair.from_pretrained(*checkpoints(tmp_path, "mixtral"), device_map=ALL, offload_folder=folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_what_reads_or_replaces_weights_is_refused(llamas: Folders) -> None:
    pair = ModelPair.from_pretrained(*llamas, device_map=ALL)
    with pytest.raises(InputError, match="the pair's device map keeps weights elsewhere"):
        pair.overview(pair.measure(prompts(), progress=False))
    with (
        pytest.raises(InputError, match="the pair's device map keeps weights elsewhere"),
        pair.scaled(0.5, method="weights"),
    ):
        pair.tuned(make_ids())


def test_where_tuco_comes_from_is_the_same_offloaded(llamas: Folders, resident: ModelPair) -> None:
    offloaded = ModelPair.from_pretrained(*llamas, device_map=ALL)
    ours, theirs = (pair.logit_lens(prompts()[0]) for pair in (offloaded, resident))
    assert repr(ours) == repr(theirs)
    ours, theirs = (pair.components(prompts()[0], heads=True) for pair in (offloaded, resident))
    assert repr(ours) == repr(theirs)


class Hook:
    """As accelerate's, of a block whose weights are elsewhere."""

    offload, place_submodules = True, False

    def __init__(self, device: int | str) -> None:
        self.execution_device = device


def block(device: int | str) -> Any:
    module: Any = torch.nn.Linear(2, 2, device="meta")
    module._hf_hook = Hook(device)
    return module


def test_two_blocks_of_a_layer_that_compute_on_different_devices_are_refused() -> None:
    require_same_devices([block("cpu"), block("cuda:1")], [block("cpu"), block("cuda:1")], "what")
    with pytest.raises(LoadError, match="layer 1 computes on cuda:1 in the base model and on cuda:0 in the tuned"):
        require_same_devices([block("cpu"), block("cuda:1")], [block("cpu"), block("cuda:0")], "what")


def test_the_command_line_spreads_a_pair(llamas: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts_file = tmp_path / "prompts.txt"
    prompts_file.write_text("w3 w4 w5\nw9 w8\n")
    pair = ["--base", str(llamas[0]), "--tuned", str(llamas[1]), "--backend", "bridge"]
    command = ["measure", "--prompts", str(prompts_file), *pair, "--out"]
    spread = ["--device-map", "auto", "--max-memory", "cpu=700KiB", "--offload", str(tmp_path / "offload")]
    assert run([*command, str(tmp_path / "spread.csv"), *spread]) == 0
    assert run([*command, str(tmp_path / "resident.csv")]) == 0
    assert (tmp_path / "spread.csv").read_text() == (tmp_path / "resident.csv").read_text()
    capsys.readouterr()
    for wrong in (["--max-memory", "cpu"], ["--device-map", "everywhere"], ["--device-map", "auto", "--device", "cpu"]):
        assert run([*command, str(tmp_path / "none.csv"), *wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
    assert not (tmp_path / "none.csv").exists()


PEAK = """
import sys
import tuco_lens as tl
sys.path.insert(0, ".")
from benchmarks._live_bytes import peak_resident

warm = tl.ModelPair.demo(backend="bridge")
warm.measure([[5] * 16], progress=False)
before = peak_resident()
where = {"device_map": {"": "disk"}} if sys.argv[3] == "offloaded" else {"backend": "bridge", "device": "cpu"}
pair = tl.ModelPair.from_pretrained(*sys.argv[1:3], **where)
print(pair.measure([list(range(3, 19))], progress=False).tuco.item().hex(), peak_resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted in other units elsewhere")
def test_a_pair_is_loaded_and_measured_in_memory_that_holds_less_than_half_of_it(tmp_path: Path) -> None:
    sizes: Any = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    folders = [tmp_path / name for name in ("base", "tuned")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        model: Any = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, vocab_size=128, max_position_embeddings=64))
        model.save_pretrained(folder, max_shard_size="20MB")
        make_tokenizer().save_pretrained(folder)
    size = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))

    def measured(kind: str) -> tuple[str, int]:
        command = [sys.executable, "-c", PEAK, *map(str, folders), kind]
        # glibc keeps what large tensors leave behind, unless it is told to ask the system for each of them.
        memory = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **memory})
        value, peak = run.stdout.split()
        return value, int(peak)

    (value, peak), (known, whole) = measured("offloaded"), measured("resident")
    assert value == known
    assert float.fromhex(value) > 0
    assert peak < 0.4 * size
    assert whole > 0.8 * size
