"""Whatever happens while a model in training is measured, the training finds its process as it left it."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tuco_lens.tunes.untouched import untouched

CPU = torch.device("cpu")


def _raises() -> None:
    raise KeyError("as a measurement may")


@pytest.mark.parametrize("ends", [lambda: None, _raises], ids=["well", "with an error"])
def test_random_states_threads_and_dtype_are_put_back(ends: Callable[[], None]) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = draws()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    threads = torch.get_num_threads()
    try:
        with untouched(CPU):
            assert not torch.is_grad_enabled()
            draws()
            torch.set_num_threads(threads + 2)
            torch.set_default_dtype(torch.float64)
            ends()
    except KeyError:
        pass
    assert draws() == expected
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, torch.float32)
    assert torch.is_grad_enabled()


def test_autocast_is_off_within_and_on_again_behind() -> None:
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with untouched(CPU):
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16


@pytest.mark.parametrize("several", [True, False], ids=["several devices", "one device"])
def test_the_random_states_of_accelerators_are_put_back_too(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    end = "_all" if several else ""
    state: list[Any] = [7]
    module = {f"get_rng_state{end}": lambda: state[0], f"set_rng_state{end}": lambda old: state.__setitem__(0, old)}
    monkeypatch.setattr(torch, "get_device_module", lambda kind: SimpleNamespace(**module))
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_kwargs: torch.enable_grad())
    with untouched(torch.device("cuda")):
        state[0] = 8
    assert state == [7]
