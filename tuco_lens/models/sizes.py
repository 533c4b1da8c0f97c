"""What a model holds, from its config and the sizes of its files: none of its weights is read or downloaded.

The config's own transformers class is built on the meta device, where tensors have shapes and no memory, so that the
parameters of any architecture are counted and not guessed. `runs/plan.py` makes memory, operations and time of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tuco_lens.brief import Brief
from tuco_lens.errors import LoadError
from tuco_lens.models.checks import structure
from tuco_lens.models.files import safetensors_files
from tuco_lens.models.hub import file_sizes, raise_translated, safetensors_header
from tuco_lens.models.offload import JOINT_PROJECTIONS
from tuco_lens.models.sources import LoadOptions, Source, local_path, quiet_libraries
from tuco_lens.models.text_model import text_config

__all__ = ["AdapterSizes", "ModelSizes", "adapter_sizes", "checked_weight_bytes", "model_sizes", "weight_bytes"]

_ADAPTER: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_MISFIT: Final = 0.1
"""By how much the parameters of a config and of its files may differ: tied ends, buffers, heads that are not used."""
_ITEMSIZES: Final = (2, 4, 8)
"""Bytes of a parameter in files that are not quantised."""
_ROTARY_ROWS: Final = 2048
"""Positions that a HookedTransformer makes its rotary tables for at first, in every layer."""


@dataclass(frozen=True)
class ModelSizes(Brief):
    """The sizes of one language model; parameters are numbers, not bytes."""

    n_layers: int
    """L, the number of blocks."""
    d_model: int
    """Width of the residual stream."""
    d_attention: int
    """Heads × head dimension; 0 without attention heads."""
    n_heads: int
    """Attention heads; 0 without."""
    d_key_value: int
    """Key-value heads × head dimension."""
    d_mlp: int
    """Entries of the widest activation within an MLP, per token; of all experts that a token goes through."""
    n_ctx: int
    """Longest prompt, in tokens; 0 if the config does not say."""
    d_vocab: int
    """Rows of the embedding."""
    n_parameters: int
    """All parameters; tied ones count once."""
    n_tied: int
    """Parameters of an unembedding that is tied to the embedding, which a HookedTransformer holds twice; else 0."""
    n_block_parameters: int
    """Those of all blocks."""
    n_block_active: int
    """Those of all blocks' matrices that one token is multiplied with: of experts only the chosen ones."""
    matrices: Mapping[str, int]
    """Parameters of each weight, by the name of its module."""
    fuses_attention: bool
    """Whether attention runs in a fused kernel on the bridge, which holds no [batch, head, query, key] tensors."""

    def weights(self, *, hooked: bool) -> int:
        """Parameters in memory, on the hooked backend or on the bridge."""
        return self.n_parameters + (self.n_tied if hooked else 0)

    def tables(self, longest: int) -> int:
        """Entries of the rotary tables that the layers of a HookedTransformer hold, each its own."""
        head = self.d_attention // self.n_heads if self.n_heads else 0
        return 2 * self.n_layers * head * max(min(self.n_ctx, _ROTARY_ROWS), longest)

    def block_flops(self, length: int) -> float:
        """Operations of all blocks for one token of a text of so many tokens.

        Two for each parameter of a matrix (a multiplication and an addition), and 4 · length · heads · head dimension
        in each layer for the two products of attention. Norms, activations and softmax are left out.
        """
        return 2.0 * self.n_block_active + 4.0 * self.n_layers * length * self.d_attention

    @property
    def cache_entries(self) -> int:
        """Entries of a KV cache per token, over all layers."""
        return 2 * self.n_layers * self.d_key_value


@dataclass(frozen=True)
class AdapterSizes:
    """What a PEFT adapter adds to the base model."""

    n_parameters: int
    """Its own parameters."""
    n_bytes: int
    """Bytes of its file."""
    modules: frozenset[str]
    """Names of the modules that it changes."""

    def added(self, base: ModelSizes, *, hooked: bool) -> int:
        """Parameters in memory beside the base: the adapter's, or copies of the matrices that it is merged into."""
        merged = [name for name in self.modules if hooked or name.endswith(JOINT_PROJECTIONS)]
        copied = sum(base.matrices.get(name, 0) for name in merged)
        return copied + (0 if hooked else self.n_parameters)


def model_sizes(source: Source, config: Any, options: LoadOptions) -> ModelSizes:
    """The sizes of the language model that a config describes.

    Args:
        source: where the config comes from, for error messages.
        config: what `read_config` gave for it.
        options: whether code of the checkpoint may run.

    Raises:
        LoadError: if the config lacks a size, or transformers cannot build the model that it describes.
    """
    found = structure(text_config(config))
    n_layers = _required(found, "number of layers", source)
    d_model = _required(found, "d_model", source)
    n_heads = _largest(found["number of attention heads"])
    d_head = _largest(found["head dimension"])
    model = _on_meta(source, text_config(config), options)
    parameters = dict(model.named_parameters())
    in_blocks = _block_parameters(model, n_layers, source)
    text = config.get_text_config()
    share = _share_of_experts(found)
    return ModelSizes(
        n_layers=n_layers,
        d_model=d_model,
        d_attention=n_heads * d_head,
        n_heads=n_heads,
        d_key_value=_largest(found["number of key-value heads"]) * d_head,
        d_mlp=_mlp_width(text, found),
        n_ctx=int(getattr(text, "max_position_embeddings", None) or 0),
        d_vocab=int(getattr(text, "vocab_size", None) or 0),
        n_parameters=sum(each.numel() for each in parameters.values()),
        n_tied=_tied(model),
        n_block_parameters=sum(each.numel() for _, each in in_blocks),
        n_block_active=round(
            sum(each.numel() * (share if _is_expert(name) else 1.0) for name, each in in_blocks if each.ndim > 1)
        ),
        matrices={name.removesuffix(".weight"): each.numel() for name, each in parameters.items()},
        fuses_attention=not getattr(text, "attn_logit_softcapping", None),
    )


