"""Options that several commands share, with their help texts; and the pair that they name.

A command that `takes_pair` is handed a `PairChoice` (`runs/pair_choice.py`) in place of the twelve options which say
what the pair is and how it is loaded; one that `takes_reading` is handed the arguments which say how prompts are read.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, cast

import typer

from tuco_lens.errors import InputError
from tuco_lens.prompts.chats import given_options
from tuco_lens.runs.pair_choice import Backend, DType, PairChoice, choose_pair, with_loading

CHECKPOINT = "hub id, local directory or .gguf file"
PairOption = Annotated[
    str | None,
    typer.Option("--pair", metavar="NAME", help="demo (the embedded pair), or a name from `tuco-lens pairs`."),
]
BaseOption = Annotated[str | None, typer.Option("--base", metavar="B", help=f"Base model: {CHECKPOINT}.")]
TunedOption = Annotated[str | None, typer.Option("--tuned", metavar="T", help=f"Tuned model: {CHECKPOINT}.")]
AdapterOption = Annotated[
    str | None, typer.Option("--adapter", metavar="A", help="PEFT adapter of the base, instead of a tuned model.")
]
BackendOption = Annotated[Backend, typer.Option("--backend", help="Which TransformerLens model to load into.")]
DTypeOption = Annotated[
    DType | None,
    typer.Option("--dtype", help="Of the weights.", show_default="float32 on the CPU, else the checkpoint's"),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="D", help="Such as cpu or cuda:1.", show_default="CUDA if there is any"),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="auto|JSON",
        help="Spread both models over accelerators, CPU memory and disk, instead of --device: auto, or where each "
        """module goes, such as '{"": "disk"}'.""",
    ),
]
MaxMemoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--max-memory", metavar="D=SIZE", help="What the pair may take of a device: 0=70GiB, cpu=100GiB. May repeat."
    ),
]
OffloadOption = Annotated[
    str | None,
    typer.Option("--offload", metavar="DIR", help="Where weights are written that cannot be read from the checkpoint."),
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings along.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]
ChatOption = Annotated[bool, typer.Option("--chat", help="Put texts into the chat template, as the user's message.")]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt of every chat.")]
PrefillOption = Annotated[
    str | None, typer.Option("--prefill", metavar="TEXT", help="What the answer of every chat begins with.")
]
ContinueOption = Annotated[
    bool, typer.Option("--continue-final", help="Leave the assistant's last message open, without an end of turn.")
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template-kwarg", metavar="K=V", help="A variable of the chat template. May repeat; V is JSON or text."
    ),
]
SpecialOption = Annotated[
    Literal["control", "text"],
    typer.Option("--special-tokens", help="What control tokens are that a text or message writes out."),
]
ProgressOption = Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress, on a terminal.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Prompts per batch, at most.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output that is there.")]

_NAMING: Final[dict[str, Any]] = {
    "pair": PairOption,
    "base": BaseOption,
    "tuned": TunedOption,
    "adapter": AdapterOption,
}
_READING: Final[dict[str, tuple[Any, Any]]] = {
    "chat": (ChatOption, False),
    "system": (SystemOption, None),
    "prefill": (PrefillOption, None),
    "continue_final": (ContinueOption, False),
    "template_kwarg": (TemplateOption, None),
    "special_tokens": (SpecialOption, "control"),
}
_LOADING: Final[dict[str, tuple[Any, Any]]] = {
    "backend": (BackendOption, "auto"),
    "dtype": (DTypeOption, None),
    "device": (DeviceOption, None),
    "device_map": (DeviceMapOption, None),
    "max_memory": (MaxMemoryOption, None),
    "offload": (OffloadOption, None),
    "trust_remote_code": (TrustOption, False),
    "allow_pickle": (PickleOption, False),
}


def takes_pair(
    *, backend: Backend = "auto", leaves_out: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a pair; its own parameter `choice` gets the `PairChoice` that they make.

    Args:
        backend: the command's default.
        leaves_out: options of loading that it does not take.
    """
    taken = {name: known for name, known in _LOADING.items() if name not in leaves_out}

    def choice(options: dict[str, Any]) -> PairChoice:
        named = choose_pair(*(options.pop(name) for name in _NAMING))
        return with_loading(named, **_loading(options, taken))

    naming = [_option(name, kind, None) for name, kind in _NAMING.items()]
    loading = [_option(name, kind, default) for name, (kind, default) in taken.items()]
    loading[0] = loading[0].replace(default=backend)
    return functools.partial(_replaced, "choice", choice, naming, loading)


