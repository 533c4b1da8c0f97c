"""Which pair a run uses: named by options, not loaded yet, and identified by what its files hold.

The command line makes a `PairChoice` of its options (`cli/options.py`). The models' libraries are imported when it is
loaded and not before.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from tuco_lens.errors import InputError

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

DEMO: Final = "demo"
"""Name of the embedded pair, and of its folder."""
SAMPLE_BYTES: Final = 1 << 16

Backend = Literal["auto", "hooked", "bridge"]
DType = Literal["float32", "bfloat16", "float16", "float64"]


@dataclass(frozen=True)
class PairChoice:
    """The pair that the options name, not loaded yet."""

    base: str
    """Base model, or "demo"."""
    tuned: str | None
    """Tuned model; None with an adapter and for the demo pair."""
    adapter: str | None
    """PEFT adapter."""
    backend: Backend = "auto"
    """As for `ModelPair.from_pretrained`, like all that follow."""
    dtype: DType | None = None
    """dtype of the weights."""
    device: str | None = None
    """Where the weights go."""
    device_map: str | Mapping[str, int | str] | None = None
    """"auto", or where each module goes."""
    max_memory: Mapping[int | str, int | str] | None = None
    """What the pair may take of each device."""
    offload_folder: str | None = None
    """Where weights are written that have to be put on disk."""
    trust_remote_code: bool = False
    """Whether a checkpoint's own code may run."""
    allow_pickle: bool = False
    """Whether pickled weights may be read."""

    @property
    def is_demo(self) -> bool:
        """Whether it is the embedded pair."""
        return self.base == DEMO and self.tuned is None and self.adapter is None

    @property
    def names(self) -> tuple[str, str | None]:
        """What to load as base and as tuned model; None with an adapter."""
        if not self.is_demo:
            return self.base, self.tuned
        folder = Path(__file__).resolve().parent.parent / DEMO
        return str(folder / "base"), str(folder / "tuned")

    def load(self) -> ModelPair:
        """Loads the pair; imports torch.

        Raises:
            LoadError: as `ModelPair.from_pretrained`.
        """
        # What fails is said in one line; what loads may add how it was loaded.
        with warnings.catch_warnings(record=True) as caught:
            pair = self._loaded()
        for warning in caught:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
        return pair

    def _loaded(self) -> ModelPair:
        from tuco_lens.pair import ModelPair

        if self.is_demo:
            return ModelPair.demo(backend=self.backend)
        return ModelPair.from_pretrained(
            self.base,
            self.tuned,
            adapter=self.adapter,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            device_map=cast("Any", self.device_map),
            max_memory=self.max_memory,
            offload_folder=self.offload_folder,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )

    def identity(self) -> dict[str, Any]:
        """Which weights these are, as far as that shows before they are loaded: see `checkpoint_identity`."""
        base, tuned = self.names
        names = {"base": base, "tuned": tuned, "adapter": self.adapter}
        return {kind: None if name is None else checkpoint_identity(name) for kind, name in names.items()}


def choose_pair(pair: str | None, base: str | None, tuned: str | None, adapter: str | None) -> PairChoice:
    """The pair that `--pair`, or `--base` with `--tuned` or `--adapter`, names.

    Raises:
        InputError: if none or several are named, or `--pair` is not known.
    """
    if pair is not None:
        if base is not None or tuned is not None or adapter is not None:
            why = "--pair names both models already"
            raise InputError("--pair", why, "leave out --base, --tuned and --adapter, or --pair")
        return _known_pair(pair)
    if base is None:
        raise InputError("no pair", "neither --base nor --pair is given", "give --base and --tuned, or --pair demo")
    if (tuned is None) == (adapter is None):
        why = "neither --tuned nor --adapter is given" if tuned is None else "both --tuned and --adapter are given"
        raise InputError("no pair" if tuned is None else "two pairs", why, "give one of them with --base")
    return PairChoice(base, tuned, adapter)


def with_loading(choice: PairChoice, **options: Any) -> PairChoice:
    """The pair with the options for loading it, which are fields of `PairChoice`.

    Raises:
        InputError: if the embedded pair is asked for another dtype or device than it has.
    """
    chosen = replace(choice, **options)
    spread = (chosen.device_map, chosen.max_memory, chosen.offload_folder)
    other = chosen.dtype not in (None, "float32") or chosen.device not in (None, "cpu")
    if chosen.is_demo and (other or spread != (None, None, None)):
        remedy = "leave out --dtype, --device, --device-map, --max-memory and --offload"
        raise InputError("--pair demo", "it runs in float32 on the CPU", remedy)
    return chosen


def _known_pair(name: str) -> PairChoice:
    if name == DEMO:
        return PairChoice(DEMO, None, None)
    from tuco_lens.models.catalogue import load_catalogue

    for known in load_catalogue():
        if known.name == name:
            return PairChoice(known.base, known.tuned, known.adapter)
    raise InputError(f"--pair {name}", "no pair has that name", "give demo, or a name that `tuco-lens pairs` lists")


def checkpoint_identity(name: str) -> str:
    """What tells one checkpoint from another: a digest for local files, the name for the hub.

    The digest covers names, sizes, and both ends of each file, not all gigabytes: training moves every weight.
    """
    path = Path(name)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    else:
        return name
    digest = hashlib.sha256()
    try:
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.name if len(files) > 1 else ''} {size}\n".encode("utf-8", "surrogateescape"))
            with file.open("rb") as content:
                digest.update(content.read(SAMPLE_BYTES))
                content.seek(max(0, size - SAMPLE_BYTES))
                digest.update(content.read(SAMPLE_BYTES))
    except OSError as error:
        raise InputError(f"{name}", error.strerror or str(error), "give a checkpoint that can be read") from error
    return f"sha256:{digest.hexdigest()}"
