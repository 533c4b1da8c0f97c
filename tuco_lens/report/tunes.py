"""What a report is of: one measurement, or one per tune of the same prompts, among which the page has a switch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError

if TYPE_CHECKING:
    from tuco_lens.results.measurement import Measurement

_WHAT: Final = "no report of these tunes"


@dataclass(frozen=True, eq=False)
class Tunes(Brief):
    """The measurements of a report."""

    measurements: tuple[Measurement, ...]
    """One per tune, of the same prompts and with the same settings but for the tuned model, [n_tunes]."""
    names: tuple[str, ...]
    """How the page calls each, [n_tunes]; empty for a measurement without a name."""

    @classmethod
    def of(cls, measured: Measurement | Mapping[str, Measurement]) -> Tunes:
        """One measurement, or several by the names of their tunes.

        Raises:
            InputError: if there is none, or they are not of the same prompts and settings.
        """
        if not isinstance(measured, Mapping):
            return cls((measured,), ())
        if not measured:
            raise InputError(_WHAT, "there is none", "give a measurement of at least one")
        first_name, first = next(iter(measured.items()))
        for name, other in measured.items():
            _check_settings(first_name, first, name, other)
            _check_prompts(first_name, first, name, other)
        return cls(tuple(measured.values()), tuple(measured))

    @property
    def first(self) -> Measurement:
        """What the page shows until another tune is chosen, and what it shows without scripts."""
        return self.measurements[0]

    def __len__(self) -> int:
        return len(self.measurements)


def _check_settings(first_name: str, first: Measurement, name: str, other: Measurement) -> None:
    for field in dataclasses.fields(first.settings):
        one, two = (getattr(each.settings, field.name) for each in (first, other))
        if field.name != "tuned" and one != two:
            why = f"{field.name} is {one!r} in {first_name!r} and {two!r} in {name!r}"
            raise InputError(_WHAT, why, "measure them alike, but for the tuned model")


def _check_prompts(first_name: str, first: Measurement, name: str, other: Measurement) -> None:
    remedy = "measure the same prompts, tokenised alike, with each tune"
    if len(first) != len(other):
        raise InputError(_WHAT, f"{first_name!r} has {len(first)} prompts and {name!r} {len(other)}", remedy)
    for index, (one, two) in enumerate(zip(first, other, strict=True)):
        if one.prompt != two.prompt:
            # Which prompt, and not what stands in it: an error is read in logs.
            raise InputError(_WHAT, f"prompt {index} of {first_name!r} is not that of {name!r}", remedy)
