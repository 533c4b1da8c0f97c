"""`LoadedPair`: two TransformerLens models that were found to be a pair, and what can be read off them.

`loading.py` makes one; `ModelPair` (`tuco_lens/pair.py`) is one that also measures and generates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tuco_lens.brief import Brief
from tuco_lens.models.backends import BackendName, blocks, device_of, dtype_of


@dataclass(frozen=True)
class LoadedPair(Brief):
    """A base model and a fine-tune of it, loaded as TransformerLens models of one kind."""

    base: Any
    """The base model: a HookedTransformer or a TransformerBridge, without weight processing, in evaluation mode."""
    tuned: Any
    """The tuned model, of the same kind."""
    tokenizer: Any
    """The tuned model's transformers tokenizer; every prompt goes through it."""
    backend: BackendName
    """"hooked" or "bridge"."""
    base_name: str
    """What was given as base."""
    tuned_name: str
    """What was given as tuned, or as adapter."""
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end a generated text: those of the tuned model's generation config and of its tokenizer."""
    # Not compared: configs have no hash, and a pair is hashed.
    config: Any = field(default=None, repr=False, compare=False)
    """The tuned model's transformers config, where the pair was loaded from one."""

    @property
    def n_layers(self) -> int:
        """L, the number of blocks."""
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
        """Where the token ids go."""
        return device_of(self.tuned)

    @property
    def dtype(self) -> str:
        """dtype of the weights, such as "float32"."""
        return str(dtype_of(self.tuned)).removeprefix("torch.")

    @property
    def pad_id(self) -> int:
        """The id behind shorter prompts of a batch; any id would do, since nothing real sees it."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and 0 <= pad < self.tuned.cfg.d_vocab else 0
