"""`tuco-lens pairs`: the catalogue of known pairs, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer

from tuco_lens.cli.terminal import say, show_table
from tuco_lens.models.catalogue import KnownPair, backends, load_catalogue, memory_gib


def pairs(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything known of each pair, as JSON.")] = False,
) -> None:
    """List known base and tuned models, and what each needs."""
    catalogue = load_catalogue()
    if as_json:
        sys.stdout.write(json.dumps([_record(pair) for pair in catalogue], indent=2) + "\n")
        return
    columns = [("name", False), ("base", False), ("tuned or adapter", False), ("backend", False), ("GiB", True)]
    show_table(columns, (_cells(pair) for pair in catalogue))
    say("GiB: about the memory of the loaded pair in bfloat16. Take one with: tuco-lens measure --pair NAME")


def _cells(pair: KnownPair) -> list[str]:
    tuned = f"{pair.adapter} (adapter)" if pair.adapter is not None else str(pair.tuned)
    return [pair.name, pair.base, tuned, ", ".join(backends(pair)) or "none", f"{_memory(pair):.1f}"]


def _memory(pair: KnownPair) -> float:
    """In GiB, on the backend that `auto` takes."""
    hooked = pair.adapter is None and "hooked" in backends(pair)
    return memory_gib(pair, backend="hooked" if hooked else "bridge")


def _record(pair: KnownPair) -> dict[str, object]:
    computed = {"backends": backends(pair), "memory_gib_bfloat16": round(_memory(pair), 2)}
    return {**dataclasses.asdict(pair), **computed}
