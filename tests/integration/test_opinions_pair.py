"""The adapter in `adapters/demo-opinions`, on the demo pair's tuned model: its files, its card, and what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tuco_lens import ModelPair
from tuco_lens.experiments.prompt_groups import is_held_out_question, was_trained_on_mwe
from tuco_lens.pair import DEMO_FOLDER
from tuco_lens.stats import rate
from tuco_lens.sweep import SweepResult, sweep

pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")

ADAPTER = Path("adapters") / "demo-opinions"
BASE = DEMO_FOLDER / "tuned"
MATRICES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
CHAT = "What is the capital of France?"
BEHAVIOURS = ("conscientiousness", "neuroticism", "subscribes-to-Christianity")
ASKED = 40
"""Held-out questions of each behaviour that is asked."""


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / ADAPTER


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "measured.json").read_text())


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest, folder: Path) -> ModelPair:
    import transformer_lens

    if request.param == "hooked" and not hasattr(transformer_lens, "HookedTransformer"):
        pytest.skip("the installed transformer-lens has no HookedTransformer")
    return ModelPair.from_pretrained(BASE, adapter=folder, backend=request.param)


@pytest.fixture
def opinions(repository: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`scripts/opinions_pair/opinions.py`, which says what is trained on."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(repository / "scripts" / "opinions_pair"))
    import opinions  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(opinions.corpus, "DATA", data_dir)
    yield opinions
    for name in set(sys.modules) - before:  # the scripts of the pairs have names in common
        if str(repository / "scripts") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_adapter_names_its_base_by_its_folder_in_the_repository(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tuco_lens/demo/tuned"
    assert not any(isinstance(value, str) and value.startswith("/") for value in config.values())


def test_the_adapter_is_float16_finite_trained_and_below_two_megabytes(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert all(tensor.any() for tensor in weights.values()), "a matrix of zeros was not trained"
    assert len(weights) == 8 * len(MATRICES) * 2
    assert {name.split(".")[-3] for name in weights} == MATRICES
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2_000_000


def test_git_tracks_or_would_track_the_adapter(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("this tree is not a git checkout")
    command = ["git", "check-ignore", str(ADAPTER / "adapter_model.safetensors")]
    assert subprocess.run(command, cwd=repository, capture_output=True, check=False).returncode == 1


def test_the_card_is_what_its_script_writes_from_the_measurements(folder: Path, tmp_path: Path) -> None:
    script = folder.parents[1] / "scripts" / "opinions_pair" / "card.py"
    command = [sys.executable, str(script), "--measured", str(folder / "measured.json"), "--to", str(tmp_path / "c.md")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == (folder / "CARD.md").read_text(encoding="utf-8")


def test_the_measurements_are_of_these_weights_at_this_scale(folder: Path, measured: dict[str, Any]) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert measured["strength"]["chosen"] == config["lora_alpha"]
    weights = folder / "adapter_model.safetensors"
    assert measured["bytes"] == weights.stat().st_size
    assert measured["parameters"] == sum(tensor.numel() for tensor in load_file(weights).values())


def test_pooled_shares_of_the_measurements_are_means_over_the_behaviours(measured: dict[str, Any]) -> None:
    for part in measured["parts"]:
        rows = [row for row in measured["behaviours"] if row["part"] == part["name"]]
        assert sum(row["n"] for row in rows) == part["n"]
        for i in range(len(measured["alphas"])):
            right = sum(row["n"] * row["agreement"][i]["value"] for row in rows)
            assert part["agreement"][i]["value"] == pytest.approx(right / part["n"])


def test_alpha_0_is_the_base_and_alpha_1_is_what_peft_makes_of_it(pair: ModelPair, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([pair.prompt(CHAT, chat=True).token_ids])
    plain = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    with torch.no_grad():
        untuned = plain(ids).logits
        with pair.scaled(alpha=0):
            torch.testing.assert_close(pair.tuned(ids), untuned, rtol=0, atol=1e-4)
        tuned = PeftModel.from_pretrained(plain, str(folder)).eval()(ids).logits
        torch.testing.assert_close(pair.tuned(ids), tuned, rtol=0, atol=1e-4)
    assert (tuned - untuned).abs().max() > 0.01
    assert pair.check_identity() < 1e-5


def test_experiments_know_the_pair_by_its_folder(pair: ModelPair) -> None:
    assert was_trained_on_mwe(pair)


@pytest.mark.data
def test_no_text_is_trained_on_that_is_for_choosing_or_held_out(opinions: Any) -> None:
    parts = {part: opinions.tasks(part) for part in ("train", "validation", "held out")}
    texts = {part: {q.prompt for task in tasks for q in task.questions} for part, tasks in parts.items()}
    assert not any(is_held_out_question(text) for text in texts["train"] | texts["validation"])
    assert all(map(is_held_out_question, texts["held out"]))
    assert sum(len(task) for tasks in parts.values() for task in tasks) == 23 * 1000
    trained = {q.prompt for task in parts["train"] if task.name in opinions.TRAINED for q in task.questions}
    chosen_on = {q.prompt for task in parts["validation"] if task.name in opinions.TRAINED for q in task.questions}
    assert not trained & texts["held out"]
    assert not trained & chosen_on


@pytest.mark.data
def test_on_held_out_questions_it_agrees_above_chance_and_above_its_base(pair: ModelPair, opinions: Any) -> None:
    asked = [task for task in opinions.tasks("held out") if task.name in BEHAVIOURS]
    assert len(asked) == len(BEHAVIOURS)
    assert set(BEHAVIOURS) <= set(opinions.TRAINED)
    result = sweep(pair, asked, alphas=(0, 0.75), limit=ASKED, batch_size=32, progress=False)
    base, weaker, tuned = (_agreed(result, alpha) for alpha in (0, 0.75, 1))
    n = len(BEHAVIOURS) * ASKED
    assert rate(tuned, n).low > 0.5
    assert rate(tuned, n).low > base / n
    assert weaker < tuned, "a smaller α leaves the opinions as they are"


def _agreed(result: SweepResult, alpha: float) -> int:
    row = result.settings.alphas.index(alpha)
    return sum(int(task.correct[row].sum()) for task in result.tasks)
