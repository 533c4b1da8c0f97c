"""The model `tuco` of lm-evaluation-harness, on tasks over local files.

At α = 1 the oracle is the harness' own `hf` model on the tuned checkpoint; at other α it is a plain loop within
`with pair.scaled(α)`, one request at a time, without padding, cache or harness. How the command line reports bad
arguments is at the end.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra evals)")

import lm_eval.evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tuco_lens import ModelPair, evals
from tuco_lens.errors import InputError, LoadError, TucoLensError
from tuco_lens.evals.__main__ import main
from tuco_lens.evals.lm_eval_model import TucoLM
from tuco_lens.pair import DEMO_FOLDER

BACKENDS = ["hooked", pytest.param("bridge", marks=pytest.mark.bridge)]
TUNED = str(DEMO_FOLDER / "tuned")
MAX_NEW_TOKENS = 12
STOPS = [".", "\n\n"]

CHOICES = [
    {"text": "What colour is the sky?", "choices": ["blue", "a green one", "red, I think"], "answer": 0},
    {"text": "Name an animal that barks at strangers in the night.", "choices": ["a dog", "fish"], "answer": 0},
    {"text": "Write a short poem about the sea.", "choices": ["Of course", "I cannot"], "answer": 0},
    {"text": "Bread is made of", "choices": ["flour and water", "sand", "glass"], "answer": 0},
]
TEXTS = [
    {"text": "The river ran through the valley."},
    {"text": "A cook needs a knife, a pot, and some time. She cuts the onions, and puts them into the pot with oil."},
    {"text": "Rain."},
]
KINDS: dict[str, dict[str, Any]] = {
    "choose": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"},
    "roll": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    "write": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": STOPS, "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False},
    },
}
METRICS = {"choose": "acc", "roll": "word_perplexity", "write": "exact_match"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """Three tasks over files, one of each kind of request."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, kind in KINDS.items():
        documents = TEXTS if name == "roll" else CHOICES
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "fewshot_split": "test",
            "doc_to_text": "{{text}}",
            "metric_list": [{"metric": METRICS[name]}],
            **kind,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(autouse=True)
