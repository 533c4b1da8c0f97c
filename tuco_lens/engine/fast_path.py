"""The fast path of a TransformerBridge: transformers' own modules, where no hook needs what the bridge adds.

A bridge wraps every part of a transformers block to give it hook points, and computes attention step by step, so that
`hook_pattern` and the like can fire. Without hooks there, the wrapped modules give the same values up to rounding in
less time, and attention in PyTorch's fused kernel needs no [batch, head, query, key] tensors. The package's own passes
(measuring, generating, scoring) switch it on while they run; `pair.tuned` called by a user is never on it.
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
"""Wrappers that add only hooks to the module inside, as long as no weights are processed."""
_PROJECTIONS = ("q", "k", "v", "o")
_STEPWISE_SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
"""TransformerLens settings for hooks that only its own code can fire."""
_FILTER = "_filter_kwargs_for_forward"
_KEPT = "_tuco_lens_fast_path"


@contextmanager
def fast_path(*models: Any) -> Generator[bool]:
    """While open, these models run transformers' own modules where no hook needs more; values agree up to rounding.

    A linear map, a norm or an MLP is unwrapped if no hook is inside it. Attention is fused in every layer of all models
    or in none: base blocks get the tuned blocks' arguments, and fused attention takes another causal mask. It stays
    stepwise if a hook is on scores, pattern, rotated queries or any other point inside attention, if scores are capped
    or have sinks, or if there are no separate query, key, value and output projections. Hooks on `hook_q`, `hook_k`,
    `hook_v`, `hook_z`, on what enters and leaves attention and MLP, and on the stream fire as always. A
    HookedTransformer, or a bridge with processed weights, is left as it is.

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
    """A module that only wraps another one, and every hook point inside it."""

    module: Any
    points: tuple[nn.Module, ...]

    @property
    def is_hooked(self) -> bool:
        return any(map(_is_hooked, self.points))


@dataclass(frozen=True)
class _Findings:
    """What to replace in a model's blocks; kept with the model, since finding it takes longer than a pass."""

    wrappers: list[_Wrapper]
    filters: list[tuple[nn.Module, Callable[..., Any]]]
    """Each block with its filter of arguments, cached, since the bridge's own calls `inspect` every time."""


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
    """The same choice of keyword arguments, made only once for each set of names."""
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
            # Hooks on the wrapper run in any case, those on the module inside only if it is called as a module.
            replace_attribute(wrapper.module, "forward", own if _is_hooked(own) else own.forward, stack)


def _hook_point_class() -> type[nn.Module]:
    from transformer_lens.hook_points import HookPoint

    return HookPoint


def replace_attribute(module: nn.Module, name: str, function: Callable[..., Any], stack: ExitStack) -> None:
    """Replace a method of this one module until the stack closes; such replacements nest."""
    outer = vars(module).get(name)  # set by an enclosing fast path
    object.__setattr__(module, name, function)  # nn.Module's own would register a function that is a module
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
    """Whether transformers' own forward of this attention gives the same values and fires every hook in use."""
    own = getattr(attention, "original_component", None)
    if own is None or any(getattr(own, name, None) is not None for name in ("attn_logit_softcapping", "sinks")):
        return False
    parts = getattr(attention, "submodules", {})
    # transformers' forward must call the bridge's projections, or their hooks would not fire.
    through_bridge = all(
        name in parts and getattr(own, parts[name].name, None) is getattr(attention, name) for name in _PROJECTIONS
    )
    return through_bridge and not any(_is_hooked(point) for point in _inner_hook_points(attention))


def _inner_hook_points(attention: nn.Module) -> list[nn.Module]:
    """The attention's own hook points, except `hook_in` and `hook_out`; those of its projections are not its own."""
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
    """A forward for an attention bridge that calls the transformers module inside it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (attention.hook_in(args[0]), *args[1:])
        else:
            kwargs["hidden_states"] = attention.hook_in(kwargs["hidden_states"])
        output, *rest = attention.original_component(*args, **kwargs)
        return attention.hook_out(output), *rest

    return forward


def _set_implementation(model: Any, stack: ExitStack) -> None:
    """Put "sdpa" into the model's configs, by which transformers chooses kernel and mask, until the stack closes."""
    configs = [model.original_model.config, *(attention.original_component.config for attention in _attentions(model))]
    for config in {id(config): config for config in configs}.values():
        stack.callback(_setter(config, config._attn_implementation))
        config._attn_implementation = "sdpa"


def _setter(config: Any, value: str | None) -> Callable[[], None]:
    def restore() -> None:
        config._attn_implementation = value

    return restore
