"""The exact split of a tuned model's forward pass into PTC and FTC.

`lockstep.py` runs the base model's block beside each block of the tuned model and reports the two. Here the reports
are added up: `batch_norms` keeps norms, for `ModelPair.measure`; `decompose` keeps vectors, for
`ModelPair.run_with_cache`. Apart from those, only the current stream and two sums are in memory, whatever the number
of layers. The quantities are defined in `metrics.py`; batches of prompts are in `batches.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.brief import Brief, brief, in_lines
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.kv_caches import CachePairing
from tuco_lens.engine.lockstep import BlockStep, lockstep
from tuco_lens.engine.metrics import Norm, contribution_ratio, vector_norms
from tuco_lens.engine.sharing import Stretch
from tuco_lens.errors import InputError, LoadError
from tuco_lens.models.backends import blocks, device_of, dtype_of, run_blocks, run_embedding, run_logits


class _Sums:
    """P_l and F_l: the running sums of PTC and FTC, in float32 or wider whatever the models' dtype."""

    def __init__(self) -> None:
        self.ptc: Float[Tensor, "batch pos d_model"] | None = None
        self.ftc: Float[Tensor, "batch pos d_model"] | None = None

    def add_ftc(self, tuned_post: Tensor, base_post: Tensor) -> tuple[Tensor, Tensor]:
        """FTC_l = f_FT(x_l, l) − f_PT(x_l, l), the difference of the two `hook_resid_post`, and F_{l+1}."""
        ftc = _difference(tuned_post, base_post)
        self.ftc = ftc.clone() if self.ftc is None else self.ftc.to(ftc.device).add_(ftc)
        return ftc, self.ftc

    def add_ptc(self, resid_pre: Tensor, base_post: Tensor) -> tuple[Tensor, Tensor]:
        """PTC_l = f_PT(x_l, l), the base block's `hook_resid_post` − x_l, and P_{l+1}."""
        ptc = _difference(base_post, resid_pre)
        self.ptc = ptc.clone() if self.ptc is None else self.ptc.to(ptc.device).add_(ptc)
        return ptc, self.ptc


def _difference(a: Tensor, b: Tensor) -> Tensor:
    # Subtracting in place would save memory, but users' hooks may have kept these very tensors.
    wide = torch.promote_types(a.dtype, torch.float32)
    return a.to(wide) - b.to(wide)


@dataclass(frozen=True)
class NormMaps(Brief):
    """Norms of one prompt, each a float32 tensor on the CPU, [n_layers, n_tokens]."""

    ptc: Float[Tensor, "layer token"]
    """‖PTC_l[t]‖: what the base block adds to the stream."""
    ftc: Float[Tensor, "layer token"]
    """‖FTC_l[t]‖: what fine-tuning adds on top."""
    cumulative_ptc: Float[Tensor, "layer token"]
    """‖P_{l+1}[t]‖ in row l: the sum of PTC over blocks 0 … l."""
    cumulative_ftc: Float[Tensor, "layer token"]
    """‖F_{l+1}[t]‖ in row l: the sum of FTC over blocks 0 … l."""
    drift: Float[Tensor, "layer token"] | None = None
    """OutputCo's ratio at every layer and token, from two independent runs; None unless asked for."""

    @classmethod
    def joined(cls, parts: Sequence[NormMaps]) -> NormMaps:
        """The norms of a prompt whose tokens went through several passes, one after the other."""
        if len(parts) == 1:
            return parts[0]
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in names})


@dataclass(frozen=True)
class BatchNorms(Brief):
    """Norms of one right-padded batch, on the CPU; float32, or float64 for float64 models."""

    ptc: Float[Tensor, "layer batch pos"]
    """‖PTC_l[t]‖."""
    ftc: Float[Tensor, "layer batch pos"]
    """‖FTC_l[t]‖."""
    cumulative_ptc: Float[Tensor, "layer batch pos"]
    """‖P_{l+1}[t]‖ in row l."""
    cumulative_ftc: Float[Tensor, "layer batch pos"]
    """‖F_{l+1}[t]‖ in row l."""
    drift: Float[Tensor, "layer batch pos"] | None = None
    """‖Δ_{l+1}[t]‖ / (‖x^PT_{l+1}[t]‖ + ‖Δ_{l+1}[t]‖), Δ = x^FT − x^PT of two independent runs, or None."""

    def of_prompt(self, row: int, n_tokens: int) -> NormMaps:
        """One row of the batch without its padding, copied, since a view would keep the whole batch alive."""

        def cut(values: Tensor) -> Tensor:
            return values[:, row, :n_tokens].to(torch.float32, copy=True)

        return NormMaps(
            cut(self.ptc),
            cut(self.ftc),
            cut(self.cumulative_ptc),
            cut(self.cumulative_ftc),
            None if self.drift is None else cut(self.drift),
        )


