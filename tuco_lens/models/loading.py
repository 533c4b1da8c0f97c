"""Loading: from what a user names to two TransformerLens models of one kind that were found to be a pair.

`load_pair` loads; `choose_backend` says beforehand into which kind of model. Models are read with `sources.py` and the
tokenizer with `tokenizer.py`, checked with `checks.py`, given an adapter with `adapter.py`, and converted with
`hooked.py` or `bridge.py`.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from tuco_lens.errors import LoadError

if TYPE_CHECKING:
    import torch

    from tuco_lens.models.adapter import Adapter
    from tuco_lens.models.loaded import LoadedPair
    from tuco_lens.models.placement import Placement
    from tuco_lens.models.sources import LoadOptions, Source

__all__ = [
    "BACKENDS",
    "LOADING",
    "AdapterNotice",
    "BackendNotice",
    "choose_backend",
    "load_pair",
    "require_unloaded",
]

LOADING = threading.RLock()
"""One pair loads at a time: libraries are patched for the length of a load, and each load puts back what it found."""
BACKENDS = ("auto", "hooked", "bridge")
"""The values of `backend=`."""
_N_CHECKED: Final = 8
_ANOTHER: Final = "no backend takes them: choose decoder-only text models that TransformerLens lists"


class BackendNotice(UserWarning):
    """`backend="auto"` chose TransformerBridge; the message says why."""


class AdapterNotice(UserWarning):
    """An adapter's config names another base model than the one given."""


@dataclass(frozen=True)
class _Plan:
    """What is known before any weights are read."""

    base: Source
    base_config: Any
    tuned: Source | Adapter
    tuned_config: Any
    options: LoadOptions
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    placement: Placement | None = None
    """Where each part of both models goes, if not all of them to `device`."""


