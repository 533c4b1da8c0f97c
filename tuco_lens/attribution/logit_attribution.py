"""Direct logit attribution: a token's logit as a sum over the embedding and every PTC_l and FTC_l.

`ModelPair.logit_attribution` makes a `LogitAttribution`. The final norm's scale is that of the real pass
(`models/readout.py`), so the sum is exact; it says what a part writes, not what would be without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.answers import Answer, contrast, question, token_texts
from tuco_lens.attribution.components import along, component_names, head_shares
from tuco_lens.attribution.recording import Recording, record, tolerance
from tuco_lens.attribution.result import AtPosition
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of, run_logits
from tuco_lens.models.readout import Readout

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt


@dataclass(frozen=True, eq=False)
class LogitAttribution(AtPosition):
    """A logit, or a difference of logits, at one position, as a sum of what every part of both models writes."""

    values: Float[np.ndarray, "layer term"] = field(repr=False)
    """What each part of each block adds to it. With `outside` they add up to `logit`."""
    terms: tuple[str, ...]
    """Names of the columns: "PTC attention", "PTC mlp", …, "FTC attention", "FTC mlp", …."""
    outside: dict[str, float]
    """What is not of a block: "embedding", "norm bias", "unembedding bias", and "hooks" for users' hooks on the stream
    between blocks."""
    ptc_heads: Float[np.ndarray, "layer head"] | None = field(repr=False)
    """What the heads of the base blocks add; None unless asked for."""
    ftc_heads: Float[np.ndarray, "layer head"] | None = field(repr=False)
    """What the tuned blocks' heads add beyond that."""
    logit: float
    """The mean logit of the answer's tokens, less that of `against`, before a soft-cap."""
    soft_cap: float | None
    """c, if the model's own logits are c·tanh(logit / c)."""
    answer: tuple[str, ...]
    """The answer's tokens."""
    against: tuple[str, ...]
    """The tokens that it is compared with; may be empty."""
    answer_ids: tuple[int, ...]
    """Ids of the answer's tokens."""
    against_ids: tuple[int, ...]
    """Ids of the tokens that it is compared with."""

    def of(self, kind: str) -> float:
        """The sum of all terms of "PTC" or "FTC"."""
        columns = [i for i, term in enumerate(self.terms) if term.split()[0] == kind]
        return float(self.values[:, columns].sum())

    @property
    def question(self) -> str:
        """What `logit` is of: "'a' over 'b'"."""
        return question(self.answer, self.against)

    def summary(self) -> str:
        """The logit, what of it comes from fine-tuning, and the blocks that write most of it."""
        rest = sum(self.outside.values())
        capped = f" (before the soft-cap at {self.soft_cap:g})" if self.soft_cap else ""
        order = np.argsort(-np.abs(self.values), axis=None)[:3]
        cells = zip(*np.unravel_index(order, self.values.shape), strict=True)
        largest = ", ".join(
            f"{self.terms[column]} of layer {layer} ({float(self.values[layer, column]):+.2f})"
            for layer, column in cells
        )
        parts = f"PTC writes {self.of('PTC'):+.2f}, FTC {self.of('FTC'):+.2f}, embedding and biases {rest:+.2f}"
        return f"{self.question}: {self.logit:+.2f} logits{capped}. {parts}. Largest: {largest}."

    def to_frame(self) -> pd.DataFrame:
        """A row per value: layer (−1 outside the blocks), kind, name, logit.

        Kinds are "term", "outside", and "PTC head" and "FTC head", which are the attention's terms once more.
        """
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "kind", "name", "logit"])

    def _rows(self) -> Iterator[tuple[int, str, str, float]]:
        yield from ((-1, "outside", name, value) for name, value in self.outside.items())
        for kind, grid in (("term", self.values), ("PTC head", self.ptc_heads), ("FTC head", self.ftc_heads)):
            for layer, row in enumerate(() if grid is None else grid):
                names = self.terms if kind == "term" else map(str, range(len(row)))
                yield from ((layer, kind, name, float(value)) for name, value in zip(names, row, strict=True))

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the terms by layer, layer 0 at the bottom."""
        from tuco_lens.plots.attribution import logits_figure

        return logits_figure(self, theme)


def logit_attribution(
    pair: AttributedPair, prompt: Prompt, answer: Answer, against: Answer, position: int, heads: bool
) -> LogitAttribution:
    """The logit of one prompt in parts; see `ModelPair.logit_attribution`.

    Raises:
        InputError: for an answer that is no token, a position that is not there, and an architecture or a hook that
            makes logits in another way than by final norm and unembedding.
    """
    found = record(pair, prompt, position, ["attention"] if heads else [])
    with torch.no_grad():
        ids = torch.tensor([prompt.token_ids], device=device_of(pair.tuned))
        logits = run_logits(pair.tuned, ids)[0, found.position].float()
    asked = contrast(pair, answer, against, logits, prompt, found.position)
    readout = Readout(pair.tuned)
    at = readout.frozen(found.end[None])
    weights = asked.weights(len(logits))
    direction = readout.direction(weights, at).to(found.end.device)
    names = component_names(found, pair.dtype)
    values = [
        [along(parts.get(name), direction) for parts in (block.base, block.change) for name in names]
        for block in found.blocks
    ]
    sides = [head_shares(pair, found, direction, side) for side in (0, 1)] if heads else [None, None]
    outside = _outside(pair, found, readout, at, weights, direction)
    total = float(np.sum(values)) + sum(outside.values())
    _require_logits(pair, readout, readout.logits(found.end[None], at)[0] + sum(readout.bias_logits(at)), logits)
    return LogitAttribution(
        values=np.array(values),
        terms=tuple(f"{kind} {name}" for kind in ("PTC", "FTC") for name in names),
        outside=outside,
        ptc_heads=sides[0],
        ftc_heads=sides[1],
        logit=total,
        soft_cap=readout.soft_cap,
        answer=token_texts(pair.tokenizer, asked.answer),
        against=token_texts(pair.tokenizer, asked.against),
        answer_ids=asked.answer,
        against_ids=asked.against,
        position=found.position,
        tokens=prompt.tokens,
        base=pair.base_name,
        tuned=pair.tuned_name,
    )


def _outside(
    pair: AttributedPair, found: Recording, readout: Readout, at: Any, weights: Tensor, direction: Tensor
) -> dict[str, float]:
    norm, unembedding = (float(bias.double().cpu() @ weights) for bias in readout.bias_logits(at))
    parts = {"embedding": along(found.start, direction), "norm bias": norm, "unembedding bias": unembedding}
    between = (found.end.double() - found.start - found.ptc_sum - found.ftc_sum).to(found.end.dtype)
    if float(between.abs().sum()) > tolerance(pair.dtype) * float(found.end.abs().sum()):
        parts["hooks"] = along(between, direction)
    return parts


def _require_logits(pair: AttributedPair, readout: Readout, made: Tensor, real: Tensor) -> None:
    gap = float((readout.capped(made) - real).abs().max()) / (float(real.max() - real.min()) or 1.0)
    if not gap <= tolerance(pair.dtype):
        why = f"final norm and unembedding of the stream are off the model's logits by {gap:.2g} of their range"
        raise InputError(
            "no logits of parts", why, "take off hooks and scalings behind the last block, if there are any"
        )
