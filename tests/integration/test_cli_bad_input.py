"""Every kind of bad input, in one table: status 2, one line on stderr that says what to do, and nothing written."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tuco_lens.cli.app import run

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CONTEXT = 64


def save_model(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A tiny random Llama, with the tokenizer of the demo pair."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tuco_lens.pair import DEMO_FOLDER

    torch.manual_seed(seed)
    config = LlamaConfig(**{**SIZES, "vocab_size": 4096, "max_position_embeddings": CONTEXT, **settings})
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned").save_pretrained(folder)
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def poison(value: float, weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = value


def drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def write_adapter(folder: Path) -> None:
    """A LoRA adapter of a wider model."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 64, "vocab_size": 4096}))
    get_peft_model(wide, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, good and bad, and prompt files."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("store")
    save_model(folder / "base")
    save_model(folder / "tuned", seed=1)
    save_model(folder / "deep", num_hidden_layers=3)
    save_model(folder / "wide", hidden_size=64)
    save_model(folder / "gelu", hidden_act="gelu")
    for name in ("nan", "infinite", "lacking", "torn", "pickled", "no_template"):
        shutil.copytree(folder / "tuned", folder / name)
    change_weights(folder / "nan", functools.partial(poison, float("nan")))
    change_weights(folder / "infinite", functools.partial(poison, float("inf")))
    change_weights(folder / "lacking", drop)
    whole = (folder / "torn" / "model.safetensors").read_bytes()
    (folder / "torn" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "pickled" / "model.safetensors").unlink()
    torch.save({}, folder / "pickled" / "pytorch_model.bin")
    (folder / "no_template" / "chat_template.jinja").unlink()
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=4096)).save_pretrained(folder / "gpt2")
    (folder / "empty_folder").mkdir()
    (folder / "directory.txt").mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


