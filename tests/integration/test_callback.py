"""`TucoCallback` on real trainings: it says what the saved checkpoints say, and the training does not notice it."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

import tuco_lens as tl
from benchmarks._live_bytes import LiveBytes
from tuco_lens import InputError, ModelPair, OutputError
from tuco_lens.tunes.callback import ThresholdWarning, TucoCallback, logged_values
from tuco_lens.tunes.trajectory import Trajectory

pytest.importorskip("peft", reason="the package peft (extra `peft`) is not installed")
pytest.importorskip("datasets", reason="the package datasets (extra `train`) is not installed")

from tests.trainings import PROMPTS, Training

pytestmark = [pytest.mark.bridge, pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

FLAT = [prompt for group in PROMPTS.values() for prompt in group]


def watched(trainer: Trainer, **how: Any) -> TucoCallback:
    """The trainer's callback, on `PROMPTS`, at the steps of its checkpoints."""
    callback = TucoCallback(trainer, PROMPTS, **{"every": trainer.args.save_steps, **how})
    trainer.add_callback(callback)
    return callback


@dataclass
class Run:
    """A training that was watched, and the same one that was not."""

    training: Training
    folder: Path
    trainer: Trainer
    callback: TucoCallback
    plain: Trainer


SLOW = pytest.mark.slow
RUNS = [
    pytest.param(Training(), id="all weights"),
    pytest.param(Training(lora=True, arguments={"gradient_accumulation_steps": 2}), id="LoRA, accumulated"),
    pytest.param(Training("SFTTrainer", lora=True), id="LoRA, SFTTrainer"),
    *(
        # TRL's own default, bfloat16, is in the run above; most CPUs only emulate it, and take three times as long.
        pytest.param(
            Training(kind, "demo", lora, 30, {"bf16": False}),
            id=f"demo, {kind}, {'LoRA' if lora else 'all'}",
            marks=SLOW,
        )
        for kind in ("Trainer", "SFTTrainer")
        for lora in (False, True)
    ),
]


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    training: Training = request.param
    if training.kind == "SFTTrainer":
        pytest.importorskip("trl", reason="the package trl (extra `train`) is not installed")
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
        trainer = training.trainer(folder / "watched", report_to=["tensorboard"])
        callback = watched(trainer, out=folder / "trajectory")
        trainer.train()
    plain = training.trainer(folder / "plain")
    plain.train()
    return Run(training, folder, trainer, callback, plain)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one: Any, other: Any) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def saved_pair(training: Training, checkpoint: Path) -> ModelPair:
    """The pair of a saved checkpoint, as a user loads it afterwards."""
    base, how = training.base(), {"backend": "bridge", "tokenizer": training.tokenizer()}
    given = {"adapter": checkpoint} if training.lora else {"tuned": checkpoint}
    return ModelPair.from_pretrained(base, **given, **how)


def checkpoint_of(run: Run, step: int) -> Path:
    return run.folder / "watched" / f"checkpoint-{step}"


