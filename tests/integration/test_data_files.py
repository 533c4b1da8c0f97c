"""The real data sets, read whole: how many records there are, and that each can be measured. No text is shown.

Failures compare counts and digests only; records print without their texts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tuco_lens.data import SETS, load, token_substrings
from tuco_lens.pair import DEMO_FOLDER
from tuco_lens.prompts.prompt import check_prompt, make_prompt
from tuco_lens.sweep import load_tasks

pytestmark = pytest.mark.data

COUNTS: dict[str, int] = {
    "openwebtext": 1000,
    "hh_rlhf": 2312,
    "advbench": 520,
    "advbench_strings": 574,
    "advbench_translations": 5 * 520,
    "mwe": 25_000,
    "mmlu": 14_042,
    "parden": 552,
    "xstest": 450,
    "jailbreakbench": 100,
    "jailbreakbench_gcg": 400,
    "harmful_instructions": 260 + 39 + 572,
    "harmless_instructions": 18_793 + 6_264 + 6_266,
    "refusal_completions": 400,
    "oasst_chat": 17_729,
}


def test_every_data_set_is_counted() -> None:
    assert set(COUNTS) == set(SETS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_data_set_is_read_whole_and_each_of_its_prompts_can_be_one(data_dir: Path, name: str) -> None:
    data = load(name, folder=data_dir)
    assert len(data) == COUNTS[name]
    for index, prompt in enumerate(data.prompts):
        check_prompt(prompt, name=f"record {index}")
    assert str(data_dir) not in str(data.provenance())


@pytest.mark.parametrize("name", COUNTS)
def test_a_limit_gives_the_first_records_of_each_part(data_dir: Path, name: str) -> None:
    part = next(iter(SETS[name].parts))
    whole = load(name, parts=[part], folder=data_dir)
    few = load(name, parts=[part], folder=data_dir, limit=7)
    digests = [hashlib.sha256(repr(record.dialogue).encode()).hexdigest() for record in (*whole.records[:7], *few)]
    assert digests[:7] == digests[7:]
    assert few.checksum == whole.checksum
    assert load(name, parts=[part], folder=data_dir, limit=7, seed=3).digest != few.digest


def test_labels_and_groups_are_counted_as_their_authors_count_them(data_dir: Path) -> None:
    xstest = load("xstest", folder=data_dir)
    assert (len(xstest.only(label="safe")), len(xstest.only(label="unsafe"))) == (250, 200)
    attacks = load("jailbreakbench_gcg", folder=data_dir)
    broken = {part: len(attacks.only(label="jailbroken", group=part)) for part in attacks.parts}
    assert broken == {
        "llama-2-7b-chat-hf": 3,
        "vicuna-13b-v1.5": 80,
        "gpt-3.5-turbo-1106": 47,
        "gpt-4-0125-preview": 4,
    }
    assert len({record.group for record in load("jailbreakbench", folder=data_dir)}) == 10


def test_attacks_are_on_the_goals_of_jailbreakbench(data_dir: Path) -> None:
    # All but five of the hundred, which one of the two files words otherwise.
    goals = {record.prompt for record in load("jailbreakbench", folder=data_dir)}
    attacks = load("jailbreakbench_gcg", folder=data_dir)
    assert sum(record.goal in goals for record in attacks) == 4 * 95
    assert sum(record.prompt == record.goal for record in attacks) == 0


def test_the_translations_have_the_lines_of_advbench(data_dir: Path) -> None:
    translations = load("advbench_translations", folder=data_dir)
    assert {len(translations.only(group=part)) for part in translations.parts} == {520}


def test_dialogues_alternate_and_end_with_the_human(data_dir: Path) -> None:
    answered = 0
    for record in load("hh_rlhf", folder=data_dir):
        roles = [message["role"] for message in record.prompt]  # pyright: ignore
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        answered += record.target is not None
    assert answered >= 2300


def test_every_dialogue_goes_through_a_chat_template(data_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")
    for record in load("hh_rlhf", folder=data_dir, limit=50, seed=0):
        assert make_prompt(tokenizer, list(record.prompt)).roles.count("user") > 0  # pyright: ignore


def test_the_questions_are_those_of_the_alpha_sweep(data_dir: Path) -> None:
    (task,) = load_tasks(data_dir / "mwe", ["narcissism"])
    asked: list[Any] = [question.prompt for question in task.questions]
    assert [record.prompt for record in load("mwe", parts=["narcissism"], folder=data_dir)] == asked
    (task,) = load_tasks(data_dir / "mmlu", ["anatomy"])
    records = load("mmlu", parts=["anatomy"], folder=data_dir)
    assert [f"{task.header}{record.prompt}" for record in records] == [task.prompt(i, 0) for i in range(len(task))]


def test_nearly_every_document_of_the_web_has_97_tokens(data_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")
    texts = [str(record.prompt) for record in load("openwebtext", folder=data_dir, limit=200)]
    runs = token_substrings(tokenizer, texts)
    assert 190 <= len(runs) <= 200
    assert {len(run) for run in runs} in ({97}, {98})
