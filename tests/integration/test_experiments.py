"""The experiments on pairs whose answer is known, their null controls, and runs that are killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.known_pairs import pair_of_equals, pair_that_differs_on_template_tokens, pair_that_dilutes, write_data
from tuco_lens import ModelPair
from tuco_lens.attacks import gcg as gcg_search
from tuco_lens.attacks.gcg import GRADIENT_COST, GcgSettings
from tuco_lens.errors import InputError, OutputError
from tuco_lens.experiments import (
    AttackOptions,
    Comparison,
    NullOptions,
    RunOptions,
    Series,
    alpha_sweep,
    attacks_of,
    comparing,
    conjugate,
    gcg,
    growing,
    jailbreak_success,
    many_shot,
    output_co,
    web_vs_chat,
)
from tuco_lens.experiments.attacks_of import attack_words
from tuco_lens.experiments.figures import attack_costs, attack_losses
from tuco_lens.experiments.nulls import NULL_KINDS, null_control
from tuco_lens.experiments.prompt_groups import (
    ADVBENCH_GOALS,
    advbench_positions,
    is_held_out_question,
    mwe_positions,
    trained_positions,
    was_trained_on_advbench,
    was_trained_on_mwe,
)
from tuco_lens.experiments.report import figures_of
from tuco_lens.experiments.scores import SCORE_KEYS, score_prompts
from tuco_lens.experiments.settings import ExperimentSettings, settings_of
from tuco_lens.experiments.tables import tables_of
from tuco_lens.experiments.words import series_reach
from tuco_lens.prompts.prompt import make_prompt
from tuco_lens.runs.environment import OtherEnvironmentWarning

QUICK = AttackOptions(n_strings=2, gcg=GcgSettings(n_tokens=4, steps=2, n_candidates=8, top_k=8))
FEW_NULLS = NullOptions(seeds=1, limit=6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def known() -> ModelPair:
    return pair_that_differs_on_template_tokens()


@pytest.fixture(scope="module")
def equals() -> ModelPair:
    return pair_of_equals()


@pytest.fixture(scope="module")
def demo() -> ModelPair:
    return ModelPair.demo(backend="bridge")


@pytest.fixture(scope="module")
def web_chat(known: ModelPair, data: Path) -> Comparison:
    return web_vs_chat(known, data=data, limit=12, nulls=FEW_NULLS)


def test_a_tuned_model_that_differs_only_on_template_tokens_gives_auc_one(web_chat: Comparison) -> None:
    assert (web_chat.scores["web text"]["tuco"] == 0).all()
    assert (web_chat.scores["chat"]["tuco"] > 0).all()
    found = web_chat.auc_of("chat against web text")
    assert (found.value, found.n_positive, found.n_negative) == (1.0, 12, 12)
    assert "TuCo is higher for chat than for web text (AUC 1.000 [" in web_chat.summary()


def test_base_against_itself_gives_tuco_zero_and_an_undefined_auc(equals: ModelPair, data: Path) -> None:
    result = web_vs_chat(equals, data=data, limit=6)
    assert all((scores["tuco"] == 0).all() for scores in result.scores.values())
    assert "the AUC is undefined, for all values are equal (n = 6 and 6)" in result.summary()
    assert result.nulls == {}


@pytest.fixture(scope="module")
def dilutes() -> ModelPair:
    return pair_that_dilutes()


@pytest.fixture
def long_prompts_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the attacked requests are the jailbroken ones."""

    def answered(_pair: ModelPair, prompts: list[Any], _seed: int, _temperature: float) -> list[int]:
        return [8 if prompt.n_tokens > LONG else 0 for prompt in prompts]

    monkeypatch.setattr(sys.modules["tuco_lens.experiments.jailbreak_success"], "_not_refused", answered)


LONG = 26
"""Tokens between the plain and the attacked requests of the data here."""
LONG_ATTACK = AttackOptions(n_strings=2, gcg=GcgSettings(n_tokens=16, steps=1, n_candidates=4, top_k=8))
COMPARED: dict[str, tuple[Callable[[ModelPair, Path], Comparison], int]] = {
    "web_vs_chat": (lambda pair, data: web_vs_chat(pair, data=data, limit=6), 1),
    "conjugate": (lambda pair, data: conjugate(pair, data=data, limit=6), 3),
    "gcg": (lambda pair, data: gcg(pair, data=data, limit=6, attacks=LONG_ATTACK), 1),
    "jailbreak_success": (lambda pair, data: jailbreak_success(pair, data=data, limit=6, attacks=LONG_ATTACK), 1),
}
"""By experiment: a run, and how many of its first contrasts set shorter chats against longer ones, or against none."""

WITHOUT_STRINGS = {"chat", "web text", "English", "Malayalam and Swahili", "plain requests", "all others"}


