"""What TuCo is, by plain transformers in float64 and a slow loop: the reference that the engine is tested against.

Nothing of the package or of TransformerLens is used. transformers itself computes rotary angles and some norms in
float32 whatever the model's dtype, so the reference is exact to about 1e-7, not to 1e-16.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_LAYER_PATHS = (
    "model.layers",
    "transformer.h",
    "transformer.blocks",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.language_model.layers",
    "backbone.layers",
    "bert.encoder.layer",
    "rwkv.blocks",
)
"""Where families keep their decoder layers."""


@dataclass(frozen=True)
class OracleResult:
    """All quantities of one forward pass of the tuned model, in float64."""

    stream: Float[Tensor, "layer_plus_1 batch pos d_model"]
    """x_0 … x_L of the tuned model."""
    ptc: Float[Tensor, "layer batch pos d_model"]
    """f_PT(x_l, l): the base layer on the tuned model's stream, less that stream."""
    ftc: Float[Tensor, "layer batch pos d_model"]
    """f_FT(x_l, l) − f_PT(x_l, l)."""
    logits: Float[Tensor, "batch pos d_vocab"]
    """Of the tuned model."""

    def cumulative(self) -> tuple[Float[Tensor, "layer batch pos d_model"], Float[Tensor, "layer batch pos d_model"]]:
        """P_{l+1} and F_{l+1} in row l."""
        return self.ptc.cumsum(0), self.ftc.cumsum(0)

    def tuco(self, order: int = 1) -> Float[Tensor, batch]:
        """Of the last token."""
        ptc, ftc = self.cumulative()
        p, f = (x[-1, :, -1].norm(order, dim=-1) for x in (ptc, ftc))
        return _ratio(f, p)

    def beta_by_layer(self, order: int = 1) -> Float[Tensor, "layer batch"]:
        """β_1 … β_L: over all tokens together."""
        ptc, ftc = self.cumulative()
        p, f = (x.flatten(2).norm(order, dim=-1) for x in (ptc, ftc))
        return _ratio(f, p)

    def beta(self, order: int = 1) -> Float[Tensor, batch]:
        """The largest β_l."""
        return self.beta_by_layer(order).amax(0)


def oracle(hf_base: nn.Module, hf_tuned: nn.Module, token_ids: Int[Tensor, "batch pos"]) -> OracleResult:
    """Evaluates both models on the tuned model's own stream. The given models are copied, not touched.

    Args:
        hf_base: The base transformers model.
        hf_tuned: The tuned one.
        token_ids: Prompts of one length; no padding.
    """
    base, tuned = _in_float64(hf_base), _in_float64(hf_tuned)
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []
    handles = [
        layer.register_forward_hook(
            lambda _module, args, kwargs, output: calls.append((args, kwargs, _stream(output))), with_kwargs=True
        )
        for layer in layers_of(tuned)
    ]
    with torch.no_grad():
        logits = tuned(token_ids, use_cache=False).logits
        for handle in handles:
            handle.remove()
        stream, ptc, ftc = [], [], []
        for layer, (args, kwargs, tuned_out) in zip(layers_of(base), calls, strict=True):
            resid_pre = args[0] if args else kwargs["hidden_states"]
            base_out = _stream(layer(*args, **kwargs))
            stream.append(resid_pre)
            ptc.append(base_out - resid_pre)
            ftc.append(tuned_out - base_out)
    stream.append(calls[-1][2])
    return OracleResult(torch.stack(stream), torch.stack(ptc), torch.stack(ftc), logits)


def scaled_logits(
    hf_base: nn.Module,
    hf_tuned: nn.Module,
    token_ids: Int[Tensor, "batch pos"],
    alphas: Sequence[Sequence[float | Tensor]],
) -> list[Float[Tensor, "batch pos d_vocab"]]:
    """Logits under FTC-scaling: each tuned layer's output becomes base output + α_l (tuned output − base output).

    Args:
        hf_base: The base transformers model.
        hf_tuned: The tuned one; its embedding, final norm and unembedding stay. Both are copied, not touched.
        token_ids: Prompts of one length; no padding.
        alphas: Several scalings, each with α by layer; for α by position too, a tensor [pos, 1].

    Returns:
        For each scaling its logits, in float64.
    """
    base, tuned = _in_float64(hf_base), _in_float64(hf_tuned)
    results: list[Tensor] = []
    for by_layer in alphas:
        pairs, shared = zip(layers_of(tuned), layers_of(base), by_layer, strict=True), dict[Any, Any]()
        handles = [
            tuned_layer.register_forward_hook(_mixing(base_layer, alpha, shared), with_kwargs=True)
            for tuned_layer, base_layer, alpha in pairs
        ]
        with torch.no_grad():
            results.append(tuned(token_ids, use_cache=False).logits)
        for handle in handles:
            handle.remove()
    return results


