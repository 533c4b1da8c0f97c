"""What the explorer shows for one prompt and one α, as data: no widget, no HTML (`widgets.py`, `html.py`).

A view at α has the map of the scaled stream: as everywhere under scaling, F sums α·FTC, which is what is in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.plots.token_strip import TokenStrip
from tuco_lens.prompts.spans import display_tokens
from tuco_lens.steering.generating import CachedForward

if TYPE_CHECKING:
    import pandas as pd

    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.results.measurement import PromptMeasurement
    from tuco_lens.steering.generation import Generation

STRIP_ENDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0)
"""Values at which the colours of token strips may end; few, so that the colours seldom change their meaning."""


@dataclass(frozen=True)
class ExplorerRequest:
    """What the explorer is asked for."""

    prompt: str
    """The text."""
    chat: bool
    """Whether it goes through the chat template, as one user message."""
    alphas: tuple[float, ...]
    """α by layer."""
    max_new_tokens: int = 16
    """Tokens of the continuations, at most."""
    n_likeliest: int = 5
    """How many of each model's likeliest next tokens are in the table."""


@dataclass(frozen=True)
class Response(Brief):
    """What the tuned model does with a prompt at one α."""

    alphas: tuple[float, ...]
    """α by layer."""
    measurement: PromptMeasurement
    """The norms on the scaled stream, FTC being α·FTC."""
    generation: Generation
    """The greedy continuation."""
    next_probability: Float[Tensor, " d_vocab"]
    """Softmax probability of each token to be the next."""


@dataclass(frozen=True)
class NextTokens(Brief):
    """The likeliest next tokens of base, tuned and scaled model: those that any of them has among its first."""

    token_ids: tuple[int, ...]
    """The ids, the scaled model's likeliest first, [n]."""
    tokens: tuple[str, ...]
    """How each reads, [n]."""
    base: tuple[float, ...] | None
    """Probability under the base model by itself, on its own embedding and stream; NaN for a token that it lacks; None
    if it cannot read the prompt. [n]"""
    tuned: tuple[float, ...]
    """Probability under the tuned model, [n]."""
    scaled: tuple[float, ...]
    """Probability under the tuned model at α, [n]."""

    def to_frame(self) -> pd.DataFrame:
        """A row per token: `token_id, token, base, tuned, scaled`."""
        import pandas as pd

        n = len(self.token_ids)
        return pd.DataFrame(
            {
                "token_id": self.token_ids,
                "token": self.tokens,
                "base": self.base or [None] * n,
                "tuned": self.tuned,
                "scaled": self.scaled,
            }
        )


@dataclass(frozen=True)
class ExplorerView:
    """Everything that the explorer shows at one time."""

    request: ExplorerRequest
    """What was asked for."""
    tuned: Response
    """At α = 1."""
    scaled: Response
    """At the α asked for."""
    next_tokens: NextTokens
    """The table of next tokens."""

    @property
    def prompt(self) -> Prompt:
        """The prompt, tokenised."""
        return self.scaled.measurement.prompt

    @property
    def strip_end(self) -> float:
        """Value at which the colours of all three strips end."""
        largest = max(float(values.max()) for values in self._strip_values())
        return next((end for end in STRIP_ENDS if end >= largest), 1.0)

    def prompt_strip(self) -> TokenStrip:
        """The prompt coloured by TuCo at each of its tokens, at the α asked for."""
        roles = self.prompt.roles
        notes = tuple(f"{role}, position {position}" for position, role in enumerate(roles))
        values = tuple(self._strip_values()[0].tolist())
        return TokenStrip(self.prompt.tokens, values, "TuCo", notes).clip(0.0, self.strip_end)

    def continuation_strips(self) -> tuple[TokenStrip, TokenStrip]:
        """The continuations at the α asked for and at α = 1."""
        scaled, tuned = (side.generation.token_strip().clip(0.0, self.strip_end) for side in (self.scaled, self.tuned))
        return scaled, tuned

    def _strip_values(self) -> list[Tensor]:
        values = [self.scaled.measurement.layer_token()[-1]]
        return values + [cast("Tensor", side.generation.tuco) for side in (self.scaled, self.tuned)]