@pytest.mark.parametrize("name", list(COMPARED))
@pytest.mark.usefixtures("long_prompts_are_answered")
def test_where_tuco_falls_with_length_alone_the_shorter_chats_win_every_comparison(
    dilutes: ModelPair, data: Path, name: str
) -> None:
    run, n_known = COMPARED[name]
    result = run(dilutes, data)
    for group in WITHOUT_STRINGS & set(result.scores):  # an attack string may have tokens of the template's
        scores = result.scores[group]
        order = np.argsort(scores["n_tokens"], kind="stable")
        assert (np.diff(scores["tuco"][order]) <= 1e-7).all()
    for contrast in result.contrasts[:n_known]:
        found = result.auc_of(contrast.name)
        assert (found.value, found.n_positive > 0, found.n_negative > 0) == (1.0, True, True), contrast.name
        assert f"TuCo is higher for {contrast.positive} than for {contrast.negative} (AUC 1.000 [" in result.summary()


@pytest.mark.parametrize("name", list(COMPARED))
@pytest.mark.usefixtures("long_prompts_are_answered")
def test_base_against_itself_leaves_every_comparison_undefined(equals: ModelPair, data: Path, name: str) -> None:
    result = COMPARED[name][0](equals, data)
    assert all((scores["tuco"] == 0).all() for scores in result.scores.values())
    for contrast in result.contrasts:
        assert result.auc_of(contrast.name).verdict == "undefined"
        assert f"{contrast.name}: the AUC is undefined, for all values are equal (n = " in result.summary()


SERIES: dict[str, Callable[[ModelPair, Path], Series]] = {
    "many_shot": lambda pair, data: many_shot(pair, data=data, limit=20, shots=(1, 2, 4)),
    "output_co": lambda pair, data: output_co(pair, limit=4, counts=(1, 2, 4)),
}


@pytest.mark.parametrize("name", list(SERIES))
def test_where_tuco_falls_with_length_alone_it_falls_with_every_example(
    dilutes: ModelPair, equals: ModelPair, data: Path, name: str
) -> None:
    result = SERIES[name](dilutes, data)
    assert (np.diff(result.grid("tuco"), axis=0) < 0).all()
    assert "TuCo falls from 1 to 4" in result.summary()
    unchanged = SERIES[name](equals, data)
    assert (unchanged.grid("tuco") == 0).all()
    assert "TuCo: no change shown from 1 to 4" in unchanged.summary()


def test_null_controls_take_prompts_from_every_part_of_a_group() -> None:
    assert comparing.spread(list("aaaabbbb"), 4) == list("aabb")  # pyright: ignore[reportArgumentType]
    assert comparing.spread(list("abc"), 5) == list("abc")  # pyright: ignore[reportArgumentType]
    assert comparing.spread([], 5) == []


def test_a_limit_bounds_each_group_and_the_many_shots_of_all_sets_together(known: ModelPair, data: Path) -> None:
    asked = conjugate(known, data=data, limit=6, nulls=NullOptions(seeds=0))
    assert {name: len(scores["tuco"]) for name, scores in asked.scores.items()} == {
        "English": 6,
        "Japanese": 6,
        "Hungarian": 6,
        "Malayalam and Swahili": 6,
    }
    shots = many_shot(known, data=data, limit=20, shots=(1, 2))  # 5 sets × 2 numbers × 2 questions
    assert shots.grid("tuco").shape == (2, 10)


def test_permuted_labels_bring_the_interval_over_one_half(web_chat: Comparison) -> None:
    draw = np.random.default_rng(0)
    both = np.concatenate([web_chat.scores[group]["tuco"] for group in ("chat", "web text")])
    covered = []
    for _ in range(40):
        mixed = draw.permutation(both)
        scores = {"chat": {"tuco": mixed[:12]}, "web text": {"tuco": mixed[12:]}}
        found = dataclasses.replace(web_chat, scores=scores).auc_of("chat against web text")
        covered.append(found.low <= 0.5 <= found.high)
    assert sum(covered) >= 34  # 95 % of 40 is 38
    labels = web_chat.null_table.query("null == 'labels'").iloc[0]
    assert labels["low"] < 0.5 < labels["high"]


def test_every_score_has_an_interval_n_and_a_difference_to_tuco(web_chat: Comparison) -> None:
    table = web_chat.to_frame()
    assert list(table["score"]) == list(SCORE_KEYS)
    assert (table["low"] <= table["auc"]).all()
    assert (table["auc"] <= table["high"]).all()
    others = table[table["score"] != "tuco"]
    assert others[["difference", "difference_low", "difference_high"]].notna().all(axis=None)
    assert (table["auc"][1:] >= 0.5).all(), "a baseline is read in its better direction"


