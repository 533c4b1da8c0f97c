"""Leaves alone what a training run has of the process: its random numbers, its threads, its autocast."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["untouched"]


@contextmanager
def untouched(device: torch.device) -> Generator[None]:
    """Random states, the number of threads and the default dtype are afterwards what they were; no autocast meanwhile.

    Args:
        device: where the model computes.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a training run may draw from
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    kind = device.type
    numbers = range(torch.get_device_module(kind).device_count()) if kind != "cpu" else ()
    fork: dict[str, Any] = {"devices": list(numbers), "device_type": kind if kind != "cpu" else "cuda"}
    try:
        with torch.random.fork_rng(**fork), torch.autocast(kind, enabled=False), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
