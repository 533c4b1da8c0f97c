"""`tuco-lens sweep` as its users meet it: its five files, stops and resumes, and bad input in one line each."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.pairs import thin_pair
from tuco_lens.cli.app import run
from tuco_lens.pair import ModelPair
from tuco_lens.sweep import SweepResult, load_tasks, running, sweep

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = ["accuracy.csv", "accuracy.html", "delta.csv", "delta.html", "sweep.json"]
GOOD = {"prompt": "Is it?", "answers": ["Yes", "No"], "target": "Yes"}


@pytest.fixture(scope="module")
def tiny_pair() -> ModelPair:
    return thin_pair(128)


@pytest.fixture(autouse=True)
def load_once(tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": tiny_pair))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two small tasks and several bad ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    words = ("rain", "snow", "bread", "tea", "noon", "a dog", "the sea", "fire")
    rows = [{**GOOD, "prompt": f"Is {word} nice?", "target": i % 2} for i, word in enumerate(words)]
    mwe = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    files: dict[str, list[Any]] = {
        "mine": rows,
        "neuroticism": [{"question": f"Is {word} sad?", **mwe} for word in words],
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "broken.jsonl").write_text(json.dumps(GOOD) + "\n{\n")
    (bad / "few.jsonl").write_text((json.dumps(GOOD) + "\n") * 4)
    (bad / "shared.jsonl").write_text((json.dumps({**GOOD, "answers": ["Yes", "Yes, so"]}) + "\n") * 5)
    (bad / "long.jsonl").write_text((json.dumps({**GOOD, "prompt": "the old river town " * 60}) + "\n") * 5)
    (bad / "notes.txt").write_text("hi")
    (tmp_path / "empty").mkdir()
    return folder


def command(*words: object) -> int:
    return run(["sweep", "--pair", "demo", *map(str, words)])


def test_a_sweep_writes_its_five_files_and_a_short_table(
    data: Path, tmp_path: Path, tiny_pair: ModelPair, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("--data", data, "--out", out, "--alphas", "0.5,2", "--folds", 4, "--batch-size", 3) == 0
    assert sorted(file.name for file in out.iterdir()) == FILES
    expected = sweep(tiny_pair, load_tasks(data), alphas=(0.5, 2), folds=4, batch_size=3, progress=False)
    loaded = SweepResult.load(out / "sweep.json")
    assert loaded.settings == expected.settings
    accuracy = pd.read_csv(out / "accuracy.csv")
    pd.testing.assert_frame_equal(accuracy, expected.to_frame())
    delta = pd.read_csv(out / "delta.csv")
    numbers = [name for name in delta.columns if not name.endswith("alphas")]
    pd.testing.assert_frame_equal(delta[numbers], expected.cross_validated()[numbers])
    assert delta["max_alphas"][0].split() == [f"{a:g}" for a in expected.cross_validated()["max_alphas"][0]]
    shown = capsys.readouterr().out
    assert "neuroticism" in shown
    assert "Δ maximised (95 %)" in shown
    for name in ("accuracy.html", "delta.html"):
        page = (out / name).read_text()
        assert "neuroticism" in page
        assert not re.search(r'<script[^>]+src="http', page)


def test_tasks_are_named_by_name_or_group_with_commas_or_repeated(data: Path, tmp_path: Path) -> None:
    for i, words in enumerate(
        (["--tasks", "personality"], ["--tasks", "mine,mwe"], ["--tasks", "mine", "--tasks", "mwe"])
    ):
        assert command("--data", data, *words, "--limit", 5, "--out", tmp_path / str(i), "--alphas", "1") == 0
    names = [[t.name for t in SweepResult.load(tmp_path / str(i) / "sweep.json").tasks] for i in range(3)]
    assert names == [["neuroticism"], ["mine", "neuroticism"], ["mine", "neuroticism"]]


def test_chat_and_system_prompt_reach_the_questions(data: Path, tmp_path: Path, tiny_pair: ModelPair) -> None:
    out = tmp_path / "chat"
    assert command("--data", data, "--out", out, "--chat", "--system", "Be kind.", "--alphas", "2") == 0
    expected = sweep(tiny_pair, load_tasks(data, chat=True, system="Be kind."), alphas=(2,), progress=False)
    assert SweepResult.load(out / "sweep.json").settings.questions == expected.settings.questions


def test_ctrl_c_leaves_a_journal_and_resume_goes_on_to_the_same_files(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert command("--data", data, "--out", whole) == 0
    real, rows = running.choose_answers, []

    def interrupted(*args: Any, **options: Any) -> list[int]:
        rows.append(1)
        if len(rows) == 5:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(running, "choose_answers", interrupted)
        assert command("--data", data, "--out", out) == 130
    assert [file.name for file in out.iterdir()] == ["sweep.json.partial"]
    assert re.search("interrupted: the rows so far are in .*; add --resume to go on", capsys.readouterr().err)
    assert command("--data", data, "--out", out) == 2
    assert "holds an unfinished run; give --resume" in capsys.readouterr().err
    assert command("--data", data, "--out", out, "--method", "logits", "--resume") == 2
    assert "method was 'ftc' and is 'logits'" in capsys.readouterr().err
    assert command("--data", data, "--out", out, "--resume") == 0
    for name in ("accuracy.csv", "delta.csv", "sweep.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(file.name for file in out.iterdir()) == FILES


def test_a_sweep_killed_before_its_figures_writes_them_on_resuming(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("--data", data, "--out", out) == 0
    table = (out / "delta.csv").read_bytes()
    for name in ("delta.csv", "delta.html", "accuracy.html"):
        (out / name).unlink()
    assert command("--data", data, "--out", out, "--resume") == 0
    assert (out / "delta.csv").read_bytes() == table
    assert sorted(file.name for file in out.iterdir()) == FILES


# Each: its name; the arguments, D/ for the tasks, B/ for the bad ones, O/ for the output's parent; what stderr matches.
OUT = "--out O/o"
CASES: list[tuple[str, str, str]] = [
    ("no output", "--data D/", "no output: --out is not given"),
    ("no data and no tasks", OUT, "neither data nor tasks are named; give --data DIR"),
    ("a hub that cannot be reached", f"--tasks narcissism {OUT}", "cannot be read from the hub: .*--data"),
    ("a task the hub has not", f"--tasks narcisism {OUT}", "did you mean narcissism"),
    ("missing data", f"--data D/none {OUT}", "there is no such file or folder"),
    ("a folder without tasks", f"--data O/empty {OUT}", "neither .jsonl files nor MMLU"),
    ("a file of another kind", f"--data B/notes.txt {OUT}", r"its ending is '\.txt'"),
    ("a broken line", f"--data B/broken.jsonl {OUT}", r"broken\.jsonl, line 2: broken JSON"),
    ("an unknown task", f"--data D/ --tasks other {OUT}", "no task 'other'"),
    ("fewer questions than folds", f"--data B/few.jsonl {OUT}", "task few: it has 4 questions, fewer than the 5 folds"),
    ("limit below folds", f"--data D/ --limit 3 {OUT}", "it has 3 questions, fewer than the 5 folds"),
    ("answers that share a token", f"--data B/shared.jsonl {OUT}", "answers 'Yes' and 'Yes, so' begin with the same"),
    ("a question too long", f"--data B/long.jsonl {OUT}", r"task long, question 0: it has \d+ tokens, and the context"),
    ("α that is no number", f"--data D/ --alphas 0.5,x {OUT}", "--alphas 0.5,x: it is not a list of numbers"),
    ("α that is not finite", f"--data D/ --alphas inf {OUT}", "alpha is inf"),
    ("an unknown method", f"--data D/ --method magic {OUT}", "'magic' is not one of"),
    ("one fold", f"--data D/ --folds 1 {OUT}", "--folds"),
    ("system without chat", f"--data D/ --system hi {OUT}", "raw text; ask for chat"),
    ("no folder for the output", "--data D/ --out O/none/o", "there is no folder"),
    ("output that is a file", "--data D/ --out B/notes.txt", "it is not a folder"),
    ("output that is there", "--data D/ --out O/there", "it is there already; .*--overwrite"),
]


@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_gets_one_line_and_status_2_and_leaves_nothing(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "delta.csv").write_text("mine")
    places = {"D/": f"{data}/", "B/": f"{tmp_path}/bad/", "O/": f"{tmp_path}/"}
    words = [places.get(word[:2], word[:2]) + word[2:] for word in shlex.split(arguments)]
    before = sorted(tmp_path.rglob("*"))
    status = command(*words)
    captured = capfd.readouterr()
    assert status == 2, captured.err
    assert captured.out == ""
    assert re.fullmatch(r"tuco-lens: error: .+: .+; .+\n", captured.err), captured.err
    assert re.search(message, captured.err), captured.err
    assert sorted(tmp_path.rglob("*")) == before
