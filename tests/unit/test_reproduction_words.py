"""What the reproduction page says of a result: verdicts and reasons follow from the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from scripts._reproduction_words import direction, reasons_of, verdicts_of
from tuco_lens.cli.experiment import limited_attacks
from tuco_lens.experiments import Comparison, Series
from tuco_lens.experiments.gcg import CONTRASTS
from tuco_lens.experiments.settings import ExperimentSettings

DRAW = np.random.default_rng(0)
LOW, MIDDLE, HIGH = (DRAW.normal(mean, 0.05, 40) for mean in (0.2, 0.4, 0.8))
PLAIN, ATTACKED, RANDOM = "plain requests", "attacked requests", "requests with a random string"
Groups = dict[str, np.ndarray]


def gcg_result(tuco: Groups, nulls: dict[str, Groups] | None = None) -> Comparison:
    settings = ExperimentSettings("gcg", "b", "t", "bridge", "float32", "w")
    scores = {name: {"tuco": values, "n_tokens": np.arange(len(values)) * 1.0} for name, values in tuco.items()}
    found = {kind: (groups,) for kind, groups in (nulls or {}).items()}
    return Comparison("T", CONTRASTS, scores, found, settings)


def many_shots(tuco: list[list[float]]) -> Series:
    settings = ExperimentSettings("many_shot", "b", "t", "bridge", "float32", "w")
    grid = np.array(tuco)
    scores = {"tuco": grid, "output_co": -grid, "drift": grid, "harmful_answers": np.zeros_like(grid)}
    return Series("T", "shots", (1, 2), {"a": scores}, settings)


def test_a_claim_beyond_its_nulls_needs_no_reason_but_the_random_strings() -> None:
    result = gcg_result(
        {PLAIN: HIGH, ATTACKED: LOW, RANDOM: HIGH + 0.001}, {"noise": {PLAIN: LOW, ATTACKED: LOW, RANDOM: LOW}}
    )
    assert verdicts_of("gcg", result) == [("plain against attacked requests", "holds, beyond the nulls")]
    (reason,) = reasons_of("gcg", result)
    assert reason.startswith("An attack string lowers TuCo more than a random one does (AUC ")


def test_nulls_that_go_the_other_way_are_told_from_those_that_go_the_same_way() -> None:
    result = gcg_result(
        {PLAIN: HIGH, ATTACKED: LOW, RANDOM: HIGH}, {"noise": {PLAIN: LOW, ATTACKED: HIGH, RANDOM: LOW}}
    )
    assert verdicts_of("gcg", result)[0][1] == "holds; the nulls go as far the other way"
    assert "none goes as far in the direction of TuCo, but one does in the other" in result.summary()
    reversed_too = gcg_result(
        {PLAIN: LOW, ATTACKED: HIGH, RANDOM: LOW}, {"noise": {PLAIN: LOW, ATTACKED: HIGH, RANDOM: LOW}}
    )
    assert verdicts_of("gcg", reversed_too)[0][1] == "does not hold: reversed"
    assert "TuCo is not shown to do more" in reversed_too.summary()


def test_random_strings_that_do_as_much_are_named() -> None:
    *_, reason = reasons_of("gcg", gcg_result({PLAIN: HIGH, ATTACKED: LOW, RANDOM: LOW}))
    assert "it is not shown that it takes an attack" in reason


def test_a_null_control_that_does_as_much_is_given_as_a_reason_with_interval_and_n() -> None:
    result = gcg_result(
        {PLAIN: MIDDLE, ATTACKED: LOW, RANDOM: LOW}, {"noise": {PLAIN: HIGH, ATTACKED: LOW, RANDOM: LOW}}
    )
    assert verdicts_of("gcg", result)[0][1] == "holds, but not beyond the nulls"
    null, baseline, _ = reasons_of("gcg", result)
    assert "AUC 1.000 to 1.000, n = 40 + 40; with nothing taught, TuCo is higher for plain requests" in null
    assert "prompt length separates best (AUC 0.500 [" in baseline


@pytest.mark.parametrize(
    ("change", "word", "held"),
    [(-0.1, "falls", "holds"), (0.1, "rises", "does not hold: reversed"), (0.0, "no change shown", "not shown")],
)
def test_a_series_is_judged_by_the_interval_of_its_change(change: float, word: str, held: str) -> None:
    start = DRAW.normal(0.5, 0.1, 30)
    result = many_shots([list(start), list(start + change + DRAW.normal(0, 0.01, 30) * (change != 0))])
    assert direction(result, "tuco")[0] == word
    assert direction(result, "tuco")[1].endswith("1 to 2 shots, n = 30")
    assert verdicts_of("many_shot", result) == [("TuCo falls with the number of shots", held)]


def test_output_co_is_judged_by_both_scores() -> None:
    start = DRAW.normal(0.5, 0.1, 30)
    falls = many_shots([list(start), list(start - 0.1)])
    assert verdicts_of("output_co", falls)[0][1] == "does not hold: the two differ: TuCo falls, OutputCo rises"
    rises = many_shots([list(start), list(start + 0.1)])
    assert verdicts_of("output_co", rises)[0][1] == "holds"


@pytest.mark.parametrize(("limit", "n"), [(None, 11), (1, 1), (50, 5), (51, 6), (1000, 11)])
def test_a_limited_run_seeks_fewer_attack_strings(limit: int | None, n: int) -> None:
    assert limited_attacks(limit) == n
