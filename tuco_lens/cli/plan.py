"""`tuco-lens plan`: its options, its tables and its JSON. What they show is worked out in `runs/plan.py`."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuco_lens.cli.options import takes_pair, takes_reading
from tuco_lens.cli.terminal import complain, say, show_table
from tuco_lens.prompts.files import PromptSource
from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    from tuco_lens.runs.placement import Way
    from tuco_lens.runs.plan import Plan


@takes_pair(leaves_out=("device", "device_map", "max_memory", "offload"))
@takes_reading
def plan(
    *,
    choice: PairChoice,
    prompts: Annotated[
        list[Path] | None, typer.Option("--prompts", metavar="FILE", help="Prompts, as `measure` takes. May repeat.")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="N", help="How many prompts.", show_default="those of the files, or 1000"),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="Tokens of a prompt, where there is no file.")
    ] = 256,
    device: Annotated[
        str, typer.Option("--device", metavar="D", help="Such as h100-80gb, or this: the machine it runs on.")
    ] = "this",
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="How many of them there are.")] = 1,
    reading: dict[str, Any],
    drift: Annotated[bool, typer.Option("--drift", help="Also OutputCo: a third pass.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Prompts per batch, at most.")] = 64,
    measure: Annotated[
        bool, typer.Option("--measure", help="Load the pair, and time two batches on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What measuring prompts on a pair will need: memory, batches, operations, time. Downloads no weights.

    Read are the two configs, the sizes of the weights' files, and the tokenizer if there are prompts.
    """
    from tuco_lens.runs.plan import PlanJob, plan_run

    made = plan_run(
        PlanJob(
            pair=choice,
            prompts=PromptSource(tuple(prompts)) if prompts else None,
            reading=reading,
            n_prompts=n,
            n_tokens=tokens,
            device=device,
            n_devices=devices,
            drift=drift,
            batch_size=batch_size,
            calibrate=measure,
        )
    )
    if as_json:
        sys.stdout.write(json.dumps(_record(made), indent=2) + "\n")
        return
    _show(made)


def _record(made: Plan) -> dict[str, Any]:
    """Everything of a plan; bytes, seconds and operations as plain numbers, what is endless as null."""
    record: dict[str, Any] = _finite(dataclasses.asdict(made))
    work = {"typical": made.work.typical, "n_tokens": made.work.n_tokens, "n_computed": made.work.n_computed}
    record["work"] |= work
    record["best"] = None if made.best is None else made.best.name
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(made: Plan) -> None:
    size = f"{made.n_parameters / 1e9:.3g} billion parameters, {made.n_layers} blocks of width {made.d_model}"
    say(f"base {made.base}, tuned {made.tuned} ({made.backend}, {made.dtype}): {size}")
    work = made.work
    counted = "assumed" if work.n_sampled == 0 else f"counted on {work.n_sampled}"
    shared = "" if work.computed == 1 else f"; {1 - work.computed:.0%} of them are shared, and run once"
    say(f"{work.n_prompts:,} prompts of {work.mean_tokens:.4g} tokens ({counted}), {work.n_tokens:,} in all{shared}")
    show_table([("memory", False), ("GiB", True)], _memory_rows(made))
    columns = [("way", False), *((name, True) for name in ("fits", "devices", "GiB each", "GiB elsewhere"))]
    columns += [(name, True) for name in ("batch_tokens", "workers", "time", "device-hours")]
    show_table(columns, (_cells(way) for way in made.ways))
    say(_pace(made))
    if made.best is None:
        complain("note", "nothing fits: take another --device, more --devices, or a narrower --dtype")


def _memory_rows(made: Plan) -> Iterator[tuple[str, str]]:
    memory, way = made.memory, made.ways[0]
    known = [size for size in made.file_bytes.values() if size is not None]
    yield "files of the weights", _gib(sum(known)) if len(known) == 2 else "unknown"
    yield "weights, base", _gib(memory.base)
    yield "weights, tuned", _gib(memory.tuned)
    yield "tokenizers, tables, context", _gib(memory.tables)
    yield f"streams and a block, {way.batch_tokens} tokens", _gib(way.batch_tokens * memory.per_token)
    yield "caches of shared beginnings", _gib(memory.caches)
    yield f"norms of a chunk{'' if memory.on_cpu else ', on the CPU'}", _gib(memory.maps)
    yield f"while loading, beside the weights{'' if memory.on_cpu else ', on the CPU'}", _gib(memory.loading)
    yield f"peak on {made.device.name}", _gib(memory.peak(way.batch_tokens))
    yield f"{made.device.name} has", _gib(made.device.memory_bytes)
    yield "beside it: the process and its libraries", _gib(made.process_bytes)


def _cells(way: Way) -> list[str]:
    fits = "no" if not way.fits else "yes" if way.n_workers else "too few devices"
    elsewhere = _gib(way.bytes_offloaded) if way.bytes_offloaded else "–"
    ends = [_duration(way.seconds), f"{way.device_hours:.3g}"] if way.works else ["–", "–"]
    sizes = [str(way.n_devices), _gib(way.bytes_each), elsewhere, str(way.batch_tokens), str(way.n_workers)]
    return [way.name, fits, *sizes, *ends]


def _pace(made: Plan) -> str:
    total = f"{made.flops:.3g} operations ({made.n_forwards} forward passes through the blocks)"
    if made.calibration is not None:
        timed = made.calibration
        rows = " and ".join(map(str, timed.rows))
        cost = f"{timed.seconds_per_batch:.3g} s per batch and {1e3 * timed.seconds_per_token:.3g} ms per token"
        how = f"with {rows} prompts of {timed.length} tokens, after {timed.load_seconds:.3g} s of loading"
        return f"{total}; measured here {how}: {cost}"
    peak = f"{made.device.peak(made.dtype) / 1e12:.3g}·10^12 operations/s in {made.dtype}"
    source = "a product of matrices reaches here" if made.device.measured else "are its peak"
    return f"{total}; assumed: {made.utilisation:.0%} of the {peak} that {source}; loading is not counted"


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.{2 if n_bytes >= 2**30 else 3}f}"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
