"""The rooms of the package: `make check` refuses an arrow against the layers and a circle within a room."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).resolve().parents[2]


def lint(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "tuco_lens", tmp_path / "tuco_lens", ignore=shutil.ignore_patterns("*.safetensors", "*.json")
    )
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("engine/metrics.py", "from tuco_lens.results import measurement", "Arrows point down BROKEN"),
        ("stats/words.py", "def late() -> None:\n    import tuco_lens.pair", "Arrows point down BROKEN"),
        ("stats/words.py", "from tuco_lens.stats import areas", "No circles BROKEN"),
    ],
)
def test_an_arrow_against_the_layers_is_refused(copied: Path, module: str, line: str, contract: str) -> None:
    path = copied / "tuco_lens" / module
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    status, said = lint(copied)
    assert status == 1
    assert contract in said


def test_the_rooms_as_they_are_keep_the_layers(copied: Path) -> None:
    status, said = lint(copied)
    assert status == 0, said
