"""Everything that the attribution of one prompt has to say, together: the one-line answer, and what stands behind it.

`ModelPair.explain` makes an `Explanation`; `explanation_page.py` writes it as a page. Each part is a result of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from tuco_lens.attribution.components import ComponentOptions, Components, components
from tuco_lens.attribution.integrated_gradients import GradientOptions, IntegratedGradients, integrated_gradients
from tuco_lens.attribution.logit_attribution import LogitAttribution, logit_attribution
from tuco_lens.attribution.logit_lens import LogitLens, logit_lens
from tuco_lens.attribution.metric import Question
from tuco_lens.attribution.patching import Patching, PatchingOptions, patching
from tuco_lens.attribution.pieces import Over
from tuco_lens.attribution.result import Attribution
from tuco_lens.attribution.sources import Sources, sources
from tuco_lens.errors import InputError
from tuco_lens.models.backends import device_of, run_logits
from tuco_lens.plots.labels import token_label
from tuco_lens.prompts.spans import display_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.plots.template import Theme
    from tuco_lens.prompts.prompt import Prompt

ResultT = TypeVar("ResultT")
_N_NEXT: Final = 5
_LENS_POSITIONS: Final = 8
"""Last tokens that the lens is shown at: a word is written in each cell."""
_MOST_TOKENS: Final = 3
"""Longest run of tokens that the one-line answer names."""


@dataclass(frozen=True, eq=False)
class Explanation(Attribution):
    """Why the tuned model answers as it does: how much is fine-tuning, what changed the answer, what causes it."""

    WITHIN: ClassVar[dict[str, type[Attribution]]] = {
        "components": Components,
        "sources": Sources,
        "lens": LogitLens,
        "logits": LogitAttribution,
        "gradients": IntegratedGradients,
        "patching": Patching,
    }

    components: Components = field(repr=False)
    """Shares of TuCo."""
    sources: Sources | None = field(repr=False)
    """Tokens that attention reads fine-tuning from; None where the architecture does not tell."""
    lens: LogitLens = field(repr=False)
    """What FTC writes, summed up to each layer, at the last tokens."""
    logits: LogitAttribution = field(repr=False)
    """What writes the answer."""
    gradients: IntegratedGradients = field(repr=False)
    """What changed it between α = 0 and α = 1."""
    patching: Patching | None = field(repr=False)
    """What causes it; None if not asked for."""
    next_tokens: dict[str, tuple[tuple[str, float], ...]]
    """The likeliest next tokens with their probabilities: of the "tuned" and "base" model, and at "α = 0"."""
    missing: dict[str, str]
    """Parts that could not be had, with the reason."""

    @property
    def values(self) -> Float[np.ndarray, "layer token"]:
        """The integrated gradients: what FTC at each layer and token adds to the change of the answer."""
        return self.gradients.values

    def summary(self) -> str:
        """The answer in one line: how much, mostly where, of which answer, from which tokens, and by what cause."""
        return " ".join(filter(None, (self._how_much(), self._what_changed(), self._what_causes())))

    def _how_much(self) -> str:
        found = self.components
        token = token_label(found.tokens[found.position], 24)
        begin = f"TuCo {found.tuco:.2f} at position {found.position} ({token})"
        if not found.tuco:
            return f"{begin}: fine-tuning adds nothing here."
        n_layers = len(found.values)
        windows = [(*best_window(column, max(1, n_layers // 3)), i) for i, column in enumerate(found.values.T)]
        first, last, share, column = max(windows, key=lambda window: window[2])
        where = f"layer {first}" if first == last else f"layers {first}–{last}"
        return f"{begin}; {100 * share / found.tuco:.0f} % of it from {found.components[column]} of {where}."

    def _what_changed(self) -> str:
        found = self.gradients
        first, last, value = best_window(found.values.sum(axis=0) * np.sign(found.change or 1), _MOST_TOKENS)
        text = token_label("".join(found.tokens[first : last + 1]), 32)
        where = f"{first}" if first == last else f"{first}–{last}"
        return (
            f"{found.metric} by {found.at_1:.1f} logits, {found.at_0:.1f} at α = 0: of the change of"
            f" {found.change:+.1f}, {value * np.sign(found.change or 1):+.1f} comes in at {text} ({where})."
        )

    def _what_causes(self) -> str:
        found = self.patching
        if found is None or not np.isfinite(found.values).any():
            return ""
        layer, column = np.unravel_index(int(np.nanargmax(np.abs(found.values))), found.values.shape)
        effect = found.values[layer, column]
        return f"Without FTC in {found.cell_name(int(layer), int(column))} it changes by {-effect:+.1f}."

    def to_frame(self) -> pd.DataFrame:
        """The tables of all parts below one another, with the part's name in the column `part_of`."""
        import pandas as pd

        frames = [part.to_frame().assign(part_of=name) for name, part in self.parts.items()]
        return pd.concat(frames, ignore_index=True)

    @property
    def parts(self) -> dict[str, Attribution]:
        """The results within, by name, without those that are missing."""
        found = {name: getattr(self, name) for name in self.WITHIN}
        return {name: part for name, part in found.items() if part is not None}

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws the integrated gradients; every part has figures of its own."""
        return self.gradients.figure(theme)

    def page(self, path: str | Path, *, title: str = "Why this answer") -> Path:
        """Write everything as one self-contained HTML page, which fetches nothing.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        from tuco_lens.attribution.explanation_page import render_explanation
        from tuco_lens.results.files import write_whole

        return write_whole(Path(path), render_explanation(self, title))