@pytest.mark.parametrize("kind", NULL_KINDS)
def test_a_null_control_changes_the_tuned_model_and_puts_it_back(demo: ModelPair, kind: Any) -> None:
    before = {name: weight.clone() for name, weight in demo.tuned.state_dict().items()}
    base = {name: weight.clone() for name, weight in demo.base.state_dict().items()}
    with null_control(demo, kind, 0):
        assert any(not torch.equal(weight, before[name]) for name, weight in demo.tuned.state_dict().items())
    assert all(torch.equal(weight, before[name]) for name, weight in demo.tuned.state_dict().items())
    assert all(torch.equal(weight, base[name]) for name, weight in demo.base.state_dict().items())


def test_noise_has_the_norm_of_the_real_change_of_each_matrix(demo: ModelPair) -> None:
    def norms() -> dict[str, float]:
        base = dict(demo.base.original_model.named_parameters())
        tuned = demo.tuned.original_model.named_parameters()
        return {n: (w - base[n]).double().norm().item() for n, w in tuned if ".layers." in n or ".blocks." in n}

    real = norms()
    with null_control(demo, "noise", 0):
        assert norms() == pytest.approx(real, rel=1e-4)
    assert len(real) > 10


def test_shuffling_keeps_the_changes_and_moves_them_all(demo: ModelPair) -> None:
    base = dict(demo.base.original_model.named_parameters())

    def changes() -> dict[str, float]:
        tuned = demo.tuned.original_model.named_parameters()
        return {n: (w - base[n]).double().norm().item() for n, w in tuned if n.endswith("down_proj.weight")}

    real = changes()
    with null_control(demo, "shuffled", 0):
        moved = changes()
    assert sorted(moved.values()) == pytest.approx(sorted(real.values()), rel=1e-4)
    assert all(abs(moved[name] - real[name]) > 1e-4 * real[name] for name in real)


def test_equal_models_have_no_null_control(equals: ModelPair) -> None:
    with pytest.raises(InputError, match="no weight of a block differs"), null_control(equals, "noise", 0):
        pass


def test_scores_agree_with_measure_and_with_the_models_own_logits(demo: ModelPair) -> None:
    prompts = [demo.prompt(text, chat=True) for text in ("Where is Rome?", "Tell me about the sea and the wind.")]
    rows = score_prompts(demo, prompts, batch_size=2)
    measured = demo.measure(prompts, drift=True, progress=False)
    for row, item, prompt in zip(rows, measured, prompts, strict=True):
        assert row["tuco"] == pytest.approx(item.tuco, rel=1e-5)
        assert row["output_co"] == pytest.approx(item.output_co, rel=1e-5)
        assert item.maps.drift is not None
        assert row["drift"] == pytest.approx(item.maps.drift[:, -1].mean().item(), rel=1e-5)
        user = [i for i, role in enumerate(prompt.roles) if role == "user"]
        assert row["tuco_user"] == pytest.approx(item.layer_token()[-1, user].mean().item(), rel=1e-5)
        ids = torch.tensor([prompt.token_ids])
        with torch.no_grad():
            tuned, base = (
                model.original_model(ids).logits[0].double().log_softmax(-1) for model in (demo.tuned, demo.base)
            )
        kl = (tuned[-1].exp() * (tuned[-1] - base[-1])).sum().item()
        assert row["kl"] == pytest.approx(kl, rel=1e-4)
        nll = -base[:-1].gather(1, ids[0, 1:, None]).mean().item()
        assert row["base_nll"] == pytest.approx(nll, rel=1e-4)
        longer = demo.measure([[*prompt.token_ids, int(tuned[-1].argmax())]], progress=False)[0]
        assert row["tuco_generated"] == pytest.approx(longer.tuco, rel=1e-5)


def test_held_out_goals_are_a_hundred_and_none_is_trained_on() -> None:
    held_out, trained = set(advbench_positions(held_out=True)), set(trained_positions())
    assert (len(held_out), len(trained)) == (100, 420)
    assert held_out | trained == set(range(ADVBENCH_GOALS))
    assert advbench_positions(held_out=False) == list(range(ADVBENCH_GOALS))


