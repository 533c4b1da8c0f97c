"""A pair's tuned model in the shape of a transformers model: what lm-evaluation-harness runs as it runs its own.

So tokenisation, batching, processing of logits and sampling are the harness' and transformers' own, and only the
forward pass is not: it goes through `pair.tuned`, scaled if a scaling is on, with KV caches of both models
(`engine/kv_caches.py`). The scaling is put on in `lm_eval_model.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import CausalLMOutput

from tuco_lens.errors import InputError
from tuco_lens.models.backends import dtype_of, run_logits
from tuco_lens.steering.generating import CachedForward

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

_GENERATION_OPTIONS = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "renormalize_logits",
    "remove_invalid_values",
)
"""Options that choose or forbid the next token of a row from its logits and its text, as transformers means them."""
_ONE_ROW = ("num_beams", "num_return_sequences")
"""Options that make several rows of one; they may be 1."""


class ScaledModel(PreTrainedModel, GenerationMixin):
    """The tuned model of a pair, without weights of its own.

    Args:
        pair: The pair.
        defaults: How the tuned checkpoint generates where nothing else is said; see `generation_defaults`.
    """

    def __init__(self, pair: ModelPair, defaults: GenerationConfig) -> None:
        about: dict[str, Any] = {"max_position_embeddings": pair.n_ctx, "name_or_path": pair.tuned_name}
        super().__init__(PretrainedConfig(**about))
        self.pair = pair
        self.generation_config = defaults
        self._cached: CachedForward | None = None

    @property
    def device(self) -> torch.device:
        """Where the token ids go."""
        return self.pair.device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights."""
        return dtype_of(self.pair.tuned)

    def tie_weights(self, *_args: Any, **_options: Any) -> None:
        """Nothing: there are no weights here."""

    def forward(
        self,
        input_ids: Int[Tensor, "row pos"],
        attention_mask: Tensor | None = None,  # noqa: ARG002 - `generate` asks whether it is taken
        **_options: Any,
    ) -> CausalLMOutput:
        """Logits of every position, or within `generate` of the last; rows are padded on the right outside it."""
        if self._cached is None:
            return CausalLMOutput(logits=run_logits(self.pair.tuned, input_ids))
        return CausalLMOutput(logits=self._cached(input_ids)[:, None])

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - `generate` asks by name whether it is taken
        **_options: Any,
    ) -> dict[str, Any]:
        """What `forward` is called with for the next token: the whole text, of which it knows what it has read."""
        return {"input_ids": input_ids}

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride] - the harness calls it in this one way
        self,
        input_ids: Int[Tensor, "row pos"],
        *,
        max_length: int,
        stopping_criteria: Sequence[Any],
        attention_mask: Tensor,
        pad_token_id: int,
        use_cache: bool = True,
        **options: Any,
    ) -> Int[Tensor, "row pos"]:
        """Continue texts that are padded on the left; what follows a row's end is padding.

        Args:
            input_ids: The texts.
            max_length: Tokens of a row at most, with its text and padding.
            stopping_criteria: The harness' own, which remember the rows that each of them has stopped.
            attention_mask: 0 at padding, [row, pos].
            pad_token_id: What follows a row's end.
            use_cache: Keep keys and values of both models.
            **options: Generation options of transformers; see `check_options`.

        Raises:
            InputError: For an option that cannot be, or a text that is longer than the context.
        """
        check_options(options, self.generation_config)
        if max_length > self.pair.n_ctx:
            why = f"text and generated tokens are up to {max_length}, and the context is {self.pair.n_ctx} tokens"
            raise InputError("max_length", why, "give a smaller one, or max_gen_toks instead")
        ends = _RowEnds(stopping_criteria, len(input_ids))
        padding = (attention_mask == 0).sum(dim=1).tolist()
        with self._reading(CachedForward(self.pair, padding, use_cache=use_cache)):
            decode: Any = super().generate  # pyright: ignore[reportAttributeAccessIssue] - its protocol asks for more
            rows: Tensor = decode(
                inputs=input_ids,
                attention_mask=attention_mask,
                max_length=max_length,
                stopping_criteria=StoppingCriteriaList([ends]),
                pad_token_id=pad_token_id,
                use_cache=False,  # the cache is CachedForward's
                **options,
            )
        return ends.padded(rows, pad_token_id)

    @contextmanager
    def _reading(self, cached: CachedForward) -> Generator[None]:
        self._cached = cached
        try:
            yield
        finally:
            self._cached = None