def best_window(values: Float[np.ndarray, " n"], longest: int) -> tuple[int, int, float]:
    """The run of at most so many neighbours with the largest sum: first, last and sum; as short as does for 95 %."""
    sums = [
        (first, first + length - 1, float(values[first : first + length].sum()))
        for length in range(1, min(longest, len(values)) + 1)
        for first in range(len(values) - length + 1)
    ]
    largest = max(total for _, _, total in sums)
    return next(window for window in sums if window[2] >= largest - 0.05 * abs(largest))


def explain(
    pair: AttributedPair, prompt: Prompt, what: Question, patch: Over | None, batch_size: int, progress: bool
) -> Explanation:
    """Every part on one prompt; see `ModelPair.explain`.

    Raises:
        InputError: for a question that cannot be asked, and while a scaling is on.
    """
    missing: dict[str, str] = {}
    gradients = integrated_gradients(pair, prompt, what, GradientOptions(over="component", batch_size=batch_size))
    position = gradients.position
    with_heads = _attempt("heads", missing, lambda: components(pair, prompt, ComponentOptions(position, heads=True)))
    shown = [*range(max(0, position + 1 - _LENS_POSITIONS), position + 1)]
    effects = PatchingOptions(patch or "layer", batch_size=batch_size, progress=progress)
    return Explanation(
        components=with_heads or components(pair, prompt, ComponentOptions(position)),
        sources=_attempt("sources", missing, lambda: sources(pair, prompt, position, "l1")),
        lens=logit_lens(pair, prompt, "cumulative_ftc", 5, shown),
        logits=logit_attribution(pair, prompt, what.answer, what.against, position, False),
        gradients=gradients,
        patching=None if patch is None else patching(pair, prompt, what, effects),
        next_tokens=_next_tokens(pair, prompt, position),
        missing=missing,
    )


def _attempt(name: str, missing: dict[str, str], make: Callable[[], ResultT]) -> ResultT | None:
    try:
        return make()
    except InputError as error:
        missing[name] = str(error)
        return None


@torch.no_grad()
def _next_tokens(pair: AttributedPair, prompt: Prompt, position: int) -> dict[str, tuple[tuple[str, float], ...]]:
    from tuco_lens.attribution.mixing import mixed

    ids = torch.tensor([prompt.token_ids], device=device_of(pair.tuned))
    nothing = torch.zeros(1, pair.n_layers, prompt.n_tokens, device=ids.device)
    with mixed(pair, nothing):
        at_0 = run_logits(pair.tuned, ids)
    logits = {"tuned": run_logits(pair.tuned, ids), "base": run_logits(pair.base, ids.to(device_of(pair.base)))}
    return {name: _likeliest(pair, each[0, position]) for name, each in {**logits, "α = 0": at_0}.items()}


def _likeliest(pair: AttributedPair, logits: Float[torch.Tensor, " d_vocab"]) -> tuple[tuple[str, float], ...]:
    top = logits.float().softmax(-1).topk(_N_NEXT)
    texts = (display_tokens(pair.tokenizer, [token_id])[0] for token_id in top.indices.tolist())
    return tuple(zip(texts, top.values.tolist(), strict=True))
