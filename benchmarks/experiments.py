"""What the paper's experiments cost on the embedded pair: minutes of each, against what is promised; and the backends.

    python -m benchmarks.experiments --data DIR --limit 50
    python -m benchmarks.experiments --data DIR

Results go to a temporary folder. Harmful requests are measured and not shown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from tuco_lens import ModelPair
from tuco_lens.cli.experiment import limited_attacks
from tuco_lens.data import load
from tuco_lens.experiments import AttackOptions
from tuco_lens.experiments.prompt_groups import fitting
from tuco_lens.experiments.registry import EXPERIMENTS, Options, run_all
from tuco_lens.experiments.scores import score_prompts

PROMISED_MINUTES = {None: 40, 50: 5}
"""On two cores, by limit."""
N_PROMPTS, ROUNDS = 32, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("TUCO_LENS_DATA"), required=False)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--backends-only", action="store_true", help="the ratio of the backends alone")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    backends(arguments.data)
    if not arguments.backends_only:
        experiments(arguments.data, arguments.limit)


def backends(data: Path | None) -> None:
    """Median ratio of the time that all scores of some chats take."""
    pairs = {name: ModelPair.demo(backend=name) for name in ("bridge", "hooked")}
    prompts, _ = fitting(pairs["bridge"], load("hh_rlhf", folder=data).prompts, limit=N_PROMPTS)
    ratios: list[float] = []
    for _ in range(ROUNDS):
        taken: dict[str, float] = {}
        for name, pair in pairs.items():
            start = time.perf_counter()
            score_prompts(pair, prompts)
            taken[name] = time.perf_counter() - start
        ratios.append(taken["bridge"] / taken["hooked"])
    print(f"scores of {N_PROMPTS} chats, bridge / hooked: {statistics.median(ratios):.2f}", flush=True)


def experiments(data: Path | None, limit: int | None) -> None:
    """Minutes of every experiment, told by when its result was written."""
    pair = ModelPair.demo(backend="bridge")
    attacks = replace(AttackOptions(), n_strings=limited_attacks(limit))
    with tempfile.TemporaryDirectory() as folder:
        start = before = time.time()
        run_all(pair, Options(data=data, limit=limit, attacks=attacks), Path(folder))
        for name in EXPERIMENTS:
            written = (Path(folder) / f"{name}.json").stat().st_mtime
            print(f"{name:20} {(written - before) / 60:6.2f} min")
            before = written
        promised = PROMISED_MINUTES.get(limit)
        print(f"{'all':20} {(time.time() - start) / 60:6.2f} min" + (f", promised {promised}" if promised else ""))


if __name__ == "__main__":
    main()
