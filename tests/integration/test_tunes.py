"""Many tunes of one base: each as a pair of its own would measure it, whatever comes with it, killed or not."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from scipy.stats import ttest_rel

import tuco_lens as tl
from tests.architectures import make_ids, make_pair, make_tokenizer
from tests.checkpoints import save_adapter, save_checkpoint
from tests.oracle import oracle
from tests.pairs import tiny_llama, tuned_copy
from tuco_lens import InputError, LoadError, ModelPair, OutputError
from tuco_lens.models import base_model, sources
from tuco_lens.models.loading import AdapterNotice
from tuco_lens.tunes.checkpoints import find_checkpoints

pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore::tuco_lens.models.loading.AdapterNotice")]

PROMPTS: dict[str, list[Any]] = {"long": make_ids(2).tolist(), "short": [[5, 6, 7], [9, 3, 40, 8], [11, 12]]}
LISTED = [prompt for group in PROMPTS.values() for prompt in group]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters, two whole tunes (one in shards), and something that is none."""
    folder = tmp_path_factory.mktemp("run")
    base, tuned = make_pair("llama")
    save_checkpoint(folder / "base", base)
    save_checkpoint(folder / "whole", tuned)
    tuned.save_pretrained(folder / "sharded", max_shard_size="100KB")
    make_tokenizer().save_pretrained(folder / "sharded")
    save_adapter(folder / "lora", base, LoraConfig(r=4, target_modules="all-linear"))
    save_adapter(folder / "attention", base, LoraConfig(r=2, target_modules=["q_proj"]))
    (folder / "nothing").mkdir()
    return folder


def tunes(run: Path, *names: str) -> dict[str, Path]:
    return {name: run / name for name in names}


def alone(run: Path, name: str, **options: Any) -> tl.Measurement:
    kind = "adapter" if (run / name / "adapter_config.json").exists() else "tuned"
    pair = ModelPair.from_pretrained(run / "base", **{kind: run / name}, backend="bridge")
    return pair.measure(LISTED, progress=False, **options)


def test_each_tune_measures_as_in_a_pair_of_its_own_and_as_plain_transformers_says(run: Path) -> None:
    names = ("lora", "whole", "attention", "sharded")
    found = tl.compare(run / "base", tunes(run, *names), PROMPTS, keep="maps")
    assert found.names == names
    assert found.groups == ("long",) * 2 + ("short",) * 3
    for name in names:
        ours, theirs = found.measurements[name], alone(run, name)
        torch.testing.assert_close(ours.tuco, theirs.tuco, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.layer_token(0), theirs.layer_token(0), rtol=0, atol=1e-6)
        assert ours.settings.tuned == str(run / name)
        assert ours.settings.base == str(run / "base")
    base, tuned = make_pair("llama")
    plain = oracle(base, tuned, make_ids(2))
    assert found.tuco[1, :2] == pytest.approx(plain.tuco().numpy(), abs=1e-6)
    assert (found.tuco[1] == found.tuco[3]).all()  # one model, whole and in shards


def test_the_order_of_tunes_does_not_matter(run: Path) -> None:
    one = tl.compare(run / "base", tunes(run, "lora", "whole", "attention"), PROMPTS)
    other = tl.compare(run / "base", tunes(run, "attention", "lora", "whole"), PROMPTS)
    for name in one.names:
        assert torch.equal(one.measurements[name].tuco, other.measurements[name].tuco)


def test_the_base_is_read_once_and_one_tune_is_in_memory_at_a_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = sources._read_model

    def counting(source: Any, *rest: Any, **more: Any) -> Any:
        read.append(source.name)
        return real(source, *rest, **more)

    monkeypatch.setattr(sources, "_read_model", counting)
    alive: list[weakref.ref[Any]] = []
    most = 0
    measure = ModelPair.measure

    def counted(pair: ModelPair, *arguments: Any, **options: Any) -> tl.Measurement:
        nonlocal most
        alive.append(weakref.ref(pair.tuned))
        most = max(most, sum(each() is not None for each in alive))
        return measure(pair, *arguments, **options)

    monkeypatch.setattr(ModelPair, "measure", counted)
    names = ("lora", "whole", "attention", "sharded")
    tl.compare(run / "base", tunes(run, *names), PROMPTS)
    assert read.count(str(run / "base")) == 1
    assert read == [str(run / "base"), str(run / "whole"), str(run / "sharded")]
    assert most == 1
    gc.collect()
    assert not any(each() is not None for each in alive)


