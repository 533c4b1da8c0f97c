"""`tuco-lens experiment` as its users meet it: its files, its page, stops and resumes, bad input in one line each."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.known_pairs import write_data
from tuco_lens.cli import experiment as command
from tuco_lens.cli.app import run
from tuco_lens.experiments import registry
from tuco_lens.experiments.report import write_experiments
from tuco_lens.pair import ModelPair

pytestmark = pytest.mark.usefixtures("known_pair_as_demo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def program(line: str, capsys: Any) -> tuple[int, str, str]:
    status = run(shlex.split(line))
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_knows_every_experiment() -> None:
    assert tuple(registry.EXPERIMENTS) == command.NAMES
    harmful = {name for name, each in registry.EXPERIMENTS.items() if each.is_harmful}
    assert set(command.HARMFUL) == harmful | {command.ALL}


def test_one_experiment_writes_its_result_its_table_and_the_page(data: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    line = f"experiment web_vs_chat --pair demo --data {data} --limit 6 --nulls 1 --out {out}"
    status, said, errors = program(line, capsys)
    assert (status, errors) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["web_vs_chat.csv", "web_vs_chat.html", "web_vs_chat.json"]
    assert "AUC 1.000 [" in said
    assert "n = 6 and 6" in said
    table = pd.read_csv(out / "web_vs_chat.csv")
    assert table.loc[0, "auc"] == 1.0
    page = (out / "web_vs_chat.html").read_text(encoding="utf-8")
    assert "Is TuCo lower on web text than on chat?" in page
    assert "AUC 1.000 [" in page


@pytest.mark.slow
def test_all_runs_every_experiment_and_seeks_attacks_once(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuco_lens.experiments import attacks_of

    sought: list[int] = []
    real = attacks_of.optimise

    def counted(*args: Any, **options: Any) -> Any:
        sought.append(1)
        return real(*args, **options)

    monkeypatch.setattr(attacks_of, "optimise", counted)
    out = tmp_path / "all"
    line = f"experiment all --pair demo --data {data} --limit 5 --nulls 1 --attacks 2 --attack-steps 1 --out {out}"
    status, _, errors = program(line, capsys)
    assert (status, errors) == (0, "tuco-lens: content warning: this measures harmful requests; none is shown\n")
    names = sorted(f"{name}{ending}" for name in command.NAMES for ending in (".csv", ".json"))
    assert sorted(file.name for file in out.iterdir()) == sorted(["all.html", *names])
    assert len(sought) == 2
    page = (out / "all.html").read_text(encoding="utf-8")
    for each in registry.EXPERIMENTS.values():
        assert each.question in page
    assert "boat" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL), "no prompt is on the page"
    again, _, _ = program(f"{line} --resume", capsys)
    assert again == 0
    assert len(sought) == 2


def test_a_stopped_run_goes_on_with_resume(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuco_lens.experiments import comparing

    out = tmp_path / "stopped"
    line = f"experiment conjugate --pair demo --data {data} --limit 4 --nulls 1 --out {out}"

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(comparing, "tuco_of_prompts", interrupted)
        status, _, errors = program(line, capsys)
    assert status == 130
    assert "add --resume to go on" in errors
    assert [file.name for file in out.iterdir()] == ["conjugate.json.partial"]
    status, _, errors = program(line, capsys)
    assert status == 2
    assert "--resume" in errors
    status, _, _ = program(f"{line} --resume", capsys)
    assert status == 0


BAD = {
    "experiment nothing --pair demo --out {out}": "no experiment 'nothing'",
    "experiment web_vs_chat --pair demo": "--out is not given",
    "experiment web_vs_chat --out {out}": "neither --base nor --pair is given",
    "experiment web_vs_chat --pair demo --data {out}/none --out {out}": "there is no such folder",
    "experiment web_vs_chat --pair demo --data {empty} --out {out}": "data set openwebtext",
    "experiment conjugate --pair demo --data {empty} --out {out}": "data set advbench_translations",
    "experiment web_vs_chat --pair demo --limit 0 --out {out}": "--limit",
    "experiment web_vs_chat --pair demo --nulls -1 --out {out}": "--nulls",
    "experiment web_vs_chat --pair demo --out {file}": "it is not a folder",
    "experiment web_vs_chat --pair demo --out {out}/a/b": "there is no folder",
}


@pytest.mark.parametrize("line", list(BAD))
def test_bad_input_is_one_line_and_leaves_nothing(line: str, tmp_path: Path, capsys: Any) -> None:
    empty, file, out = tmp_path / "empty", tmp_path / "file", tmp_path / "out"
    empty.mkdir()
    file.write_text("x")
    status, said, errors = program(line.format(out=out, empty=empty, file=file), capsys)
    assert status == 2
    assert said == ""
    lines = [each for each in errors.splitlines() if "content warning" not in each]
    assert len(lines) == 1
    assert BAD[line] in lines[0]
    assert not out.exists()


def test_names_of_checkpoints_are_shown_as_text(known_pair: ModelPair, tmp_path: Path) -> None:
    from dataclasses import replace

    from tuco_lens.experiments import output_co

    result = output_co(known_pair, limit=2, counts=(1, 2))
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    result = replace(result, settings=replace(result.settings, tuned=hostile))
    page = write_experiments({"output_co": result}, tmp_path / "page.html").read_text(encoding="utf-8")
    assert hostile not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
