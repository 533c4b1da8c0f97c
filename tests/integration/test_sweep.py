"""The α sweep on models: its answers against a slow plain loop, worked examples that do not fit, stops and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.pairs import CONTEXT, tiny_pair
from tuco_lens import InputError, ModelPair, OutputError
from tuco_lens.sweep import PAPER_ALPHAS, Question, SweepResult, Task, load_tasks, running, sweep
from tuco_lens.sweep.preparing import prepare
from tuco_lens.sweep.running import DroppedShotsWarning

pytestmark = pytest.mark.usefixtures("one_thread")
BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
THINGS = ("rain", "bread", "a dog", "the sea", "snow", "a long and winding road", "tea", "my hat", "noon", "fire")


def questions(n: int = 10, answers: tuple[str, ...] = ("Yes", "No")) -> tuple[Question, ...]:
    return tuple(Question(f"Is {THINGS[i % 10]} {i} nice?", answers, i % len(answers)) for i in range(n))


def task(name: str = "nice", n: int = 10, **fields: Any) -> Task:
    return Task(name, "things", questions(n), **fields)


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    return tiny_pair(request.param)


def plain_loop(pair: ModelPair, asked: Task, alpha: float, answers: list[str]) -> list[int]:
    """Each question by itself through the scaled model; `answers` are the tokens' texts."""
    ids = pair.tokenizer.convert_tokens_to_ids(answers)
    chosen: list[int] = []
    for i in range(len(asked)):
        prompt = pair.prompt(asked.prompt(i), chat=asked.chat, system=asked.system)
        with torch.no_grad(), pair.scaled(alpha):
            logits = pair.tuned(torch.tensor([prompt.token_ids]))[0, -1, ids].tolist()
        best = [k for k, x in enumerate(logits) if all(x > y for j, y in enumerate(logits) if j != k)]
        chosen.append(best[0] if best else -1)
    return chosen


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chat", [False, True])
def test_the_answers_are_those_of_a_slow_plain_loop_on_the_demo_pair(backend: str, chat: bool) -> None:
    pair = ModelPair.demo(backend=backend)
    words = ("the", "not", "it", "He")
    few = questions(5, words)
    asked = [
        Task("bare", "g", few, chat=chat),
        Task("shots", "g", few, chat=chat, shots=("Is it? not\n",), header="Say.\n"),
    ]
    result = sweep(pair, asked, alphas=(-1.0, 2.5), batch_size=3, progress=False)
    assert result.settings.alphas == (-1.0, 1.0, 2.5)
    for one, found in zip(asked, result.tasks, strict=True):
        tokens = [word if chat else f"Ġ{word}" for word in words]
        expected = [plain_loop(pair, one, alpha, tokens) for alpha in result.settings.alphas]
        assert found.chosen.tolist() == expected
        assert (found.correct == (np.array(expected) == found.targets)).all()
    assert len({tuple(row) for found in result.tasks for row in found.chosen.tolist()}) > 1


def test_methods_agree_at_1_and_differ_elsewhere_and_leave_the_weights_as_they_were(pair: ModelPair) -> None:
    before = {name: tensor.clone() for name, tensor in pair.tuned.state_dict().items()}
    asked = [task(n=40)]
    found = {
        m: sweep(pair, asked, alphas=(-3, 4), method=m, progress=False).tasks[0] for m in ("ftc", "logits", "weights")
    }
    assert found["ftc"].chosen[1].tolist() == found["logits"].chosen[1].tolist() == found["weights"].chosen[1].tolist()
    assert len({tuple(each.chosen[2].tolist()) for each in found.values()}) > 1
    for name, tensor in pair.tuned.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_batches_and_the_tasks_beside_it_change_no_answer(pair: ModelPair) -> None:
    alone = sweep(pair, [task(n=11)], batch_size=1, progress=False).tasks[0]
    among = sweep(pair, [task("other", 7), task(n=11)], batch_size=16, progress=False).tasks[1]
    assert alone.chosen.tolist() == among.chosen.tolist()


def test_the_grid_is_the_papers_and_1_is_always_in_it() -> None:
    pair = tiny_pair()
    assert (
        sweep(pair, [task()], progress=False).settings.alphas == PAPER_ALPHAS == (0.75, 0.9, 0.95, 1, 1.05, 1.1, 1.25)
    )
    assert sweep(pair, [task()], alphas=[2, 0.5, 2], progress=False).settings.alphas == (0.5, 1.0, 2.0)


