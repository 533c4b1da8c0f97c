"""`tuco-lens` as its users meet it: rows, streams, exit statuses, kills and resumes, on the embedded pair."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pairs import thin_pair
from tuco_lens.cli.app import run
from tuco_lens.cli.terminal import plain, show_table
from tuco_lens.errors import TucoLensError
from tuco_lens.pair import ModelPair
from tuco_lens.runs import measure as runs_measure

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 1e-5
COLUMNS = ["index", "prompt", "n_tokens", "tuco", "preco", "beta", "truncated", "error"]
HOSTILE = [
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "[bold red]markup[/] :skull:",
    "\u202eabc\u202c \x9b2J",
    "a\0b\r\nc\td",
    "😀 שלום",
]


real_demo = ModelPair.demo


@pytest.fixture(scope="module")
def tiny_pair() -> ModelPair:
    return thin_pair(256)


@pytest.fixture(autouse=True)
def load_once(tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--pair demo` in this process is the tiny pair, except in the tests that ask for the real one."""
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": tiny_pair))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def write_prompts(path: Path, prompts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return path


def stories(n_prompts: int, n_words: int = 12) -> list[str]:
    words = ["the", "old", "town", "sent", "three", "boats", "over", "river", "before", "dawn", "and", "nobody", "knew"]
    return [
        " ".join(words[(i * 7 + k * (i % 5 + 1)) % len(words)] for k in range(n_words + i % 9))
        for i in range(n_prompts)
    ]


def measure(*arguments: object) -> int:
    return run(["measure", "--pair", "demo", *map(str, arguments)])


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tuco_lens", "measure", "--pair", "demo", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_take_interrupts,
    )


def _take_interrupts() -> None:
    """A suite that was started in the background ignores Ctrl-C, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def timed(code: str, *arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """A Python program's seconds on the processor, of which other work on the machine takes none, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def test_help_comes_at_once_and_without_torch() -> None:
    code = (
        "import sys; from tuco_lens.cli.app import run; status = run(sys.argv[1:]);"
        "sys.exit(status + 50 * bool({'torch', 'transformers', 'pandas', 'transformer_lens'} & set(sys.modules)))"
    )
    timed(code, "--help")  # which writes the byte code of what has none yet
    torch = timed("import torch")[0]
    for arguments, status in ((["--help"], 0), (["measure", "--help"], 0), (["measure", "--norm", "l3"], 2)):
        took, done = timed(code, *arguments)
        assert done.returncode == status, done.stderr
        assert took < torch / 2


def test_a_run_writes_a_row_per_prompt_in_their_order_and_a_summary(
    tmp_path: Path, tiny_pair: ModelPair, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = stories(11)
    file = write_prompts(tmp_path / "p.jsonl", prompts[:9])
    out = tmp_path / "o.jsonl"
    assert (
        measure("--prompts", file, "--prompt", prompts[9], "--prompt", prompts[10], "--out", out, "--batch-size", 3)
        == 0
    )
    rows = rows_of(out)
    expected = tiny_pair.measure(prompts, progress=False)
    assert [list(row) for row in rows] == [COLUMNS] * 11
    assert [row["index"] for row in rows] == list(range(11))
    assert [row["prompt"] for row in rows] == prompts
    for row, item in zip(rows, expected, strict=True):
        assert row["n_tokens"] == item.n_tokens
        assert row["tuco"] == pytest.approx(item.tuco, abs=TOLERANCE)
        assert row["preco"] == pytest.approx(1 - row["tuco"], abs=1e-12)
        assert row["beta"] == pytest.approx(item.beta, abs=TOLERANCE)
    captured = capsys.readouterr()
    assert "11 prompts" in captured.out
    assert f"wrote {out}" in captured.out
    assert captured.err == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "p.jsonl"]


def test_the_three_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = write_prompts(tmp_path / "p.jsonl", [*stories(3), *HOSTILE])
    for ending in ("jsonl", "csv", "parquet"):
        assert measure("--prompts", file, "--out", tmp_path / f"o.{ending}") == 0
    rows = rows_of(tmp_path / "o.jsonl")
    assert [row["prompt"] for row in rows] == [*stories(3), *HOSTILE]
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == rows
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as opened:
        from_csv = list(csv.DictReader(opened))
    assert [(row["prompt"], float(row["tuco"])) for row in from_csv] == [(row["prompt"], row["tuco"]) for row in rows]


