"""A `.gguf` file as a checkpoint folder: the quantisation is undone once, and not at every load."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tuco_lens.errors import LoadError, OutputError
from tuco_lens.models.files import gguf_parsed_once
from tuco_lens.models.placement import choose_device
from tuco_lens.models.sources import (
    LoadOptions,
    choose_dtype,
    load_model,
    quiet_libraries,
    read_config,
    resolve_source,
)
from tuco_lens.models.tokenizer import find_tokenizer

__all__ = ["save_dequantised"]


def save_dequantised(file: str | Path, folder: str | Path, *, dtype: str = "float32") -> Path:
    """Write the model and the tokenizer of a `.gguf` file into a folder that loads like any checkpoint.

    In float32 it gives the numbers of the file itself. The folder is whole whenever it exists.

    Args:
        file: The `.gguf` file.
        folder: Where to; it must not exist.
        dtype: Of the weights that are written.

    Returns:
        The folder.

    Raises:
        LoadError: The file is no `.gguf` file, or cannot be read.
        OutputError: The folder exists, or cannot be written.
    """
    out, options = Path(folder), LoadOptions()
    source = resolve_source(file, "given", options)
    if source.kind != "gguf":
        raise LoadError(source.what, "it is no .gguf file", "give one; other checkpoints are not quantised that way")
    if out.exists():
        raise OutputError(f"{out}", "it is there already", "name another folder")
    with quiet_libraries(), gguf_parsed_once():
        config, cpu = read_config(source, options), choose_device("cpu")
        tokenizer = find_tokenizer(None, source, source, options)
        model = load_model(source, config, options, cpu, choose_dtype(dtype, cpu, None, None))
        try:
            _write(_savable(model), tokenizer, out)
        except OSError as error:
            raise OutputError(f"{out}", error.strerror or str(error), "name another folder") from error
    return out


def _savable(model: Any) -> Any:
    """The same model as one that transformers saves: it refuses those that it has read from GGUF."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        fresh: Any = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = model.generation_config
    return fresh


def _write(model: Any, tokenizer: Any, out: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
