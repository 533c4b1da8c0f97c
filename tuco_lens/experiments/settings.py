"""What an experiment was run with: enough to repeat it, to resume it, and to refuse to mix two runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuco_lens import __version__
from tuco_lens.brief import Brief
from tuco_lens.steering.weights import weights_digest

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair


@dataclass(frozen=True)
class ExperimentSettings(Brief):
    """The pair, the data and the options of one run."""

    experiment: str
    """Name of the experiment."""
    base: str
    """Name of the base checkpoint, as given."""
    tuned: str
    """Name of the tuned checkpoint or adapter, as given."""
    backend: str
    """"hooked" or "bridge"."""
    dtype: str
    """dtype of the weights, such as "float32"."""
    weights: str
    """SHA-256 of a sample of every tensor of both models."""
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    """Checksum of each data set, by name."""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options that decide the numbers, as JSON values."""
    seed: int = 0
    """Seed of every draw."""
    version: str = __version__
    """Version of tuco_lens."""

    def fingerprint(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        return dataclasses.asdict(self)


def settings_of(
    experiment: str, pair: ModelPair, *, data: Mapping[str, str], parameters: Mapping[str, Any], seed: int
) -> ExperimentSettings:
    """The settings of a run of an experiment on a pair."""
    return ExperimentSettings(
        experiment=experiment,
        base=pair.base_name,
        tuned=pair.tuned_name,
        backend=pair.backend,
        dtype=pair.dtype,
        weights=weights_digest(pair),
        data=dict(data),
        parameters=dict(parameters),
        seed=seed,
    )
