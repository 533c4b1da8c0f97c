"""The tokenizer of a pair: the one that is asked for, or the first that comes with one of the models.

Prompts are tokenised in `tuco_lens/prompts/prompt.py`, and the models are read in `sources.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuco_lens.errors import LoadError
from tuco_lens.models.hub import hub_listing, raise_translated, validate_hub_id
from tuco_lens.models.sources import LoadOptions, Source, local_path, looks_like_path, quiet_libraries
from tuco_lens.prompts.limits import LimitExceeded, try_in_child

if TYPE_CHECKING:
    from tuco_lens.models.adapter import Adapter

__all__ = ["find_tokenizer", "tokenizer_of"]

_PROBE, _GROWTH = 2_000, 1_000
"""Length, in characters, of the texts on which patterns are tried, and the factor by which they may grow."""
_MOST_PATTERNS, _LONGEST_PLAIN = 12, 500
"""Largest number and length of patterns taken without a trial: more than published tokenizers have."""
_UNITS = (" ", "\n", "a", "A", "0", ".", "é", "漢", "aB0 ", "a b", "\r\n\t")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def find_tokenizer(given: Any, base: Source, tuned: Source | Adapter, options: LoadOptions) -> Any:
    """The tokenizer asked for, else the tuned model's (or the one beside the adapter), else the base model's.

    Args:
        given: A tokenizer, which is returned as it is, or the hub id or local directory of one, or None.
        base: Where the base model comes from.
        tuned: Where the tuned model or the adapter comes from.
        options: Whether Python code of a checkpoint may run.

    Raises:
        LoadError: A tokenizer cannot be read or has harmful patterns, or there is none.
    """
    if given is not None and not isinstance(given, (str, Path)):
        return given
    if given is not None:
        candidates = [_tokenizer_source(given)]
    else:
        ours = tuned if isinstance(tuned, Source) else Source("adapter", tuned.name, "directory", tuned.folder)
        candidates = [ours, base]
    for candidate in candidates:
        tokenizer = tokenizer_of(candidate, options)
        if tokenizer is not None:
            return tokenizer
    names = " nor ".join(repr(candidate.name) for candidate in candidates)
    raise LoadError("cannot find a tokenizer", f"there is none with {names}", "give one as tokenizer=")


def tokenizer_of(source: Source, options: LoadOptions) -> Any | None:
    """The tokenizer that comes with a source, or None if there is none (on the hub: none that can be read).

    Raises:
        LoadError: There is one in a local path, and it cannot be read.
    """
    if source.kind == "loaded":
        return _tokenizer_of_loaded(source, options)
    if source.kind == "directory" and not any((source.location / name).is_file() for name in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    if source.kind == "directory":
        _require_sane_patterns(source.location / "tokenizer.json", source)
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


def _require_sane_patterns(file: Path, source: Source) -> None:
    """Refuse a tokenizer.json whose patterns run for ever, or lengthen a text without bounds, on plain texts.

    Patterns like those of published tokenizers are not tried. The others run, in the normaliser and pre-tokenizer and
    without the vocabulary, in a child process, since Rust code cannot be interrupted. Other faults of the file are left
    to transformers.

    Raises:
        LoadError: It has such patterns.
    """
    try:
        stored: Any = json.loads(file.read_bytes())
        parts = {name: stored.get(name) for name in ("normalizer", "pre_tokenizer")}
    except (OSError, ValueError, RecursionError, AttributeError):
        return
    patterns = list(_patterns(parts))
    if all(map(_is_plain, patterns)) and len(patterns) <= _MOST_PATTERNS:
        return
    try:
        try_in_child(partial(_run_patterns, parts, patterns))
    except LimitExceeded as error:
        what = f"cannot load the tokenizer of the {source.role} model {source.name!r}"
        why = f"a pattern of its tokenizer.json is not fit to be run: {error}"
        raise LoadError(what, why, "give another tokenizer as tokenizer=") from None


def _patterns(part: Any) -> Iterator[str]:
    """The patterns in parts of a tokenizer.json, each followed by its replacement, if any."""
    if isinstance(part, list):
        for each in part:
            yield from _patterns(each)
    elif isinstance(part, dict):
        if part.get("pattern") is not None:
            yield f"{part['pattern']}{part.get('content', '')}"
        for each in part.values():
            yield from _patterns(each)


def _is_plain(pattern: str) -> bool:
    """Whether a pattern is short and repeats nothing 100 times or more; the library itself bounds backtracking."""
    return len(pattern) <= _LONGEST_PLAIN and re.search(r"\{\d*,?\d{3,}", pattern) is None


def _run_patterns(parts: dict[str, Any], patterns: Iterable[str]) -> None:
    from tokenizers import Tokenizer

    bare = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None}
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    tokenizer = Tokenizer.from_str(json.dumps({**bare, **parts, "decoder": None, "model": model}))
    letters = dict.fromkeys(letter for letter in "".join(patterns) if not letter.isspace())
    for unit in [*letters, *_UNITS]:
        for end in ("", "\u0000"):  # makes a pattern that needs more letters backtrack
            text = unit * (_PROBE // len(unit)) + end
            tokenizer.encode(text)
            if tokenizer.normalizer is not None and len(tokenizer.normalizer.normalize_str(text)) > _GROWTH * _PROBE:
                raise MemoryError


def _tokenizer_source(given: str | Path) -> Source:
    """The source of a tokenizer that is given by its own name.

    Raises:
        LoadError: It is neither a directory nor a hub id.
    """
    name = str(given)
    path = local_path(name)
    what = f"cannot load the tokenizer {name!r}"
    if path.is_dir():
        return Source("given", name, "directory", path)
    if isinstance(given, Path) or looks_like_path(name):
        raise LoadError(what, "there is no such directory", "check the path")
    validate_hub_id(name, what)
    return Source("given", name, "hub", name, offline=hub_listing(name, what) is None)


def _tokenizer_of_loaded(source: Source, options: LoadOptions) -> Any | None:
    """The tokenizer at the place that a loaded model came from, or None if the place or the tokenizer is not found."""
    origin = getattr(source.location.config, "_name_or_path", None)
    if not origin:
        return None
    try:
        return tokenizer_of(_tokenizer_source(origin), options)
    except LoadError:
        return None