LONG = "the old river town " * 30
FILES: dict[str, bytes] = {
    "good.txt": b"one\ntwo\n",
    "empty.txt": b"",
    "blank.txt": b"one\n\ntwo\n",
    "latin.txt": "na\u00efve".encode("latin-1"),
    "broken.jsonl": b'{"prompt": "a"}\n{"prompt": \n',
    "field.jsonl": b'{"prompt": "a"}\n{"text": "b"}\n',
    "role.jsonl": b'{"messages": [{"role": "robot", "content": "hi"}]}\n',
    "system.jsonl": b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]}\n',
    "column.csv": b"text\nhi\n",
    "surrogate.jsonl": b'{"prompt": "\\udfff"}\n',
    "prompts.xlsx": b"hi",
    "long.jsonl": json.dumps({"prompt": "short"}).encode() + b"\n" + json.dumps({"prompt": LONG}).encode() + b"\n",
}
# Each: its name; the arguments behind `measure`, S/ for the store, O/ for the output folder; what stderr must match.
PAIR = "--base S/base --tuned S/tuned"
TEXT = "--prompt hi"
OUT = "--out O/o.jsonl"
USAGE: list[tuple[str, str, str]] = [
    ("no such option", f"--pair demo {TEXT} {OUT} --frob", "No such option: --frob.*; see tuco-lens measure --help"),
    ("option without value", f"--pair demo {OUT} --prompt", "--prompt"),
    ("stray argument", f"--pair demo {TEXT} {OUT} stray", "unexpected extra argument"),
    ("unknown norm", f"--pair demo {TEXT} {OUT} --norm l3", "'l3' is not one of 'l1', 'l2'"),
    ("batch of none", f"--pair demo {TEXT} {OUT} --batch-size 0", "--batch-size"),
    ("batch of no tokens", f"--pair demo {TEXT} {OUT} --batch-tokens 0", "--batch-tokens: .*'0'; give a whole number"),
    ("batch of all tokens", f"--pair demo {TEXT} {OUT} --batch-tokens all", "--batch-tokens: .*'all'"),
    ("report of no maps", f"--pair demo {TEXT} {OUT} --keep last --html O/r.html", "keeps no maps; leave out --html"),
    ("no pair", f"{TEXT} {OUT}", "no pair: .*; give --base and --tuned, or --pair demo"),
    ("no tuned", f"--base S/base {TEXT} {OUT}", "neither --tuned nor --adapter is given"),
    ("tuned and adapter", f"{PAIR} --adapter S/x {TEXT} {OUT}", "both --tuned and --adapter"),
    ("pair and base", f"--pair demo --base S/base {TEXT} {OUT}", "--pair names both models already"),
    ("unknown pair", f"--pair nope {TEXT} {OUT}", "no pair has that name; .*tuco-lens pairs"),
    ("demo elsewhere", f"--pair demo --device cuda {TEXT} {OUT}", "it runs in float32 on the CPU"),
    ("no prompts", f"--pair demo {OUT}", "neither --prompts nor --prompt is given"),
    ("no output", f"--pair demo {TEXT}", "--out is not given"),
]
PROMPTS: list[tuple[str, str, str]] = [
    ("missing file", "--prompts S/none.txt", "none.txt: No such file"),
    ("directory", "--prompts S/directory.txt", "it is a directory"),
    ("unknown ending", "--prompts S/prompts.xlsx", r"give a file that ends in \.txt, \.jsonl, \.csv"),
    ("empty file", "--prompts S/empty.txt", "empty.txt: it is empty"),
    ("not UTF-8", "--prompts S/latin.txt", "line 1: it is not UTF-8: byte 0xEF at offset 2"),
    ("broken JSON", "--prompts S/broken.jsonl", "broken.jsonl, line 2: broken JSON"),
    ("no prompt field", "--prompts S/field.jsonl", "field.jsonl, line 2: it has neither of the fields"),
    ("no prompt column", "--prompts S/column.csv", "its columns are text"),
    ("unknown role", "--prompts S/role.jsonl", "line 1, message 0: its role is 'robot'"),
    ("lone surrogate", "--prompts S/surrogate.jsonl", r"lone surrogate U\+DFFF"),
    ("blank line", "--prompts S/blank.txt", "blank.txt, line 2: it is empty"),
    ("empty prompt", "--prompt E/", "--prompt: it is empty"),
    ("second file broken", "--prompts S/good.txt --prompts S/field.jsonl", "field.jsonl, line 2"),
    ("system for raw text", "--prompt hi --system kind", "raw text; ask for chat"),
    ("two system prompts", "--prompts S/system.jsonl --system kind", "beside the system prompt given"),
]
OUTPUTS: list[tuple[str, str, str]] = [
    ("unknown output ending", "--out O/o.xlsx", r"name a file that ends in \.jsonl, \.csv, \.parquet"),
    ("no folder", "--out O/none/o.csv", "there is no folder"),
    ("output is a directory", "--out S/directory.csv", "it is a directory"),
    ("unwritable output", "--out /proc/o.csv", "/proc cannot be written to"),
    ("output is there", "--out S/there.csv", "it is there already; .*--overwrite"),
    ("unfinished run is there", "--out S/stopped.csv", "holds an unfinished run; give --resume"),
    ("journal of another run", "--resume --out S/stopped.csv", "cannot resume from .*norm was 'l7' and is 'l1'"),
    ("report of another ending", f"{OUT} --html O/r.pdf", r"name a file that ends in \.html"),
    ("report without folder", f"{OUT} --html O/none/r.html", "there is no folder"),
]
LOADING: list[tuple[str, str, str]] = [
    ("other layer count", "--base S/base --tuned S/deep", r"layers .*2.*3|2.*3.*layers"),
    ("other width", "--base S/base --tuned S/wide", r"32.*64"),
    ("other activation", "--base S/base --tuned S/gelu", r"silu.*gelu"),
    ("other architecture", "--base S/base --tuned S/gpt2", "llama.*gpt2"),
    ("NaN weights", "--base S/base --tuned S/nan", "NaN among its weights"),
    ("infinite weights", "--base S/infinite --tuned S/tuned", "infinite values among its weights"),
    ("missing tensor", "--base S/base --tuned S/lacking", "up_proj"),
    ("corrupted safetensors", "--base S/torn --tuned S/tuned", "not a whole safetensors file"),
    ("pickled weights", "--base S/base --tuned S/pickled", "pickle"),
    ("empty folder", "--base S/empty_folder --tuned S/tuned", "is empty"),
    ("missing folder", "--base S/nowhere --tuned S/tuned", "nowhere"),
    ("hub id without network", "--base org/absent-model --tuned S/tuned", "org/absent-model"),
    ("adapter of another model", "--base S/base --adapter S/adapter", "that the adapter was trained on"),
    ("adapter that is none", "--base S/base --adapter S/tuned", "adapter_config"),
]
TOKENISED: list[tuple[str, str, str]] = [
    (
        "too long",
        f"{PAIR} --prompts S/long.jsonl",
        rf"prompt 1: it has \d+ tokens, and the context is {CONTEXT} tokens; .*left\|right",
    ),
    ("no chat template", f"--base S/base --tuned S/no_template {TEXT} --chat", "no chat template; measure raw text"),
    ("only a BOS", f"{PAIR} --prompt <|endoftext|>", "prompt 0: no token is left"),
]
NONE_LEFT: list[tuple[str, str, str]] = [
    ("no prompt is valid", "--pair demo --prompt E/ --prompt E/", "--prompt number 1: it is empty"),
    ("no prompt is left", f"{PAIR} --prompt <|endoftext|>", "no prompt can be measured: prompt 0: no token is left"),
    ("a broken file", "--pair demo --prompts S/broken.jsonl", "broken.jsonl, line 2: broken JSON"),
    ("unknown address", "--pair demo --prompts nope://x/p.txt", "give a path, an s3://"),
    ("absent address", "--pair demo --prompts file:///none/p.txt", "file:///none/p.txt: "),
]
WORKERS: list[tuple[str, str, str]] = [
    ("no workers", "--workers 0", "--workers"),
    ("cluster without workers", "--ray here:1", "--ray: .*give --workers N"),
    ("share without workers", "--cpus-per-worker 1", "--cpus-per-worker: .*give --workers N"),
    ("report of workers", "--workers 2 --html O/r.html", "a report needs maps"),
]
CASES = [
    *USAGE,
    *((name, f"--pair demo {arguments} {OUT} --on-error stop", message) for name, arguments, message in PROMPTS),
    *((name, f"--pair demo {TEXT} {arguments}", message) for name, arguments, message in OUTPUTS),
    *((name, f"{arguments} {TEXT} {OUT}", message) for name, arguments, message in LOADING),
    *((name, f"{arguments} {OUT} --on-error stop", message) for name, arguments, message in TOKENISED),
    *((name, f"{arguments} {OUT}", message) for name, arguments, message in NONE_LEFT),
    *((name, f"--pair demo {TEXT} {OUT} {arguments}", message) for name, arguments, message in WORKERS),
]


@pytest.fixture(scope="module")
def outputs_that_are_there(store: Path) -> None:
    (store / "directory.csv").mkdir()
    (store / "there.csv").write_text("mine")
    header = {"tuco_lens_journal": 1, "fingerprint": {"norm": "l7"}}
    (store / "stopped.csv.partial").write_text(json.dumps(header) + "\n")
    write_adapter(store / "adapter")


def listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.mark.usefixtures("outputs_that_are_there")
@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_gets_one_line_and_status_2_and_leaves_nothing(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    places = {"S/": f"{store}/", "O/": f"{tmp_path}/", "E/": ""}
    words = ["measure"]
    for word in arguments.split(" "):
        for short, place in places.items():
            word = place + word.removeprefix(short) if word.startswith(short) else word
        words.append(word)
    before = listing(store)
    status = run(words)
    captured = capfd.readouterr()
    assert status == 2, captured.err
    assert captured.out == ""
    assert captured.err.startswith("tuco-lens: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert ": " in captured.err.removeprefix("tuco-lens: error: ")
    assert "; " in captured.err
    assert re.search(message, captured.err), captured.err
    assert list(tmp_path.iterdir()) == []
    assert listing(store) == before
