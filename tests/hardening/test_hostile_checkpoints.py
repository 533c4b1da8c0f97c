"""A shard index that a stranger wrote: what it may not name, and the one line that it gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.architectures import make_model
from tests.checkpoints import save_checkpoint
from tuco_lens import LoadError
from tuco_lens.models.loading import load_pair

pytestmark = pytest.mark.bridge

OUTSIDE = "which is no file of that folder"
INDEXES: dict[str, tuple[str, str]] = {
    "a folder above": (json.dumps({"weight_map": {"x": "../other/model.safetensors"}}), OUTSIDE),
    "a folder above, from within": (json.dumps({"weight_map": {"x": "a/../../model.safetensors"}}), OUTSIDE),
    "an absolute path": (json.dumps({"weight_map": {"x": "/etc/passwd"}}), OUTSIDE),
    "a path of Windows": (json.dumps({"weight_map": {"x": "..\\\\other\\\\model.safetensors"}}), OUTSIDE),
    "a drive of Windows": (json.dumps({"weight_map": {"x": "C:\\\\model.safetensors"}}), OUTSIDE),
    "a name of 5,000 bytes": (json.dumps({"weight_map": {"x": "x" * 5000}}), OUTSIDE),
    "nested 10,000 deep": ("[" * 10_000 + "]" * 10_000, "is not an index of safetensors files"),
    "a list": ("[1]", "is not an index of safetensors files"),
    "a file that is not there": (json.dumps({"weight_map": {"x": "gone.safetensors"}}), "is missing"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_cannot_be_is_one_line(case: str, tmp_path: Path) -> None:
    base, tuned = save_checkpoint(tmp_path / "base", make_model("llama")), tmp_path / "tuned"
    save_checkpoint(tuned, make_model("llama"))
    save_checkpoint(tmp_path / "other", make_model("llama"))  # what the index points to is there
    (tuned / "model.safetensors").unlink()
    text, reason = INDEXES[case]
    (tuned / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(LoadError, match=reason) as caught:
        load_pair(base, tuned, backend="bridge")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