def takes_loading(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of how models are loaded; its own parameter `loading` gets them as arguments.

    They are those of `ModelPair.from_pretrained`.
    """
    options = [_option(name, kind, default) for name, (kind, default) in _LOADING.items()]
    return _replaced("loading", lambda given: _loading(given, _LOADING), options, [], command)


def _loading(options: dict[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Takes the options of loading out of all that were given, as arguments of `ModelPair.from_pretrained`."""
    how = {name: options.pop(name) for name in taken}
    if "device_map" in how:
        how["device_map"] = device_map(how["device_map"])
        how["max_memory"] = memory_limits(how["max_memory"])
        how["offload_folder"] = how.pop("offload")
    return how


def takes_reading(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of how prompts are read; its own parameter `reading` gets them as arguments.

    They are those of `ModelPair.prompt`: `chat` and `system`, and what else was given.
    """

    def reading(options: dict[str, Any]) -> dict[str, Any]:
        found = {name: options.pop(name) for name in _READING}
        found["template_kwargs"] = template_variables(found.pop("template_kwarg"))
        more = {name: value for name, value in found.items() if name not in ("chat", "system")}
        return {"chat": found["chat"], "system": found["system"], **given_options(cast("Any", more))}

    options = [_option(name, kind, default) for name, (kind, default) in _READING.items()]
    return _replaced("reading", reading, options, [], command)


def takes(place: str, options: Mapping[str, tuple[Any, Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options that it shares with another, with kind and default; its own parameter `place` gets them.

    Args:
        place: name of that parameter, a dictionary.
        options: by name.
    """

    def taken(given: dict[str, Any]) -> dict[str, Any]:
        return {name: given.pop(name) for name in options}

    return functools.partial(_replaced, place, taken, [_option(name, *each) for name, each in options.items()], [])


def names_in(words: Sequence[str] | None) -> tuple[str, ...]:
    """The names of an option that takes several, by commas or by being given again."""
    return tuple(name.strip() for word in words or () for name in word.split(",") if name.strip())


def template_variables(given: Sequence[str] | None) -> dict[str, Any]:
    """The variables of `--template-kwarg k=v`; a value is JSON (`false`, `3`, `["a"]`), or else text.

    Raises:
        InputError: for one without a name or given twice.
    """
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (equals and name.isidentifier()) or name in found:
            why = "it is given twice" if name in found else "it is no name=value"
            raise InputError(f"--template-kwarg {each}", why, "give such as enable_thinking=false, once each")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def device_map(given: str | None) -> str | dict[str, int | str] | None:
    """What `--device-map` says: "auto", or the devices of modules as JSON.

    Raises:
        InputError: if it is neither.
    """
    if given is None or given == "auto":
        return given
    try:
        found = json.loads(given)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found:
        remedy = """give auto, or such as '{"": "disk"}'"""
        raise InputError(f"--device-map {given}", "it is neither auto nor a JSON object", remedy)
    return cast("dict[str, int | str]", found)


def memory_limits(given: Sequence[str] | None) -> dict[int | str, int | str] | None:
    """What `--max-memory` says, device by device; sizes are read when the pair is loaded.

    Raises:
        InputError: for one without a device or a size, or given twice.
    """
    found: dict[int | str, int | str] = {}
    for each in given or ():
        device, equals, size = each.partition("=")
        key = int(device) if device.isdecimal() else device
        if not (device and equals and size) or key in found:
            why = "it is given twice" if key in found else "it is no device=size"
            raise InputError(f"--max-memory {each}", why, "give such as 0=70GiB or cpu=100GiB, once for each device")
        found[key] = int(size) if size.isdecimal() else size
    return found or None


def _replaced(
    name: str,
    made: Callable[[dict[str, Any]], Any],
    before: Sequence[inspect.Parameter],
    after: Sequence[inspect.Parameter],
    command: Callable[..., None],
) -> Callable[..., None]:
    """The command with options in place of one of its parameters, which gets what is made of them.

    Args:
        name: of the parameter.
        made: takes its own options out of all that were given.
        before: options that stand where the parameter stood.
        after: options that stand at the end.
        command: whose signature typer is to read.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    place = [parameter.name for parameter in own].index(name)

    @functools.wraps(command)
    def run(**options: Any) -> None:
        value = made(options)
        command(**options, **{name: value})

    signature = inspect.Signature([*own[:place], *before, *own[place + 1 :], *after], return_annotation=None)
    run.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue] - what typer reads
    return run


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
