"""A process killed before any of its file operations: the next run ends as if nothing had been, and leaves nothing.

Each command runs in a forked child that ends itself, as SIGKILL would, before the n-th operation on a file of its
folder, for every n that there is. Then the command runs again as a user would, and the folder is that of a run that was
never killed, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.known_pairs import write_data
from tuco_lens.cli.app import run

pytestmark = [
    pytest.mark.usefixtures("known_pair_as_demo"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here"),
]

KILLED, FINISHED = 9, 100
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
MOST = 400
"""More operations than any command has."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_data(folder / "data")
    (folder / "prompts.txt").write_text("".join(f"boat {i} on the river\n" for i in range(5)))
    task = '{"question": "Is it wide?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}\n'
    (folder / "tasks").mkdir()
    (folder / "tasks" / "wide.jsonl").write_text(task * 6)
    return folder


class Command:
    """One command of the program, and how a user goes on after a kill."""

    def __init__(self, line: str, again: str = "--resume") -> None:
        self.line, self.again = line, again

    def run(self, inputs: Path, out: Path, *, again: bool = False) -> int:
        words = self.line.format(i=inputs, o=out).split()
        return run([*words, *(self.again.split() if again else [])])


MEASURE = "measure --pair demo --prompts {i}/prompts.txt --batch-size 2 --no-progress"
COMMANDS: dict[str, Command] = {
    "measure, jsonl": Command(MEASURE + " --out {o}/out.jsonl"),
    "measure, csv": Command(MEASURE + " --out {o}/out.csv"),
    "measure, parquet": Command(MEASURE + " --out {o}/out.parquet"),
    "measure, with a report": Command(MEASURE + " --out {o}/out.jsonl --html {o}/report.html"),
    "generate": Command("generate --pair demo --prompt boat --max-new-tokens 2 --out {o}/out.jsonl", "--overwrite"),
    "explain": Command(
        "explain --pair demo --prompt boat --patch none --no-progress --html {o}/p.html --out {o}/r.safetensors",
        "--overwrite",
    ),
    "sweep": Command("sweep --pair demo --data {i}/tasks --alphas 0.5,1 --folds 2 --no-progress --out {o}/out"),
    "experiment": Command(
        "experiment web_vs_chat --pair demo --data {i}/data --limit 3 --nulls 1 --no-progress --out {o}/out"
    ),
    "demo": Command("demo --out {o}/out", ""),
}


def outcome(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def in_child(call: Callable[[], int], folder: Path, kill_before: int) -> tuple[int, int]:
    """Run in a fork that ends before its n-th file operation in the folder; its exit status, or that of the call."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.addaudithook(_Killer(str(folder), kill_before))
            status = call()
        except BaseException:
            status = 77
        os._exit(FINISHED + status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pid


class _Killer:
    """Counts operations that change files of a folder, and ends the process before the n-th."""

    def __init__(self, folder: str, kill_before: int) -> None:
        self.folder, self.left = folder, kill_before

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        changes = event in OPERATIONS or (event == "open" and isinstance(args[2], int) and bool(args[2] & WRITING))
        if changes and any(str(arg).startswith(self.folder) for arg in args[:2] if isinstance(arg, str | os.PathLike)):
            self.left -= 1
            if self.left < 0:
                os._exit(KILLED)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "experiment" else []) for name in COMMANDS]
)
def test_a_command_killed_before_any_file_operation_ends_as_if_it_had_not_been(
    inputs: Path, tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    command = COMMANDS[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert command.run(inputs, whole) == 0
    expected = outcome(whole)
    n_killed = 0
    for number in range(MOST):
        folder = tmp_path / "whole"  # the same path, since outputs may name it
        shutil.rmtree(folder)
        folder.mkdir()
        status, _ = in_child(lambda: command.run(inputs, whole), folder, number)
        if status == FINISHED:
            break
        assert status == KILLED
        n_killed += 1
        left = outcome(folder)
        if left == expected and "--overwrite" not in command.again:
            continue  # it was done already
        status = command.run(inputs, folder, again=True)
        if status == 2:  # the rows are whole already, and the one line says how to go on
            status = run([*command.line.format(i=inputs, o=folder).split(), "--overwrite"])
        assert status == 0, f"after a kill before operation {number}"
        assert outcome(folder) == expected, f"after a kill before operation {number}"
    assert 3 <= n_killed < MOST
    record_property("operations", n_killed)  # the page "What it survives" has these