_FIRST_LAYERS = 64
"""Layers that norms are kept for before more room is made."""


class NormAccumulator:
    """Takes the steps of one forward pass and keeps norms per layer and token.

    Args:
        norm: "l1" (the paper's) or "l2".
        base_stream: the base model's own embedding of the batch. If given, the base model also runs on its own stream,
            a third block call per layer, for the drift map.
        last: the one position of each row to keep norms of; of all by default.
    """

    def __init__(
        self,
        norm: Norm,
        base_stream: Float[Tensor, "batch pos d_model"] | None = None,
        last: Sequence[int] | None = None,
    ) -> None:
        self.norm: Norm = norm
        self.base_stream = base_stream
        self.last = None if last is None else torch.tensor(last)
        self.sums = _Sums()
        self.kept: Tensor | None = None  # [at least n_layers, quantity, batch, pos]
        self.n_layers = 0

    def __call__(self, step: BlockStep) -> None:
        """Take one step; steps come in the order of the layers."""
        resid_pre, tuned_post, base_post = map(self._kept, (step.resid_pre, step.tuned_post, step.base_post))
        row = [vector_norms(vectors, self.norm) for vectors in self.sums.add_ptc(resid_pre, base_post)]
        row += [vector_norms(vectors, self.norm) for vectors in self.sums.add_ftc(tuned_post, base_post)]
        if self.base_stream is not None:
            self.base_stream = step.run_base(self.base_stream)
            own = self._kept(self.base_stream)
            delta = vector_norms(_difference(tuned_post, own), self.norm)
            scale = vector_norms(own.to(delta.dtype), self.norm)
            row.append(contribution_ratio(delta, scale))
        self._append(row)  # of each the local one, then the cumulative one, then the drift

    def _append(self, row: list[Tensor]) -> None:
        # In one tensor: small ones that live on, made between large ones, would split the heap of a CPU's allocator,
        # which then grows with every layer.
        if self.kept is None:
            self.kept = row[0].new_empty(_FIRST_LAYERS, len(row), *row[0].shape)
        elif self.n_layers == len(self.kept):
            self.kept = torch.cat([self.kept, torch.empty_like(self.kept)])
        for place, norms in enumerate(row):
            self.kept[self.n_layers, place] = norms
        self.n_layers += 1

    def _kept(self, stream: Tensor) -> Tensor:
        return stream if self.last is None else stream[torch.arange(len(stream)), self.last][:, None]

    def result(self) -> BatchNorms:
        """The norms of the finished pass."""
        assert self.kept is not None
        ptc, cumulative_ptc, ftc, cumulative_ftc, *drift = self.kept[: self.n_layers].cpu().unbind(1)
        return BatchNorms(ptc, ftc, cumulative_ptc, cumulative_ftc, *drift)


def batch_norms(
    base: Any, tuned: Any, ids: Int[Tensor, "batch pos"], *, norm: Norm = "l1", drift: bool = False
) -> BatchNorms:
    """Norms of PTC and FTC, local and cumulative, for every layer and token of a batch.

    Args:
        base: the base model, a TransformerLens model.
        tuned: the tuned model, of the same kind and shape.
        ids: token ids on the models' device; padding on the right needs no mask (see `right_pad`).
        norm: "l1" or "l2".
        drift: also run the base model on its own stream.
    """
    return stretch_norms(base, tuned, Stretch.of_whole(ids), norm=norm, drift=drift)