class _RowEnds(StoppingCriteria):
    """Ends each row by itself where one of the harness' criteria has stopped it.

    The harness' criteria end a batch when all its rows have stopped, and until then rows run on behind their end. Stop
    strings that are special tokens are not in the decoded text, and so could not be cut there afterwards: a row's text
    would depend on the rows beside it.
    """

    def __init__(self, criteria: Sequence[Any], n_rows: int) -> None:
        self.criteria = list(criteria)
        self.ends: list[int | None] = [None] * n_rows
        """Length at which each row ended, in tokens with its padding; None while it runs."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - declared to return the older torch.BoolTensor
        self, input_ids: Int[Tensor, "row pos"], scores: Any, **_options: Any
    ) -> Bool[Tensor, " row"]:
        for criterion in self.criteria:
            criterion(input_ids, scores)
        for row, end in enumerate(self.ends):
            if end is None and any(criterion.done_tracker[row] for criterion in self.criteria):
                self.ends[row] = input_ids.shape[1]
        return torch.tensor([end is not None for end in self.ends], device=input_ids.device)

    def padded(self, rows: Int[Tensor, "row pos"], pad_token_id: int) -> Int[Tensor, "row pos"]:
        """The rows with padding behind their ends."""
        for row, end in zip(rows, self.ends, strict=True):
            if end is not None:
                row[end:] = pad_token_id
        return rows


def check_options(options: dict[str, Any], defaults: GenerationConfig) -> None:
    """Refuse generation options that this model does not have; the checkpoint's own defaults count too.

    Raises:
        InputError: for an unknown option, and for beam search or several texts per prompt.
    """
    unknown = sorted(options.keys() - {*_GENERATION_OPTIONS, *_ONE_ROW})
    if unknown:
        known = ", ".join(("until", "max_gen_toks", *_GENERATION_OPTIONS))
        raise InputError(f"no generation option {unknown[0]!r}", "the model tuco has none of that name", f"use {known}")
    for name in _ONE_ROW:
        value = options.get(name, getattr(defaults, name, None))
        if value not in (None, 1):
            why = "a row of the batch has one KV cache, which does not change places"
            raise InputError(f"{name} is {value!r}", why, f"give {name}=1, with do_sample=true for variety")


def generation_defaults(pair: ModelPair, checkpoint: Any, *, trust_remote_code: bool = False) -> GenerationConfig:
    """How the tuned checkpoint generates where nothing else is said, such as its repetition penalty.

    Args:
        pair: The pair.
        checkpoint: What was given as the tuned model, or as the base model of an adapter; None if that is not known.
        trust_remote_code: Whether a checkpoint's own code may run.

    Returns:
        A copy of the generation config. From a HookedTransformer whose checkpoint is not known it has the end tokens
        alone, for the conversion keeps nothing else.
    """
    hf_model = pair.tuned.original_model if pair.backend == "bridge" else checkpoint
    found = getattr(hf_model, "generation_config", None)
    if found is None and checkpoint is not None:
        found = _saved_defaults(checkpoint, trust_remote_code)
    if found is None:
        found = GenerationConfig(eos_token_id=sorted(pair.eos_token_ids) or None)
    own = copy.deepcopy(found)
    own.cache_implementation = None
    return own


def _saved_defaults(checkpoint: Any, trust_remote_code: bool) -> GenerationConfig:
    """As transformers does it: `generation_config.json` if there is one, else what the config says of it."""
    from tuco_lens.models.sources import LoadOptions, read_config, resolve_source

    options = LoadOptions(trust_remote_code, allow_pickle=True)  # no weights are read here
    source = resolve_source(checkpoint, "tuned", options)
    if source.kind != "gguf":
        try:
            return GenerationConfig.from_pretrained(source.place(), local_files_only=source.offline)
        except OSError:
            pass
    return GenerationConfig.from_model_config(read_config(source, options))
