"""What `--alpha` takes: a number, or ranges of layers with a number each, such as `0-3:0.5,4:1.2`.

Whether those layers exist is known with the model; see `steering/alpha.py`.
"""

from __future__ import annotations

import re

from tuco_lens.errors import InputError
from tuco_lens.steering.alpha import Alpha, finite_alpha

_PART = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?:(.+)", re.DOTALL)


def parse_alpha(text: str) -> Alpha:
    """α as `ModelPair.scaled` takes it; layers that are not named keep 1.

    Raises:
        InputError: if it is neither, a range runs backwards, a layer is named twice, or a number is not finite.
    """
    if ":" not in text:
        return _number(text, text)
    found: dict[int | range, float] = {}
    given: set[int] = set()
    for part in text.split(","):
        layers, value = _part(part, text)
        if given.intersection(layers):
            raise InputError(f"--alpha {text}", "it names a layer twice", "name each layer once")
        given.update(layers)
        found[layers] = value
    return found


def _part(part: str, text: str) -> tuple[range, float]:
    match = _PART.fullmatch(part)
    if match is None:
        raise _unreadable(text)
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise InputError(f"--alpha {text}", f"{first}-{last} runs backwards", f"write {last}-{first}")
    if last > 100_000:  # no model is so deep, and a range is gone through layer by layer
        raise InputError(f"--alpha {text}", f"there is no layer {last}", "name layers of the model")
    return range(first, last + 1), _number(match[3], text)


def _number(text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _unreadable(whole) from None
    return finite_alpha(number)


def _unreadable(text: str) -> InputError:
    why = "it is neither a number nor layers with a number"
    return InputError(f"--alpha {text}", why, "write such as 0.8, or 0-3:0.5,4:1.2")
