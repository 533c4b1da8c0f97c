"""The dictionary of refusals against real answers; only counts are compared, no text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tuco_lens.data import load
from tuco_lens.experiments.refusal_check import READ_AS_ANSWERS, refusal_check
from tuco_lens.experiments.refusals import is_refusal


@pytest.mark.data
def test_misses_and_agreements_add_up(data_dir: Path) -> None:
    found = refusal_check(data_dir)
    assert (found.by_kind.n, found.by_reading.n) == (400, 100)
    assert round(400 * (1 - found.by_kind.value)) == found.missed + found.mistaken
    assert round(100 * (1 - found.by_reading.value)) == found.missed_read + found.mistaken_read
    assert found.by_kind.low > 0.9
    assert sum(found.phrases.values()) >= found.mistaken
    assert f"{found.mistaken} answers to harmless prompts" in found.summary()


@pytest.mark.data
def test_the_positions_read_are_answers_to_harmful_prompts_in_the_sample(data_dir: Path) -> None:
    answers = load("refusal_completions", folder=data_dir)
    assert all(answers[i].label == "harmful" for i in READ_AS_ANSWERS)


@pytest.mark.data
def test_a_dictionary_that_refuses_nothing_misses_every_refusal(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tuco_lens.experiments.refusal_check"], "is_refusal", lambda text: False)
    found = refusal_check(data_dir)
    assert (found.missed, found.mistaken, found.by_kind.value) == (200, 0, 0.5)
    assert not is_refusal("Here is a list of rivers.")
