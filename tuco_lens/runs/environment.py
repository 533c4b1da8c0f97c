"""What rounds a run's numbers and decides nothing else: batch size, threads, libraries, the kind of processor.

It is recorded with every result. A run that goes on elsewhere is not refused, since nobody can bring a machine back;
it says so in one line, and the result names both.
"""

from __future__ import annotations

import dataclasses
import platform
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

LIBRARIES: Final = ("torch", "transformers", "transformer_lens", "numpy")
"""Libraries that compute numbers."""

ResultT = TypeVar("ResultT")
Environment = Mapping[str, Any]
"""By name, as JSON values: batch_size, threads, processor, python and each of `LIBRARIES`."""


class OtherEnvironmentWarning(UserWarning):
    """A run goes on with another batch size, number of threads, library or processor than it began with."""


def environment_of(batch_size: int) -> dict[str, Any]:
    """That of this process, with so many prompts per batch."""
    import torch

    return {
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # a copy that was not installed
        return None


def add_environment(known: Sequence[Environment], here: Environment, what: str) -> tuple[Environment, ...]:
    """Those that a run was made in so far, and this one, warning if it is another than the last.

    Args:
        known: in the order of the run; empty if nothing is recorded, as of a run that begins.
        here: that of what is computed from now on.
        what: what the warning calls the run.
    """
    if not known:
        return (here,)
    if known[-1] == here:
        return tuple(known)
    warnings.warn(f"{what}: {_differences(known[-1], here)}", OtherEnvironmentWarning, stacklevel=3)
    return (*known, here)


def _differences(then: Environment, here: Environment) -> str:
    names = [name for name in {**then, **here} if then.get(name) != here.get(name)]
    changes = ", ".join(f"{name} was {then.get(name)} and is {here.get(name)}" for name in names)
    return f"it goes on where {changes}; numbers from here on may differ in their last digits from those of one run"


def with_environments(result: ResultT, environments: tuple[Environment, ...]) -> ResultT:
    """The result, a dataclass, with where it was computed in its `settings`, which are one too."""
    known: Any = result
    return dataclasses.replace(known, settings=dataclasses.replace(known.settings, environments=environments))


def environment_words(environments: Sequence[Environment]) -> str:
    """Each as "batch_size 8, threads 2, …", in the order of the run; "" if none is recorded, as in older files."""
    return "; then ".join(
        ", ".join(f"{name} {value}" for name, value in environment.items() if value is not None)
        for environment in environments
    )
