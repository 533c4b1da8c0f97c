"""Checks of a model's folder before anything is loaded: which weights there are, whole or damaged, safe or pickled.

`sources.py` calls this for local directories, and `hub.py` calls `require_safe_weights` on a hub repository's listing,
so that both refuse in the same words. The weights are read by transformers (`sources.py`), for which a `.gguf` file is
parsed only once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Collection, Generator
from pathlib import Path, PureWindowsPath
from typing import Any

from tuco_lens.brief import cut
from tuco_lens.errors import LoadError

__all__ = [
    "gguf_parsed_once",
    "inspect_directory",
    "is_pickle",
    "require_safe_weights",
    "require_whole_safetensors",
    "safetensors_files",
]

_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LONGEST_NAME = 255
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GGUF_TEXT, _GGUF_ARRAY = 8, 9
"""Types of values in the format's metadata."""
_GGUF_PARSE = "_gguf_parse_value"
"""transformers' function that reads one of them."""
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def is_pickle(name: str) -> bool:
    """Whether a file of this name is read with Python's pickle, which can run code."""
    return name.endswith((*_PICKLE_ENDINGS, ".bin.index.json"))


def inspect_directory(path: Path, what: str, *, allow_pickle: bool) -> None:
    """Refuse a directory that cannot be loaded safely; `what` begins the error message.

    Raises:
        LoadError: The directory is empty, has no `config.json`, holds an adapter, a Git LFS pointer, no weights, or
            weights only as pickles (unless `allow_pickle`), or a safetensors file is damaged or missing.
    """
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        raise LoadError(
            what, f"the directory {str(path)!r} is empty", "give a directory that save_pretrained has written"
        )
    if "adapter_config.json" in names:
        raise LoadError(
            what,
            f"{str(path)!r} holds a PEFT adapter (adapter_config.json), not a whole model",
            "give its base model as base, and this directory as adapter=",
        )
    if "config.json" not in names:
        raise LoadError(what, f"{str(path)!r} has no config.json", _without_config(path, names))
    for name in names:
        require_no_pointer(path / name, what)
    require_safe_weights(names, what, str(path), allow_pickle=allow_pickle)
    for shard in safetensors_files(path, names, what):
        require_whole_safetensors(shard, what)


def require_safe_weights(names: Collection[str], what: str, where: str, *, allow_pickle: bool) -> None:
    """Refuse a list of file names without safetensors weights, unless it has pickled ones and these are allowed.

    Raises:
        LoadError: Naming the pickle that was refused, or saying that there are no weights that transformers reads.
    """
    if any(name in names for name in _SAFE_WEIGHTS):
        return
    if allow_pickle and any(name in names for name in _PICKLE_WEIGHTS):
        return
    pickles = sorted(name for name in names if is_pickle(name) and not name.startswith("training_args"))
    if pickles and not allow_pickle:
        raise LoadError(
            what,
            f"{where!r} has its weights in a pickle ({pickles[0]}), which can run code when it is read",
            "convert it to safetensors, or pass allow_pickle=True if you trust its author",
        )
    raise LoadError(
        what,
        f"{where!r} has no weights that transformers reads ({_SAFE_WEIGHTS[0]})",
        "give a directory that save_pretrained has written",
    )


def require_no_pointer(path: Path, what: str) -> None:
    """Refuse a Git LFS pointer, which stands in for a file that was not fetched.

    Raises:
        LoadError: The file at `path` is one.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                why = f"{str(path)!r} is a Git LFS pointer and not the file itself"
                raise LoadError(what, why, "fetch the files with `git lfs pull` in that folder")


def checkpoints_remedy(path: Path, name: str) -> str | None:
    """The remedy for a training run's folder: the checkpoints in it that hold file `name`; None if there are none."""
    found = [entry.parent for entry in path.glob(f"checkpoint-*/{name}")]
    if not found:
        return None
    names = sorted((folder.name for folder in found), key=lambda name: (len(name), name))  # by number
    shown = ", ".join(names if len(names) <= 6 else [*names[:3], "…", *names[-2:]])
    return f"it is a run's folder: give one of its checkpoints, {shown}"


