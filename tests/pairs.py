"""Tiny pairs for tests of the engine: random Llama-shaped models, loaded through the package's own loader."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tuco_lens import ModelPair
from tuco_lens.pair import DEMO_FOLDER

VOCAB = 300
CONTEXT = 64


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a BOS, a pad token and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<bos>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>")


def tiny_llama(seed: int = 0, n_layers: int = 3, d_model: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config).eval()


def tuned_copy(base: nn.Module, strength: float = 0.2, seed: int = 1) -> Any:
    """The base plus noise of `strength` times each parameter's own root mean square."""
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * parameter.square().mean().sqrt() * strength)
    return tuned


def tiny_pair(backend: str = "hooked", strength: float = 0.2, **sizes: int) -> ModelPair:
    """A random pair on one backend."""
    base = tiny_llama(**sizes)
    return ModelPair.from_pretrained(base, tuned_copy(base, strength), tokenizer=byte_tokenizer(), backend=backend)


def thin_pair(n_ctx: int) -> ModelPair:
    """A random pair of two thin layers, with the tokenizer of the demo pair: what commands run on in its place."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=4096, max_position_embeddings=n_ctx, architectures=["LlamaForCausalLM"])
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(LlamaForCausalLM(config).eval())
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")
    return ModelPair.from_pretrained(*models, tokenizer=tokenizer, device="cpu")
