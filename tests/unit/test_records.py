"""Prompt files in and result rows out: what is refused and how, and that no row is lost, doubled or changed."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuco_lens.errors import InputError, OutputError, TucoLensError
from tuco_lens.prompts.files import PromptSource, read_prompts
from tuco_lens.results.files import partial_path
from tuco_lens.results.journal import Journal
from tuco_lens.results.rows import check_output, columns, dump_row

texts = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=30)
one_line_texts = texts.filter(lambda text: "\n" not in text and not text.endswith("\r"))


def prompts_of(path: Path) -> list[Any]:
    return [prompt for _, prompt in read_prompts(path)]


@given(prompts=st.lists(one_line_texts, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_a_text_file_is_a_prompt_a_line_whatever_the_line_ends(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], end: str
) -> None:
    path = tmp_path_factory.mktemp("txt") / "p.txt"
    path.write_bytes(end.join(prompts).encode())
    assert prompts_of(path) == prompts
    path.write_bytes((end.join(prompts) + end).encode("utf-8-sig"))
    assert prompts_of(path) == prompts


@given(st.lists(texts, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_jsonl_and_csv_files_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    lines = [json.dumps({"prompt": prompt, "other": 1}) for prompt in prompts]
    (folder / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert prompts_of(folder / "p.jsonl") == prompts
    with (folder / "p.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["id", "prompt"], *(["1", prompt] for prompt in prompts)])
    assert prompts_of(folder / "p.csv") == prompts


def test_messages_are_read_from_jsonl(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": messages}))
    assert prompts_of(tmp_path / "p.jsonl") == [messages]


def test_a_csv_cell_may_be_longer_than_the_csv_modules_limit_and_the_limit_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "p.csv").write_text("prompt\n" + "word " * 60_000 + "\n")
    assert len(prompts_of(tmp_path / "p.csv")[0]) == 300_000
    assert csv.field_size_limit() == limit


BROKEN: list[tuple[str, bytes | None, str]] = [
    ("missing.txt", None, "No such file"),
    ("p.md", b"hello", r"ending is '\.md'; give a file that ends in \.txt, \.jsonl, \.csv"),
    ("prompts", b"hello", "ending is 'missing'"),
    ("empty.txt", b"", "it is empty"),
    ("empty.jsonl", b"", "it is empty"),
    ("empty.csv", b"", "it is empty"),
    ("bom.txt", b"\xef\xbb\xbf", "line 1: it is empty"),
    ("header.csv", b"prompt,other\n", "it is empty"),
    ("blank.txt", b"one\n\nthree\n", "line 2: it is empty"),
    ("latin.txt", "one\ntwo\nna\u00efve".encode("latin-1"), "line 3: it is not UTF-8: byte 0xEF at offset 10"),
    ("utf16.jsonl", '{"prompt": "x"}'.encode("utf-16"), "line 1: it is not UTF-8: byte 0x.. at offset 0"),
    ("bytes.csv", b"prompt\nok\n\xff\n", "line 3: it is not UTF-8"),
    ("torn.jsonl", b'{"prompt": "a"}\n{"prompt": "b', "line 2: broken JSON: Unterminated string"),
    ("deep.jsonl", b"[" * 100_000, "line 1: broken JSON"),
    ("digits.jsonl", b'{"prompt": ' + b"9" * 5000 + b"}", "line 1: broken JSON"),
    ("blank.jsonl", b'{"prompt": "a"}\n\n', "line 2: it is blank"),
    ("list.jsonl", b'["a"]\n', "line 1: it is a list, not an object"),
    ("field.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "line 2: it has neither of the fields"),
    ("both.jsonl", b'{"prompt": "a", "messages": []}\n', "line 1: it has both of the fields"),
    ("number.jsonl", b'{"prompt": 7}\n', "line 1: its prompt is a int; make it a string"),
    ("null.jsonl", b'{"prompt": null}\n', "line 1: its prompt is a NoneType"),
    ("messages.jsonl", b'{"messages": "hi"}\n', "line 1: its messages is a str"),
    (
        "role.jsonl",
        b'{"messages": [{"role": "narrator", "content": "x"}]}\n',
        "line 1, message 0: its role is 'narrator'",
    ),
    ("none.jsonl", b'{"messages": []}\n', "line 1: it is empty"),
    ("surrogate.jsonl", b'{"prompt": "\\ud800"}\n', "line 1: character 0 is the lone surrogate"),
    ("empty_prompt.jsonl", b'{"prompt": ""}\n', "line 1: it is empty"),
    ("column.csv", b"text,label\na,b\n", "line 1: its columns are text, label; name one column prompt"),
    ("twice.csv", b"prompt,prompt\na,b\n", "line 1: two columns are named prompt"),
    ("comma.csv", b"prompt\na\nwell, yes\n", "line 3: it has 2 cells, and the first line names 1"),
    ("quote.csv", b'prompt\n"open\n', "broken CSV"),
    ("empty_cell.csv", b'prompt\n"a"\n""\n', "line 3: it is empty"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_prompts_file_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        PromptSource((path,)).scan()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_is_not_a_prompts_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").mkdir()
    with pytest.raises(InputError, match="it is a directory"):
        prompts_of(tmp_path / "p.txt")


def test_files_come_first_in_their_order_and_then_the_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.txt").write_text("3\n")
    source = PromptSource((tmp_path / "b.txt", tmp_path / "a.txt"), ("4", "5"))
    assert list(source) == ["3", "1", "2", "4", "5"]
    assert source.scan().n_prompts == 5


def test_the_digest_tells_prompts_and_their_order_and_not_where_they_came_from(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "1"}\n{"prompt": "2"}')
    digest = PromptSource((tmp_path / "a.txt",)).scan().sha256
    assert PromptSource((tmp_path / "a.jsonl",)).scan().sha256 == digest
    assert PromptSource((), ("1", "2")).scan().sha256 == digest
    assert PromptSource((), ("2", "1")).scan().sha256 != digest
    assert PromptSource((), ("12",)).scan().sha256 != digest


def test_a_text_that_cannot_be_measured_is_named_by_its_number() -> None:
    with pytest.raises(InputError, match="--prompt number 2: it is empty"):
        PromptSource((), ("a", "")).scan()


def test_scanning_takes_no_more_memory_for_more_prompts(tmp_path: Path) -> None:
    def peak(n_prompts: int) -> int:
        path = tmp_path / f"{n_prompts}.jsonl"
        path.write_text("".join(f'{{"prompt": "{number} {"x" * 200}"}}\n' for number in range(n_prompts)))
        tracemalloc.start()
        PromptSource((path,)).scan()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)
    assert peak(10_000) < 1.5 * peak(100) + 20_000


def row(index: int, prompt: str = "text", tuco: float = 0.25) -> dict[str, Any]:
    numbers = {"n_tokens": 3, "tuco": tuco, "preco": 1 - tuco, "beta": tuco}
    return {"index": index, "prompt": prompt, **numbers, "truncated": False}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): a prompt may hold other separators than the line feed.
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def read_csv(path: Path) -> list[dict[str, Any]]:
    kinds: dict[str, Callable[[str], Any]] = {
        "index": int, "n_tokens": int, "tuco": float, "preco": float, "beta": float, "truncated": lambda x: x == "True"
    }  # fmt: skip
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: kinds.get(name, str)(cell) for name, cell in line.items()} for line in csv.DictReader(file)]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


READERS = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}


@pytest.mark.parametrize("ending", READERS)
@given(rows=st.lists(st.tuples(texts, st.floats(0, 1)), max_size=6))
@settings(max_examples=25, deadline=None)
def test_rows_read_back_from_each_format_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[tuple[str, float]]
) -> None:
    out = tmp_path_factory.mktemp("out") / f"o{ending}"
    expected = [row(index, prompt, tuco) for index, (prompt, tuco) in enumerate(rows)]
    with Journal.open(partial_path(out), {}, resume=False) as journal:
        for each in expected:
            journal.append(each)
        journal.finish(out, columns(drift=False))
    assert READERS[ending](out) == expected
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("ending", READERS)
def test_output_co_is_a_column_when_the_drift_was_measured(tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"o{ending}"
    with Journal.open(partial_path(out), {}, resume=False) as journal:
        journal.append({**row(0), "output_co": 0.125})
        journal.finish(out, columns(drift=True))
    assert float(READERS[ending](out)[0]["output_co"]) == 0.125


def test_nothing_that_a_terminal_obeys_and_no_second_line_is_in_a_json_row() -> None:
    line = dump_row({"prompt": "\x1b[31m\x9b2J\u2028\u2029\x85\x7f\0\n"})
    assert all(32 <= byte < 127 for byte in line)
    assert json.loads(line)["prompt"] == "\x1b[31m\x9b2J\u2028\u2029\x85\x7f\0\n"


def test_a_nan_is_null_so_that_the_line_is_json() -> None:
    assert dump_row({"tuco": float("nan"), "beta": float("inf")}) == b'{"tuco": null, "beta": null}'


@pytest.fixture
def journal_of_five(tmp_path: Path) -> Path:
    path = tmp_path / "o.jsonl.partial"
    with Journal.open(path, {"norm": "l1"}, resume=False) as journal:
        for index in range(5):
            journal.append(row(index, f"prompt {index}\n"))
        journal.sync()
    return path


def test_a_journal_cut_at_any_byte_resumes_with_its_whole_rows(journal_of_five: Path) -> None:
    content = journal_of_five.read_bytes()
    for n_bytes in range(len(content) + 1):
        journal_of_five.write_bytes(content[:n_bytes])
        with Journal.open(journal_of_five, {"norm": "l1"}, resume=True) as journal:
            assert journal.n_rows == max(0, content[:n_bytes].count(b"\n") - 1)
            for index in range(journal.n_rows, 5):
                journal.append(row(index, f"prompt {index}\n"))
        assert journal_of_five.read_bytes() == content


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_cut_off(journal_of_five: Path) -> None:
    content = journal_of_five.read_bytes()
    journal_of_five.write_bytes(content + b"\0" * 4096)
    with Journal.open(journal_of_five, {"norm": "l1"}, resume=True) as journal:
        assert journal.n_rows == 5
    assert journal_of_five.read_bytes() == content


def test_a_journal_damaged_in_its_middle_is_refused(journal_of_five: Path) -> None:
    lines = journal_of_five.read_bytes().split(b"\n")
    journal_of_five.write_bytes(b"\n".join([*lines[:2], lines[3], *lines[2:]]))
    with pytest.raises(OutputError, match="its row 1 is damaged"):
        Journal.open(journal_of_five, {"norm": "l1"}, resume=True)


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl.partial"
    path.write_text("my notes\nof yesterday\n")
    with pytest.raises(OutputError, match="not a journal"):
        Journal.open(path, {}, resume=True)
    assert path.read_text() == "my notes\nof yesterday\n"


def test_another_run_is_refused_with_what_differs(journal_of_five: Path) -> None:
    before = journal_of_five.read_bytes()
    for call in (
        lambda: Journal.open(journal_of_five, {"norm": "l2"}, resume=True),
        lambda: Journal.hold(journal_of_five, {"norm": "l2"}, resume=True),
    ):
        with pytest.raises(OutputError, match="norm was 'l1' and is 'l2'"):
            call()
    with pytest.raises(OutputError, match="drift was None and is True"):
        Journal.open(journal_of_five, {"norm": "l1", "drift": True}, resume=True)
    assert journal_of_five.read_bytes() == before


def test_without_resume_a_journal_begins_anew(journal_of_five: Path) -> None:
    with Journal.open(journal_of_five, {"norm": "l2"}, resume=False) as journal:
        assert list(journal.rows()) == []
        assert journal.n_rows == 0


def test_two_runs_cannot_write_one_journal(journal_of_five: Path) -> None:
    pytest.importorskip("fcntl")
    fingerprint = {"norm": "l1"}
    with (
        Journal.open(journal_of_five, fingerprint, resume=True),
        pytest.raises(OutputError, match="another run is writing it"),
    ):
        Journal.open(journal_of_five, fingerprint, resume=True)
    with Journal.open(journal_of_five, fingerprint, resume=True) as journal:
        assert journal.n_rows == 5


def test_a_held_journal_is_kept_from_others_and_as_it_was_until_it_begins(journal_of_five: Path) -> None:
    pytest.importorskip("fcntl")
    before = journal_of_five.read_bytes()
    with Journal.hold(journal_of_five, {}, resume=False) as journal:
        with pytest.raises(OutputError, match="another run is writing it"):
            Journal.hold(journal_of_five, {}, resume=True)
        with pytest.raises(ValueError):
            journal.append(row(0))
        assert journal_of_five.read_bytes() == before
        journal.begin({"norm": "l2"})
        journal.append(row(0))
        journal.begin({"norm": "l2"})
        assert list(journal.rows()) == [row(0)]


def test_a_run_that_fails_before_it_begins_leaves_what_was_there(tmp_path: Path, journal_of_five: Path) -> None:
    before = journal_of_five.read_bytes()
    for resume in (True, False):
        with pytest.raises(RuntimeError), Journal.hold(journal_of_five, {"norm": "l1"}, resume=resume):
            raise RuntimeError
        assert journal_of_five.read_bytes() == before
    with pytest.raises(RuntimeError), Journal.hold(tmp_path / "new.partial", {}, resume=False):
        raise RuntimeError
    assert not (tmp_path / "new.partial").exists()


def test_what_shows_late_is_compared_when_a_held_journal_begins(journal_of_five: Path) -> None:
    with Journal.hold(journal_of_five, {}, resume=True) as journal:
        assert journal.n_rows == 5
        with pytest.raises(OutputError, match="norm was 'l1' and is 'l2'"):
            journal.begin({"norm": "l2"})


def test_a_row_out_of_order_is_a_defect(journal_of_five: Path) -> None:
    with Journal.open(journal_of_five, {"norm": "l1"}, resume=True) as journal, pytest.raises(ValueError):
        journal.append(row(7))


def test_a_run_that_fails_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Journal.open(tmp_path / "o.csv.partial", {}, resume=False):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_output_that_fails_while_it_is_written_leaves_the_old_output_and_the_journal(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("old")
    with Journal.open(partial_path(out), {}, resume=False) as journal:
        journal.append(row(0))
        with pytest.raises(KeyError):
            journal.finish(out, columns(drift=True))
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "o.jsonl.partial"]


def refusal(out: Path, **options: bool) -> str | None:
    try:
        check_output(out, **options)
    except TucoLensError as error:
        return str(error)
    return None


def test_outputs_that_cannot_be_written_are_refused_before_a_run(tmp_path: Path) -> None:
    assert refusal(tmp_path / "o.jsonl") is None
    assert "ends in .jsonl, .csv, .parquet" in (refusal(tmp_path / "o.xlsx") or "")
    assert "ending is 'missing'" in (refusal(tmp_path / "o") or "")
    assert "there is no folder" in (refusal(tmp_path / "none" / "o.csv") or "")
    (tmp_path / "d.csv").mkdir()
    assert "it is a directory" in (refusal(tmp_path / "d.csv") or "")
    assert "cannot be written to" in (refusal(Path("/proc/o.csv")) or "/proc is absent: cannot be written to")


def test_an_output_or_journal_that_is_there_needs_a_decision(tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    out.touch()
    assert "--overwrite" in (refusal(out) or "")
    assert "--overwrite" in (refusal(out, resume=True) or "")
    assert refusal(out, overwrite=True) is None
    out.unlink()
    partial_path(out).touch()  # killed before it began
    assert refusal(out) is None
    partial_path(out).write_text("begun")
    assert "--resume" in (refusal(out) or "")
    assert refusal(out, resume=True) is None
    assert refusal(out, overwrite=True) is None