class Viewer:
    """Makes views of one pair, and computes anew only what has changed since the last one.

    Args:
        pair: the pair. Its models are as they were after every call, whatever happens.
    """

    def __init__(self, pair: ModelPair) -> None:
        self.pair = pair
        self._key: object = None
        self._responses: dict[tuple[float, ...], Response] = {}
        self._base: Tensor | None = None
        self._last: ExplorerView | None = None

    def view(self, request: ExplorerRequest) -> ExplorerView:
        """Answer a request: at most two passes over the prompt and one generation for each of α and 1.

        Asked the same again, it returns the same object, unless hooks or weights of the models have changed.

        Raises:
            InputError: for a bad prompt, α or number of tokens.
        """
        prompt = self.pair.prompt(request.prompt, chat=request.chat)
        key = (prompt, request.max_new_tokens, _state_of(self.pair))
        is_known = key == self._key
        if is_known and self._last is not None and self._last.request == request:
            return self._last
        known = dict(self._responses) if is_known else {}
        ones = (1.0,) * self.pair.n_layers
        new = [alphas for alphas in dict.fromkeys((ones, request.alphas)) if alphas not in known]
        known |= responses(self.pair, prompt, new, request.max_new_tokens)
        base = self._base if is_known else base_next_probability(self.pair, prompt)
        tuned, scaled = known[ones], known[request.alphas]
        table = next_tokens(self.pair.tokenizer, base, tuned, scaled, request.n_likeliest)
        view = ExplorerView(request, tuned, scaled, table)
        self._key, self._base, self._responses, self._last = key, base, {ones: tuned, request.alphas: scaled}, view
        return view


def _state_of(pair: ModelPair) -> tuple[int, ...]:
    """Numbers that change when a hook is put on a model or taken off it, or a weight is written to."""
    found: list[int] = []
    for model in (pair.base, pair.tuned):
        for module in model.modules():
            found += [*module._forward_hooks, *module._forward_pre_hooks]
        # Tensors made in inference mode have no version.
        found += [0 if weight.is_inference() else weight._version for weight in model.parameters()]
    return tuple(found)


def responses(
    pair: ModelPair, prompt: Prompt, alphas: list[tuple[float, ...]], max_new_tokens: int
) -> dict[tuple[float, ...], Response]:
    """What the tuned model does with a prompt at each α; all continuations are generated in one batch.

    Args:
        pair: the pair.
        prompt: the prompt.
        alphas: α by layer, for each response; none will do.
        max_new_tokens: of the continuations, at most.

    Raises:
        InputError: for an α that is not finite or not one per layer, or a number of tokens that is not positive.
    """
    if not alphas:
        return {}
    generations = cast("list[Generation]", pair.generate(prompt, alphas=alphas, max_new_tokens=max_new_tokens))
    found: dict[tuple[float, ...], Response] = {}
    for each, generation in zip(alphas, generations, strict=True):
        with pair.scaled(each):
            measurement = pair.measure(prompt, progress=False)[0]
            found[each] = Response(each, measurement, generation, _next_probability(pair, pair.tuned, prompt))
    return found


def base_next_probability(pair: ModelPair, prompt: Prompt) -> Float[Tensor, " d_vocab_base"] | None:
    """Next-token probabilities of the base model by itself; None if its embedding lacks a token of the prompt."""
    if max(prompt.token_ids) >= pair.base.cfg.d_vocab:
        return None
    return _next_probability(pair, pair.base, prompt)


@torch.no_grad()
def _next_probability(pair: ModelPair, model: Any, prompt: Prompt) -> Float[Tensor, " d_vocab"]:
    ids = torch.tensor([prompt.token_ids], device=pair.device)
    forward = CachedForward(replace(pair, tuned=model), [0], use_cache=False)
    with fast_path(pair.base, pair.tuned):
        return forward(ids)[0].float().softmax(-1).cpu()


def next_tokens(
    tokenizer: Any,
    base: Float[Tensor, " d_vocab_base"] | None,
    tuned: Response,
    scaled: Response,
    n_likeliest: int = 5,
) -> NextTokens:
    """The table of next tokens: the `n_likeliest` of each model, with their probabilities under all three."""
    size = len(tuned.next_probability)
    columns = [tuned.next_probability, scaled.next_probability]
    own = None if base is None else torch.nn.functional.pad(base[:size], (0, max(0, size - len(base))), value=torch.nan)
    ranked = [*columns, *([] if own is None else [own.nan_to_num(-1.0)])]
    chosen = {int(i) for column in ranked for i in column.topk(min(n_likeliest, size)).indices}
    ids = sorted(chosen, key=lambda i: (-scaled.next_probability[i].item(), i))
    return NextTokens(
        token_ids=tuple(ids),
        tokens=display_tokens(tokenizer, ids),
        base=None if own is None else tuple(own[ids].tolist()),
        tuned=tuple(tuned.next_probability[ids].tolist()),
        scaled=tuple(scaled.next_probability[ids].tolist()),
    )
