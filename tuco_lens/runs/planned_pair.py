"""A pair as far as it is known before its weights are read: configs, sizes, backend, dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    from tuco_lens.models.sizes import AdapterSizes, ModelSizes
    from tuco_lens.models.sources import LoadOptions, Source

ITEMSIZES: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of an entry."""


class NamedSource(NamedTuple):
    """An adapter of which only the name is known."""

    name: str
    """What was given."""


@dataclass(frozen=True)
class PlannedPair:
    """Two models that were found to be a pair by their configs."""

    base: Source
    """Where the base model is."""
    base_config: Any
    """Its transformers config."""
    tuned: Source | NamedSource
    """Where the tuned model is; of an adapter, its name."""
    tuned_config: Any
    """Its config; with an adapter the base model's."""
    backend: str
    """"hooked" or "bridge": what loading would take."""
    sizes: ModelSizes
    """Sizes of the base model."""
    tuned_sizes: ModelSizes
    """Those of the tuned model; with an adapter the base model's."""
    adapter: AdapterSizes | None
    """Sizes of the adapter, if it is one."""
    file_bytes: Mapping[str, int | None]
    """Bytes of the weights' files of "base" and "tuned"; None where that cannot be known."""
    options: LoadOptions
    """What a checkpoint may do."""

    def dtype(self, asked: str | None, kind: str) -> str:
        """The dtype that loading would choose on a device of this kind, such as "cpu"."""
        import torch

        from tuco_lens.models.sources import choose_dtype

        chosen = choose_dtype(asked, torch.device(kind), self.base_config, self.tuned_config)
        return str(chosen).removeprefix("torch.")

    def weights(self, dtype: str) -> tuple[int, int]:
        """Bytes of both models' weights in memory; of an adapter what it adds to the base."""
        hooked, itemsize = self.backend == "hooked", ITEMSIZES[dtype]
        base = self._stored("base", self.base_config) or itemsize * self.sizes.weights(hooked=hooked)
        if self.adapter is not None:
            return base, itemsize * self.adapter.added(self.sizes, hooked=hooked)
        tuned = self._stored("tuned", self.tuned_config) or itemsize * self.tuned_sizes.weights(hooked=hooked)
        return base, tuned

    def _stored(self, role: str, config: Any) -> int | None:
        """Bytes of weights that stay as they are in the files, quantised; None for those that are cast."""
        quantised = getattr(config, "quantization_config", None) and not self._is_gguf(role)
        return self.file_bytes[role] if quantised else None

    def _is_gguf(self, role: str) -> bool:
        return getattr(self.base if role == "base" else self.tuned, "kind", "") == "gguf"

    def loading(self, dtype: str) -> int:
        """Bytes that are held beside the weights while the last model is read.

        Files in the dtype asked for are mapped and not copied. Others are converted tensor by tensor, with the file
        mapped; what transformers dequantises from a `.gguf` file is whole in float32 first.
        """
        role = "base" if self.adapter is not None else "tuned"
        sizes, n_bytes = (self.sizes if role == "base" else self.tuned_sizes), self.file_bytes[role] or 0
        if self._is_gguf(role):
            return n_bytes + 4 * sizes.n_parameters
        kept = ITEMSIZES[dtype] * sizes.n_parameters
        return 0 if 0.9 * kept <= n_bytes <= 1.1 * kept else n_bytes


def planned_pair(choice: PairChoice) -> PlannedPair:
    """Reads the configs and the sizes of the files, and refuses what is no pair.

    Raises:
        LoadError: if a config cannot be read or lacks a size, no backend takes the models, or the hub does not answer.
        PairMismatchError: if the two models are no pair.
    """
    from tuco_lens.models.checks import require_same_structure
    from tuco_lens.models.files import gguf_parsed_once
    from tuco_lens.models.loading import choose_backend
    from tuco_lens.models.sizes import adapter_sizes, checked_weight_bytes, model_sizes
    from tuco_lens.models.sources import LoadOptions, quiet_libraries, read_config, resolve_source

    base_name, tuned_name = choice.names
    options = LoadOptions(choice.trust_remote_code, choice.allow_pickle)
    with gguf_parsed_once():
        base = resolve_source(base_name, "base", options)
        base_config = read_config(base, options)
        tuned, tuned_config, adapter = NamedSource(str(choice.adapter)), base_config, None
        if tuned_name is not None:
            tuned = resolve_source(tuned_name, "tuned", options)
            tuned_config = read_config(tuned, options)
            require_same_structure(base_config, tuned_config, base.name, tuned.name)
    sizes = tuned_sizes = model_sizes(base, base_config, options)
    file_bytes = {"base": checked_weight_bytes(base, base_config, sizes)}
    if isinstance(tuned, NamedSource):
        adapter = adapter_sizes(tuned.name)
        file_bytes["tuned"] = adapter.n_bytes
    else:
        tuned_sizes = model_sizes(tuned, tuned_config, options)
        file_bytes["tuned"] = checked_weight_bytes(tuned, tuned_config, tuned_sizes)
    with quiet_libraries():  # it imports them
        backend = choose_backend(choice.backend, base, base_config, tuned, tuned_config)
    return PlannedPair(
        base, base_config, tuned, tuned_config, backend, sizes, tuned_sizes, adapter, file_bytes, options
    )
