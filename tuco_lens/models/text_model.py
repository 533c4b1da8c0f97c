"""What both backends are given: the language model without vision, and a tokenizer of the model's own."""

from __future__ import annotations

import copy
from typing import Any

import torch


def text_config(config: Any) -> Any:
    """The language model's config: the `text_config` of a Gemma 3 that takes images, else the config itself."""
    return config.text_config if config.model_type == "gemma3" else config


def text_model(hf_model: Any) -> Any:
    """The language model of a Gemma 3 that takes images, as a text model that shares its weights; else the model.

    On prompts without images both give the same numbers.
    """
    if hf_model.config.model_type != "gemma3":
        return hf_model
    from transformers import Gemma3ForCausalLM

    config = text_config(hf_model.config)
    with torch.device("meta"):  # takes no memory; both parts are replaced
        shell: Any = Gemma3ForCausalLM(config)
    shell.model, shell.lm_head = hf_model.model.language_model, hf_model.lm_head
    config.architectures = [type(shell).__name__]
    return shell.train(hf_model.training)


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy for TransformerLens, which sets tokens and the padding side of the tokenizer that it is given.

    It pads on the right (with left padding, TransformerLens masks every token that equals the padding token), has a
    padding token, and claims to add the BOS itself: otherwise TransformerLens would load it again by its name, if need
    be from the hub.
    """
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    if own.pad_token is None:
        own.pad_token = own.eos_token or own.bos_token or own.unk_token or own.convert_ids_to_tokens(0)
    own.init_kwargs = {**own.init_kwargs, "name_or_path": own.name_or_path, "add_bos_token": True}
    return own


def prepends_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its BOS before text."""
    first = tokenizer.encode("a")[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
