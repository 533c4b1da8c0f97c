"""What all results of an attribution have in common: one file each, written and read without the models.

The arrays of a frozen dataclass become tensors of a `.safetensors` file, everything else JSON in its header.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import numpy as np

from tuco_lens.errors import InputError
from tuco_lens.plots.statistic import Statistic
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

_HEADER: Final = "attribution"
"""The entry of the file's header with all that is no array."""
ResultT = TypeVar("ResultT", bound="Attribution")


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Attribution(Statistic):
    """A result with arrays and plain values as its fields; subclasses are frozen dataclasses."""

    WITHIN: ClassVar[dict[str, type[Attribution]]] = {}
    """The fields that are results themselves, with their classes."""

    def summary(self) -> str:
        """The result in one paragraph."""
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """The result as a table, one value a row."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write everything to one `.safetensors` file (no pickle); `load` of the same class reads it back.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        from safetensors.numpy import save

        arrays, plain = self._packed()
        # One entry, since the order of several is chance: the same result is the same file.
        header = json.dumps({"format": self._format(), "fields": plain})
        return write_whole(Path(path), save(arrays, metadata={_HEADER: header}))

    def _packed(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays, and all other fields; those of a result within this one have its field's name before theirs."""
        arrays: dict[str, np.ndarray] = {}
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = np.ascontiguousarray(value)
            elif isinstance(value, Attribution):
                inner, plain[field.name] = value._packed()
                arrays |= {f"{field.name}.{name}": array for name, array in inner.items()}
            else:
                plain[field.name] = value
        return arrays, plain

    @classmethod
    def _unpacked(cls: type[ResultT], arrays: dict[str, np.ndarray], plain: dict[str, Any]) -> ResultT:
        fields: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
        for name, value in plain.items():
            kind = cls.WITHIN.get(name)
            if kind is None or value is None:
                fields[name] = _tuples(value)
            else:
                begin = f"{name}."
                inner = {key.removeprefix(begin): array for key, array in arrays.items() if key.startswith(begin)}
                fields[name] = kind._unpacked(inner, value)
        return cls(**fields)

    @classmethod
    def load(cls: type[ResultT], path: str | Path) -> ResultT:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, damaged, or holds another kind of result.
        """
        from safetensors import SafetensorError, safe_open

        remedy = f"give a file of {cls.__name__}.save"
        try:
            with safe_open(str(path), framework="numpy") as file:
                header: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
                if header.get("format") != cls._format():
                    raise InputError(f"{path} holds no {cls.__name__}", f"its format is not {cls._format()}", remedy)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return cls._unpacked(arrays, header["fields"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"cannot read {path}", str(error), remedy) from error

    @classmethod
    def _format(cls) -> str:
        return f"tuco_lens.attribution.{cls.__name__}.v1"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AtPosition(Attribution):
    """A result about one token of a prompt."""

    position: int
    """Position of the token that is asked about, from 0."""
    tokens: tuple[str, ...] = dataclasses.field(repr=False)
    """The prompt's tokens."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return tuple(map(_tuples, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
