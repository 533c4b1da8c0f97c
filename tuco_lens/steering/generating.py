"""The loop behind `pair.generate`: batches of rows, one forward pass per token, TuCo from that same pass.

A row is one prompt under one scaling (`rows.py`); rows of different α share a batch. Prompts are padded on the left, so
that all rows end together. In a stream the scaling is on only while a pass runs: between two tokens the models are as
they were. Interpolated weights are kept beside the model's own meanwhile.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tuco_lens.engine.contributions import NormAccumulator
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.kv_caches import goes_on, new_cache
from tuco_lens.engine.lockstep import BlockStep
from tuco_lens.engine.memory import free_memory, smaller_batch, split
from tuco_lens.engine.metrics import contribution_ratio
from tuco_lens.errors import InputError
from tuco_lens.models.backends import backend_of
from tuco_lens.models.positions import LengthKind, keeps_states, length_kind
from tuco_lens.prompts.spans import display_tokens
from tuco_lens.steering.ftc import FtcScaling
from tuco_lens.steering.generation import GeneratedToken, Generation, StopReason
from tuco_lens.steering.logits import ContrastiveLogits
from tuco_lens.steering.rows import Row
from tuco_lens.steering.sampling import Sampler, SamplingOptions, is_whole
from tuco_lens.steering.scaling import Attachable, Scaling
from tuco_lens.steering.text_stream import TextStream
from tuco_lens.steering.weights import WeightInterpolation

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair


@dataclass(frozen=True)
class GenerateOptions:
    """How text is generated; the same for every row."""

    max_new_tokens: int = 64
    """Tokens at most."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How the next token is chosen."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are cut off."""
    batch_size: int = 8
    """Rows per batch, at most."""
    use_cache: bool = True
    """Keep keys and values; without, every pass runs the whole text again."""
    tuco: bool = True
    """Record TuCo and the layer profile of every token; the base blocks then run at every layer."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise InputError(f"{name} is {value}", "it must be a whole number over 0", "give such a number")
        for stop in cast("tuple[object, ...]", self.stop):
            if not isinstance(stop, str):
                raise InputError(f"{stop!r} as a stop string", f"it is a {type(stop).__name__}", "give text")
            if not stop:
                raise InputError("an empty stop string", "it stands everywhere", "leave it out")


class TokenStream:
    """Iterates over the tokens as they are generated; afterwards `generations` has the results.

    Args:
        pair: the pair.
        rows: what is continued.
        options: how.
        hold: leave the scaling on between the tokens of a batch. It is faster, and right where nobody uses the pair
            in between.
    """

    def __init__(self, pair: ModelPair, rows: Sequence[Row], options: GenerateOptions, *, hold: bool = False) -> None:
        self._results: dict[int, Generation] = {}
        self._tokens = _generate(pair, rows, options, self._results, hold=hold)

    def __iter__(self) -> Iterator[GeneratedToken]:
        return self

    def __next__(self) -> GeneratedToken:
        return next(self._tokens)

    def close(self) -> None:
        """End the generation early; what is not finished is dropped, and the models are as they were."""
        self._tokens.close()

    def finished(self) -> list[Generation]:
        """Generate what is left, and return all results."""
        for _ in self:
            pass
        return self.generations

    @property
    def generations(self) -> list[Generation]:
        """The results so far: prompt by prompt, each at every α in turn. What is not finished yet is left out."""
        return [self._results[index] for index in sorted(self._results)]


def _generate(
    pair: ModelPair, rows: Sequence[Row], options: GenerateOptions, results: dict[int, Generation], *, hold: bool
) -> Generator[GeneratedToken]:
    """Batch by batch; one that does not fit into memory is begun again in halves, and no token is given twice."""
    lengths = length_kind(pair.base, pair.tuned)
    cached = options.use_cache and all(map(goes_on, (pair.tuned, pair.base)))
    queue = list(_batches(rows, options, pair.n_ctx, lengths, padded=not keeps_states(pair.tuned)))
    given: dict[int, int] = {}  # tokens that a row has given so far
    while queue:
        batch = queue.pop(0)
        grows = _grows(batch[0], options, pair.n_ctx, lengths)
        how = replace(options, use_cache=cached and not grows)  # what is kept would be of other angles
        try:
            for token in _Batch(pair, batch, how).run(results, hold=hold):
                if token.position >= given.get(token.row, 0):
                    given[token.row] = token.position + 1
                    yield token
        except Exception as error:
            size = smaller_batch(len(batch), error, "text")
        else:
            continue
        free_memory()  # only here, since the error held on to the tensors of the failed pass
        queue = [part for whole in (batch, *queue) for part in split(whole, size)]


def _grows(row: Row, options: GenerateOptions, n_ctx: int, kind: LengthKind) -> bool:
    """Whether the row may come to a length of another kind than its prompt's."""
    n = row.prompt.n_tokens
    longest = n + min(options.max_new_tokens, _room(row, n_ctx)) - 1
    return any(kind(n) != kind(length) for length in range(n, longest + 1))