def require_whole_safetensors(path: Path, what: str) -> None:
    """Read the header of a safetensors file, which reveals truncation and damage without reading the tensors.

    Raises:
        LoadError: The file is missing, a Git LFS pointer, or not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LoadError(what, f"the weights file {str(path)!r} is missing", "complete the download or the copy")
    require_no_pointer(path, what)
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise LoadError(
            what, f"{str(path)!r} is not a whole safetensors file ({error})", "download or save it again"
        ) from error


def _without_config(path: Path, names: list[str]) -> str:
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return f"give the file itself, {str(path / gguf[0])!r}"
    run = checkpoints_remedy(path, "config.json") or checkpoints_remedy(path, "adapter_config.json")
    if run is not None:
        return run
    return "give a directory that save_pretrained has written"


def safetensors_files(path: Path, names: list[str], what: str) -> list[Path]:
    """The files that transformers would read: the single one if there is one, else those named in the index.

    Raises:
        LoadError: if the index is damaged, or names what is no file of that folder; `what` begins the message.
    """
    if _SAFE_WEIGHTS[0] in names:
        return [path / _SAFE_WEIGHTS[0]]
    if _SAFE_WEIGHTS[1] not in names:
        return []
    index = path / _SAFE_WEIGHTS[1]
    try:
        shards = {str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            what, f"{str(index)!r} is not an index of safetensors files ({error})", "download or save it again"
        ) from error
    for shard in sorted(shards):
        parts = PureWindowsPath(shard)  # splits at the separators of both systems
        if parts.anchor or ".." in parts.parts or len(parts.name) > _LONGEST_NAME:
            why = f"{str(index)!r} names {cut(shard, 80)!r}, which is no file of that folder"
            raise LoadError(what, why, "do not use this checkpoint unless you know why it does")
    return [path / shard for shard in sorted(shards)]


@contextlib.contextmanager
def gguf_parsed_once() -> Generator[None]:
    """Parse a `.gguf` file's metadata only once within the `with` block, and faster.

    transformers makes a new reader for each of config, tokenizer and weights and reads every value anew, which with a
    large vocabulary is most of a load. The readers only map the file, and are released at the end.
    """
    if importlib.util.find_spec("gguf") is None:
        yield
        return
    import gguf
    from transformers import modeling_gguf_pytorch_utils

    reads: Any = modeling_gguf_pytorch_utils
    parsed = _ParsedGguf(gguf.GGUFReader, getattr(reads, _GGUF_PARSE, None))
    with contextlib.ExitStack() as stack:
        for module, name, own in ((gguf, "GGUFReader", parsed.reader), (reads, _GGUF_PARSE, parsed.value)):
            if hasattr(module, name):  # a release of transformers without it only loads more slowly
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, own)
        yield


class _ParsedGguf:
    """Readers and values that are made once for each file.

    Args:
        make: gguf's class of readers.
        parse: transformers' function from a value's bytes and types to the value.
    """

    def __init__(self, make: Any, parse: Any) -> None:
        self._make, self._parse = _over_plain_array(make), parse
        self._readers: dict[Any, Any] = {}
        self._values: dict[tuple[int, int], tuple[Any, ...]] = {}

    def reader(self, path: Any, mode: Any = "r") -> Any:
        status = os.stat(path)
        key = (os.path.realpath(path), status.st_mtime_ns, status.st_size, mode)
        if key not in self._readers:
            self._readers[key] = self._make(path, mode)
        return self._readers[key]

    def value(self, part: Any, types: list[int]) -> Any:
        key = (id(part), id(types))
        if key not in self._values:
            is_text = types in ([_GGUF_TEXT], [_GGUF_ARRAY, _GGUF_TEXT])
            # With what it was made of, or another's `id` might be the same later.
            self._values[key] = (part.tobytes().decode() if is_text else self._parse(part, types), part, types)
        return self._values[key][0]


def _over_plain_array(make: Any) -> Any:
    """The class of readers, but one that slices an array; gguf's slices a `memmap`, millions of times and slowly."""
    import numpy as np

    class Reader(make):
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    return Reader
