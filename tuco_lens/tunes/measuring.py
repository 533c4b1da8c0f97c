"""Measuring many tunes of one base: its weights once, one tune in memory at a time, the same tokens for all.

`compare.py` and `trajectory.py` call `measure_tunes`. Each tune is a step of a journal (`runs/steps.py`), so that a run
that was killed goes on with the tune that it was at.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from tuco_lens.errors import InputError, TucoLensError
from tuco_lens.models.base_model import BaseModel, kind_of, load_base, name_of
from tuco_lens.models.sources import quiet_libraries
from tuco_lens.prompts.chats import check_text
from tuco_lens.prompts.prompt import Prompt, PromptLike, check_prompt, make_prompt, prompt_name
from tuco_lens.results.files import folder_for
from tuco_lens.runs.steps import RunOptions, Step, resumable
from tuco_lens.tunes import folder as store
from tuco_lens.tunes.measured import grouped
from tuco_lens.tunes.options import KEYS, TheBase, TuneOptions, TunesRun, check_names, fingerprint, parts_of

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.results.measurement import Measurement


class Indexed(Protocol):
    """A result whose measurements lie in a folder already."""

    def write_index(self, folder: Path, tunes: Mapping[str, Mapping[str, str]]) -> Path:
        """Write the folder's index, which says that `tunes` are there."""
        ...

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per tune and prompt."""
        ...


ResultT = TypeVar("ResultT", bound=Indexed)


@dataclass(frozen=True)
class Measured:
    """What was measured, before it is a comparison or a trajectory."""

    measurements: dict[Any, Measurement]
    """By tune."""
    entries: dict[str, dict[str, str]]
    """What the folder's index says of each; empty without a folder."""
    left_out: dict[str, str]
    """Tunes that could not be measured, and why."""
    groups: tuple[str, ...]
    """The group of each prompt."""
    settings: dict[str, Any]
    """What decided the numbers."""


def measure_tunes(
    base: Any,
    tunes: Mapping[Any, Any],
    prompts: PromptLike | Sequence[PromptLike] | Mapping[str, Any],
    run: TunesRun,
    options: TuneOptions,
    made: Callable[[Measured], ResultT],
    load: Callable[[Path], ResultT],
) -> ResultT:
    """Measures each tune on all prompts; read back if the result is there complete.

    Args:
        base: the base model, as for `ModelPair.from_pretrained`.
        tunes: by name: whole models or PEFT adapters, or `TheBase`.
        prompts: a list, or a mapping of groups to lists.
        run: where the result goes.
        options: how to read, load and measure.
        made: makes the result of what was measured.
        load: reads a result that is there complete.

    Raises:
        LoadError, PairMismatchError: if the base cannot be loaded, or a tune, which is named (unless it is skipped).
        InputError: for unusable prompts or options, or tunes that read the prompts as different tokens.
        OutputError: if the folder cannot be written, or holds another run.
    """
    check_names(options)
    if not tunes:
        raise InputError("no tunes", "there is none to measure", "give at least one")
    for name in tunes:
        check_text(str(name), "the name of a tune")
    listed, groups = grouped(prompts)
    _check_prompts(listed, options)
    settings = fingerprint(base, tunes, listed, groups, options)
    steps = RunOptions(run.index, run.resume, run.overwrite, run.progress)
    work = _Tunes(base, tunes, listed, run, options)

    def compute(step: Step) -> _Folder[ResultT]:
        measured = _measured(work, step, groups, settings)
        return _Folder(made(measured), measured, run)

    def read(path: Path) -> _Folder[ResultT]:
        return _Folder(load(path), None, run)

    with nullcontext() if run.out is None else folder_for(run.out):
        return resumable(steps, settings, compute, read, total=len(tunes), name="tunes", unit="tune").result


@dataclass(frozen=True)
class _Folder(Generic[ResultT]):
    """A result, and how the rest of its folder is written."""

    result: ResultT
    measured: Measured | None
    run: TunesRun

    def save(self, path: str | Path) -> Path:
        """Writes rows and index; the measurements are there."""
        assert self.measured is not None
        folder, drift = Path(path).parent, self.measured.settings["drift"]
        store.write_rows(folder / f"rows.{self.run.rows}", self.result.rows(), key=KEYS[self.run.kind], drift=drift)
        return self.result.write_index(folder, self.measured.entries)


def _measured(work: _Tunes, step: Step, groups: tuple[str, ...], settings: dict[str, Any]) -> Measured:
    found = Measured({}, {}, {}, groups, settings)
    for name in work.tunes:
        record: dict[str, str] = step(lambda name=name: work.step(name))
        if "why" in record:
            found.left_out[str(name)] = record["why"]
        elif work.run.out is None:
            found.measurements[name] = work.kept.pop(name)
        else:
            found.measurements[name] = store.load_measurement(work.run.out, record)
            found.entries[str(name)] = record
    if not found.measurements:
        first, why = next(iter(found.left_out.items()))
        raise InputError("no tune can be measured", f"{first}: {why}", "give tunes of this base")
    return found


