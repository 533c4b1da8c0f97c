"""Which tokens of the prompt attention brings fine-tuning in from: attention's share of TuCo, by source token.

`ModelPair.sources` makes a `Sources`; `recording.py` keeps what the heads read, `plots/attribution.py` draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from tuco_lens.attribution.components import along
from tuco_lens.attribution.recording import BlockParts, record
from tuco_lens.attribution.result import AtPosition
from tuco_lens.engine.metrics import Norm, check_norm, contribution_ratio, vector_norms
from tuco_lens.plots.labels import token_label

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import Tensor

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.plots.tokens import ColoredTokens
    from tuco_lens.prompts.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Sources(AtPosition):
    """Attention's share of TuCo at one position, by layer and by the token that is read from; its tokens end there."""

    values: Float[np.ndarray, "layer source"] = field(repr=False)
    """Share of TuCo that attention adds by what it reads from each token, the position's own the last."""
    bias: Float[np.ndarray, " layer"] = field(repr=False)
    """Share of the bias of attention's output, which is read from no token."""
    attention: Float[np.ndarray, " layer"] = field(repr=False)
    """Share of the whole attention, as in `Components`: the sum of `values` and `bias`, and of what users' hooks on
    attention's output add."""
    tuco: float
    """TuCo at the position."""
    norm: Norm
    """"l1" (the paper's) or "l2"."""
    roles: tuple[str, ...] = field(repr=False)
    """Span of each."""

    @property
    def by_token(self) -> Float[np.ndarray, " source"]:
        """The shares of all layers together."""
        return self.values.sum(axis=0)

    def summary(self) -> str:
        """How much of TuCo attention adds, and the tokens that most of it is read from."""
        token = token_label(self.tokens[self.position], 24)
        begin = f"TuCo {self.tuco:.4f} at position {self.position} ({token})"
        whole = self.attention.sum()
        order = np.argsort(-np.abs(self.by_token))[:3]
        read = ", ".join(f"{token_label(self.tokens[i], 24)} at {i} ({self.by_token[i]:+.4f})" for i in order)
        own = f"{self.by_token[self.position]:+.4f} of it from the token itself"
        return f"{begin}: attention adds {whole:+.4f}, {own}. Most is read from: {read}."

    def to_frame(self) -> pd.DataFrame:
        """A row per layer and token: layer, position, token, role, share; the bias has position −1 and no token."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()), columns=["layer", "position", "token", "role", "share"])

    def _rows(self) -> Iterator[tuple[int, int, str, str, float]]:
        for layer, shares in enumerate(self.values):
            for position, share in enumerate(shares):
                yield layer, position, self.tokens[position], self.roles[position], float(share)
            yield layer, -1, "", "bias", float(self.bias[layer])

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the shares by layer and source token."""
        from tuco_lens.plots.attribution import sources_figure

        return sources_figure(self, theme)

    def colored_tokens(self) -> ColoredTokens:
        """The prompt's text up to the position, coloured by `by_token`. Shows itself in a notebook."""
        from tuco_lens.plots.tokens import colored_tokens

        return colored_tokens(self.tokens, self.by_token.tolist(), name="share of TuCo read here", notes=self.roles)


def sources(pair: AttributedPair, prompt: Prompt, position: int, norm: Norm) -> Sources:
    """The shares of one prompt; see `ModelPair.sources`.

    Raises:
        InputError: for a norm or a position that is not there, or heads that do more than read tokens.
    """
    check_norm(norm)
    found = record(pair, prompt, position, ["attention"], sources=True)
    direction = found.directions(norm)[1]
    sizes = [vector_norms(each.double(), norm) for each in (found.ftc_sum, found.ptc_sum)]
    end = found.position + 1
    return Sources(
        values=np.stack([_of_block(block, direction) for block in found.blocks]),
        bias=np.array([block.bias_along("attention", direction)[1] for block in found.blocks]),
        attention=np.array([along(block.change["attention"], direction) for block in found.blocks]),
        tuco=float(contribution_ratio(*sizes)),
        norm=norm,
        position=found.position,
        tokens=prompt.tokens[:end],
        roles=prompt.roles[:end],
        base=pair.base_name,
        tuned=pair.tuned_name,
    )


def _of_block(block: BlockParts, direction: Tensor) -> Float[np.ndarray, " source"]:
    base, tuned = (
        block.readings[side].along(block.units["attention", side].pulled(direction)).sum(dim=0)
        for side in ("base", "tuned")
    )
    return (block.alpha * (tuned - base)).cpu().numpy()