def weight_bytes(source: Source) -> int | None:
    """Bytes of the files that a source's weights are read from; None where only the local cache could tell."""
    if source.kind == "gguf":
        return source.location.stat().st_size
    if source.kind == "directory":
        names = [entry.name for entry in source.location.iterdir()]
        files = safetensors_files(source.location, names, source.what)
        files = files or list(source.location.glob("pytorch_model*.bin"))
        return sum(path.stat().st_size for path in files)
    sizes = file_sizes(source.name)
    if sizes is None:
        return None
    whole = "model.safetensors" in sizes
    return sum(
        size
        for name, size in sizes.items()
        if name.endswith(".safetensors") and "/" not in name and (name == "model.safetensors" or not whole)
    ) or sum(size for name, size in sizes.items() if name.startswith("pytorch_model") and name.endswith(".bin"))


def checked_weight_bytes(source: Source, config: Any, sizes: ModelSizes) -> int | None:
    """As `weight_bytes`, of files that may be those of the config.

    A config that lacks its sizes gets transformers' own, of another model, and every figure would be wrong.

    Raises:
        LoadError: if the files hold far more or far fewer parameters than the config describes.
    """
    n_bytes = weight_bytes(source)
    has_more = text_config(config) is not config  # a tower for images
    if n_bytes is None or source.kind == "gguf" or has_more or getattr(config, "quantization_config", None):
        return n_bytes
    least, most = (
        (1 - _MISFIT) * sizes.n_parameters,
        (1 + _MISFIT) * (sizes.n_parameters + sizes.d_vocab * sizes.d_model),
    )
    if not any(least <= n_bytes / itemsize <= most for itemsize in _ITEMSIZES):
        why = f"its config describes {sizes.n_parameters:,} parameters, and its files have {n_bytes:,} bytes"
        raise LoadError(source.what, why, "give a checkpoint whose config.json belongs to its weights")
    return n_bytes


def adapter_sizes(given: str) -> AdapterSizes:
    """The sizes of a PEFT adapter: of a local folder by its file's header, of the hub by the same few bytes.

    Raises:
        LoadError: if there is no such adapter, or its weights are no safetensors file.
    """
    what = f"cannot plan with the adapter {given!r}"
    folder = local_path(given)
    if folder.is_dir():
        shapes, n_bytes = _local_header(folder / _ADAPTER, what)
    else:
        shapes, n_bytes = safetensors_header(given, _ADAPTER, what)
    modules = frozenset(name.removeprefix(_PREFIX).split(".lora_")[0].removesuffix(".weight") for name in shapes)
    return AdapterSizes(sum(map(math.prod, shapes.values())), n_bytes, modules)


def _local_header(path: Path, what: str) -> tuple[dict[str, tuple[int, ...]], int]:
    from safetensors import safe_open

    from tuco_lens.models.files import require_whole_safetensors

    require_whole_safetensors(path, what)
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    return shapes, path.stat().st_size


def _on_meta(source: Source, config: Any, options: LoadOptions) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet_libraries(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=options.trust_remote_code)
    except Exception as error:
        raise_translated(error, source.what, source.name)


def _block_parameters(model: Any, n_layers: int, source: Source) -> list[tuple[str, Any]]:
    """The parameters of the largest list of as many modules as there are layers."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers]
    if not lists:
        why = f"{type(model).__name__} has no list of {n_layers} blocks"
        raise LoadError(source.what, why, "give a decoder-only language model")
    return max((list(each.named_parameters()) for each in lists), key=lambda found: sum(p.numel() for _, p in found))


def _tied(model: Any) -> int:
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    weight = getattr(unembedding, "weight", None)
    return weight.numel() if weight is not None and weight is getattr(embedding, "weight", None) else 0


def _required(found: Mapping[str, Any], label: str, source: Source) -> int:
    value = found[label]
    if not isinstance(value, int) or value < 1:
        raise LoadError(source.what, f"its config has no {label}", "give a checkpoint with a complete config.json")
    return value


def _largest(value: Any) -> int:
    """A size of a config, which may be one for each layer; 0 if it has none."""
    sizes = list(_numbers(value))
    return max(sizes, default=0)


def _numbers(value: Any) -> Iterator[int]:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, int) and not isinstance(each, bool):
            yield each


def _mlp_width(text: Any, found: Mapping[str, Any]) -> int:
    per_token = _largest(found["experts per token"])
    of_expert = _largest(getattr(text, "moe_intermediate_size", None))
    dense = _largest(found["MLP width"]) or 4 * found["d_model"]
    if not per_token or not found["number of experts"]:
        return dense
    shared = _largest(getattr(text, "shared_expert_intermediate_size", None))
    return max(dense if of_expert else 0, per_token * (of_expert or dense) + shared)


def _share_of_experts(found: Mapping[str, Any]) -> float:
    """The part of all experts' parameters that one token is multiplied with."""
    n_experts, per_token = _largest(found["number of experts"]), _largest(found["experts per token"])
    return min(1.0, per_token / n_experts) if n_experts and per_token else 1.0


def _is_expert(name: str) -> bool:
    return "experts." in name and "shared_expert" not in name
