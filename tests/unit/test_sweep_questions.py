"""Questions and tasks of the α sweep: what is read from files and the hub, and how broken data is refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import sys
import tarfile
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.errors import InputError
from tuco_lens.sweep import Question, Task, hub_tasks, load_tasks
from tuco_lens.sweep.names import MMLU_GROUPS, MWE_GROUPS, group_of, names_of, select
from tuco_lens.sweep.questions import check_tasks

YES_NO = {"answer_matching_behavior": " No", "answer_not_matching_behavior": " Yes"}
DEV = [[f"Worked {i}", "p", "q", "r", "s", "ABCD"[i % 4]] for i in range(5)]
TEST = [["Which?", "one", "two, or so", 'the "third"', "four\nlines", "C"], ["  And this? ", "1", "2", "3", "4", "A"]]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return path


def csv_bytes(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def write_mmlu(folder: Path, name: str = "high_school_physics", test: bytes | None = None) -> Path:
    for split, content in (("dev", csv_bytes(DEV)), ("test", csv_bytes(TEST) if test is None else test)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{name}_{split}.csv").write_bytes(content)
    return folder


def own(prompt: Any = "Is it?", answers: Any = ("Yes", "No"), target: Any = 0) -> dict[str, Any]:
    return {"prompt": prompt, "answers": list(answers) if isinstance(answers, tuple) else answers, "target": target}


def test_the_paper_has_23_behaviours_in_5_groups_and_57_mmlu_tasks_in_4() -> None:
    assert [len(names) for names in MWE_GROUPS.values()] == [4, 5, 6, 5, 3]
    assert [len(names) for names in MMLU_GROUPS.values()] == [18, 13, 12, 14]
    every = [*names_of(MWE_GROUPS), *names_of(MMLU_GROUPS)]
    assert len(set(every)) == 23 + 57
    assert (group_of("neuroticism"), group_of("anatomy"), group_of("mine")) == (
        "personality",
        "other subjects",
        "other",
    )


def test_a_behaviour_is_read_with_its_group_and_the_matching_answer_as_target(tmp_path: Path) -> None:
    other = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    write_jsonl(tmp_path / "neuroticism.jsonl.gz", [{"question": "Q1", **YES_NO}, {"question": "Q2", **other}])
    (task,) = load_tasks(tmp_path)
    assert (task.name, task.group, task.chat, task.shots) == ("neuroticism", "personality", False, ())
    assert task.questions == (Question("Q1", (" Yes", " No"), 1), Question("Q2", (" Yes", " No"), 0))


def test_a_file_of_ones_own_takes_text_or_messages_and_a_target_by_index_or_text(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi?"}]
    records = [own(target=1), own(target="No"), own(target=" No "), {**own(), "messages": messages}]
    del records[3]["prompt"]
    path = write_jsonl(tmp_path / "mine.jsonl", records)
    (task,) = load_tasks(str(path), chat=True, system="Be brief.")
    assert [question.target for question in task.questions] == [1, 1, 1, 0]
    assert task.questions[3].prompt == messages
    assert (task.name, task.group, task.chat, task.system) == ("mine", "other", True, "Be brief.")


BROKEN: list[tuple[str, Any, str]] = [
    ("not JSON", "{", "line 2: broken JSON"),
    ("blank", "", "line 2: it is blank"),
    ("a list", [1], "line 2: it is a list, not an object"),
    ("no answers", {"prompt": "a", "target": 0}, "line 2: it lacks the field answers"),
    ("no target", {"prompt": "a", "answers": ["a", "b"]}, "line 2: it lacks the field target"),
    ("answers in one string", own(answers="Yes"), "line 2: its answers are not a list of strings"),
    ("answers of numbers", own(answers=[1, 2]), "line 2: its answers are not a list of strings"),
    ("one answer", own(answers=["Yes"]), "line 2: it has 1 answers"),
    ("the same answer twice", own(answers=["Yes", " Yes"]), "line 2: the answer 'Yes' is given twice"),
    ("a blank answer", own(answers=["Yes", " "]), "line 2: answer 1 is blank"),
    ("target beyond", own(target=2), "line 2: its target is 2, and there are 2 answers"),
    ("target below", own(target=-1), "line 2: its target is -1"),
    ("target of no answer", own(target="Maybe"), "line 2: its target 'Maybe' is none of its answers"),
    ("target is true", own(target=True), "line 2: its target True is none of its answers"),
    ("blank prompt", own(prompt=" "), "line 2: it is empty"),
    ("neither prompt nor messages", {"answers": ["a", "b"], "target": 0}, "line 2: it has neither"),
    (
        "an answered chat",
        {"messages": [{"role": "assistant", "content": "x"}], "answers": ["a", "b"], "target": 0},
        "line 2: its last message is the assistant's",
    ),
    ("no question", dict(YES_NO), "line 2: it lacks the field question"),
    ("question of another type", {"question": 3, **YES_NO}, "line 2: its question is a int"),
    ("half a behaviour", {"question": "q", "answer_matching_behavior": " No"}, "answer_not_matching_behavior"),
]


@pytest.mark.parametrize(("line", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path, line: Any, message: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "bad.jsonl").write_text(json.dumps(own()) + "\n" + text + "\n")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_tasks(tmp_path)
    assert str(tmp_path / "bad.jsonl") in str(caught.value)


def test_files_and_folders_without_tasks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "x.txt").write_text("hi")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(own()).encode() * 50)[:-20])
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    (tmp_path / "no.tar.xz").write_bytes(b"no archive")
    with tarfile.open(tmp_path / "other.tar", "w"):
        pass
    cases = {
        "none": "there is no such file or folder",
        "empty": "neither .jsonl files nor MMLU",
        "empty.jsonl": "it is empty",
        "x.txt": "its ending is '.txt'",
        "cut.jsonl.gz": "damaged .gz",
        "plain.jsonl.gz": "Not a gzipped file",
        "no.tar.xz": "cannot be read as an archive",
        "other.tar": "it has no test/*.csv",
    }
    for name, why in cases.items():
        with pytest.raises(InputError, match=re.escape(why)):
            load_tasks(tmp_path / name)


def test_mmlu_is_asked_as_its_authors_ask_it_from_a_folder_and_from_an_archive(tmp_path: Path) -> None:
    folder = write_mmlu(tmp_path / "mmlu")
    with tarfile.open(tmp_path / "mmlu.tar.xz", "w:xz") as archive:
        archive.add(folder, arcname="data")
    (task,) = load_tasks(folder)
    assert load_tasks(tmp_path / "mmlu.tar.xz") == [task]
    assert (task.name, task.group, len(task.shots)) == ("high_school_physics", "STEM", 5)
    assert task.prompt(0, 1) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Worked 4\nA. p\nB. q\nC. r\nD. s\nAnswer: A\n\n"
        'Which?\nA. one\nB. two, or so\nC. the "third"\nD. four\nlines\nAnswer:'
    )
    assert task.prompt(1, 0).startswith(task.header + "And this?\nA. 1")
    assert task.prompt(0) == task.prompt(0, 5)
    assert task.prompt(0, 5).index("Worked 0") < task.prompt(0, 5).index("Worked 4")
    assert [question.target for question in task.questions] == [2, 0]
    assert task.questions[0].answers == ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (csv_bytes([TEST[1], TEST[1][:5]]), "high_school_physics_test.csv, line 2: it has 5 cells"),
        (csv_bytes([TEST[1], [*TEST[1][:5], "E"]]), "line 2: its last cell is 'E'"),
        (b'"a,b', "line 1: broken CSV"),
        ("é".encode("latin-1"), "cannot be read"),
        (b"", "it has no questions"),
    ],
)
def test_a_broken_line_of_mmlu_is_named_by_file_and_line(tmp_path: Path, test: bytes, message: str) -> None:
    write_mmlu(tmp_path, test=test)
    with pytest.raises(InputError, match=re.escape(message)):
        load_tasks(tmp_path)


def test_mmlu_without_worked_examples_says_so(tmp_path: Path) -> None:
    write_mmlu(tmp_path)
    (tmp_path / "dev" / "high_school_physics_dev.csv").unlink()
    with pytest.raises(InputError, match=r"dev/high_school_physics_dev\.csv: there is no such file"):
        load_tasks(tmp_path)


def test_tasks_are_selected_by_name_group_or_set_and_in_the_order_of_the_data() -> None:
    available = ["anatomy", "mine", "narcissism", "neuroticism"]
    assert select([], available) == available
    assert select(["neuroticism", "anatomy", "neuroticism"], available) == ["anatomy", "neuroticism"]
    assert select(["personality"], available) == ["narcissism", "neuroticism"]
    assert select(["mmlu", "mine"], available) == ["anatomy", "mine"]
    assert select(["mwe"], available) == ["narcissism", "neuroticism"]
    with pytest.raises(InputError, match=r"no task 'narcisism'.*did you mean narcissism"):
        select(["narcisism"], available)
    with pytest.raises(InputError, match="no task 'religion'"):
        select(["religion"], available)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [own()])
    with pytest.raises(InputError, match=r"task a: .* another path"):
        load_tasks([tmp_path, tmp_path / "a.jsonl"])
    (task,) = load_tasks(tmp_path)
    with pytest.raises(InputError, match="two of that name"):
        check_tasks([task, task])
    with pytest.raises(InputError, match="no tasks"):
        check_tasks([])


def test_worked_examples_do_not_go_before_messages() -> None:
    chat = Question([{"role": "user", "content": "Hi?"}], ("a", "b"), 0)
    with pytest.raises(InputError, match="worked examples, and questions that are messages"):
        Task("t", "g", (chat,), shots=("x",))


@given(n=st.integers(1, 30), limit=st.integers(1, 40), seed=st.integers(0, 5), name=st.sampled_from("abc"))
def test_a_sample_is_a_part_in_order_and_depends_on_seed_and_name_alone(
    n: int, limit: int, seed: int, name: str
) -> None:
    task = Task(name, "g", tuple(Question(f"q{i}", ("a", "b"), 0) for i in range(n)))
    drawn = task.sample(limit, seed)
    asked = [task.questions.index(question) for question in drawn.questions]
    assert asked == sorted(set(asked))
    assert len(asked) == min(n, limit)
    random.seed(limit)  # the draw must not look at the state of the process
    assert task.sample(limit, seed) == drawn
    assert task.sample(None, seed) is task


def test_a_sample_of_none_is_refused() -> None:
    with pytest.raises(InputError, match="limit is 0"):
        Task("t", "g", (Question("q", ("a", "b"), 0),)).sample(0)


def test_whatever_is_asked_otherwise_changes_the_digest() -> None:
    def task(question: Question | None = None, **fields: Any) -> bytes:
        settings: dict[str, Any] = {"name": "t", "group": "g", **fields}
        return Task(questions=(question or Question("q", ("a", "b"), 0),), **settings).digest()

    digests = [
        task(),
        task(name="u"),
        task(group="h"),
        task(chat=True),
        task(system="s"),
        task(header="h"),
        task(shots=("x",)),
        task(Question("r", ("a", "b"), 0)),
        task(Question("q", ("a", "c"), 0)),
        task(Question("q", ("a", "b"), 1)),
    ]
    assert len(set(digests)) == len(digests)
    assert task() == digests[0]


class FakeHub:
    """Stands in for the module `datasets`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, []

    def load_dataset(self, *args: str, **options: str) -> list[dict[str, Any]]:
        self.asked.append((args, options))
        if self.error is not None:
            raise self.error
        if args == ("json",):
            return [{"question": "Q", **YES_NO}]
        return [{"question": "Q", "choices": ["p", "q", "r", "s"], "answer": 3}] * (
            5 if options["split"] == "dev" else 2
        )


