"""One pass in lockstep that keeps, at one position of a prompt, the parts of every block of both models.

`record` gives a `Recording`; what is made of it is in `components.py` and its neighbours. Where the parts lie within a
block, and the maps behind heads and neurons, is in `models/parts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.taps import BlockTaps, wide
from tuco_lens.brief import Brief
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.lockstep import BlockStep, lockstep
from tuco_lens.engine.metrics import Norm, vector_norms
from tuco_lens.errors import InputError
from tuco_lens.models.backends import blocks, device_of, run_blocks
from tuco_lens.models.frozen_norm import FrozenNorm
from tuco_lens.models.parts import PARTS, Part, UnitMap, unit_map

if TYPE_CHECKING:
    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.attribution.modules import ChangedModules
    from tuco_lens.prompts.prompt import Prompt

TOLERANCE: Final = 1e-4
"""Of ‖what the base block adds‖₁, at float32: a larger rest means that a block has parts which are not known here."""


@dataclass(frozen=True)
class Units(Brief):
    """The heads or neurons of one part of one block at the position, in one model."""

    map: UnitMap
    """From them to the stream."""
    values: Float[Tensor, "1 unit"]
    """`hook_z`, flat, or `hook_post`."""
    frozen: FrozenNorm | None
    """The norm behind the map as it was in this pass, or None."""

    def along(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " unit"]:
        """What each of them adds along a direction; heads are sums of their entries."""
        return self.values[0].double() * self.pulled(direction)

    def pulled(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " unit"]:
        """What one unit of each adds along a direction."""
        return self.map.pull(direction[None], self.frozen)[0].double()

    def bias_along(self, direction: Float[Tensor, " d_model"]) -> float:
        """What the map's bias adds along a direction."""
        return float((self.map.bias_added(self.frozen)[0].double() * direction.double()).sum())