def test_a_tune_that_cannot_be_loaded_is_named_or_left_out_and_counted(run: Path) -> None:
    given = tunes(run, "lora", "nothing", "absent")
    with pytest.raises(LoadError, match=r"^tune 'nothing': .*empty.*; ") as caught:
        tl.compare(run / "base", given, PROMPTS)
    assert "\n" not in str(caught.value)
    found = tl.compare(run / "base", given, PROMPTS, on_error="skip")
    assert found.names == ("lora",)
    assert set(found.left_out) == {"nothing", "absent"}
    assert "2 left out: nothing, absent." in found.summary()
    with pytest.raises(InputError, match="no tune can be measured"):
        tl.compare(run / "base", tunes(run, "nothing"), PROMPTS, on_error="skip")


def test_another_model_is_refused_before_anything_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "other", tiny_llama())
    measured: list[Any] = []
    monkeypatch.setattr(ModelPair, "measure", lambda *a, **k: measured.append(a))
    with pytest.raises(tl.PairMismatchError, match=r"^tune 'other': "):
        tl.compare(run / "base", {**tunes(run, "lora"), "other": tmp_path / "other"}, PROMPTS)
    assert measured == []


def test_other_tokens_are_refused_unless_one_tokenizer_is_named(run: Path, tmp_path: Path) -> None:
    _, tuned = make_pair("llama")
    tuned.save_pretrained(tmp_path / "other")
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None  # writes no BOS
    tokenizer.save_pretrained(tmp_path / "other")
    given = {**tunes(run, "lora"), "other": tmp_path / "other"}
    with pytest.raises(InputError, match=r"tune 'other': .*other tokens of prompt 0.*tokenizer="):
        tl.compare(run / "base", given, ["w5 w6"])
    found = tl.compare(run / "base", given, ["w5 w6"], tokenizer=run / "base")
    assert {item.prompt.token_ids for each in found.measurements.values() for item in each} == {(1, 5, 6)}


def test_tunes_without_a_tokenizer_take_the_one_that_is_named(run: Path, tmp_path: Path) -> None:
    base, _ = make_pair("llama")
    base.save_pretrained(tmp_path / "base")
    steps = [shutil.copytree(run / "lora", tmp_path / "checkpoint-4")]
    with pytest.raises(LoadError, match=r"tune 0: cannot find a tokenizer: there is none with '.*base'; .*tokenizer="):
        tl.trajectory(tmp_path / "base", steps, PROMPTS)
    with pytest.raises(LoadError, match=r"there is none with '.*lora' nor '.*base'; give one as tokenizer="):
        tl.compare(tmp_path / "base", tunes(run, "lora"), PROMPTS)
    expected = alone(run, "lora").tuco.tolist()
    named: Any = make_tokenizer()
    found = tl.trajectory(tmp_path / "base", steps, PROMPTS, tokenizer=named)
    assert found.to_frame()["tuco"].tolist() == pytest.approx([0.0] * len(LISTED) + expected, abs=1e-6)
    found = tl.compare(tmp_path / "base", tunes(run, "lora"), PROMPTS, tokenizer=named)
    assert found.to_frame()["tuco"].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_misspelt_option_raises_and_so_does_a_group_without_prompts(run: Path) -> None:
    with pytest.raises(TypeError, match="no option 'chatt'"):
        tl.compare(run / "base", tunes(run, "lora"), PROMPTS, chatt=True)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="'b' has no prompts"):
        tl.compare(run / "base", tunes(run, "lora"), {"a": ["w5"], "b": []})
    with pytest.raises(InputError, match="no tunes"):
        tl.compare(run / "base", {}, PROMPTS)
    with pytest.raises(InputError, match="'stop', 'skip'"):
        tl.compare(run / "base", tunes(run, "lora"), PROMPTS, on_error="go on")  # pyright: ignore[reportArgumentType]