def test_worked_examples_go_from_the_front_until_the_question_fits_and_a_warning_says_how_many() -> None:
    pair = tiny_pair()  # a context of 64 tokens, which are bytes
    shots = tuple(f"Is {i}{'.' * 10}? Yes\n" for i in range(5))
    long = Question("Is " + "x" * 50 + "?", ("Yes", "No"), 0)
    asked = Task("t", "g", (*questions(5), long), shots=shots, header="Say.\n")
    prepared = prepare(pair, asked)
    for i, n_shots in enumerate(prepared.n_shots):
        text = pair.tokenizer.decode(list(prepared.token_ids[i]))
        assert text == asked.prompt(i, n_shots)
        assert len(prepared.token_ids[i]) <= CONTEXT
        assert n_shots == 0 or len(prepared.token_ids[i]) + len(shots[0]) > CONTEXT
    assert prepared.n_shots[5] == 0 < prepared.n_shots[0] < 5
    dropped = sum(5 - n for n in prepared.n_shots)
    with pytest.warns(DroppedShotsWarning, match=f"6 of 6 questions: {dropped} examples are left out, in tasks t"):
        result = sweep(pair, [asked], progress=False)
    assert result.tasks[0].n_shots_dropped == dropped
    assert set(result.to_frame()["n_shots_dropped"]) == {dropped}


def test_a_limit_asks_the_same_questions_each_time(tmp_path: Path) -> None:
    pair = tiny_pair()
    first = sweep(pair, [task(n=30)], limit=8, progress=False)
    again = sweep(pair, [task("other"), task(n=30)], limit=8, progress=False)
    assert first.tasks[0].chosen.tolist() == again.tasks[1].chosen.tolist()
    assert first.settings.questions != sweep(pair, [task(n=30)], limit=8, seed=1, progress=False).settings.questions


class Stopped(Exception):
    """Stands in for a kill."""


def stop_after(monkeypatch: pytest.MonkeyPatch, n_rows: int, error: type[BaseException] = Stopped) -> list[float]:
    """Lets so many rows through; returns the list of the α that were run."""
    real, run = running.choose_answers, []

    def limited(*args: Any, **options: Any) -> list[int]:
        if len(run) == n_rows:
            raise error
        run.append(args[2])
        return real(*args, **options)

    monkeypatch.setattr(running, "choose_answers", limited)
    return run


@pytest.mark.parametrize("n_rows", [0, 1, 4, 5])
def test_a_stopped_sweep_resumes_to_the_same_file_and_runs_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    pair, asked, alphas = tiny_pair(), [task("a"), task("b", 12)], (0.5, 1, 2)
    whole = sweep(pair, asked, alphas=alphas, out=tmp_path / "whole.json", progress=False)
    out = tmp_path / "sweep.json"
    with monkeypatch.context() as patch:
        stop_after(patch, n_rows)
        with pytest.raises(Stopped):
            sweep(pair, asked, alphas=alphas, out=out, progress=False)
    assert not out.exists()
    journal = tmp_path / "sweep.json.partial"
    assert journal.exists() == (n_rows > 0)
    if n_rows == 4:  # as if killed while it wrote the fifth
        journal.write_bytes(journal.read_bytes() + b'{"index": 4, "chos')
    with monkeypatch.context() as patch:
        run = stop_after(patch, 99)
        resumed = sweep(pair, asked, alphas=alphas, out=out, resume=True, progress=False)
    assert len(run) == 6 - n_rows
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert [t.chosen.tolist() for t in resumed.tasks] == [t.chosen.tolist() for t in whole.tasks]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sweep.json", "whole.json"]