class _Tunes:
    """The base with its tunes; loaded at the first one that is not there from the run resumed."""

    def __init__(
        self, base: Any, tunes: Mapping[Any, Any], prompts: Sequence[PromptLike], run: TunesRun, options: TuneOptions
    ) -> None:
        self.given, self.tunes, self.listed, self.run = base, tunes, prompts, run
        self.reading, self.measuring, self.loading = parts_of(options)
        self.base: BaseModel | None = None
        self.tokenizer: Any = None
        self.prompts: tuple[Prompt, ...] = ()
        self.refused: dict[Any, str] = {}
        self.kept: dict[Any, Measurement] = {}
        """Measurements that no file holds."""

    def step(self, name: Any) -> dict[str, str]:
        """Measures a tune: what the index says of it, or `why` it is left out."""
        if self.base is None:
            self.base = self._open()
        if name not in self.refused:
            self._try(name, lambda: self._measure(self._required_base, name))
        if name in self.refused:
            return {"why": self.refused[name]}
        return {} if self.run.out is None else store.save_measurement(self.run.out, name, self.kept.pop(name))

    @property
    def _required_base(self) -> BaseModel:
        assert self.base is not None
        return self.base

    def _try(self, name: Any, act: Callable[[], None]) -> None:
        """Acts; what fails is named and raised, or noted where tunes are skipped."""
        try:
            act()
        except TucoLensError as error:
            if self.run.on_error == "stop":
                raise type(error)(f"tune {name!r}: {error.what}", error.why, error.remedy) from error
            self.refused[name] = str(error)

    def _open(self) -> BaseModel:
        """Loads the base, and finds out what can be known to be wrong before anything is measured."""
        options = {name: value for name, value in self.loading.items() if name not in ("backend", "tokenizer")}
        base = load_base(self.given, **options)
        with quiet_libraries():
            for name in self.tunes:
                self._try(name, lambda name=name: self._check(base, name))
        return base

    def _check(self, base: BaseModel, name: Any) -> None:
        """Opens a tune without its weights; the tokens of the first one that opens are those of all."""
        tokenizer = self._tokenizer_of(base, self.tunes[name])
        if self.tokenizer is None:
            self.prompts = tuple(self._read(tokenizer))
            self.tokenizer = tokenizer
        elif tokenizer is not self.tokenizer:
            self._require_same_tokens(name, tokenizer)

    def _tokenizer_of(self, base: BaseModel, tune: Any) -> Any:
        """The tokenizer that is named for all; else the tune's own, or the base's."""
        named = self.loading.get("tokenizer")
        if named is None:
            return base.tokenizer_with(None if isinstance(tune, TheBase) else tune)
        if not isinstance(tune, TheBase):
            base.opened(tune)
        return self.tokenizer if self.tokenizer is not None else base.named_tokenizer(named)

    def _read(self, tokenizer: Any) -> Iterator[Prompt]:
        how = {name: value for name, value in self.reading.items() if name != "truncate"}
        for index, prompt in enumerate(self.listed):
            yield make_prompt(tokenizer, prompt, index=index, **how)

    def _require_same_tokens(self, name: Any, tokenizer: Any) -> None:
        for index, (one, other) in enumerate(zip(self.prompts, self._read(tokenizer), strict=True)):
            if one.token_ids != other.token_ids:
                why = f"its tokenizer or chat template makes other tokens of prompt {index} than those before it"
                raise InputError(f"cannot compare {name!r}", why, "name one tokenizer for all with tokenizer=")

    def _measure(self, base: BaseModel, name: Any) -> None:
        pair = self._pair(base, self.tunes[name])
        how: dict[str, Any] = {"keep": "last", **self.measuring}
        try:
            found = pair.measure(self.prompts, truncate=self.reading.get("truncate"), progress=False, **how)
            template = {name: value for name, value in self.reading.items() if name not in ("system", "truncate")}
            settings = pair.settings(norm=found.settings.norm, drift=found.settings.drift, **template)
            self.kept[name] = replace(found, settings=settings)
        finally:
            del pair
            _free()

    def _pair(self, base: BaseModel, tune: Any) -> ModelPair:
        from tuco_lens.pair import ModelPair

        given: dict[str, Any] = {"adapter": tune}
        if isinstance(tune, TheBase):
            given = {"tuned": base.model}
        elif kind_of(tune) == "model":
            given = {"tuned": tune}
            if self.loading.get("device_map") is not None:
                why = "the device map spreads the base with adapters, and this is a whole model"
                raise InputError(f"cannot spread {name_of(tune)!r}", why, "leave the device map out, or give adapters")
        pair = ModelPair.from_pretrained(
            base.model,
            **given,
            backend=self._backend(base),
            dtype=base.model.dtype,
            tokenizer=self.tokenizer,
            trust_remote_code=base.options.trust_remote_code,
            allow_pickle=base.options.allow_pickle,
        )
        return replace(pair, base_name=base.name, tuned_name=base.name if isinstance(tune, TheBase) else name_of(tune))

    def _backend(self, base: BaseModel) -> str:
        """With "auto" the bridge, if it takes the base: there the tunes share its weights."""
        from tuco_lens.models.bridge import unsupported_reason

        backend = self.loading.get("backend", "auto")
        return "bridge" if backend == "auto" and unsupported_reason(base.model.config) is None else backend


def _check_prompts(prompts: Sequence[PromptLike], options: TuneOptions) -> None:
    """Raises `InputError` for a prompt that no tune could read; what depends on the tokenizer shows later."""
    reading, _, _ = parts_of(options)
    how = {name: value for name, value in reading.items() if name != "truncate"}
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, Prompt):
            check_prompt(prompt, name=prompt_name(index), **how)


def _free() -> None:
    """Gives a tune's memory back: a bridge and its parts hold one another, so that counting references does not."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
