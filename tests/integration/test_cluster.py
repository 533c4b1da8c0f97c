"""Many workers: the rows of one process, whatever dies; prompts that fail are rows; failures of Ray in one line."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import tuco_lens as tl
from tuco_lens.cli.app import run
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import PromptSource, prompt_place
from tuco_lens.runs import ray_cluster
from tuco_lens.runs.chunks import RowOptions, chunk_rows, chunks
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.workers import MOST_UNITS, _Units

pytestmark = pytest.mark.usefixtures("one_thread")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra ray)")
DEMO = PairChoice("demo", None, None)
TOO_LONG = "river " * 4000
WORDS = ["the", "old", "town", "sent", "three", "boats", "over", "the", "river", "before", "dawn"]


@pytest.fixture(scope="module")
def demo() -> tl.ModelPair:
    return tl.ModelPair.demo()


def prompts_of(n_prompts: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(n_prompts)]


def write(path: Path, prompts: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measure(prompts: Path | str, out: Path, *more: str) -> int:
    return run(["measure", "--pair", "demo", "--prompts", str(prompts), "--out", str(out), *more])


def start(prompts: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = ["measure", "--pair", "demo", "--prompts", str(prompts), "--out", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "tuco_lens", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# What a chunk is, and what a prompt that fails becomes: without Ray.


def test_chunks_begin_at_multiples_of_their_size_wherever_a_run_goes_on() -> None:
    prompts = prompts_of(100)
    whole = dict(chunks(prompts, 32, 0))
    assert list(whole) == [0, 32, 64, 96]
    assert [prompt for chunk in whole.values() for prompt in chunk] == prompts
    for first in range(100):
        start = first - first % 32
        assert dict(chunks(prompts, 32, first)) == {at: chunk for at, chunk in whole.items() if at >= start}


def test_units_are_whole_chunks_in_order_and_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuco_lens.runs.workers.MOST_UNITS", 3)
    prompts = prompts_of(300)
    for first in (0, 32, 40, 299):
        units = list(_Units(PromptSource((), tuple(prompts)), 32, first, 300))
        assert len(units) <= 3 < MOST_UNITS
        assert all(unit["start"] % 32 == 0 for unit in units)
        sent = [prompt for unit in units for prompt in json.loads(unit["prompts"])]
        assert sent == prompts[first - first % 32 :]


def test_a_prompt_that_fails_is_a_row_that_says_why_and_takes_no_other_along(demo: tl.ModelPair) -> None:
    options = RowOptions({"chat": False, "system": None})
    found = list(chunk_rows(demo, ["a boat", "", TOO_LONG, "a river"], options, start=64))
    alone = demo.measure(["a boat", "a river"], progress=False)
    assert [each.row["index"] for each in found] == [64, 65, 66, 67]
    assert [each.row["tuco"] for each in found] == [
        pytest.approx(alone[0].tuco),
        None,
        None,
        pytest.approx(alone[1].tuco),
    ]
    assert "prompt 65: it is empty" in found[1].row["error"]
    assert "prompt 66: it has 4" in found[2].row["error"]
    with pytest.raises(InputError, match="prompt 65"):
        list(chunk_rows(demo, ["a boat", ""], RowOptions({"chat": False, "system": None}, on_error="stop"), start=64))


def test_a_prompt_for_which_memory_runs_out_is_a_row_and_the_rest_are_measured(demo: tl.ModelPair) -> None:
    class Small:
        """The pair on a device that holds no prompt of more than eight tokens."""

        def __getattr__(self, name: str) -> Any:
            return getattr(demo, name)

        def measure_stream(self, prompts: Any, **how: Any) -> Iterator[Any]:
            if any(prompt.n_tokens > 8 for prompt in prompts):
                raise InputError("out of memory with a single prompt", "8 tokens", "shorten it")
            yield from demo.measure_stream(prompts, **how)

    prompts = ["a boat", " ".join(WORDS), "a river"]
    pair: Any = Small()
    rows = [each.row for each in chunk_rows(pair, prompts, RowOptions({"chat": False, "system": None}), start=0)]
    assert [row.get("error") is None for row in rows] == [True, False, True]
    assert rows[1]["error"] == "out of memory with a single prompt: 8 tokens; shorten it"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_one_process_writes_the_rows_of_failed_prompts_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    import pandas as pd

    file = write(tmp_path / "p.jsonl", ["a boat", "", "\udfff", [{"role": "robot", "content": "x"}], "a river"])
    file.write_text(file.read_text().replace('"prompt": [', '"messages": ['))
    out = tmp_path / f"o.{ending}"
    assert measure(file, out) == 0
    assert "3 of 5 prompts could not be measured; their rows say why" in capsys.readouterr().err
    read = {"jsonl": lambda path: pd.read_json(path, lines=True), "csv": pd.read_csv, "parquet": pd.read_parquet}
    frame = read[ending](out)
    assert frame["error"].isna().tolist() == [True, False, False, False, True]
    assert frame["tuco"].isna().tolist() == [False, True, True, True, False]
    assert "lone surrogate" in frame["error"][2]


def test_prompts_are_read_from_an_address_as_from_a_path(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", prompts_of(5))
    assert list(PromptSource((prompt_place(file.as_uri()),))) == list(PromptSource((file,)))
    assert prompt_place("s3://bucket/p.jsonl") == "s3://bucket/p.jsonl"
    assert prompt_place("folder/p.jsonl") == Path("folder/p.jsonl")


def test_prompts_are_read_by_fsspec_where_pyarrow_knows_no_scheme() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://tuco/p.txt", "wb") as file:
        file.write(b"one\ntwo\n")
    assert list(PromptSource(("memory://tuco/p.txt",))) == ["one", "two"]


def test_an_output_that_another_run_holds_is_refused_before_a_pair_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuco_lens.results.files import partial_path
    from tuco_lens.results.journal import Journal

    file, out = write(tmp_path / "p.jsonl", ["a"]), tmp_path / "o.jsonl"
    monkeypatch.setattr(PairChoice, "load", lambda _: pytest.fail("it was loaded"))
    with Journal.hold(partial_path(out), {}, resume=False):
        for more in ([], ["--workers", "2"]):
            assert measure(file, out, *more) == 2
            assert "another run is writing it; wait for that run, or name another output" in capsys.readouterr().err


# What a worker gets of a cluster: plain arithmetic.


def share(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], n_workers: int, **how: Any
) -> tuple[float, float]:
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: nodes)
    asked: dict[str, Any] = {"gpus": None, "cpus": None, **how}
    found = ray_cluster.share_of(n_workers, PairChoice("b", "t", None, device=asked.pop("device", None)), **asked)
    return found.cpus, found.gpus


def test_workers_share_cpus_evenly_and_none_is_spread_over_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(monkeypatch, [{"CPU": 8}], 2) == (4, 0)
    assert share(monkeypatch, [{"CPU": 8}], 2, n_free=1) == (3, 0)
    assert share(monkeypatch, [{"CPU": 8}, {"CPU": 8}], 3) == (4, 0)  # and not 5
    assert share(monkeypatch, [{"CPU": 2}], 2, n_free=1) == (0.5, 0)
    assert share(monkeypatch, [{"CPU": 8, "GPU": 8}], 8) == (1, 1)
    assert share(monkeypatch, [{"CPU": 8, "GPU": 8}], 4, gpus=2) == (1, 2)
    assert share(monkeypatch, [{"CPU": 8, "GPU": 8}], 2, device="cpu") == (4, 0)


def test_a_cluster_that_is_too_small_is_refused_with_the_number_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the cluster has room for 2; ask for 2 workers"):
        share(monkeypatch, [{"CPU": 16, "GPU": 2}], 4)
    with pytest.raises(InputError, match="room for 0; ask for less"):
        share(monkeypatch, [{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}], 1, gpus=2)
    with pytest.raises(InputError, match="room for 3 beside 1 CPU for those who read; ask for 3"):
        share(monkeypatch, [{"CPU": 4}], 4, cpus=1, n_free=1)


def test_without_ray_the_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "o.jsonl"
    assert measure(write(tmp_path / "p.jsonl", ["a"]), out, "--workers", "2") == 2
    assert capsys.readouterr().err.endswith("install it with: pip install 'tuco-lens[ray]'\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl"]


@needs_ray
def test_a_cluster_that_does_not_answer_is_one_line_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    file = write(tmp_path / "p.jsonl", ["a"])
    for where in (address, f"ray://{address}", "no.such.host.invalid:6379"):
        assert measure(file, tmp_path / "o.jsonl", "--workers", "2", "--ray", where) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"tuco-lens: error: no Ray cluster at {where}: ")
        assert error.endswith("; start one with `ray start --head --port 6379`, and give its HOST:6379\n")
        assert error.count("\n") == 1


class SlowRay:
    """A Ray that gives up `failures` times before it starts, as on a machine whose cores are all busy."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, list[str]()

    def is_initialized(self) -> bool:
        return False

    def init(self, **how: Any) -> None:
        self.calls.append("init")
        if self.calls.count("init") <= self.failures:
            raise Exception("The current node timed out during startup.\nIt may be busy.")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def test_ray_has_two_tries_to_start_and_then_one_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, never = SlowRay(1), SlowRay(2)
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: slow)
    with ray_cluster.running(None, 2):
        assert slow.calls == ["init", "shutdown", "init"]
    assert slow.calls[-1] == "shutdown"
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: never)
    with pytest.raises(InputError) as caught, ray_cluster.running(None, 2):
        pass
    assert str(caught.value).startswith("cannot start Ray: The current node timed out during startup.; try again")
    assert never.calls[-1] == "shutdown"


