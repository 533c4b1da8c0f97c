"""Maps of the report packed into text: a byte or two for each number, deflated; `assets/report/data.js` unpacks them.

A page of 500 prompts holds millions of numbers, which as digits would be six times as long. They are rounded to even
steps instead, of which there are more than a screen has colours; the errors are stated with each function. Numbers
that have to be exact, such as each prompt's TuCo, are written as digits elsewhere (`data.py`).
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from tuco_lens.brief import Brief

FINE: Final = 4094
"""Steps of a cumulative map."""
COARSE: Final = 254
"""Steps of the other maps, and of all norms: what a byte holds beside "missing"."""


@dataclass(frozen=True)
class PackedShares(Brief):
    """A map of shares as whole numbers."""

    codes: UInt16[np.ndarray, "layer token"]
    """0 … `steps`: the share in units of `top / steps`; `steps` + 1 where it is missing."""
    top: float
    """The largest share, or 1 if none is above 0."""


@dataclass(frozen=True)
class PackedNorms(Brief):
    """A map of norms as whole numbers."""

    codes: UInt8[np.ndarray, "layer token"]
    """0 where the norm is 0; 1 … `COARSE`: even steps of its logarithm; 255 where it is missing."""
    low: float
    """Logarithm of the smallest norm above 0."""
    high: float
    """Logarithm of the largest norm."""


def pack_shares(values: Float[np.ndarray, "layer token"], steps: int) -> PackedShares:
    """Rounds shares to whole steps; see `share_error`.

    Args:
        values: Numbers of 0 or more, [n_layers, n_tokens]; what is not finite is missing.
        steps: How many; `FINE` or `COARSE`.
    """
    finite = np.isfinite(values)
    top = float(np.max(values, where=finite, initial=0.0)) or 1.0
    codes = np.where(finite, np.rint(np.where(finite, values, 0.0) / top * steps), steps + 1)
    return PackedShares(codes.astype(np.uint16), top)


def pack_norms(values: Float[np.ndarray, "layer token"]) -> PackedNorms:
    """Rounds norms to whole steps of their logarithm; see `norm_error`. A norm of 0 stays 0.

    Args:
        values: Numbers of 0 or more, [n_layers, n_tokens]; what is not finite is missing.
    """
    finite = np.isfinite(values)
    positive = finite & (values > 0)
    logs = np.log(np.where(positive, values, 1.0).astype(np.float64))
    low = float(np.min(logs, where=positive, initial=np.inf))
    high = float(np.max(logs, where=positive, initial=-np.inf))
    if low > high:
        low = high = 0.0  # no norm is above 0
    step = (high - low) / (COARSE - 1) or 1.0
    codes = np.where(positive, 1 + np.rint((logs - low) / step), np.where(finite, 0, COARSE + 1))
    return PackedNorms(codes.astype(np.uint8), low, high)


def share_error(top: float, steps: int) -> float:
    """How far a packed share may be off: half a step."""
    return top / (2 * steps)


def norm_error(low: float, high: float) -> float:
    """How far a packed norm may be off, as a share of it: 1.4 % if the largest is a thousand times the smallest.

    Args:
        low: Logarithm of the smallest norm.
        high: Logarithm of the largest.
    """
    return math.expm1((high - low) / (2 * (COARSE - 1)))


def share_planes(packed: PackedShares, steps: int) -> list[bytes]:
    """The codes as bytes, row after row: all low bytes, then, if there are more than 256 codes, all high bytes."""
    planes = [packed.codes & 255, packed.codes >> 8] if steps > COARSE else [packed.codes]
    return [plane.astype(np.uint8).tobytes() for plane in planes]


def to_text(*parts: bytes) -> str:
    """Bytes put together, deflated, and written with letters and digits.

    Each part is coded by itself, which tells where they are little alike: a tenth of the size of maps.
    """
    deflater = zlib.compressobj(9)
    deflated = [deflater.compress(part) + deflater.flush(zlib.Z_BLOCK) for part in parts]
    return base64.b64encode(b"".join(deflated) + deflater.flush()).decode("ascii")