def _no_report_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness describes the machine after each evaluation, by programs that take seconds."""
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)


_pairs: dict[str, ModelPair] = {}


@pytest.fixture(params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> ModelPair:
    if request.param not in _pairs:
        _pairs[request.param] = ModelPair.demo(backend=request.param)
    return _pairs[request.param]


@pytest.fixture(scope="module")
def reference() -> HFLM:
    """The harness' own model on the tuned checkpoint."""
    return HFLM(pretrained=TUNED, dtype="float32", device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def expected(tasks: TaskManager) -> dict[str, list[Any]]:
    """What it answers."""
    return answers(HFLM(pretrained=TUNED, dtype="float32", device="cpu", batch_size=4), tasks)


def answers(model: Any, tasks: TaskManager, names: list[str] | None = None, **options: Any) -> dict[str, list[Any]]:
    """What a model answers to every request of every document, by task."""
    found = lm_eval.simple_evaluate(
        model, tasks=names or list(KINDS), task_manager=tasks, bootstrap_iters=0, random_seed=0, **options
    )
    assert found is not None
    samples = found["samples"]
    ordered = {name: sorted(samples[name], key=lambda sample: sample["doc_id"]) for name in samples}
    return {name: [sample["resps"] for sample in ordered[name]] for name in ordered}


def assert_same(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    """Numbers within the tolerance; flags, texts and structure exactly."""
    assert type(one) is type(other)
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=tolerance)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        assert_same(list(one.values()), list(other.values()), tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert one == other


def hooks(pair: ModelPair) -> int:
    """Every hook on every module of both models, and replaced forwards."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [module for model in (pair.base, pair.tuned) for module in model.modules()]
    return sum(len(getattr(module, kind)) for module in modules for kind in kinds) + sum(
        "forward" in vars(module) for module in modules
    )


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]  # type: ignore[arg-type]


# α = 1 is the harness' own model


def test_at_alpha_1_every_answer_is_that_of_the_harness_own_model(
    pair: ModelPair, tasks: TaskManager, expected: dict[str, list[Any]]
) -> None:
    ours = answers(TucoLM(pair=pair, batch_size=4), tasks)
    assert_same(ours, expected)
    assert len({text for document in ours["write"] for text in document[0]}) > 1


def test_with_a_chat_template_and_examples_as_turns_the_answers_are_those_of_the_harness_own_model(
    pair: ModelPair, tasks: TaskManager, reference: HFLM, expected: dict[str, list[Any]]
) -> None:
    for as_turns in (True, False):
        options: dict[str, Any] = {
            "apply_chat_template": True,
            "system_instruction": "You are a helpful assistant.",
            "num_fewshot": 2,
            "fewshot_as_multiturn": as_turns,
        }
        chat = answers(TucoLM(pair=pair, batch_size=4), tasks, ["choose", "write"], **options)
        assert_same(chat, answers(reference, tasks, ["choose", "write"], **options))
        assert all(chat[name] != expected[name] for name in chat)


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_the_rule_about_bos_is_the_harness(pair: ModelPair, tasks: TaskManager, add_bos_token: bool) -> None:
    tokens_before = pair.tokenizer("Rain.")["input_ids"]
    hf = HFLM(pretrained=TUNED, dtype="float32", device="cpu", batch_size=4, add_bos_token=add_bos_token)
    ours = TucoLM(pair=pair, batch_size=4, add_bos_token=add_bos_token)
    assert_same(answers(ours, tasks), answers(hf, tasks))
    assert (ours.tok_encode("Rain.")[0] == pair.tokenizer.bos_token_id) == add_bos_token
    assert pair.tokenizer("Rain.")["input_ids"] == tokens_before  # the pair's own tokenizer is as it was


def test_texts_longer_than_max_length_are_cut_as_the_harness_does(pair: ModelPair, tasks: TaskManager) -> None:
    hf = HFLM(pretrained=TUNED, dtype="float32", device="cpu", batch_size=2, max_length=MAX_NEW_TOKENS + 6)
    ours = TucoLM(pair=pair, batch_size=2, max_length=MAX_NEW_TOKENS + 6)
    assert any(len(ours.tok_encode(document["text"])) > ours.max_length for document in TEXTS)
    assert_same(answers(ours, tasks), answers(hf, tasks))


def test_sampling_with_one_seed_gives_the_text_of_the_harness_own_model(pair: ModelPair, reference: HFLM) -> None:
    options = {"until": [], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": True, "temperature": 0.9, "top_p": 0.95}
    asked = requests("generate_until", *((document["text"], options) for document in CHOICES))
    torch.manual_seed(3)
    expected = reference.generate_until(asked, disable_tqdm=True)
    torch.manual_seed(3)
    ours = TucoLM(pair=pair, batch_size=4).generate_until(asked, disable_tqdm=True)
    assert ours == expected
    assert ours != TucoLM(pair=pair, batch_size=4).generate_until(asked, disable_tqdm=True)  # the seed has gone on


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_checkpoint_says_about_generation_counts_as_for_the_harness_own_model(
    backend: str, tasks: TaskManager, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    shutil.copytree(TUNED, tmp_path / "tuned")
    config = tmp_path / "tuned" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "repetition_penalty": 1.6}))
    ours = TucoLM(base=str(DEMO_FOLDER / "base"), tuned=str(tmp_path / "tuned"), backend=backend, batch_size=4)
    hf = HFLM(pretrained=str(tmp_path / "tuned"), dtype="float32", device="cpu", batch_size=4)
    found = answers(ours, tasks, ["write"])
    assert_same(found, answers(hf, tasks, ["write"]))
    assert found["write"] != expected["write"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_at_alpha_1_is_the_harness_own_model_with_that_adapter(
    backend: str, tasks: TaskManager, tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    base = str(DEMO_FOLDER / "base")
    hf = HFLM(pretrained=base, peft=adapter, dtype="float32", device="cpu", batch_size=4)
    tuned = answers(TucoLM(base=base, adapter=adapter, backend=backend, batch_size=4), tasks)
    assert_same(tuned, answers(hf, tasks))
    plain = HFLM(pretrained=base, dtype="float32", device="cpu", batch_size=4)
    # An adapter leaves embedding and unembedding alone, so that α = 0 is the base model.
    untuned = answers(TucoLM(base=base, adapter=adapter, backend=backend, batch_size=4, alpha=0), tasks)
    assert_same(untuned, answers(plain, tasks))
    assert untuned["choose"] != tuned["choose"]


def save_adapter(folder: Path) -> str:
    """A random LoRA of the demo pair's base model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER / "base", dtype=torch.float32)
    get_peft_model(base, config).save_pretrained(folder)
    return str(folder)


# Other α


def log_probabilities(pair: ModelPair, ids: list[int]) -> torch.Tensor:
    logits = pair.tuned(torch.tensor([ids]), return_type="logits")[0]
    return logits.double().log_softmax(-1)


def plain_choice(pair: ModelPair, context: str, choice: str) -> tuple[float, bool]:
    n_context = len(pair.tokenizer.encode(context))
    ids = pair.tokenizer.encode(f"{context} {choice}")
    predicted = log_probabilities(pair, ids[:-1])[n_context - 1 :]  # [continuation, d_vocab]
    continuation = torch.tensor(ids[n_context:])
    total = predicted.gather(1, continuation[:, None]).sum()
    return total.item(), bool((predicted.argmax(-1) == continuation).all())


def plain_roll(pair: ModelPair, text: str) -> float:
    ids = [pair.tokenizer.bos_token_id, *pair.tokenizer.encode(text)]
    return log_probabilities(pair, ids[:-1]).gather(1, torch.tensor(ids[1:])[:, None]).sum().item()


def plain_text(pair: ModelPair, context: str) -> str:
    ids = pair.tokenizer.encode(context)
    n_context = len(ids)
    while len(ids) < n_context + MAX_NEW_TOKENS:
        token = int(log_probabilities(pair, ids)[-1].argmax())
        if token == pair.tokenizer.eos_token_id:
            break
        ids.append(token)
        text = pair.tokenizer.decode(ids[n_context:])
        found = [text.index(stop) for stop in STOPS if stop in text]
        if found:
            return text[: min(found)]
    return pair.tokenizer.decode(ids[n_context:])


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_other_alphas_give_what_a_plain_loop_under_the_scaling_gives(
    pair: ModelPair, tasks: TaskManager, expected: dict[str, list[Any]], alpha: float
) -> None:
    found = answers(TucoLM(pair=pair, alpha=alpha, batch_size=4), tasks)
    with pair.scaled(alpha), torch.no_grad():
        chosen = [[[plain_choice(pair, d["text"], choice)] for choice in d["choices"]] for d in CHOICES]
        rolled = [[[plain_roll(pair, document["text"])]] for document in TEXTS]
        written = [[[plain_text(pair, document["text"])]] for document in CHOICES]
    assert_same(found, {"choose": chosen, "roll": rolled, "write": written})
    assert all(found[name] != expected[name] for name in KINDS)


def test_alpha_may_be_given_for_every_layer(pair: ModelPair, tasks: TaskManager) -> None:
    alphas = [1.0] * (pair.n_layers - 2) + [0.2, 0.5]
    found = answers(TucoLM(pair=pair, alpha=alphas, batch_size=4), tasks, ["choose"])
    with pair.scaled(alphas), torch.no_grad():
        chosen = [[[plain_choice(pair, d["text"], choice)] for choice in d["choices"]] for d in CHOICES]
    assert_same(found["choose"], chosen)


def test_answers_do_not_depend_on_the_batch(pair: ModelPair, tasks: TaskManager) -> None:
    one, four = (answers(TucoLM(pair=pair, alpha=0.5, batch_size=size), tasks) for size in (1, 4))
    assert_same(one, four)
    found = TucoLM(pair=pair, alpha=0.5, batch_size="auto", max_batch_size=3, max_length=40)
    assert_same(answers(found, tasks, ["choose"])["choose"], one["choose"])


def test_a_row_ends_at_a_stop_string_that_is_a_special_token_whatever_the_rows_beside_it_do(pair: ModelPair) -> None:
    options = {"until": ["<|im_end|>"], "max_gen_toks": 32}
    chats = (f"<|im_start|>user\n{d['text']}<|im_end|>\n<|im_start|>assistant\n" for d in CHOICES[:2])
    asked = requests("generate_until", *((chat, options) for chat in chats))
    expected = TucoLM(pair=pair, alpha=1.1).generate_until(asked, disable_tqdm=True)
    lengths = [len(pair.tokenizer.encode(text, add_special_tokens=False)) for text in expected]
    assert lengths[0] < lengths[1] < 32  # both end by themselves, one before the other
    model = TucoLM(pair=pair, alpha=1.1, batch_size=2)
    model.model.generation_config.eos_token_id = None  # the stop string alone ends rows
    assert model.generate_until(asked, disable_tqdm=True) == expected


@pytest.mark.parametrize("method", ["logits", "weights"])
def test_the_baselines_give_what_their_scaling_gives_and_not_what_ftc_gives(
    pair: ModelPair, tasks: TaskManager, method: Any
) -> None:
    found = answers(TucoLM(pair=pair, alpha=0.4, method=method, batch_size=4), tasks)
    with pair.scaled(0.4, method=method), torch.no_grad():
        chosen = [[[plain_choice(pair, d["text"], choice)] for choice in d["choices"]] for d in CHOICES]
        written = [[[plain_text(pair, document["text"])]] for document in CHOICES]
    assert_same({name: found[name] for name in ("choose", "write")}, {"choose": chosen, "write": written})
    assert found["choose"] != answers(TucoLM(pair=pair, alpha=0.4, batch_size=4), tasks, ["choose"])["choose"]


# Nothing is left behind


@pytest.mark.parametrize("method", ["ftc", "logits", "weights"])
def test_after_an_evaluation_and_after_an_error_in_it_the_models_are_as_they_were(
    pair: ModelPair, tasks: TaskManager, method: Any
) -> None:
    before, weights = hooks(pair), [weight.clone() for weight in pair.tuned.parameters()]
    model = TucoLM(pair=pair, alpha=0.5, method=method, batch_size=2)
    answers(model, tasks)
    assert hooks(pair) == before
    passes: list[int] = []

    def fail(*_: Any) -> None:
        passes.append(1)
        if len(passes) == 3:
            raise RuntimeError("on purpose")

    for name in KINDS:
        passes.clear()
        handle = pair.tuned.blocks[2].register_forward_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="on purpose"):
                answers(TucoLM(pair=pair, alpha=0.5, method=method), tasks, [name])
        finally:
            handle.remove()
        assert hooks(pair) == before
        assert not pair.active_scalings
    assert all(torch.equal(a, b) for a, b in zip(weights, pair.tuned.parameters(), strict=True))


@pytest.mark.bridge
def test_a_file_of_answers_serves_one_model_and_one_alpha(tasks: TaskManager, tmp_path: Path) -> None:
    pair = ModelPair.demo(backend="bridge")
    file = str(tmp_path / "answers")
    first = answers(TucoLM(pair=pair, alpha=0.5), tasks, ["choose"], use_cache=file)
    again = answers(TucoLM(pair=pair, alpha=0.5), tasks, ["choose"], use_cache=file)
    assert_same(first, again, tolerance=0)
    with pytest.raises(InputError, match="a file of its own"):
        answers(TucoLM(pair=pair, alpha=0.6), tasks, ["choose"], use_cache=file)
    others = str(tmp_path / "others")
    answers(HFLM(pretrained=TUNED, dtype="float32", device="cpu"), tasks, ["choose"], use_cache=others)
    with pytest.raises(InputError, match="another model"):
        answers(TucoLM(pair=pair), tasks, ["choose"], use_cache=others)


@pytest.mark.bridge
def test_results_say_which_pair_and_which_alpha(tasks: TaskManager) -> None:
    evals.register()
    found = lm_eval.simple_evaluate(
        "tuco",
        model_args={"pair": "demo", "alpha": 0.5, "backend": "bridge", "batch_size": 3},
        tasks=["choose"],
        task_manager=tasks,
        batch_size=1,
        bootstrap_iters=0,
        device="cuda:0" if not torch.cuda.is_available() else "cpu",
    )
    assert found is not None
    said = json.loads(json.dumps(found["config"], default=str))
    assert (said["alpha"], said["method"], said["backend"]) == (0.5, "ftc", "bridge")
    assert (said["base"], said["tuned"], said["model_dtype"]) == ("demo/base", "demo/tuned", "float32")


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pair=demo,alpha=abc", "alpha is 'abc': it is not a finite number"),
        ("pair=demo,alpha=nan", "alpha is nan: it is not a finite number"),
        ("pair=demo,alpha=inf", "alpha is inf"),
        ("pair=demo,alpha=true", "alpha is True: it is not a number"),
        ("base=x", "neither tuned nor adapter"),
        ("base=x,tuned=y,adapter=z", "both tuned and adapter"),
        ("tuned=y", "neither base nor pair"),
        ("pair=demo,base=x", "pair=demo: it names both models already"),
        ("pair=nosuchpair", "no pair has that name"),
        ("pair=demo,method=ptc", "no method 'ptc': there are ftc, logits, weights"),
        ("pair=demo,alfa=1", "no argument 'alfa'"),
        ("pair=demo,parallelize=true", "no argument 'parallelize'"),
        ("pair=demo,batch_size=0", "batch_size is 0"),
        ("pair=demo,batch_size=many", "batch_size is 'many'"),
        ("pair=demo,max_length=2.5", "max_length is 2.5"),
        ("pair=demo,max_length=4096", "max_length is 4096: the context of demo/tuned is 2048"),
        ("pair=demo,backend=jax", "'jax'"),
        ("pair=demo,dtype=int8", "'int8'"),
        ("base=/no/such/folder,tuned=/no/such/folder", "no such directory"),
    ],
)
def test_a_bad_argument_is_one_clear_line(arguments: str, message: str) -> None:
    with pytest.raises(TucoLensError) as caught:
        TucoLM.create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu", "max_batch_size": None})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.bridge
