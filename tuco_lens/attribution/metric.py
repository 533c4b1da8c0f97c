"""What is asked of a pass: one number per row, of the logits or of the residual stream.

`integrated_gradients.py` and `patching.py` ask it of passes under α. Which tokens an answer is: `answers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.attribution.answers import Answer, contrast, question, token_texts
from tuco_lens.attribution.recording import one_position
from tuco_lens.brief import Brief
from tuco_lens.engine.use import using
from tuco_lens.errors import InputError
from tuco_lens.models.backends import blocks, device_of, run_blocks, run_logits
from tuco_lens.plots.labels import token_label
from tuco_lens.prompts.spans import Role, display_tokens
from tuco_lens.steering.alpha import layer_index

if TYPE_CHECKING:
    from tuco_lens.attribution.methods import AttributedPair
    from tuco_lens.prompts.prompt import Prompt

OfLogits = Callable[[Float[Tensor, "row pos d_vocab"]], Float[Tensor, " row"]]


@dataclass(frozen=True)
class Continuation(Brief):
    """log p that the model goes on behind the prompt with this text, all of its tokens together, in nats."""

    text: str | Sequence[int]
    """The text, or its token ids; tokenised by itself, without special tokens."""


@dataclass(frozen=True, eq=False)
class Direction(Brief):
    """The residual stream along a direction: `hook_resid_post` of a layer at the position, times the vector."""

    vector: Float[Tensor, " d_model"]
    """Taken as it is, not normalised; anything that torch makes a tensor of."""
    layer: int = -1
    """Negative ones count from the last."""


@dataclass(frozen=True, eq=False)
class OfStream(Brief):
    """A function of the residual stream."""

    function: Callable[[Float[Tensor, "row pos d_model"]], Float[Tensor, " row"]]
    """Of `hook_resid_post` of the layer, such as lambda stream: stream[:, -1, 7]."""
    layer: int = -1
    """Negative ones count from the last."""


Metric = OfLogits | Continuation | Direction | OfStream | Literal["kl"]
"""A function of the logits of every row, such as lambda logits: logits[:, -1, 7], or one of the kinds above; "kl" is
KL(p ‖ p_base) of the next token in nats: how far the model is from the base model itself."""


@dataclass(frozen=True)
class Question:
    """What is asked: an answer against another, or a metric; at which position."""

    answer: Answer = None
    against: Answer = None
    metric: Metric | None = None
    position: int = -1

    def __post_init__(self) -> None:
        if self.metric is not None and (self.answer is not None or self.against is not None):
            raise InputError("two questions", "a metric and an answer are given", "give one of them")
        if isinstance(self.metric, str) and self.metric != "kl":
            why = "the one metric with a name is 'kl'"
            raise InputError(f"no metric {self.metric!r}", why, "give that, a Continuation, or a function")


@dataclass(frozen=True)
class Asked(Brief):
    """A question to one prompt, ready to be asked of any pass of the tuned model."""

    prompt: Prompt
    """The tokens, those of a continuation included."""
    position: int
    """Position whose next token or stream is asked for, from 0."""
    words: str
    """The question in words."""
    function: Callable[[Tensor], Any] = field(repr=False)
    """Of the logits, or of the stream."""
    layer: int | None = None
    """Whose `hook_resid_post` the function takes; None if it takes the logits."""

    def of_pass(self, pair: AttributedPair, n_rows: int = 1) -> Float[Tensor, " row"]:
        """Run the prompt in so many rows, and measure each.

        Raises:
            InputError: if the metric does not give a finite number of each row.
        """
        ids = torch.tensor([self.prompt.token_ids], device=device_of(pair.tuned)).expand(n_rows, -1)
        if self.layer is None:
            return _checked(self.function(run_logits(pair.tuned, ids)), n_rows)
        seen: list[Tensor] = []
        point: Any = blocks(pair.tuned)[self.layer].hook_resid_post
        handle = point.register_forward_hook(lambda _module, _args, stream: seen.append(stream))
        try:
            run_blocks(pair.tuned, ids, self.layer)
        finally:
            handle.remove()
        return _checked(self.function(seen[-1]), n_rows)


def _checked(found: Any, n_rows: int) -> Float[Tensor, " row"]:
    if not (isinstance(found, Tensor) and found.shape == (n_rows,) and found.is_floating_point()):
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        why = f"it gives {what} for {n_rows} rows"
        raise InputError("not a metric", why, "return one floating-point number per row, as logits[:, -1, 7] does")
    if not math.isfinite(float(found.detach().sum())):
        raise InputError("not a metric", "it gives values that are not finite", "return finite numbers")
    return found


@torch.no_grad()
def asked(pair: AttributedPair, prompt: Prompt, what: Question) -> Asked:
    """Make a question ready; see `Question`. Runs the models where the question depends on what they say.

    Raises:
        InputError: for an answer, a layer or a position that is not there, or a direction of another width.
    """
    position, metric = one_position(what.position, prompt.n_tokens), what.metric
    with using(pair.base, pair.tuned):
        if metric is None:
            return _contrast(pair, prompt, what, position)
        if isinstance(metric, Continuation):
            return _continuation(pair, prompt, metric, position)
        if isinstance(metric, Direction):
            return _direction(pair, prompt, metric, position)
        if isinstance(metric, OfStream):
            layer = layer_index(metric.layer, pair.n_layers)
            return Asked(prompt, position, f"metric of layer {layer}", metric.function, layer)
        if isinstance(metric, str):
            return _divergence(pair, prompt, position)
    return Asked(prompt, position, "metric", metric)


def _contrast(pair: AttributedPair, prompt: Prompt, what: Question, position: int) -> Asked:
    ids = torch.tensor([prompt.token_ids], device=device_of(pair.tuned))
    logits = run_logits(pair.tuned, ids)[0, position].float()
    found = contrast(pair, what.answer, what.against, logits, prompt, position)
    weights = found.weights(len(logits))

    def difference(logits: Tensor) -> Tensor:
        return logits[:, position].double() @ weights.to(logits.device)

    sides = (token_texts(pair.tokenizer, side) for side in (found.answer, found.against))
    return Asked(prompt, position, question(*sides), difference)


def _continuation(pair: AttributedPair, prompt: Prompt, metric: Continuation, position: int) -> Asked:
    text = metric.text
    ids = pair.tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else list(text)
    if not ids:
        raise InputError("the continuation is empty", "there is no token in it", "give some text")
    if position != prompt.n_tokens - 1:
        why = "a continuation follows the whole prompt"
        raise InputError(f"a continuation at position {position}", why, "cut the prompt, or leave out position=")
    if prompt.n_tokens + len(ids) > pair.n_ctx:
        why = f"the context is {pair.n_ctx} tokens, prompt and continuation are {prompt.n_tokens + len(ids)}"
        raise InputError("the continuation is too long", why, "shorten one of them")
    tokens = display_tokens(pair.tokenizer, ids)
    role: Role = "assistant" if "user" in prompt.roles else "text"
    shown = text if isinstance(text, str) else "".join(tokens)
    longer = replace(
        prompt,
        text=prompt.text + shown,
        token_ids=(*prompt.token_ids, *ids),
        tokens=(*prompt.tokens, *tokens),
        roles=(*prompt.roles, *[role] * len(ids)),
    )

    def log_probability(logits: Tensor) -> Tensor:
        wanted = torch.tensor(ids, device=logits.device)
        log_p = logits[:, position : position + len(ids)].double().log_softmax(-1)
        return log_p.gather(-1, wanted[None, :, None].expand(len(logits), -1, 1)).sum((1, 2))

    return Asked(longer, position, f"log p of '{token_label(shown, 40)}'", log_probability)


def _direction(pair: AttributedPair, prompt: Prompt, metric: Direction, position: int) -> Asked:
    vector = torch.as_tensor(metric.vector).detach().double()
    if vector.shape != (pair.d_model,):
        why = f"it has the shape {list(vector.shape)}, and the stream is {pair.d_model} wide"
        raise InputError("not a direction", why, "give a vector of that width")
    layer = layer_index(metric.layer, pair.n_layers)

    def score(stream: Tensor) -> Tensor:
        return stream[:, position].double() @ vector.to(stream.device)

    return Asked(prompt, position, f"direction at layer {layer}", score, layer)


def _divergence(pair: AttributedPair, prompt: Prompt, position: int) -> Asked:
    ids = torch.tensor([prompt.token_ids], device=device_of(pair.base))
    theirs = run_logits(pair.base, ids)[0, position].double()

    def divergence(logits: Tensor) -> Tensor:
        n_known = min(logits.shape[-1], len(theirs))  # tokens that were added to one of the models are left out
        log_p = logits[:, position, :n_known].double().log_softmax(-1)
        log_base = theirs[:n_known].to(logits.device).log_softmax(-1)
        return (log_p.exp() * (log_p - log_base)).sum(-1)

    return Asked(prompt, position, "KL to the base model", divergence)
