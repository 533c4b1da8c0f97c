"""Which component TuCo comes from: additive shares of attention, MLP, heads, neurons and weight matrices.

`ModelPair.components` makes a `Components`; `recording.py` runs the pass, `plots/attribution.py` draws.
Source of the shares: ‖F‖₁ = sign(F)·F, so TuCo (paper, Definition 4.4) is linear in the parts of F at the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.attribution.modules import ChangedModules
from tuco_lens.attribution.recording import BlockParts, Recording, record, rounding
from tuco_lens.attribution.result import AtPosition
from tuco_lens.engine.metrics import Norm, check_norm, contribution_ratio, vector_norms
from tuco_lens.errors import InputError
from tuco_lens.plots.labels import token_label

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.models.parts import Part
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt


@dataclass(frozen=True)
class ComponentOptions:
    """What is split, and where."""

    position: int = -1
    heads: bool = False
    neurons: int | None = None
    modules: bool = False
    norm: Norm = "l1"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.neurons is not None and self.neurons < 1:
            raise InputError(f"{self.neurons} neurons", "at least one can be named", "give a positive number")

    @property
    def units(self) -> list[Part]:
        """The parts that are split further."""
        split: list[Part] = ["attention"] if self.heads else []
        return [*split, *(["mlp"] if self.neurons else [])]  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, eq=False)
class Components(AtPosition):
    """Where TuCo at one position of a prompt comes from, in shares that add up to it."""

    values: Float[np.ndarray, "layer component"] = field(repr=False)
    """Share of TuCo: sign(F_L)·FTC_{l,c} / (‖P_L‖₁ + ‖F_L‖₁); all of them add up to TuCo."""
    preco: Float[np.ndarray, "layer component"] = field(repr=False)
    """The same of PTC: sign(P_L)·PTC_{l,c} / (‖P_L‖₁ + ‖F_L‖₁); all of them add up to 1 − TuCo."""
    norms: Float[np.ndarray, "layer component"] = field(repr=False)
    """‖FTC_{l,c}‖."""
    components: tuple[str, ...]
    """Names of the columns: "attention", "mlp" (or "experts" and "shared experts"), and "other" for what users' hooks
    on the stream within or behind a block add."""
    mlp_split: Float[np.ndarray, "layer 2"] = field(repr=False)
    """The MLP's share once more: what its own changed weights add, M_t(x+A_t) − M_b(x+A_t), and what the base MLP makes
    of the attention's change, M_b(x+A_t) − M_b(x+A_b), 0 in parallel blocks."""
    heads: Float[np.ndarray, "layer head"] | None = field(repr=False)
    """Shares of the heads; with `head_bias` they add up to the attention's, less what users' hooks on its output add.
    None unless asked for."""
    head_bias: Float[np.ndarray, " layer"] | None = field(repr=False)
    """Share of the bias of attention's output; 0 where there is none."""
    neurons: Int[np.ndarray, "neuron 2"] | None = field(repr=False)
    """Layer and index of the neurons with the largest absolute shares, the largest first. None unless asked for."""
    neuron_shares: Float[np.ndarray, " neuron"] | None = field(repr=False)
    """Their shares."""
    modules: tuple[str, ...]
    """Names of the changed weight matrices, as in `PairOverview`; empty unless asked for."""
    module_shares: Float[np.ndarray, "layer module"] | None = field(repr=False)
    """Share of TuCo that goes if this matrix alone is the base model's, on the same x_l; NaN where it is not changed.
    Matrices act together, so these do not add up to TuCo."""
    tuco: float
    """TuCo at the position."""
    norm: Norm
    """"l1" (the paper's) or "l2"."""

    @property
    def cancellation(self) -> float:
        """Sum of the absolute shares over TuCo: 1 if no component works against the others; NaN if TuCo is 0."""
        return float(np.abs(self.values).sum() / self.tuco) if self.tuco else float("nan")

    def summary(self) -> str:
        """TuCo, how much of it each kind of component adds, and the largest single ones."""
        token = token_label(self.tokens[self.position], 24)
        begin = f"TuCo {self.tuco:.4f} at position {self.position} ({token})"
        if not self.tuco:
            return f"{begin}: fine-tuning adds nothing here."
        kinds = zip(self.components, self.values.sum(axis=0), strict=True)
        parts = ", ".join(f"{self._percent(share)} from {name}" for name, share in kinds)
        own, passed_on = self.mlp_split.sum(axis=0)
        split = f"Of the MLPs' part, their own changed weights add {self._percent(own)} and what they make of the"
        order = np.argsort(-self.values, axis=None)[:3]
        cells = zip(*np.unravel_index(order, self.values.shape), strict=True)
        largest = ", ".join(
            f"{self.components[column]} of layer {layer} ({self._percent(float(self.values[layer, column]))})"
            for layer, column in cells
        )
        signs = f"All absolute shares add up to {self.cancellation:.2f} times TuCo."
        changed = f"{split} attention's change {self._percent(passed_on)}."
        return f"{begin}: {parts}. {changed} Largest: {largest}. {signs}"

    def _percent(self, share: float) -> str:
        return f"{100 * share / self.tuco:.0f} %"

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and component: layer, kind, name, share, preco, norm (the last two of components alone).

        Kinds are "component", "mlp split", "head", "head bias", "neuron" and "module".
        """
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "kind", "name", "share", "preco", "norm"])

    def _rows(self) -> Iterator[tuple[int, str, str, float, float, float]]:
        nan = float("nan")
        for layer, shares in enumerate(self.values):
            for column, name in enumerate(self.components):
                rest = float(self.preco[layer, column]), float(self.norms[layer, column])
                yield layer, "component", name, float(shares[column]), *rest
        grids = [
            ("mlp split", ("own weights", "passed on"), self.mlp_split),
            ("module", self.modules, self.module_shares),
        ]
        if self.heads is not None and self.head_bias is not None:
            grids.append(("head", tuple(map(str, range(self.heads.shape[1]))), self.heads))
            grids.append(("head bias", ("bias",), self.head_bias[:, None]))
        for kind, names, grid in grids:
            for layer, shares in enumerate(() if grid is None else grid):
                yield from (
                    (layer, kind, name, float(share), nan, nan) for name, share in zip(names, shares, strict=True)
                )
        if self.neurons is not None and self.neuron_shares is not None:
            for (layer, index), share in zip(self.neurons, self.neuron_shares, strict=True):
                yield int(layer), "neuron", str(index), float(share), nan, nan

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the shares by layer and component, layer 0 at the bottom."""
        from tuco_lens.plots.attribution import components_figure

        return components_figure(self, theme)

    def heads_figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the shares by layer and head; `InputError` if heads were not asked for."""
        from tuco_lens.plots.attribution import heads_figure

        return heads_figure(self, theme)

    def modules_figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the shares by layer and weight matrix; `InputError` if modules were not asked for."""
        from tuco_lens.plots.attribution import modules_figure

        return modules_figure(self, theme)


