"""What fine-tuning changed, by layer: how far each weight matrix moved, beside the norm of FTC.

`ModelPair.overview` makes a `PairOverview` of a pair and a measurement; `plots/overview.py` draws it.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tuco_lens.errors import InputError
from tuco_lens.plots.statistic import Statistic, check_range, window
from tuco_lens.stats import mean_interval
from tuco_lens.steering.weights import own_module, plain_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tuco_lens.engine.metrics import Norm
    from tuco_lens.pair import ModelPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.results.measurement import Measurement

REST: Final = "biases, norms"
"""The column of all weights that are not matrices: biases and the gains of norms, pooled."""

_FIRST: Final = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out")
# By the last part, or the last two parts, of the names in transformers and the bridge.
_NAMES: Final[dict[str, str]] = {
    **dict.fromkeys(("q", "q_proj"), "W_Q"),
    **dict.fromkeys(("k", "k_proj"), "W_K"),
    **dict.fromkeys(("v", "v_proj"), "W_V"),
    **dict.fromkeys(("o", "o_proj", "out_proj"), "W_O"),
    **dict.fromkeys(("attn.c_proj", "attention.dense", "self_attn.dense", "self_attention.dense"), "W_O"),
    **dict.fromkeys(("gate_proj",), "W_gate"),
    **dict.fromkeys(("in", "up_proj", "c_fc", "fc_in", "fc1", "dense_h_to_4h"), "W_in"),
    **dict.fromkeys(("down_proj", "mlp.c_proj", "fc_out", "fc2", "dense_4h_to_h"), "W_out"),
    **dict.fromkeys(("embed_tokens", "wte", "embed_in", "word_embeddings"), "W_E"),
    **dict.fromkeys(("lm_head", "embed_out"), "W_U"),
    **dict.fromkeys(("wpe", "embed_positions"), "W_pos"),
    "mlp.gate": "router",
}
# Joint projections, and the parts that a bridge splits them into and keeps beside them.
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("qkv", "c_attn", "query_key_value", "qkv_proj", "Wqkv", "W_pack"), ("q", "k", "v")),
    "gate_up_proj": ("gate", "in"),
}


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class WeightChanges(Statistic):
    """‖W_tuned − W_base‖ / ‖W_base‖ (Frobenius norms) of every weight matrix."""

    values: Float[np.ndarray, "layer matrix"] = field(repr=False)
    """The relative changes; NaN where a layer has no such matrix, or where only the base model's is zero."""
    matrices: tuple[str, ...]
    """Names: W_Q, W_K, W_V, W_O, W_gate, W_in, W_out, then other matrices by their module's name. The experts of a
    layer are pooled, and so are its biases and norms, as "biases, norms"."""
    outside: Mapping[str, float]
    """Changes of the matrices outside the blocks, such as W_E, W_pos and W_U. TuCo does not count the embedding's."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""
    first_layer: int = 0
    """Layer of the first row."""
    zmin: float = 0.0
    """Lower end of the colour scale."""
    zmax: float | None = None
    """Upper end of the colour scale; None for the largest value."""

    @property
    def n_layers(self) -> int:
        """Number of layers, one per row."""
        return self.values.shape[0]

    def layers(self, first: int | None = None, last: int | None = None) -> WeightChanges:
        """Only the layers from `first` up to, but not including, `last`; counted as in `LayerTokenMap.layers`."""
        kept = window(first, last, start=self.first_layer, size=self.n_layers, what="layers")
        return replace(self, values=self.values[kept], first_layer=self.first_layer + kept.start)

    def clip(self, low: float, high: float) -> WeightChanges:
        """The same with a colour scale from `low` to `high`."""
        check_range(low, high)
        return replace(self, zmin=low, zmax=high)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: layer × matrix, layer 0 at the bottom."""
        from tuco_lens.plots.overview import weights_figure

        return weights_figure(self, theme)