def test_differences_are_paired_tests_corrected_together(run: Path) -> None:
    found = tl.compare(run / "base", tunes(run, "lora", "whole", "sharded"), PROMPTS)
    frame = found.differences
    assert len(frame) == 3 * 3  # three pairs of tunes; long, short and all
    for row in frame.to_dict("records"):
        chosen = [row["group"] in (group, "all") for group in found.groups]
        one, other = (found.tuco[found.names.index(row[name])][chosen] for name in ("first", "second"))
        assert row["n"] == sum(chosen)
        assert row["difference"] == pytest.approx((one - other).mean())
        if {row["first"], row["second"]} == {"whole", "sharded"}:
            assert (row["p"], row["verdict"]) == (1.0, "not told apart")
        else:
            assert row["p"] == pytest.approx(ttest_rel(one, other).pvalue)
    order = frame["p"].to_numpy().argsort()
    stepped = np.maximum.accumulate(frame["p"].to_numpy()[order] * np.arange(len(frame), 0, -1)).clip(max=1)
    assert frame["p_holm"].to_numpy()[order] == pytest.approx(stepped)
    agreement = found.agreement.set_index(["first", "second", "group"])
    assert agreement.loc[("whole", "sharded", "all"), "rho"] == pytest.approx(1)
    assert found.only("long", tunes=["whole"]).tuco.shape == (1, 2)
    with pytest.raises(InputError, match="no group 'longer'"):
        found.only("longer")


