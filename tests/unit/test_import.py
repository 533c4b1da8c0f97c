"""Importing the package and asking the program for help load no heavy library.

Loaded modules are counted, not seconds: a wall-clock bound would depend on what else the machine is doing.
"""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch",
    "transformers",
    "transformer_lens",
    "huggingface_hub",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "plotly",
    "circuitsvis",
    "peft",
)


def heavy_modules_after(statements: str) -> list[str]:
    """The names in `HEAVY` that a fresh interpreter has loaded once it has run the statements."""
    report = f"import json, sys; sys.stderr.write('\\n' + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    command = [sys.executable, "-c", f"{statements}\n{report}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stderr.splitlines()[-1])


def test_the_probe_sees_a_heavy_import():
    assert "numpy" in heavy_modules_after("import numpy")


def test_importing_the_package_loads_no_heavy_library():
    assert heavy_modules_after("import tuco_lens") == []


def test_asking_the_program_for_help_loads_no_heavy_library():
    ask_for_help = """
import sys
from tuco_lens.cli import main

sys.argv = ["tuco-lens", "--help"]
try:
    status = main()
except SystemExit as stop:
    status = stop.code
assert status in (None, 0), status
"""
    assert heavy_modules_after(ask_for_help) == []