def test_options_that_no_pair_has_are_refused() -> None:
    pytest.importorskip("ray")
    dataset: Any = None
    with pytest.raises(InputError, match="there is no option tunes"):
        tl.cluster.measure(dataset, {"base": "b", "tunes": "t"}, workers=1)
    with pytest.raises(InputError, match="base is missing"):
        tl.cluster.measure(dataset, {"tuned": "t"}, workers=1)


# With Ray, which takes its seconds to start.


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    return out + error


def workers_of(driver: int) -> list[psutil.Process]:
    below = psutil.Process(driver).children(recursive=True)
    return [process for process in below if is_worker(process)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has ended since
        return "UnitMeasurer" in "".join(process.cmdline()[:1])
    return False


def wait_for_growth(process: subprocess.Popen[str], journal: Path, size: int) -> None:
    while process.poll() is None and (not journal.exists() or journal.stat().st_size <= size):
        time.sleep(0.02)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_write_the_bytes_of_one_process_also_when_they_die(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [*prompts_of(600), "", TOO_LONG, *prompts_of(600, seed=1)])
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert measure(file, alone) == 0
    process = start(file, together, "--workers", "2", "--cpus-per-worker", "1")
    journal = tmp_path / "together.jsonl.partial"
    for _ in range(2):
        wait_for_growth(process, journal, journal.stat().st_size if journal.exists() else 0)
        workers = workers_of(process.pid)
        if workers:
            random.choice(workers).kill()
    said = finished(process)
    assert "2 of 1202 prompts could not be measured" in said
    assert together.read_bytes() == alone.read_bytes()
    assert not journal.exists()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_killed_at_any_time_is_resumed_by_workers_or_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", prompts_of(1000))
    alone, out = tmp_path / "alone.jsonl", tmp_path / "o.jsonl"
    assert measure(file, alone) == 0
    journal = tmp_path / "o.jsonl.partial"
    for number in range(2):
        process = start(file, out, "--workers", "2", "--cpus-per-worker", "1", "--resume")
        if number:
            wait_for_growth(process, journal, journal.stat().st_size if journal.exists() else 0)
        else:
            time.sleep(2)  # while it starts
        assert process.poll() is None, process.communicate()
        below = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists(), "it was to be killed before its end"
        assert psutil.wait_procs(below, timeout=60)[1] == [], "the workers of a killed driver go on"
    resumed = tmp_path / "alone_resumed.jsonl"
    Path(f"{resumed}.partial").write_bytes(journal.read_bytes())
    assert measure(file, resumed, "--resume") == 0
    finished(start(file, out, "--workers", "2", "--cpus-per-worker", "1", "--resume"))
    assert out.read_bytes() == resumed.read_bytes() == alone.read_bytes()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_unit_at_which_workers_keep_dying_ends_the_run_with_its_journal(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", prompts_of(1500))
    words = ["measure", "--pair", "demo", "--prompts", str(file), "--out", str(tmp_path / "o.jsonl"), "--workers", "1"]
    code = "import sys; from tuco_lens.runs import ray_cluster; from tuco_lens.cli.app import run; "
    command = [sys.executable, "-c", code + "ray_cluster.DEATHS = 1; sys.exit(run(sys.argv[1:]))", *words]
    with (tmp_path / "stderr").open("w+") as said:  # a pipe would be full of what Ray says of each death
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        wait_for_growth(process, tmp_path / "o.jsonl.partial", 1000)
        while process.poll() is None:
            for worker in workers_of(process.pid):
                with suppress(psutil.Error):
                    if "submit" in worker.cmdline()[0]:  # it has loaded its pair, and measures
                        worker.kill()
            time.sleep(0.1)
    error = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert process.returncode == 2, error
    assert error.startswith("tuco-lens: error: the workers died again and again: ")
    assert "then --resume" in error
    assert rows_of(tmp_path / "o.jsonl.partial")[-1]["index"] >= 0


@needs_ray
@pytest.mark.slow
def test_a_pair_that_no_worker_can_load_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", prompts_of(40))
    (tmp_path / "empty").mkdir()
    words = ["--base", str(tmp_path / "empty"), "--tuned", str(tmp_path / "empty"), "--prompts", str(file)]
    command = [
        sys.executable,
        "-m",
        "tuco_lens",
        "measure",
        *words,
        "--out",
        str(tmp_path / "o.csv"),
        "--workers",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ}, timeout=280)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("tuco-lens: error: ")
    assert done.stderr.count("\n") == 1
    assert "is empty" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "p.jsonl"]


