"""How long the first things take: the import, `--help`, the demo pair, the demo command; beside a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("tuco-lens"))
IMPORT = "import time; t = time.perf_counter(); import tuco_lens; print(time.perf_counter() - t)"
DEMO = """
import time, warnings
warnings.simplefilter("ignore")
import tuco_lens as tl
tl.ModelPair.demo(backend={backend!r})  # imports, and the page cache
t = time.perf_counter()
tl.ModelPair.demo(backend={backend!r})
print(time.perf_counter() - t)
"""


def wall(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def printed(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def show(what: str, values: list[float], bar: str = "") -> None:
    print(f"{what:48} {statistics.median(values):7.3f} s  (bar {bar})" if bar else f"{what:48} {values[0]:7.3f} s")


def main() -> None:
    show("bare interpreter", [statistics.median(wall([sys.executable, "-c", "pass"]) for _ in range(5))])
    show("import tuco_lens, inside a running interpreter", [printed(IMPORT) for _ in range(5)], "0.1 s")
    show("tuco-lens --help, whole process", [wall([PROGRAM, "--help"]) for _ in range(5)], "0.5 s")
    for backend in ("hooked", "bridge"):
        show(f"ModelPair.demo(), imports warm, {backend}", [printed(DEMO.format(backend=backend))], "5 s")
    with tempfile.TemporaryDirectory() as folder:
        show("tuco-lens demo, whole process", [wall([PROGRAM, "demo", "--out", f"{folder}/demo"])], "60 s")


if __name__ == "__main__":
    main()
