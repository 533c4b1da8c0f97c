"""`pair.explain` and `tuco-lens explain`: the parts are those of the methods, and the line says what they hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.test_components import BACKENDS
from tests.pairs import byte_tokenizer, thin_pair, tiny_llama, tiny_pair, tuned_copy
from tuco_lens import ModelPair
from tuco_lens.attribution.explanation import Explanation, best_window
from tuco_lens.cli.app import run
from tuco_lens.errors import InputError


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_part_is_what_its_own_method_says(backend: str, tmp_path: Path) -> None:
    pair = tiny_pair(backend)
    asked: dict[str, Any] = {"answer": "a", "against": "b"}
    found = pair.explain("one two", **asked, patch="head")
    assert found.components.values == pytest.approx(pair.components("one two", heads=True).values)
    assert found.components.heads is not None
    assert found.sources is not None
    assert found.sources.values == pytest.approx(pair.sources("one two").values)
    assert found.logits.values == pytest.approx(pair.logit_attribution("one two", **asked).values)
    assert found.values == pytest.approx(pair.integrated_gradients("one two", **asked).values, abs=1e-5)
    assert found.patching is not None
    assert found.patching.values == pytest.approx(pair.patching("one two", **asked, over="head").values, abs=1e-5)
    assert found.lens.promoted.tolist() == pair.logit_lens("one two", of="cumulative_ftc", k=5).promoted.tolist()
    assert not found.missing
    loaded = Explanation.load(found.save(tmp_path / "explanation.safetensors"))
    assert loaded.to_frame().equals(found.to_frame())
    assert (loaded.summary(), loaded.next_tokens) == (found.summary(), found.next_tokens)
    assert set(found.to_frame()["part_of"]) == set(Explanation.WITHIN)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_line_says_what_the_parts_hold(backend: str) -> None:
    found = tiny_pair(backend).explain("one two", answer="a", against="b")
    shares, gradients, effects = found.components, found.gradients, found.patching
    assert effects is not None
    line = found.summary()
    assert f"TuCo {shares.tuco:.2f} at position 6" in line
    largest = max(  # a run is of one layer here, since there are three
        (float(shares.values[layer, column]), layer, name)
        for layer in range(3)
        for column, name in enumerate(shares.components)
    )
    assert f"{100 * largest[0] / shares.tuco:.0f} % of it from {largest[2]} of layer {largest[1]}." in line
    assert f"'a' over 'b' by {gradients.at_1:.1f} logits, {gradients.at_0:.1f} at α = 0" in line
    assert f"of the change of {gradients.change:+.1f}" in line
    layer, column = np.unravel_index(np.abs(effects.values).argmax(), effects.values.shape)
    assert f"Without FTC in {effects.columns[column]} of layer {layer}" in line
    assert "Without" not in tiny_pair(backend).explain("one two", answer="a", patch=None).summary()


def test_a_run_is_as_short_as_does() -> None:
    assert best_window(np.array([0.0, 1.0, 5.0, 1.0, 0.0]), 1) == (2, 2, 5.0)
    assert best_window(np.array([0.0, 3.0, 5.0, -1.0]), 3) == (1, 2, 8.0)
    assert best_window(np.array([0.01, 5.0, 0.01]), 3) == (1, 1, 5.0)
    assert best_window(np.array([-2.0, -1.0]), 2) == (1, 1, -1.0)
    assert best_window(np.array([2.0]), 3) == (0, 0, 2.0)


def test_what_the_architecture_does_not_tell_is_missing_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("no hook_pattern", "attention is fused", "ask without that part")

    monkeypatch.setattr("tuco_lens.attribution.explanation.sources", refuse)
    found = tiny_pair("bridge").explain("one two", answer="a")
    assert found.sources is None
    assert found.missing == {"sources": "no hook_pattern: attention is fused; ask without that part"}


def test_equal_models_have_nothing_to_explain(tmp_path: Path) -> None:
    pair = tiny_pair("bridge", strength=0.0)
    for patch in ("component", "head", "layer_token", "layer"):
        found = pair.explain("one two", answer="a", against="b", patch=patch)
        assert "fine-tuning adds nothing here" in found.summary()
        assert not found.values.any()
        assert 'id="why"' in found.page(tmp_path / "page.html").read_text(encoding="utf-8")
    split = pair.integrated_gradients("one two", answer="a", over="head")
    assert split.parts == ("0", "1", "2", "3", "bias", "mlp", "other")
    assert len(split.parts_figure().data[0].x) == 7  # pyright: ignore


def test_one_layer_one_token_and_one_head_are_explained_and_drawn(tmp_path: Path) -> None:
    found = tiny_pair("bridge", n_layers=1).explain([5], answer="a", against="b", patch="layer_token")
    assert found.values.shape == (1, 1)
    assert "layer 0" in found.summary()
    assert 'id="causes"' in found.page(tmp_path / "page.html").read_text(encoding="utf-8")


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")
    with pytest.raises(InputError, match="2 tokens"):
        pair.explain("one", answer="ab")
    with pytest.raises(InputError, match="position 9 is out of range"):
        pair.explain("one", position=9)
    with pytest.raises(InputError, match="over 'neuron'"):
        pair.explain("one", patch="neuron")  # pyright: ignore[reportArgumentType]
    with pair.scaled(0.5), pytest.raises(InputError, match="a scaling is on"):
        pair.explain("one")


def explain(*arguments: object) -> int:
    return run(["explain", "--pair", "demo", "--prompt", "Name three rivers.", "--no-progress", *map(str, arguments)])


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> ModelPair:
    pair = thin_pair(64)
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": pair))
    return pair


def test_the_command_says_the_line_and_writes_page_and_numbers(
    thin: ModelPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.safetensors"
    arguments = ("--chat", "--answer", "I", "--against", "Sure", "--patch", "head", "--html", page, "--out", numbers)
    assert explain(*arguments) == 0
    expected = thin.explain("Name three rivers.", chat=True, answer="I", against="Sure", patch="head")
    out = capsys.readouterr().out
    assert out.split("\n")[:3] == [expected.summary(), f"wrote {page}", f"wrote {numbers}"]
    assert Explanation.load(numbers).patching is not None
    text = page.read_text(encoding="utf-8")
    assert all(f'id="{name}"' in text for name in ("next", "why", "causes", "components", "sources", "words", "logits"))
    assert explain("--patch", "none", "--answer", "I", "--answer", "Sure") == 0
    assert "'I, Sure' by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--answer", "Sure thing"], "not one token"),
        (["--html", "page.txt"], "ends in .html"),
        (["--out", "numbers.json"], "ends in .safetensors"),
        (["--html", "nowhere/page.html"], "there is no folder"),
        (["--html", "there.html"], "give --overwrite"),
        (["--patch", "neuron"], "--patch"),
    ],
)
def test_what_the_command_refuses_is_one_line_and_writes_nothing(
    thin: ModelPair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    assert explain(*arguments) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_in_other_dtypes_it_says_the_same_but_for_their_rounding(backend: str, dtype: str) -> None:
    models = tiny_llama(), tuned_copy(tiny_llama())
    wide, other = (
        ModelPair.from_pretrained(
            *map(copy.deepcopy, models), tokenizer=byte_tokenizer(), backend=backend, dtype=each
        ).explain("one two", answer="a", against="b")
        for each in ("float32", dtype)
    )
    error = {"bfloat16": 0.05, "float16": 0.01, "float64": 1e-4}[dtype]
    assert other.components.tuco == pytest.approx(wide.components.tuco, rel=error)
    size = np.abs(wide.values).max()
    assert other.values == pytest.approx(wide.values, abs=2 * error * size)
    assert other.patching is not None
    assert wide.patching is not None
    columns = [other.patching.columns.index(name) for name in ("attention", "mlp")]
    effects = wide.patching.values
    assert other.patching.values[:, columns] == pytest.approx(effects, abs=2 * error * np.abs(effects).max())
    assert not other.missing