def test_the_first_value_is_exactly_0_and_the_later_ones_are_not(run: Run) -> None:
    first, *later = run.callback.trajectory.measurements.items()
    assert first[0] == 0
    assert first[1].tuco.tolist() == [0.0] * len(FLAT)
    assert not torch.stack([item.last_token() for item in first[1]]).any()
    assert [step for step, _ in later] == [run.training.steps // 3 * i for i in (1, 2, 3)]
    assert all(each.tuco.min() > 1e-3 for _, each in later)


def test_the_weights_are_bit_for_bit_those_of_a_run_without_it(run: Run) -> None:
    assert_same_weights(run.trainer.model, run.plain.model)
    with pytest.raises(AssertionError):
        assert_same_weights(run.trainer.model, run.training.trainer(run.folder / "untrained").model)


def test_the_values_are_those_of_the_saved_checkpoints(run: Run) -> None:
    for step, measured in list(run.callback.trajectory.measurements.items())[1:]:
        pair = saved_pair(run.training, checkpoint_of(run, step))
        again = pair.measure(FLAT, progress=False)
        torch.testing.assert_close(measured.tuco, again.tuco, rtol=0, atol=1e-6)
        for ours, theirs in zip(measured, again, strict=True):
            torch.testing.assert_close(ours.last_token(), theirs.last_token(), rtol=0, atol=1e-6)


def test_the_trainer_logs_what_it_logs_without_it(run: Run) -> None:
    logs = [
        [record for record in trainer.state.log_history if not any(name.startswith("tuco/") for name in record)]
        for trainer in (run.trainer, run.plain)
    ]
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    cut = [[{k: v for k, v in record.items() if k not in timed} for record in each] for each in logs]
    assert cut[0] == cut[1]
    assert sum("loss" in record for record in logs[0]) == run.training.steps // 2


def test_tensorboard_has_every_value(run: Run) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard (extra `train`) is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "events"))
    events.Reload()
    trajectory = run.callback.trajectory
    groups = np.array(trajectory.groups)
    steps = list(trajectory.measurements)
    for group in dict.fromkeys(trajectory.groups):
        tuco = np.array([each.tuco.numpy()[groups == group] for each in trajectory.measurements.values()])
        for name, wanted in {"mean": tuco.mean(1), "q10": np.quantile(tuco, 0.1, axis=1)}.items():
            read = events.Scalars(f"train/tuco/{group}/{name}")
            assert [each.step for each in read] == steps
            np.testing.assert_allclose([each.value for each in read], wanted, rtol=0, atol=1e-6)
        last = events.Scalars(
            f"train/tuco/{group}/layer_{run.callback.trajectory.measurements[0].settings.n_layers - 1:02}"
        )
        np.testing.assert_allclose([each.value for each in last], tuco.mean(1), rtol=0, atol=1e-6)
    assert all(each.value > 0 for each in events.Scalars("train/tuco/share_of_step"))


def test_the_model_is_afterwards_what_it_is_without_it(run: Run) -> None:
    assert hanging(run.trainer.model) == hanging(run.plain.model)


