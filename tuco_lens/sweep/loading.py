"""Tasks from local files: Model-Written Evaluations, MMLU, and any .jsonl of the user's own.

`load_tasks` tells them apart by what they hold. A file `NAME.jsonl` or `NAME.jsonl.gz` is the task NAME, a question a
line: either as in Model-Written Evaluations (`question`, `answer_matching_behavior`, `answer_not_matching_behavior`),
or `prompt` (or `messages`), `answers` and `target`. MMLU's folder or archive is read in `mmlu.py`; reading lines and
wording their errors is in `prompts/files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from tuco_lens.errors import InputError
from tuco_lens.prompts.files import json_object, prompt_of_record, string_field, text_lines
from tuco_lens.sweep import mmlu
from tuco_lens.sweep.names import group_of, select
from tuco_lens.sweep.questions import Question, Task

ENDINGS: Final = (".jsonl", ".jsonl.gz")
EXAMPLE: Final = '{"prompt": "…", "answers": ["Yes", "No"], "target": "Yes"}'

Loader = Callable[[], Task]


def load_tasks(
    paths: str | Path | Sequence[str | Path],
    names: Sequence[str] = (),
    *,
    chat: bool = False,
    system: str | None = None,
) -> list[Task]:
    """Read tasks from files and folders.

    Args:
        paths: a folder of `.jsonl[.gz]` files, MMLU's folder or tar archive, a single `.jsonl[.gz]`, or several.
        names: which tasks to read, by name or group, or "mwe" or "mmlu" for the paper's; all by default.
        chat: put texts into the chat template, as the user's message.
        system: system prompt of every chat.

    Raises:
        InputError: if a path holds no tasks, a name is not among them, two tasks have one name, or a line is broken,
            naming file and line.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    loaders: dict[str, Loader] = {}
    for path in map(Path, listed):
        for name, loader in _loaders(path).items():
            if name in loaders:
                raise InputError(f"task {name}", f"{path} has one, and so has another path", "leave one of them out")
            loaders[name] = loader
    return [replace(loaders[name](), chat=chat, system=system) for name in select(names, list(loaders))]


def _loaders(path: Path) -> dict[str, Loader]:
    """The tasks of a path by name, not read yet."""
    if not path.exists():
        raise InputError(f"{path}", "there is no such file or folder", "give a folder or file of tasks")
    if path.is_file() and not path.name.lower().endswith((*ENDINGS, *mmlu.ARCHIVE_ENDINGS)):
        known = ", ".join((*ENDINGS, *mmlu.ARCHIVE_ENDINGS))
        raise InputError(f"{path}", f"its ending is {path.suffix or 'missing'!r}", f"give a file that ends in {known}")
    source = mmlu.find(path)
    if source is not None:
        return {name: partial(mmlu.read_task, source, name) for name in source.names()}
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.name.lower().endswith(ENDINGS))
    if not files:
        why = "it holds neither .jsonl files nor MMLU's dev and test"
        raise InputError(f"{path}", why, "give a folder of tasks")
    return {_task_name(file): partial(read_task, file) for file in files}


def _task_name(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl")


def read_task(file: Path) -> Task:
    """The task of one `.jsonl[.gz]` file.

    Raises:
        InputError: if the file is empty, or a line is broken, naming file and line.
    """
    questions = tuple(
        question_of(json_object(line, where, EXAMPLE), where)
        for where, line in ((f"{file}, line {number}", line) for number, line in enumerate(text_lines(file), 1))
    )
    if not questions:
        raise InputError(f"{file}", "it is empty", "give a file with at least one question")
    name = _task_name(file)
    return Task(name, group_of(name), questions)


def question_of(record: Mapping[str, Any], where: str) -> Question:
    """The question of a record of either form; errors call it `where`.

    Raises:
        InputError: if a field is missing or of the wrong type, or as `Question`.
    """
    fields = _mwe_fields if "answer_matching_behavior" in record else _own_fields
    prompt, answers, target = fields(record, where)
    try:
        return Question(prompt, answers, target)
    except InputError as error:  # it does not know where the question came from
        raise InputError(error.what.replace("the question", where, 1), error.why, error.remedy) from None


def _mwe_fields(record: Mapping[str, Any], where: str) -> tuple[str, tuple[str, ...], int]:
    names = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    prompt, matching, other = (string_field(record, name, where) for name in names)
    answers = sorted((matching, other), reverse=True)  # Yes before No, whichever matches
    return prompt, tuple(answers), answers.index(matching)


def _own_fields(record: Mapping[str, Any], where: str) -> tuple[Any, tuple[str, ...], int]:
    for name in ("answers", "target"):
        if name not in record:
            raise InputError(where, f"it lacks the field {name}", f"write {EXAMPLE}")
    answers: object = record["answers"]
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in cast("list[Any]", answers)):
        raise InputError(where, "its answers are not a list of strings", f"write {EXAMPLE}")
    texts = cast("list[str]", answers)
    return prompt_of_record(record, where), tuple(texts), _target(record["target"], texts, where)


def _target(target: object, answers: list[str], where: str) -> int:
    """The index of the right answer, which is given as such or as the answer's text."""
    if isinstance(target, int) and not isinstance(target, bool):
        return target
    bare = [answer.strip() for answer in answers]
    if not isinstance(target, str) or target.strip() not in bare:
        raise InputError(where, f"its target {target!r} is none of its answers", "give an answer, or its index from 0")
    return bare.index(target.strip())
