"""What all results of an attribution have in common: one file each, written and read without the models.

The arrays of a frozen dataclass become tensors of a `.safetensors` file, everything else JSON in its header.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tuco_lens.errors import InputError
from tuco_lens.plots.statistic import Statistic
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

ResultT = TypeVar("ResultT", bound="Attribution")


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Attribution(Statistic):
    """A result with arrays and plain values as its fields; subclasses are frozen dataclasses."""

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

        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: np.ascontiguousarray(value) for name, value in fields.items() if isinstance(value, np.ndarray)}
        plain = {name: value for name, value in fields.items() if name not in arrays}
        return write_whole(Path(path), save(arrays, metadata={"format": self._format(), "fields": json.dumps(plain)}))

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
                header: dict[str, str] = file.metadata() or {}
                if header.get("format") != cls._format():
                    raise InputError(f"{path} holds no {cls.__name__}", f"its format is not {cls._format()}", remedy)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return cls(**arrays, **{name: _tuples(value) for name, value in json.loads(header["fields"]).items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"cannot read {path}", str(error), remedy) from error

    @classmethod
    def _format(cls) -> str:
        return f"tuco_lens.attribution.{cls.__name__}.v1"


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