def hanging(model: Any) -> list[Any]:
    """Hooks, modes, gradients and settings of a model that has trained, but for what makes two models two."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [
        (name, type(m).__name__, m.training, sorted(vars(m)), *(len(vars(m)[h]) for h in hooks))
        for name, m in model.named_modules()
    ]
    parameters = [(name, p.requires_grad, p.grad is None, p.dtype, p.shape) for name, p in model.named_parameters()]
    config = {k: v for k, v in model.config.to_dict().items() if k != "_name_or_path"}
    return [modules, parameters, config, model.config._attn_implementation]


def test_the_trajectory_is_on_disk_with_the_trainers_log(run: Run) -> None:
    ours, stored = run.callback.trajectory, Trajectory.load(run.folder / "trajectory")
    assert list(stored.measurements) == list(ours.measurements)
    for step, measured in ours.measurements.items():
        assert torch.equal(stored.measurements[step].tuco, measured.tuco)
    assert stored.groups == ("boats", "boats", "other")
    losses = [(record["step"], record["loss"]) for record in ours.log if "loss" in record]
    assert losses == [(r["step"], r["loss"]) for r in run.plain.state.log_history if "loss" in r]
    assert not any(name.startswith("tuco/") for record in ours.log for name in record)


def test_the_cost_is_told_as_a_share_of_a_step(run: Run) -> None:
    cost = run.callback.cost
    assert cost.measurements == 4
    assert cost.share_of_step == pytest.approx(cost.seconds / 4 / cost.step_seconds)
    assert (cost.frozen_bytes == 0) == run.training.lora
    logged = [r for r in run.trainer.state.log_history if "tuco/seconds" in r]
    assert sum(r["tuco/seconds"] for r in logged) == pytest.approx(cost.seconds)
    assert [("tuco/share_of_step" in r) for r in logged] == [False, True, True, True]


# --- Between steps ----------------------------------------------------------------------------------------------------


class _Between(TrainerCallback):
    """Measures between accumulation steps, and notes what that leaves."""

    def __init__(self, callback: TucoCallback) -> None:
        self.callback = callback
        self.kept: list[bool] = []

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.callback.trainer.model
        before = [None if p.grad is None else (p.grad, p.grad.clone()) for p in model.parameters()]
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        self.callback.measure()
        after = [p.grad for p in model.parameters()]
        same = all(
            a is None if b is None else a is b[0] and torch.equal(a, b[1]) for a, b in zip(after, before, strict=True)
        )
        same_states = states[0] == random.getstate() and states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
        self.kept.append(same and same_states and torch.equal(states[2], torch.get_rng_state()) and model.training)


@pytest.mark.parametrize("lora", [False, True])
def test_measuring_between_accumulation_steps_leaves_the_gradients_alone(lora: bool, tmp_path: Path) -> None:
    training = Training(lora=lora, steps=3, arguments={"gradient_accumulation_steps": 2})
    trainer = training.trainer(tmp_path / "a")
    between = _Between(watched(trainer))
    trainer.add_callback(between)
    trainer.train()
    plain = training.trainer(tmp_path / "b")
    plain.train()
    assert between.kept == [True] * 3
    assert_same_weights(trainer.model, plain.model)


def _tied() -> Any:
    from tests.architectures import make_model

    return make_model("llama, biases")


def _resized() -> Any:
    from tests.pairs import tiny_llama

    model: Any = tiny_llama()
    model.resize_token_embeddings(320, mean_resizing=False)
    return model


WAYS: dict[str, Training] = {
    "gradient checkpointing": Training(arguments={"gradient_checkpointing": True}),
    "gradient checkpointing, LoRA": Training(lora=True, arguments={"gradient_checkpointing": True}),
    "bfloat16 autocast": Training(arguments={"bf16": True}),
    "bfloat16 autocast, LoRA": Training(lora=True, arguments={"bf16": True}),
    "a resized vocabulary": Training(make=_resized),
    "NEFTune": Training(arguments={"neftune_noise_alpha": 5.0}),
    "torch.compile, LoRA": Training(lora=True, arguments={"torch_compile": True, "torch_compile_backend": "eager"}),
    "a scheduler of the whole run": Training(arguments={"lr_scheduler_type": "cosine", "warmup_steps": 2}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_is_followed_and_not_changed(way: str, tmp_path: Path) -> None:
    training = WAYS[way]
    trainer = training.trainer(tmp_path / "a")
    callback = watched(trainer)
    trainer.train()
    plain = training.trainer(tmp_path / "b")
    plain.train()
    assert_same_weights(trainer.model, plain.model)
    assert not callback.trajectory.measurements[0].tuco.any()
    again = saved_pair(training, tmp_path / "a" / f"checkpoint-{training.steps}").measure(FLAT, progress=False)
    torch.testing.assert_close(callback.trajectory.measurements[training.steps].tuco, again.tuco, rtol=0, atol=1e-6)


def test_a_trainer_that_makes_its_model_anew_is_followed(tmp_path: Path) -> None:
    training = Training()
    trainer = training.trainer(tmp_path)
    made: list[Any] = []

    def model_init() -> Any:
        made.append(training.base())
        with torch.no_grad():
            made[-1].model.layers[0].mlp.up_proj.weight.mul_(1 + len(made))
        return made[-1]

    again = Trainer(
        model_init=model_init,
        args=trainer.args,
        train_dataset=trainer.train_dataset,
        data_collator=trainer.data_collator,
        processing_class=trainer.processing_class,
    )
    callback = watched(again)
    again.train()
    assert len(made) == 2
    values = {step: each.tuco for step, each in callback.trajectory.measurements.items()}
    assert not values[0].any()
    assert all(each.min() > 1e-3 for step, each in values.items() if step)


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_goes_on_with_the_trajectory(lora: bool, tmp_path: Path) -> None:
    training = Training(lora=lora, steps=6)
    whole = training.trainer(tmp_path / "whole")
    expected = watched(whole, out=tmp_path / "a")
    whole.train()
    stopped = training.trainer(tmp_path / "cut")
    stopped.add_callback(_Stop(5))
    watched(stopped, out=tmp_path / "b")
    stopped.train()
    resumed = training.trainer(tmp_path / "cut")
    callback = watched(resumed, out=tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert_same_weights(resumed.model, whole.model)
    for trajectory in (callback.trajectory, Trajectory.load(tmp_path / "b")):
        assert list(trajectory.measurements) == [0, 2, 4, 6]
        for step, measured in expected.trajectory.measurements.items():
            assert torch.equal(trajectory.measurements[step].tuco, measured.tuco)
    assert [r["step"] for r in callback.trajectory.log if "loss" in r] == [2, 4, 6]


class _Stop(TrainerCallback):
    """Ends a training at a step, as if it had been interrupted there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step == self.step


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of all weights that ended at its checkpoint 4, and its trajectory."""
    folder = tmp_path_factory.mktemp("cut")
    trainer = Training().trainer(folder / "run")
    trainer.add_callback(_Stop(4))
    watched(trainer, out=folder / "trajectory")
    trainer.train()
    return folder


def test_resuming_with_the_weights_of_the_checkpoint_needs_the_base(cut: Path) -> None:
    from transformers import AutoModelForCausalLM

    training, checkpoint = Training(), str(cut / "run" / "checkpoint-4")
    trainer = training.trainer(cut / "run", AutoModelForCausalLM.from_pretrained(checkpoint))
    watched(trainer)
    with pytest.raises(InputError, match=r"cannot go on from step 4: .*give base=, the model that training began from"):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer = training.trainer(cut / "run", AutoModelForCausalLM.from_pretrained(checkpoint))
    callback = watched(trainer, base=training.base(), out=cut / "trajectory")
    trainer.train(resume_from_checkpoint=checkpoint)
    assert list(callback.trajectory.measurements) == [0, 2, 4, 6]
    again = saved_pair(training, cut / "run" / "checkpoint-6").measure(FLAT, progress=False)
    torch.testing.assert_close(callback.trajectory.measurements[6].tuco, again.tuco, rtol=0, atol=1e-6)


def _other_base(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.model.layers[0].mlp.up_proj.weight.mul_(1.5)


@pytest.mark.parametrize("case", ["base", "prompts", "begun"])
def test_another_trajectory_is_not_gone_on_with(case: str, cut: Path) -> None:
    before = (cut / "trajectory" / "trajectory.json").read_bytes()
    trainer = Training().trainer(cut / "other")
    if case == "base":
        _other_base(trainer)
    prompts = {"boats": ["A yellow boat", "The green boat number 3 lies"], "other": ["A river runs to"]}
    trainer.add_callback(TucoCallback(trainer, prompts if case == "prompts" else PROMPTS, out=cut / "trajectory"))
    resume = None if case == "begun" else str(cut / "run" / "checkpoint-4")
    message = {"base": "against another base", "prompts": "of other prompts", "begun": "holds a trajectory already"}
    with pytest.raises(OutputError if case == "begun" else InputError, match=message[case]):
        trainer.train(resume_from_checkpoint=resume)
    assert (cut / "trajectory" / "trajectory.json").read_bytes() == before


def test_a_trajectory_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    for every in (3, 2):
        trainer = Training(lora=True).trainer(tmp_path / "run")
        watched(trainer, every=every, out=tmp_path / "trajectory", overwrite=True)
        trainer.train()
    assert list(Trajectory.load(tmp_path / "trajectory").measurements) == [0, 2, 4, 6]


# --- Thresholds, errors, options --------------------------------------------------------------------------------------


def test_a_threshold_warns_once_for_each_group_and_stops_the_training(tmp_path: Path) -> None:
    trainer = Training().trainer(tmp_path / "a")
    watched(trainer, every=1, warn_above=0.001)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    said = [str(each.message) for each in caught if each.category is ThresholdWarning]
    assert [text.split("'")[1] for text in said] == ["boats", "other"]
    trainer = Training().trainer(tmp_path / "b")
    callback = watched(trainer, every=2, stop_above=0.001)
    with pytest.warns(
        ThresholdWarning, match=r"training stops at step 2: TuCo of 'boats' is 0\.\d{4}, above stop_above"
    ):
        trainer.train()
    assert trainer.state.global_step == 2
    assert list(callback.trajectory.measurements) == [0, 2]


def test_an_error_while_it_measures_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Training().trainer(tmp_path / "a")
    callback = watched(trainer)
    before, threads = hanging(trainer.model), torch.get_num_threads()

    def fails(*_args: Any, **_kwargs: Any) -> Any:
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("as an out-of-memory error would")

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    with monkeypatch.context() as patch:
        patch.setattr(ModelPair, "measure", fails)
        with pytest.raises(RuntimeError, match="out-of-memory"):
            callback.measure()
    assert hanging(trainer.model) == before
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, torch.float32)
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())
    assert not callback.measure().tuco.any()


def test_the_steps_are_those_that_were_chosen_and_the_last(tmp_path: Path) -> None:
    for how, wanted in (
        ({"every": 4}, [0, 4, 6]),
        ({"every": None, "at": [1, 5]}, [0, 1, 5, 6]),
        ({"every": 3, "at": [2]}, [0, 2, 3, 6]),
        ({"every": None}, [0, 1, 2, 3, 4, 5, 6]),
    ):
        trainer = Training().trainer(tmp_path)
        callback = watched(trainer, **how)
        trainer.train()
        assert list(callback.trajectory.measurements) == wanted


def test_what_else_ends_a_training_has_its_last_step_measured(tmp_path: Path) -> None:
    class AfterSaving(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = True

    trainer = Training().trainer(tmp_path)
    callback = watched(trainer, every=5)
    trainer.add_callback(AfterSaving())
    trainer.train()
    assert list(callback.trajectory.measurements) == [0, 2]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"every": 0}, "every=0"),
    "a step before the first": ({"at": [-1]}, "at=-1"),
    "a quantile": ({"quantiles": [50]}, "quantiles: 50"),
    "a layer": ({"layers": [3]}, "layers: 3"),
    "what to keep": ({"keep": "first"}, "keep='first'"),
    "two places": ({"base_device": "cpu", "base_folder": "/tmp"}, "base_device and base_folder"),
    "chats without a template": ({"chat": True}, "template"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_before_training_begins(case: str, tmp_path: Path) -> None:
    how, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        watched(Training().trainer(tmp_path), **how)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_too_long_or_a_missing_tokenizer_is_said_at_once(tmp_path: Path) -> None:
    trainer = Training().trainer(tmp_path)
    with pytest.raises(InputError, match="prompt 1"):
        TucoCallback(trainer, ["short", "long " * 50])
    trainer.processing_class = None
    with pytest.raises(InputError, match="give tokenizer="):
        TucoCallback(trainer, PROMPTS)
    assert TucoCallback(trainer, PROMPTS, tokenizer=Training().tokenizer()).measure().tuco.tolist() == [0.0] * 3


def test_what_is_logged_is_what_numpy_says(tmp_path: Path) -> None:
    pair = ModelPair.demo(backend="bridge")
    measured = pair.measure(FLAT, keep="last", progress=False)
    values = logged_values(measured, ("boats", "boats", "other"), (0.25, 0.975), layers=[0, 7])
    tuco = measured.tuco.double().numpy()
    assert values["tuco/boats/mean"] == pytest.approx((tuco[0] + tuco[1]) / 2)
    assert values["tuco/boats/q97.5"] == pytest.approx(tuco[:2].min() + 0.975 * np.ptp(tuco[:2]))
    assert values["tuco/other/q25"] == pytest.approx(tuco[2])
    assert values["tuco/all/mean"] == pytest.approx(tuco.mean())
    assert values["tuco/other/layer_00"] == pytest.approx(measured[2].last_token()[0].item())
    assert values["tuco/other/layer_07"] == pytest.approx(tuco[2])
    assert sorted(name for name in values if "layer" in name and "boats" in name) == [
        "tuco/boats/layer_00",
        "tuco/boats/layer_07",
    ]
    assert not any("layer" in name for name in logged_values(measured, ("a",) * 3, (), layers=False))


def test_nothing_is_known_before_the_first_measurement(tmp_path: Path) -> None:
    callback = watched(Training().trainer(tmp_path))
    with pytest.raises(InputError, match="nothing was measured yet"):
        _ = callback.trajectory
    assert np.isnan(callback.cost.step_seconds)


def test_it_is_a_name_of_the_package() -> None:
    assert tl.TucoCallback is TucoCallback


def test_a_base_on_disk_gives_the_same_run(tmp_path: Path) -> None:
    values: list[Any] = []
    for folder in (None, tmp_path / "disk"):
        trainer = Training().trainer(tmp_path)
        callback = watched(trainer, base_folder=folder)
        trainer.train()
        values.append([each.tuco.tolist() for each in callback.trajectory.measurements.values()])
    assert values[0] == values[1]


# --- Memory -----------------------------------------------------------------------------------------------------------


def _peak(training: Training, folder: Path, *, watches: bool) -> int:
    trainer = training.trainer(folder)
    with LiveBytes() as memory:
        if watches:
            watched(trainer, every=1)
        trainer.train()
    return memory.peak


@pytest.mark.slow
def test_with_an_adapter_the_peak_of_memory_is_that_of_training(tmp_path: Path) -> None:
    training = Training(model="demo", lora=True, steps=2, arguments={"save_strategy": "no"})
    weights_of = sum(p.nbytes for p in training.base().parameters())
    without, with_it = (_peak(training, tmp_path, watches=watches) for watches in (False, True))
    # TransformerLens gives each of two models a bias of the unembedding: 4096 numbers.
    assert with_it - without < 0.02 * weights_of


# --- Several processes ------------------------------------------------------------------------------------------------

TWO = """
import sys
from pathlib import Path
import torch
from tests.trainings import PROMPTS, Training
from tuco_lens.tunes.callback import TucoCallback

