"""What `pair.generate` returns: the text, and for each generated token its TuCo, layer profile and probability.

The loop is in `generating.py`, the coloured tokens in `plots/token_strip.py`.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief, brief, in_lines
from tuco_lens.plots.labels import readable

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.plots.token_strip import TokenStrip
    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.steering.scaling import ScalingSettings

StopReason = Literal["eos", "stop", "length", "context"]


@dataclass(frozen=True)
class GeneratedToken:
    """One token as it is generated; `pair.generate(..., stream=True)` yields these."""

    row: int
    """Which of the results it belongs to: prompt by prompt, each at every α in turn."""
    position: int
    """Its index among the generated tokens."""
    token_id: int
    """The id."""
    text: str
    """What it adds to the text; empty while a character is incomplete, or while a stop string may be in the making."""
    probability: float
    """Softmax probability of the token, at temperature 1, under the scaled model."""
    tuco: float | None
    """TuCo at the position that predicted it, in the pass that generated it; None if not asked for."""


@dataclass(frozen=True)
class Generation(Brief):
    """One continuation of one prompt at one α."""

    prompt: Prompt
    """What was continued."""
    scaling: ScalingSettings
    """α, where it acted, and the method."""
    text: str
    """The generated text, without special tokens and cut before the stop string."""
    token_ids: tuple[int, ...]
    """The generated ids, [n_tokens]; with the end-of-sequence token, if it ended so."""
    tokens: tuple[str, ...]
    """How each reads, [n_tokens]."""
    probability: Float[Tensor, " token"]
    """Softmax probability of each token, at temperature 1, under the scaled model."""
    layer_profile: Float[Tensor, "layer token"] | None
    """T[l] at the position that predicted each token: ‖F_{l+1}‖ / (‖P_{l+1}‖ + ‖F_{l+1}‖). Under scaling F sums
    α·FTC, what is in the stream. None if not asked for."""
    stop_reason: StopReason
    """"eos", "stop" (a stop string), "length" (max_new_tokens) or "context" (the model's context is full)."""

    def __repr__(self) -> str:
        tuco = "" if self.tuco is None or not self.n_tokens else f", TuCo {self.tuco.mean():.4f} on average"
        what = f"Generation of {self.n_tokens} tokens at α = {brief(self.alpha)} ({self.stop_reason}){tuco}:"
        return in_lines(f"{what} {brief(self.text)}. .text .tuco .to_frame() .token_strip()")

    def _repr_html_(self) -> str:
        prompt = html.escape(readable(self.prompt.text, 2_000))
        shown = self.token_strip().html() if self.tuco is not None else f"<pre>{html.escape(self.text)}</pre>"
        return f"<details><summary>{html.escape(repr(self))}</summary><pre>{prompt}</pre></details>{shown}"

    @property
    def alpha(self) -> float | tuple[float, ...]:
        """α, as one number where it is the same for every layer."""
        return self.scaling.alpha

    @property
    def tuco(self) -> Float[Tensor, " token"] | None:
        """TuCo of each token: the last layer's row of `layer_profile`."""
        return None if self.layer_profile is None else self.layer_profile[-1]

    @property
    def n_tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.token_ids)

    def to_frame(self) -> pd.DataFrame:
        """A row per generated token: `position, token_id, token, probability, tuco`."""
        import pandas as pd

        return pd.DataFrame(
            {
                "position": range(self.n_tokens),
                "token_id": self.token_ids,
                "token": self.tokens,
                "probability": self.probability.tolist(),
                "tuco": [None] * self.n_tokens if self.tuco is None else self.tuco.tolist(),
            }
        )

    def token_strip(self) -> TokenStrip:
        """The generated tokens coloured by TuCo; shows itself in a notebook."""
        from tuco_lens.errors import InputError
        from tuco_lens.plots.token_strip import TokenStrip

        if self.tuco is None:
            raise InputError("this generation has no TuCo", "it was run with tuco=False", "generate with tuco=True")
        notes = [f"probability {p:.3f}" for p in self.probability.tolist()]
        return TokenStrip(self.tokens, tuple(self.tuco.tolist()), "TuCo", tuple(notes))
