"""The code of `docs/steering.md` runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_code_of_the_steering_page_runs_and_leaves_no_scaling_on(repository: Path) -> None:
    page = (repository / "docs" / "steering.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    exec(compile("\n".join(blocks), "docs/steering.md", "exec"), names)
    assert names["pair"].active_scalings == []  # pyright: ignore[reportAttributeAccessIssue]
