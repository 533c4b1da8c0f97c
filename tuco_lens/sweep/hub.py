"""The paper's tasks from the Hugging Face hub, through the `datasets` library, which is imported when asked for.

Model-Written Evaluations are in `Anthropic/model-written-evals` (`persona/NAME.jsonl`), MMLU in `cais/mmlu`. Without
a network, give local files to `loading.load_tasks` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tuco_lens.errors import InputError
from tuco_lens.sweep import mmlu
from tuco_lens.sweep.loading import question_of
from tuco_lens.sweep.names import MMLU_GROUPS, MWE_GROUPS, group_of, names_of, select
from tuco_lens.sweep.questions import Task

MWE_ID: Final = "Anthropic/model-written-evals"
MMLU_ID: Final = "cais/mmlu"


def hub_tasks(names: Sequence[str], *, chat: bool = False, system: str | None = None) -> list[Task]:
    """Tasks of the paper from the hub, or from its cache on this machine.

    Args:
        names: tasks or groups of the paper, or "mwe" or "mmlu".
        chat: put texts into the chat template, as the user's message.
        system: system prompt of every chat.

    Raises:
        InputError: if a name is not known, `datasets` is not installed, or the hub cannot be reached.
    """
    if not names:
        raise InputError("no tasks", "neither data nor tasks are named", "give --data DIR, or --tasks mwe or mmlu")
    behaviours = names_of(MWE_GROUPS)
    chosen = select(names, [*behaviours, *names_of(MMLU_GROUPS)])
    tasks = (_behaviour(name) if name in behaviours else mmlu_from_hub(name) for name in chosen)
    return [replace(task, chat=chat, system=system) for task in tasks]


def _behaviour(name: str) -> Task:
    rows = behaviour_rows(name)
    questions = tuple(question_of(row, f"{MWE_ID}, {name}, row {number}") for number, row in enumerate(rows))
    return Task(name, group_of(name), questions)


def behaviour_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """The questions of any persona set of Model-Written Evaluations, as they are in its file; raises as `hub_rows`."""
    # The file by its address, for the library would look for a loading script in the repository first.
    file = f"hf://datasets/{MWE_ID}/persona/{name}.jsonl"
    return hub_rows(MWE_ID, "json", data_files=file, split="train")


def mmlu_from_hub(name: str) -> Task:
    """One task of MMLU; raises as `hub_rows`."""
    dev, test = (hub_rows(MMLU_ID, MMLU_ID, name, split=split) for split in mmlu.SPLITS)
    return mmlu.task_of_rows(name, _mmlu_rows(dev), _mmlu_rows(test))


def _mmlu_rows(rows: Iterable[Mapping[str, Any]]) -> list[mmlu.Row]:
    return [[row["question"], *row["choices"], mmlu.LETTERS[row["answer"]]] for row in rows]


def hub_rows(dataset: str, *args: str, **options: Any) -> Iterator[Mapping[str, Any]]:
    """Rows of a data set on the hub: `datasets.load_dataset(*args, **options)`.

    Args:
        dataset: its id, for error messages.
        args: what to load.
        options: how to load it, `split` among them, so that the result is one list of rows.

    Raises:
        InputError: if `datasets` is not installed, or the hub cannot be reached, now or while the rows are read.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        remedy = "pip install datasets, or give local files with --data (folder=…)"
        what = f"{dataset} cannot be read from the hub"
        raise InputError(what, "the library datasets is not installed", remedy) from None
    try:
        rows: Any = datasets.load_dataset(*args, **options)
    except Exception as error:  # whatever the network, the hub and its client can raise
        raise _unreachable(dataset, error) from error
    return _guarded(rows, dataset)


def _guarded(rows: Iterable[Mapping[str, Any]], dataset: str) -> Iterator[Mapping[str, Any]]:
    """The rows; those that are streamed are fetched, and may fail, only now."""
    try:
        yield from rows
    except Exception as error:
        raise _unreachable(dataset, error) from error


def _unreachable(dataset: str, error: Exception) -> InputError:
    why = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
    remedy = "check the network, or give local files with --data (folder=…)"
    return InputError(f"{dataset} cannot be read from the hub", why, remedy)
