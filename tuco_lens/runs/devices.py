"""Devices that `plan` knows: the memory and the peak of each, as its maker states them; and this machine's own.

A row is name, memory in GB as sold (what the driver reports in GiB is within one per cent of it), and 10^12 operations
per second of dense matrix products: in bfloat16 or float16 with float32 sums, and in float32 without TF32. Makers'
figures "with sparsity" are halved. From the data sheets of NVIDIA (H100, H200, B200, A100, L40S, L4, A10, RTX) and AMD.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

THIS: Final = "this"
"""The name of the machine that plans."""
GIB: Final = 2**30


@dataclass(frozen=True)
class Device(Brief):
    """An accelerator, or a machine's processor."""

    name: str
    """As `--device` takes it; "this" for the machine that plans."""
    kind: str
    """The type of torch's device: "cuda", or "cpu"."""
    memory_bytes: int
    """What it has; of a processor, what is free now."""
    half_flops: float
    """Peak of operations per second in bfloat16 and float16."""
    float_flops: float
    """The same in float32."""
    measured: bool = False
    """Whether the peaks were measured by a product of matrices here, and are not a maker's."""

    def peak(self, dtype: str) -> float:
        """Operations per second at most, in a dtype; float64 counts as half of float32."""
        if dtype in ("bfloat16", "float16"):
            return self.half_flops
        return self.float_flops / 2 if dtype == "float64" else self.float_flops


# fmt: off
_ROWS: Final = (
    ("a10-24gb",        24,  125.0,  31.2),
    ("a100-40gb",       40,  312.0,  19.5),
    ("a100-80gb",       80,  312.0,  19.5),
    ("a6000-48gb",      48,  154.8,  38.7),
    ("b200-180gb",     180, 2250.0,  75.0),
    ("h100-80gb",       80,  989.0,  67.0),
    ("h100-pcie-80gb",  80,  756.0,  51.0),
    ("h200-141gb",     141,  989.0,  67.0),
    ("l4-24gb",         24,  121.0,  30.3),
    ("l40s-48gb",       48,  362.0,  91.6),
    ("mi300x-192gb",   192, 1307.0, 163.4),
    ("rtx3090-24gb",    24,   71.0,  35.6),
    ("rtx4090-24gb",    24,  165.2,  82.6),
)
# fmt: on
KNOWN: Final[dict[str, Device]] = {
    name: Device(name, "cuda", memory * GIB, half * 1e12, full * 1e12) for name, memory, half, full in _ROWS
}
"""By name."""


def find_device(name: str, dtype: str | None = None) -> Device:
    """The device of that name; "this" is the first accelerator of this machine, else its processor.

    Args:
        name: a name of `KNOWN`, or "this".
        dtype: what matrices to multiply to find the peak of "this"; None finds none.

    Raises:
        InputError: for any other name.
    """
    if name == THIS:
        return _this_machine(dtype)
    if name not in KNOWN:
        raise InputError(f"--device {name}", "no device has that name", f"give {THIS}, or {', '.join(KNOWN)}")
    return KNOWN[name]


def resident_bytes() -> int:
    """What this process holds in memory now."""
    import psutil

    return psutil.Process().memory_info().rss


def _this_machine(dtype: str | None) -> Device:
    import psutil
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    memory = torch.cuda.mem_get_info()[1] if kind == "cuda" else psutil.virtual_memory().available
    peak = 0.0 if dtype is None else _multiplied(kind, dtype)
    return Device(THIS, kind, memory, peak, peak, measured=True)


def _multiplied(kind: str, dtype: str) -> float:
    """Operations per second of a product of large matrices, the best of a few."""
    import torch

    size = 1024 if kind == "cpu" else 8192
    a = torch.ones(size, size, dtype=getattr(torch, dtype), device=kind)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for an accelerator
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
