"""The logit lens on contributions: which tokens PTC and FTC promote and suppress, at every layer and position.

`ModelPair.logit_lens` makes a `LogitLens`; `plots/logit_lens.py` draws it. Vectors go through the tuned model's final
norm, at the scale of the real pass (`models/readout.py`), so the tokens' logits of parts add up to those of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.attribution.answers import token_texts
from tuco_lens.attribution.result import Attribution
from tuco_lens.engine.contributions import ContributionCache, decompose
from tuco_lens.errors import InputError
from tuco_lens.models.readout import Readout
from tuco_lens.plots.labels import token_label
from tuco_lens.plots.statistic import window

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt

LensKind = Literal["ftc", "ptc", "cumulative_ftc", "cumulative_ptc", "resid_post"]
_LAYER_OFFSET: Final = {"ftc": 0, "ptc": 0, "cumulative_ftc": 1, "cumulative_ptc": 1, "resid_post": 1}
"""Sums and streams after block l are kept as those before block l + 1."""

_MAPS: Final = ("values", "promoted", "promoted_logits", "suppressed", "suppressed_logits")


@dataclass(frozen=True, eq=False)
class LogitLens(Attribution):
    """The tokens that a contribution promotes and suppresses most, by layer and position."""

    values: Float[np.ndarray, "layer position"] = field(repr=False)
    """Logit of the token that is promoted most; for "resid_post" its probability."""
    promoted: Int[np.ndarray, "layer position rank"] = field(repr=False)
    """Ids of the tokens with the highest logits, the highest first."""
    promoted_logits: Float[np.ndarray, "layer position rank"] = field(repr=False)
    """Their logits; for "resid_post" with the biases, before a soft-cap."""
    suppressed: Int[np.ndarray, "layer position rank"] = field(repr=False)
    """Ids of the tokens with the lowest logits, the lowest first."""
    suppressed_logits: Float[np.ndarray, "layer position rank"] = field(repr=False)
    """Their logits."""
    of: LensKind
    """What is read: one of "ftc", "ptc", "cumulative_ftc", "cumulative_ptc" and "resid_post"."""
    texts: dict[str, str] = field(repr=False)
    """Text of every token in `promoted` and `suppressed`, by its id as a string."""
    positions: tuple[int, ...]
    """Position in the prompt of each column."""
    tokens: tuple[str, ...] = field(repr=False)
    """Token of each column."""
    roles: tuple[str, ...] = field(repr=False)
    """Span of each column."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""
    first_layer: int = 0
    """Layer of the first row."""

    def layers(self, first: int | None = None, last: int | None = None) -> LogitLens:
        """Only the layers from `first` up to, but not including, `last`; counted as in `LayerTokenMap.layers`."""
        kept = window(first, last, start=self.first_layer, size=len(self.values), what="layers")
        cut = {name: getattr(self, name)[kept] for name in _MAPS}
        return replace(self, **cut, first_layer=self.first_layer + kept.start)

    def columns(self, first: int | None = None, last: int | None = None) -> LogitLens:
        """Only the columns from `first` up to, but not including, `last`, counted from 0 as they stand here."""
        kept = window(first, last, start=0, size=len(self.positions), what="columns")
        cut = {name: getattr(self, name)[:, kept] for name in _MAPS}
        return replace(self, **cut, **{name: getattr(self, name)[kept] for name in ("positions", "tokens", "roles")})

    def text(self, token_id: int) -> str:
        """Text of a token that is promoted or suppressed somewhere."""
        return self.texts[str(token_id)]

    def summary(self) -> str:
        """What the last layer promotes and suppresses at the last position, and the layer that promotes most."""
        last = self.first_layer + len(self.values) - 1
        strongest = int(self.values[:, -1].argmax())
        begin = f"{self.of} at position {self.positions[-1]} ({token_label(self.tokens[-1], 24)})"
        most = f"most strongly at layer {self.first_layer + strongest}: {self._listed(strongest, self.promoted)}"
        up, down = (self._listed(-1, ids) for ids in (self.promoted, self.suppressed))
        end = f"layer {last} promotes {up} and suppresses {down}"
        return f"{begin}: {end}; {most}."

    def _listed(self, row: int, ids: Int[np.ndarray, "layer position rank"]) -> str:
        return ", ".join(f"'{token_label(self.text(each), 24)}'" for each in ids[row, -1][:3])

    def to_frame(self) -> pd.DataFrame:
        """A row per layer, position and rank: layer, position, token, rank, promoted, logit, suppressed, its logit."""
        import pandas as pd

        n_layers, n_columns, k = self.promoted.shape
        layer, column, rank = (axis.ravel() for axis in np.indices((n_layers, n_columns, k)))
        return pd.DataFrame(
            {
                "layer": layer + self.first_layer,
                "position": np.array(self.positions)[column],
                "token": np.array(self.tokens, dtype=object)[column],
                "rank": rank,
                "promoted": [self.text(each) for each in self.promoted.ravel()],
                "promoted_logit": self.promoted_logits.ravel(),
                "suppressed": [self.text(each) for each in self.suppressed.ravel()],
                "suppressed_logit": self.suppressed_logits.ravel(),
            }
        )

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the map: the token that is promoted most in each cell, the next ones where the pointer is."""
        from tuco_lens.plots.logit_lens import lens_figure

        return lens_figure(self, theme)


def logit_lens(
    pair: AttributedPair, prompt: Prompt, of: LensKind, k: int, positions: Sequence[int] | None
) -> LogitLens:
    """The lens on one prompt; see `ModelPair.logit_lens`.

    Raises:
        InputError: for an unknown kind, a k that is not positive, or a position that is not there.
    """
    if of not in _LAYER_OFFSET:
        raise InputError(f"no lens on {of!r}", f"there are {', '.join(get_args(LensKind))}", "name one of them")
    if k < 1:
        raise InputError(f"k is {k}", "at least one token has to be named", "give a positive number")
    _, cache = decompose(pair.base, pair.tuned, prompt.token_ids, positions=positions)
    k = min(k, pair.tuned.cfg.d_vocab)
    rows = [_tops(logits, k) for logits in _logits(pair, cache, of)]
    top, top_ids, low, low_ids, probability = (np.stack(column) for column in zip(*rows, strict=True))
    ids = np.unique(np.concatenate([top_ids.ravel(), low_ids.ravel()]))
    texts = token_texts(pair.tokenizer, ids.tolist())
    return LogitLens(
        values=probability if of == "resid_post" else top[..., 0],
        promoted=top_ids,
        promoted_logits=top,
        suppressed=low_ids,
        suppressed_logits=-low,
        of=of,
        texts={str(each): text for each, text in zip(ids, texts, strict=True)},
        positions=cache.positions,
        tokens=tuple(prompt.tokens[position] for position in cache.positions),
        roles=tuple(prompt.roles[position] for position in cache.positions),
        base=pair.base_name,
        tuned=pair.tuned_name,
    )


def _logits(pair: AttributedPair, cache: ContributionCache, of: LensKind) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every layer the logits, [position, d_vocab], and the largest probability, [position]."""
    readout = Readout(pair.tuned)
    at = readout.frozen(cache["resid_pre", cache.n_layers])
    name = "resid_pre" if of == "resid_post" else of
    biases = sum(readout.bias_logits(at)) if of == "resid_post" else 0.0
    for layer in range(cache.n_layers):
        logits = readout.logits(cache[name, layer + _LAYER_OFFSET[of]], at) + biases
        yield logits, readout.capped(logits).softmax(dim=-1).amax(dim=-1)


def _tops(logits: tuple[Tensor, Tensor], k: int) -> tuple[np.ndarray, ...]:
    top, low = logits[0].topk(k), (-logits[0]).topk(k)
    return tuple(
        each.float().cpu().numpy() if each.is_floating_point() else each.cpu().numpy()
        for each in (top.values, top.indices, low.values, low.indices, logits[1])
    )