@needs_ray
@pytest.mark.slow
def test_a_ray_dataset_gets_the_columns_of_a_measurement_in_its_own_order(demo: tl.ModelPair) -> None:
    import ray

    with ray_cluster.running(None, 3):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.execution_options.preserve_order = False, True
        prompts = [*prompts_of(90), ""]
        dataset = ray.data.from_items([{"id": i, "prompt": prompt} for i, prompt in enumerate(prompts)])
        measured = tl.cluster.measure(dataset, {"base": "demo"}, workers=2, batch_size=8)
        assert isinstance(measured, ray.data.Dataset)
        rows = measured.take_all()
    expected = demo.measure(prompts[:-1], progress=False)
    assert [row["id"] for row in rows] == list(range(91))
    assert [row["prompt"] for row in rows] == prompts
    assert [row["tuco"] for row in rows[:-1]] == pytest.approx([item.tuco for item in expected], abs=1e-6)
    assert [row["error"] for row in rows[:-1]] == [None] * 90
    assert "it is empty" in rows[-1]["error"]
    assert list(rows[0]) == ["id", "prompt", "n_tokens", "tuco", "preco", "beta", "truncated", "error"]


CLUSTER = """
import sys, ray
from tuco_lens.runs import ray_cluster
with ray_cluster.running(None, 3, cpus=1):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_runs_is_joined_by_its_address_and_left_running(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", prompts_of(100))
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert measure(file, alone) == 0
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        try:
            # Three workers hold all three CPUs: the reader must not wait for one.
            finished(start(file, together, "--workers", "3", "--ray", address))
            refused = start(file, tmp_path / "o.jsonl", "--workers", "4", "--ray", address)
            assert "the cluster has room for 3; ask for 3 workers" in refused.communicate(timeout=200)[1]
            assert cluster.poll() is None
        finally:
            cluster.stdin.close()
    assert together.read_bytes() == alone.read_bytes()
