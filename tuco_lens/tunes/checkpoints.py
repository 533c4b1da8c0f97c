"""The checkpoints of a training run, by step, and what the trainer logged, as transformers' `Trainer` leaves them."""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tuco_lens.errors import InputError

STATE: Final = "trainer_state.json"
HELD: Final = ("config.json", "adapter_config.json")
"""What a checkpoint has one of: a whole model's, or an adapter's."""
_REMEDY: Final = "give a run's folder, or a pattern such as 'run/checkpoint-*'"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a run."""

    step: int
    """Training steps before it."""
    path: Path
    """Its folder."""


def find_checkpoints(places: str | Path | Sequence[str | Path]) -> list[Checkpoint]:
    """The checkpoints at a place, ascending by step: by their `trainer_state.json`, or else by the number in the name.

    Args:
        places: a run's folder (its `checkpoint-*`), a pattern, a checkpoint, or several of these.

    Raises:
        InputError: if there are none, a folder is no checkpoint, its step is not known, or two have one step.
    """
    given = [places] if isinstance(places, (str, Path)) else list(places)
    found = sorted((Checkpoint(_step(path), path) for place in given for path in _folders(place)), key=lambda c: c.step)
    if not found:
        raise InputError("no checkpoints", "no place is given", _REMEDY)
    for one, other in pairwise(found):
        if one.step == other.step:
            why = f"{str(one.path)!r} and {str(other.path)!r} are both of step {one.step}"
            raise InputError("cannot order the checkpoints", why, "give the checkpoints of one run")
    return found


def training_log(checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, float], ...]:
    """What the trainer logged until the last checkpoint that has it, a record per step logged, its numbers alone.

    Empty where no checkpoint has a `trainer_state.json`.
    """
    for checkpoint in reversed(checkpoints):
        records = _state(checkpoint.path).get("log_history")
        if isinstance(records, list):
            return tuple(log_record(each) for each in records if isinstance(each, Mapping) and "step" in each)
    return ()


def log_record(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of one record of a trainer's log."""
    numbers = {name: value for name, value in record.items() if isinstance(value, (int, float))}
    return {str(name): value for name, value in numbers.items() if math.isfinite(value)}


def _folders(place: str | Path) -> Iterator[Path]:
    """The checkpoints at one place.

    Raises:
        InputError: if there are none.
    """
    path = Path(place).expanduser()
    if not path.exists():
        matched = [each for each in map(Path, glob.glob(str(path))) if _is_checkpoint(each)]
        if not matched:
            raise InputError(f"no checkpoints at {str(place)!r}", "nothing there is one", _REMEDY)
        yield from matched
        return
    within = [each for each in path.glob("checkpoint-*") if _is_checkpoint(each)]
    if within:
        yield from within
    elif _is_checkpoint(path):
        yield path
    else:
        why = f"it holds no checkpoint-* folder, and neither {' nor '.join(HELD)}"
        raise InputError(f"no checkpoints at {str(place)!r}", why, _REMEDY)


def _is_checkpoint(path: Path) -> bool:
    return any((path / name).is_file() for name in HELD)


def _step(path: Path) -> int:
    step = _state(path).get("global_step")
    if isinstance(step, int) and step >= 0:
        return step
    number = re.search(r"(\d+)$", path.name)
    if number is None:
        why = f"it has no {STATE}, and no number ends its name"
        raise InputError(f"the step of {str(path)!r} is not known", why, "name it such as checkpoint-100")
    return int(number[1])


def _state(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType]
