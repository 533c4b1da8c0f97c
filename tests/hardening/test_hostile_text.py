"""Templates, tokenizers and configs that a stranger wrote: each ends in one line, soon, and in little memory."""

from __future__ import annotations

import contextlib
import copy
import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from tests.architectures import make_model
from tests.checkpoints import save_checkpoint
from tuco_lens import InputError, LoadError, ModelPair
from tuco_lens.models.loading import load_pair
from tuco_lens.prompts import limits, make_prompt
from tuco_lens.prompts.limits import LimitExceeded, stopped_after, try_in_child

NOT_FIT = "not fit to be run"
TEMPLATES: dict[str, tuple[str, str]] = {
    "endless loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", NOT_FIT),
    "a list that grows as it is read": ("{% set l = [1] %}{% for i in l %}{% set _ = l.append(1) %}{% endfor %}", ""),
    "doubling memory": (
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(64) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
        NOT_FIT,
    ),
    "a product": ("{{ 'x' * 100000000000 }}", ""),
    "a power": ("{{ 10 ** (10 ** 10) }}", NOT_FIT),
    "a width": ("{{ '%0999999999d' | format(1) }}", ""),
    "much output": ("{{ 'x' * 5000000 }}", "writes 5,000,000 characters"),
    "ten megabytes of source": ("{{ 1 }}" * 1_500_000, ""),
    "recursion": ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "refuses it"),
    "division by zero": ("{{ 1 / 0 }}", "refuses it"),
    "a range too large": ("{% for i in range(99999999999) %}{% endfor %}", "refuses it"),
    "a lone surrogate": ("{{ '\\ud800' }}", "lone surrogate"),
    "nothing": ("{# nothing #}", "empty or only white space"),
    "a missing name": ("{{ messages[7].content.parts }}", "refuses it"),
    "broken syntax": ("{% for", "refuses it"),
    "nested brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ""),
    "the class of a string": ("{{ ''.__class__.__mro__ }}", ""),
}


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds: a machine that is busy takes a thousandth of that for a sane template."""
    monkeypatch.setattr(limits, "SECONDS", 2.0)


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_cannot_be_is_one_line(demo_pair: ModelPair, case: str) -> None:
    template, reason = TEMPLATES[case]
    tokenizer = copy.deepcopy(demo_pair.tokenizer)
    tokenizer.chat_template = template
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=reason) as raised:
        make_prompt(tokenizer, "Name a river.", chat=True)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600_000, f"{grown} KiB"


def test_a_template_that_hangs_on_a_later_prompt_is_stopped(
    demo_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = copy.deepcopy(demo_pair.tokenizer)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if 'trap' in m.content %}" + loops + "{% endif %}{% endfor %}"
    )
    assert make_prompt(tokenizer, "fine", chat=True).text == "fine"
    monkeypatch.setattr(stopped_after.__wrapped__, "__defaults__", (1.0,))  # pyright: ignore
    with pytest.raises(InputError, match="takes more than 1 s"):
        make_prompt(tokenizer, "a trap", chat=True)
    assert make_prompt(tokenizer, "fine", chat=True).text == "fine"


def test_a_named_template_is_tried_as_well(demo_pair: ModelPair) -> None:
    tokenizer = copy.deepcopy(demo_pair.tokenizer)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "other": TEMPLATES["doubling memory"][0]}
    assert make_prompt(tokenizer, "Name a river.", chat=True).n_tokens > 4
    with pytest.raises(InputError, match=NOT_FIT):
        make_prompt(tokenizer, "Name a river.", chat=True, template_kwargs={"chat_template": "other"})


def test_what_a_template_says_of_its_refusal_is_said_whole(demo_pair: ModelPair) -> None:
    tokenizer = copy.deepcopy(demo_pair.tokenizer)
    said = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
    tokenizer.chat_template = "{{ raise_exception('" + said + "') }}"
    with pytest.raises(InputError, match=said):
        make_prompt(tokenizer, "Name a river.", chat=True)


def test_a_sane_template_is_tried_once(demo_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    from tuco_lens.prompts import chats

    tried: list[Any] = []
    monkeypatch.setattr(chats, "try_in_child", tried.append)
    tokenizer = copy.deepcopy(demo_pair.tokenizer)
    for _ in range(3):
        make_prompt(tokenizer, "Name a river.", chat=True)
    assert len(tried) == 1


def test_what_a_child_does_is_told_apart() -> None:
    try_in_child(lambda: None)
    try_in_child(lambda: 1 / 0)  # the parent meets it too
    with pytest.raises(LimitExceeded, match="MiB"):
        try_in_child(lambda: bytearray(3 << 30))
    with pytest.raises(LimitExceeded, match="more than 2 s"):
        try_in_child(lambda: time.sleep(60))
    with pytest.raises(LimitExceeded, match="ends the process"):
        try_in_child(lambda: __import__("os").abort())


def test_a_block_that_ends_in_time_is_not_disturbed() -> None:
    for _ in range(200):
        with contextlib.suppress(LimitExceeded), stopped_after(0.002):  # a busy machine may be late, and be told so
            time.sleep(0.0005)
    time.sleep(0.05)  # nothing comes after the block


GROWING = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50} for _ in range(16)]
TOKENIZERS: dict[str, dict[str, Any]] = {
    "a pattern that never ends": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"(?:a?){30000}a{30000}"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a normaliser that grows": {"normalizer": {"type": "Sequence", "normalizers": GROWING}},
    "a normaliser that grows a little": {
        "normalizer": {"type": "Sequence", "normalizers": [{**GROWING[0], "content": "a" * 1100}]}
    },
}


@pytest.mark.bridge
@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_is_one_line(tmp_path: Path, case: str) -> None:
    folders = [save_checkpoint(tmp_path / name, make_model("llama")) for name in ("base", "tuned")]
    file = folders[1] / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **TOKENIZERS[case]}))
    with pytest.raises(LoadError, match=f"pattern of its tokenizer.json is {NOT_FIT}") as raised:
        load_pair(*folders, backend="bridge")
    assert "\n" not in str(raised.value)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "100,000 layers": ({"num_hidden_layers": 100_000}, "num_hidden_layers = 100000"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    "no context": ({"max_position_embeddings": 0}, "max_position_embeddings = 0"),
    "a context below zero": ({"max_position_embeddings": -1}, "max_position_embeddings = -1"),
    "a huge width": ({"hidden_size": 10**9}, "hidden_size = 1000000000"),
    "a huge vocabulary": ({"vocab_size": 10**12}, "vocab_size"),
    "a width in words": ({"hidden_size": "wide"}, "hidden_size"),
    "half a layer": ({"num_hidden_layers": 1.5}, "num_hidden_layers"),
    "no heads": ({"num_attention_heads": 0}, ""),
    "another type": ({"model_type": "nothing-known"}, ""),
    "a list for a type": ({"model_type": ["llama"]}, ""),
    "a rotary base of text": ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, ""),
    "an unknown rotary type": ({"rope_parameters": {"rope_type": "spiral"}}, ""),
    "an activation that is none": ({"hidden_act": "__import__('os')"}, ""),
    "a dtype that is none": ({"dtype": "float99"}, ""),
    "a norm of NaN": ({"rms_norm_eps": float("nan")}, ""),
}


@pytest.mark.bridge
@pytest.mark.timeout(120)  # 100,000 layers took minutes
@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_one_line_before_weights_are_read(tmp_path: Path, case: str) -> None:
    folders = [save_checkpoint(tmp_path / name, make_model("llama")) for name in ("base", "tuned")]
    settings, reason = CONFIGS[case]
    for folder in folders:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    with pytest.raises(LoadError, match=reason) as raised:
        load_pair(*folders, backend="bridge")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 800


@pytest.mark.bridge
def test_how_a_config_wants_outputs_handed_over_does_not_matter(tmp_path: Path) -> None:
    folders = [
        save_checkpoint(tmp_path / name, make_model("llama", seed)) for seed, name in enumerate(["base", "tuned"])
    ]
    plain = ModelPair.from_pretrained(*folders, backend="bridge").measure([3, 4, 5], progress=False).tuco
    for folder in folders:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "return_dict": False}))
    found = ModelPair.from_pretrained(*folders, backend="bridge").measure([3, 4, 5], progress=False).tuco
    assert found.tolist() == plain.tolist()


@pytest.mark.bridge
@pytest.mark.parametrize("text", ["", "[1]", "null", "{", "[" * 10_000, '{"model_type": ' + "9" * 5000 + "}", "\x00"])
def test_a_config_file_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    folder = save_checkpoint(tmp_path / "base", make_model("llama"))
    (folder / "config.json").write_text(text)
    with pytest.raises(LoadError) as raised:
        load_pair(folder, folder, backend="bridge")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 800