def test_drift_norm_chat_and_system_do_what_they_say(tmp_path: Path, tiny_pair: ModelPair) -> None:
    def row(*options: str) -> dict[str, Any]:
        assert measure("--prompt", "How are you?", "--out", tmp_path / "o.jsonl", "--overwrite", *options) == 0
        return rows_of(tmp_path / "o.jsonl")[0]

    def expected(**options: Any) -> Any:
        return tiny_pair.measure("How are you?", progress=False, **options)[0]

    plain_row, chat_row = row(), row("--chat", "--system", "Be brief.")
    assert plain_row["tuco"] == pytest.approx(expected().tuco, abs=TOLERANCE)
    assert chat_row["tuco"] == pytest.approx(expected(chat=True, system="Be brief.").tuco, abs=TOLERANCE)
    assert chat_row["prompt"] == expected(chat=True, system="Be brief.").prompt.text
    assert row("--drift")["output_co"] == pytest.approx(expected(drift=True).output_co, abs=TOLERANCE)
    assert row("--norm", "l2")["tuco"] == pytest.approx(expected(norm="l2").tuco, abs=TOLERANCE)
    assert abs(plain_row["tuco"] - row("--norm", "l2")["tuco"]) > 10 * TOLERANCE


def test_a_long_prompt_is_cut_on_request_and_its_row_says_so(tmp_path: Path, tiny_pair: ModelPair) -> None:
    file = write_prompts(tmp_path / "p.jsonl", ["short one", "river " * (tiny_pair.n_ctx + 10)])
    assert measure("--prompts", file, "--out", tmp_path / "o.jsonl", "--truncate", "left") == 0
    rows = rows_of(tmp_path / "o.jsonl")
    assert [row["truncated"] for row in rows] == [False, True]
    assert rows[1]["n_tokens"] == tiny_pair.n_ctx


