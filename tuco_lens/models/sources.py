"""From what a user names (hub id, directory, `.gguf` file or loaded model) to a transformers config and model.

Tokenizers are in `tokenizer.py`. Folders and hub repositories are checked in `files.py` and `hub.py`, and whether two
models are a pair in `checks.py`; the conversion to TransformerLens is in `hooked.py` and `bridge.py`. For a local path
nothing touches the network.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import sys
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuco_lens.errors import LoadError
from tuco_lens.models.files import inspect_directory
from tuco_lens.models.hub import inspect_repository, raise_translated, validate_hub_id
from tuco_lens.models.offload import computing_device, is_dispatched, require_stored, shared_objects
from tuco_lens.models.placement import Placement, offload_folder, remove_with

if TYPE_CHECKING:
    import torch

__all__ = [
    "LoadOptions",
    "Source",
    "choose_dtype",
    "copy_sharing_weights",
    "load_model",
    "looks_like_path",
    "quiet_libraries",
    "read_config",
    "resolve_source",
]

_IGNORABLE_BUFFERS = ("inv_freq", "attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias")
"""Name endings of tensors in old checkpoints that follow from the config: rotary tables and causal masks."""
_SHOWN = 3
"""How many tensors an error names; the rest is only counted."""


@dataclass(frozen=True)
class LoadOptions:
    """What the user allows a checkpoint to do."""

    trust_remote_code: bool = False
    """Whether Python code that comes with a checkpoint may run."""
    allow_pickle: bool = False
    """Whether weights may be read with pickle, which can run code."""


@dataclass(frozen=True)
class Source:
    """One model as the user named it, before anything of it is read."""

    role: str
    """"base" or "tuned", of a tokenizer also "adapter" or "given"; for error messages."""
    name: str
    """What the user gave, for error messages, tables and reports."""
    kind: Literal["hub", "directory", "gguf", "loaded"]
    """How it is read."""
    location: Any
    """The hub id, the directory, the file (Path), or the loaded model itself."""
    offline: bool = True
    """Whether transformers must not touch the network: True except for a hub id when the hub answered."""

    @property
    def what(self) -> str:
        """The first part of every error about this model."""
        return f"cannot load the {self.role} model {self.name!r}"

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that transformers' `from_pretrained` functions need for this source."""
        shared: dict[str, Any] = {"local_files_only": self.offline}
        return {**shared, "gguf_file": self.location.name} if self.kind == "gguf" else shared

    def place(self) -> str:
        """The first argument of transformers' `from_pretrained` functions."""
        return str(self.location.parent) if self.kind == "gguf" else str(self.location)


def resolve_source(given: Any, role: str, options: LoadOptions) -> Source:
    """Find out what `given` is, and refuse it at once if it cannot be loaded safely.

    Args:
        given: A hub id, a local directory or `.gguf` file (string or Path), or a loaded transformers model.
        role: "base" or "tuned".
        options: Whether pickles are allowed.

    Raises:
        LoadError: It does not exist, is incomplete, or is of a kind that cannot be loaded.
    """
    if not isinstance(given, (str, os.PathLike)):
        return _loaded_source(given, role)
    name = os.fspath(given)
    what = f"cannot load the {role} model {name!r}"
    path = local_path(name)
    if name and path.is_dir():
        inspect_directory(path, what, allow_pickle=options.allow_pickle)
        return Source(role, name, "directory", path)
    if name and path.is_file():
        _require_gguf(path, what)
        return Source(role, name, "gguf", path)
    if not name or isinstance(given, os.PathLike) or looks_like_path(name):
        raise LoadError(what, "there is no such directory or file", "check the path")
    validate_hub_id(name, what)
    reachable = inspect_repository(name, what, allow_pickle=options.allow_pickle)
    return Source(role, name, "hub", name, offline=not reachable)


def local_path(name: str | Path) -> Path:
    """The path that a user names, `~` read as a home; a name that can be no path here is one that does not exist."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError):  # an unknown user, a name too long, a NUL
        return Path("/dev/null/no path")
    return path


def looks_like_path(name: str) -> bool:
    """Whether a string that names no existing file was meant as a path and not as a hub id."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name.endswith(".gguf")


