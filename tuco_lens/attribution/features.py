"""What a block's FTC does to the features of a sparse dictionary: on the base block's output, and on the tuned block's.

The dictionary is anything with `encode` and `decode`: an `SAE` or transcoder of SAELens, or one's own. Both blocks run
on the same stream, so the difference is what fine-tuning does in that block. `ModelPair.features` makes a `Features`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tuco_lens.attribution.result import Attribution
from tuco_lens.engine.batches import length_sorted_batches, right_pad
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.lockstep import BlockStep, lockstep
from tuco_lens.engine.memory import FittingBatches
from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of, run_blocks
from tuco_lens.models.positions import length_kind
from tuco_lens.stats.estimates import CONFIDENCE
from tuco_lens.steering.alpha import Positions, layer_index, position_filter

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt


class Dictionary(Protocol):
    """A sparse autoencoder or transcoder, as `SAE` of SAELens is one."""

    def encode(self, x: Tensor) -> Tensor:
        """[..., d_model] to the activations of features, [..., feature]."""
        ...

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Back to the stream, or to what a transcoder writes."""
        ...


class OtherPlaceWarning(UserWarning):
    """A dictionary says that it was trained at another place than it is used at."""


@dataclass(frozen=True, eq=False)
class Features(Attribution):
    """The change of every feature of a dictionary by one block's FTC, in the mean over prompts."""

    values: Float[np.ndarray, " feature"] = field(repr=False)
    """Mean change: activation on the tuned block's output less that on the base block's, on the same stream."""
    low: Float[np.ndarray, " feature"] = field(repr=False)
    """Lower end of its interval: Student's over prompts, simultaneous for all features that were ever active
    (Bonferroni), so that those which changed most may be picked out. NaN for one prompt."""
    high: Float[np.ndarray, " feature"] = field(repr=False)
    """Upper end."""
    base_means: Float[np.ndarray, " feature"] = field(repr=False)
    """Mean activation on the base block's output."""
    tuned_means: Float[np.ndarray, " feature"] = field(repr=False)
    """Mean activation on the tuned block's output."""
    base_active: Float[np.ndarray, " feature"] = field(repr=False)
    """Share of prompts in which the feature is active on the base block's output at some of the tokens."""
    tuned_active: Float[np.ndarray, " feature"] = field(repr=False)
    """The same on the tuned block's output."""
    base_error: float
    """Of the base block's output, what the dictionary does not explain: Σ‖x − x̂‖² over Σ‖x − mean x‖². NaN where
    `decode` gives something else than the stream."""
    tuned_error: float
    """The same of the tuned block's output."""
    change_error: float
    """Of FTC, what the change of the features does not explain: Σ‖FTC − (x̂_tuned − x̂_base)‖² over Σ‖FTC‖²."""
    layer: int
    """The block, from 0."""
    n_prompts: int
    """Number of prompts, the unit of the intervals."""
    confidence: float
    """Of all intervals together."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""

    def top(self, k: int = 10) -> list[int]:
        """The k features that rise most, the first first, and then the k that fall most, the last last."""
        order = np.argsort(-self.values, kind="stable")
        rising = [int(i) for i in order[:k] if self.values[i] > 0]
        return rising + [int(i) for i in order[max(len(rising), len(order) - k) :] if self.values[i] < 0]

    @property
    def is_changed(self) -> Bool[np.ndarray, " feature"]:
        """Whether the interval leaves out 0."""
        return (self.low > 0) | (self.high < 0)

    def summary(self) -> str:
        """How many features change, which most, and how much of the stream and of FTC the dictionary explains."""
        n_changed, n_active = int(self.is_changed.sum()), int(((self.base_active + self.tuned_active) > 0).sum())
        shown = ", ".join(f"{i} ({self._in_words(i)})" for i in self.top(2)) or "none"
        unexplained = f"{self.base_error:.2f}, {self.tuned_error:.2f} and {self.change_error:.2f}"
        return (
            f"FTC of layer {self.layer} over {self.n_prompts} prompts: {n_active} of {len(self.values)} features are"
            f" active, {n_changed} change beyond doubt ({100 * self.confidence:.0f} %, all together). Most: {shown}."
            f" The dictionary leaves {unexplained} of the base output, the tuned output and FTC unexplained."
        )

    def _in_words(self, feature: int) -> str:
        ends = "" if math.isnan(self.low[feature]) else f", {self.low[feature]:+.3f} to {self.high[feature]:+.3f}"
        return f"{self.values[feature]:+.3f}{ends}"

    def to_frame(self) -> pd.DataFrame:
        """A row per feature: feature, change, low, high, base, tuned, base_active, tuned_active."""
        import pandas as pd

        return pd.DataFrame(
            {
                "feature": np.arange(len(self.values)),
                "change": self.values,
                "low": self.low,
                "high": self.high,
                "base": self.base_means,
                "tuned": self.tuned_means,
                "base_active": self.base_active,
                "tuned_active": self.tuned_active,
            }
        )

    def figure(self, theme: Theme = "light", k: int = 10) -> go.Figure:
        """Draws the k features that rise most and the k that fall most, with their intervals."""
        from tuco_lens.plots.attribution import features_figure

        return features_figure(self, theme, k)


@dataclass(frozen=True)
class FeatureOptions:
    """Where a dictionary is used, and on which tokens."""

    layer: int
    positions: Positions
    confidence: float = CONFIDENCE
    batch_size: int = 8
    progress: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence {self.confidence}", "it lies between 0 and 1", "give such as 0.95")


def features(pair: AttributedPair, prompts: Sequence[Prompt], sae: Dictionary, options: FeatureOptions) -> Features:
    """The features of one layer over prompts; see `ModelPair.features`.

    Raises:
        InputError: for a dictionary that does not read the stream, and for a layer or tokens that are not there.
    """
    layer = layer_index(options.layer, pair.n_layers)
    sums = _Sums(_Reader(sae, pair.d_model, layer))
    chosen = [_chosen(prompt, options.positions) for prompt in prompts]

    def run(batch: list[int]) -> None:
        ids = right_pad([prompts[i] for i in batch], pair.pad_id).to(device_of(pair.tuned))
        found: list[tuple[Tensor, Tensor]] = []

        def visit(step: BlockStep) -> None:
            if step.layer == layer:
                for row, i in enumerate(batch):
                    found.append((step.base_post[row, chosen[i]], step.tuned_post[row, chosen[i]]))

        with fast_path(pair.base, pair.tuned), lockstep(pair.base, pair.tuned, visit):
            run_blocks(pair.tuned, ids, layer)
        for base, tuned in found:  # after the pass, so that a batch which does not fit adds nothing
            sums.add(base, tuned)

    with torch.no_grad():
        kind = length_kind(pair.base, pair.tuned)
        batches = length_sorted_batches([prompt.n_tokens for prompt in prompts], options.batch_size, kind=kind)
        done = (i for batch, _ in FittingBatches(options.batch_size).run(batches, run) for i in batch)
        for _ in with_progress(done, total=len(prompts), show=options.progress, name="features"):
            pass
    return sums.result(pair, layer, options.confidence)


def _chosen(prompt: Prompt, positions: Positions) -> list[int]:
    n_tokens = prompt.n_tokens
    selected = position_filter(positions, prompt.roles).selects(0, n_tokens, n_tokens)
    found = [i for i, is_chosen in enumerate(selected) if is_chosen]
    if not found:
        raise InputError("no tokens chosen", f"a prompt of {n_tokens} tokens has none of them", "give other positions")
    return found


class _Reader:
    """Calls a dictionary on streams of any dtype and device."""

    def __init__(self, sae: Any, d_model: int, layer: int) -> None:
        self.sae = sae
        first = next(iter(sae.parameters()), None) if isinstance(sae, torch.nn.Module) else None
        self.like = torch.zeros(1) if first is None else first
        config = getattr(sae, "cfg", None)
        d_in = getattr(config, "d_in", d_model)
        if d_in != d_model:
            why = f"it reads vectors of {d_in}, and the stream is {d_model} wide"
            raise InputError("the dictionary does not fit", why, "give one that was trained on this model")
        try:
            self.n_features = self.encode(torch.zeros(1, d_model)).shape[-1]
        except Exception as error:
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no reason given'}"
            raise InputError(f"the dictionary does not read a stream of {d_model}", why, "give another") from error
        self._check_place(getattr(getattr(config, "metadata", None), "hook_name", None), layer)

    @staticmethod
    def _check_place(hook: Any, layer: int) -> None:
        places = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre")
        if isinstance(hook, str) and hook not in places:
            warnings.warn(f"the dictionary was trained at {hook}, not {places[0]}", OtherPlaceWarning, stacklevel=6)

    def encode(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token feature"]:
        return self.sae.encode(stream.to(self.like))

    def decode(self, activations: Float[Tensor, "token feature"]) -> Float[Tensor, "token d_model"]:
        return self.sae.decode(activations).double()


class _Sums:
    """Moments of the features over prompts, and squared errors over tokens; no prompt's activations are kept."""

    def __init__(self, reader: _Reader) -> None:
        self.reader, self.n_prompts, self.n_tokens = reader, 0, 0
        names = ("base", "tuned", "squares", "base_active", "tuned_active")
        device = reader.like.device
        self.of = {name: torch.zeros(reader.n_features, dtype=torch.float64, device=device) for name in names}
        self.errors = {"base": 0.0, "tuned": 0.0, "change": 0.0}
        self.sizes = {"base": 0.0, "tuned": 0.0, "change": 0.0}
        self.streams: dict[str, Tensor] = {}

    def add(self, base: Float[Tensor, "token d_model"], tuned: Float[Tensor, "token d_model"]) -> None:
        """One prompt: the outputs of both blocks at the chosen tokens."""
        acts = {name: self.reader.encode(stream) for name, stream in (("base", base), ("tuned", tuned))}
        means = {name: each.double().mean(0) for name, each in acts.items()}
        for name, each in acts.items():
            self.of[name] += means[name]
            self.of[f"{name}_active"] += (each != 0).any(0)
        self.of["squares"] += (means["tuned"] - means["base"]).square()
        self.n_prompts += 1
        self._add_errors(base.to(self.reader.like).double(), tuned.to(self.reader.like).double(), acts)

    def _add_errors(self, base: Tensor, tuned: Tensor, acts: dict[str, Tensor]) -> None:
        rebuilt = {name: self.reader.decode(each) for name, each in acts.items()}
        if any(each.shape != base.shape for each in rebuilt.values()):  # a transcoder to something else
            self.errors = dict.fromkeys(self.errors, math.nan)
            return
        for name, stream in (("base", base), ("tuned", tuned)):
            self.errors[name] += float((stream - rebuilt[name]).square().sum())
            self.sizes[name] += float(stream.square().sum())
            self.streams[name] = self.streams.get(name, 0) + stream.sum(0)
        self.n_tokens += len(base)
        self.errors["change"] += float((tuned - base - rebuilt["tuned"] + rebuilt["base"]).square().sum())
        self.sizes["change"] += float((tuned - base).square().sum())

    def result(self, pair: AttributedPair, layer: int, confidence: float) -> Features:
        """Means, intervals and unexplained shares."""
        of = {name: each.cpu().numpy() / self.n_prompts for name, each in self.of.items()}
        change = of["tuned"] - of["base"]
        half = self._half_widths(change, of["squares"], confidence, (of["base_active"] + of["tuned_active"]) > 0)
        return Features(
            values=change,
            low=change - half,
            high=change + half,
            base_means=of["base"],
            tuned_means=of["tuned"],
            base_active=of["base_active"],
            tuned_active=of["tuned_active"],
            base_error=self._unexplained("base"),
            tuned_error=self._unexplained("tuned"),
            change_error=self._unexplained("change"),
            layer=layer,
            n_prompts=self.n_prompts,
            confidence=confidence,
            base=pair.base_name,
            tuned=pair.tuned_name,
        )

    def _half_widths(
        self,
        mean: Float[np.ndarray, " feature"],
        squares: Float[np.ndarray, " feature"],
        confidence: float,
        is_active: Bool[np.ndarray, " feature"],
    ) -> Float[np.ndarray, " feature"]:
        """Of Student's intervals, at a confidence that holds for all active features together."""
        from scipy.stats import t

        n = self.n_prompts
        if n < 2:
            return np.full(len(mean), math.nan)
        each = 1 - (1 - confidence) / (2 * max(1, int(is_active.sum())))
        variance = np.maximum(squares - mean**2, 0) * n / (n - 1)
        return float(t.ppf(each, n - 1)) * np.sqrt(variance / n)

    def _unexplained(self, name: str) -> float:
        centre = float(self.streams[name].square().sum()) / self.n_tokens if name in self.streams else 0.0
        spread = self.sizes[name] - centre
        return self.errors[name] / spread if spread > 0 else math.nan