def test_no_escape_sequence_of_a_prompt_or_a_path_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--prompts", write_prompts(tmp_path / "p.jsonl", HOSTILE), "--out", tmp_path / "\x1b[2J.jsonl") == 0
    assert run(["measure", "--pair", "\x1b[31m", "--prompt", "x", "--out", str(tmp_path / "n.csv")]) == 2
    assert measure("--prompts", tmp_path / "\x1b[31m.txt", "--out", tmp_path / "n.csv") == 2
    assert run(["\x1b[31m"]) == 2
    show_table([("prompt", False)], [[prompt] for prompt in HOSTILE])
    captured = capsys.readouterr()
    assert "[bold red]markup[/] :skull:" in captured.out
    written = captured.out + captured.err
    assert all(character.isprintable() or character == "\n" for character in written)


def test_plain_text_is_one_short_line() -> None:
    assert plain("a\n b\t\x1b[0m") == "a b \\x1b[0m"
    assert plain("word " * 10**6, 12) == "word word w…"


def interrupted_after(pair: ModelPair, n_items: int) -> Any:
    """The pair, with Ctrl-C pressed when so many prompts are measured."""
    numbers = itertools.count()

    class Pressed:
        def __getattr__(self, name: str) -> Any:
            return getattr(pair, name)

        def measure_stream(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            for item in pair.measure_stream(*arguments, **options):
                if next(numbers) == n_items:
                    raise KeyboardInterrupt
                yield item

    return Pressed()


def press_after(monkeypatch: pytest.MonkeyPatch, pair: ModelPair, n_items: int) -> None:
    stub = interrupted_after(pair, n_items)
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": stub))


def test_ctrl_c_before_the_first_row_leaves_nothing(
    tmp_path: Path, tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    press_after(monkeypatch, tiny_pair, 0)
    assert measure("--prompt", "a b c", "--out", tmp_path / "o.csv") == 130
    assert capsys.readouterr().err == "tuco-lens: interrupted: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_anywhere_resumes_to_the_rows_of_an_uninterrupted_one(
    tmp_path: Path, tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_prompts(tmp_path / "p.jsonl", stories(70))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "o.jsonl"
    assert measure("--prompts", file, "--out", whole) == 0
    expected = rows_of(whole)
    for n_items in (1, 32, 45, 69):
        with monkeypatch.context() as patched:
            press_after(patched, tiny_pair, n_items)
            assert measure("--prompts", file, "--out", out, "--overwrite") == 130
        assert f"{n_items} of 70 rows are in {out}.partial; add --resume" in capsys.readouterr().err
        with (tmp_path / "o.jsonl.partial").open("ab") as journal:
            journal.write(b'{"index": 9')  # a torn last line
        assert measure("--prompts", file, "--out", out, "--resume", "--overwrite") == 0
        assert rows_of(out) == expected  # bit for bit: it begins with the whole chunk, so its batches are the same


def test_a_run_killed_when_all_was_measured_only_writes_its_output(
    tmp_path: Path, tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.jsonl"
    arguments = ["--prompt", "one two", "--prompt", "three", "--out", out]
    with monkeypatch.context() as patched:
        press_after(patched, tiny_pair, 2)  # after the last row
        patched.setattr(runs_measure.Journal, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert measure(*arguments) == 130
    press_after(monkeypatch, tiny_pair, 0)
    assert measure(*arguments, "--resume") == 0
    assert [row["prompt"] for row in rows_of(out)] == ["one two", "three"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--norm", "l2"], "norm was 'l1' and is 'l2'"),
        (["--drift"], "drift was False and is True"),
        (["--chat"], "chat was False and is True"),
        (["--prompt", "one more"], "prompts was '40, sha256:"),
        (["--dtype", "float32"], None),
        (["--batch-size", "2"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_resuming_refuses_what_would_change_the_rows(
    tmp_path: Path,
    tiny_pair: ModelPair,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: list[str],
    message: str | None,
) -> None:
    arguments = ["--prompts", write_prompts(tmp_path / "p.jsonl", stories(40)), "--out", tmp_path / "o.csv"]
    with monkeypatch.context() as patched:
        press_after(patched, tiny_pair, 35)
        assert measure(*arguments) == 130
    journal = tmp_path / "o.csv.partial"
    before = journal.read_bytes()
    capsys.readouterr()
    status = measure(*arguments, "--resume", *changed)
    if message is None:
        assert status == 0
    else:
        assert status == 2
        assert message in capsys.readouterr().err
        assert journal.read_bytes() == before


def test_resuming_refuses_a_checkpoint_whose_weights_changed(tmp_path: Path) -> None:
    from tuco_lens.runs.pair_choice import checkpoint_identity

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(300_000))
    before = checkpoint_identity(str(folder))
    assert checkpoint_identity(str(folder)) == before
    (folder / "model.safetensors").write_bytes(bytes(299_999) + b"\1")
    assert checkpoint_identity(str(folder)) != before
    assert checkpoint_identity("org/model") == "org/model"


def wait_for_rows(process: subprocess.Popen[str], journal: Path, n_rows: int) -> None:
    for _ in range(20_000):
        if journal.exists() and journal.read_bytes().count(b"\n") > n_rows:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.slow
def test_a_killed_process_and_an_interrupted_one_lose_and_double_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelPair, "demo", real_demo)
    prompts = stories(400, n_words=60)  # rows come a chunk at a time: several are left after the kill
    arguments = ["--prompts", write_prompts(tmp_path / "p.jsonl", prompts), "--batch-size", 2]
    out, journal = tmp_path / "o.jsonl", tmp_path / "o.jsonl.partial"

    killed = start(*arguments, "--out", out)
    wait_for_rows(killed, journal, 33)
    killed.kill()
    stdout, stderr = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, (stdout, stderr)
    assert not out.exists()
    n_after_kill = journal.read_bytes().count(b"\n") - 1
    assert 33 <= n_after_kill < len(prompts)

    interrupted = start(*arguments, "--out", out, "--resume")
    wait_for_rows(interrupted, journal, n_after_kill + 1)
    interrupted.send_signal(signal.SIGINT)
    stdout, stderr = interrupted.communicate()
    assert interrupted.returncode == 130, (stdout, stderr)
    assert stdout == ""
    assert stderr.startswith("tuco-lens: interrupted: ")
    assert stderr.count("\n") == 1
    assert not out.exists()

    assert measure(*arguments, "--out", out, "--resume") == 0
    assert measure(*arguments, "--out", tmp_path / "whole.jsonl") == 0
    rows, expected = rows_of(out), rows_of(tmp_path / "whole.jsonl")
    assert [row["index"] for row in rows] == list(range(len(prompts)))
    assert [row["prompt"] for row in rows] == prompts
    for row, other in zip(rows, expected, strict=True):
        assert math.isclose(row["tuco"], other["tuco"], abs_tol=TOLERANCE)
    assert not journal.exists()


def test_a_report_has_the_first_prompts_also_those_measured_before_a_kill(
    tmp_path: Path, tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        "tuco_lens.report.write_report", lambda m, path, *, title: shown.append(m) or path.write_text("x")
    )
    monkeypatch.setattr(runs_measure, "HTML_PROMPTS", 36)
    prompts = stories(40)
    arguments = ["--prompts", write_prompts(tmp_path / "p.jsonl", prompts), "--out", tmp_path / "o.csv"]
    html = ["--html", tmp_path / "r.html"]
    with monkeypatch.context() as patched:
        press_after(patched, tiny_pair, 33)
        assert measure(*arguments, *html) == 130
    assert not (tmp_path / "r.html").exists()
    assert measure(*arguments, *html, "--resume") == 0
    assert [item.prompt.text for item in shown[0]] == prompts[:36]
    captured = capsys.readouterr()
    assert "shows the first 36 of 40 prompts" in captured.err
    assert f"wrote {tmp_path / 'r.html'}" in captured.out


def test_a_report_is_one_page_that_stands_alone(tmp_path: Path) -> None:
    assert measure("--prompt", "one two", "--out", tmp_path / "o.csv", "--html", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "one two" in page


def test_measurements_do_not_pile_up(tmp_path: Path, tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_pair, name)

        def measure_stream(self, *arguments: Any, **options: Any) -> Iterator[Any]:
            nonlocal most
            for item in tiny_pair.measure_stream(*arguments, **options):
                alive.add(item.maps)
                most = max(most, len(alive))
                yield item

    # Identity, not equality, which tensors do not have.
    monkeypatch.setattr("tuco_lens.engine.contributions.NormMaps.__hash__", object.__hash__)
    monkeypatch.setattr("tuco_lens.engine.contributions.NormMaps.__eq__", object.__eq__)
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": Counted()))
    file = write_prompts(tmp_path / "p.jsonl", stories(150, n_words=3))
    assert measure("--prompts", file, "--out", tmp_path / "o.csv", "--batch-size", 8) == 0
    assert 1 <= most <= 65


def test_what_is_kept_and_how_it_is_batched_changes_no_number(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.jsonl", ["One beginning for all of these. " * 4 + text for text in stories(9)])
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, options in {
        "plain": [],
        "last": ["--keep", "last"],
        "whole": ["--no-share-prefixes", "--batch-tokens", 100],
    }.items():
        out = tmp_path / f"{name}.jsonl"
        assert measure("--prompts", file, "--out", out, *options) == 0
        rows[name] = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row, last, whole in zip(rows["plain"], rows["last"], rows["whole"], strict=True):
        assert last["tuco"] == pytest.approx(row["tuco"], abs=1e-6)
        assert last["beta"] is None
        assert whole == {
            **row,
            "tuco": pytest.approx(row["tuco"], abs=1e-6),
            **{name: pytest.approx(row[name], abs=1e-6) for name in ("preco", "beta")},
        }


def failing(error: BaseException) -> Any:
    def load(cls: type, backend: str = "auto") -> None:
        raise error

    return classmethod(load)


def test_an_unexpected_failure_has_status_1_and_one_line_and_a_traceback_only_with_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelPair, "demo", failing(RuntimeError("first\nsecond")))
    arguments = ["--prompt", "x", "--out", tmp_path / "o.csv"]
    assert measure(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("tuco-lens: error: it failed unexpectedly: RuntimeError: first second; ")
    assert measure(*arguments, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err
    assert run(["--debug", "measure", "--pair", "demo", *map(str, arguments)]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_debug_as_the_text_of_a_prompt_is_a_prompt(tmp_path: Path) -> None:
    assert measure("--prompt", "--debug", "--out", tmp_path / "o.jsonl") == 0
    assert rows_of(tmp_path / "o.jsonl")[0]["prompt"] == "--debug"


def test_the_packages_own_errors_have_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelPair, "demo", failing(TucoLensError("what", "why", "remedy")))
    assert measure("--prompt", "x", "--out", tmp_path / "o.csv") == 2
    assert capsys.readouterr().err == "tuco-lens: error: what: why; remedy\n"


def test_pairs_lists_the_catalogue_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    from tuco_lens.models.catalogue import load_catalogue

    assert run(["pairs", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == [pair.name for pair in load_catalogue()]
    assert all(record["memory_gib_bfloat16"] > 0 for record in records)
    assert run(["pairs"]) == 0
    table = capsys.readouterr().out
    for pair in load_catalogue():
        assert pair.name in table
        assert pair.base in table


def test_a_name_of_the_catalogue_is_a_pair() -> None:
    from tuco_lens.models.catalogue import load_catalogue
    from tuco_lens.runs.pair_choice import choose_pair

    for known in load_catalogue():
        choice = choose_pair(known.name, None, None, None)
        assert (choice.base, choice.tuned, choice.adapter) == (known.base, known.tuned, known.adapter)


def test_the_demo_prints_its_table_and_writes_its_files_also_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ModelPair, "demo", real_demo)
    folder = tmp_path / "new" / "report"
    for _ in range(2):
        assert run(["demo", "--out", str(folder)]) == 0
        assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.jsonl"]
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "mean TuCo: text 0." in captured.out
    rows = rows_of(folder / "results.jsonl")
    assert {row["group"] for row in rows} == {"text", "chat"}
    assert captured.out.count("\n") >= 2 * len(rows)
    assert list(rows[0]) == [*COLUMNS[:-1], "group"]
