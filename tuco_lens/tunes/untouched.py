"""Leaves alone what a training run has of the process: its random numbers, its threads, its autocast."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
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
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what training draws from
    put_back, threads, dtype = _device_states(device.type), torch.get_num_threads(), torch.get_default_dtype()
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        put_back()
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _device_states(kind: str) -> Callable[[], None]:
    """What puts back the random states of every accelerator of a kind."""
    if kind == "cpu":
        return lambda: None
    module: Any = torch.get_device_module(kind)
    if hasattr(module, "get_rng_state_all"):
        states: Any = module.get_rng_state_all()
        return lambda: module.set_rng_state_all(states)
    state: Any = module.get_rng_state()  # there is one device, as with mps
    return lambda: module.set_rng_state(state)