@dataclass(frozen=True)
class Reading(Brief):
    """What the heads of one block of one model read at the position, and from where; keys and values in groups."""

    pattern: Float[Tensor, "head source"]
    """Attention from the position to every token before it and to itself."""
    values: Float[Tensor, "source group d_head"]
    """`hook_v`."""

    def along(self, pulled: Float[Tensor, " unit"]) -> Float[Tensor, "head source"]:
        """What each head adds by reading each token, where `pulled` is what one unit of each entry of z adds."""
        n_heads, (_, n_groups, d_head) = len(self.pattern), self.values.shape
        per_entry = pulled.double().reshape(n_groups, n_heads // n_groups, d_head)
        per_value = torch.einsum("sgd,ghd->ghs", self.values.double(), per_entry)
        return self.pattern.double() * per_value.flatten(0, 1)

    def scaled_to(self, z: Float[Tensor, " unit"]) -> Reading:
        """The same with each head scaled as a hook on `hook_z` has scaled it: an ablated head reads nothing."""
        own, real = (each.reshape(len(self.pattern), -1) for each in (self.z, z))
        size = (own * own).sum(dim=1)
        factors = torch.where(size > 0, (own * real).sum(dim=1) / torch.where(size > 0, size, 1), 1)
        return replace(self, pattern=self.pattern.double() * factors[:, None])

    @property
    def z(self) -> Float[Tensor, " unit"]:
        """The sum over the tokens, which is `hook_z` if heads do nothing else."""
        n_groups = self.values.shape[1]
        pattern = self.pattern.double().reshape(n_groups, len(self.pattern) // n_groups, -1)
        return torch.einsum("ghs,sgd->ghd", pattern, self.values.double()).flatten()


@dataclass(frozen=True)
class BlockParts(Brief):
    """One block at the position; vectors are float32 or wider, [d_model]."""

    ptc: Float[Tensor, " d_model"]
    """PTC_l."""
    ftc: Float[Tensor, " d_model"]
    """FTC_l; under scaling what it puts into the stream, α·FTC_l."""
    base: dict[str, Float[Tensor, " d_model"]]
    """What each part of the base block adds: they add up to PTC_l."""
    change: dict[str, Float[Tensor, " d_model"]]
    """What each part of the tuned block adds beyond that: they add up to FTC_l."""
    mlp_change: Float[Tensor, " d_model"]
    """The whole MLP's part of FTC_l, experts and all."""
    passed_on: Float[Tensor, " d_model"]
    """M_b(x + A_t) − M_b(x + A_b): the part of the MLP's change that the base MLP makes of the attention's change."""
    alpha: float
    """α at this block and position: 1 unless a scaling is on."""
    units: dict[tuple[Part, str], Units] = field(default_factory=dict[tuple[Part, str], Units])
    """Heads and neurons, by part and model ("base", "tuned"), where asked for."""
    readings: dict[str, Reading] = field(default_factory=dict[str, Reading])
    """What the heads read, by model ("base", "tuned"), where asked for."""
    modules: dict[str, Float[Tensor, " d_model"]] = field(default_factory=dict[str, Tensor])
    """What goes from FTC_l if one changed matrix is the base model's, where asked for."""

    def units_along(self, part: Part, direction: Float[Tensor, " d_model"]) -> tuple[Tensor, Tensor]:
        """What each unit's part of PTC, and of FTC, adds along a direction, [unit] each."""
        base, tuned = (self.units[part, side].along(direction) for side in ("base", "tuned"))
        return base, self.alpha * (tuned - base)

    def bias_along(self, part: Part, direction: Float[Tensor, " d_model"]) -> tuple[float, float]:
        """The same of the bias behind the units."""
        base, tuned = (self.units[part, side].bias_along(direction) for side in ("base", "tuned"))
        return base, self.alpha * (tuned - base)


@dataclass(frozen=True)
class Recording(Brief):
    """The parts of all blocks at one position of a prompt."""

    prompt: Prompt
    position: int
    """From 0."""
    blocks: tuple[BlockParts, ...]
    start: Float[Tensor, " d_model"]
    """x_0."""
    end: Float[Tensor, " d_model"]
    """x_L."""

    @property
    def ptc_sum(self) -> Float[Tensor, " d_model"]:
        """P_L at the position."""
        return torch.stack([block.ptc for block in self.blocks]).sum(0)

    @property
    def ftc_sum(self) -> Float[Tensor, " d_model"]:
        """F_L at the position."""
        return torch.stack([block.ftc for block in self.blocks]).sum(0)

    def directions(self, norm: Norm) -> tuple[Tensor, Tensor]:
        """The directions along which PTC adds up to PreCo and FTC to TuCo, [d_model] each.

        ‖F‖₁ = sign(F)·F and ‖F‖₂ = F/‖F‖₂·F, so sign(F) / (‖P‖₁ + ‖F‖₁) along every FTC_l gives TuCo in all.
        """
        sums = [self.ptc_sum.double(), self.ftc_sum.double()]
        sizes = [vector_norms(each, norm) for each in sums]
        total = float(sum(sizes)) or 1.0
        ptc, ftc = (
            each.sign() / total if norm == "l1" else each / (float(size) or 1.0) / total
            for each, size in zip(sums, sizes, strict=True)
        )
        return ptc, ftc


def tolerance(dtype: str) -> float:
    """`TOLERANCE`, scaled up with the rounding of narrower dtypes."""
    return TOLERANCE * max(1.0, torch.finfo(getattr(torch, dtype)).eps / torch.finfo(torch.float32).eps)


def rounding(dtype: str) -> float:
    """Of all parts together, what may be rounding: a part that is smaller is not told of."""
    return max(1e-5, torch.finfo(getattr(torch, dtype)).eps)


def one_position(position: int, n_tokens: int) -> int:
    """A position counted from 0; `InputError` if the prompt has no such one."""
    if not -n_tokens <= position < n_tokens:
        why = f"the prompt has {n_tokens} tokens"
        raise InputError(f"position {position} is out of range", why, f"give 0 to {n_tokens - 1}, or -1 for the last")
    return position % n_tokens


@torch.no_grad()
def record(
    pair: AttributedPair,
    prompt: Prompt,
    position: int = -1,
    units: Sequence[Part] = (),
    changed: ChangedModules | None = None,
    sources: bool = False,
) -> Recording:
    """Run the prompt once, with the base block beside every block, and keep the parts at one position.

    A third call of each base block, with the tuned attention's output in place of its own, tells what its MLP makes of
    the attention's change. Hooks on `pair.tuned` act, and an open scaling does.

    Args:
        pair: the two models.
        prompt: the tokens.
        position: which of them; negative ones count from the end.
        units: the parts whose units are kept: "attention" for heads, "mlp" for neurons.
        changed: the matrices to leave out one at a time, each a further call of a tuned block.
        sources: also keep what the heads read from which token; needs the units of attention.

    Raises:
        InputError: for a position that is not there, or an architecture whose blocks have other parts.
    """
    at = one_position(position, prompt.n_tokens)
    with ExitStack() as stack:
        recorder = _Recorder(pair, at, units, changed, sources, stack)
        ids = torch.tensor([prompt.token_ids], device=device_of(pair.tuned))  # [1, pos]
        with fast_path(pair.base, pair.tuned), lockstep(pair.base, pair.tuned, recorder):
            run_blocks(pair.tuned, ids)
    return Recording(prompt, at, tuple(recorder.done), *recorder.ends)


class _Recorder:
    """Hooks on the parts of every block, and the visitor that reads them block by block."""

    def __init__(
        self,
        pair: AttributedPair,
        position: int,
        units: Sequence[Part],
        changed: ChangedModules | None,
        sources: bool,
        stack: ExitStack,
    ) -> None:
        self.pair, self.position, self.units, self.changed = pair, position, units, changed
        self.sources = sources
        self.done: list[BlockParts] = []
        self.ends: list[Tensor] = []
        self.taps = {
            side: [BlockTaps(block, units, sources, stack) for block in blocks(model)]
            for side, model in (("base", pair.base), ("tuned", pair.tuned))
        }

    def __call__(self, step: BlockStep) -> None:
        base, tuned = self.taps["base"][step.layer], self.taps["tuned"][step.layer]
        before, after = base.added(self.position), tuned.added(self.position)
        pre, base_post, post = (
            wide(stream[0, self.position]) for stream in (step.resid_pre, step.base_post, step.tuned_post)
        )
        self.ends = [*self.ends[:1], post] if step.layer else [pre, post]
        ptc, ftc = base_post - pre, post - base_post
        before_experts, after_experts = base.experts(self.position), tuned.experts(self.position)
        units = self._units(step.layer, before)
        readings = self._readings(step.layer, units)
        with base.attention_of(tuned):
            step.run_base(step.resid_pre)
        alpha = self._alpha(step.layer)
        passed_on = alpha * (base.added(self.position)["mlp"] - before["mlp"])
        change = {part: alpha * (after[part] - before[part]) for part in PARTS}
        self._require_whole(step.layer, ptc, before)
        before["other"], change["other"] = ptc - sum(before.values()), ftc - sum(change.values())
        mlp_change = change["mlp"]
        for of_base, of_tuned, parts in ((before_experts, None, before), (before_experts, after_experts, change)):
            _split_experts(parts, of_base, of_tuned, alpha)
        self.done.append(
            BlockParts(ptc, ftc, before, change, mlp_change, passed_on, alpha, units, readings, self._modules(step))
        )
        base.forget()
        tuned.forget()

    def _modules(self, step: BlockStep) -> dict[str, Tensor]:
        whole = wide(step.tuned_post[0, self.position])
        found: dict[str, Tensor] = {}
        for column in self.changed.of_layer(step.layer) if self.changed else ():
            with self.changed.without(step.layer, column):  # pyright: ignore[reportOptionalMemberAccess]
                found[column] = whole - wide(step.run_tuned(step.resid_pre)[0, self.position])
        return found

    def _alpha(self, layer: int) -> float:
        scalings = self.pair.active_scalings
        weight = scalings[-1].weight(layer) if scalings else 1.0
        if isinstance(weight, Tensor):
            return float(weight[0, min(self.position, weight.shape[1] - 1), 0])
        return weight

    def _units(self, layer: int, of_base: dict[str, Tensor]) -> dict[tuple[Part, str], Units]:
        found: dict[tuple[Part, str], Units] = {}
        for side, model in (("base", self.pair.base), ("tuned", self.pair.tuned)):
            for part in self.units:
                values = self.taps[side][layer].unit_values(part, self.position)
                through = unit_map(model, layer, part)
                found[part, side] = Units(through, values, through.frozen(values))
        for part in self.units:
            self._require_units(layer, part, found[part, "base"], of_base[part])
        return found

    def _require_units(self, layer: int, part: Part, units: Units, whole: Tensor) -> None:
        added = units.map.apply(units.values, units.frozen) + units.map.bias_added(units.frozen)
        rest = float((whole - wide(added[0])).abs().sum()) / (float(whole.abs().sum()) or 1.0)
        if not rest <= tolerance(self.pair.dtype) and not _has_hooks(blocks(self.pair.base)[layer]):
            what = "heads" if part == "attention" else "neurons"
            why = f"those of block {layer} do not add up to its {part}: {rest:.2g} of it is left"
            raise InputError(f"no {what} on this architecture", why, f"leave out {what}=")

    def _readings(self, layer: int, units: dict[tuple[Part, str], Units]) -> dict[str, Reading]:
        if not self.sources:
            return {}
        found = {side: Reading(*taps[layer].reading(self.position)) for side, taps in self.taps.items()}
        for side, reading in found.items():
            z = units["attention", side].values[0].double()
            found[side] = reading = reading.scaled_to(z)
            rest = float((reading.z - z).abs().sum()) / (float(z.abs().sum()) or 1.0)
            if not rest <= tolerance(self.pair.dtype):
                why = f"pattern times values is off what the heads of block {layer} put out by {rest:.2g} of it"
                raise InputError("no source tokens", why, "take off hooks on hook_z, if there are any")
        return found

    def _require_whole(self, layer: int, ptc: Tensor, parts: dict[str, Tensor]) -> None:
        rest = float((ptc - sum(parts.values())).abs().sum())
        size = float(sum(part.abs().sum() for part in parts.values()))
        if not rest <= tolerance(self.pair.dtype) * size and not _has_hooks(blocks(self.pair.base)[layer]):
            why = f"attention and MLP of block {layer} do not add up to it: {rest / (size or 1):.2g} of it is left"
            raise InputError("no components on this architecture", why, "use run_with_cache, which takes blocks whole")


def _split_experts(parts: dict[str, Tensor], base: Tensor | None, tuned: Tensor | None, alpha: float) -> None:
    """Put what a mixture's experts add, and what those that every token has add, in place of its MLP."""
    if base is None:
        return
    routed = base if tuned is None else alpha * (tuned - base)
    mlp, other = parts.pop("mlp"), parts.pop("other")
    parts |= {"experts": routed, "shared experts": mlp - routed, "other": other}


def _has_hooks(block: Any) -> bool:
    """Whether a user has put hooks on a base block, which may change its output."""
    return any(len(getattr(point, "fwd_hooks", ())) for point in block.modules())