def _batches(
    rows: Sequence[Row], options: GenerateOptions, n_ctx: int, lengths: LengthKind, *, padded: bool
) -> Iterator[list[Row]]:
    """Rows of like length together, of one length where nothing may be padded.

    With interpolated weights only rows of one α, for the model has one set of them.
    """

    def kind(row: Row) -> tuple[Any, ...]:
        n = row.prompt.n_tokens
        grows = _grows(row, options, n_ctx, lengths)
        alphas = row.scaling.alphas if row.scaling.method == "weights" else ()
        return (row.scaling.method, alphas, grows, n if grows or not padded else 0, repr(lengths(n)))

    batch: list[Row] = []
    # Longest first: so a batch is as wide as its first row.
    for row in sorted(rows, key=lambda row: (kind(row), -row.prompt.n_tokens)):
        # The padding of a row counts for its context.
        fits = bool(batch) and batch[0].prompt.n_tokens + min(options.max_new_tokens, _room(row, n_ctx)) <= n_ctx + 1
        if batch and (len(batch) == options.batch_size or kind(batch[0]) != kind(row) or not fits):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _room(row: Row, n_ctx: int) -> int:
    """How many tokens can follow the prompt; the last one need not be read again."""
    return n_ctx - row.prompt.n_tokens + 1


class _Batch:
    """The generation of one batch of rows."""

    def __init__(self, pair: ModelPair, rows: list[Row], options: GenerateOptions) -> None:
        self.pair, self.rows, self.options = pair, rows, options
        self.n_prompt = max(row.prompt.n_tokens for row in rows)
        """Tokens of every row before the first generated one, with padding."""
        self.padding = [self.n_prompt - row.prompt.n_tokens for row in rows]
        ids = [[pair.pad_id] * pad + list(row.prompt.token_ids) for pad, row in zip(self.padding, rows, strict=True)]
        self.ids: Int[Tensor, "row pos"] = torch.tensor(ids, device=pair.device)
        self.profile = _LastTokenProfile() if options.tuco else None
        self.sampler = Sampler(options.sampling, [row.stream for row in rows], pair.device)
        self.forward = CachedForward(pair, self.padding, use_cache=options.use_cache)
        self.texts = [_RowText(pair, row, options) for row in rows]

    def run(self, results: dict[int, Generation], *, hold: bool) -> Iterator[GeneratedToken]:
        """Generate until every row has ended, and put what came out among the results."""
        scaling = Scaling(self.pair, None, lambda: self._method())
        held = [scaling] if hold else []
        try:
            with _all_of(*held, *([self._fast_path()] if hold else [])):
                while not all(text.reason for text in self.texts):
                    now = [] if held else [scaling]
                    with _all_of(*now, *([] if hold else [self._fast_path()])):
                        logits = self._logits()
                    yield from self._take(logits)
        finally:
            results.update({text.row.index: text.generation() for text in self.texts if text.reason})

    def _fast_path(self) -> AbstractContextManager[object]:
        return fast_path(self.pair.base, self.pair.tuned)

    @torch.no_grad()
    def _logits(self) -> Float[Tensor, "row d_vocab"]:
        if self.profile is not None:
            self.profile.clear()
        return self.forward(self.ids)

    @torch.no_grad()
    def _take(self, logits: Float[Tensor, "row d_vocab"]) -> list[GeneratedToken]:
        """Choose the next token of every row, and add it to the rows that have not ended."""
        chosen = self.sampler(logits)
        probabilities = logits.float().softmax(-1).gather(-1, chosen[:, None])[:, 0]
        self.ids = torch.cat([self.ids, chosen[:, None]], dim=1)
        profile = None if self.profile is None else self.profile.result()
        tokens = chosen.tolist()
        return [
            text.add(token, probability, None if profile is None else profile[:, row])
            for row, (text, token, probability) in enumerate(
                zip(self.texts, tokens, probabilities.tolist(), strict=True)
            )
            if not text.reason
        ]

    def _method(self) -> Attachable:
        pair, method = self.pair, self.rows[0].scaling.method
        alphas = torch.tensor([row.scaling.alphas for row in self.rows], device=pair.device).T  # [layer, row]
        filters = [row.scaling.positions for row in self.rows]
        if bool((alphas == alphas[:, :1]).all()) and len(set(filters)) == 1:
            alphas, filters = alphas[:, :1], filters[:1]
        watch = FtcScaling(
            pair.base, pair.tuned, alphas if method == "ftc" else torch.ones_like(alphas), filters, self.profile
        )
        watch.padding = torch.tensor(self.padding, device=pair.device)
        watch.prompt_length = self.n_prompt  # without a cache the passes do not tell
        if method == "ftc":
            return watch
        if method == "weights":
            return _Both(WeightInterpolation(pair.base, pair.tuned, self.rows[0].scaling.alphas[0], keep=True), watch)
        return _Both(ContrastiveLogits(pair.base, pair.tuned, alphas[0]), watch)


@contextmanager
def _all_of(*contexts: AbstractContextManager[object]) -> Generator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


