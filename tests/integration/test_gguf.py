"""A local .gguf file is a model like any other: same numbers, its own tokenizer, clear errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.architectures import make_ids
from tests.checkpoints import save_checkpoint, save_gguf
from tuco_lens.cli.app import run
from tuco_lens.errors import LoadError
from tuco_lens.models.files import gguf_parsed_once
from tuco_lens.models.hooked import unsupported_reason
from tuco_lens.models.loading import load_pair

pytest.importorskip("gguf", reason="the package gguf (extra `gguf`) is not installed")
pytestmark = pytest.mark.bridge


def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_of(tmp_path: Path) -> None:
    source = save_gguf(tmp_path / "tiny.gguf")
    pair = load_pair(tmp_path / "tiny.gguf", str(tmp_path / "tiny.gguf"), backend="bridge")
    ids = make_ids()
    with torch.no_grad():
        expected = source(ids).logits
        for model in (pair.base, pair.tuned):
            torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)
    assert pair.tuned_name.endswith("tiny.gguf")
    assert len(pair.tokenizer) == source.config.vocab_size
    assert pair.tokenizer.encode("!A", add_special_tokens=False) == [3, 35]


def test_a_gguf_file_loads_into_whatever_backend_auto_takes(tmp_path: Path) -> None:
    source = save_gguf(tmp_path / "tiny.gguf")
    pair = load_pair(tmp_path / "tiny.gguf", tmp_path / "tiny.gguf")
    assert pair.backend == ("hooked" if unsupported_reason(source.config) is None else "bridge")
    ids = make_ids()
    with torch.no_grad():
        torch.testing.assert_close(pair.tuned(ids), source(ids).logits, rtol=0, atol=1e-5)


def test_a_gguf_file_and_a_directory_are_a_pair_although_gguf_rounds_its_settings_to_float32(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "base", save_gguf(tmp_path / "tiny.gguf"))
    pair = load_pair(folder, tmp_path / "tiny.gguf", backend="bridge")
    with torch.no_grad():
        torch.testing.assert_close(pair.base(make_ids()), pair.tuned(make_ids()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("same", [True, False], ids=["one file", "two files"])
def test_each_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    import gguf

    parsed: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: Any, *args: Any) -> None:
            parsed.append(Path(path).name)
            super().__init__(path, *args)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    names = ["a.gguf", "a.gguf" if same else "b.gguf"]
    for name in set(names):
        save_gguf(tmp_path / name)
    load_pair(*(tmp_path / name for name in names), backend="bridge")
    assert sorted(parsed) == sorted(set(names))
    assert gguf.GGUFReader is Counted


def test_what_is_parsed_once_is_what_transformers_parses(tmp_path: Path) -> None:
    from transformers import modeling_gguf_pytorch_utils

    save_gguf(tmp_path / "tiny.gguf")
    load: Any = modeling_gguf_pytorch_utils.load_gguf_checkpoint
    config = AutoConfig.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    own = load(tmp_path / "tiny.gguf", return_tensors=True, model_to_load=model)
    with gguf_parsed_once():
        for _ in range(2):  # read, and remembered
            ours = load(tmp_path / "tiny.gguf", return_tensors=True, model_to_load=model)
            tensors, expected = (found.pop("tensors") for found in (ours, dict(own)))
            assert ours == {name: value for name, value in own.items() if name != "tensors"}
            assert tensors.keys() == expected.keys()
            assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert modeling_gguf_pytorch_utils._gguf_parse_value.__module__.startswith("transformers.")


def test_a_cut_off_gguf_file_is_refused_in_one_line(tmp_path: Path) -> None:
    save_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LoadError, match=r"cut\.gguf") as caught:
        load_pair(tmp_path / "cut.gguf", tmp_path / "cut.gguf")
    assert "\n" not in str(caught.value)


def test_a_file_that_only_ends_in_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("GGML, long ago")
    with pytest.raises(LoadError, match="not in the GGUF format"):
        load_pair(tmp_path / "text.gguf", tmp_path / "text.gguf")


def test_without_the_gguf_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else sys.modules.get(name))
    with pytest.raises(LoadError, match=r"tuco_lens\[gguf\]"):
        load_pair(tmp_path / "tiny.gguf", tmp_path / "tiny.gguf")


@pytest.mark.slow
def test_smollm2_writes_english() -> None:
    file = os.environ.get("TUCO_LENS_SMOLLM2")
    if not file:
        pytest.skip("TUCO_LENS_SMOLLM2 does not name a SmolLM2-135M-Instruct .gguf file")
    pair = load_pair(file, file, backend="bridge")
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = pair.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False, return_tensors="pt")
    answer = pair.tuned.generate(ids, max_new_tokens=12, do_sample=False, return_type="tokens", verbose=False)
    assert "Paris" in pair.tokenizer.decode(answer[0, ids.shape[1] :])


def test_a_file_that_was_kept_dequantised_loads_as_a_folder_with_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "tiny.gguf", tmp_path / "kept"
    save_gguf(file)
    assert run(["cache", str(file), "--out", str(out)]) == 0
    kept, read = (load_pair(given, given, backend="bridge") for given in (out, file))
    ids = make_ids()
    with torch.no_grad():
        assert torch.equal(kept.tuned(ids), read.tuned(ids))
    assert kept.tokenizer.encode("!A b") == read.tokenizer.encode("!A b")
    assert kept.eos_token_ids == read.eos_token_ids
    capsys.readouterr()
    for wrong, why in (([str(file), "--out", str(out)], "there already"), ([str(out), "--out", "x"], "no .gguf file")):
        assert run(["cache", *wrong]) == 2
        assert why in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.gguf", "kept"}
