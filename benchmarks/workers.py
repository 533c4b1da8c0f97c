"""Many workers against one process: the same bytes, also after kills of either; speed and memory.

`--kills 20` kills that many random workers, in as many runs as that takes, and as many drivers, each resumed.
`--million` measures a million short prompts on a tiny pair, and prints the memory of driver and workers. Every run is
`tuco-lens measure` in a process of its own, with one thread for each pair.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.checkpoints import save_checkpoint
from tests.pairs import tiny_llama, tuned_copy

WORDS = ("the", "of", "sea", "blue", "run", "many", "how", "could", "why", "tell", "me", "about", "history", "river")
DEMO = ("--pair", "demo")
WORKERS = ("--workers", "2", "--cpus-per-worker", "1")


def write_prompts(path: Path, n_prompts: int, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(1, 24))) for _ in range(n_prompts))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def start(pair: tuple[str, ...], prompts: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = ["measure", *pair, "--prompts", str(prompts), "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "tuco_lens", *words], env=environment, **pipes)


def finished(run: subprocess.Popen[str]) -> None:
    complaint = run.communicate()[1]
    if run.returncode:
        raise SystemExit(complaint)


def workers_of(driver: int) -> list[psutil.Process]:
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if is_worker(process)]


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has ended since
        return "UnitMeasurer" in "".join(process.cmdline()[:1])
    return False


def mib(processes: list[psutil.Process]) -> float:
    """Resident memory of the largest that still runs."""
    sizes = [0]
    for process in processes:
        with suppress(psutil.Error):
            sizes.append(process.memory_info().rss)
    return max(sizes) / 2**20


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def timed(pair: tuple[str, ...], prompts: Path, out: Path, *more: str) -> float:
    before = time.perf_counter()
    finished(start(pair, prompts, out, *more))
    return time.perf_counter() - before


def with_killed_workers(prompts: Path, out: Path, n_kills: int, rng: random.Random) -> int:
    """One run during which workers die, at most so many; returns how many did."""
    journal = out.with_name(out.name + ".partial")
    run = start(DEMO, prompts, out, *WORKERS)
    killed = grown = 0
    while run.poll() is None and killed < n_kills:
        time.sleep(rng.uniform(0.2, 4))
        workers = workers_of(run.pid)
        if workers and size(journal) > grown:  # rows have come since the last death
            grown = size(journal)
            rng.choice(workers).kill()
            killed += 1
    finished(run)
    return killed


def with_killed_drivers(prompts: Path, out: Path, n_kills: int, rng: random.Random) -> int:
    """Runs that are killed, each resuming the one before, and one that ends; returns how many were killed."""
    journal = out.with_name(out.name + ".partial")
    killed = 0
    for number in range(n_kills):
        run = start(DEMO, prompts, out, *WORKERS, "--resume")
        if number % 4:  # every fourth dies while it starts
            grown = size(journal)
            while run.poll() is None and size(journal) <= grown:
                time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        run.send_signal(signal.SIGKILL)
        if run.wait() != -signal.SIGKILL:  # it had ended
            break
        killed += 1
    if not out.exists():
        finished(start(DEMO, prompts, out, *WORKERS, "--resume"))
    return killed


def until_killed(
    kill: Callable[[Path, Path, int, random.Random], int], prompts: Path, alone: Path, n_kills: int, rng: random.Random
) -> str:
    """Whole runs, until so many processes have died in them; says how many, and whether the results are right."""
    killed, n_runs, found = 0, 0, set[str]()
    while killed < n_kills:
        out = alone.with_name(f"{kill.__name__}_{n_runs}.jsonl")
        killed += kill(prompts, out, n_kills - killed, rng)
        n_runs += 1
        found.add(compared(out, alone))
    return f"{killed} in {n_runs} runs, {' and '.join(sorted(found))}"


def compared(out: Path, alone: Path) -> str:
    return "the same bytes" if out.read_bytes() == alone.read_bytes() else "OTHER BYTES"


def memory_of_a_million(folder: Path, n_prompts: int) -> None:
    base = tiny_llama(n_layers=1, d_model=8)
    for name, model in {"base": base, "tuned": tuned_copy(base)}.items():
        save_checkpoint(folder / name, model)
    prompts, out = folder / "million.txt", folder / "million.jsonl"
    prompts.write_text("".join(f"{number:06d}\n" for number in range(n_prompts)))
    pair = ("--base", str(folder / "base"), "--tuned", str(folder / "tuned"), "--batch-size", "64")
    before = time.perf_counter()
    run = start(pair, prompts, out, *WORKERS)
    journal, samples = out.with_name(out.name + ".partial"), list[tuple[int, float, float]]()
    while run.poll() is None:
        workers = workers_of(run.pid)
        if workers and size(journal):
            samples.append((size(journal), mib([psutil.Process(run.pid)]), mib(workers)))
        time.sleep(1)
    finished(run)
    seconds = time.perf_counter() - before
    last = max(done for done, *_ in samples)
    print(f"{n_prompts} prompts in {seconds:.0f} s; memory in MiB:")
    for part in (0.1, 0.25, 0.5, 0.75, 1.0):
        done, driver_mib, worker_mib = min(samples, key=lambda sample: abs(sample[0] - part * last))
        print(f"  {done / last:4.0%} of the rows: driver {driver_mib:.0f}, larger worker {worker_mib:.0f}")
    with out.open() as rows:
        assert sum(1 for _ in rows) == n_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), random.Random(options.seed)
        if options.million:
            memory_of_a_million(folder, options.million)
        prompts = write_prompts(folder / "prompts.txt", options.prompts)
        alone, together = folder / "one.jsonl", folder / "two.jsonl"
        seconds = timed(DEMO, prompts, alone), timed(DEMO, prompts, together, *WORKERS)
        print(f"{options.prompts} prompts: one process {seconds[0]:.0f} s, two workers {seconds[1]:.0f} s")
        print(f"two workers: {compared(together, alone)}")
        if options.kills:
            for what, kill in {"workers": with_killed_workers, "drivers": with_killed_drivers}.items():
                print(f"killed {what}: {until_killed(kill, prompts, alone, options.kills, rng)}")


if __name__ == "__main__":
    main()
