"""`LoadedPair`: two TransformerLens models that were found to be a pair, and their common properties.

`loading.py` makes it; `ModelPair` (`tuco_lens/pair.py`) extends it to measure and generate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from typing_extensions import Unpack

from tuco_lens.brief import Brief
from tuco_lens.models.backends import BackendName, blocks, device_of, dtype_of
from tuco_lens.prompts.chats import TemplateOptions
from tuco_lens.prompts.prompt import Prompt, PromptLike, Truncate, fit, make_prompt


@dataclass(frozen=True)
class LoadedPair(Brief):
    """A base model and a fine-tune of it, loaded as TransformerLens models of one kind."""

    base: Any
    """The base model: a HookedTransformer or a TransformerBridge, without weight processing, in evaluation mode."""
    tuned: Any
    """The tuned model, of the same kind."""
    tokenizer: Any
    """The transformers tokenizer of every prompt: the tuned model's, unless another was given or it has none."""
    backend: BackendName
    """"hooked" or "bridge"."""
    base_name: str
    """What was given as base."""
    tuned_name: str
    """What was given as tuned, or as adapter."""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end a generated text, by the tuned model's generation config and by the tokenizer."""
    # Not compared: configs have no hash, and a pair is hashed.
    config: Any = field(default=None, repr=False, compare=False)
    """The tuned model's transformers config (the base model's, if `tuned` is an adapter), or None."""

    @property
    def n_layers(self) -> int:
        """L, the number of blocks of each model."""
        return len(blocks(self.tuned))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.tuned.cfg.d_model

    @property
    def n_ctx(self) -> int:
        """Longest prompt that the tuned model takes, in tokens."""
        return self.tuned.cfg.n_ctx

    @property
    def device(self) -> torch.device:
        """The device of the tuned model's first block, to which token ids are moved."""
        return device_of(self.tuned)

    @property
    def dtype(self) -> str:
        """dtype of the tuned model's weights, such as "float32"."""
        return str(dtype_of(self.tuned)).removeprefix("torch.")

    @property
    def pad_id(self) -> int:
        """The id that pads shorter prompts of a batch; any would do, since no real token attends to padding."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and 0 <= pad < self.tuned.cfg.d_vocab else 0

    def prompt(
        self,
        prompt: PromptLike,
        *,
        chat: bool = False,
        system: str | None = None,
        truncate: Truncate | None = None,
        drift: bool = False,
        index: int | None = None,
        **template: Unpack[TemplateOptions],
    ) -> Prompt:
        """Tokenise one prompt as `measure` does, with the tuned model's tokenizer and chat template.

        Args:
            prompt: text, messages (`role` and `content`), a dict of `messages` and `tools`, token ids, or a `Prompt`.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            truncate: "left" or "right" cuts a prompt longer than the context; otherwise it is an error.
            drift: also refuse tokens that the base model's embedding lacks.
            index: the prompt's number, for error messages.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Raises:
            InputError: if the prompt is empty or too long, the template refuses it, or an option does not go with it.
        """
        made = make_prompt(self.tokenizer, prompt, chat=chat, system=system, index=index, **template)
        base_d_vocab = self.base.cfg.d_vocab if drift else None
        d_vocab = self.tuned.cfg.d_vocab
        return fit(made, self.n_ctx, truncate=truncate, index=index, d_vocab=d_vocab, base_d_vocab=base_d_vocab)
