"""Random weights in the shape of SmolLM2-135M, as a plain transformers pair and as a ModelPair."""

from __future__ import annotations

import copy

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tuco_lens import ModelPair

VOCAB = 49_152
D_MODEL = 576
STRENGTH = 0.05
"""Noise of the tuned model, as a share of each tensor's own spread."""


def smollm2_shape() -> LlamaForCausalLM:
    """Random weights of SmolLM2-135M's configuration."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def transformers_pair() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """A base, and a tuned model that is the base with noise on every tensor."""
    base = smollm2_shape()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * STRENGTH)
    return base, tuned


def word_tokenizer(n_words: int = VOCAB) -> PreTrainedTokenizerFast:
    """A tokenizer with a word for every id, since benchmarks give ids."""
    words = {f"w{i}": i for i in range(n_words)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))
    tokenizer.unk_token = "w0"
    return tokenizer


def model_pair(backend: str) -> ModelPair:
    """The same pair on one backend."""
    base, tuned = transformers_pair()
    return ModelPair.from_pretrained(base, tuned, tokenizer=word_tokenizer(), backend=backend, device="cpu")
