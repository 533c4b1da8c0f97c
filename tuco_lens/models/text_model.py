"""What both backends are given: the language model alone, and a tokenizer of the model's own."""

from __future__ import annotations

import copy
from typing import Any

import torch


def text_config(config: Any) -> Any:
    """The language model's part of a config: of a Gemma 3 that takes images, its `text_config`; else the config."""
    return config.text_config if config.model_type == "gemma3" else config


def text_model(hf_model: Any) -> Any:
    """The language model of a Gemma 3 that takes images, as a text model that shares all its weights; else the model.

    On prompts without images the two give the same numbers. The vision tower is left to whoever holds `hf_model`.
    """
    if hf_model.config.model_type != "gemma3":
        return hf_model
    from transformers import Gemma3ForCausalLM

    config = text_config(hf_model.config)
    with torch.device("meta"):  # no memory: both parts are replaced
        shell: Any = Gemma3ForCausalLM(config)
    shell.model, shell.lm_head = hf_model.model.language_model, hf_model.lm_head
    config.architectures = [type(shell).__name__]
    return shell.train(hf_model.training)


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy for TransformerLens, which sets tokens and padding side on the tokenizer that it is given.

    It pads on the right (with left padding TransformerLens masks whatever token equals the padding), has a padding
    token, and says that it adds the BOS itself: TransformerLens would otherwise load it anew from its name, from the
    hub if need be.
    """
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    if own.pad_token is None:
        own.pad_token = own.eos_token or own.bos_token or own.unk_token or own.convert_ids_to_tokens(0)
    own.init_kwargs = {**own.init_kwargs, "name_or_path": own.name_or_path, "add_bos_token": True}
    return own


def prepends_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS before text by itself."""
    first = tokenizer.encode("a")[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
