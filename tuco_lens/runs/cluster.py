"""Measuring a Ray data set from Python: `tuco_lens.cluster.measure`. For prompt files there is `tuco-lens measure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import Unpack

from tuco_lens.errors import InputError
from tuco_lens.prompts.chats import TemplateOptions, given_options
from tuco_lens.results.rows import COLUMNS, columns
from tuco_lens.runs.chunks import OnError, RowOptions, chunk_rows
from tuco_lens.runs.pair_choice import PairChoice
from tuco_lens.runs.ray_cluster import import_ray, in_pool, share_of, use_share

if TYPE_CHECKING:
    from ray.data import Dataset

    from tuco_lens.engine.memory import BatchTokens

__all__ = ["measure"]


def measure(
    dataset: Dataset,
    pair: Mapping[str, Any],
    *,
    workers: int,
    column: str = "prompt",
    chat: bool = False,
    system: str | None = None,
    norm: Literal["l1", "l2"] = "l1",
    drift: bool = False,
    truncate: Literal["left", "right"] | None = None,
    keep: Literal["maps", "last"] = "maps",
    batch_size: int = 64,
    batch_tokens: BatchTokens = "auto",
    share_prefixes: bool = True,
    on_error: OnError = "row",
    gpus_per_worker: float | None = None,
    cpus_per_worker: float | None = None,
    **template: Unpack[TemplateOptions],
) -> Dataset:
    """Measure TuCo of every row of a Ray data set, on a pool of workers with a pair each.

    Ray runs where the data set does: on this machine, or on the cluster that `ray.init` has joined. As always with Ray
    Data, nothing is measured until the result is read or written.

    Args:
        dataset: a row per prompt.
        pair: arguments of `ModelPair.from_pretrained` as names, folders and strings, `base` and either `tuned` or
            `adapter` among them; `{"base": "demo"}` is the embedded pair. Each worker loads it on its own node.
        workers: how many there are. One that dies is replaced, and its rows are measured again.
        column: of the prompts; see `ModelPair.prompt` for what one may be.
        chat: put plain text through the chat template, as one user message.
        system: a system message in front, for chats.
        norm: "l1" (the paper's) or "l2".
        drift: also measure OutputCo (a third pass).
        truncate: "left" or "right" cuts prompts longer than the context.
        keep: "last" computes what a row needs and no more: there is no β then.
        batch_size: prompts per batch at most. `max(64, 2 × batch_size)` share beginnings and batches.
        batch_tokens: tokens per padded batch at most, or "auto"; see `ModelPair.measure`.
        share_prefixes: compute what prompts begin with once.
        on_error: "row": a prompt that cannot be measured has no values, and `error` says why. "stop": it ends the run.
        gpus_per_worker: accelerators of each worker; by default one if the cluster has any.
        cpus_per_worker: CPUs of each worker, and so torch's threads; by default what the cluster has for each when one
            is left free. Workers that hold every CPU keep the tasks that read waiting for ever.
        **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

    Returns:
        The data set with n_tokens, tuco, preco, beta, truncated (, output_co) and error added, as in result files.
        Rows are in the order that Ray keeps; `DataContext.execution_options.preserve_order` makes it that of the input.

    Raises:
        LoadError: if Ray is not installed.
        InputError: for options that no pair has, and if the cluster does not hold the workers.
    """
    import_ray()
    choice = _choice(pair)
    reading = {"chat": chat, "system": system, **given_options(template)}
    options = RowOptions(reading, truncate, norm, drift, keep, batch_size, batch_tokens, share_prefixes, on_error)
    share = share_of(workers, choice, gpus=gpus_per_worker, cpus=cpus_per_worker, n_free=1)
    worker = {"pair": choice, "options": options, "column": column, "threads": share.threads}
    return in_pool(dataset, TableMeasurer, worker, share, batch_size=options.chunk_size)


def _choice(pair: Mapping[str, Any]) -> PairChoice:
    known = {field.name for field in fields(PairChoice)}
    unknown = sorted(set(pair) - known)
    if unknown or "base" not in pair:
        why = f"there is no option {unknown[0]}" if unknown else "base is missing"
        raise InputError("the pair", why, f"give base and tuned or adapter, and of the rest {', '.join(sorted(known))}")
    given: dict[str, Any] = {"tuned": None, "adapter": None}
    given |= {name: str(value) if isinstance(value, Path) else value for name, value in pair.items()}
    return PairChoice(**given)


class TableMeasurer:
    """A worker: loads the pair once, and adds columns to table after table."""

    def __init__(self, pair: PairChoice, options: RowOptions, column: str, threads: int) -> None:
        use_share(threads)
        self.pair, self.options, self.column = pair.load(), options, column

    def __call__(self, table: Any) -> Any:
        """The arrow table with the columns of a measurement."""
        import pyarrow as pa

        added = [name for name in columns(drift=self.options.drift, errors=True) if name not in ("index", "prompt")]
        self._check(table.column_names, added)
        rows = [each.row for each in chunk_rows(self.pair, table[self.column].to_pylist(), self.options, start=None)]
        for name in added:
            cells = pa.array([row.get(name) for row in rows], pa.type_for_alias(COLUMNS[name]))
            table = table.append_column(name, cells)
        return table

    def _check(self, names: list[str], added: list[str]) -> None:
        if self.column not in names:
            raise InputError(f"column={self.column!r}", f"the columns are {', '.join(names)}", "name one of them")
        doubled = next((name for name in added if name in names), None)
        if doubled is not None:
            raise InputError("the data set", f"it has a column {doubled} already", "rename or drop that column first")