@dataclass(frozen=True, eq=False)
class PairOverview(Statistic):
    """How far the weights moved, and the mean norm of FTC, by layer."""

    weights: WeightChanges
    """Relative change of every matrix."""
    ftc: Float[np.ndarray, " layer"] = field(repr=False)
    """‖FTC_l[t]‖: mean over the tokens of a prompt, then over prompts with a finite mean; NaN if there are none."""
    ftc_low: Float[np.ndarray, " layer"] = field(repr=False)
    """Lower end of its 95 % interval over prompts; NaN for a single prompt."""
    ftc_high: Float[np.ndarray, " layer"] = field(repr=False)
    """Upper end of that interval."""
    n_prompts: int
    """Number of prompts."""
    norm: Norm
    """Norm of the FTC, "l1" or "l2"."""

    def layers(self, first: int | None = None, last: int | None = None) -> PairOverview:
        """Only the layers from `first` up to, but not including, `last`; counted as in `LayerTokenMap.layers`."""
        kept = window(first, last, start=self.weights.first_layer, size=len(self.ftc), what="layers")
        sides = {name: getattr(self, name)[kept] for name in ("ftc", "ftc_low", "ftc_high")}
        return replace(self, weights=self.weights.layers(first, last), **sides)

    def clip(self, low: float, high: float) -> PairOverview:
        """The same with a colour scale of the weights' changes from `low` to `high`."""
        return replace(self, weights=self.weights.clip(low, high))

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws both on one layer axis, layer 0 at the bottom."""
        from tuco_lens.plots.overview import overview_figure

        return overview_figure(self, theme)


def pair_overview(pair: ModelPair, measurement: Measurement) -> PairOverview:
    """The changes of a pair's weights, beside the mean norm of FTC on prompts that were measured on it.

    Raises:
        InputError: if the measurement has no prompts, or comes from a pair with another number of layers.
    """
    if not len(measurement):
        raise InputError("no overview", "the measurement has no prompts", "measure at least one")
    weights = weight_changes(pair)
    if measurement.settings.n_layers != weights.n_layers:
        why = f"the pair has {weights.n_layers} layers and the measurement {measurement.settings.n_layers}"
        raise InputError("no overview", why, "give a measurement of this pair")
    for item in measurement:
        item.require_maps()
    means = torch.stack([item.maps.ftc.float().mean(dim=1) for item in measurement]).numpy()  # [prompt, layer]
    mean, low, high = np.array([_mean(row[np.isfinite(row)]) for row in means.T]).T
    return PairOverview(weights, mean, low, high, len(measurement), measurement.settings.norm)


@torch.no_grad()
def weight_changes(pair: ModelPair) -> WeightChanges:
    """How far fine-tuning moved each weight matrix, relative to its norm, whatever the backend.

    Adapters are merged for this. If the vocabulary grew, only the rows that both models have count.

    Returns:
        `WeightChanges`, with only zeros (and NaN for missing matrices) if the two models are equal.
    """
    base: Mapping[str, Tensor] = {
        plain_name(name): weight for name, weight in own_module(pair.base).named_parameters(remove_duplicate=False)
    }
    tuned = dict(_effective_weights(own_module(pair.tuned)))
    inside: dict[tuple[int, str], _Pool] = {}
    outside: dict[str, _Pool] = {}
    for name, weight in tuned.items():
        if name not in base or is_twin(name, tuned):
            continue
        layer, column = weight_place(name, weight, tuned)
        if layer is not None:
            inside.setdefault((layer, column), _Pool()).add(base[name], weight)
        elif column != REST:
            outside.setdefault(column, _Pool()).add(base[name], weight)
    columns = ordered({column for _, column in inside})
    values = np.full((pair.n_layers, len(columns)), np.nan)
    for (layer, column), pool in inside.items():
        values[layer, columns.index(column)] = pool.relative
    changes = {name: pool.relative for name, pool in outside.items()}
    return WeightChanges(values, columns, changes, pair.base_name, pair.tuned_name)


@dataclass
class _Pool:
    """Sums of squares over the matrices of one cell."""

    change: float = 0.0
    size: float = 0.0

    def add(self, base: Tensor, tuned: Tensor) -> None:
        """Add one matrix, as far as both models have its rows."""
        rows = min(len(base), len(tuned))
        before = base[:rows].float()
        self.size += before.norm().item() ** 2
        if base.data_ptr() != tuned.data_ptr():
            self.change += (tuned[:rows].float() - before).norm().item() ** 2

    @property
    def relative(self) -> float:
        """Norm of the change over norm of the base; NaN if only the base is zero."""
        if not self.size:
            return math.nan if self.change else 0.0
        return math.sqrt(self.change / self.size)


def _effective_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights that the model computes with: its parameters, with adapters merged into theirs."""
    adapted = dict(adapted_modules(model))
    for name, weight in model.named_parameters():
        if not any(name.startswith(f"{path}.") for path in adapted):
            yield plain_name(name), weight
    for path, module in adapted.items():
        merged = copy.deepcopy(module).float()  # a float32 copy of this one layer
        merged.merge()
        for name, weight in merged.get_base_layer().named_parameters():
            yield plain_name(f"{path}.{name}"), weight


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Modules that carry an adapter, by their names."""
    if "peft" not in sys.modules:  # then no module can be an adapter's
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))


def weight_place(name: str, weight: Tensor, names: Mapping[str, Any]) -> tuple[int | None, str]:
    """The layer of a parameter (None outside the blocks) and the column that it belongs to."""
    # HookedTransformer's router of experts has the name of the gate matrix in models without experts.
    parts = name.replace("mlp.W_gate.weight", "mlp.gate").removesuffix(".weight").split(".")
    digits = [i for i, part in enumerate(parts) if part.isdigit()]
    layer = int(parts[digits[0]]) if digits else None
    within = [part for part in parts[digits[0] + 1 if digits else 0 :] if not part.isdigit()]  # experts are pooled
    last = within[-1].lstrip("_")  # HookedTransformer's grouped keys and values are _W_K and _W_V
    if weight.ndim < 2 or last.startswith("b_"):  # HookedTransformer's biases are [head, d_head]
        return layer, REST
    if last.startswith("W_"):
        return layer, last
    pair = ".".join(within[-2:])
    if pair == "mlp.gate" and f"{_parent(name)}.in.weight" in names:  # a part of gate_up_proj, not a router
        return layer, "W_gate"
    return layer, _NAMES.get(pair) or _NAMES.get(last) or ".".join(within[-2:])


def is_twin(name: str, names: Mapping[str, Any]) -> bool:
    """Whether this is a joint projection whose parts are there too."""
    parts = _PARTS.get(name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2], ())
    return bool(parts) and all(f"{_parent(name)}.{part}.weight" in names for part in parts)


def _parent(name: str) -> str:
    """Name of the module two levels above a parameter: "a.b" for "a.b.q.weight"."""
    return ".".join(name.split(".")[:-2])


def ordered(columns: set[str]) -> tuple[str, ...]:
    """Columns in the order of a table: the usual matrices, others by name, the rest."""
    others = sorted(columns - {*_FIRST, REST})
    return (*(name for name in _FIRST if name in columns), *others, *([REST] if REST in columns else []))


def _mean(values: Float[np.ndarray, " prompt"]) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    estimate = mean_interval(values)
    return estimate.value, estimate.low, estimate.high