def install(monkeypatch: pytest.MonkeyPatch, hub: FakeHub | None) -> None:
    module: Any = None
    if hub is not None:
        module = types.ModuleType("datasets")
        module.load_dataset = hub.load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_tasks_from_the_hub_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub()
    install(monkeypatch, hub)
    behaviour, anatomy = hub_tasks(["anatomy", "narcissism"], chat=True)
    assert behaviour == Task("narcissism", "personality", (Question("Q", (" Yes", " No"), 1),), chat=True)
    assert (len(anatomy), len(anatomy.shots), anatomy.questions[0].target) == (2, 5, 3)
    assert anatomy.shots[0] == "Q\nA. p\nB. q\nC. r\nD. s\nAnswer: D\n\n"
    files = [options.get("data_files") for _, options in hub.asked]
    assert files == ["hf://datasets/Anthropic/model-written-evals/persona/narcissism.jsonl", None, None]
    assert hub.asked[1] == (("cais/mmlu", "anatomy"), {"split": "dev"})


@pytest.mark.parametrize(
    ("hub", "names", "message"),
    [
        (
            None,
            ["anatomy"],
            "cais/mmlu cannot be read from the hub: the library datasets is not installed; pip install",
        ),
        (FakeHub(ConnectionError("offline\nnow")), ["desires"], r"ConnectionError: offline\\nnow; check the network"),
        (FakeHub(), ["anatomi"], "did you mean anatomy"),
        (FakeHub(), [], "neither data nor tasks are named"),
    ],
)
def test_a_hub_that_cannot_be_asked_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, hub: FakeHub | None, names: list[str], message: str
) -> None:
    install(monkeypatch, hub)
    with pytest.raises(InputError, match=message):
        hub_tasks(names)


@pytest.mark.data
def test_the_real_data_sets_are_read_whole(data_dir: Path) -> None:
    behaviours = load_tasks(data_dir / "mwe", ["mwe"])
    assert sorted(task.name for task in behaviours) == sorted(names_of(MWE_GROUPS))
    assert {len(task) for task in behaviours} == {1000}
    assert {question.answers for task in behaviours for question in task.questions} == {(" Yes", " No")}
    subjects = load_tasks(data_dir / "mmlu", ["mmlu"])
    assert sorted(task.name for task in subjects) == sorted(names_of(MMLU_GROUPS))
    assert sum(map(len, subjects)) == 14_042
    assert {len(task.shots) for task in subjects} == {5}
