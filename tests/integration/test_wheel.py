"""The wheel holds the whole package: a demo that works from a checkout must work once installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    build = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240, check=False)
    assert build.returncode == 0, build.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile, repository: Path):
    package = repository / "tuco_lens"
    files = {
        path.relative_to(repository).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert files - set(wheel.namelist()) == set()


def test_the_wheel_holds_the_demo_pair_and_the_catalogue(wheel: zipfile.ZipFile):
    needed = {
        "tuco_lens/py.typed",
        "tuco_lens/models/catalogue.json",
        "tuco_lens/demo/CARD.md",
        "tuco_lens/demo/prompts.jsonl",
        "tuco_lens/demo/base/model.safetensors",
        "tuco_lens/demo/tuned/model.safetensors",
    }
    assert needed - set(wheel.namelist()) == set()


def test_the_wheel_holds_nothing_but_the_package(wheel: zipfile.ZipFile):
    assert {name.split("/")[0] for name in wheel.namelist()} == {"tuco_lens", "tuco_lens-0.1.0.dist-info"}


def test_the_wheel_names_its_licence_and_its_program(wheel: zipfile.ZipFile):
    metadata = Parser().parsestr(wheel.read("tuco_lens-0.1.0.dist-info/METADATA").decode())
    assert metadata["License-Expression"] == "MIT"
    entry_points = wheel.read("tuco_lens-0.1.0.dist-info/entry_points.txt").decode()
    assert "tuco-lens = tuco_lens.cli:main" in entry_points