def test_the_folder_has_a_row_per_tune_and_prompt_and_reads_back(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = tl.compare(run / "base", tunes(run, "lora", "whole"), PROMPTS, keep="maps", drift=True, out=out)
    again = tl.TuneComparison.load(out)
    assert again.to_frame().equals(found.to_frame())
    assert again.settings == found.settings
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["tune"], row["group"], row["index"]) for row in rows[:2]] == [("lora", "long", 0), ("lora", "long", 1)]
    assert [row["tuco"] for row in rows] == found.to_frame()["tuco"].tolist()
    assert rows[0]["output_co"] == found.measurements["lora"][0].output_co
    assert again.map_difference("lora", "whole", 0).values.shape == (3, 24)
    for form in ("csv", "parquet"):
        tl.compare(run / "base", tunes(run, "lora"), PROMPTS, out=tmp_path / form, rows=form)
    table = pd.read_parquet(tmp_path / "parquet" / "rows.parquet")
    assert table["tuco"].tolist() == pd.read_csv(tmp_path / "csv" / "rows.csv")["tuco"].tolist()
    with pytest.raises(OutputError, match="there already"):
        tl.compare(run / "base", tunes(run, "lora"), PROMPTS, out=out)
    with pytest.raises(OutputError, match="of another run"):
        tl.compare(run / "base", tunes(run, "lora"), PROMPTS, out=out, resume=True)
    file = next((out / "measurements").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="is not what was measured"):
        tl.TuneComparison.load(out)
    foreign = out / "measurements" / "notes.txt"
    foreign.write_text("kept")
    tl.compare(run / "base", tunes(run, "whole"), PROMPTS, out=out, overwrite=True)
    (measured,) = json.loads((out / "comparison.json").read_text())["tunes"].values()
    left = {path.name for path in (out / "measurements").iterdir()}
    assert left == {measured["file"], foreign.name}, "what no index names any more is gone, what is another's is not"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 adapters whose change grows with the step, with a trainer's state in the last."""
    folder = tmp_path_factory.mktemp("training")
    base, _ = make_pair("llama")
    save_checkpoint(folder / "base", base)
    save_adapter(folder / "first", base, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"]))
    weights = load_file(folder / "first" / "adapter_model.safetensors")
    for step in range(5, 105, 5):
        made = folder / "run" / f"checkpoint-{step}"
        made.mkdir(parents=True)
        (made / "adapter_config.json").write_bytes((folder / "first" / "adapter_config.json").read_bytes())
        grown = {name: tensor * (step / 50 if "lora_B" in name else 1) for name, tensor in weights.items()}
        save_file(grown, made / "adapter_model.safetensors")
    log = [{"step": 10 * i, "loss": 3.0 - i / 10, "learning_rate": 1e-3, "epoch": 0.1} for i in range(1, 11)]
    state = {"global_step": 100, "log_history": [*log, {"step": 100, "train_runtime": float("nan"), "note": "x"}]}
    (folder / "run" / "checkpoint-100" / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_a_trajectory_begins_at_exactly_0_and_goes_by_step_and_not_by_name(checkpoints: Path) -> None:
    found = tl.trajectory(checkpoints / "base", checkpoints / "run", PROMPTS)
    assert found.steps == (0, *range(5, 105, 5))
    assert (found.tuco[0] == 0).all()
    assert (np.diff(found.tuco.mean(axis=1)) > 0).all()
    pair = ModelPair.from_pretrained(checkpoints / "base", adapter=checkpoints / "run" / "checkpoint-10")
    assert found.tuco[2] == pytest.approx(pair.measure(LISTED, progress=False).tuco.numpy(), abs=1e-6)
    assert found.log[0] == {"step": 10, "loss": 2.9, "learning_rate": 1e-3, "epoch": 0.1}
    assert found.log[-1] == {"step": 100}
    assert found.curve().figure().data
    assert found.layer_grid().z.shape == (3, 21)
    movers = found.movers
    assert movers["half_step"].is_monotonic_increasing
    for row in movers.to_dict("records"):
        column = found.tuco[:, row["index"]]
        at = np.interp(row["half_step"], found.steps, column)
        assert at == pytest.approx(column[-1] / 2)
    told = found.compared(5, 100).differences
    assert (told["difference"] < 0).all()


def test_checkpoints_are_found_by_folder_pattern_or_list_and_ordered_by_their_state(
    checkpoints: Path, tmp_path: Path
) -> None:
    run = checkpoints / "run"
    by_folder = find_checkpoints(run)
    assert by_folder == find_checkpoints(str(run / "checkpoint-*")) == find_checkpoints(sorted(run.iterdir()))
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no trainer_state\.json, and no number ends its name"):
        find_checkpoints(tmp_path / "last")
    (tmp_path / "last" / "trainer_state.json").write_text('{"global_step": 7}')
    assert [each.step for each in find_checkpoints(tmp_path / "last")] == [7]
    with pytest.raises(InputError, match="both of step 5"):
        find_checkpoints([run, run / "checkpoint-5"])
    for place in (tmp_path, tmp_path / "absent", str(tmp_path / "*.txt")):
        with pytest.raises(InputError, match="no checkpoints at"):
            find_checkpoints(place)
    with pytest.raises(LoadError, match="give one of its checkpoints, checkpoint-5"):
        ModelPair.from_pretrained(checkpoints / "base", adapter=run)


CHILD = """
import sys
import tuco_lens as tl
from pathlib import Path
from tests.integration.test_tunes import PROMPTS
tl.trajectory(Path(sys.argv[1]) / "base", Path(sys.argv[1]) / "run", PROMPTS, out=sys.argv[2], resume=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trajectory_killed_and_resumed_is_the_same_bytes(checkpoints: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(checkpoints), str(out)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert start(whole).wait() == 0
    n_killed = 0
    for n_files in (5, 15):
        process = start(out)
        while process.poll() is None and len(list((out / "measurements").glob("*.safetensors"))) < n_files:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
        assert not (out / "trajectory.json").exists()
    assert n_killed == 2
    assert start(out).wait() == 0
    names = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == names
    assert len(names) == 21 + 2
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


PEAK = """
import sys
import tuco_lens as tl
from benchmarks._live_bytes import peak_resident
from tuco_lens import ModelPair
folder, names = sys.argv[1], sys.argv[2:]
ids = [[5, 6, 7, 8]]
if names:
    tl.compare(f"{folder}/base", {name: f"{folder}/{name}" for name in names}, ids)
else:
    ModelPair.from_pretrained(f"{folder}/base", adapter=f"{folder}/a").measure(ids)
print(peak_resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of a process from /proc")
def test_the_peak_does_not_grow_with_the_number_of_adapters(tmp_path: Path) -> None:
    base = tiny_llama(n_layers=4, d_model=1024)  # 140 MB
    size = sum(parameter.nbytes for parameter in base.parameters())
    save_checkpoint(tmp_path / "base", base)
    names = [*"abcdef"]
    for name in names:
        save_adapter(tmp_path / name, base, LoraConfig(r=8, target_modules="all-linear"))

    def peak(*chosen: str) -> int:
        command = [sys.executable, "-W", "ignore", "-c", PEAK, str(tmp_path), *chosen]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    one_pair, many = peak(), peak(*names)
    assert many < one_pair + 0.15 * size, (one_pair / 2**20, many / 2**20, size / 2**20)


def test_adapters_and_models_are_told_by_their_files_and_not_by_their_names(run: Path) -> None:
    assert base_model.kind_of(run / "lora") == "adapter"
    assert base_model.kind_of(str(run / "whole")) == "model"
    assert base_model.kind_of(tuned_copy(tiny_llama())) == "model"
    with pytest.raises(LoadError):
        base_model.kind_of("no such/hub/id")


def test_an_adapter_of_another_base_says_so(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "lora", tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/another-base"
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.warns(AdapterNotice, match="was trained on 'somebody/another-base'"):
        tl.compare(run / "base", {"lora": tmp_path / "lora"}, PROMPTS)
