"""What `load` returns: a record, and a data set of records that knows where it came from.

Texts are kept out of every `repr`, since some of them are harmful: they do not get into logs and tracebacks unasked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tuco_lens.brief import Brief

Messages = tuple[Mapping[str, str], ...]
"""Chat messages, `{"role", "content"}` each."""


@dataclass(frozen=True)
class Record:
    """One prompt, and what its data set says of it."""

    prompt: str | Messages = field(repr=False)
    """A text, or chat messages of which the last is the user's."""
    target: str | None = field(default=None, repr=False)
    """The answer in this data set: a model's or a person's response, or the beginning that an attack aims at."""
    label: str | None = None
    """"harmful", "harmless", "safe", "unsafe", "jailbroken", "not jailbroken", or None where nothing is said."""
    group: str | None = None
    """Category, language, behaviour or model, as the data set divides itself; None where it does not."""
    goal: str | None = field(default=None, repr=False)
    """The plain request, where `prompt` is an attack on it."""

    @property
    def dialogue(self) -> list[Mapping[str, str]]:
        """The prompt as messages, and behind it the target as the assistant's, if there is one."""
        asked = ({"role": "user", "content": self.prompt},) if isinstance(self.prompt, str) else self.prompt
        return [*asked] if self.target is None else [*asked, {"role": "assistant", "content": self.target}]


@dataclass(frozen=True)
class Dataset(Brief):
    """Records in the order of their data set, and their provenance."""

    name: str
    """A name of `SETS`."""
    records: tuple[Record, ...] = field(repr=False)
    """[n_records]."""
    parts: tuple[str, ...]
    """The parts of the data set that were read, in this order."""
    source: str
    """"advbench/harmful_behaviors.csv", "25 files of mwe/", or "hub Anthropic/hh-rlhf": the same on every machine."""
    checksum: str
    """SHA-256, in hexadecimal: of the files' bytes; of the records where they came from the hub."""
    licence: str
    """What its authors allow, in a word."""
    limit: int | None = None
    """Most records of each part; None for all."""
    seed: int | None = None
    """Seed of the draw; None for the first ones."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def prompts(self) -> list[str | list[Mapping[str, str]]]:
        """The prompts, as `ModelPair.measure` takes them."""
        return [r.prompt if isinstance(r.prompt, str) else list(r.prompt) for r in self.records]

    @property
    def digest(self) -> str:
        """SHA-256 of the records, in hexadecimal: the same for the same records, wherever they came from."""
        return digest_of(self.records)

    def only(self, *, label: str | None = None, group: str | None = None) -> Dataset:
        """The records of one label, or one group, or both; possibly none."""
        kept = (r for r in self.records if label in (None, r.label) and group in (None, r.group))
        return replace(self, records=tuple(kept))

    def provenance(self) -> dict[str, Any]:
        """What a result says of its data, ready for JSON: all but the records, and their number and digest."""
        names = ("name", "parts", "source", "checksum", "licence", "limit", "seed")
        return {**{name: getattr(self, name) for name in names}, "n": len(self), "digest": self.digest}


def digest_of(records: tuple[Record, ...]) -> str:
    """SHA-256 of records in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(asdict(record), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