class _Both:
    """A method, and the watch that reads TuCo beside it."""

    def __init__(self, method: Attachable, watch: FtcScaling) -> None:
        self.method, self.watch = method, watch

    def attach(self) -> None:
        self.method.attach()
        try:
            self.watch.attach()
        except BaseException:
            self.method.detach()
            raise

    def detach(self) -> None:
        self.watch.detach()
        self.method.detach()


class CachedForward:
    """Logits of the last position of a growing batch, on either backend, reading only what is new.

    Args:
        pair: whose tuned model runs.
        padding: pad tokens on the left of each row, in tokens.
        use_cache: keep keys and values from call to call.
    """

    def __init__(self, pair: ModelPair, padding: Sequence[int], *, use_cache: bool) -> None:
        self.model, self.padding = pair.tuned, torch.tensor(padding, device=pair.device)
        self.is_padded = any(padding)
        self.is_bridge = backend_of(pair.tuned) == "bridge"
        self.cache = new_cache(pair.tuned, len(padding)) if use_cache else None
        self.seen = 0
        """Tokens in the cache."""

    def __call__(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        """The logits behind `ids`, which begin with those of the call before."""
        new = ids[:, self.seen :]
        # [row, pos]: 1 at real tokens
        mask = (torch.arange(ids.shape[1], device=ids.device)[None] >= self.padding[:, None]).long()
        run = self._bridge if self.is_bridge else self._hooked
        logits = run(new, mask)
        if self.cache is not None:
            self.seen = ids.shape[1]
        return logits[:, -1]

    def _bridge(self, new: Tensor, mask: Tensor) -> Tensor:
        options: dict[str, Any] = {"use_cache": self.cache is not None, "return_type": "logits"}
        if self.cache is not None:
            options["past_key_values"] = self.cache
        if self.is_padded:
            options["attention_mask"] = mask
        if _keeps_last_logits(self.model.original_model):
            options["logits_to_keep"] = 1
        return self.model(new, **options)

    def _hooked(self, new: Tensor, mask: Tensor) -> Tensor:
        options: dict[str, Any] = {"return_type": "logits", "padding_side": "left"}
        if self.cache is not None:
            options["past_kv_cache"] = self.cache
        if self.is_padded or self.cache is not None:
            options["attention_mask"] = mask[:, self.seen :]
        else:
            options["padding_side"] = "right"
        return self.model(new, **options)


def _keeps_last_logits(hf_model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(hf_model.forward).parameters


class _LastTokenProfile:
    """T[l] at the last position of every row, from the steps of one pass."""

    def __init__(self) -> None:
        self.norms = NormAccumulator("l1")

    def clear(self) -> None:
        self.norms = NormAccumulator("l1")

    def __call__(self, step: BlockStep) -> None:
        last = slice(-1, None)
        self.norms(
            replace(
                step,
                resid_pre=step.resid_pre[:, last],
                tuned_post=step.tuned_post[:, last],
                base_post=step.base_post[:, last],
            )
        )

    def result(self) -> Float[Tensor, "layer row"]:
        found = self.norms.result()
        return contribution_ratio(found.cumulative_ftc, found.cumulative_ptc)[..., 0]


class _RowText:
    """What one row has generated so far."""

    def __init__(self, pair: ModelPair, row: Row, options: GenerateOptions) -> None:
        self.pair, self.row = pair, row
        room = _room(row, pair.n_ctx)
        self.limit: int = min(options.max_new_tokens, room)
        self.limit_reason: StopReason = "length" if options.max_new_tokens <= room else "context"
        self.stream = TextStream(pair.tokenizer, options.stop)
        self.ids: list[int] = []
        self.probabilities: list[float] = []
        self.profiles: list[Tensor] = []
        self.reason: StopReason | None = None

    def add(self, token_id: int, probability: float, profile: Float[Tensor, " layer"] | None) -> GeneratedToken:
        self.ids.append(token_id)
        self.probabilities.append(probability)
        if profile is not None:
            self.profiles.append(profile.clone())
        if token_id in self.pair.eos_token_ids:  # no text, even where the tokenizer does not call it special
            self.reason, text = "eos", ""
        else:
            text = self.stream.add(token_id)
        if self.stream.stopped:
            self.reason = "stop"
        elif self.reason is None and len(self.ids) == self.limit:
            self.reason = self.limit_reason
        if self.reason is not None:
            text += self.stream.close()
        tuco = None if profile is None else profile[-1].item()
        return GeneratedToken(self.row.index, len(self.ids) - 1, token_id, text, probability, tuco)

    def generation(self) -> Generation:
        assert self.reason is not None
        return Generation(
            prompt=self.row.prompt,
            scaling=self.row.scaling,
            text=self.stream.text,
            token_ids=tuple(self.ids),
            tokens=display_tokens(self.pair.tokenizer, self.ids),
            probability=torch.tensor(self.probabilities),
            layer_profile=torch.stack(self.profiles, dim=1) if self.profiles else None,
            stop_reason=self.reason,
        )
