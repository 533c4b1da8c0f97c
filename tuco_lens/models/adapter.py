"""A tuned model made of a base model and a PEFT adapter, with the base weights in memory once.

The transformers base model is copied, sharing all its weights, and PEFT injects the adapter into the copy: base and
tuned model differ only in the adapter's own tensors. Where plain matrices are needed (HookedTransformer), or where the
adapter cannot be kept beside the base weights, `merging.py` folds it into copies of the matrices that it changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tuco_lens.errors import LoadError
from tuco_lens.models.adapter_checks import check_adapter_config, check_patterns
from tuco_lens.models.checks import require_finite
from tuco_lens.models.files import checkpoints_remedy, require_no_pointer, require_whole_safetensors
from tuco_lens.models.hub import hub_listing, raise_translated, validate_hub_id
from tuco_lens.models.offload import fill_added
from tuco_lens.models.sources import LoadOptions, copy_sharing_weights, local_path, looks_like_path, quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Adapter", "attach_adapter", "open_adapter"]

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_PICKLE: Final = "adapter_model.bin"
_PREFIX: Final = "base_model.model."
"""What PEFT puts in front of the base model's module names when it saves."""
_BESIDE_OFFLOADED: Final = ("LORA", "IA3")
"""Kinds of adapter that need of the modules which they change only what these give out."""
_READ_WEIGHTS: Final = ("use_dora", "trainable_token_indices", "target_parameters")
"""Settings with which they need the weights themselves."""
_OTHER_MODEL: Final = "give the base model that the adapter was trained on"


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter that was found and looks complete, before it is applied."""

    name: str
    """The hub id or directory that the user gave."""
    folder: Path
    """Where its files are; a tokenizer may be among them."""
    weights: Path
    """Its weights, safetensors or (if allowed) a pickle."""
    config: Any
    """Its `peft.PeftConfig`."""

    @property
    def what(self) -> str:
        """The first part of every error about it."""
        return f"cannot load the adapter {self.name!r}"


def open_adapter(given: str | Path, options: LoadOptions) -> Adapter:
    """Find an adapter and read its config, not yet its weights.

    Args:
        given: A local directory or a hub id.
        options: Whether a pickle may be read.

    Raises:
        LoadError: PEFT is not installed; or the adapter does not exist, is incomplete, has an unusable config or
            weights in a pickle that is not allowed, or is of a kind that adds tokens instead of changing weights.
    """
    name = str(given)
    what = f"cannot load the adapter {name!r}"
    _require_peft(what)
    from peft import PeftConfig

    folder = _adapter_folder(given, what, options)
    require_no_pointer(folder / _CONFIG, what)
    weights = _weights_file(folder, what, options)
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise_translated(error, what, name)
    check_adapter_config(config, what)
    if config.is_prompt_learning or config.is_adaption_prompt:
        why = f"{config.peft_type.value} adds tokens or prefixes and changes no weights"
        raise LoadError(what, why, "give an adapter such as LoRA")
    return Adapter(name, folder, weights, config)


def attach_adapter(base: Any, adapter: Adapter, base_name: str) -> Any:
    """The tuned model: `base` with the adapter, sharing every weight of `base` that the adapter does not replace.

    Low-rank and scaling adapters keep their tensors beside the base weights. What an adapter replaces as a whole
    (`modules_to_save`, trained biases, resized embeddings) gets memory of its own. All are cast to the dtype of `base`.

    Args:
        base: The transformers base model, which is not changed.
        adapter: What `open_adapter` found.
        base_name: What the user gave as base, for error messages.

    Returns:
        A transformers model in evaluation mode, of the class of `base`.

    Raises:
        LoadError: The adapter belongs to another model (the message names what does not fit), PEFT cannot attach it,
            or its weights are damaged or not finite; or it needs weights that a device map keeps elsewhere, or is
            DoRA over weights in 8 bits on the CPU.
    """
    import torch

    weights = _read_weights(adapter)
    _require_within_reach(base, weights, adapter)
    _require_runs_twice(base, adapter)
    tuned = copy_sharing_weights(base)
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    with quiet_libraries(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PEFT's advice on training and saving
        _replace_embeddings(tuned, weights, adapter, base_name)
        _inject(tuned, adapter, base_name)
        fill_added(tuned)
        _unshare(tuned, weights, shared)
        _load(tuned, weights, shared, adapter, base_name)
        _unwrap_saved_modules(tuned)
    return tuned.requires_grad_(False).eval()


def _require_peft(what: str) -> None:
    import importlib.util

    if importlib.util.find_spec("peft") is None:
        raise LoadError(what, "the package 'peft' is not installed", "install it with `pip install 'tuco_lens[peft]'`")


def _adapter_folder(given: str | Path, what: str, options: LoadOptions) -> Path:
    """The local directory, or that of the downloaded files of the hub repository."""
    path = local_path(given)
    if path.is_dir():
        if not (path / _CONFIG).is_file():
            whole = (path / "config.json").is_file()
            remedy = "give a whole model as tuned, not as adapter" if whole else checkpoints_remedy(path, _CONFIG)
            remedy = remedy or "give the directory that PEFT has saved"
            raise LoadError(what, f"{str(path)!r} has no {_CONFIG}", remedy)
        return path
    name = str(given)
    if isinstance(given, Path) or looks_like_path(name):
        raise LoadError(what, "there is no such directory", "check the path")
    validate_hub_id(name, what)
    return _download(name, what, options)


def _download(name: str, what: str, options: LoadOptions) -> Path:
    from huggingface_hub import snapshot_download

    names = hub_listing(name, what)
    if names and _PICKLE in names and _WEIGHTS not in names and not options.allow_pickle:
        raise _pickle_refused(what)
    patterns = [_CONFIG, _WEIGHTS, "tokenizer*", "special_tokens_map.json", "chat_template*", "vocab*", "merges.txt"]
    try:
        with quiet_libraries():
            folder = snapshot_download(name, allow_patterns=[*patterns, *([_PICKLE] if options.allow_pickle else [])])
    except Exception as error:
        raise_translated(error, what, name)
    return Path(folder)


def _weights_file(folder: Path, what: str, options: LoadOptions) -> Path:
    safe, pickle = folder / _WEIGHTS, folder / _PICKLE
    if safe.is_file():
        require_whole_safetensors(safe, what)
        return safe
    require_no_pointer(pickle, what)
    if pickle.is_file() and options.allow_pickle:
        return pickle
    if pickle.is_file():
        raise _pickle_refused(what)
    raise LoadError(what, f"it has no {_WEIGHTS}", "give the directory that PEFT has saved")


def _pickle_refused(what: str) -> LoadError:
    return LoadError(
        what,
        f"its weights are in a pickle ({_PICKLE}), which can run code when it is read",
        "convert it to safetensors, or pass allow_pickle=True if you trust its author",
    )


def _read_weights(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's tensors on the CPU, checked to be finite, by name without PEFT's prefix."""
    import torch
    from safetensors.torch import load_file

    try:
        if adapter.weights.name == _WEIGHTS:
            weights = load_file(adapter.weights)
        else:
            weights = torch.load(adapter.weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise_translated(error, adapter.what, adapter.name)
    require_finite(weights.items(), adapter.what)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}