folder, stop = Path(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(1)
trainer = Training(arguments={"ddp_backend": "gloo", "save_strategy": "no"}).trainer(folder)
callback = TucoCallback(trainer, PROMPTS, every=2, stop_above=stop or None, out=folder / "trajectory")
if stop >= 0:
    trainer.add_callback(callback)
trainer.train()
name = f"{'plain' if stop < 0 else 'watched'}-{trainer.args.process_index}.pt"
torch.save({"step": trainer.state.global_step, "weights": trainer.model.state_dict()}, folder / name)
"""


def _two_processes(folder: Path, stop: float) -> None:
    script = folder / "two.py"
    script.write_text(TWO, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), str(folder), str(stop)]
    done = subprocess.run(
        [sys.executable, *launch],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0.0, 1e-3], ids=["to the end", "stopped"])
def test_of_two_processes_the_main_one_measures_and_both_do_the_same_steps(stop: float, tmp_path: Path) -> None:
    _two_processes(tmp_path, stop)
    steps = 2 if stop else 6
    ours = [torch.load(tmp_path / f"watched-{i}.pt", weights_only=True) for i in range(2)]
    assert [each["step"] for each in ours] == [steps, steps]
    trajectory = Trajectory.load(tmp_path / "trajectory")
    assert list(trajectory.measurements) == [0, 2, 4, 6][: steps // 2 + 1]
    assert not trajectory.measurements[0].tuco.any()
    if not stop:
        _two_processes(tmp_path, -1.0)
        plain = torch.load(tmp_path / "plain-0.pt", weights_only=True)
        assert all(torch.equal(value, plain["weights"][name]) for name, value in ours[0]["weights"].items())
