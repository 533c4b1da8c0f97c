"""The catalogue of known pairs: its data file, and what is computed from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuco_lens.errors import InputError
from tuco_lens.models.catalogue import (
    BRIDGE_MODEL_TYPES,
    HOOKED_MODEL_TYPES,
    MEMORY_MARGIN,
    backends,
    load_catalogue,
    memory_gib,
)

PAIRS = load_catalogue()
BY_NAME = {pair.name: pair for pair in PAIRS}
ENTRY: dict[str, Any] = {
    "name": "a",
    "base": "org/base",
    "tuned": "org/tuned",
    "parameters": 2**30,
    "model_type": "llama",
    "licence": "mit",
    "gated": False,
    "in_paper": False,
    "note": "",
}


def write(folder: Path, entries: Any) -> Path:
    path = folder / "catalogue.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def test_the_paper_has_nine_models() -> None:
    assert sum(pair.in_paper for pair in PAIRS) == 9


def test_every_hub_id_is_an_owner_and_a_name() -> None:
    for pair in PAIRS:
        for hub_id in (pair.base, pair.tuned or pair.adapter):
            assert hub_id is not None
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id), hub_id


def test_no_pair_is_listed_twice_and_none_is_its_own_base() -> None:
    halves = [(pair.base, pair.tuned or pair.adapter) for pair in PAIRS]
    assert len(set(halves)) == len(halves)
    assert all(base != tuned for base, tuned in halves)


def test_one_base_has_one_size_and_one_model_type() -> None:
    facts: dict[str, tuple[int, str]] = {}
    for pair in PAIRS:
        assert facts.setdefault(pair.base, (pair.parameters, pair.model_type)) == (pair.parameters, pair.model_type)


def test_the_size_in_a_name_agrees_with_the_number_of_parameters() -> None:
    checked = 0
    for pair in PAIRS:
        size = re.search(r"(?<![\d.x])(\d+(?:\.\d+)?)(m|b)\b", pair.base.lower())
        if size is None or "8x7b" in pair.base.lower():
            continue
        stated = float(size[1]) * {"m": 1e6, "b": 1e9}[size[2]]
        assert stated * 0.9 < pair.parameters < stated * 1.5, pair
        checked += 1
    assert checked > 30


def test_every_pair_has_a_backend_and_hooked_comes_first() -> None:
    assert all(backends(pair) in (("hooked", "bridge"), ("bridge",)) for pair in PAIRS)


def test_whatever_is_hooked_is_also_a_bridge() -> None:
    assert HOOKED_MODEL_TYPES < BRIDGE_MODEL_TYPES


def test_model_types_are_known_to_transformers() -> None:
    from transformers import CONFIG_MAPPING

    assert set(CONFIG_MAPPING) >= BRIDGE_MODEL_TYPES


def test_smollm3_goes_to_the_bridge() -> None:
    assert backends(BY_NAME["smollm3-3b"]) == ("bridge",)


def test_the_hooked_backend_is_claimed_for_just_the_model_types_that_loading_converts() -> None:
    from tuco_lens.models.hooked_config import FAMILIES

    assert set(FAMILIES) == HOOKED_MODEL_TYPES


@pytest.mark.bridge
def test_the_bridge_takes_every_model_type_that_it_is_claimed_for() -> None:
    from transformers import CONFIG_MAPPING

    from tuco_lens.models import bridge

    refused = {name: bridge.unsupported_reason(CONFIG_MAPPING[name]()) for name in BRIDGE_MODEL_TYPES}
    assert set(refused.values()) == {None}, refused


def test_two_checkpoints_need_two_copies_and_an_adapter_on_the_bridge_one(tmp_path: Path) -> None:
    adapter_entry = {key: value for key, value in ENTRY.items() if key != "tuned"} | {"name": "b", "adapter": "org/ad"}
    full, adapter = load_catalogue(write(tmp_path, [ENTRY, adapter_entry]))
    assert memory_gib(full, "float32") == pytest.approx(2 * 4 * (1 + MEMORY_MARGIN))
    assert memory_gib(full, "bfloat16", backend="hooked") == pytest.approx(2 * 2 * (1 + MEMORY_MARGIN))
    assert memory_gib(adapter) == pytest.approx(2 * (1 + MEMORY_MARGIN))
    assert memory_gib(adapter, backend="hooked") == pytest.approx(4 * (1 + MEMORY_MARGIN))


def test_memory_of_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="int4"):
        memory_gib(PAIRS[0], "int4")


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ENTRY.items() if name != key}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"a": 1}, "not a list"),
        (["llama"], "not an object"),
        ([without("base")], r"missing fields \['base'\]"),
        ([without("tuned")], "either tuned or adapter"),
        ([ENTRY | {"adapter": "org/ad"}], "either tuned or adapter"),
        ([ENTRY | {"parametres": 1}], r"unknown fields \['parametres'\]"),
        ([ENTRY | {"parameters": "7B"}], r"wrong type \['parameters'\]"),
        ([ENTRY | {"parameters": True}], r"wrong type \['parameters'\]"),
        ([ENTRY | {"parameters": 0}], "not positive"),
        ([ENTRY | {"gated": 1}], r"wrong type \['gated'\]"),
        ([ENTRY | {"base": ""}], r"empty fields \['base'\]"),
        ([ENTRY, ENTRY | {"tuned": "org/other"}], r"more than one pair is named \['a'\]"),
    ],
)
def test_a_malformed_catalogue_is_refused_and_says_why(tmp_path: Path, entries: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load_catalogue(write(tmp_path, entries))


def test_a_catalogue_that_is_missing_or_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the catalogue"):
        load_catalogue(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text("[{]", encoding="utf-8")
    with pytest.raises(InputError, match="cannot read the catalogue"):
        load_catalogue(broken)


def test_reading_the_catalogue_imports_no_model_library() -> None:
    code = "import sys, tuco_lens.models.catalogue as c; c.load_catalogue(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_table_counts_an_adapter_s_base_weights_once() -> None:
    from tuco_lens.cli.pairs import _memory  # pyright: ignore[reportPrivateUsage]

    pair = BY_NAME["guanaco-7b"]
    assert _memory(pair) == memory_gib(pair, backend="bridge") < memory_gib(pair, backend="hooked")