def _require_within_reach(base: Any, weights: Mapping[str, Tensor], adapter: Adapter) -> None:
    """Refuse an adapter that reads or replaces weights of the base which accelerate keeps elsewhere."""
    elsewhere = {name for name, parameter in base.named_parameters(remove_duplicate=False) if parameter.is_meta}
    if not elsewhere:
        return
    kind, remedy = adapter.config.peft_type.value, "load it without device_map, or give the merged model as tuned"
    reads = [name for name in _READ_WEIGHTS if getattr(adapter.config, name, None)]
    if kind not in _BESIDE_OFFLOADED or reads:
        how = f" with {reads[0]}" if reads else ""
        why = f"the kind {kind}{how} reads the base model's weights, which its device map keeps elsewhere"
        raise LoadError(adapter.what, why, remedy)
    whole = sorted(name for name in weights if name.replace(".base_layer.", ".") in elsewhere)
    if whole:
        why = f"it replaces {whole[0]} as a whole, which the base model's device map keeps elsewhere"
        raise LoadError(adapter.what, why, remedy)


def _require_runs_twice(base: Any, adapter: Adapter) -> None:
    """Refuse DoRA over weights in 8 bits on the CPU: in its forward pass PEFT replaces them, and loses their scale."""
    if getattr(adapter.config, "use_dora", False) and any(
        type(parameter).__name__ == "Int8Params" and parameter.device.type == "cpu" for parameter in base.parameters()
    ):
        why = "PEFT runs DoRA over weights in 8 bits only once on a CPU, and fails from then on"
        raise LoadError(adapter.what, why, "give the base in 4 bits or unquantised")


def _replace_embeddings(tuned: Any, weights: Mapping[str, Tensor], adapter: Adapter, base_name: str) -> None:
    """Give the tuned model the embeddings that the adapter saved whole; they may have more rows than the base's."""
    import torch

    ends = {id(end): end for end in (tuned.get_input_embeddings(), tuned.get_output_embeddings()) if end is not None}
    names = {id(module): name for name, module in tuned.named_modules() if id(module) in ends}
    tied = len({id(end.weight) for end in ends.values()}) < len(ends) and not _unties(adapter.config)
    replaced: dict[int, Any] = {}
    for key, end in ends.items():
        saved = weights.get(f"{names[key]}.weight", weights.get(f"{names[key]}.base_layer.weight"))
        if saved is None:
            continue
        if saved.shape[1:] != end.weight.shape[1:]:
            _raise_shapes(names[key], saved, end.weight, adapter, base_name)
        replaced[key] = torch.nn.Parameter(saved.to(end.weight), requires_grad=False)
    for key, end in ends.items():
        weight = replaced.get(key, next(iter(replaced.values())) if tied and replaced else None)
        if weight is not None:
            _set_rows(end, weight)
    if replaced:
        tuned.config.get_text_config().vocab_size = tuned.get_input_embeddings().weight.shape[0]


