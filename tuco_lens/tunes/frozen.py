"""What the base keeps of the weights that training changes: clones, where and in what the user wants them.

Clones that lie where the model computes are the base's own parameters. The others are brought in module by module by
accelerate's hooks, as with any model whose weights lie elsewhere (`models/offload.py`).
"""

from __future__ import annotations

import tempfile
import weakref
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuco_lens.errors import LoadError
from tuco_lens.models.offload import JOINT_PROJECTIONS, computing_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["FrozenCopy", "FrozenWeights", "assign"]


@dataclass(frozen=True)
class FrozenCopy:
    """How the base keeps the weights that training changes."""

    dtype: torch.dtype | None = None
    """What they are stored in; by default the trained model's own. They are computed with in the model's."""
    device: torch.device | None = None
    """Where they lie; by default where the model computes."""
    folder: Path | None = None
    """A folder on whose disk they lie instead."""


class FrozenWeights:
    """The base's own weights by name, in the memory or on the disk where they are kept.

    Args:
        weights: what is cloned, of any shapes; not changed.
        keep: where to, and in which dtype.

    Raises:
        OutputError: if the folder cannot be written to.
    """

    def __init__(self, weights: Mapping[str, Tensor], keep: FrozenCopy) -> None:
        kept: dict[str, Tensor] = {
            name: value.detach().to(device=keep.device, dtype=keep.dtype, copy=True) for name, value in weights.items()
        }
        self.names = frozenset(kept)
        self.n_bytes = sum(value.nbytes for value in kept.values())
        self._on_disk = keep.folder is not None and bool(kept)
        self._values: Any = _written(keep.folder, kept) if keep.folder is not None and kept else kept

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Each name with its values, as they are stored."""
        for name in sorted(self.names):
            yield name, self._values[name]

    def put_into(self, base: Any) -> None:
        """Give a copy of the model these weights, or hooks that bring them in.

        Args:
            base: the copy, whose parameters still have the trained model's memory.

        Raises:
            LoadError: if a module must be brought in that a TransformerBridge takes apart.
        """
        named = dict(base.named_parameters())
        alike = all((v.dtype, v.device) == (named[name].dtype, named[name].device) for name, v in self.items())
        if alike and not self._on_disk:
            assign(base, dict(self.items()))
            return
        for path in sorted({name.rpartition(".")[0] for name in self.names}):
            self._hang_hook(base.get_submodule(path), path)

    def _hang_hook(self, module: Any, path: str) -> None:
        """Have accelerate bring in a module's weights while it runs, cast to the dtype that they have in the model."""
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
        from accelerate.utils import PrefixedDataset

        if path.endswith(JOINT_PROJECTIONS):
            why = f"TransformerLens takes {path} apart, and the base's weights would lie elsewhere"
            remedy = "leave out base_dtype, base_device and base_folder"
            raise LoadError("cannot measure the model in training", why, remedy)
        own = dict(module.named_parameters(recurse=False))
        frozen = {f"{path}.{name}": p.detach() for name, p in own.items() if f"{path}.{name}" not in self.names}
        values: Any = PrefixedDataset(ChainMap(frozen, self._values), f"{path}.")
        hook = AlignDevicesHook(computing_device(module), offload=True, weights_map=values)
        add_hook_to_module(module, hook, append=True)


def assign(model: Any, values: Mapping[str, Tensor]) -> None:
    """Replace parameters by name, wherever they stand: tied ones stay tied."""
    import torch

    named = dict(model.named_parameters(remove_duplicate=False))
    made = {id(named[name]): torch.nn.Parameter(value, requires_grad=False) for name, value in values.items()}
    for name, parameter in named.items():
        if id(parameter) in made:
            path, _, own = name.rpartition(".")
            setattr(model.get_submodule(path), own, made[id(parameter)])


def _written(folder: Path, values: Mapping[str, Tensor]) -> Any:
    """The values as they are read from disk, in a folder of their own that goes with what reads them."""
    import shutil

    from accelerate.utils import OffloadedWeightsLoader, offload_state_dict

    from tuco_lens.results.files import output_errors

    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        own = tempfile.mkdtemp(prefix="base-", dir=folder)
        try:
            offload_state_dict(own, dict(values))
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
    loader: Any = OffloadedWeightsLoader(save_folder=own)
    weakref.finalize(loader, shutil.rmtree, own, ignore_errors=True)
    return loader
