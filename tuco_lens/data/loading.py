"""`load`: a data set by its name, from a local folder or from the hub.

The local folder is laid out as `sets.py` says, and named by the argument or by `TUCO_LENS_DATA`.
"""

from __future__ import annotations

import difflib
import os
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from tuco_lens.data.files import Rows, checksum
from tuco_lens.data.records import Dataset, Record, digest_of
from tuco_lens.data.sets import SETS, DataSpec
from tuco_lens.errors import InputError

VARIABLE: Final = "TUCO_LENS_DATA"


def load(
    name: str,
    *,
    parts: Sequence[str] = (),
    folder: str | Path | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """Read a data set of the paper's experiments.

    Looked for in `folder`; without one in the folder that `TUCO_LENS_DATA` names; and what is not there, on the
    Hugging Face hub (`pip install 'tuco-lens[data]'`). What is not in a `folder` given is an error: `Dataset.source`
    always says where the records came from.

    Args:
        name: a name of `tuco_lens.data.SETS`.
        parts: parts of it, such as languages, behaviours, or models; by default those that the set names, mostly all.
        folder: the local folder of all data sets.
        limit: most records of each part. Reading stops there, unless they are drawn at random.
        seed: draw them at random, in the order of the set, instead of taking the first. The draw depends on the seed
            and the name alone: parts that are parallel line by line, as translations are, stay so.

    Raises:
        InputError: for an unknown name or part, a limit below 1, a data set that is neither in a folder nor on the hub,
            or a broken row, naming file and line.
    """
    if name not in SETS:
        raise _unknown(f"data set {name!r}", name, list(SETS))
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", "a data set needs records", "give a number above 0")
    spec = SETS[name]
    chosen = _parts(spec, name, parts)
    root = _root(spec, name, folder)
    records: list[Record] = []
    for part in chosen:
        rows = _hub_rows(spec, part) if root is None else spec.rows(root / spec.parts[part], part)
        parsed = (spec.parse(row, part, where) for where, row in islice(rows, spec.n_first))
        records += _taken(parsed, limit, seed, f"{seed} {name}")
    files = list(dict.fromkeys(spec.parts[part] for part in chosen))
    if root is None:
        assert spec.hub is not None
        source, digest = f"hub {spec.hub.dataset}", digest_of(tuple(records))
    else:
        source = f"{spec.folder}/{files[0]}" if len(files) == 1 else f"{len(files)} files of {spec.folder}/"
        digest = checksum([root / file for file in files])
    return Dataset(name, tuple(records), tuple(chosen), source, digest, spec.licence, limit, seed)


def _unknown(what: str, word: str, known: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(word, known, n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return InputError(f"no {what}", f"none of the {len(known)} has that name", remedy)


def _parts(spec: DataSpec, name: str, asked: Sequence[str]) -> list[str]:
    listed = [asked] if isinstance(asked, str) else list(asked)
    for part in listed:
        if part not in spec.parts:
            raise _unknown(f"part {part!r} of {name}", part, list(spec.parts))
    return list(dict.fromkeys(listed)) or list(spec.default or spec.parts)


def _root(spec: DataSpec, name: str, folder: str | Path | None) -> Path | None:
    """The folder of the data set; None for the hub."""
    named = folder or os.environ.get(VARIABLE)
    root = None if named is None else Path(named) / spec.folder
    if root is not None and root.is_dir():
        return root
    if root is not None and folder is not None:
        raise InputError(f"data set {name}", f"there is no folder {root}", f"put the files of {spec.origin} there")
    if spec.hub is None:
        why = f"{root} is not there" if root is not None else f"neither folder nor {VARIABLE} names a local folder"
        remedy = f"put the files of {spec.origin} into DIR/{spec.folder} and give folder=DIR (--data DIR)"
        raise InputError(f"data set {name}", f"{why}, and the hub is not known to have it", remedy)
    return None


def _hub_rows(spec: DataSpec, part: str) -> Rows:
    assert spec.hub is not None
    return ((f"{spec.hub.dataset}, {part}, row {n}", row) for n, row in enumerate(spec.hub.read(part)))


def _taken(records: Iterator[Record], limit: int | None, seed: int | None, key: str) -> list[Record]:
    if limit is None or seed is None:
        return list(islice(records, limit))
    every = list(records)
    if limit >= len(every):
        return every
    return [every[i] for i in sorted(random.Random(key).sample(range(len(every)), limit))]
