"""The two kinds of TransformerLens model behind one set of functions.

`HookedTransformer` and `TransformerBridge` have the same blocks and hook names, but their forward passes take different
arguments. These are kept here, so that the engine (`engine/contributions.py`) is written once for both.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tuco_lens.models.offload import computing_device

BackendName = Literal["hooked", "bridge"]


def backend_of(model: Any) -> BackendName:
    """Which kind of TransformerLens model this is, told by the names of its classes, without importing them.

    Raises:
        TypeError: for any other model.
    """
    for cls in type(model).__mro__:
        if cls.__name__ == "HookedTransformer":
            return "hooked"
        if cls.__name__ == "TransformerBridge":
            return "bridge"
    raise TypeError(f"neither a HookedTransformer nor a TransformerBridge: {type(model).__name__}")


def blocks(model: Any) -> list[nn.Module]:
    """The model's blocks, in order. Each has `hook_resid_pre` and `hook_resid_post`."""
    return list(model.blocks)


def device_of(model: Any) -> torch.device:
    """The device on which the first block computes, where token ids are sent."""
    return computing_device(blocks(model)[0])


def dtype_of(model: Any) -> torch.dtype:
    """The dtype of the first floating-point weight of the first block."""
    return next(p.dtype for p in blocks(model)[0].parameters() if p.dtype.is_floating_point)


class _BlocksDone(Exception):
    """Raised after the last block that is asked for, to skip the final norm and the unembedding."""


def run_blocks(model: Any, ids: Int[Tensor, "batch pos"], last: int = -1, *, cache: Any = None) -> None:
    """Run a forward pass through the blocks only, up to and including the `last`, for the effect of their hooks.

    With a KV cache the pass goes on from what it holds, and adds to it.

    Unembedding even one position reads the whole matrix, a noticeable cost for a short prompt on a small model, and no
    argument skips it for both kinds of model and every architecture.
    """

    def stop(*_: Any) -> None:
        raise _BlocksDone

    handle = blocks(model)[last].register_forward_hook(stop)  # registered last, so it runs last
    try:
        model(ids, return_type=None, **pass_options(model, ids, cache))
    except _BlocksDone:
        return
    finally:
        handle.remove()


def run_logits(model: Any, ids: Int[Tensor, "batch pos"], cache: Any = None) -> Float[Tensor, "batch pos d_vocab"]:
    """One forward pass with the logits of every position, behind what a KV cache holds if there is one."""
    return model(ids, return_type="logits", **pass_options(model, ids, cache))


def pass_options(model: Any, ids: Int[Tensor, "batch pos"], cache: Any = None) -> dict[str, Any]:
    """The arguments of a pass of right-padded rows, from the beginning or behind what a KV cache holds.

    Under causal attention no token sees the padding that follows, so it needs no mask.
    """
    if backend_of(model) == "bridge":
        return {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    if cache is None:
        return {"padding_side": "right"}
    return {"padding_side": "right", "past_kv_cache": cache, "attention_mask": torch.ones_like(ids)}


def run_embedding(model: Any, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream x_0 that enters block 0, with positions and scaling as the model itself applies them."""
    return model(ids, stop_at_layer=0, **pass_options(model, ids))


def stream_of(block_output: Any) -> Tensor:
    """The residual stream in a block's output, which is a tensor or a tuple that begins with it."""
    return block_output[0] if isinstance(block_output, tuple) else block_output
