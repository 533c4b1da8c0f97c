"""What measuring a model takes while it trains, as a share of the training."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tuco_lens.brief import Brief

__all__ = ["Clock", "Cost"]


@dataclass(frozen=True)
class Cost(Brief):
    """What measuring takes of a training run."""

    measurements: int
    """How many were made."""
    seconds: float
    """What they took, all together."""
    setup_seconds: float
    """What making the pair took, before training began."""
    step_seconds: float
    """What one step of training takes without them, saving and evaluating included; NaN before the first one."""
    frozen_bytes: int
    """What the frozen clones of weights that train take; nothing for adapters."""

    @property
    def share_of_step(self) -> float:
        """What one measurement takes, as a share of a step of training."""
        return self.seconds / max(1, self.measurements) / self.step_seconds


class Clock:
    """What measuring and training take."""

    def __init__(self) -> None:
        self.setup = 0.0
        """Seconds that making the pair took."""
        self.taken: list[float] = []
        """Seconds of each measurement."""
        self.step_seconds = float("nan")
        """What a step took, without measurements; NaN before the first."""
        self._first = 0
        self._begun = self._before = 0.0

    def begin(self, step: int) -> None:
        """Training begins, at this step."""
        self._first, self._begun, self._before = step, time.perf_counter(), sum(self.taken)
        self.step_seconds = float("nan")

    def end_step(self, step: int) -> None:
        """Training has done this step."""
        spent = time.perf_counter() - self._begun - (sum(self.taken) - self._before)
        self.step_seconds = spent / (step - self._first)

    @contextmanager
    def measuring(self, device: torch.device) -> Generator[None]:
        """Time a measurement."""
        began = _now(device)
        yield
        self.taken.append(_now(device) - began)

    @contextmanager
    def setting_up(self, device: torch.device) -> Generator[None]:
        """Time the making of the pair."""
        began = _now(device)
        yield
        self.setup += _now(device) - began

    def values(self) -> dict[str, float]:
        """What is logged of the last measurement."""
        found = {"seconds": self.taken[-1]}
        if self.step_seconds > 0:
            found["share_of_step"] = self.taken[-1] / self.step_seconds
        return found


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.get_device_module(device.type).synchronize(device)
    return time.perf_counter()
