"""The Hugging Face hub as a source: whether it can be reached, what a repository holds, and what its errors mean.

Asking the hub for a listing first costs one round trip; it saves twenty seconds of retries where there is no network,
and pickles and adapters are refused before anything is downloaded. `sources.py` does the loading; `raise_translated`
turns any failure of transformers, whatever the source, into one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from tuco_lens.errors import LoadError
from tuco_lens.models.files import require_safe_weights

__all__ = [
    "file_sizes",
    "holds_adapter",
    "hub_listing",
    "inspect_repository",
    "raise_translated",
    "safetensors_header",
    "validate_hub_id",
]

_TIMEOUT_S = 10.0
_NO_NETWORK_REMEDY = "connect to the network, or give a local directory or .gguf file"


def validate_hub_id(name: str, what: str) -> None:
    """Refuse a string that is not shaped like a hub id; callers have found no such path.

    Raises:
        LoadError: `name` cannot be a hub id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise LoadError(
            what,
            f"{name!r} is not an existing path, nor the name of a hub repository",
            "check the spelling; a hub id looks like 'organisation/model'",
        ) from error


def hub_listing(name: str, what: str) -> list[str] | None:
    """The file names of a hub repository, or None if the hub gives no answer and only the local cache is left.

    Raises:
        LoadError: The repository does not exist, or is gated or private and not open to this user.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return [file.rfilename for file in HfApi().model_info(name, timeout=_TIMEOUT_S).siblings or []]
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise_translated(error, what, name)
    except Exception:
        # Offline mode, no network, a refusing proxy, a failure of the hub: in all cases the cache is tried.
        return None


def holds_adapter(name: str) -> bool:
    """Whether a hub repository is a PEFT adapter; by the local cache where the hub gives no answer.

    Raises:
        LoadError: The repository does not exist, or is gated or private and not open to this user.
    """
    from huggingface_hub import try_to_load_from_cache

    what, config = f"cannot load {name!r}", "adapter_config.json"
    validate_hub_id(name, what)
    listed = hub_listing(name, what)
    return config in listed if listed is not None else isinstance(try_to_load_from_cache(name, config), str)


def file_sizes(name: str) -> dict[str, int] | None:
    """The bytes of each file of a hub repository; None if the hub gives no answer."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().model_info(name, timeout=_TIMEOUT_S, files_metadata=True).siblings or []
    except Exception:  # as in `hub_listing`; a repository that is not there was refused before
        return None
    return {file.rfilename: file.size or 0 for file in files}


def safetensors_header(name: str, file: str, what: str) -> tuple[dict[str, tuple[int, ...]], int]:
    """The shape of each tensor in a safetensors file on the hub, and its bytes; only its header is fetched.

    Raises:
        LoadError: The repository or the file does not exist or is closed, or the hub gives no answer.
    """
    from huggingface_hub import HfApi

    validate_hub_id(name, what)
    try:
        tensors = HfApi().parse_safetensors_file_metadata(name, file).tensors
    except Exception as error:
        raise_translated(error, what, name)
    return {key: tuple(each.shape) for key, each in tensors.items()}, max(
        (each.data_offsets[1] for each in tensors.values()), default=0
    )


def inspect_repository(name: str, what: str, *, allow_pickle: bool) -> bool:
    """Refuse a repository that cannot be loaded safely, before its download; False if the hub gave no answer.

    Raises:
        LoadError: It does not exist, is closed, holds an adapter, or has no config or no weights that may be read.
    """
    names = hub_listing(name, what)
    if names is None:
        return False
    if "adapter_config.json" in names:
        raise LoadError(
            what,
            f"{name!r} is a PEFT adapter, not a whole model",
            "give its base model as base, and this id as adapter=",
        )
    if "config.json" not in names:
        raise LoadError(
            what,
            f"the repository {name!r} has no config.json",
            "give a repository in the transformers format, or download its .gguf file and give that",
        )
    require_safe_weights(names, what, name, allow_pickle=allow_pickle)
    return True


def raise_translated(error: Exception, what: str, name: str) -> NoReturn:
    """Raise a LoadError that says in one line what an error of transformers, the hub or safetensors means.

    Raises:
        LoadError: Always, from `error`.
    """
    why, remedy = _explained(error, name)
    raise LoadError(what, why, remedy) from error


def _explained(error: Exception, name: str) -> tuple[str, str]:
    """Reason and remedy by the first known error in the chain of causes."""
    for cause in _causes(error):
        known = _known(cause, name)
        if known is not None:
            return known
    return _first_line(error), "check that transformers itself loads it, and that it is complete"


def _known(error: BaseException, name: str) -> tuple[str, str] | None:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from safetensors import SafetensorError

    if isinstance(error, GatedRepoError):
        return f"the hub repository {name!r} is gated", "accept its terms on the hub and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {name!r} that you may read, and there is no such local path",
            "check the spelling, or log in with `hf auth login` if it is private",
        )
    # The client's own errors have changed their package; LocalEntryNotFoundError is an EntryNotFoundError too.
    no_answer = any(each.__name__ == "TransportError" for each in type(error).__mro__)
    if no_answer or isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return _unreachable(name)
    if isinstance(error, EntryNotFoundError):
        return (
            f"the hub repository {name!r} lacks a file ({_first_line(error)})",
            "download it whole, and give the folder",
        )
    if isinstance(error, SafetensorError):
        return f"its safetensors weights are damaged ({_first_line(error)})", "download or save them again"
    return _known_by_message(error, name)


def _known_by_message(error: BaseException, name: str) -> tuple[str, str] | None:
    """For these, transformers raises plain ValueError and OSError, which only their messages tell apart."""
    message = str(error)
    if "trust_remote_code" in message:
        return f"{name!r} needs Python code of its own", "read that code, then pass trust_remote_code=True"
    if "couldn't connect to" in message:
        return _unreachable(name)
    if "not recognize this architecture" in message or "Unrecognized model" in message:
        return _first_line(error), "upgrade transformers, or give another model"
    if "Unrecognized configuration class" in message:
        return "its architecture is not a causal language model", "give a decoder-only language model"
    return None


def _unreachable(name: str) -> tuple[str, str]:
    from huggingface_hub import constants

    why = f"{name!r} is no local path, is not in the local cache, and the hub"
    if constants.HF_HUB_OFFLINE:
        return f"{why} is switched off (HF_HUB_OFFLINE)", f"unset HF_HUB_OFFLINE and {_NO_NETWORK_REMEDY}"
    return f"{why} cannot be reached", _NO_NETWORK_REMEDY


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
