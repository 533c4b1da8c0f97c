"""The fast path of a TransformerBridge: transformers' own modules, where no hook looks at what the bridge adds.

A bridge wraps every part of a transformers block, so that hooks have a place to sit, and computes attention step by
step, so that `hook_pattern` and the like have something to fire on. Where nobody looks, the wrapped modules give the
same values up to rounding, in less time; and attention in PyTorch's fused kernel needs no [batch, head, query, key]
tensors. Measuring, generating and scoring switch it on for the length of their passes; nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from tuco_lens.engine.use import using
from tuco_lens.models.backends import backend_of, blocks

_WRAPPERS = ("LinearBridge", "NormalizationBridge", "RMSNormalizationBridge", "MLPBridge", "GatedMLPBridge")
"""Wrappers that add nothing but hooks to the module within, as long as no weights are processed."""
_PROJECTIONS = ("q", "k", "v", "o")
_STEPWISE_SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
"""Settings of TransformerLens that ask for hooks which only its own code can fire."""
_FILTER = "_filter_kwargs_for_forward"
_KEPT = "_tuco_lens_fast_path"


@contextmanager
def fast_path(*models: Any) -> Generator[bool]:
    """While open, these models run transformers' own modules where no hook needs more; values agree up to rounding.

    A linear map, a norm or an MLP is unwrapped if there is no hook within it. Attention is fused in every layer of all
    models or in none: the blocks of one model are run with the arguments of another's, and the causal mask that
    transformers makes differs between the two ways. A hook on attention scores, pattern, rotated queries or any other
    point within, capped scores, or attention of another form than separate query, key, value and output projections
    keeps it stepwise. Hooks on `hook_q`, `hook_k`, `hook_v`, `hook_z`, on what enters and leaves attention and MLP, and
    on the stream fire as always. A HookedTransformer, or a bridge with processed weights, is left as it is.

    Yields:
        Whether the attention is fused.
    """
    with ExitStack() as stack:
        stack.enter_context(using(*models))
        if not all(_is_plain_bridge(model) for model in models):
            yield False
            return
        for model in models:
            found = _findings(model)
            _unwrap(found.wrappers, stack)
            for block, choose in found.filters:
                replace_attribute(block, _FILTER, choose, stack)
        fused = all(_allows_fusion(model) for model in models)
        if fused:
            for model in models:
                for attention in _attentions(model):
                    replace_attribute(attention, "forward", _fused_forward(attention), stack)
                _set_implementation(model, stack)
        yield fused


def _is_plain_bridge(model: Any) -> bool:
    if backend_of(model) != "bridge" or getattr(model, "compatibility_mode", False):
        return False
    return not any(getattr(model.cfg, switch, False) for switch in (*_STEPWISE_SWITCHES, "layer_norm_folding"))


@dataclass(frozen=True)
class _Wrapper:
    """A module that only wraps another one, and every hook point within it."""

    module: Any
    points: tuple[nn.Module, ...]

    @property
    def is_hooked(self) -> bool:
        return any(map(_is_hooked, self.points))


@dataclass(frozen=True)
class _Findings:
    """What is to be replaced in a model's blocks; found once and kept with it, for looking takes longer than a pass."""

    wrappers: list[_Wrapper]
    filters: list[tuple[nn.Module, Callable[..., Any]]]
    """For each block, its choice of the arguments that the block within takes; the bridge asks `inspect` every time."""


def _findings(model: Any) -> _Findings:
    kept = vars(model).get(_KEPT)
    if kept is None:
        modules = (module for block in blocks(model) for module in block.modules())
        wrappers = [
            _Wrapper(module, tuple(part for part in module.modules() if isinstance(part, _hook_point_class())))
            for module in modules
            if type(module).__name__ in _WRAPPERS
        ]
        filters = [(block, _remembered(getattr(block, _FILTER))) for block in blocks(model) if hasattr(block, _FILTER)]
        kept = _Findings(wrappers, filters)
        object.__setattr__(model, _KEPT, kept)
    return kept


def _remembered(choose: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A choice among keyword arguments that is made once for every set of names."""
    made: dict[tuple[Any, ...], tuple[str, ...]] = {}

    def remembered(kwargs: dict[str, Any], *more: Any) -> dict[str, Any]:
        key = (*kwargs, *more)
        if key not in made:
            made[key] = tuple(choose(kwargs, *more))
        return {name: kwargs[name] for name in made[key]}

    return remembered


def _unwrap(wrappers: list[_Wrapper], stack: ExitStack) -> None:
    for wrapper in wrappers:
        own = wrapper.module.original_component
        if own is not None and not wrapper.is_hooked:
            # Hooks on the wrapper itself run in any case; those on what it wraps only if that is called as a module.
            replace_attribute(wrapper.module, "forward", own if _is_hooked(own) else own.forward, stack)


def _hook_point_class() -> type[nn.Module]:
    from transformer_lens.hook_points import HookPoint

    return HookPoint


def replace_attribute(module: nn.Module, name: str, function: Callable[..., Any], stack: ExitStack) -> None:
    """Give one module another method until the stack closes; such replacements nest."""
    outer = vars(module).get(name)  # of a fast path around this one
    object.__setattr__(module, name, function)  # the instance's own, before the class's
    if outer is None:
        stack.callback(object.__delattr__, module, name)
    else:
        stack.callback(object.__setattr__, module, name, outer)


def _attentions(model: Any) -> list[Any]:
    return [getattr(block, "attn", None) for block in blocks(model)]


def _allows_fusion(model: Any) -> bool:
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
    hook_point = _hook_point_class()
    return [
        child
        for name, child in attention.named_children()
        if isinstance(child, hook_point) and name not in ("hook_in", "hook_out")
    ]


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    )


def _fused_forward(attention: Any) -> Callable[..., Any]:
    """A forward for one attention bridge that hands over to the transformers module within it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (attention.hook_in(args[0]), *args[1:])
        else:
            kwargs["hidden_states"] = attention.hook_in(kwargs["hidden_states"])
        output, *rest = attention.original_component(*args, **kwargs)
        return attention.hook_out(output), *rest

    return forward


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
