"""Fused attention while measuring: one kernel in place of scores, softmax and weighted sum.

A TransformerBridge computes attention step by step, so that `hook_pattern` and the like have something to fire on.
Where nobody looks there, transformers' own attention with PyTorch's fused kernel gives the same values up to rounding,
in less time and without the [batch, head, query, key] tensors. `ModelPair.measure` (`contributions.batch_norms`)
switches it on for the length of a pass; nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tuco_lens.backends import backend_of, blocks

_PROJECTIONS = ("q", "k", "v", "o")
_STEPWISE_SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in")
"""Settings of TransformerLens that ask for hooks which only its own attention can fire."""

_HOOK_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def fused_attention(*models: Any) -> Generator[bool]:
    """While open, the attention of these models runs fused, if every layer of all of them allows it.

    All or none: the blocks of one model are run with the arguments of another's, and the causal mask that
    transformers makes differs between the two ways. A HookedTransformer, a layer with a hook on attention scores,
    pattern, rotated queries or any other point within, capped scores, or attention of another form than separate
    query, key, value and output projections keeps everything as it is. Hooks on `hook_q`, `hook_k`, `hook_v`,
    `hook_z`, and on what enters and leaves the attention fire as always.

    Yields:
        Whether the attention is fused.
    """
    if not all(_allows(model) for model in models):
        yield False
        return
    with ExitStack() as stack:
        for model in models:
            for attention in _attentions(model):
                _fuse(attention, stack)
            _set_implementation(model, stack)
        yield True


def _attentions(model: Any) -> list[Any]:
    return [getattr(block, "attn", None) for block in blocks(model)]


def _allows(model: Any) -> bool:
    if backend_of(model) != "bridge" or any(getattr(model.cfg, switch, False) for switch in _STEPWISE_SWITCHES):
        return False
    supported = getattr(model.original_model, "_supports_sdpa", False)
    return supported and all(_layer_allows(attention) for attention in _attentions(model))


def _layer_allows(attention: Any) -> bool:
    """Whether transformers' own forward of this layer's attention gives every value and fires every hook in use."""
    own = getattr(attention, "original_component", None)
    if own is None or any(getattr(own, name, None) is not None for name in ("attn_logit_softcapping", "sinks")):
        return False
    parts = getattr(attention, "submodules", {})
    # transformers' forward must reach the projections through the bridge's own, or their hooks would be passed over.
    through_bridge = all(
        name in parts and getattr(own, parts[name].name, None) is getattr(attention, name) for name in _PROJECTIONS
    )
    return through_bridge and not any(_is_hooked(point) for point in _inner_hook_points(attention))


def _inner_hook_points(attention: nn.Module) -> list[nn.Module]:
    """The attention's own hook points, without those of its projections and without its entry and exit."""
    from transformer_lens.hook_points import HookPoint

    return [
        child
        for name, child in attention.named_children()
        if isinstance(child, HookPoint) and name not in ("hook_in", "hook_out")
    ]


def _is_hooked(point: nn.Module) -> bool:
    return any(getattr(point, kind) for kind in _HOOK_KINDS)


def _fuse(attention: Any, stack: ExitStack) -> None:
    """Give one attention bridge a forward that hands over to the transformers module within it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (attention.hook_in(args[0]), *args[1:])
        else:
            kwargs["hidden_states"] = attention.hook_in(kwargs["hidden_states"])
        output, *rest = attention.original_component(*args, **kwargs)
        return attention.hook_out(output), *rest

    object.__setattr__(attention, "forward", forward)  # the instance's own, before the class's
    stack.callback(object.__delattr__, attention, "forward")


def _set_implementation(model: Any, stack: ExitStack) -> None:
    """Put "sdpa" in the model's configs, from which transformers chooses kernel and mask, until the stack closes."""
    configs = [model.original_model.config, *(attention.original_component.config for attention in _attentions(model))]
    for config in {id(config): config for config in configs}.values():
        stack.callback(_setter(config, config._attn_implementation))
        config._attn_implementation = "sdpa"


def _setter(config: Any, value: str | None) -> Callable[[], None]:
    def restore() -> None:
        config._attn_implementation = value

    return restore