def load_pair(
    base: Any,
    tuned: Any = None,
    *,
    adapter: str | Path | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    max_memory: Any = None,
    offload_folder: str | Path | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> LoadedPair:
    """Load a base model and its fine-tune, and check that they are a pair.

    Configs are compared before any weights are read, so that a mismatch costs no download. No weight is processed.
    A transformers model given loaded is never changed: what is hooked is a copy, which shares its weights unless these
    have to be moved or cast.

    With `adapter`, the base weights are in memory once. On the bridge the adapter stays beside them where it can.
    Otherwise, and always in a `HookedTransformer`, it is merged into copies of the matrices that it changes.

    Args:
        base, tuned, adapter, backend, device_map, max_memory, offload_folder, tokenizer, trust_remote_code,
            allow_pickle: as in `ModelPair.from_pretrained`.
        device: by default where a loaded model is, else CUDA if there is one, else the CPU.
        dtype: by default the wider of the two models' own, but float32 on the CPU unless one is given loaded.

    Returns:
        Both models and the tokenizer.

    Raises:
        PairMismatchError: The two are not base and tuned model of one another; the message says where they differ.
        LoadError: One of them cannot be loaded, or not with this backend.
    """
    from tuco_lens.models.backends import blocks
    from tuco_lens.models.files import gguf_parsed_once
    from tuco_lens.models.loaded import LoadedPair
    from tuco_lens.models.offload import require_same_devices
    from tuco_lens.models.placement import read_placement
    from tuco_lens.models.sources import quiet_libraries

    _require_choices(tuned, adapter, backend)
    placement = read_placement(device_map, max_memory, offload_folder, device)
    with LOADING, quiet_libraries(), gguf_parsed_once():
        plan = _planned(base, tuned, adapter, tokenizer, device, dtype, placement, trust_remote_code, allow_pickle)
        elsewhere = _weights_elsewhere(plan)
        chosen = choose_backend(backend, plan.base, plan.base_config, plan.tuned, plan.tuned_config, elsewhere)
        plan = _placed(plan)
        load = _load_two if adapter is None else _load_with_adapter
        base_model, tuned_model, ends = load(plan, chosen)
        names = f"cannot load {plan.base.name!r} and {plan.tuned.name!r} as a pair"
        require_same_devices(blocks(base_model), blocks(tuned_model), names)
    return LoadedPair(
        base_model, tuned_model, plan.tokenizer, chosen, plan.base.name, plan.tuned.name, ends, plan.tuned_config
    )


def _require_choices(tuned: Any, adapter: Any, backend: str) -> None:
    if (tuned is None) == (adapter is None):
        given = "neither is" if tuned is None else "both are"
        raise LoadError("cannot load a pair", f"{given} given of tuned and adapter", "give exactly one of the two")
    if backend not in BACKENDS:
        names = ", ".join(repr(name) for name in BACKENDS)
        raise LoadError(f"cannot load with the backend {backend!r}", "there is no such backend", f"give one of {names}")


def _planned(
    base: Any,
    tuned: Any,
    adapter: str | Path | None,
    tokenizer: Any,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    placement: Placement | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> _Plan:
    """Read the configs and the tokenizer, and refuse whatever can be refused without reading weights."""
    from tuco_lens.models.adapter import open_adapter
    from tuco_lens.models.checks import require_same_structure
    from tuco_lens.models.placement import choose_device
    from tuco_lens.models.sources import LoadOptions, choose_dtype, read_config, resolve_source
    from tuco_lens.models.tokenizer import find_tokenizer

    options = LoadOptions(trust_remote_code, allow_pickle)
    base_source = resolve_source(base, "base", options)
    tuned_source = resolve_source(tuned, "tuned", options) if adapter is None else open_adapter(adapter, options)
    base_config = read_config(base_source, options)
    tuned_config = base_config
    if adapter is None:
        tuned_config = read_config(cast("Source", tuned_source), options)
        require_same_structure(base_config, tuned_config, base_source.name, tuned_source.name)
    sources = [source for source in (tuned_source, base_source) if hasattr(source, "kind")]
    if placement is not None:
        require_unloaded(placement, sources)
        device = _torch_device(placement.device)
    where = choose_device(device, *cast("list[Source]", sources))
    what = choose_dtype(dtype, where, *_dtype_givers(base_source, base_config, tuned_source, tuned_config))
    found = find_tokenizer(tokenizer, base_source, tuned_source, options)
    return _Plan(base_source, base_config, tuned_source, tuned_config, options, where, what, found, placement)


def _torch_device(device: int | str) -> torch.device:
    """A device as accelerate names it: a number is an accelerator."""
    import torch

    return torch.device(device)


def require_unloaded(placement: Placement, sources: list[Any]) -> None:
    """Raises `LoadError` for a device map beside a model that is loaded already."""
    for source in sources:
        if source.kind == "loaded":
            why = f"the {source.role} model is given loaded, and stays where it is"
            raise LoadError(f"cannot use the device map {placement.device_map!r}", why, "leave it out, or give names")


def _placed(plan: _Plan) -> _Plan:
    """The plan with a device map that names a place for each module, and the device where the models then begin."""
    from tuco_lens.models.placement import resolved_map

    if plan.placement is None:
        return plan
    trust = plan.options.trust_remote_code
    n_models = 1 if _is_adapter(plan.tuned) else 2
    found = resolved_map(plan.placement, plan.base_config, plan.dtype, n_models=n_models, trust_remote_code=trust)
    placement = replace(plan.placement, device_map=found)
    return replace(plan, placement=placement, device=_torch_device(placement.device))


def _dtype_givers(base: Source, base_config: Any, tuned: Source | Adapter, tuned_config: Any) -> tuple[Any, Any]:
    """For each model: itself if it was given loaded, else its config, which has the dtype of the checkpoint."""
    ours = base.location if base.kind == "loaded" else base_config
    if getattr(tuned, "kind", None) == "loaded":
        return ours, cast("Source", tuned).location
    return ours, tuned_config if hasattr(tuned, "kind") else ours


def choose_backend(
    backend: str, base: Any, base_config: Any, tuned: Any, tuned_config: Any, elsewhere: str | None = None
) -> Literal["hooked", "bridge"]:
    """The backend to use; with "auto", a `BackendNotice` says why it is the bridge.

    Args:
        backend: what the user asks for.
        base: where the base model is; only its name counts.
        base_config: its transformers config.
        tuned: where the tuned model is, or an adapter: what has no `kind`.
        tuned_config: its config; with an adapter the base model's.
        elsewhere: why no HookedTransformer can be made of models whose weights are spread over devices, if they are.

    Raises:
        LoadError: The backend asked for does not take these models, or, with "auto", none does.
    """
    refusals: dict[str, str | None] = {}

    def unsupported(name: str) -> str | None:
        """Why a backend does not take this pair, or None if it does."""
        if name not in refusals:
            module = importlib.import_module(f"tuco_lens.models.{name}")
            refusals[name] = module.unsupported_reason(base_config) or module.unsupported_reason(tuned_config)
        return refusals[name]

    has_adapter = _is_adapter(tuned)
    what = f"cannot load {base.name!r} and {tuned.name!r}"
    if backend != "auto":
        reason = unsupported(backend) or (elsewhere if backend == "hooked" else None)
        if reason is not None:
            other = "hooked" if backend == "bridge" else "bridge"
            remedy = f"give backend={other!r} or 'auto'" if unsupported(other) is None else _ANOTHER
            raise LoadError(f"{what} with the backend {backend!r}", reason, remedy)
        return cast("Literal['hooked', 'bridge']", backend)
    reason = "an adapter keeps the base weights in memory once there" if has_adapter else None
    reason = elsewhere or reason or unsupported("hooked")
    if reason is None:
        return "hooked"
    refusal = unsupported("bridge")
    if refusal is None:
        warnings.warn(f"taking the backend 'bridge': {reason}", BackendNotice, stacklevel=4)
        return "bridge"
    if elsewhere is None and has_adapter and unsupported("hooked") is None:
        return "hooked"
    why = f"hooked: {elsewhere or unsupported('hooked')}, bridge: {refusal}"
    raise LoadError(f"{what} with any backend", why, _ANOTHER)


def _is_adapter(source: Any) -> bool:
    return not hasattr(source, "kind")


def _weights_elsewhere(plan: _Plan) -> str | None:
    """Why no HookedTransformer can be made of these models, which are spread over devices; None if they are not."""
    from tuco_lens.models.offload import is_dispatched

    sources: tuple[Any, ...] = (plan.base, plan.tuned)
    given = [source.location for source in sources if getattr(source, "kind", None) == "loaded"]
    spread = plan.placement is not None or any(map(is_dispatched, given))
    return "a HookedTransformer copies all weights to one device, and a device map spreads them" if spread else None


def _load_two(plan: _Plan, backend: str) -> tuple[Any, Any, frozenset[int]]:
    """Load, check and convert one model after the other, so that at most one is ever in memory twice."""
    from tuco_lens.models.checks import require_same_tensors, tensor_shapes

    hf_base = _sound_model(plan.base, plan.base_config, plan)
    base_shapes, base_ends = tensor_shapes(hf_base)
    base = _same(hf_base, backend, plan, plan.base.name)
    del hf_base
    hf_tuned = _sound_model(cast("Source", plan.tuned), plan.tuned_config, plan)
    tuned_shapes, tuned_ends = tensor_shapes(hf_tuned)
    require_same_tensors(base_shapes, tuned_shapes, base_ends | tuned_ends, plan.base.name, plan.tuned.name)
    ends = _end_tokens(hf_tuned, plan.tokenizer)
    return base, _same(hf_tuned, backend, plan, plan.tuned.name), ends


def _load_with_adapter(plan: _Plan, backend: str) -> tuple[Any, Any, frozenset[int]]:
    """Load the base model once, and make the tuned model of it; its logits must be those of PEFT's own model.

    The adapter stays beside the shared base weights if it can, and is merged where the conversion would drop it.
    """
    from tuco_lens.models.adapter import attach_adapter
    from tuco_lens.models.adapter_checks import other_base
    from tuco_lens.models.merging import merge_adapter, merged_by_peft, stays_beside
    from tuco_lens.models.offload import JOINT_PROJECTIONS

    adapter = cast("Adapter", plan.tuned)
    trained_on = other_base(adapter.config, plan.base.name)
    if trained_on is not None:
        names = f"was trained on {trained_on!r} by its config, and the base given is {plan.base.name!r}"
        remedy = "if these are two models, give the one that it was trained on"
        warnings.warn(f"the adapter {adapter.name!r} {names}; {remedy}", AdapterNotice, stacklevel=5)
    hf_base = _sound_model(plan.base, plan.base_config, plan)
    if stays_beside(adapter):
        hf_tuned = attach_adapter(hf_base, adapter, plan.base.name)
        expected, ends = _logits(hf_tuned, plan), _end_tokens(hf_tuned, plan.tokenizer)
        merged = ("",) if backend == "hooked" else JOINT_PROJECTIONS
        tuned = _converted(merge_adapter(hf_tuned, merged), backend, plan)
        if backend == "bridge" and not _agree(_logits(tuned, plan), expected, plan):
            tuned = _converted(merge_adapter(attach_adapter(hf_base, adapter, plan.base.name)), backend, plan)
    else:
        hf_tuned, expected = merged_by_peft(hf_base, adapter, plan.base.name, lambda model: _logits(model, plan))
        ends = _end_tokens(hf_tuned, plan.tokenizer)
        tuned = _converted(hf_tuned, backend, plan)
    if not _agree(_logits(tuned, plan), expected, plan):
        why = f"with the backend {backend!r} its logits are not those of PEFT's own model"
        raise LoadError(adapter.what, why, "merge it with PEFT, and give the merged model as tuned")
    return _same(hf_base, backend, plan, plan.base.name), tuned, ends


def _end_tokens(hf_model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a text. A chat model often has two: the end of a turn and the end of the text."""
    config = getattr(hf_model, "generation_config", None)
    found = [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    return frozenset(i for ids in found if ids is not None for i in (ids if isinstance(ids, list) else [ids]))


def _sound_model(source: Source, config: Any, plan: _Plan) -> Any:
    from tuco_lens.models.checks import require_finite
    from tuco_lens.models.offload import whole_weights
    from tuco_lens.models.sources import load_model
    from tuco_lens.models.text_model import text_model

    model = text_model(load_model(source, config, plan.options, plan.device, plan.dtype, plan.placement))
    require_finite(whole_weights(model), source.what)
    return model


def _same(hf_model: Any, backend: str, plan: _Plan, name: str) -> Any:
    """Convert the model, and check that its logits are those of the transformers model, and causal.

    TransformerLens' bridges compute some architectures differently; `to_hooked` compares logits by itself.
    """
    from tuco_lens.models.failures import explained, model_class, remedy
    from tuco_lens.models.numerics import logit_error, logit_tolerance

    if backend == "hooked":
        return _converted(hf_model, backend, plan)
    what, config = f"cannot load {name!r}", hf_model.config
    with explained(what, config, backend):
        expected = _logits(hf_model, plan)
        # Whether logits depend on later tokens. Both models have one architecture: checking the base model is enough.
        beginning = _logits(hf_model, plan, _N_CHECKED - 2) if name == plan.base.name else expected[:, :-2]
        model = _converted(hf_model, backend, plan)
        error = logit_error(_logits(model, plan), expected)
    if not expected.isfinite().all():  # the pair's own check refuses it
        return model
    if not logit_error(beginning, expected[:, :-2]) <= logit_tolerance(plan.dtype):
        why = f"{model_class(config)} reads the tokens that come after, so what it gives depends on the padding"
        raise LoadError(what, why, "give a causal model; of this one perhaps with is_decoder true in its config")
    if not error <= logit_tolerance(plan.dtype):
        why = (
            f"as a TransformerBridge, {model_class(config)} gives logits that differ from transformers' by {error:.1%}"
        )
        raise LoadError(what, why, remedy(config, backend))
    return model


def _converted(hf_model: Any, backend: str, plan: _Plan) -> Any:
    from tuco_lens.models.failures import explained

    with explained(f"cannot load {plan.base.name!r} and {plan.tuned.name!r}", hf_model.config, backend):
        if backend == "hooked":
            from tuco_lens.models.hooked import to_hooked

            # The base model may have to take longer prompts than it was made for.
            longest = getattr(plan.tuned_config.get_text_config(), "max_position_embeddings", 0)
            return to_hooked(hf_model, plan.tokenizer, n_ctx=longest)
        from tuco_lens.models.bridge import to_bridge

        return to_bridge(hf_model, plan.tokenizer)


def _logits(model: Any, plan: _Plan, n_tokens: int = _N_CHECKED) -> torch.Tensor:
    """Logits [1, n_tokens, d_vocab] of a transformers model, or its conversion, for the first of eight fixed tokens."""
    import torch

    # From the middle of the vocabulary, since special tokens are at its ends.
    middle = max(plan.base_config.get_text_config().vocab_size // 2 - _N_CHECKED // 2, 0)
    ids = torch.arange(middle, middle + n_tokens, device=plan.device)[None]
    is_hooked = type(model).__name__ == "HookedTransformer"
    with torch.no_grad():
        output = model(ids) if is_hooked else model(ids, use_cache=False)
    return (output if isinstance(output, torch.Tensor) else output.logits).float()


def _agree(one: torch.Tensor, other: torch.Tensor, plan: _Plan) -> bool:
    """Whether two computations of the same logits differ by no more than rounding."""
    import torch

    tolerance = max(1e-5, 20 * torch.finfo(plan.dtype).eps) if plan.dtype.itemsize < 4 else 1e-5
    return float((one - other).abs().max()) <= tolerance * float(other.abs().max())