def _unties(config: Any) -> bool:
    """Whether the adapter unties embedding and unembedding: PEFT does not tie its copies of `modules_to_save` again."""
    saved = set(getattr(config, "modules_to_save", None) or ())
    return bool(saved) and not getattr(config, "ensure_weight_tying", False)


def _set_rows(end: Any, weight: Tensor) -> None:
    end.weight = weight
    for attribute in ("num_embeddings", "out_features"):
        if hasattr(end, attribute):
            setattr(end, attribute, weight.shape[0])


def _inject(tuned: Any, adapter: Adapter, base_name: str) -> None:
    from peft import inject_adapter_in_model

    adapter.config.inference_mode = True
    check_patterns(adapter.config, dict(tuned.named_modules()).keys(), adapter.what)
    try:
        inject_adapter_in_model(adapter.config, tuned)
    except Exception as error:  # of any kind, for a config that has passed all checks here
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if "not found in the base model" in why:
            why = f"it adapts modules that {base_name!r} does not have ({why})"
            raise LoadError(adapter.what, why, _OTHER_MODEL) from error
        raise LoadError(adapter.what, why, "merge it with PEFT, and give the merged model as tuned") from error


def _unshare(tuned: Any, weights: Mapping[str, Tensor], shared: set[int]) -> None:
    """Give memory of their own to the shared parameters that the adapter saved whole (trained biases)."""
    import torch

    named = dict(tuned.named_parameters(remove_duplicate=False))
    for name in weights:
        if name in named and named[name].data_ptr() in shared:
            module, _, own = name.rpartition(".")
            setattr(tuned.get_submodule(module), own, torch.nn.Parameter(named[name].clone(), requires_grad=False))


def _load(tuned: Any, weights: dict[str, Tensor], shared: set[int], adapter: Adapter, base_name: str) -> None:
    """Fill the injected tensors; refuse surplus weights, and weights that leave a tensor at its initial value."""
    from peft import set_peft_model_state_dict

    own = {name for name, parameter in tuned.named_parameters() if parameter.data_ptr() not in shared}
    try:
        result: Any = set_peft_model_state_dict(tuned, weights)
    except Exception as error:  # of any kind, for tensors that do not fit
        _raise_misfit(tuned, weights, error, adapter, base_name)
    unused = sorted(result.unexpected_keys)
    if unused:
        why = f"{len(unused)} of its tensors have no place in {base_name!r}, the first is {unused[0]}"
        raise LoadError(adapter.what, why, _OTHER_MODEL)
    empty = sorted(name for name in own.intersection(result.missing_keys) if "original_module" not in name)
    empty = [name for name in empty if _is_adapter_tensor(name, adapter)]
    if empty:
        why = f"its weights lack {len(empty)} tensors that {base_name!r} needs, the first is {empty[0]}"
        raise LoadError(adapter.what, why, _OTHER_MODEL)


def _is_adapter_tensor(name: str, adapter: Adapter) -> bool:
    """Whether the adapter has to fill this parameter of the tuned model."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return PEFT_TYPE_TO_PREFIX_MAPPING[adapter.config.peft_type] in name or ".modules_to_save." in name


def _raise_misfit(
    tuned: Any, weights: Mapping[str, Tensor], error: Exception, adapter: Adapter, base_name: str
) -> NoReturn:
    """Name the first tensor that has the wrong shape or is lacking; PEFT's own message runs over many lines."""
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    for name, saved in weights.items():
        if name in expected and expected[name].shape != saved.shape:
            _raise_shapes(name, saved, expected[name], adapter, base_name, error)
    lacking = sorted(set(expected) - set(weights))
    why = f"its weights lack {lacking[0]}" if lacking else str(error).strip().splitlines()[-1][:300]
    raise LoadError(adapter.what, why, _OTHER_MODEL) from error


def _raise_shapes(
    name: str, saved: Tensor, expected: Tensor, adapter: Adapter, base_name: str, error: Exception | None = None
) -> NoReturn:
    why = f"{name} has the shape {tuple(saved.shape)}, and {base_name!r} needs {tuple(expected.shape)}"
    raise LoadError(adapter.what, why, _OTHER_MODEL) from error


def _unwrap_saved_modules(tuned: Any) -> None:
    """Replace PEFT's wrappers around modules that the adapter saved whole by the saved modules themselves."""
    from peft.utils.other import ModulesToSaveWrapper

    wrappers = [(name, module) for name, module in tuned.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    for name, wrapper in wrappers:
        set_module(tuned, name, wrapper.modules_to_save[wrapper.active_adapters[0]])


def set_module(model: Any, name: str, module: Any) -> None:
    """Replace the submodule called `name`."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