def test_a_sweep_of_other_models_settings_or_questions_does_not_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, out = tiny_pair(), tmp_path / "sweep.json"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            sweep(pair, [task()], out=out, progress=False)
    others: dict[str, tuple[ModelPair, Task, dict[str, Any]]] = {
        "weights was": (tiny_pair(strength=0.3), task(), {}),
        "questions was": (pair, task(n=11), {}),
        "alphas was": (pair, task(), {"alphas": (0.5,)}),
        "method was 'ftc' and is 'logits'": (pair, task(), {"method": "logits"}),
        "folds was 5 and is 4": (pair, task(), {"folds": 4}),
        "seed was 0 and is 1": (pair, task(), {"seed": 1}),
    }
    before = (tmp_path / "sweep.json.partial").read_bytes()
    for message, (other, asked, options) in others.items():
        with pytest.raises(OutputError, match=f"cannot resume from .*{message}"):
            sweep(other, [asked], out=out, resume=True, progress=False, **options)
    assert (tmp_path / "sweep.json.partial").read_bytes() == before
    with pytest.raises(OutputError, match=r"holds an unfinished run; give --resume"):
        sweep(pair, [task()], out=out, progress=False)
    sweep(pair, [task()], out=out, overwrite=True, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.json"]


def test_a_complete_sweep_is_returned_on_resuming_replaced_on_overwriting_and_else_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, out = tiny_pair(), tmp_path / "sweep.json"
    first = sweep(pair, [task()], out=out, progress=False)
    assert SweepResult.load(out).settings == first.settings
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        again = sweep(pair, [task()], out=out, resume=True, progress=False)
    assert again.tasks[0].chosen.tolist() == first.tasks[0].chosen.tolist()
    with pytest.raises(OutputError, match="is of another run: method was 'ftc' and is 'weights'"):
        sweep(pair, [task()], out=out, resume=True, method="weights", progress=False)
    with pytest.raises(OutputError, match="it is there already"):
        sweep(pair, [task()], out=out, progress=False)
    sweep(pair, [task()], out=out, overwrite=True, method="weights", progress=False)
    assert json.loads(out.read_text())["settings"]["method"] == "weights"


def test_a_batch_that_does_not_fit_is_halved_and_one_question_that_does_not_is_an_error() -> None:
    pair, sizes = tiny_pair(), list[int]()
    expected = sweep(pair, [task()], alphas=(1, 2), progress=False)

    def tight(_module: Any, _args: Any, stream: torch.Tensor) -> None:
        sizes.append(len(stream))
        if len(stream) > room:
            raise torch.OutOfMemoryError

    pair.tuned.blocks[0].hook_resid_pre.register_forward_hook(tight)
    room = 2
    found = sweep(pair, [task()], alphas=(1, 2), progress=False)
    assert [each.chosen.tolist() for each in found.tasks] == [each.chosen.tolist() for each in expected.tasks]
    assert sum(size > room for size in sizes) <= 4  # what did not fit once is not tried again
    room = 0
    with pytest.raises(InputError, match="out of memory with a single question"):
        sweep(pair, [task()], progress=False)


BAD: list[tuple[str, list[Task], dict[str, Any], str]] = [
    ("α not finite", [task()], {"alphas": (1, float("nan"))}, "alpha is nan"),
    ("no α", [task()], {"alphas": ()}, "alphas is empty"),
    ("unknown method", [task()], {"method": "magic"}, "no method 'magic'"),
    ("no batch", [task()], {"batch_size": 0}, "batch_size is 0"),
    ("seed below 0", [task()], {"seed": -1}, "seed is -1"),
    ("limit of none", [task()], {"limit": 0}, "limit is 0"),
    ("one fold", [task()], {"folds": 1}, "folds is 1"),
    ("fewer questions than folds", [task(n=4)], {}, "task nice: it has 4 questions, fewer than the 5 folds"),
    ("limit below folds", [task()], {"limit": 4}, "it has 4 questions, fewer than the 5 folds"),
    ("no tasks", [], {}, "no tasks"),
    ("twice the same", [task(), task()], {}, "two of that name"),
    (
        "answers that share a token",
        [Task("t", "g", questions(5, ("Yes", "Yeah")))],
        {},
        "task t, question 0: its answers 'Yes' and 'Yeah' begin with the same token",
    ),
    (
        "too long",
        [Task("t", "g", (*questions(5), Question("y" * 65, ("Yes", "No"), 0)))],
        {},
        "task t, question 5: it has 65 tokens, and the context is 64 tokens; shorten it, or leave it out",
    ),
    ("no chat template", [task(chat=True)], {}, "task nice, question 0|no chat template"),
    ("system without chat", [task(system="s")], {}, "task nice, question 0: a system prompt was given for raw text"),
]


@pytest.mark.parametrize(("asked", "options", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_before_anything_is_run_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Task], options: dict[str, Any], message: str
) -> None:
    pair = tiny_pair()
    run = stop_after(monkeypatch, 99)
    with pytest.raises(InputError, match=message):
        sweep(pair, asked, out=tmp_path / "sweep.json", progress=False, **options)
    assert run == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
@pytest.mark.slow
def test_real_questions_of_both_data_sets_are_answered_as_by_a_plain_loop(data_dir: Path) -> None:
    pair = ModelPair.demo()
    asked = load_tasks([data_dir / "mwe", data_dir / "mmlu"], ["narcissism", "high_school_physics"])
    result = sweep(pair, asked, alphas=(0.75,), limit=5, progress=False)
    for one, found, words in zip(asked, result.tasks, (["ĠYes", "ĠNo"], ["ĠA", "ĠB", "ĠC", "ĠD"]), strict=True):
        assert found.chosen[0].tolist() == plain_loop(pair, one.sample(5), 0.75, words)
