"""The tokenizer of a pair: the one that is asked for, or the first that comes with one of the models.

Tokenising prompts with it is in `tuco_lens/prompts/prompt.py`. The models themselves are read in `sources.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuco_lens.errors import LoadError
from tuco_lens.models.hub import hub_listing, raise_translated, validate_hub_id
from tuco_lens.models.sources import LoadOptions, Source, looks_like_path, quiet_libraries

if TYPE_CHECKING:
    from tuco_lens.models.adapter import Adapter

__all__ = ["find_tokenizer"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def find_tokenizer(given: Any, base: Source, tuned: Source | Adapter, options: LoadOptions) -> Any:
    """The tokenizer asked for, else the tuned model's (or the one beside the adapter), else the base model's.

    Args:
        given: A tokenizer, or a hub id or local directory of one, or None.
        base: Where the base model comes from.
        tuned: Where the tuned model or the adapter comes from.
        options: Whether Python code of a checkpoint may run.

    Raises:
        LoadError: The tokenizer named cannot be read, or there is none.
    """
    if given is not None and not isinstance(given, (str, Path)):
        return given
    if given is not None:
        candidates = [_tokenizer_source(given)]
    else:
        ours = tuned if isinstance(tuned, Source) else Source("adapter", tuned.name, "directory", tuned.folder)
        candidates = [ours, base]
    for candidate in candidates:
        tokenizer = _load_tokenizer(candidate, options)
        if tokenizer is not None:
            return tokenizer
    names = " nor ".join(repr(candidate.name) for candidate in candidates)
    raise LoadError("cannot find a tokenizer", f"there is none with {names}", "give one as tokenizer=")


def _load_tokenizer(source: Source, options: LoadOptions) -> Any | None:
    """The tokenizer that comes with a source, or None if it brings none.

    Raises:
        LoadError: There is one, and it cannot be read.
    """
    if source.kind == "loaded":
        return _tokenizer_of_loaded(source, options)
    if source.kind == "directory" and not any((source.location / name).is_file() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                source.place(), trust_remote_code=options.trust_remote_code, **source.arguments()
            )
    except Exception as error:
        if source.kind == "hub":  # a repository without tokenizer files cannot be told from one with broken ones
            return None
        raise_translated(error, f"cannot load the tokenizer of the {source.role} model {source.name!r}", source.name)
    return tokenizer if len(tokenizer) else None


def _tokenizer_source(given: str | Path) -> Source:
    """The source of a tokenizer that the user named on its own.

    Raises:
        LoadError: It is neither a directory nor a hub id.
    """
    name = str(given)
    path = Path(name).expanduser()
    what = f"cannot load the tokenizer {name!r}"
    if path.is_dir():
        return Source("given", name, "directory", path)
    if isinstance(given, Path) or looks_like_path(name):
        raise LoadError(what, "there is no such directory", "check the path")
    validate_hub_id(name, what)
    return Source("given", name, "hub", name, offline=hub_listing(name, what) is None)


def _tokenizer_of_loaded(source: Source, options: LoadOptions) -> Any | None:
    """The tokenizer that lies where a loaded model came from, if that is still known and there."""
    origin = getattr(source.location.config, "_name_or_path", None)
    if not origin:
        return None
    try:
        return _load_tokenizer(_tokenizer_source(origin), options)
    except LoadError:
        return None
