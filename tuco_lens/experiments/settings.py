"""What an experiment was run with: enough to repeat it, to resume it, and to refuse to mix two runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuco_lens import __version__
from tuco_lens.brief import Brief
from tuco_lens.runs.environment import Environment
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
    environments: tuple[Environment, ...] = ()
    """Batch size, threads, processor and libraries: one, or several of a run that went on elsewhere, in their order.
    They round the numbers and decide nothing, and are not part of `fingerprint`. Empty in older files."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides the numbers, as JSON values; a run goes on only with the same."""
        return {name: value for name, value in self.to_json().items() if name != "environments"}

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        return {**dataclasses.asdict(self), "environments": [dict(each) for each in self.environments]}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> ExperimentSettings:
        """What `to_json` was called on."""
        fields: dict[str, Any] = {**stored, "environments": tuple(stored.get("environments", ()))}
        return cls(**fields)


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
