"""Gather what was measured on the packaged adapter into one file, of which `card.py` makes the card.

    tuco-lens experiment alpha_sweep --base tuco_lens/demo/tuned --adapter adapters/demo-opinions \
        --data $TUCO_LENS_DATA --out build/experiments/opinions
    python scripts/opinions_pair/evaluate.py --base tuco_lens/demo/tuned --adapter adapters/demo-opinions \
        --out build/opinions_pair --sweep build/experiments/opinions/alpha_sweep.json

The sweep asks the held-out questions alone, as the program knows this adapter. Measured here are the base's own answers
to them (α = 0), and TuCo on some of them and on held-out web text. Writes `measured.json` beside the adapter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import opinions
from pair_scripts import WEIGHTS, held_out
from safetensors import safe_open

from tuco_lens import ModelPair
from tuco_lens.stats import summarise
from tuco_lens.sweep import SweepResult, sweep

TUCO_QUESTIONS = 20
"""Held-out questions of each behaviour on which TuCo is measured."""
PARTS = {True: "trained", False: "untrained"}
"""Behaviours by whether any of their questions was trained on."""

GAIN = ("delta", "low", "high", "p_holm")
"""Of a choice of α out of fold: what is kept for the card."""


def by_part(result: SweepResult) -> SweepResult:
    """The same answers, in the groups "trained" and "untrained" in place of the paper's."""
    tasks = [replace(task, group=PARTS[task.name in opinions.TRAINED]) for task in result.tasks]
    return replace(result, tasks=tuple(sorted(tasks, key=lambda task: task.group)))


def rows(swept: SweepResult, base: SweepResult, by: Any) -> Iterator[dict[str, Any]]:
    """A row per behaviour or part: agreement of the base and at each α, and what a choice of α gains out of fold."""
    name = "task" if by == "task" else "group"
    agreement, untuned = swept.to_frame(by), base.to_frame(by)
    for _, row in swept.cross_validated(by).iterrows():
        at = agreement[agreement[name] == row[name]]
        zero = untuned[(untuned[name] == row[name]) & (untuned["alpha"] == 0)]
        yield {
            "name": row[name],
            "part": row["group"],
            "n": int(row["n"]),
            "base": _shares(zero)[0],
            "agreement": _shares(at),
            **{short: {key: row[f"{short}_{key}"] for key in GAIN} for short in ("max", "min")},
        }


def _shares(frame: Any) -> list[dict[str, float]]:
    return [{"value": row["accuracy"], "low": row["low"], "high": row["high"]} for _, row in frame.iterrows()]


def tuco(pair: ModelPair) -> dict[str, Any]:
    """TuCo on held-out questions of trained and of untrained behaviours, and on held-out web text."""
    asked = [task.sample(TUCO_QUESTIONS) for task in opinions.tasks("held out")]
    found: dict[str, Any] = {}
    for trained, part in PARTS.items():
        prompts = [q.prompt for task in asked if (task.name in opinions.TRAINED) == trained for q in task.questions]
        found[part] = asdict(summarise(pair.measure(prompts, chat=True, progress=False).tuco))
    found["web"] = asdict(summarise(pair.measure(held_out.web_windows(pair.tokenizer), progress=False).tuco))
    return found


def measured(out: Path, swept: SweepResult, pair: ModelPair, adapter: Path) -> dict[str, Any]:
    """All that the card says in numbers, but for the constants of the scripts."""
    base = sweep(pair, opinions.tasks("held out"), alphas=(0,), batch_size=32)
    if [task.targets.tolist() for task in sorted(base.tasks, key=lambda task: task.name)] != [
        task.targets.tolist() for task in sorted(swept.tasks, key=lambda task: task.name)
    ]:
        raise SystemExit("the sweep did not ask the held-out questions, or not all of them")
    swept, base = by_part(swept), by_part(base)
    with safe_open(adapter / WEIGHTS, "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return {
        **{name: json.loads((out / f"{name}.json").read_text()) for name in ("run", "curve", "strength")},
        "parameters": parameters,
        "bytes": (adapter / WEIGHTS).stat().st_size,
        "alphas": swept.settings.alphas,
        "behaviours": list(rows(swept, base, "task")),
        "parts": list(rows(swept, base, "group")),
        "tuco": tuco(pair),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="the demo pair's tuned model")
    parser.add_argument("--adapter", type=Path, required=True, help="the packaged adapter; measured.json goes there")
    parser.add_argument("--out", type=Path, required=True, help="folder that training wrote to")
    parser.add_argument("--sweep", type=Path, required=True, help="result of the experiment alpha_sweep")
    args = parser.parse_args()
    pair = ModelPair.from_pretrained(str(args.base), adapter=str(args.adapter))
    found = measured(args.out, SweepResult.load(args.sweep), pair, args.adapter)
    (args.adapter / "measured.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps([{key: part[key] for key in ("name", "n", "base", "max", "min")} for part in found["parts"]]))


if __name__ == "__main__":
    main()
