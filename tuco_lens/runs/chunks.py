"""The rows of one chunk of prompts: what a run does again and again, in one process or on many workers.

A chunk is the unit that rows do not depend beyond: its prompts share beginnings and batches, and chunks begin at
multiples of their size. So whoever measures a chunk, and whenever, gets the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tuco_lens.errors import InputError
from tuco_lens.prompts.files import FilePrompt

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.results.measurement import MeasurementSettings, PromptMeasurement

OnError = Literal["row", "stop"]
MadeT = TypeVar("MadeT")


@dataclass(frozen=True)
class RowOptions:
    """What decides the rows, beside the pair and the prompts."""

    reading: Mapping[str, Any]
    """How prompts are read: `chat`, `system`, and what else was given of the arguments of `ModelPair.prompt`."""
    truncate: Literal["left", "right"] | None = None
    """Which end to cut, if any."""
    norm: Literal["l1", "l2"] = "l1"
    """Norm of the contributions."""
    drift: bool = False
    """Whether OutputCo is measured."""
    batch_size: int = 8
    """Prompts per batch, at most."""
    on_error: OnError = "row"
    """What becomes of a prompt that cannot be measured: a row that says why, or the end of the run."""

    @property
    def chunk_size(self) -> int:
        """Prompts that are measured together; a kill loses less than this many measurements of a process."""
        return max(32, 4 * self.batch_size)

    @property
    def prompt_options(self) -> dict[str, Any]:
        """Arguments that `ModelPair` takes for every prompt."""
        return {**self.reading, "truncate": self.truncate}

    def settings(self, pair: ModelPair) -> MeasurementSettings:
        """The pair and the options, as results record them."""
        template = {name: value for name, value in self.reading.items() if name != "system"}
        return pair.settings(norm=self.norm, drift=self.drift, **template)


@dataclass(frozen=True)
class MeasuredRow:
    """One prompt's row, and what it was made from."""

    row: dict[str, Any]
    """As in a result file; of a prompt that cannot be measured, with `error` and without values."""
    item: PromptMeasurement | None
    """None if it cannot be measured."""


def chunks(prompts: Iterable[FilePrompt], size: int, first: int) -> Iterator[tuple[int, list[FilePrompt]]]:
    """The chunks from the one that prompt `first` is in, each behind the index of its first prompt."""
    start = first - first % size
    rest = islice(prompts, start, None)
    while chunk := list(islice(rest, size)):
        yield start, chunk
        start += len(chunk)


def chunk_rows(
    pair: ModelPair, prompts: Sequence[FilePrompt], options: RowOptions, *, start: int | None
) -> list[MeasuredRow]:
    """Measures a chunk.

    Args:
        pair: the models.
        prompts: one chunk.
        options: how to measure them.
        start: index of the first of them; without it rows are numbered from 0, and messages name no prompt.

    Raises:
        InputError: if one of them cannot be measured, and that is to end the run.
    """
    ready: dict[int, Prompt] = {}
    errors: dict[int, InputError] = {}
    for place, prompt in enumerate(prompts):
        index = None if start is None else start + place
        how: dict[str, Any] = {**options.prompt_options, "drift": options.drift, "index": index}
        made = _or_error(lambda prompt=prompt, how=how: pair.prompt(prompt, **how))
        if not isinstance(made, InputError):
            ready[place] = made
        elif options.on_error == "stop":
            raise made
        else:
            errors[place] = made
    items = _measured(pair, ready, options, errors)
    first = start or 0
    return [
        MeasuredRow(file_row(first + place, items[place]), items[place])
        if place in items
        else MeasuredRow(_error_row(first + place, prompt, errors[place], drift=options.drift), None)
        for place, prompt in enumerate(prompts)
    ]


def _measured(
    pair: ModelPair, ready: Mapping[int, Prompt], options: RowOptions, errors: dict[int, InputError]
) -> dict[int, PromptMeasurement]:
    """Measurements by place; a prompt that fails alone, as for memory, goes to the errors and takes no other along."""

    def together(places: Sequence[int]) -> dict[int, PromptMeasurement]:
        how: dict[str, Any] = {"norm": options.norm, "drift": options.drift, "batch_size": options.batch_size}
        stream = pair.measure_stream([ready[i] for i in places], chunk_size=max(1, len(places)), **how)
        return dict(zip(places, stream, strict=True))

    try:
        return together(list(ready))
    except InputError:
        if options.on_error == "stop":
            raise
    alone = {place: _or_error(lambda place=place: together([place])[place]) for place in ready}
    errors |= {place: found for place, found in alone.items() if isinstance(found, InputError)}
    return {place: found for place, found in alone.items() if not isinstance(found, InputError)}


def _or_error(make: Callable[[], MadeT]) -> MadeT | InputError:
    try:
        return make()
    except InputError as error:
        return error


def file_row(index: int, item: PromptMeasurement) -> dict[str, Any]:
    """The row of one prompt in a result file: that of tables, and whether the prompt was cut."""
    from tuco_lens.results.measurement import result_row

    return {**result_row(index, item), "truncated": item.prompt.n_dropped > 0}


def _error_row(index: int, prompt: FilePrompt, error: InputError, *, drift: bool) -> dict[str, Any]:
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate may be what is wrong with it
    names = ("n_tokens", "tuco", "preco", "beta", "truncated", *(("output_co",) if drift else ()))
    return {"index": index, "prompt": text, **dict.fromkeys(names), "error": str(error)}