def components(pair: AttributedPair, prompt: Prompt, options: ComponentOptions) -> Components:
    """The shares of one prompt; see `ModelPair.components`.

    Raises:
        InputError: for a position or a part that is not there.
    """
    changed = ChangedModules(pair) if options.modules else None
    found = record(pair, prompt, options.position, options.units, changed)
    along_ptc, along_ftc = found.directions(options.norm)
    names = component_names(found, pair.dtype)
    ptc, ftc = found.ptc_sum.double(), found.ftc_sum.double()
    sizes = [vector_norms(each, options.norm) for each in (ftc, ptc)]
    result = Components(
        values=_table([[along(block.change.get(name), along_ftc) for name in names] for block in found.blocks]),
        preco=_table([[along(block.base.get(name), along_ptc) for name in names] for block in found.blocks]),
        norms=_table([[_norm(block.change.get(name), options.norm) for name in names] for block in found.blocks]),
        components=names,
        mlp_split=_table([_split(block, along_ftc) for block in found.blocks]),
        heads=None,
        head_bias=None,
        neurons=None,
        neuron_shares=None,
        modules=changed.columns if changed else (),
        module_shares=None,
        tuco=float(contribution_ratio(*sizes)),
        norm=options.norm,
        position=found.position,
        tokens=prompt.tokens,
        base=pair.base_name,
        tuned=pair.tuned_name,
    )
    if options.heads:
        result = replace(result, **_heads(pair, found, along_ftc))
    if options.neurons:
        result = replace(result, **_neurons(found, along_ftc, options.neurons))
    if changed is not None:
        shares = [
            [along(block.modules[name], along_ftc) if name in block.modules else np.nan for name in changed.columns]
            for block in found.blocks
        ]
        result = replace(result, module_shares=_table(shares))
    return result


def component_names(found: Recording, dtype: str) -> tuple[str, ...]:
    """The components that some block has, beyond rounding."""
    every = dict.fromkeys(name for block in found.blocks for name in (*block.base, *block.change))
    size = sum(float(part.abs().sum()) for block in found.blocks for part in block.base.values())

    def is_there(name: str) -> bool:
        parts = [parts[name] for block in found.blocks for parts in (block.base, block.change) if name in parts]
        return sum(float(part.abs().sum()) for part in parts) > rounding(dtype) * size

    return tuple(name for name in every if name == "attention" or is_there(name))


def along(part: Tensor | None, direction: Tensor) -> float:
    """What a part adds along a direction in float64; 0 for one that a block does not have."""
    return 0.0 if part is None else float(part.double() @ direction)


def _norm(part: Tensor | None, norm: Norm) -> float:
    return 0.0 if part is None else float(vector_norms(part, norm))


def _split(block: BlockParts, direction: Tensor) -> tuple[float, float]:
    passed_on = along(block.passed_on, direction)
    return along(block.mlp_change, direction) - passed_on, passed_on


def _heads(pair: AttributedPair, found: Recording, direction: Tensor) -> dict[str, np.ndarray]:
    biases = [block.bias_along("attention", direction)[1] for block in found.blocks]
    return {"heads": head_shares(pair, found, direction, 1), "head_bias": np.array(biases)}


def head_shares(
    pair: AttributedPair, found: Recording, direction: Tensor, side: int
) -> Float[np.ndarray, "layer head"]:
    """What each head's part of PTC (`side` 0) or FTC (1) adds along a direction."""
    n_heads = pair.tuned.cfg.n_heads
    rows = [block.units_along("attention", direction)[side].reshape(n_heads, -1).sum(dim=1) for block in found.blocks]
    return torch.stack(rows).cpu().numpy()


def _neurons(found: Recording, direction: Tensor, most: int) -> dict[str, np.ndarray]:
    shares = torch.stack([block.units_along("mlp", direction)[1] for block in found.blocks])  # [layer, neuron]
    kept = shares.abs().flatten().topk(min(most, shares.numel())).indices.cpu().numpy()
    places = np.stack(np.unravel_index(kept, shares.shape), axis=1)
    return {"neurons": places, "neuron_shares": shares.flatten()[kept].cpu().numpy()}


def _table(rows: list[list[float]] | list[tuple[float, float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)
