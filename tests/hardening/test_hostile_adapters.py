"""What a stranger's adapter may hold, and the one line that it gets: within seconds, without eating the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.architectures import make_model, make_tokenizer
from tests.checkpoints import save_adapter
from tuco_lens import LoadError, ModelPair
from tuco_lens.models import adapter_checks

peft = pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
pytestmark = [pytest.mark.bridge, pytest.mark.timeout(120)]

SLOW = r"(([a-z0-9_.]+)+)+!"
"""Takes `re` longer than anybody waits, on the name of a module."""
RANK = "a rank is a whole number"
BUSY = "takes more than 1 s to match"

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "r is text": ({"r": "four"}, RANK),
    "r is huge": ({"r": 10**8}, RANK),
    "r is 0": ({"r": 0}, "should be a positive integer"),
    "r is negative": ({"r": -4}, RANK),
    "r is a fraction": ({"r": 4.5}, RANK),
    "r is true": ({"r": True}, RANK),
    "lora_alpha is null": ({"lora_alpha": None}, "lora_alpha is None, which is no number"),
    "lora_alpha is text": ({"lora_alpha": "x"}, "lora_alpha is 'x', which is no number"),
    "dropout is text": ({"lora_dropout": "x"}, "lora_dropout is 'x'"),
    "dropout over 1": ({"lora_dropout": 2.0}, "between 0 and 1"),
    "bad pattern": ({"target_modules": "(q_proj"}, "its target_modules is no regular expression"),
    "slow pattern": ({"target_modules": SLOW}, BUSY),
    "bad exclusion": ({"exclude_modules": "(["}, "its exclude_modules is no regular expression"),
    "bad key of alpha_pattern": ({"alpha_pattern": {"(q": 4}}, "its alpha_pattern is no regular expression"),
    "slow key of alpha_pattern": ({"alpha_pattern": {SLOW: 4}}, BUSY),
    "text in alpha_pattern": ({"alpha_pattern": {"q_proj": "x"}}, "its alpha_pattern has 'x'"),
    "text in rank_pattern": ({"rank_pattern": {"q_proj": "x"}}, RANK),
    "rank_pattern is a list": ({"rank_pattern": [1]}, "which is no table"),
    "slow layers_pattern": ({"layers_to_transform": [0], "layers_pattern": SLOW}, BUSY),
    "LoftQ without its settings": ({"init_lora_weights": "loftq"}, "loftq_config"),
    "LoftQ with others": ({"init_lora_weights": "loftq", "loftq_config": {"x": 1}}, "loftq_bits"),
    "CorDA without its data": ({"init_lora_weights": "corda"}, "eigens"),
    "unknown initialisation": ({"init_lora_weights": "zzz"}, "zzz"),
    "arrow": ({"arrow_config": {"x": 1}}, "cannot load the adapter"),
    "targets are a number": ({"target_modules": 5}, "not a list of names"),
    "targets are empty": ({"target_modules": []}, "target_modules"),
    "targets are nested": ({"target_modules": [["q_proj"]]}, "cannot load the adapter"),
    "saved modules are numbers": ({"modules_to_save": [5]}, "not a list of names"),
    "unknown kind": ({"peft_type": "NOPE"}, "NOPE"),
    "no kind": ({"peft_type": None}, "cannot load the adapter"),
    "unknown bias": ({"bias": "weird"}, "weird"),
    "tokens that are not there": ({"trainable_token_indices": [10**9]}, "out of bounds"),
    "Megatron": ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config"),
    "an activated adapter": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "layers used twice": ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
}


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama")


@pytest.fixture
def adapter(base: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    save_adapter(folder, base, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    return folder


def refused(base: Any, adapter: Path) -> str:
    with pytest.raises(LoadError) as caught:
        ModelPair.from_pretrained(base, adapter=adapter, backend="bridge", tokenizer=make_tokenizer())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_one_line(
    case: str, base: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_checks, "_SECONDS", 1)
    edits, reason = CONFIGS[case]
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **edits}), encoding="utf-8")
    assert reason in refused(base, adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(name: str, base: Any, adapter: Path) -> None:
    (adapter / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    message = refused(base, adapter)
    assert name in message
    assert "git lfs pull" in message


def test_a_runs_folder_is_answered_with_its_checkpoints_in_their_order(base: Any, tmp_path: Path) -> None:
    for step in (500, 1000, 20):
        save_adapter(tmp_path / "run" / f"checkpoint-{step}", base, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    assert "checkpoint-20, checkpoint-500, checkpoint-1000" in refused(base, tmp_path / "run")
