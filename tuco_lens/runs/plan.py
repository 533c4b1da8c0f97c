"""What measuring prompts on a pair will need, before any weights are downloaded or loaded: memory, batches, time.

`plan_run` reads two configs and the sizes of the files (`planned_pair.py`), counts the tokens of the prompts
(`workload.py`), works out what the engine holds at once and where there is room for it (`placement.py`, `devices.py`),
and how many operations it is. Time follows from the device's peak and an assumed part of it, or from a short run on
this machine (`calibration.py`).

Memory is what is held *beside* the libraries; `process_bytes` says what a process holds that has imported them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import PromptSource
from tuco_lens.runs.calibration import Calibration, calibrated
from tuco_lens.runs.devices import THIS, Device, find_device, resident_bytes
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.placement import Placing, PlanMemory, Way, planned_memory
from tuco_lens.runs.planned_pair import planned_pair
from tuco_lens.runs.workload import Workload, assumed, check_counts, workload

UTILISATION: Final = 0.4
"""Part of a device's peak that is assumed where nothing is measured."""
N_PROMPTS: Final = 1000
"""Prompts that are planned for where neither a number nor a file is given."""


@dataclass(frozen=True)
class PlanJob:
    """What a plan is asked for."""

    pair: PairChoice
    """Base and tuned model."""
    prompts: PromptSource | None = None
    """Prompt files and texts; without them, prompts of `n_tokens` that share nothing."""
    reading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How prompts are read: `chat`, `system` and so on, as `ModelPair.prompt` takes them."""
    n_prompts: int | None = None
    """How many prompts to plan for; by default those of the files, or 1000."""
    n_tokens: int = 256
    """Tokens of each prompt where there are no files."""
    device: str = THIS
    """A name of `devices.KNOWN`, or "this"."""
    n_devices: int = 1
    """How many of them there are."""
    drift: bool = False
    """Whether OutputCo is measured too."""
    batch_size: int = 64
    """Prompts per batch, at most."""
    calibrate: bool = False
    """Load the pair and time two batches on this machine."""


@dataclass(frozen=True)
class Plan(Brief):
    """What measuring prompts on a pair will need."""

    base: str
    """Base model."""
    tuned: str
    """Tuned model or adapter."""
    backend: str
    """"hooked" or "bridge"."""
    dtype: str
    """dtype of the weights in memory."""
    n_parameters: int
    """Parameters of the base model."""
    n_layers: int
    """Its blocks."""
    d_model: int
    """Width of the residual stream."""
    file_bytes: Mapping[str, int | None]
    """Bytes of the weights' files of "base" and "tuned", to download or to read; None where the hub did not say."""
    device: Device
    """What it is planned for."""
    process_bytes: int
    """What this process holds with the libraries imported; one that measures holds that and all that is planned."""
    memory: PlanMemory
    """What is held beside the libraries."""
    work: Workload
    """The prompts."""
    n_forwards: int
    """Evaluations of each block: 2, or 3 with drift."""
    flops: float
    """Operations of the whole run: the blocks of so many forward passes; see `ModelSizes.block_flops`."""
    utilisation: float | None
    """Part of the device's peak that the time assumes; None where it was measured."""
    calibration: Calibration | None
    """The short run on this machine, if there was one."""
    ways: tuple[Way, ...]
    """How the pair may be placed, the simplest first; one alone if it fits on one device."""

    @property
    def best(self) -> Way | None:
        """The fastest way that works; None if there is none."""
        return min((way for way in self.ways if way.works), key=lambda way: way.seconds, default=None)


def plan_run(job: PlanJob) -> Plan:
    """Works out what a run needs; no weights are downloaded, and none loaded unless `calibrate` asks for it.

    Raises:
        InputError: for an unknown device, a number that is too small, or prompts that cannot be read.
        LoadError: if a config cannot be read or lacks a size, or the hub does not answer.
        PairMismatchError: if the two models are no pair.
    """
    _check(job)
    kind = find_device(job.device).kind
    pair = planned_pair(job.pair)
    process_bytes = resident_bytes()
    dtype = pair.dtype(job.pair.dtype, kind)
    device = find_device(job.device, dtype)
    if job.prompts is None:
        work = assumed(job.n_prompts or N_PROMPTS, job.n_tokens)
    else:
        work = workload(pair, job.prompts, job.reading, job.n_prompts, kind)
    memory = planned_memory(pair, dtype, work, device, drift=job.drift)
    n_forwards = 3 if job.drift else 2
    flops = n_forwards * work.n_computed * pair.sizes.block_flops(work.typical)
    calibration: Calibration | None = None

    def seconds(rows: int) -> float:
        if calibration is None:
            return flops / (UTILISATION * device.peak(dtype))
        return calibration.seconds(math.ceil(work.n_prompts / rows), work.n_computed)

    placing = Placing(memory, work, device, job.n_devices, pair.sizes.n_layers, job.batch_size, seconds)
    if job.calibrate:
        rows = placing.rows(placing.batch_tokens(placing.room))
        calibration = calibrated(job.pair, work.typical, rows, drift=job.drift)
    return Plan(
        base=pair.base.name,
        tuned=pair.tuned.name,
        backend=pair.backend,
        dtype=dtype,
        n_parameters=pair.sizes.n_parameters,
        n_layers=pair.sizes.n_layers,
        d_model=pair.sizes.d_model,
        file_bytes=pair.file_bytes,
        device=device,
        process_bytes=process_bytes,
        memory=memory,
        work=work,
        n_forwards=n_forwards,
        flops=flops,
        utilisation=UTILISATION if calibration is None else None,
        calibration=calibration,
        ways=placing.ways(),
    )


def _check(job: PlanJob) -> None:
    check_counts(job.n_prompts, job.n_tokens)
    for what, number in (("--devices", job.n_devices), ("--batch-size", job.batch_size)):
        if number < 1:
            raise InputError(what, f"it is {number}", "give a whole number above 0")
    if job.calibrate and job.device != THIS:
        why = f"it times this machine, and --device is {job.device}"
        raise InputError("--measure", why, "leave out one of the two")
