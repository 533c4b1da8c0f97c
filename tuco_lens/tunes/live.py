"""A model in training beside what it began from, as a pair: without a second copy of anything that does not train.

The tuned model is a copy of the trained model's *modules*, whose parameters share its memory; so it is always the model
as it is now, and whatever TransformerLens hangs on modules, modes and configs is on the copy. The base is another such
copy: for PEFT with the adapters off (`adapters.py`), and with a frozen clone of every weight of a block that trains
(`frozen.py`). Embedding, final norm and unembedding are never cloned, since TuCo has only the tuned model's.
`callback.py` measures the pair.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.errors import InputError, LoadError
from tuco_lens.tunes.adapters import (
    adapter_tensors,
    has_adapters,
    is_left_alone,
    noisy_adapters,
    put_back,
    settle_adapters,
)
from tuco_lens.tunes.frozen import FrozenCopy, FrozenWeights, assign

if TYPE_CHECKING:
    from torch import Tensor

    from tuco_lens.pair import ModelPair

__all__ = ["LivePair", "given_weights", "plain_model", "require_whole"]

_WHAT: Final = "cannot measure the model in training"
_SAMPLED: Final = 1024
"""Values of each weight that a fingerprint reads."""
_SHARDED: Final = "train with DDP or on one device, or measure the saved checkpoints with tuco_lens.trajectory"


def require_whole(trainer: Any) -> None:
    """Refuse trainers of which no process has the whole weights.

    Raises:
        LoadError: The weights are sharded (FSDP, DeepSpeed ZeRO-3, tensor parallel).
    """
    why = None
    if getattr(trainer, "is_fsdp_enabled", False):
        why = "FSDP shards its weights over processes"
    elif getattr(trainer, "is_deepspeed_enabled", False):
        stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
        why = "DeepSpeed ZeRO-3 shards its weights over processes" if stage == 3 else None
    elif any(type(parameter.data).__name__ == "DTensor" for parameter in trainer.model.parameters()):
        why = "its weights are DTensors, which are sharded over processes"
    if why is not None:
        raise LoadError(_WHAT, why, _SHARDED)


def plain_model(model: Any) -> Any:
    """The transformers model in what a trainer trains: without wrappers for devices, compilation and PEFT.

    Raises:
        LoadError: It has a PEFT method that adds tokens, or no transformers model is within.
    """
    from accelerate.utils import extract_model_from_parallel
    from transformers import PreTrainedModel

    inner: Any = extract_model_from_parallel(model, keep_torch_compile=False)
    configs: Mapping[str, Any] = getattr(inner, "peft_config", None) or {}
    for config in configs.values():
        if config.is_prompt_learning or config.is_adaption_prompt:
            why = f"{config.peft_type.value} adds tokens or prefixes and changes no weights"
            raise LoadError(_WHAT, why, "train an adapter such as LoRA")
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if not isinstance(inner, PreTrainedModel):
        raise LoadError(_WHAT, f"a {type(inner).__name__} is not a transformers model", "train one, or PEFT's of one")
    return inner


class LivePair:
    """The model of a trainer beside what it was when this was made.

    Args:
        model: what the trainer trains; it is never changed.
        tokenizer: of the prompts.
        keep: how the base keeps what trains.
        since_start: with PEFT, the base is the model as it is now, adapters included, and not with the adapters off.
        base: the weights of another base by name, as `given_weights` reads them.

    Raises:
        LoadError: if the model cannot be measured in training.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        keep: FrozenCopy,
        since_start: bool = False,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        from tuco_lens.models.adapter_checks import check_adapter_config

        plain = plain_model(model)
        for config in (getattr(plain, "peft_config", None) or {}).values():
            check_adapter_config(config, _WHAT)
        self._tokenizer, self._has_adapters = tokenizer, has_adapters(plain)
        self.adapters_off = self._has_adapters and not since_start and is_left_alone(plain)
        """Whether the base is the model with its adapters off."""
        self._frozen = FrozenWeights(_changing(plain, base, adapters_off=self.adapters_off), keep)
        self._merges_all = False
        self._kept: ModelPair | None = None
        self._shared: set[int] = set()
        self._try(plain)

    @property
    def frozen_bytes(self) -> int:
        """What the clones of weights that train take, wherever they are."""
        return self._frozen.n_bytes

    def pair(self, model: Any) -> ModelPair:
        """The pair with the weights as they are now; valid until the model trains on.

        Args:
            model: what the trainer trains now.

        Raises:
            InputError: if weights train that did not when this was made.
        """
        plain = plain_model(model)
        self._require_known(plain)
        if self._kept is not None and self._shared <= _addresses(plain):
            return self._kept
        made = self._made(plain)
        self._keep(made, plain)
        return made

    def began_from(self, model: Any) -> bool:
        """Whether the model has, bit for bit, the base's weights wherever these are clones."""
        import torch

        named = dict(plain_model(model).named_parameters())
        return named.keys() >= self._frozen.names and all(
            torch.equal(named[name].detach().to(value), value) for name, value in self._frozen.items()
        )

    def fingerprint(self, model: Any) -> str:
        """Tells one base from another: a digest of some values of every weight that is the base's."""
        import hashlib

        digest, frozen = hashlib.sha256(), dict(self._frozen.items())
        for name, parameter in plain_model(model).named_parameters():
            if parameter.requires_grad and name not in frozen:
                continue  # an adapter's, or of no block
            value: Any = (frozen[name] if name in frozen else parameter.detach()).flatten()
            sample = value[:: max(1, len(value) // _SAMPLED)][:_SAMPLED]
            digest.update(f"{name} {tuple(parameter.shape)} {sample.double().tolist()}".encode())
        return digest.hexdigest()

    def _try(self, plain: Any) -> None:
        """Make the pair with adapters that do something, so that comparing logits shows if they are lost.

        Where they are, they are merged, anew for each measurement.
        """
        noisy = noisy_adapters(plain)
        try:
            made = self._made(plain, noisy)
        except LoadError:
            if not self._has_adapters:
                raise
            self._merges_all = True
            made = self._made(plain, noisy)
        put_back(made.tuned, noisy, plain)
        self._keep(made, plain)

    def _keep(self, made: ModelPair, plain: Any) -> None:
        """Keep a pair that follows the training: none of its weights is a copy, and all that train are in it."""
        live, there = _addresses(plain), _addresses(made.tuned)
        # TransformerLens adds biases of zeros; whatever else is not the model's was copied when the pair was made.
        own = (p for p in made.tuned.parameters() if not p.is_meta and _address(p) not in live)
        trains = {_address(parameter) for parameter in plain.parameters() if parameter.requires_grad}
        follows = trains <= there and not any(bool(parameter.any()) for parameter in own)
        self._kept, self._shared = (made, there & live) if follows else (None, set())

    def _made(self, plain: Any, noisy: Mapping[str, Tensor] | None = None) -> ModelPair:
        from tuco_lens.models.offload import JOINT_PROJECTIONS
        from tuco_lens.pair import ModelPair

        tuned, base = _apart(plain), _apart(plain)
        assign(tuned, noisy or {})
        self._frozen.put_into(base)
        if self._has_adapters:
            merged = ("",) if self._merges_all else JOINT_PROJECTIONS
            settle_adapters(tuned, merged, on=True)
            settle_adapters(base, merged, on=not self.adapters_off)
        pair = ModelPair.from_pretrained(base, tuned, tokenizer=self._tokenizer, backend="bridge")
        return replace(pair, tuned_name=f"{pair.base_name}, in training")

    def _require_known(self, plain: Any) -> None:
        changing = _changing(plain, None, adapters_off=self.adapters_off)
        unknown = next((name for name in changing if name not in self._frozen.names), None)
        if unknown is not None:
            why = f"{unknown} trains now, and did not when the callback was made, so what it began from is not known"
            raise InputError(_WHAT, why, "let all that will train require gradients before, or give base=")


def given_weights(base: Any, model: Any) -> dict[str, Tensor]:
    """The weights of another base that the model in training began from, by the names that it has for them.

    Args:
        base: hub id, local directory or `.gguf` file, or a loaded transformers model.
        model: what the trainer trains, without adapters.

    Raises:
        InputError: The model has adapters.
        LoadError: The base cannot be loaded.
        PairMismatchError: It is not the base of this model.
    """
    from tuco_lens.models.checks import require_same_structure, require_same_tensors, tensor_shapes
    from tuco_lens.models.offload import computing_device
    from tuco_lens.models.sources import LoadOptions, load_model, quiet_libraries, read_config, resolve_source
    from tuco_lens.models.text_model import text_model

    plain, options, trained = plain_model(model), LoadOptions(), "the model in training"
    if has_adapters(plain):
        raise InputError(f"base={base!r}", "the base of adapters is the model that they are on", "leave it out")
    source = resolve_source(base, "base", options)
    with quiet_libraries():
        config = read_config(source, options)
        require_same_structure(config, plain.config, source.name, trained)
        loaded = load_model(source, config, options, computing_device(plain), plain.dtype)
    (ours, ends), (theirs, more) = tensor_shapes(text_model(loaded)), tensor_shapes(text_model(plain))
    require_same_tensors(ours, theirs, ends | more, source.name, trained)
    return {name: parameter.detach() for name, parameter in loaded.named_parameters(remove_duplicate=False)}


def _changing(plain: Any, given: Mapping[str, Tensor] | None, *, adapters_off: bool) -> dict[str, Tensor]:
    """The weights of blocks that the base must have clones of, by name: what trains, or all of a base that is given."""
    adapters = adapter_tensors(plain) if adapters_off else frozenset[int]()
    of_blocks = {id(parameter) for parameter in _blocks(plain).parameters()} - adapters
    named = {name: parameter for name, parameter in plain.named_parameters() if id(parameter) in of_blocks}
    if given is not None:
        return {name: given[name] for name in named}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}


def _blocks(plain: Any) -> Any:
    """The list of a transformers model's blocks; the model itself if there is no such list."""
    import torch

    n_layers = getattr(plain.config.get_text_config(), "num_hidden_layers", None)
    lists = (module for module in plain.modules() if isinstance(module, torch.nn.ModuleList))
    return next((each for each in lists if len(each) == n_layers), plain)


def _apart(plain: Any) -> Any:
    """A copy of the model's modules that shares its weights, and nothing of what training has hung on it.

    Hooks would fire while it is measured. What is put around one model's `forward` (accelerate's autocast, TRL's fused
    unembedding) calls that model's own, also from a copy.
    """
    from tuco_lens.models.sources import copy_sharing_weights

    copied = copy_sharing_weights(plain, {id(hooks): type(hooks)() for hooks in _hooks(plain)})
    for hooks in _hooks(copied):
        hooks.clear()  # those of quantised modules
    for module in copied.modules():
        if not isinstance(vars(module).get("forward"), functools.partial):  # accelerate's hooks, which go with the copy
            _take_back_forward(module)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(copied).pop(name, None)
    return copied.requires_grad_(False).eval()


def _take_back_forward(module: Any) -> None:
    """Give a module the `forward` of its class, within accelerate's hook if it has one."""
    vars(module).pop("forward", None)
    if "_hf_hook" in vars(module):
        module._old_forward = module.forward
        module.forward = functools.update_wrapper(functools.partial(_hooked_forward, module), module.forward)


def _hooked_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = module._hf_hook.pre_forward(module, *args, **kwargs)
    return module._hf_hook.post_forward(module, module._old_forward(*args, **kwargs))


def _hooks(model: Any) -> Iterator[Any]:
    for module in model.modules():
        for name, value in vars(module).items():
            if name.startswith(("_forward_", "_backward_")) and isinstance(value, dict):
                yield value


def _address(parameter: Any) -> int:
    return parameter.untyped_storage().data_ptr()


def _addresses(model: Any) -> set[int]:
    return {_address(parameter) for parameter in model.parameters() if not parameter.is_meta}