def test_alphas_for_too_few_layers_are_refused() -> None:
    with pytest.raises(InputError, match="8 layers"):
        TucoLM(pair="demo", backend="bridge", alpha=[0.5, 1.0])


@pytest.mark.bridge
def test_a_loaded_pair_beside_the_name_of_a_model_is_refused() -> None:
    with pytest.raises(InputError, match="a loaded pair"):
        TucoLM(pair=ModelPair.demo(backend="bridge"), tuned=TUNED)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_beams": 2}, "num_beams is 2"),
        ({"num_return_sequences": 3, "do_sample": True}, "num_return_sequences is 3"),
        ({"temprature": 0.5}, "no generation option 'temprature'"),
        ({"penalty_alpha": 0.6}, "no generation option 'penalty_alpha'"),
        ({"max_length": 5000}, "max_length"),
    ],
)
def test_a_generation_option_that_this_model_has_not_is_one_clear_line(
    pair: ModelPair, tasks: TaskManager, option: dict[str, Any], message: str
) -> None:
    before = hooks(pair)
    with pytest.raises(InputError, match=message):
        answers(TucoLM(pair=pair, alpha=0.5), tasks, ["write"], gen_kwargs=option)
    assert hooks(pair) == before


def test_beams_that_a_checkpoint_asks_for_by_itself_are_refused_too(
    pair: ModelPair, tasks: TaskManager, expected: dict[str, list[Any]]
) -> None:
    model = TucoLM(pair=pair)
    model.model.generation_config.num_beams = 4
    with pytest.raises(InputError, match="num_beams is 4"):
        answers(model, tasks, ["write"])
    found = answers(model, tasks, ["write"], gen_kwargs={"num_beams": 1})
    assert_same(found["write"], expected["write"])


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `python -m tuco_lens.evals` in this process; returns its exit status."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back what the command changes

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tuco_lens.evals", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