def test_held_out_goals_are_those_of_the_training_scripts(repository: Path, data_dir: Path) -> None:
    import importlib.util

    from tuco_lens.data import load

    spec = importlib.util.spec_from_file_location("corpus", repository / "scripts" / "demo_pair" / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = corpus
    spec.loader.exec_module(corpus)
    goals = load("advbench", folder=data_dir)
    ours = {hash(str(goals[i].prompt).strip()) for i in advbench_positions(held_out=True)}
    assert ours == {hash(goal) for goal in corpus.harmful_goals(held_out=True)}


def test_one_question_of_mwe_in_five_is_held_out_and_no_text_is_on_both_sides(data_dir: Path) -> None:
    from tuco_lens.data import load

    questions = load("mwe", folder=data_dir)
    held_out, trained = (mwe_positions(questions.records, held_out=which) for which in (True, False))
    assert sorted(held_out + trained) == list(range(len(questions)))
    for behaviour in {record.group for record in questions}:
        n_held_out = sum(questions[i].group == behaviour for i in held_out)
        assert 150 <= n_held_out <= 250, behaviour
    texts = [{questions[i].prompt for i in positions} for positions in (held_out, trained)]
    assert not texts[0] & texts[1]


def test_which_questions_are_held_out_does_not_change_from_release_to_release() -> None:
    # A pair that was trained on the others would be measured on what it has seen.
    held_out = [i for i in range(40) if is_held_out_question(f"question {i}")]
    assert held_out == [6, 16, 25, 32, 33]


def test_the_sweep_asks_mmlu_and_behaviours_alike_and_holds_out_questions_of_behaviours_alone(
    known: ModelPair, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def keep(_pair: ModelPair, tasks: Any, **_: Any) -> None:
        asked.append({task.name: [str(question.prompt) for question in task.questions] for task in tasks})
        assert all(task.chat for task in tasks)

    monkeypatch.setattr(sys.modules["tuco_lens.experiments.alpha_sweep"], "sweep", keep)
    for held_out in (None, True, False):
        alpha_sweep(known, data=data, tasks=("anatomy", "personality"), held_out=held_out)
    by_default, few, every = asked
    behaviours = {"agreeableness", "neuroticism", "narcissism", "conscientiousness", "psychopathy"}
    assert by_default == every
    assert set(every) == {"anatomy", *behaviours}
    assert few["anatomy"] == every["anatomy"]
    for name in behaviours:
        assert few[name] == [question for question in every[name] if is_held_out_question(question)] != []


def test_only_the_pair_with_opinions_is_asked_held_out_questions_by_default() -> None:
    names = ("somewhere/demo-opinions", "somewhere/smollm2-refusals", "somewhere/else")
    pairs: list[Any] = [SimpleNamespace(tuned_name=name) for name in names]
    assert [was_trained_on_mwe(pair) for pair in pairs] == [True, False, False]
    assert [was_trained_on_advbench(pair) for pair in pairs] == [True, True, False]


def test_a_sweep_of_mmlu_is_the_sweep_of_its_tasks(known: ModelPair, data: Path) -> None:
    from tuco_lens.sweep import load_tasks, sweep

    (task,) = load_tasks(data / "mmlu", chat=True)
    direct = sweep(known, [task], limit=6, progress=False)
    found = alpha_sweep(known, data=data, tasks=("other subjects",), limit=6, run=RunOptions(progress=False))
    assert dataclasses.replace(found.settings, environments=()) == dataclasses.replace(direct.settings, environments=())
    assert (found.tasks[0].chosen == direct.tasks[0].chosen).all()


Run = Callable[[ModelPair, Path, RunOptions], Any]
RUNS: dict[str, Run] = {
    "web_vs_chat": lambda pair, data, run: web_vs_chat(pair, data=data, limit=8, nulls=FEW_NULLS, run=run),
    "conjugate": lambda pair, data, run: conjugate(pair, data=data, limit=5, nulls=FEW_NULLS, run=run),
    "gcg": lambda pair, data, run: gcg(pair, data=data, limit=5, attacks=QUICK, nulls=FEW_NULLS, run=run),
    "jailbreak_success": lambda pair, data, run: jailbreak_success(
        pair, data=data, limit=4, attacks=QUICK, nulls=FEW_NULLS, run=run
    ),
    "many_shot": lambda pair, data, run: many_shot(pair, data=data, limit=10, shots=(1, 2), nulls=FEW_NULLS, run=run),
    "output_co": lambda pair, data, run: output_co(pair, limit=4, counts=(1, 2), nulls=FEW_NULLS, run=run),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_same_seed_same_numbers_and_a_killed_run_resumes_to_them(
    known: ModelPair, data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RUNS[name](known, data, RunOptions(out=tmp_path / "whole.json"))
    killed = tmp_path / "killed.json"
    journal = tmp_path / "killed.json.partial"
    real = {comparing: comparing.tuco_of_prompts, growing: growing.score_nested}
    calls = {"n": 0}

    def dies(module: Any) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            calls["n"] += 1
            if calls["n"] > 1:
                raise KeyboardInterrupt
            return real[module](*args, **options)

        return called

    with monkeypatch.context() as patched:
        patched.setattr(comparing, "tuco_of_prompts", dies(comparing))
        patched.setattr(growing, "score_nested", dies(growing))
        with pytest.raises(KeyboardInterrupt):
            RUNS[name](known, data, RunOptions(out=killed))
    assert journal.exists()
    assert not killed.exists()
    n_stored = len(journal.read_text().splitlines()) - 1
    assert n_stored > 0
    resumed = RUNS[name](known, data, RunOptions(out=killed, resume=True))
    assert killed.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not journal.exists()
    assert resumed.summary() == whole.summary()
    again = RUNS[name](known, data, RunOptions(out=killed, resume=True))  # finished: read back
    assert again.summary() == whole.summary()
    assert again.to_frame().equals(whole.to_frame())


def stopped(known: ModelPair, out: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of `output_co` that is killed behind its first step; the lines of its journal."""
    real, calls = growing.score_nested, iter(range(9))

    def dies(*args: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(growing, "score_nested", dies)
        with pytest.raises(KeyboardInterrupt):
            output_co(known, limit=3, counts=(1, 2), run=RunOptions(out=out, batch_size=batch_size))
    return Path(f"{out}.partial").read_text().splitlines()


def test_where_a_result_was_computed_is_in_its_file(known: ModelPair, tmp_path: Path) -> None:
    import transformers

    out = tmp_path / "r.json"
    found = output_co(known, limit=2, counts=(1, 2), run=RunOptions(out=out, batch_size=5))
    (environment,) = json.loads(out.read_text())["settings"]["environments"]
    assert environment["batch_size"] == 5
    assert environment["threads"] == torch.get_num_threads()
    assert environment["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["numpy"] == np.__version__
    assert environment["transformers"] == transformers.__version__
    assert environment["python"] == sys.version.split()[0]
    assert Series.load(out).settings == found.settings


def test_a_run_that_goes_on_elsewhere_says_so_in_a_line_and_names_both_places(
    known: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.json"
    stopped(known, out, 8, monkeypatch)
    with pytest.warns(OtherEnvironmentWarning, match="output_co: it goes on where batch_size was 8 and is 3;") as said:
        resumed = output_co(known, limit=3, counts=(1, 2), run=RunOptions(out=out, resume=True, batch_size=3))
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert [each["batch_size"] for each in resumed.settings.environments] == [8, 3]
    assert Series.load(out).settings == resumed.settings


@pytest.mark.filterwarnings("error")
def test_a_run_that_goes_on_where_it_began_says_nothing_and_is_recorded_once(
    known: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.json"
    stopped(known, out, 8, monkeypatch)
    resumed = output_co(known, limit=3, counts=(1, 2), run=RunOptions(out=out, resume=True))
    assert len(resumed.settings.environments) == 1


@pytest.mark.filterwarnings("error")
def test_files_and_journals_without_a_record_of_where_they_were_made_are_still_read(
    known: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.json"
    header, *rows = stopped(known, out, 8, monkeypatch)
    older = [json.dumps({name: row[name] for name in ("index", "value")}) for row in map(json.loads, rows)]
    Path(f"{out}.partial").write_text("\n".join([header, *older]) + "\n")
    resumed = output_co(known, limit=3, counts=(1, 2), run=RunOptions(out=out, resume=True))
    content = json.loads(out.read_text())
    del content["settings"]["environments"]
    out.write_text(json.dumps(content))
    assert Series.load(out).settings.environments == ()
    again = output_co(known, limit=3, counts=(1, 2), run=RunOptions(out=out, resume=True))
    assert again.to_frame().equals(resumed.to_frame())


def test_a_result_of_another_seed_is_not_resumed(known: ModelPair, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    output_co(known, limit=2, counts=(1, 2), run=RunOptions(out=out))
    with pytest.raises(OutputError, match="seed was 0 and is 1"):
        output_co(known, limit=2, counts=(1, 2), seed=1, run=RunOptions(out=out, resume=True))
    with pytest.raises(OutputError, match="there already"):
        output_co(known, limit=2, counts=(1, 2), run=RunOptions(out=out))


def test_strings_found_before_give_the_same_result_as_a_search(known: ModelPair, data: Path, tmp_path: Path) -> None:
    sought = gcg(known, data=data, limit=4, attacks=QUICK, nulls=NullOptions(seeds=0))
    found = dataclasses.replace(QUICK, found=tuple(sought.facts["attacks"]))
    given = gcg(known, data=data, limit=4, attacks=found, nulls=NullOptions(seeds=0))
    assert given.save(tmp_path / "a").read_bytes() == sought.save(tmp_path / "b").read_bytes()
    with pytest.raises(InputError, match="1 are given and 2 are asked for"):
        gcg(known, data=data, limit=4, attacks=dataclasses.replace(found, found=found.found[:1]))


BOTH = dataclasses.replace(QUICK, random_search=True)


@pytest.fixture(scope="module")
def searched(known: ModelPair, data: Path) -> Comparison:
    return gcg(known, data=data, limit=4, attacks=BOTH, nulls=NullOptions(seeds=0), run=RunOptions(progress=False))


def test_random_search_begins_where_gcg_does_and_costs_as_much(searched: Comparison) -> None:
    ours, theirs = searched.facts["attacks"], searched.facts["random search"]
    assert len(ours) == len(theirs) == BOTH.n_strings
    for a, b in zip(ours, theirs, strict=True):
        assert a["losses"][0] == b["losses"][0] == a["first_loss"]
        n_gradients = len(a["losses"]) - 1
        assert a["n_evaluated"] + GRADIENT_COST * n_gradients == b["n_evaluated"]
        assert "attack" not in b
    assert "at equal cost, from the same starts, reaches" in searched.summary()


def test_random_search_changes_nothing_of_what_is_measured(searched: Comparison, known: ModelPair, data: Path) -> None:
    alone = gcg(known, data=data, limit=4, attacks=QUICK, nulls=NullOptions(seeds=0), run=RunOptions(progress=False))
    assert alone.to_frame().equals(searched.to_frame())
    assert alone.facts["attacks"] == searched.facts["attacks"]


def test_the_losses_of_every_string_and_their_means_at_equal_cost_are_drawn(searched: Comparison) -> None:
    by_string = attack_losses(searched, "light")
    for trace, string in zip(by_string.data, searched.facts["attacks"], strict=True):
        assert trace.y == pytest.approx(string["losses"], rel=1e-6)
    lines = [trace for trace in attack_costs(searched, "light").data if trace.mode and "lines" in trace.mode]
    named = {trace.name.split(" (")[0]: trace for trace in lines if trace.name}
    for name, key in (("GCG", "attacks"), ("random search", "random search")):
        lower = [min(each["losses"]) - each["losses"][0] for each in searched.facts[key]]
        assert named[name].y[-1] == pytest.approx(np.mean(lower), rel=1e-5)
        assert named[name].y[0] == 0
        assert named[name].x[-1] == 1 + BOTH.gcg.steps * (BOTH.gcg.n_candidates + GRADIENT_COST)


def test_the_tables_and_figures_of_a_search_are_on_its_page_and_missing_from_older_files(
    searched: Comparison, tmp_path: Path
) -> None:
    path = searched.save(tmp_path / "gcg.json")
    captions = [caption for caption, _, _ in tables_of(Comparison.load(path))]
    assert any(caption.startswith("Search for attack strings") for caption in captions)
    content = json.loads(path.read_text())
    for string in content["facts"]["attacks"]:
        for name in ("losses", "token_ids", "last_ids", "goals_sha256"):
            del string[name]
    del content["facts"]["random search"]
    path.write_text(json.dumps(content))
    older = Comparison.load(path)
    assert len(figures_of(older)) == len(figures_of(searched)) - 2
    assert len(tables_of(older)) == len(tables_of(searched)) - 1
    with pytest.raises(InputError, match="no losses"):
        attack_losses(older, "light")


def test_a_search_that_was_killed_goes_on_within_a_string(
    known: ModelPair, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcg_search, "LEG", 2)
    monkeypatch.setattr(attacks_of, "LEG", 2)
    how = dataclasses.replace(BOTH, gcg=dataclasses.replace(BOTH.gcg, steps=5))
    whole = gcg(known, data=data, limit=2, attacks=how, nulls=NullOptions(seeds=0), run=RunOptions(out=tmp_path / "a"))
    real, calls = attacks_of.optimise, iter(range(99))

    def dies(*args: Any, **options: Any) -> Any:
        if next(calls) == 4:  # the second leg of the second string
            raise KeyboardInterrupt
        return real(*args, **options)

    run = RunOptions(out=tmp_path / "b")
    with monkeypatch.context() as patched:
        patched.setattr(attacks_of, "optimise", dies)
        with pytest.raises(KeyboardInterrupt):
            gcg(known, data=data, limit=2, attacks=how, nulls=NullOptions(seeds=0), run=run)
    gcg(known, data=data, limit=2, attacks=how, nulls=NullOptions(seeds=0), run=dataclasses.replace(run, resume=True))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert [len(each["losses"]) for each in whole.facts["attacks"]] == [6, 6]


def searches(*losses: float, reached: int = 0) -> list[dict[str, Any]]:
    return [{"first_loss": 3.0, "loss": loss, "reached": i < reached} for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ((2.0, 2.1, 1.9), "is +1.00 nats per token [+0.75, +1.25], paired over 3 strings: the gradient helps."),
        ((0.0, 0.1, -0.1), "paired over 3 strings: chance does better."),
        ((0.9, 1.1, 1.0), "paired over 3 strings: no difference shown."),
    ],
)
def test_random_search_and_gcg_are_compared_string_by_string(theirs: tuple[float, ...], said: str) -> None:
    first, second = attack_words(searches(1.0, 1.0, 1.0, reached=2), searches(*theirs))
    assert "2 of 3 (66.7% [20.8%, 93.9%]) make their target the greedy answer" in first
    assert "falls from 3.00 to 1.00" in first
    assert "reaches 0 of 3 (0.0% [0.0%, 56.1%])" in second
    assert second.endswith(said)


def test_one_string_has_no_interval_and_shows_no_difference() -> None:
    _, second = attack_words(searches(1.0), searches(2.0))
    assert "+1.00 nats per token (no interval), paired over 1 strings: no difference shown." in second


def test_no_jailbroken_prompt_leaves_the_auc_undefined_and_says_so(
    known: ModelPair, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tuco_lens.experiments.jailbreak_success"], "is_refusal", lambda text: True)
    result = jailbreak_success(known, data=data, limit=4, attacks=QUICK, nulls=FEW_NULLS)
    assert "the AUC is undefined, for no prompt is of the group 'jailbroken'" in result.summary()
    assert "0 of 4 harmful prompts (0.0% [" in result.summary()


def test_every_harmful_prompt_that_is_answered_counts_as_jailbroken(
    known: ModelPair, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tuco_lens.experiments.jailbreak_success"], "is_refusal", lambda text: False)
    result = jailbreak_success(known, data=data, limit=4, attacks=QUICK, nulls=NullOptions(seeds=0))
    assert len(result.scores["jailbroken"]["tuco"]) == 8
    assert result.facts["not refused"] == {"harmful": [8] * 4, "harmful, attacked": [8] * 4}


def test_more_shots_than_are_drawn_are_refused(known: ModelPair, data: Path) -> None:
    with pytest.raises(InputError, match="from 1 to 128"):
        many_shot(known, data=data, limit=10, shots=(1, 256))


def test_shots_beyond_the_context_give_no_value(known: ModelPair, data: Path) -> None:
    result = many_shot(known, data=data, limit=10, shots=(1, 128))
    assert np.isfinite(result.grid("tuco")[0]).all()
    assert np.isnan(result.grid("tuco")[1]).all()
    assert "no prompt fits the context at two numbers of shots" in result.summary()


def test_a_series_counts_changes_prompt_by_prompt() -> None:
    settings = ExperimentSettings("x", "b", "t", "bridge", "float32", "w")
    grid = np.array([[0.1, 0.5, 0.3], [0.2, 0.6, 0.4], [0.3, 0.7, np.nan]])
    result = Series("T", "shots", (1, 2, 4), {"a": {"tuco": grid}}, settings)
    change = result.change_frame().query("set == 'a'").iloc[0]
    assert (change["n"], change["first"], change["last"]) == (2, 1, 4)
    assert change["change"] == pytest.approx(0.2)
    assert change["slope"] == pytest.approx(0.1)  # 0.2 over two doublings


def grown(known: ModelPair, n_questions: int, system: str | None = None) -> list[list[Any]]:
    """Prompts of one set: 1, 2 and 4 sentences before each final one; the last of the longest does not fit."""
    texts = [[" ".join([f"River {i} runs."] * k + [f"Is it {i}?"]) for i in range(n_questions)] for k in (1, 2, 4)]
    grid: list[list[Any]] = [
        [make_prompt(known.tokenizer, text, chat=True, system=system) for text in row] for row in texts
    ]
    grid[2][-1] = None
    return grid


def test_null_controls_of_a_series_are_what_measuring_the_same_prompts_under_them_gives(demo: ModelPair) -> None:
    sets = {"a": grown(demo, 6), "b": grown(demo, 11, system="Be brief.")}
    settings = settings_of("x", demo, data={}, parameters={}, seed=0)
    result = growing.measure_growing(
        demo, "T", "sentences", (1, 2, 4), sets, settings,
        run=RunOptions(progress=False), nulls=NullOptions(seeds=2), null_scores=("tuco", "output_co"),
    )  # fmt: skip
    asked = {"a": [0, 2, 4], "b": [0, 1, 3, 5, 7, 9]}  # one in two, evenly spaced
    assert set(result.nulls) == set(NULL_KINDS)
    for kind, seeds in result.nulls.items():
        assert len(seeds) == 2
        for seed, found in enumerate(seeds):
            with null_control(demo, kind, seed):
                for name, places in asked.items():
                    flat = [sets[name][x][i] for x in range(3) for i in places]
                    measured = demo.measure(flat, drift=True, progress=False)
                    shape = (3, len(places))
                    for score, values in (("tuco", measured.tuco), ("output_co", measured.output_co)):
                        assert found[name][score] == pytest.approx(np.reshape(values, shape), rel=2e-4)
    assert set(result.null_frame()["n"]) == {9}


def test_null_controls_of_a_series_are_no_more_prompts_than_asked_for(demo: ModelPair) -> None:
    settings = settings_of("x", demo, data={}, parameters={}, seed=0)
    sets = {"a": grown(demo, 30)}
    one = growing.measure_growing(
        demo, "T", "sentences", (1, 2, 4), sets, settings,
        run=RunOptions(progress=False), nulls=NullOptions(seeds=1, limit=3),
    )  # fmt: skip
    assert {found["a"]["tuco"].shape for seeds in one.nulls.values() for found in seeds} == {(3, 1)}
    assert {score for seeds in one.nulls.values() for score in seeds[0]["a"]} == {"tuco"}


def test_base_against_itself_has_no_null_control_of_a_series(equals: ModelPair) -> None:
    result = output_co(equals, limit=2, counts=(1, 2), run=RunOptions(progress=False))
    assert result.nulls == {}
    assert len(result.null_frame()) == 0
    assert "null" not in result.summary()


def test_a_series_with_null_controls_reads_back_and_one_of_an_older_file_has_none(
    known: ModelPair, tmp_path: Path
) -> None:
    out = tmp_path / "s.json"
    found = output_co(known, limit=6, counts=(1, 2), nulls=FEW_NULLS, run=RunOptions(out=out))
    assert set(found.nulls) == set(NULL_KINDS)
    assert Series.load(out).null_frame().equals(found.null_frame())
    content = json.loads(out.read_text())
    del content["nulls"]
    out.write_text(json.dumps(content))
    older = Series.load(out)
    assert older.nulls == {}
    assert older.change_frame().equals(found.change_frame())
    assert len(older.figure("tuco").data) < len(found.figure("tuco").data)


def series_with_nulls(change: float, *nulls: float) -> Series:
    """TuCo of four questions changes by `change`, give or take 0.01, and of two by each of `nulls` under noise."""
    grid = np.array([[0.5] * 4, [0.5 + change + d for d in (-0.01, 0.01, -0.01, 0.01)]])
    seeds = tuple({"a": {"tuco": np.array([[0.2, 0.3], [0.2 + null, 0.3 + null]])}} for null in nulls)
    settings = ExperimentSettings("x", "b", "t", "bridge", "float32", "w")
    return Series("T", "shots", (1, 2), {"a": {"tuco": grid}}, settings, nulls={"noise": seeds} if seeds else {})


@pytest.mark.parametrize(
    ("change", "nulls", "expected"),
    [
        (-0.2, (), "none"),
        (-0.2, (0.1, -0.1), "beyond"),
        (-0.2, (0.3, -0.1), "other way"),
        (-0.2, (0.1, -0.19), "not beyond"),  # within the interval
        (0.2, (0.3, -0.5), "not beyond"),
        (0.2, (0.1, -0.5), "other way"),
    ],
)
def test_a_change_stands_to_its_null_controls_as_its_nearer_end_does(
    change: float, nulls: tuple[float, ...], expected: str
) -> None:
    result = series_with_nulls(change, *nulls)
    assert series_reach(result) == expected
    said = {
        "none": "over all",
        "beyond": "farther from 0 than any of them",
        "other way": "one does in the other",
        "not beyond": "is there with nothing taught, too",
    }[expected]
    assert (said in result.summary()) == (expected != "none")
    if nulls:
        assert f"{min(nulls):+.4f} to {max(nulls):+.4f} ({len(nulls)} seeds, n = 2)" in result.summary()


def test_the_bands_of_a_series_reach_from_the_least_to_the_greatest_mean_of_the_seeds() -> None:
    figure = series_with_nulls(-0.2, 0.3, -0.1).figure("tuco")
    band = next(trace for trace in figure.data if "base + noise" in (trace.name or ""))
    assert sorted(set(np.round(band.y, 6))) == pytest.approx([0.15, 0.25, 0.55])


def test_a_number_that_hardly_any_prompt_fits_does_not_decide_the_change() -> None:
    settings = ExperimentSettings("x", "b", "t", "bridge", "float32", "w")
    missing = np.nan
    grid = np.array([[0.1, 0.5, 0.3], [0.2, 0.6, 0.5], [0.9, missing, missing]])
    result = Series("T", "shots", (1, 2, 4), {"a": {"tuco": grid}}, settings)
    change = result.change_frame().query("set == 'a'").iloc[0]
    assert (change["n"], change["first"], change["last"]) == (3, 1, 2)
    assert result.to_frame().query("set == 'a' and x == 4").iloc[0]["n"] == 1


def test_saved_results_hold_no_prompt(known: ModelPair, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    conjugate(known, data=data, limit=3, nulls=NullOptions(seeds=0), run=RunOptions(out=out))
    assert "boat" not in out.read_text()
    assert set(json.loads(out.read_text())["settings"]["data"]) == {"advbench_translations"}
