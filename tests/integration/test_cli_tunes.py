"""`tuco-lens compare` and `trajectory`: what they write and say, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tuco_lens as tl
from tests.architectures import make_pair
from tests.checkpoints import save_adapter, save_checkpoint
from tests.measurements import HOSTILE
from tuco_lens import InputError
from tuco_lens.cli.app import run
from tuco_lens.tunes.page import write_page

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::tuco_lens.models.loading.AdapterNotice"),
]
LoraConfig = pytest.importorskip("peft").LoraConfig


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    base, tuned = make_pair("llama")
    save_checkpoint(folder / "base", base)
    save_checkpoint(folder / "whole", tuned)
    save_adapter(folder / "lora", base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for step in (5, 10):
        save_adapter(folder / "run" / f"checkpoint-{step}", base, LoraConfig(r=2, target_modules=["q_proj"]))
    (folder / "long.txt").write_text("w5 w6 w7 w8\nw9 w10 w11\n")
    (folder / "chat.jsonl").write_text('{"prompt": "w40 w41"}\n{"prompt": "w50 w51 w52"}\n{"prompt": "w3"}\n')
    return folder


def command(name: str, shelf: Path, out: Path, *more: object) -> int:
    return run([name, "--base", str(shelf / "base"), "--out", str(out), "--no-progress", *map(str, more)])


def prompts(shelf: Path) -> tuple[object, ...]:
    return "--prompts", shelf / "long.txt", "--prompts", f"short={shelf / 'chat.jsonl'}"


def test_compare_writes_rows_figures_report_and_measurements_and_says_what_differs(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--adapter", shelf / "lora", "--tuned", f"the whole={shelf / 'whole'}", *prompts(shelf)]
    assert command("compare", shelf, out, *arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "Told apart" in said.out or "No two tunes are told apart" in said.out
    names = {"comparison.json", "figures.html", "measurements", "report.html", "rows.jsonl"}
    assert {path.name for path in out.iterdir()} == names
    found = tl.TuneComparison.load(out)
    assert found.names == ("lora", "the whole")
    assert found.groups == ("long",) * 2 + ("short",) * 3
    assert len((out / "rows.jsonl").read_text().splitlines()) == 2 * 5
    for name in found.names:
        assert name in (out / "report.html").read_text()
    assert command("compare", shelf, out, *arguments) == 2
    assert "it is there already" in capsys.readouterr().err
    assert command("compare", shelf, out, *arguments, "--resume") == 0


def test_trajectory_writes_a_row_per_step_and_prompt(shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--checkpoints", shelf / "run", "--prompt", "w5 w6", "--keep", "last", "--rows", "csv"]
    assert command("trajectory", shelf, out, *arguments) == 0
    assert not (out / "report.html").exists()
    lines = (out / "rows.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['"step"', "0", "5", "10"]
    assert lines[1].split(",")[5] == "0.0"
    assert tl.Trajectory.load(out).group_names == ("prompt",)


def test_a_report_of_many_maps_shows_the_first_prompts_and_says_so(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tuco_lens.cli.tunes.REPORT_MAPS", 9)
    assert command("trajectory", shelf, tmp_path / "out", "--checkpoints", shelf / "run", *prompts(shelf)) == 0
    assert "report.html shows the first 3 of 5 prompts" in capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text()
    assert "w50 w51 w52" not in page
    assert "w40 w41" in page


def test_a_tune_that_cannot_be_loaded_stops_the_run_or_is_left_out_with_a_warning(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--adapter", shelf / "lora", "--adapter", shelf / "absent", "--prompt", "w5"]
    assert command("compare", shelf, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("tuco-lens: error: tune 'absent': ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert command("compare", shelf, tmp_path / "out", *arguments, "--on-error", "skip") == 0
    said = capsys.readouterr()
    assert said.err.startswith("tuco-lens: warning: 1 left out; ")
    assert "absent" in json.loads((tmp_path / "out" / "comparison.json").read_text())["left_out"]


BAD: dict[str, tuple[str, list[Any], str]] = {
    "no tune": ("compare", ["--prompt", "w5"], "give --adapter, --tuned"),
    "no prompts": ("compare", ["--adapter", "lora"], "neither --prompts nor --prompt"),
    "one name twice": ("compare", ["--adapter", "a=lora", "--tuned", "a=whole", "--prompt", "w5"], "two tunes"),
    "one group twice": ("compare", ["--adapter", "lora", "--prompts", "long.txt", "--prompts", "long.txt"], "GROUP=F"),
    "no checkpoints": ("trajectory", ["--checkpoints", "lora/nothing", "--prompt", "w5"], "no checkpoints at"),
    "an empty prompt": ("compare", ["--adapter", "lora", "--prompt", ""], "empty"),
    "a device map and a whole model": (
        "compare",
        ["--tuned", "whole", "--prompt", "w5", "--device-map", '{"": "cpu"}'],
        "the device map spreads the base with adapters",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shelf)
    which, arguments, words = BAD[name]
    assert command(which, shelf, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("tuco-lens: error: ")
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_and_prompts_do_nothing_in_files_pages_and_terminal(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [text for text in HOSTILE if text != "\ud800"]
    tunes = {f"{text}{i}": shelf / "lora" for i, text in enumerate(texts)}
    groups = {text: ["w5 w6", text] for text in texts if text.strip()}
    with pytest.raises(InputError, match=r"^prompt 1: .*lone surrogate"):
        tl.compare(shelf / "base", tunes, ["w5", "\ud800"])
    for named, grouped in (({"\ud800": shelf / "lora"}, ["w5"]), (tunes, {"\ud800": ["w5"]})):
        with pytest.raises(InputError, match=r"^the name of a (tune|group): .*lone surrogate"):
            tl.compare(shelf / "base", named, grouped)
    found = tl.compare(shelf / "base", tunes, groups, keep="maps", out=tmp_path / "out")
    pages = [found.report(tmp_path / "r.html"), write_page(found, tmp_path / "f.html", title=HOSTILE[0])]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert "<script>alert" not in text
    assert "\x1b" not in found.summary() + repr(found)
    inside = {path.parent.name for path in (tmp_path / "out").rglob("*.safetensors")}
    assert inside == {"measurements"}
    assert tl.TuneComparison.load(tmp_path / "out").names == tuple(tunes)
