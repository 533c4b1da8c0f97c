"""Checks of an adapter_config.json from an unknown source, before PEFT acts on it.

PEFT allocates as many rows as `r` says, and matches the config's patterns against every module name with `re`, which
can take for ever. Both are bounded here; what a value means is left to PEFT.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from tuco_lens.errors import LoadError

LARGEST_RANK: Final = 1 << 16
"""A rank larger than the width of any model."""
_SECONDS: Final = 5
"""Time limit for matching all patterns, which normally takes milliseconds."""
_DAMAGED: Final = "give an adapter that PEFT itself has saved"
_RANKS: Final = ("r", "init_r", "target_r", "rank")
_NUMBERS: Final = ("lora_alpha", "alpha", "lora_dropout", "module_dropout")
_PATTERNS: Final = ("target_modules", "exclude_modules", "layers_pattern", "feedforward_modules")
_PATTERN_TABLES: Final = ("rank_pattern", "alpha_pattern")

_UNSUITABLE: Final = {
    "layer_replication": (
        "it uses layers of the base model more than once, and TuCo compares block with block",
        "give an adapter without it",
    ),
    "alora_invocation_tokens": (
        "it acts only behind certain tokens, which PEFT looks for outside of the model",
        "give an adapter that acts everywhere",
    ),
    "megatron_config": ("it is made for Megatron's parallel layers", "give an adapter of a transformers model"),
}

# Run in a process of its own, which can be killed; it needs only the standard library.
_MATCH: Final = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for name in names:
        re.match(pattern, name)
"""


def check_adapter_config(config: Any, what: str) -> None:
    """Refuse values on which PEFT would fail late or crash, and features for which TuCo makes no sense.

    Args:
        config: A `peft.PeftConfig`, as read from a file.
        what: The first part of the error message.

    Raises:
        LoadError: For an impossible rank, a value of the wrong type, or such a feature; the message names the field.
    """
    for name in _RANKS:
        _require_rank(getattr(config, name, None), name, what)
    for name in _NUMBERS:
        value = getattr(config, name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise LoadError(what, f"its {name} is {value!r}, which is no number", _DAMAGED)
    for name in _PATTERN_TABLES:
        table = getattr(config, name, None) or {}
        if not isinstance(table, Mapping):
            raise LoadError(what, f"its {name} is {_short(table)}, which is no table", _DAMAGED)
        for value in cast("Mapping[str, Any]", table).values():
            if name == "rank_pattern":
                _require_rank(value, name, what)
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise LoadError(what, f"its {name} has {value!r}, which is no number", _DAMAGED)
    for name in (*_PATTERNS, "modules_to_save"):
        _require_names(getattr(config, name, None), name, what)
    for name, (why, remedy) in _UNSUITABLE.items():
        if getattr(config, name, None):
            raise LoadError(what, f"{why} ({name})", remedy)


def check_patterns(config: Any, names: Collection[str], what: str) -> None:
    """Refuse patterns of `config` that are no regular expressions, or that together take over 5 s to match `names`.

    Raises:
        LoadError: Naming the field of an invalid pattern, or the time limit.
    """
    for field, pattern in _patterns(config):
        _require_pattern(pattern, field, what)
    patterns = [pattern for _, pattern in _patterns(config) if set(pattern) & set("*+{")]
    if not patterns:
        return
    command, given = [sys.executable, "-I", "-S", "-c", _MATCH], json.dumps([patterns, sorted(names)])
    try:
        subprocess.run(command, input=given, text=True, capture_output=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        why = f"a pattern of its config takes more than {_SECONDS} s to match the names of the modules"
        raise LoadError(what, why, _DAMAGED) from error
    except subprocess.CalledProcessError as error:
        raise LoadError(what, "a pattern of its config cannot be matched", _DAMAGED) from error


def other_base(config: Any, base_name: str) -> str | None:
    """The model that an adapter says it was trained on, if that is not the base model given; else None.

    Only the last part of the names is compared, without case, since folders are moved.
    """
    trained_on = getattr(config, "base_model_name_or_path", None)
    if not isinstance(trained_on, str) or not trained_on.strip("/"):
        return None
    ours, theirs = (re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower() for name in (base_name, trained_on))
    return trained_on if ours != theirs else None


def _require_pattern(pattern: str, field: str, what: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise LoadError(what, f"its {field} is no regular expression ({error})", _DAMAGED) from error


def _require_rank(value: Any, name: str, what: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_RANK:
        why = f"its {name} has {_short(value)}, and a rank is a whole number up to {LARGEST_RANK}"
        raise LoadError(what, why, _DAMAGED)


def _require_names(value: Any, name: str, what: str) -> None:
    """Refuse what is neither None, a string, nor a collection of strings."""
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, list | set | tuple) or not all(isinstance(part, str) for part in cast("Any", value)):
        raise LoadError(what, f"its {name} is {_short(value)}, and not a list of names", _DAMAGED)


def _patterns(config: Any) -> Iterator[tuple[str, str]]:
    """Every string of the config that PEFT matches as a regular expression, as (name of its field, pattern)."""
    for field in _PATTERNS:
        value = getattr(config, field, None)
        if isinstance(value, str):
            yield field, value
        elif field == "layers_pattern":
            yield from ((field, part) for part in value or ())
    for field in _PATTERN_TABLES:
        yield from ((field, rf"(.*\.)?({key})$") for key in getattr(config, field, None) or {})


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
