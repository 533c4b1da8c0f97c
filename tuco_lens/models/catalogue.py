"""Known base/tuned pairs: hub ids, sizes, licences, and which backends take each.

`tuco-lens pairs` prints them. The entries are data (`catalogue.json`, one line per pair); what follows from them is
computed here, without a download and without importing a model library.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from tuco_lens.errors import InputError

if TYPE_CHECKING:
    from tuco_lens.models.backends import BackendName

CATALOGUE: Final = Path(__file__).with_name("catalogue.json")

# fmt: off
HOOKED_MODEL_TYPES: Final = frozenset({
    "bloom", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mixtral",
    "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3",
})
# fmt: on
"""Model types that `hooked.py` converts to HookedTransformers; it refuses some settings of some of them."""

BRIDGE_MODEL_TYPES: Final = HOOKED_MODEL_TYPES | {"smollm3"}
"""Model types that `bridge.py` makes TransformerBridges of (TransformerLens has more)."""

BYTES_PER_PARAMETER: Final[dict[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}

MEMORY_MARGIN: Final = 0.2
"""Share of the weights added for the activations of a batch of a few hundred tokens, buffers and adapter tensors."""


@dataclass(frozen=True)
class KnownPair:
    """A base model and a published fine-tune of it."""

    name: str
    """Short name, unique in its catalogue."""
    base: str
    """Hub id of the base model."""
    tuned: str | None
    """Hub id of the tuned model; None for an adapter pair."""
    adapter: str | None
    """Hub id of the PEFT adapter; None for a pair of checkpoints."""
    parameters: int
    """Number of parameters of the base model, tied embeddings counted once."""
    model_type: str
    """`model_type` of the base model's config, which decides the backend."""
    licence: str
    """Licence of the tuned model or adapter, or the base model's where that is stricter."""
    gated: bool
    """Whether the hub requires, or has required, an account and accepted terms for either of the two."""
    in_paper: bool
    """Whether it is one of the nine models of the paper."""
    note: str
    """What a user should know beforehand; may be empty."""


def load_catalogue(path: Path = CATALOGUE) -> tuple[KnownPair, ...]:
    """The known pairs, in the order of the file: the paper's nine first, adapter pairs last.

    Args:
        path: a JSON file of the same form; by default the package's own.

    Raises:
        InputError: if the file is missing or not a JSON list, an entry is malformed, or two share a name.
    """
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read the catalogue {path}", str(error), "give a JSON list of pairs") from error
    if not isinstance(entries, list):
        raise InputError(f"cannot read the catalogue {path}", "it is not a list", "give a JSON list of pairs")
    pairs = tuple(_known_pair(entry, index) for index, entry in enumerate(cast("list[Any]", entries)))
    repeated = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if repeated:
        raise InputError(f"the catalogue {path} is ambiguous", f"more than one pair is named {repeated}", "rename them")
    return pairs


def backends(pair: KnownPair) -> tuple[BackendName, ...]:
    """The backends that take the pair, "hooked" first (`auto` prefers "bridge" for adapters); empty if none does.

    True of the last release of TransformerLens that has both (3.9); from 4.0 on there is only the bridge.
    """
    found: list[BackendName] = []
    if pair.model_type in HOOKED_MODEL_TYPES:
        found.append("hooked")
    if pair.model_type in BRIDGE_MODEL_TYPES:
        found.append("bridge")
    return tuple(found)


def memory_gib(pair: KnownPair, dtype: str = "bfloat16", *, backend: BackendName = "bridge") -> float:
    """About how much memory it takes to load and measure the pair, in GiB.

    The weights of two models, or of one for an adapter pair on the bridge, plus `MEMORY_MARGIN`. Not counted: a
    HookedTransformer holds a tied unembedding twice, which matters for small models with a large vocabulary.

    Args:
        pair: an entry of the catalogue.
        dtype: of the weights: "bfloat16", "float16" or "float32".
        backend: with which an adapter pair is loaded; it makes no difference for two checkpoints.

    Raises:
        InputError: for another dtype.
    """
    if dtype not in BYTES_PER_PARAMETER:
        raise InputError(f"no size for dtype {dtype!r}", f"known are {sorted(BYTES_PER_PARAMETER)}", "name one of them")
    copies = 1 if pair.adapter is not None and backend == "bridge" else 2
    return copies * pair.parameters * BYTES_PER_PARAMETER[dtype] * (1 + MEMORY_MARGIN) / 2**30


_TYPES: Final[dict[str, type]] = {
    "name": str,
    "base": str,
    "tuned": str,
    "adapter": str,
    "parameters": int,
    "model_type": str,
    "licence": str,
    "gated": bool,
    "in_paper": bool,
    "note": str,
}
_OPTIONAL: Final = {"tuned", "adapter"}


def _known_pair(entry: Any, index: int) -> KnownPair:
    """The entry as a `KnownPair`; an InputError says what is wrong with it."""
    problem = _problem(entry)
    if problem is not None:
        raise InputError(f"entry {index} of the catalogue is malformed", problem, "compare it with its neighbours")
    record = cast("dict[str, Any]", entry)
    values: dict[str, Any] = {"tuned": None, "adapter": None, **record}
    return KnownPair(**values)


def _problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "it is not an object"
    record = cast("dict[str, Any]", entry)
    if unknown := sorted(set(record) - set(_TYPES)):
        return f"unknown fields {unknown}"
    if missing := sorted(set(_TYPES) - _OPTIONAL - set(record)):
        return f"missing fields {missing}"
    # type(), not isinstance: True is an int
    if wrong := sorted(key for key, value in record.items() if type(value) is not _TYPES[key]):
        return f"fields of the wrong type {wrong}"
    if ("tuned" in record) == ("adapter" in record):
        return "it needs either tuned or adapter"
    if empty := sorted(key for key, value in record.items() if value == "" and key != "note"):
        return f"empty fields {empty}"
    if record["parameters"] <= 0:
        return "parameters is not positive"
    return None
