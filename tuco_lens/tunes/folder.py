"""The folder of a comparison or a trajectory: a file of measurements per tune, and an index that names them.

    DIR/comparison.json (or trajectory.json)    what was measured, and which file holds what
    DIR/measurements/NAME-DIGEST.safetensors    one `Measurement` for each tune, as `Measurement.save` writes it
    DIR/rows.jsonl                              a row for each tune and prompt

Every file is whole whenever it exists (`results/files.py`), and the index is written last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuco_lens.errors import InputError
from tuco_lens.results.files import output_errors, whole_file, write_whole
from tuco_lens.results.rows import columns, writer_of
from tuco_lens.runs.steps import from_json, to_json

if TYPE_CHECKING:
    from tuco_lens.results.measurement import Measurement

FORMAT: Final = "tuco_lens.tunes.v1"
MEASUREMENTS: Final = "measurements"
_SLUG_CHARACTERS: Final = 60


def measurement_path(folder: Path, name: object) -> Path:
    """Where the measurement of a tune is: a readable name, and what tells it from others that read alike."""
    text = str(name)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:_SLUG_CHARACTERS].strip("._") or "tune"
    return folder / MEASUREMENTS / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.safetensors"


def save_measurement(folder: Path, name: object, measurement: Measurement) -> dict[str, str]:
    """Writes one tune's measurement, unless the file is there as it should be; returns what the index says of it."""
    path, content = measurement_path(folder, name), measurement.to_bytes()
    with output_errors(path):
        path.parent.mkdir(exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    if not path.exists() or _digest(path) != digest:
        write_whole(path, content)
    return {"file": path.name, "sha256": digest}


def load_measurement(folder: Path, entry: Mapping[str, str]) -> Measurement:
    """Reads the measurement that an entry of an index names.

    Raises:
        InputError: if the file is missing, or is not the one that was written.
    """
    from tuco_lens.results.measurement import Measurement

    name = str(entry["file"])
    path = folder / MEASUREMENTS / name
    if Path(name).name != name:
        raise InputError(f"cannot read {folder}", f"its index names {name!r}, which is no file of it", "make it anew")
    try:
        changed = _digest(path) != entry["sha256"]
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error), "make the folder anew") from error
    if changed:
        raise InputError(f"cannot read {path}", "it is not what was measured", "make the folder anew")
    return Measurement.load(path)


def write_index(path: Path, kind: str, content: Mapping[str, Any]) -> Path:
    """Writes the index of a folder: `content` are JSON values, with an entry for each tune in "tunes".

    Measurements that the index before it names, and this one does not, are removed: no index would name them again.
    """
    stored = to_json({"format": FORMAT, "kind": kind, **content})
    left = _files_named(path, kind) - {entry["file"] for entry in content["tunes"].values()}
    write_whole(path, json.dumps(stored, indent=1, allow_nan=False) + "\n")
    for name in left:
        with output_errors(path):
            (path.parent / MEASUREMENTS / name).unlink(missing_ok=True)
    return path


def _files_named(path: Path, kind: str) -> set[str]:
    """The measurement files that an index names; none if it is not there or is no index."""
    try:
        tunes = read_index(path, kind)[1]["tunes"]
        names = {str(entry["file"]) for entry in tunes.values()}
    except (InputError, LookupError, TypeError, AttributeError):  # whatever is replaced need not be whole
        return set()
    return {name for name in names if Path(name).name == name and name.endswith(".safetensors")}


def read_index(place: str | Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The folder and the content of its index; `place` is either.

    Raises:
        InputError: if there is none, or it is damaged or of another kind.
    """
    path = Path(place)
    path = path / f"{kind}.json" if path.is_dir() else path
    try:
        content: Any = from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}", str(error), f"give the folder of a {kind}") from error
    if not isinstance(content, dict) or (content.get("format"), content.get("kind")) != (FORMAT, kind):  # pyright: ignore[reportUnknownMemberType]
        raise InputError(f"{path} is no {kind}", f"its format is not {FORMAT}", f"give the folder of a {kind}")
    return path.parent, content  # pyright: ignore[reportUnknownVariableType]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, key: str, drift: bool) -> Path:
    """Writes the rows as .jsonl, .csv or .parquet, by the ending of `path`.

    Raises:
        OutputError: for another ending, or if it cannot be written.
    """
    write = writer_of(path)
    with whole_file(path) as file:
        write(rows, columns(drift=drift, key=key), file)
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
