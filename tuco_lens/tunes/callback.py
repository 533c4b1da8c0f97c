"""`TucoCallback`: TuCo of a model while it trains, for transformers' `Trainer` and those of TRL.

At chosen steps it measures a fixed set of prompts on the pair of `live.py`, logs what it finds through the trainer, and
keeps the trajectory (`trajectory.py`). It never touches the model in training, and puts back what measuring touches
beside it (`untouched.py`), so a run with it gives the same weights, bit for bit, as one without.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from tuco_lens import __version__
from tuco_lens.engine.batches import Keep, MeasureOptions
from tuco_lens.errors import InputError, OutputError
from tuco_lens.models.numerics import NoiseFloorWarning
from tuco_lens.tunes.frozen import FrozenCopy
from tuco_lens.tunes.live import LivePair, given_weights, plain_model, require_whole
from tuco_lens.tunes.measured import group_masks, grouped
from tuco_lens.tunes.timing import Clock, Cost
from tuco_lens.tunes.trajectory import KIND, Trajectory
from tuco_lens.tunes.untouched import untouched

if TYPE_CHECKING:
    from tuco_lens.engine.memory import BatchTokens
    from tuco_lens.prompts.prompt import PromptLike
    from tuco_lens.results.measurement import Measurement

__all__ = ["ThresholdWarning", "TucoCallback", "logged_values"]

PREFIX: Final = "tuco/"
"""What the names of all logged values begin with."""
_BASE: Final = "base_weights"
"""Entry of a trajectory's settings that tells the base."""
_TIMES: Final = 20
"""Measurements of a run whose steps were not chosen."""
_OTHER_BASE: Final = "give base=, the model that training began from"


class ThresholdWarning(UserWarning):
    """The mean TuCo of a group has passed `warn_above` or `stop_above`."""


