"""What a run over many tunes is asked for: how to read, load and measure, where the result goes, what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from tuco_lens import __version__
from tuco_lens.errors import InputError
from tuco_lens.prompts.chats import TemplateOptions, given_options
from tuco_lens.prompts.prompt import Prompt, PromptLike, Truncate
from tuco_lens.runs.pair_choice import checkpoint_identity
from tuco_lens.steering.weights import models_digest

if TYPE_CHECKING:
    import torch

    from tuco_lens.engine.batches import Keep
    from tuco_lens.engine.memory import BatchTokens
    from tuco_lens.engine.metrics import Norm
    from tuco_lens.models.placement import DeviceMap, MaxMemory

OnError = Literal["stop", "skip"]
RowsForm = Literal["jsonl", "csv", "parquet"]
KEYS: Final = {"comparison": "tune", "trajectory": "step"}
"""What tells the rows of a kind of result apart."""
_TEMPLATE: Final = tuple(TemplateOptions.__annotations__)
_READING: Final = ("chat", "system", "truncate", *_TEMPLATE)
_MEASURING: Final = ("norm", "drift", "keep", "batch_size", "batch_tokens", "share_prefixes")
_DECIDING: Final = {"chat": False, "system": None, "truncate": None, "norm": "l1", "drift": False, "keep": "last"}
"""Options that decide the numbers, with their defaults; batches do not, beyond rounding."""


class TheBase:
    """In place of a tune: the base itself, whose TuCo is 0."""


class TuneOptions(TemplateOptions, total=False):
    """How prompts are read and measured and models loaded, as in `ModelPair.measure` and `from_pretrained`."""

    chat: bool
    """Put plain text through the chat template, as one user message."""
    system: str | None
    """A system message in front, for chats."""
    truncate: Truncate | None
    """"left" or "right" cuts prompts longer than the context; otherwise they are an error."""
    norm: Norm
    """"l1" (the paper's) or "l2"."""
    drift: bool
    """Also run the base model on its own, for OutputCo."""
    keep: Keep
    """"last" (the default here): of the last token alone; or "maps" of all layers and tokens."""
    batch_size: int
    """Prompts per batch at most."""
    batch_tokens: BatchTokens
    """Tokens per padded batch at most, or "auto"."""
    share_prefixes: bool
    """Compute what prompts begin with once."""
    backend: Literal["auto", "hooked", "bridge"]
    """"auto" takes TransformerBridge where it can, on which all tunes share the base's weights."""
    device: str | torch.device | None
    """Where the weights go."""
    dtype: str | torch.dtype | None
    """Of the weights; by default the base model's own, but float32 on the CPU."""
    device_map: Literal["auto"] | DeviceMap | None
    """Spread the base over accelerators, CPU memory and disk; for adapters."""
    max_memory: MaxMemory | None
    """With "auto", what the base may take of each device."""
    offload_folder: str | Path | None
    """Where weights are written that cannot be read from the checkpoint."""
    tokenizer: Any
    """One tokenizer for all tunes; its hub id or directory, or itself."""
    trust_remote_code: bool
    """Passed on to transformers."""
    allow_pickle: bool
    """Also read weights stored as pickles."""


@dataclass(frozen=True)
class TunesRun:
    """Where the result of a run goes, and what becomes of tunes that cannot be measured."""

    kind: str
    """Name of the index of the folder: "comparison" or "trajectory"."""
    out: Path | None
    """The folder; without it nothing is written."""
    resume: bool
    """Go on with the run that is in the folder."""
    overwrite: bool
    """Replace what is in the folder."""
    progress: bool
    """Show a bar, if stderr is a terminal or in a notebook."""
    on_error: OnError = "stop"
    """End the run, or leave the tune out."""
    rows: RowsForm = "jsonl"
    """Form of the file of rows."""

    def __post_init__(self) -> None:
        for name, choices in (("on_error", get_args(OnError)), ("rows", get_args(RowsForm))):
            if getattr(self, name) not in choices:
                known = ", ".join(map(repr, choices))
                raise InputError(f"{name} is {getattr(self, name)!r}", f"there are {known}", "give one of them")

    @property
    def index(self) -> Path | None:
        """The index of the folder."""
        return None if self.out is None else self.out / f"{self.kind}.json"


def check_names(options: TuneOptions) -> None:
    """Raises `TypeError` for an option that there is not."""
    for name in options:
        if name not in TuneOptions.__annotations__ and name not in _TEMPLATE:
            raise TypeError(f"there is no option {name!r}")


def parts_of(options: TuneOptions) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The options that say how to read prompts, how to measure them, and how to load models."""
    given: dict[str, Any] = {**options}
    reading = {name: given.pop(name) for name in _READING if name in given}
    measuring = {name: given.pop(name) for name in _MEASURING if name in given}
    return reading, measuring, given


def fingerprint(
    base: Any, tunes: Mapping[Any, Any], prompts: Sequence[PromptLike], groups: Sequence[str], options: TuneOptions
) -> dict[str, Any]:
    """What decides the numbers, as JSON values."""
    given: dict[str, Any] = {**options}
    digest = hashlib.sha256(json.dumps([[*map(_plain, prompts)], list(groups)], sort_keys=True).encode())
    template = given_options(cast("Any", {name: given[name] for name in _TEMPLATE if name in given}))
    loading = {name: str(given[name]) for name in ("dtype", "backend") if given.get(name) is not None}
    return {
        "version": __version__,
        "base": _identity(base),
        "tunes": {str(name): _identity(tune) for name, tune in tunes.items()},
        "prompts": f"{len(prompts)}, sha256:{digest.hexdigest()}",
        "tokenizer": None if given.get("tokenizer") is None else _identity(given["tokenizer"]),
        **{name: given.get(name, default) for name, default in _DECIDING.items()},
        **template,
        **loading,
    }


def _plain(prompt: PromptLike) -> Any:
    if isinstance(prompt, Prompt):
        return asdict(prompt)
    return prompt if isinstance(prompt, (str, Mapping)) else list(prompt)


def _identity(given: Any) -> str:
    """What tells one base, tune or tokenizer from another."""
    if isinstance(given, TheBase):
        return "the base"
    if isinstance(given, (str, Path)):
        return checkpoint_identity(str(given))
    if hasattr(given, "named_parameters"):
        return f"loaded, sha256:{models_digest([given])}"
    return f"{type(given).__name__} of {len(given)} tokens"
