"""What TransformerLens or transformers raises while a pair is built or first run, as one line with a remedy that works.

Both know hundreds of architectures, and fail on some with, say, an AttributeError deep inside.
`tests/integration/test_registry.py` records what happens with each.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from tuco_lens.brief import cut
from tuco_lens.errors import LoadError, TucoLensError

WORKS_WITH: Final = "4.3"
"""The release of TransformerLens that runs the classes in `NEED_NEWER`."""
# fmt: off
NEED_NEWER: Final = frozenset({
    "Cohere2ForCausalLM", "CohereForCausalLM", "HunYuanDenseV1ForCausalLM", "Qwen3NextForCausalLM",
    "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM",
})
# fmt: on
"""Model classes that fail, or give wrong numbers, with transformer-lens 3.9, and are exact with `WORKS_WITH`."""
_LONGEST_CAUSE: Final = 160


@contextmanager
def explained(what: str, config: Any, backend: str) -> Generator[None]:
    """Turn whatever a library raises in the `with` block, for a model that it cannot run, into a LoadError.

    This package's own errors and out-of-memory errors pass unchanged.

    Args:
        what: The first part of the error message.
        config: The transformers model's config.
        backend: "hooked" or "bridge".

    Raises:
        LoadError: Naming the model class, the cause and a remedy.
    """
    try:
        yield
    except TucoLensError:
        raise
    except Exception as error:  # the libraries raise errors of any kind
        if is_out_of_memory(error):
            raise
        cause = cut(" ".join(str(error).split()), _LONGEST_CAUSE)
        why = f"{_library()} does not run {model_class(config)} ({type(error).__name__}: {cause})"
        raise LoadError(what, why, remedy(config, backend)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the CPU or on any other device."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # CUDA's driver words it differently from PyTorch's allocator.
    is_error = isinstance(error, Exception) and should_reduce_batch_size(error)
    return is_error or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower())


def remedy(config: Any, backend: str) -> str:
    """What to do when `backend` fails on a model: take the other backend, another release, or another model."""
    from tuco_lens.models import bridge, hooked

    other, module = ("bridge", bridge) if backend == "hooked" else ("hooked", hooked)
    if module.unsupported_reason(config) is None:
        return f"give backend={other!r}"
    if model_class(config) in NEED_NEWER and _release() < _parts(WORKS_WITH):
        return f"install transformer-lens {WORKS_WITH} or later, with which it works"
    return "choose a model of another architecture; tuco-lens pairs lists some"


def model_class(config: Any) -> str:
    """The name of the transformers class of a config's model, or else its model type."""
    from tuco_lens.models.bridge import class_names

    return next(iter(class_names(config)), config.model_type)


def _library() -> str:
    return f"transformer-lens {importlib.metadata.version('transformer-lens')}"


def _release() -> tuple[int, ...]:
    return _parts(importlib.metadata.version("transformer-lens"))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
