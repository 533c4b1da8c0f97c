"""The rows of one chunk of prompts: what a run does again and again, in one process or on many workers.

A chunk is the unit that rows do not depend beyond: its prompts share beginnings and batches, and chunks begin at
multiples of their size. So whoever measures a chunk, and whenever, gets the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import FilePrompt

if TYPE_CHECKING:
    from tuco_lens.engine.memory import BatchTokens
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.results.measurement import MeasurementSettings, PromptMeasurement

OnError = Literal["row", "stop"]


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
    keep: Literal["maps", "last"] = "maps"
    """What is kept of a prompt; "last" is all that a row needs, but for β."""
    batch_size: int = 64
    """Prompts per batch, at most."""
    batch_tokens: BatchTokens = "auto"
    """Tokens per padded batch, at most, or "auto"."""
    share_prefixes: bool = True
    """Compute what prompts begin with once."""
    on_error: OnError = "row"
    """What becomes of a prompt that cannot be measured: a row that says why, or the end of the run."""

    @property
    def chunk_size(self) -> int:
        """Prompts that are measured together; a kill loses less than this many measurements of a process."""
        return max(64, 2 * self.batch_size)

    @property
    def prompt_options(self) -> dict[str, Any]:
        """Arguments that `ModelPair` takes for every prompt."""
        return {**self.reading, "truncate": self.truncate}

    @property
    def measure_options(self) -> dict[str, Any]:
        """Arguments of `ModelPair.measure_stream` for prompts that are read already."""
        sizes = {"batch_size": self.batch_size, "batch_tokens": self.batch_tokens}
        how = {"keep": self.keep, "share_prefixes": self.share_prefixes}
        return {"norm": self.norm, "drift": self.drift, **how, **sizes}

    def settings(self, pair: ModelPair) -> MeasurementSettings:
        """The pair and the options, as results record them."""
        template = {name: value for name, value in self.reading.items() if name != "system"}
        return pair.settings(norm=self.norm, drift=self.drift, **template)


@dataclass(frozen=True)
class MeasuredRow(Brief):
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
) -> Iterator[MeasuredRow]:
    """Measures a chunk.

    Args:
        pair: the models.
        prompts: one chunk.
        options: how to measure them.
        start: index of the first of them; without it rows are numbered from 0, and messages name no prompt.

    Raises:
        InputError: if one of them cannot be measured, and that is to end the run.
    """
    ready = [_read(pair, prompt, options, None if start is None else start + i) for i, prompt in enumerate(prompts)]
    items = _measured(pair, [made for made in ready if not isinstance(made, InputError)], options)
    for index, (prompt, made) in enumerate(zip(prompts, ready, strict=True), start or 0):
        item = made if isinstance(made, InputError) else next(items)
        if isinstance(item, InputError):
            yield MeasuredRow(_error_row(index, prompt, item, drift=options.drift), None)
        else:
            yield MeasuredRow(file_row(index, item), item)


def _read(pair: ModelPair, prompt: FilePrompt, options: RowOptions, index: int | None) -> Prompt | InputError:
    try:
        return pair.prompt(prompt, **options.prompt_options, drift=options.drift, index=index)
    except InputError as error:
        if options.on_error == "stop":
            raise
        return error


def _measured(
    pair: ModelPair, prompts: Sequence[Prompt], options: RowOptions
) -> Iterator[PromptMeasurement | InputError]:
    """Each prompt's measurement; one that fails alone, as for memory, takes no other along."""
    how = options.measure_options
    n_done = 0
    try:
        for item in pair.measure_stream(prompts, chunk_size=max(1, len(prompts)), **how):
            yield item
            n_done += 1
    except InputError:
        if options.on_error == "stop":
            raise
    else:
        return
    for prompt in prompts[n_done:]:
        yield _alone(pair, prompt, how)


def _alone(pair: ModelPair, prompt: Prompt, how: Mapping[str, Any]) -> PromptMeasurement | InputError:
    try:
        return next(iter(pair.measure_stream([prompt], **how)))
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