def read_config(source: Source, options: LoadOptions) -> Any:
    """The transformers config of a source; a loaded model's is returned unchecked.

    Raises:
        LoadError: The config cannot be read, has sizes that no model has, or is an encoder-decoder model's.
    """
    if source.kind == "loaded":
        return source.location.config
    from transformers import AutoConfig

    from tuco_lens.models.checks import require_sane_config

    try:
        with quiet_libraries():
            config: Any = AutoConfig.from_pretrained(
                source.place(), trust_remote_code=options.trust_remote_code, **source.arguments()
            )
    except Exception as error:
        raise_translated(error, source.what, source.name)
    if getattr(config, "is_encoder_decoder", False):
        why = f"{config.model_type!r} is an encoder-decoder model"
        raise LoadError(source.what, why, "give a decoder-only language model")
    require_sane_config(config, source.what)
    config.return_dict = True  # our code reads outputs by name, whatever the checkpoint says
    return config


def load_model(
    source: Source,
    config: Any,
    options: LoadOptions,
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement | None = None,
) -> Any:
    """The transformers model of a source, in evaluation mode, with complete weights and `config.architectures` set.

    Args:
        source: Where it comes from.
        config: What `read_config` gave for it.
        options: Whether pickles and remote code are allowed.
        device: Where its weights go.
        dtype: What its weights are cast to.
        placement: Where each part of it goes instead, with a resolved map; not for a loaded model.

    Returns:
        A new model. For a loaded model, it is a copy of the modules that shares the user's weights unless these have to
        be moved or cast, so that wrapping or hooking it does not change the user's model.

    Raises:
        LoadError: Weights are missing, surplus, misshapen or damaged, are quantised or dispatched and have to be moved
            or cast, or do not fit into the offload folder.
    """
    if source.kind == "loaded":
        model = _copy_of_loaded(source.location, device, dtype, source.what)
    elif placement is None:
        model = _read_model(source, config, options, dtype).to(device)
    else:
        with offload_folder(placement, source.role, source.what) as folder:
            where = {"device_map": placement.device_map, "offload_folder": folder}
            model = _read_model(source, config, options, dtype, **where)
            remove_with(folder, model)
    if not getattr(model.config, "architectures", None):
        model.config.architectures = [type(model).__name__]
    return model.eval()


def copy_sharing_weights(model: Any, instead: Mapping[int, Any] | None = None) -> Any:
    """A copy of a model's modules and config whose parameters and buffers share `model`'s memory.

    The parameters are new objects, so that freezing, moving or replacing them leaves `model` as it was. Quantised ones
    hold more than a tensor (bitsandbytes, torchao, quanto), so both models have the same object.

    Args:
        model: The transformers model.
        instead: What the copy gets in place of an object of `model`'s, by the `id` of that.
    """
    import torch

    memo: dict[int, Any] = {
        id(module): _with_same_tensors(module) for module in model.modules() if is_quantised(module)
    }
    memo |= {
        id(parameter): torch.nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
        if type(parameter) is torch.nn.Parameter
    }
    memo.update({id(buffer): buffer for buffer in model.buffers()})
    return copy.deepcopy(model, memo | shared_objects(model) | dict(instead or {}))


def is_quantised(module: Any) -> bool:
    """Whether a module itself has a parameter of another class than torch's, as quantised parameters are."""
    import torch

    own = module.parameters(recurse=False)
    return any(type(parameter) is not torch.nn.Parameter for parameter in own)


