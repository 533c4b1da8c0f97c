"""Where each part of a pair goes: accelerators, CPU memory, disk. accelerate decides it; both models get one map.

What the user asks for is checked by `read_placement`; `resolved_map` has accelerate make a device map of it before any
weights are read, with half of the memory for each of two models, so that the base block and the tuned block of one
layer are on one device. `offload_folder` is where transformers writes what cannot be read from the checkpoint itself
while the models run. What such a model has to be treated like is in `offload.py`.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from tuco_lens.errors import LoadError
from tuco_lens.models.offload import computing_device, offload_hook

if TYPE_CHECKING:
    import torch

    from tuco_lens.models.sources import Source

DeviceMap = Mapping[str, "int | str"]
MaxMemory = Mapping["int | str", "int | str"]
_OFF: Final = ("cpu", "disk")
_MEMORY_REMEDY: Final = "give such as {0: '70GiB', 'cpu': '100GiB'}: bytes, or a number with KB, MB, GB, KiB, MiB, GiB"
_CPU_SHARE: Final = 0.9
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Placement:
    """What the user asked for, checked as far as it can be without a model."""

    device_map: str | DeviceMap
    """"auto", or where each module goes by its name in transformers: an accelerator, "cpu" or "disk"."""
    max_memory: Mapping[int | str, int]
    """Bytes that the pair may take of each device. What is not named is not used, but for the disk."""
    folder: Path | None
    """Where weights may be written that have to be put on disk."""

    @property
    def device(self) -> str | int:
        """Where it computes: the first accelerator, if there is one, else the CPU."""
        named = self.max_memory if isinstance(self.device_map, str) else self.device_map.values()
        return next((device for device in named if device not in _OFF), "cpu")


def choose_device(device: str | int | torch.device | None, *sources: Source) -> torch.device:
    """The device asked for, else that of a loaded model, else CUDA if there is one, else the CPU.

    Raises:
        LoadError: `device` is not a device, or this machine does not have it.
    """
    import torch

    if device is None:
        loaded = [computing_device(source.location) for source in sources if source.kind == "loaded"]
        return loaded[0] if loaded else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise LoadError(f"cannot use the device {device!r}", reason, "give 'cpu', 'cuda' or 'mps'") from error
    return chosen


def read_placement(device_map: Any, max_memory: Any, folder: str | Path | None, device: Any = None) -> Placement | None:
    """What `device_map`, `max_memory` and `offload_folder` ask for; None without a device map.

    Raises:
        LoadError: One of them is malformed, or does not go with the others, or the folder cannot be written to.
    """
    if device_map is None:
        if max_memory is not None or folder is not None:
            name = "max_memory" if folder is None else "offload_folder"
            raise LoadError(f"cannot use {name}", "it goes with a device map", "give device_map='auto' too")
        return None
    what = f"cannot use the device map {device_map!r}"
    if device is not None:
        raise LoadError(what, f"device={str(device)!r} is given too", "give one of the two")
    if device_map != "auto" and not (isinstance(device_map, Mapping) and device_map):
        raise LoadError(what, "it is neither 'auto' nor a mapping", "give 'auto', or devices by names of modules")
    if device_map != "auto" and max_memory is not None:
        raise LoadError(
            "cannot use max_memory", "the device map says where each module goes", "give 'auto', or no limit"
        )
    for device in () if device_map == "auto" else device_map.values():
        _require_device(device, what)
    where = None if folder is None else Path(folder).expanduser()
    if where is not None:
        _require_writable(where)
    return Placement(device_map, _read_memory(max_memory) if device_map == "auto" else {}, where)


def resolved_map(
    placement: Placement, config: Any, dtype: torch.dtype, *, n_models: int, trust_remote_code: bool = False
) -> dict[str, int | str]:
    """Where each module goes, for every model of a pair alike; nothing is read for it but the config.

    Args:
        placement: What the user asked for.
        config: The base model's transformers config.
        dtype: Of the weights.
        n_models: Models that are in memory: 2, or 1 with an adapter.
        trust_remote_code: Passed on to transformers.

    Raises:
        LoadError: No device has room for one layer, or the user's map names no place for a weight.
    """
    from accelerate import infer_auto_device_map, init_empty_weights
    from accelerate.utils import get_balanced_memory
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.tie_weights()
    if not isinstance(placement.device_map, str):
        _require_whole(placement.device_map, model)
        return _without_rest(dict(placement.device_map), model)
    whole: Any = list(getattr(model, "_no_split_modules", None) or ())
    _require_room(placement, model, dtype, whole)
    shares: Any = {device: size // n_models for device, size in placement.max_memory.items()}
    how: dict[str, Any] = {"no_split_module_classes": whole, "dtype": dtype}
    found: Any = infer_auto_device_map(model, get_balanced_memory(model, shares, **how), **how)
    return dict(found)


@contextmanager
def offload_folder(placement: Placement | None, role: str, what: str) -> Generator[str | None]:
    """A folder of its own for one model's weights, None without one; what a full disk raises becomes a `LoadError`.

    It is removed if the loading fails, or else together with the model (`remove_with`).

    Raises:
        LoadError: The folder is full, or a folder is needed.
    """
    folder = None if placement is None or placement.folder is None else placement.folder
    own = None
    try:
        if folder is not None:
            own = tempfile.mkdtemp(prefix=f"{role}-", dir=folder)
        yield own
    except BaseException as error:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
        if folder is not None and _is_full(error):
            remedy = "give an offload_folder on a disk with more room, or more of max_memory"
            raise LoadError(what, f"the offload folder {str(folder)!r} is full", remedy) from error
        if folder is None and "offload_folder" in str(error):
            why = "weights that go to disk have to be written anew, as its checkpoint has them in another layout"
            raise LoadError(what, why, "give offload_folder=, with room for them") from error
        raise


def remove_with(folder: str | None, model: Any) -> None:
    """Remove a folder once no copy of the model is left that reads weights from it; at once if there are none in it."""
    if folder is None:
        return
    if not any(Path(folder).iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
        return
    # Every copy of the model shares the mapping that reads the files (`offload.shared_objects`).
    stored = next(hook.weights_map.dataset for part in model.modules() if (hook := offload_hook(part)) is not None)
    weakref.finalize(stored, shutil.rmtree, folder, ignore_errors=True)


def _read_memory(given: Any) -> dict[int | str, int]:
    """Bytes by device, as given or what is free of each."""
    from accelerate.utils import convert_file_size_to_int, get_max_memory

    if given is None:  # a part of the CPU's is left to the streams, and to what is being loaded
        return {device: int(size * (_CPU_SHARE if device == "cpu" else 1)) for device, size in get_max_memory().items()}
    what = f"cannot use max_memory {given!r}"
    if not isinstance(given, Mapping) or not given:
        raise LoadError(what, "it is no mapping from devices to sizes", _MEMORY_REMEDY)
    found: dict[int | str, int] = {}
    for device, size in given.items():
        try:
            found[device] = convert_file_size_to_int(size)
        except (ValueError, TypeError, AttributeError) as error:
            raise LoadError(what, f"{size!r} is no size", _MEMORY_REMEDY) from error
        if isinstance(size, bool) or found[device] < 0:
            raise LoadError(what, f"{size!r} is no size", _MEMORY_REMEDY)
        _require_device(device, what)
    return dict(get_max_memory(dict(found)))  # in accelerate's order


def _require_device(device: Any, what: str) -> None:
    """Refuse what accelerate has no name for, and accelerators that are not there; `what` begins the message."""
    if isinstance(device, bool) or not isinstance(device, int | str):
        raise LoadError(what, f"{device!r} is no device", "give the number of an accelerator, 'cpu' or 'disk'")
    if device not in _OFF:
        choose_device(device)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        what = f"cannot write to the offload folder {str(folder)!r}"
        raise LoadError(what, why, "give a folder that can be written to") from error


def _require_room(placement: Placement, model: Any, dtype: torch.dtype, whole: list[str]) -> None:
    """Refuse limits under which no device takes the largest layer, which it must while that runs."""
    from accelerate.utils import compute_module_sizes
    from accelerate.utils.modeling import get_max_layer_size

    sizes: Any = compute_module_sizes(model, dtype=cast("Any", dtype))
    largest, names = get_max_layer_size(list(model.named_children()), sizes, whole)
    most = max((size for device, size in placement.max_memory.items() if device != "disk"), default=0)
    if most < largest:
        layer = f"{names[0]} has {largest / 2**20:,.1f} MiB"
        why = (
            f"no device has room for one layer: {layer}, and the most that a device may give is {most / 2**20:,.1f} MiB"
        )
        raise LoadError("cannot place the pair", why, "raise max_memory, or give a narrower dtype")


def _require_whole(device_map: DeviceMap, model: Any) -> None:
    """Refuse a map with devices that are not there, with names that the model lacks, or that leaves weights out."""
    what = "cannot use the device map"
    for name, _ in model.named_parameters():
        if not any(not place or name == place or name.startswith(f"{place}.") for place in device_map):
            raise LoadError(what, f"it has no place for {name}", "name the module or one around it, or '' for the rest")
    modules = dict(model.named_modules())
    for place in device_map:
        if place not in modules:
            raise LoadError(
                what, f"the model has no module {place!r}", f"give such as {next(iter(modules.keys() - {''}))!r}"
            )


def _without_rest(device_map: dict[str, int | str], model: Any) -> dict[str, int | str]:
    """The map with a name for each module that "" stands for beside others: accelerate takes "" only alone."""
    if "" not in device_map or len(device_map) == 1:
        return device_map
    found = {name: device for name, device in device_map.items() if name}
    pending = list(model.named_children())
    while pending:
        path, module = pending.pop()
        if path in device_map:
            continue
        if any(name.startswith(f"{path}.") for name in device_map):
            pending += [(f"{path}.{name}", child) for name, child in module.named_children()]
        else:
            found[path] = device_map[""]
    return found


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that a disk is full; safetensors says it in words alone."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or "No space left" in str(error) or "quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