def _mixing(base_layer: nn.Module, alpha: float | Tensor, shared: dict[Any, Any]) -> Callable[..., Any]:
    """A hook; `shared` holds the keys and values that base layers hand on to one another (Gemma 4)."""

    def mixed(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if "shared_kv_states" in kwargs:
            kwargs = {**kwargs, "shared_kv_states": shared}
        base_out = _stream(base_layer(*args, **kwargs))
        stream = base_out + alpha * (_stream(output) - base_out)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    return mixed


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The decoder layers of a transformers causal language model, wherever its family keeps them."""
    for path in _LAYER_PATHS:
        found: Any = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return list(found)
    raise LookupError(f"no decoder layers in {type(model).__name__}")


def _in_float64(model: nn.Module) -> Any:
    double: Any = copy.deepcopy(model).double().eval()
    double.set_attn_implementation("eager")
    if hasattr(double.config, "num_local_experts"):
        double.set_experts_implementation("eager")  # the grouped kernel has no float64
    return double


def _stream(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _ratio(part: Tensor, rest: Tensor) -> Tensor:
    return torch.where(part + rest > 0, part / (part + rest).clamp_min(torch.finfo(torch.float64).tiny), 0.0)


_PARALLEL = {"gptj": "attn", "phi": "self_attn", "gpt_neox": "attention"}
"""Attention of families whose MLP reads the block's own input."""
_SECOND = {
    **dict.fromkeys(("gpt2", "gpt_neo"), "ln_2"),
    **dict.fromkeys(("gemma2", "gemma3_text"), "pre_feedforward_layernorm"),
    "opt": "final_layer_norm",
    "olmo2": "mlp",
}
"""Of the others, the module that first reads the stream between attention and MLP, where it is not the usual one."""


@dataclass(frozen=True)
class PartsResult:
    """What attention and MLP of both models add on the tuned model's stream, in float64."""

    attention: tuple[Tensor, Tensor]
    """Of base and tuned model, [layer, batch, pos, d_model] each."""
    mlp: tuple[Tensor, Tensor]
    passed_on: Float[Tensor, "layer batch pos d_model"]
    """M_b(x + A_t) − M_b(x + A_b)."""


@torch.no_grad()
def parts_oracle(hf_base: nn.Module, hf_tuned: nn.Module, token_ids: Int[Tensor, "batch pos"]) -> PartsResult:
    """The two halves of every block, from the stream between them; arguments as for `oracle`."""
    base, tuned = _in_float64(hf_base), _in_float64(hf_tuned)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for layer in layers_of(tuned):
        layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    tuned(token_ids, use_cache=False)
    rows: list[list[Tensor]] = []
    for theirs, ours, (args, kwargs) in zip(layers_of(base), layers_of(tuned), list(calls), strict=True):
        pre = args[0] if args else kwargs["hidden_states"]
        halves = [_halves(layer, base.config, pre, args, kwargs) for layer in (theirs, ours)]
        (attention, mlp, _), (tuned_attention, tuned_mlp, _) = halves
        other = (
            _halves(theirs, base.config, pre, args, kwargs, mid=halves[1][2])[1] if halves[1][2] is not None else mlp
        )
        rows.append([attention, tuned_attention, mlp, tuned_mlp, other - mlp])
    a_base, a_tuned, m_base, m_tuned, passed_on = (torch.stack(column) for column in zip(*rows, strict=True))
    return PartsResult((a_base, a_tuned), (m_base, m_tuned), passed_on)


def _halves(
    layer: nn.Module, config: Any, pre: Tensor, args: Any, kwargs: Any, mid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What attention and MLP of one layer add, and the stream between them; `mid` goes into the MLP in its place."""
    seen: list[Tensor] = []
    kind = config.model_type
    parallel = kind in _PARALLEL and getattr(config, "use_parallel_residual", True)
    if parallel:
        handle = layer.get_submodule(_PARALLEL[kind]).register_forward_hook(lambda *call: seen.append(_stream(call[2])))
    else:

        def read(_module: nn.Module, given: Any) -> Any:
            seen.append(given[0].view_as(pre))
            return None if mid is None else (mid.view_as(given[0]),)

        module = layer.get_submodule(_SECOND.get(kind, "post_attention_layernorm"))
        handle = module.register_forward_pre_hook(read)
    out = _stream(layer(*args, **kwargs))
    handle.remove()
    if parallel:
        return seen[0], out - pre - seen[0], None
    return seen[0] - pre, out - seen[0], seen[0]
