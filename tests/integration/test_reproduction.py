"""docs/reproduction.md is what its script writes from the results that are kept, and they hold no attack string."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import reproduction

KEPT = sorted(reproduction.RESULTS.glob("*/*.json"))


def attacks(file: Path) -> list[list[object]]:
    """What tells the attack strings of a result, as text or as tokens."""
    found = json.loads(file.read_text(encoding="utf-8")).get("facts", {}).get("attacks", ())
    return [[each[name] for name in ("attack", "token_ids", "last_ids")] for each in found]


@pytest.mark.data
def test_the_page_is_what_its_script_writes(data_dir: Path) -> None:
    assert reproduction.page(reproduction.kept(), data_dir) == reproduction.PAGE.read_text(encoding="utf-8")


def test_no_kept_result_holds_an_attack_string() -> None:
    assert {file.parent.name for file in KEPT} <= set(reproduction.PAIRS)
    found = [each for file in KEPT for each in attacks(file)]
    assert found
    assert all(each == ["", [], []] for each in found)


def test_what_was_run_since_is_kept_without_its_attack_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "BUILD", tmp_path / "build")
    monkeypatch.setattr(reproduction, "RESULTS", tmp_path / "results")
    (tmp_path / "build" / "demo").mkdir(parents=True)
    content = {
        "settings": {"base": "b"},
        "facts": {"attacks": [{"attack": "x y z", "token_ids": [1, 2, 3], "last_ids": [1, 2, 4], "loss": 1.5}]},
    }
    (tmp_path / "build" / "demo" / "gcg.json").write_text(json.dumps(content), encoding="utf-8")
    reproduction.keep("demo")
    kept = tmp_path / "results" / "demo" / "gcg.json"
    assert json.loads(kept.read_text(encoding="utf-8")) == {
        "settings": {"base": "b"},
        "facts": {"attacks": [{"attack": "", "token_ids": [], "last_ids": [], "loss": 1.5}]},
    }
    assert [path.name for path in kept.parent.iterdir()] == ["gcg.json"]
