"""Chunks of prompts measured on many workers: Ray Data streams them through a pool of processes, each with a pair.

A reader sends work units of whole chunks, so that every batch is one that a single process would make. What comes back
is in input order and holds rows, as text. A worker that dies is replaced by Ray, and its unit done again; so is the
reader. Ray is imported when a run has workers, and not before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tuco_lens import errors
from tuco_lens.errors import InputError, TucoLensError
from tuco_lens.prompts.files import FilePrompt, PromptSource
from tuco_lens.runs.chunks import MeasuredRow, RowOptions, chunk_rows, chunks
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.ray_cluster import Share, failures_in_one_line, in_pool, running, share_of, use_share

if TYPE_CHECKING:
    from tuco_lens.results.measurement import MeasurementSettings

MOST_UNITS: Final = 4096
"""Work units of a run, at most: Ray's bookkeeping costs memory and milliseconds for each."""


@dataclass(frozen=True)
class Workers:
    """How many processes measure, and where."""

    n_workers: int
    """Processes, each with a pair of its own."""
    address: str | None = None
    """Of a Ray cluster; None is this machine."""
    gpus: float | None = None
    """Accelerators of each; by default one where the cluster has any, unless the pair is for the CPU."""
    cpus: int | None = None
    """CPU cores of each, so also its threads; by default an equal share."""


def worker_parts(
    workers: Workers, pair: PairChoice, prompts: PromptSource, options: RowOptions, first: int, n_prompts: int
) -> Iterator[tuple[MeasurementSettings, list[MeasuredRow]]]:
    """The rows from the chunk on that prompt `first` is in, unit by unit in input order, behind the run's settings.

    Args:
        workers: how many, and where.
        pair: what each of them loads.
        prompts: all prompts of the run. Files on this machine are read here, addresses anywhere in the cluster.
        options: how to measure them.
        first: index of the first prompt wanted.
        n_prompts: how many there are in all.

    Raises:
        LoadError: if Ray is not installed, or the pair cannot be loaded.
        InputError: if there is no such cluster, or it does not hold the workers; if a prompt cannot be measured and
            that is to end the run; if workers keep dying at one unit.
    """
    from tuco_lens.results.measurement import MeasurementSettings

    local = workers.address is None
    with running(workers.address, workers.n_workers, cpus=workers.cpus), failures_in_one_line():
        share = share_of(workers.n_workers, pair, gpus=workers.gpus, cpus=workers.cpus)
        units = _Units(prompts, options.chunk_size, first, n_prompts)
        chosen = pair if local else _absolute(pair)
        for unit in _streamed(units, share, {"pair": chosen, "options": options, "threads": share.threads}):
            if unit["failure"] is not None:
                raise _error_from_json(unit["failure"])
            settings = MeasurementSettings(**json.loads(unit["settings"]))
            yield settings, [MeasuredRow(row, None) for row in json.loads(unit["rows"])]


class UnitMeasurer:
    """A worker: loads the pair once, and measures unit after unit. What fails is an answer, and not a dead worker."""

    def __init__(self, pair: PairChoice, options: RowOptions, threads: int) -> None:
        use_share(threads)
        self.options = options
        self.failure: TucoLensError | None = None
        try:
            self.pair = pair.load()
        except TucoLensError as error:
            self.failure = error

    def __call__(self, table: Any) -> Any:
        """The rows of one unit; `table` is an arrow table of one row, as `_Units` makes it."""
        import pyarrow as pa

        unit = table.to_pylist()[0]
        answer = {"rows": "", "settings": "", "failure": None if self.failure is None else _error_to_json(self.failure)}
        if self.failure is None:
            try:
                answer["rows"] = json.dumps(self._rows(unit["start"], json.loads(unit["prompts"])))
                answer["settings"] = json.dumps(asdict(self.options.settings(self.pair)))
            except TucoLensError as error:
                answer["failure"] = _error_to_json(error)
        return pa.Table.from_pylist([answer], schema=pa.schema([(name, pa.large_string()) for name in answer]))

    def _rows(self, start: int, prompts: Sequence[FilePrompt]) -> list[dict[str, Any]]:
        size = self.options.chunk_size
        return [
            each.row
            for place in range(0, len(prompts), size)
            for each in chunk_rows(self.pair, prompts[place : place + size], self.options, start=start + place)
        ]


@dataclass(frozen=True)
class _Units:
    """The work of a run: a row for each unit, with the index of its first prompt and the prompts as JSON."""

    prompts: PromptSource
    size: int
    first: int
    n_prompts: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        n_chunks = -(-(self.n_prompts - self.first) // self.size)
        parts = chunks(self.prompts, self.size, self.first)
        while unit := list(islice(parts, -(-n_chunks // MOST_UNITS))):
            yield {"start": unit[0][0], "prompts": json.dumps([prompt for _, chunk in unit for prompt in chunk])}

    @property
    def are_here(self) -> bool:
        """Whether only this machine can read them for certain."""
        return any(isinstance(place, Path) for place in self.prompts.files)


def _streamed(units: _Units, share: Share, worker: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The workers' answers, in the order of the units."""
    from ray.data import DataContext, read_datasource

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # A block is a row, so that a unit is sent, and its answer back, as soon as it is there.
    context.target_max_block_size = context.target_min_block_size = 1
    with DataContext.current(context):
        # The reader asks for no CPU: workers that hold every CPU of the cluster would keep it waiting for ever.
        read = read_datasource(_source(units), override_num_blocks=1, num_cpus=0)
        answers = in_pool(read, UnitMeasurer, worker, share, batch_size=1)
        for batch in answers.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()


def _source(units: _Units) -> Any:
    """The units as a source of Ray Data: one task that yields them, and waits while enough of them do."""
    import pyarrow as pa
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[Any]:
        schema = pa.schema([("start", pa.int64()), ("prompts", pa.large_string())])
        for unit in units:
            yield pa.Table.from_pylist([unit], schema=schema)

    class Units(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        @property
        def supports_distributed_reads(self) -> bool:
            return not units.are_here

        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, nothing_known)]

    return Units()


def _absolute(pair: PairChoice) -> PairChoice:
    """The pair with its local paths in full: workers elsewhere run in other folders."""

    def full(name: str | None) -> str | None:
        return str(Path(name).resolve()) if name is not None and Path(name).exists() else name

    if pair.is_demo:
        return pair
    return replace(pair, base=full(pair.base) or pair.base, tuned=full(pair.tuned), adapter=full(pair.adapter))


def _error_to_json(error: TucoLensError) -> str:
    return json.dumps([type(error).__name__, error.what, error.why, error.remedy])


def _error_from_json(text: str) -> TucoLensError:
    kind, *parts = json.loads(text)
    return getattr(errors, kind, InputError)(*parts)