class TucoCallback(TrainerCallback):
    """Measures TuCo of fixed prompts while a model trains, and logs it with whatever the trainer logs to.

    Add it to a trainer that is made: `trainer.add_callback(TucoCallback(trainer, prompts, every=50))`. What is logged
    for each group of prompts: `tuco/<group>/mean`, a value for each quantile (`tuco/<group>/q50`), and the mean share
    after each block (`tuco/<group>/layer_03`); where there are several groups, also for "all" together. Beside them
    `tuco/seconds` and `tuco/share_of_step`: what a measurement takes.

    The base is what the model was when the callback was made. With PEFT it is the model with its adapters off, which
    costs no memory; in full fine-tuning a frozen clone of the blocks' weights. Step 0 is measured when training begins,
    and the last step in any case. Where several processes train, the main one measures, and the others wait for it at
    the next step.

    Args:
        trainer: a `transformers.Trainer` or one of TRL's, whose model is not sharded.
        prompts: one prompt, a list of them, or such by group. See `ModelPair.prompt` for what one may be.
        every: measure every so many optimizer steps. With neither this nor `at`, twenty times over the run.
        at: measure at these steps too.
        chat: put plain text through the chat template, as one user message.
        system: a system message in front, for chats.
        keep: "last" keeps the norms of each prompt's last token; "maps" those of all tokens, and costs more.
        quantiles: of TuCo over the prompts of a group, to log.
        layers: log the mean share after each block too, or after these blocks.
        warn_above: warn once for each group whose mean TuCo passes this.
        stop_above: stop the training when the mean TuCo of any group passes this.
        out: a folder for the trajectory, written anew after each measurement. A run that is resumed goes on with it.
        overwrite: replace a trajectory that is there, when training begins from the start.
        base: what training began from, in the forms that `ModelPair.from_pretrained` takes, where the model given to
            the trainer is not that. Not with PEFT.
        since_start: with PEFT, compare with the model as it is now, adapters included, and not with the adapters off:
            for training an adapter on.
        base_dtype: what the clones are stored in. Narrower than the model, they are rounded, and TuCo is not 0 at
            step 0.
        base_device: where the clones lie, such as "cpu"; brought in module by module where the model computes.
        base_folder: a folder on whose disk they lie instead; removed with the callback.
        tokenizer: of the prompts, if it is not the trainer's `processing_class`.
        batch_size: prompts per batch at most.
        batch_tokens: tokens per padded batch at most, or "auto".

    Raises:
        LoadError: if the model cannot be measured in training: it is sharded, is no transformers model, or no bridge of
            TransformerLens takes it.
        InputError: for an unusable prompt or option.
    """

    def __init__(
        self,
        trainer: Trainer,
        prompts: PromptLike | Sequence[PromptLike] | Mapping[str, Any],
        *,
        every: int | None = None,
        at: Collection[int] = (),
        chat: bool = False,
        system: str | None = None,
        keep: Keep = "last",
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        layers: bool | Collection[int] = True,
        warn_above: float | None = None,
        stop_above: float | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        base: Any = None,
        since_start: bool = False,
        base_dtype: str | torch.dtype | None = None,
        base_device: str | torch.device | None = None,
        base_folder: str | Path | None = None,
        tokenizer: Any = None,
        batch_size: int = 64,
        batch_tokens: BatchTokens = "auto",
    ) -> None:
        self.trainer = trainer
        self.prompts, self.groups = grouped(prompts)
        self.every, self.at = _checked_steps(every, at)
        self.quantiles = _checked_quantiles(quantiles)
        self.layers, self.warn_above, self.stop_above = layers, warn_above, stop_above
        self.out, self.overwrite = None if out is None else Path(out), overwrite
        self.since_start, self.base = since_start, base
        self._how: dict[str, Any] = {"chat": chat, "system": system, "keep": keep}
        self._how |= {"batch_size": batch_size, "batch_tokens": batch_tokens}
        MeasureOptions(keep=keep, batch_size=batch_size, batch_tokens=batch_tokens)  # refuses what cannot be
        self._measured: dict[int, Measurement] = {}
        self._base_mark = ""
        self._clock = Clock()
        self._warned: set[str] = set()
        self._is_main = trainer.is_world_process_zero()
        if self._is_main:
            require_whole(trainer)
            self._frozen = _frozen_copy(base_dtype, base_device, base_folder)
            self._tokenizer = _tokenizer_for(trainer, tokenizer)
            self._live = self._made()
            self._require_usable()

    @property
    def trajectory(self) -> Trajectory:
        """What was measured so far, by step, with what the trainer logged beside it.

        Raises:
            InputError: if nothing was measured yet.
        """
        if not self._measured:
            raise InputError("no trajectory", "nothing was measured yet", "train first")
        logged = tuple(record for record in self.trainer.state.log_history if not any(map(_is_own, record)))
        first = next(iter(self._measured.values())).settings
        settings = {"version": __version__, "base": first.base, _BASE: self._base_mark, **self._how}
        return Trajectory(dict(sorted(self._measured.items())), self.groups, logged, settings=settings)

    @property
    def cost(self) -> Cost:
        """What measuring takes of the run, so far."""
        self._require_main()
        clock = self._clock
        return Cost(len(clock.taken), sum(clock.taken), clock.setup, clock.step_seconds, self._live.frozen_bytes)

    def measure(self) -> Measurement:
        """Measure the prompts on the model as it is at this moment; nothing is logged or kept.

        Raises:
            InputError: on a process that is not the main one, or if weights train that did not before.
        """
        self._require_main()
        with untouched(self._device), self._clock.measuring(self._device), warnings.catch_warnings():
            if len(self._measured) > 1:  # said once: every value of the first steps is low
                warnings.simplefilter("ignore", NoiseFloorWarning)
            pair = self._live.pair(self.trainer.model)
            measured = pair.measure(self.prompts, progress=False, **self._how)
        name = f"{pair.base_name}, step {self.trainer.state.global_step}"
        return replace(measured, settings=replace(measured.settings, tuned=name))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measures step 0, or takes the trajectory up again."""
        self._step_choice = self.every or (max(1, -(-state.max_steps // _TIMES)) if not self.at else 0)
        if not self._is_main:
            return
        if state.global_step == 0:
            self._begin(may_retry=args.auto_find_batch_size)
        else:
            self._resume(state.global_step)
        self._base_mark = self._live.fingerprint(self.trainer.model)
        self._clock.begin(state.global_step)
        if state.global_step not in self._measured and (state.global_step == 0 or self._is_chosen(state.global_step)):
            self._note(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Measures, if this step was chosen or is the last."""
        self._clock.end_step(state.global_step)
        is_last = control.should_training_stop or state.global_step >= state.max_steps
        if is_last or self._is_chosen(state.global_step):
            stops = self._note(state, control) if self._is_main else False
            control.should_training_stop |= self._agreed(stops)
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Measures the last step, if something else has ended the training after it, and saves the last of the log."""
        if not self._is_main:
            return
        # load_best_model_at_end has put another step's weights into the model by now.
        if state.global_step not in self._measured and not args.load_best_model_at_end:
            self._note(state, control)
        self._save()

    def _is_chosen(self, step: int) -> bool:
        return step in self.at or (self._step_choice > 0 and step % self._step_choice == 0)

    @property
    def _device(self) -> torch.device:
        return next(plain_model(self.trainer.model).parameters()).device

    def _made(self) -> LivePair:
        model = self.trainer.model
        with untouched(self._device), self._clock.setting_up(self._device):
            weights = None if self.base is None else given_weights(self.base, model)
            how: dict[str, Any] = {"keep": self._frozen, "since_start": self.since_start, "base": weights}
            return LivePair(model, self._tokenizer, **how)

    def _require_usable(self) -> None:
        """Refuse prompts and layers that cannot be used now, and not when training has begun."""
        with untouched(self._device):
            pair = self._live.pair(self.trainer.model)
            for index, prompt in enumerate(self.prompts):
                pair.prompt(prompt, index=index, **self._reading)
        wrong = [i for i in (() if isinstance(self.layers, bool) else self.layers) if not 0 <= i < pair.n_layers]
        if wrong:
            raise InputError(f"layers: {wrong[0]}", f"there are {pair.n_layers} blocks", "give some of 0 … L-1")

    def _begin(self, *, may_retry: bool) -> None:
        """A run from the start: the base is what it begins from, also where the trainer has made its model anew.

        Args:
            may_retry: whether the trainer begins again by itself, with a smaller batch.
        """
        ours = may_retry and bool(self._measured)
        if self._stored() is not None and not (self.overwrite or ours):
            why, remedy = "it holds a trajectory already", "name another folder, or give overwrite=True to replace it"
            raise OutputError(f"{self.out}", why, remedy)
        if self.base is None and not self._live.began_from(self.trainer.model):
            self._live = self._made()
        self._measured, self._warned = {}, set()

    def _resume(self, step: int) -> None:
        """A run that goes on: the base must be what it began from, and the trajectory is taken up."""
        what, model = f"cannot go on from step {step}", self.trainer.model
        if not (self.base is not None or self._live.adapters_off) and self._live.began_from(model):
            why = "the model was given with the weights of that step, so what training began from is not known"
            raise InputError(what, why, _OTHER_BASE)
        index = self._stored()
        if index is None:
            return
        stored = Trajectory.load(index)
        if stored.settings.get(_BASE) != self._live.fingerprint(model):
            why = f"the trajectory in {self.out} was measured against another base"
            raise InputError(what, why, f"{_OTHER_BASE}, or name another folder")
        first = next(iter(stored.measurements.values()))
        ours = [self._live.pair(model).prompt(p, **self._reading).token_ids for p in self.prompts]
        if stored.groups != self.groups or [item.prompt.token_ids for item in first] != ours:
            raise InputError(what, f"the trajectory in {self.out} is of other prompts", "give those, or another folder")
        # What was measured after the checkpoint that training goes on from is measured again.
        self._measured = {at: each for at, each in stored.measurements.items() if at <= step}

    def _note(self, state: Any, control: Any) -> bool:
        """Measure, log, save; returns whether the training shall stop."""
        measured = self.measure()
        self._measured[state.global_step] = measured
        values = logged_values(measured, self.groups, self.quantiles, layers=self.layers)
        self._log(values | {f"{PREFIX}{name}": value for name, value in self._clock.values().items()}, control)
        self._save()
        means = {group: values[f"{PREFIX}{group}/mean"] for group in dict.fromkeys(self.groups)}
        return self._judge(means, state.global_step)

    def _log(self, values: dict[str, float], control: Any) -> None:
        """Log through the trainer's own loggers, and leave its log of this step to it.

        TRL's `log` would average, and forget, what it has gathered for that; and any log takes back that one is due.
        """
        due = control.should_log
        Trainer.log(self.trainer, values)
        self.trainer.control.should_log = control.should_log = due

    def _judge(self, means: Mapping[str, float], step: int) -> bool:
        for group, mean in means.items():
            if self.warn_above is not None and mean > self.warn_above and group not in self._warned:
                self._warned.add(group)
                said = f"TuCo of {group!r} is {mean:.4f} at step {step}, above warn_above={self.warn_above:g}"
                warnings.warn(said, ThresholdWarning, stacklevel=2)
        over = {group: mean for group, mean in means.items() if self.stop_above is not None and mean > self.stop_above}
        for group, mean in over.items():
            said = (
                f"training stops at step {step}: TuCo of {group!r} is {mean:.4f}, above stop_above={self.stop_above:g}"
            )
            warnings.warn(said, ThresholdWarning, stacklevel=2)
        return bool(over)

    def _agreed(self, stops: bool) -> bool:
        """What the main process has decided, on all of them: one that went on alone would wait for ever."""
        if self.stop_above is None or self.trainer.accelerator.num_processes == 1:
            return stops
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([stops])[0]

    def _save(self) -> None:
        if self.out is not None:
            self.trajectory.save(self.out)

    def _stored(self) -> Path | None:
        """The index of the trajectory that is in `out`, if there is one."""
        index = None if self.out is None else self.out / f"{KIND}.json"
        return index if index is not None and index.exists() else None

    def _require_main(self) -> None:
        if not self._is_main:
            raise InputError("nothing is measured here", "the main process does it", "ask there")

    @property
    def _reading(self) -> dict[str, Any]:
        return {name: self._how[name] for name in ("chat", "system")}


def logged_values(
    measured: Measurement,
    groups: Sequence[str],
    quantiles: Sequence[float],
    *,
    layers: bool | Collection[int] = True,
) -> dict[str, float]:
    """What is logged of a measurement: by group the mean, the quantiles, and the mean share after each block.

    Args:
        measured: of the prompts.
        groups: the group of each prompt.
        quantiles: in [0, 1].
        layers: whether the shares after each block are wanted, or after which.
    """
    tuco = measured.tuco.double().numpy()
    shares = torch.stack([item.last_token() for item in measured]).double().numpy()  # [prompt, layer]
    n_layers = shares.shape[1]
    chosen = range(n_layers if layers else 0) if isinstance(layers, bool) else sorted(layers)
    width = max(2, len(str(n_layers - 1)))
    found: dict[str, float] = {}
    for group, mask in group_masks(groups).items():
        name = f"{PREFIX}{group}"
        found[f"{name}/mean"] = float(tuco[mask].mean())
        found |= {f"{name}/q{100 * q:g}": float(np.quantile(tuco[mask], q)) for q in quantiles}
        found |= {f"{name}/layer_{i:0{width}}": float(shares[mask, i].mean()) for i in chosen}
    return found


def _is_own(name: str) -> bool:
    return name.startswith(PREFIX)


def _checked_steps(every: int | None, at: Collection[int]) -> tuple[int | None, frozenset[int]]:
    if every is not None and every < 1:
        raise InputError(f"every={every}", "it is not a number of steps", "give 1 or more")
    wrong = [step for step in at if step < 0]
    if wrong:
        raise InputError(f"at={wrong[0]}", "no step has this number", "give 0 or more")
    return every, frozenset(at)


def _checked_quantiles(quantiles: Sequence[float]) -> tuple[float, ...]:
    wrong = [q for q in quantiles if not 0 <= q <= 1]
    if wrong:
        raise InputError(f"quantiles: {wrong[0]}", "a quantile is from 0 to 1", "give such as 0.5")
    return tuple(quantiles)


def _frozen_copy(dtype: Any, device: Any, folder: str | Path | None) -> FrozenCopy:
    from tuco_lens.models.placement import choose_device
    from tuco_lens.models.sources import choose_dtype

    if device is not None and folder is not None:
        raise InputError("base_device and base_folder", "both say where the base's weights lie", "give one of the two")
    where = None if device is None else choose_device(device)
    what = None if dtype is None else choose_dtype(dtype, torch.device("cpu"), None, None)
    return FrozenCopy(what, where, None if folder is None else Path(folder).expanduser())


def _tokenizer_for(trainer: Trainer, given: Any) -> Any:
    """A copy of the tokenizer given, or of the trainer's, which may be within a processor."""
    found = given if given is not None else getattr(trainer, "processing_class", None)
    found = getattr(found, "tokenizer", found)
    if found is None:
        raise InputError("no tokenizer", "the trainer has no processing_class", "give tokenizer=")
    return copy.deepcopy(found)
