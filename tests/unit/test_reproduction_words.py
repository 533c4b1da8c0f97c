"""What the reproduction page says of a result: verdicts and reasons follow from the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scripts._reproduction_words import CORRECTED_AWAY, direction, judge, reasons_of
from tuco_lens.cli.experiment import limited_attacks
from tuco_lens.experiments import Comparison, Series
from tuco_lens.experiments.gcg import CONTRASTS
from tuco_lens.experiments.registry import Result
from tuco_lens.experiments.settings import ExperimentSettings
from tuco_lens.sweep import SweepResult
from tuco_lens.sweep.result import SweepSettings, TaskResult

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


def verdicts_of(name: str, result: Result) -> list[tuple[str, str]]:
    """What is said of the paper's claims by a result that stands alone."""
    return [(each.name, each.held) for each in judge({name: result})[name] if each.is_papers]


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
    assert "plain against attacked requests: the paper's claim does not hold here; " in reversed_too.summary()


def test_a_control_that_the_paper_does_not_have_is_no_claim_of_the_paper_that_fails() -> None:
    said = gcg_result({PLAIN: HIGH, ATTACKED: HIGH + 9, RANDOM: LOW}).summary()
    assert f"random against attack strings: TuCo is lower for {RANDOM} than for {ATTACKED} (AUC 0.000" in said


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
    [
        (-0.1, "falls", "holds; no null control"),
        (0.1, "rises", "does not hold: reversed"),
        (0.0, "no change shown", "not shown"),
    ],
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
    assert verdicts_of("output_co", rises)[0][1] == "holds; no null control"


def test_a_change_is_read_against_its_null_controls() -> None:
    start = DRAW.normal(0.5, 0.1, 30)
    falls = many_shots([list(start), list(start - 0.1)])
    for change, held in (
        (-0.05, "holds, beyond the nulls"),
        (-0.2, "holds, but not beyond the nulls"),
        (0.2, "holds; the nulls go as far the other way"),
    ):
        null = {"a": {"tuco": np.array([[0.3, 0.4], [0.3 + change, 0.4 + change]])}}
        assert verdicts_of("many_shot", replace(falls, nulls={"noise": (null,)}))[0][1] == held


def weak(p_at_most: float) -> Comparison:
    """Plain requests have a higher TuCo than attacked ones with a p just below `p_at_most`; random strings as plain."""
    shift = 0.0
    while True:
        result = gcg_result({PLAIN: MIDDLE + shift, ATTACKED: MIDDLE, RANDOM: MIDDLE + shift})
        if result.auc_of(CONTRASTS[0].name).p < p_at_most:
            return result
        shift += 0.0005


def many_claims(n: int) -> dict[str, Result]:
    """Changes that are not there, of n series."""
    draw = np.random.default_rng(1)
    return {f"many_shot {i}": many_shots(draw.normal(0.5, 0.1, (2, 30)).tolist()) for i in range(n)}


def test_a_claim_that_is_shown_alone_is_not_shown_among_so_many_that_chance_would_do() -> None:
    result = weak(0.01)
    assert result.auc_of(CONTRASTS[0].name).low > 0.5
    (alone, *_) = judge({"gcg": result})["gcg"]
    assert alone.held == "holds; no null control"
    others = {"many_shot": many_shots(DRAW.normal(0.5, 0.1, (2, 30)).tolist())}
    assert judge({"gcg": result, **others})["gcg"][0].held == alone.held
    (among, *_) = judge({"gcg": result, **many_claims(9)})["gcg"]
    assert among.held == CORRECTED_AWAY
    assert among.p[0] > 0.05 > alone.p[0]


def test_p_values_are_corrected_over_all_claims_of_a_pair_and_come_back_to_their_own() -> None:
    results = {"gcg": weak(0.02), **many_claims(4)}
    judged = judge(results)
    raw = [*weak(0.02).table.query("score == 'tuco'")["p"]]
    for result in list(results.values())[1:]:
        frame = result.change_frame()  # type: ignore[attr-defined]
        raw += [*frame[(frame["set"] == "all") & frame["score"].isin(["tuco", "output_co"])]["change_p"]]
    shown = [p for of_one in judged.values() for each in of_one for p in each.p]
    assert shown == pytest.approx(step_down(raw))
    assert [each.p_words[:2] for each in judged["gcg"]] == ["p "] * 3


def step_down(p: list[float]) -> list[float]:
    """Holm 1979, as the paper has it: the least p times their number, the next times one fewer, never falling."""
    corrected, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return corrected


def test_a_contrast_that_the_paper_does_not_have_is_judged_but_is_no_claim_of_the_paper() -> None:
    judged = judge({"gcg": gcg_result({PLAIN: HIGH, ATTACKED: LOW, RANDOM: MIDDLE})})["gcg"]
    assert [(each.is_papers, each.held) for each in judged] == [
        (True, "holds; no null control"),
        (False, "TuCo is higher for requests with a random string"),
        (False, "TuCo is higher for plain requests"),
    ]


def test_an_empty_group_has_no_p_and_takes_no_part_in_the_correction() -> None:
    none = gcg_result({PLAIN: HIGH, ATTACKED: LOW, RANDOM: np.array([])})
    judged = judge({"gcg": none})["gcg"]
    assert judged[0].p[0] == pytest.approx(float(none.table.query("score == 'tuco'")["p"].iloc[0]))
    assert [each.held for each in judged[1:]] == ["undefined", "undefined"]
    assert judged[1].p_words == "p = –"


def sweep_result(n_helped: int, n_tasks: int) -> SweepResult:
    """Tasks of which the first are answered right at α = 1.5 alone, and the others at random whatever α is."""
    draw = np.random.default_rng(0)
    targets = np.zeros(60, dtype=int)
    tasks = []
    for i in range(n_tasks):
        chosen = np.repeat(draw.integers(0, 2, (1, 60)), 3, axis=0)
        if i < n_helped:
            chosen = np.stack([np.ones(60, dtype=int), np.arange(60) % 2, targets])
        tasks.append(TaskResult(f"t{i}", "g", targets, chosen))
    settings = SweepSettings("b", "t", "bridge", "float32", "w", "q", "ftc", (0.5, 1.0, 1.5), 5, 0, "0.1.0")
    return SweepResult(tuple(tasks), settings)


def test_a_sweep_counts_the_tasks_that_move_and_has_the_p_of_any_effect_at_all() -> None:
    (moved,) = judge({"alpha_sweep": sweep_result(2, 6)})["alpha_sweep"]
    assert moved.held == "holds for 2 of 6 tasks to maximise and 2 to minimise (p < 0.05, Holm over both)"
    table = sweep_result(2, 6).cross_validated()
    assert moved.p[0] == pytest.approx(12 * min(table["max_p"].min(), table["min_p"].min()))
    (still,) = judge({"alpha_sweep": sweep_result(0, 6)})["alpha_sweep"]
    assert still.held == "not shown on any of 6 tasks"


@pytest.mark.parametrize(("limit", "n"), [(None, 11), (1, 1), (50, 3), (60, 3), (61, 4), (1000, 11)])
def test_a_limited_run_seeks_fewer_attack_strings(limit: int | None, n: int) -> None:
    assert limited_attacks(limit) == n