def _with_same_tensors(module: Any) -> Any:
    """A copy of a module, with its own flags and hooks, that holds the same parameters and buffers."""
    import torch

    other = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(other)[name] = value.copy()
    # When a model that has run on the CPU is asked for its state dict, as PEFT does while it loads, bitsandbytes
    # repacks the weights, wrongly.
    save = torch.nn.Module._save_to_state_dict  # pyright: ignore[reportPrivateUsage]
    vars(other)["_save_to_state_dict"] = functools.partial(save, other)
    return other


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device, base: Any, tuned: Any) -> torch.dtype:
    """The dtype asked for, else float32 on the CPU unless a model is given loaded, else the wider of the models' own.

    Args:
        dtype: "float32", "bfloat16", "float16", "float64", a torch dtype, or None.
        device: Where the pair will be.
        base: The base model's config, or the model itself if it was given loaded.
        tuned: The same of the tuned model.

    Raises:
        LoadError: `dtype` is not a floating-point dtype.
    """
    import torch

    if dtype is None:
        if device.type == "cpu" and not any(isinstance(given, torch.nn.Module) for given in (base, tuned)):
            return torch.float32
        return torch.promote_types(_own_dtype(base), _own_dtype(tuned))
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LoadError(
            f"cannot load in the dtype {dtype!r}",
            "it is not a floating dtype",
            "give 'float32', 'bfloat16' or 'float16'",
        )
    return found


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """Keep libraries from logging what errors here say anyway, and from drawing progress bars outside terminals."""
    import huggingface_hub.utils.logging as hub_logging
    import transformers.utils.logging as hf_logging

    levels = (hf_logging.get_verbosity(), hub_logging.get_verbosity())
    # TransformerLens imports bitsandbytes, which then asks for a package; accelerate says what was asked of it.
    loggers = [logging.getLogger(name) for name in ("bitsandbytes", "accelerate")]
    own_levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    if bars and not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        for logger, level in zip(loggers, own_levels, strict=True):
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def _loaded_source(given: Any, role: str) -> Source:
    from transformers import PreTrainedModel

    kind = type(given).__name__
    what = f"cannot take the {role} model given"
    if kind.startswith("Peft") or getattr(given, "_hf_peft_config_loaded", False) or hasattr(given, "peft_config"):
        raise LoadError(
            what,
            f"it is a {kind} with a PEFT adapter attached",
            "give the base model as base and the adapter's directory or hub id as adapter=, "
            "or give model.merge_and_unload()",
        )
    if not isinstance(given, PreTrainedModel):
        raise LoadError(
            what,
            f"a {kind} is not a transformers model",
            "give a hub id, a local path, or a model that transformers' from_pretrained has returned",
        )
    require_stored(given, what)
    name = str(getattr(given.config, "_name_or_path", "") or "") or kind
    return Source(role, name, "loaded", given)


def _require_gguf(path: Path, what: str) -> None:
    """Refuse a file that is not in the GGUF format, or any if the package that reads it is missing."""
    import importlib.util

    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix != ".gguf" or magic != b"GGUF":
        remedy = "give its directory" if path.name.endswith(".safetensors") else "give a .gguf file or a directory"
        raise LoadError(what, "it is a file, and not in the GGUF format", remedy)
    if importlib.util.find_spec("gguf") is None:
        raise LoadError(what, "the package 'gguf' is not installed", "install it with `pip install 'tuco_lens[gguf]'`")


def _read_model(source: Source, config: Any, options: LoadOptions, dtype: torch.dtype, **where: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with quiet_libraries():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.place(),
                config=config,
                dtype=dtype,
                trust_remote_code=options.trust_remote_code,
                use_safetensors=None if options.allow_pickle or source.kind == "gguf" else True,
                ignore_mismatched_sizes=True,  # they are reported below, with both shapes
                output_loading_info=True,
                **source.arguments(),
                **where,
            )
    except Exception as error:
        raise_translated(error, source.what, source.name)
    model, info = loaded
    _require_complete(info, source)
    if source.kind == "gguf":
        model.config.quantization_config = None  # transformers has dequantised the weights
    return model


def _require_complete(info: dict[str, Any], source: Source) -> None:
    """Refuse weights that do not fit the config; transformers would fill the gaps with random numbers."""
    misshapen = sorted(info["mismatched_keys"])
    if misshapen:
        name, stored, expected = misshapen[0]
        why = f"{name} has the shape {tuple(stored)} in the weights, and {tuple(expected)} by the config"
        raise LoadError(source.what, why, "give a checkpoint whose config.json belongs to its weights")
    missing = _listed(name for name in info["missing_keys"])
    if missing:
        raise LoadError(source.what, f"its weights lack {missing}", "download or save the checkpoint again")
    surplus = _listed(name for name in info["unexpected_keys"] if not name.endswith(_IGNORABLE_BUFFERS))
    if surplus:
        why = f"its weights have tensors that its architecture has no place for: {surplus}"
        raise LoadError(source.what, why, "give a checkpoint whose config.json belongs to its weights")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + rest


def _copy_of_loaded(model: Any, device: torch.device, dtype: torch.dtype, what: str) -> Any:
    here = computing_device(model)
    if here == device and model.dtype == dtype:
        return copy_sharing_weights(model)
    fixed = "dispatched by accelerate" if is_dispatched(model) else "quantised"
    if is_dispatched(model) or any(map(is_quantised, model.modules())):
        change = f"moved from {here} to {device} or cast from {model.dtype} to {dtype}"
        why = f"it is {fixed}, and cannot be {change}"
        raise LoadError(what, why, "load it as it shall be, and leave out device and dtype")
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _own_dtype(given: Any) -> torch.dtype:
    import torch

    own = getattr(given, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32