@torch.no_grad()
def stretch_norms(
    base: Any,
    tuned: Any,
    stretch: Stretch,
    *,
    norm: Norm = "l1",
    drift: bool = False,
    last_only: bool = False,
    pairing: CachePairing | None = None,
) -> BatchNorms:
    """As `batch_norms`, of tokens that may go on from a beginning.

    Args:
        base: the base model.
        tuned: the tuned model.
        stretch: the tokens.
        norm: "l1" or "l2".
        drift: also run the base model on its own stream.
        last_only: only those of each row's last token, as the only position.
        pairing: the base blocks' caches; needed with a cache.
    """
    # Embedded with what is before them, since positions may be learned.
    own = run_embedding(base, stretch.whole_ids)[:, len(stretch.before) :] if drift else None
    accumulate = NormAccumulator(norm, own, stretch.last if last_only else None)
    with fast_path(base, tuned), lockstep(base, tuned, accumulate, pairing if stretch.cache is not None else None):
        run_blocks(tuned, stretch.ids, cache=stretch.cache)
    return accumulate.result()


CACHE_NAMES = ("resid_pre", "ptc", "ftc", "cumulative_ptc", "cumulative_ftc")


@dataclass(frozen=True)
class ContributionCache(Brief):
    """The vectors of one prompt's decomposition: `cache["ftc", 3]` is FTC_3, [n_positions, d_model].

    Names: "ptc" and "ftc" at layers 0 … L-1; "resid_pre" (x_l) and the sums over the blocks before l, "cumulative_ptc"
    (P_l) and "cumulative_ftc" (F_l), at layers 0 … L. So x_L = x_0 + P_L + F_L is, up to rounding,
    `c["resid_pre", L] ≈ c["resid_pre", 0] + c["cumulative_ptc", L] + c["cumulative_ftc", L]`. If only some layers were
    asked for, those and L are kept. An entry that was not kept raises a `KeyError`.
    """

    vectors: dict[tuple[str, int], Float[Tensor, "position d_model"]]
    """By name and layer; float32 (float64 for float64 models), each on its layer's device."""
    n_layers: int
    """L, the number of blocks."""
    positions: tuple[int, ...]
    """The position in the prompt of each row, ascending."""

    def __repr__(self) -> str:
        some = next(iter(self.vectors.values()), None)
        each = "nothing" if some is None else f"{brief(some)} each"
        kept = [f"{name} {_ranges(layers)}" for name in CACHE_NAMES if (layers := self.layers(name))]
        what = f"ContributionCache of {len(self.positions)} positions, {each}, on layers: {'; '.join(kept)}."
        return in_lines(f"{what} c['ftc', {self.n_layers - 1}] is one of them, c.stack('ftc') all of a name.")

    def __getitem__(self, key: tuple[str, int]) -> Float[Tensor, "position d_model"]:
        try:
            return self.vectors[key]
        except KeyError:
            raise KeyError(self._why_missing(key)) from None

    def _why_missing(self, key: Any) -> str:
        if not (isinstance(key, tuple) and len(key) == 2 and key[0] in CACHE_NAMES):  # pyright: ignore[reportUnknownArgumentType]
            return f"no entry {key!r}: use (name, layer) with a name of {', '.join(CACHE_NAMES)}"
        return f"no entry {key!r}: {key[0]!r} was kept for layers {self.layers(key[0])}; ask for more with layers="

    def layers(self, name: str) -> list[int]:
        """The layers for which `name` was kept, ascending."""
        return sorted(layer for kept, layer in self.vectors if kept == name)

    def stack(self, name: str) -> Float[Tensor, "layer position d_model"]:
        """All kept layers of one name, in ascending order."""
        return torch.stack([self[name, layer] for layer in self.layers(name) or [0]])


