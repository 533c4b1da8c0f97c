"""A base model alone, in memory once, to which fine-tunes are put one after another.

`load_base` loads it; `tunes/` makes a pair of it with each tune by `ModelPair.from_pretrained`, which takes a loaded
model and shares its weights. `loading.py` loads a base and one tune together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tuco_lens.errors import LoadError
from tuco_lens.models.sources import LoadOptions, Source

if TYPE_CHECKING:
    import torch

TuneKind = Literal["adapter", "model"]


@dataclass(frozen=True)
class BaseModel:
    """A base model that is loaded, and what is needed to put tunes to it."""

    model: Any = field(repr=False)
    """The transformers model, in evaluation mode. Pairs are made of copies that share its weights."""
    source: Source
    """What was given as base."""
    options: LoadOptions
    """What checkpoints may do."""

    @property
    def name(self) -> str:
        """What was given as base."""
        return self.source.name

    @cached_property
    def tokenizer(self) -> Any | None:
        """The tokenizer that comes with the base model, if one does; read once."""
        from tuco_lens.models.files import gguf_parsed_once
        from tuco_lens.models.tokenizer import tokenizer_of

        with gguf_parsed_once():
            return tokenizer_of(self.source, self.options)

    def named_tokenizer(self, given: Any) -> Any:
        """The tokenizer of a hub id or directory, or the one given.

        Raises:
            LoadError: if it cannot be read.
        """
        from tuco_lens.models.tokenizer import find_tokenizer

        return find_tokenizer(given, self.source, self.source, self.options)

    def tokenizer_with(self, tune: Any) -> Any:
        """The tokenizer of prompts for a tune: its own, else the base model's.

        Args:
            tune: hub id, local directory, `.gguf` file or loaded model, or a PEFT adapter's hub id or directory; None
                for the base itself.

        Raises:
            LoadError: if the tune cannot be loaded, as far as that shows without its weights, or there is no tokenizer.
        """
        from tuco_lens.models.tokenizer import tokenizer_of

        found = None if tune is None else tokenizer_of(self.opened(tune), self.options)
        found = self.tokenizer if found is None else found
        if found is None:
            names = " nor ".join(repr(name) for name in (*([] if tune is None else [name_of(tune)]), self.name))
            raise LoadError("cannot find a tokenizer", f"there is none with {names}", "give one as tokenizer=")
        return found

    def opened(self, tune: Any) -> Source:
        """Where a tune lies.

        Raises:
            LoadError: if it cannot be loaded, as far as that shows without its weights.
        """
        from tuco_lens.models.adapter import open_adapter
        from tuco_lens.models.checks import require_same_structure
        from tuco_lens.models.sources import read_config, resolve_source

        if kind_of(tune) == "adapter":
            adapter = open_adapter(tune, self.options)
            return Source("adapter", adapter.name, "directory", adapter.folder)
        source = resolve_source(tune, "tuned", self.options)
        require_same_structure(self.model.config, read_config(source, self.options), self.name, source.name)
        return source


def load_base(
    base: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    max_memory: Any = None,
    offload_folder: str | Path | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> BaseModel:
    """Load a base model alone; the arguments are those of `ModelPair.from_pretrained`.

    Its dtype is its own where none is given, but float32 on the CPU: tunes are cast to it.

    Raises:
        LoadError: if it cannot be loaded, or holds NaN or infinite weights.
    """
    import torch

    from tuco_lens.models.checks import require_finite
    from tuco_lens.models.files import gguf_parsed_once
    from tuco_lens.models.loading import LOADING, require_unloaded
    from tuco_lens.models.offload import whole_weights
    from tuco_lens.models.placement import choose_device, read_placement, resolved_map
    from tuco_lens.models.sources import choose_dtype, load_model, quiet_libraries, read_config, resolve_source
    from tuco_lens.models.text_model import text_model

    options = LoadOptions(trust_remote_code, allow_pickle)
    placement = read_placement(device_map, max_memory, offload_folder, device)
    with LOADING, quiet_libraries(), gguf_parsed_once():
        source = resolve_source(base, "base", options)
        config = read_config(source, options)
        if placement is not None:
            require_unloaded(placement, [source])
        where = choose_device(device if placement is None else placement.device, source)
        given = source.location if source.kind == "loaded" else config
        what = choose_dtype(dtype, where, given, given)
        if placement is not None:
            found = resolved_map(placement, config, what, n_models=1, trust_remote_code=trust_remote_code)
            placement = replace(placement, device_map=found)
            where = torch.device(placement.device)
        model = text_model(load_model(source, config, options, where, what, placement))
        require_finite(whole_weights(model), source.what)
    if source.kind != "loaded":
        model.config._name_or_path = source.name  # what pairs of it are called, and adapters' own base is compared with
    return BaseModel(model, source, options)


def kind_of(tune: Any) -> TuneKind:
    """Whether a tune is a PEFT adapter or a whole model, by the files that it has; loaded models are whole ones."""
    from tuco_lens.models.hub import holds_adapter
    from tuco_lens.models.sources import local_path

    if not isinstance(tune, (str, Path)):
        return "model"
    path = local_path(tune)
    if path.exists():
        return "adapter" if (path / "adapter_config.json").is_file() else "model"
    return "adapter" if holds_adapter(str(tune)) else "model"


def name_of(tune: Any) -> str:
    """What a tune is called where no name was given."""
    if isinstance(tune, (str, Path)):
        return str(tune)
    return str(getattr(getattr(tune, "config", None), "_name_or_path", "") or type(tune).__name__)