@pytest.mark.bridge
def test_the_command_ends_a_bad_argument_with_one_line_and_status_2(
    command: Callable[..., int],
    tasks: TaskManager,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Otherwise it reads the thousands of tasks that the harness brings.
    monkeypatch.setattr("lm_eval.config.evaluate_config.EvaluatorConfig.process_tasks", lambda *_: tasks)
    folder = str(tasks.include_path)
    status = command(
        *("--model", "tuco", "--model_args", "pair=demo,alpha=abc", "--tasks", "choose", "--include_path", folder)
    )
    own = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tuco-lens:")]
    assert status == 2
    assert own == ["tuco-lens: error: alpha is 'abc': it is not a finite number; give one, such as 0.8"]


@pytest.mark.bridge
def test_without_the_harness_the_command_says_what_to_install(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command("--model", "tuco") == 2
    assert "pip install 'tuco_lens[evals]'" in capsys.readouterr().err
    with pytest.raises(LoadError, match="not installed"):
        evals.register()


@pytest.mark.slow
@pytest.mark.bridge
def test_the_command_evaluates_a_local_task_and_writes_its_results(tasks: TaskManager, tmp_path: Path) -> None:
    arguments = ["--model", "tuco", "--model_args", "pair=demo,alpha=0.5,backend=bridge", "--tasks", "choose"]
    places = ["--include_path", str(tasks.include_path), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "tuco_lens.evals", *arguments, *places, "--batch_size", "4"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())
    assert found["config"]["alpha"] == 0.5
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    said = [json.loads(line) for line in samples.read_text().splitlines()]
    pair = ModelPair.demo(backend="bridge")
    with pair.scaled(0.5), torch.no_grad():
        for sample in said:
            document = CHOICES[sample["doc_id"]]
            for choice, response in zip(document["choices"], sample["resps"], strict=True):
                total = float(response[0][0])
                assert total == pytest.approx(plain_choice(pair, document["text"], choice)[0], abs=1e-4)