def _ranges(layers: Sequence[int]) -> str:
    """Ascending numbers, with consecutive ones as a range: `0-3, 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1][1:] = [layer]
        else:
            runs.append([layer])
    return ", ".join("-".join(map(str, run)) for run in runs)


class CacheAccumulator:
    """Takes the steps of one forward pass on one prompt and keeps chosen vectors.

    Args:
        n_layers: L.
        layers: the blocks to keep, 0 … L-1.
        positions: the positions to keep.
    """

    def __init__(self, n_layers: int, layers: Sequence[int], positions: Sequence[int]) -> None:
        self.n_layers = n_layers
        self.layers = frozenset(layers)
        self.positions = tuple(positions)
        self.sums = _Sums()
        self.vectors: dict[tuple[str, int], Tensor] = {}

    def __call__(self, step: BlockStep) -> None:
        """Take one step; steps come in the order of the layers."""
        layer = step.layer
        ptc, sum_ptc = self.sums.add_ptc(step.resid_pre, step.base_post)
        ftc, sum_ftc = self.sums.add_ftc(step.tuned_post, step.base_post)
        if layer in self.layers:
            self._keep(layer, resid_pre=step.resid_pre, ptc=ptc, ftc=ftc)
            if layer == 0:
                self._keep(0, cumulative_ptc=torch.zeros_like(ptc), cumulative_ftc=torch.zeros_like(ftc))
        if layer + 1 in self.layers or layer + 1 == self.n_layers:
            self._keep(layer + 1, cumulative_ptc=sum_ptc, cumulative_ftc=sum_ftc)
        if layer + 1 == self.n_layers:
            self._keep(self.n_layers, resid_pre=step.tuned_post)

    def _keep(self, layer: int, **named: Tensor) -> None:
        index = list(self.positions)
        for name, vectors in named.items():
            wide = torch.promote_types(vectors.dtype, torch.float32)
            self.vectors[name, layer] = vectors[0, index].to(wide)  # indexing copies; the sums change in place

    def result(self) -> ContributionCache:
        """The vectors of the finished pass."""
        return ContributionCache(self.vectors, self.n_layers, self.positions)


@torch.no_grad()
def decompose(
    base: Any,
    tuned: Any,
    token_ids: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> tuple[Float[Tensor, "pos d_vocab"], ContributionCache]:
    """The tuned model's logits on one prompt, and the vectors of the decomposition that were asked for.

    Args:
        base: the base model, a TransformerLens model.
        tuned: the tuned model, of the same kind and shape.
        token_ids: the prompt.
        layers: the blocks to keep; all by default. Negative ones count from the end.
        positions: the positions to keep; all by default. Negative ones count from the end.

    Raises:
        InputError: for a layer or position that does not exist.
    """
    n_layers = len(blocks(tuned))
    kept = _indices(positions, len(token_ids), "position")
    accumulate = CacheAccumulator(n_layers, _indices(layers, n_layers, "layer"), kept)
    ids = torch.tensor([token_ids], device=device_of(tuned))  # [1, pos]
    with lockstep(base, tuned, accumulate):
        logits = run_logits(tuned, ids)
    return logits[0], accumulate.result()


def _indices(asked: Sequence[int] | None, size: int, what: str) -> list[int]:
    if asked is None:
        return list(range(size))
    for index in asked:
        if not -size <= index < size:
            raise InputError(
                f"{what} {index} is out of range", f"there are {size}", f"give {what}s from 0 to {size - 1}"
            )
    return sorted({index % size for index in asked})


IDENTITY_TOLERANCE = 1e-5
"""Largest ‖x_0 + P_L + F_L − x_L‖₁ / ‖x_L‖₁ allowed in float32; scaled up with eps for narrower dtypes."""


def require_decomposition(base: Any, tuned: Any, name: str) -> float:
    """Check on one short forward pass that x_0 + P_L + F_L = x_L; returns the relative L1 residual.

    Raises:
        LoadError: if the residual is over the tolerance, or NaN; the message calls the pair `name`.
    """
    n_layers, d_vocab = len(blocks(tuned)), tuned.cfg.d_vocab
    n_tokens = min(8, d_vocab, tuned.cfg.n_ctx)
    first = (d_vocab - n_tokens) // 2  # ordinary tokens: special ones are mostly at the vocabulary's ends
    _, cache = decompose(base, tuned, range(first, first + n_tokens), layers=[0])
    rebuilt = cache["resid_pre", 0] + cache["cumulative_ptc", n_layers] + cache["cumulative_ftc", n_layers]
    actual = cache["resid_pre", n_layers]
    residual = ((rebuilt - actual).abs().sum() / actual.abs().sum()).item()
    eps = torch.finfo(dtype_of(tuned)).eps
    tolerance = IDENTITY_TOLERANCE * max(1.0, eps / torch.finfo(torch.float32).eps)
    if not residual <= tolerance:  # also when it is NaN
        raise LoadError(
            f"{name} do not decompose",
            f"x_0 + P_L + F_L differs from x_L by {residual:.2g} of its norm, over {tolerance:.2g}",
            "check the checkpoints for broken weights, or load them in float32",
        )
    return residual
