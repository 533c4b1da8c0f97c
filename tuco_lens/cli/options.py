"""Options that several commands share, with their help texts; and the pair that they name.

A command that `takes_pair` is handed a `PairChoice` (`runs/pair_choice.py`) in place of the nine options which say what
the pair is and how it is loaded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from tuco_lens.runs.pair_choice import Backend, DType, choose_pair, with_loading

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
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that a checkpoint brings along.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]
ChatOption = Annotated[bool, typer.Option("--chat", help="Put texts into the chat template, as the user's message.")]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt of every chat.")]
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
_LOADING: Final[dict[str, tuple[Any, Any]]] = {
    "backend": (BackendOption, "auto"),
    "dtype": (DTypeOption, None),
    "device": (DeviceOption, None),
    "trust_remote_code": (TrustOption, False),
    "allow_pickle": (PickleOption, False),
}


def takes_pair(*, backend: Backend = "auto") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a pair; its own parameter `choice` gets the `PairChoice` that they make.

    Args:
        backend: the command's default.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        place = [parameter.name for parameter in own].index("choice")
        naming = [_option(name, kind, None) for name, kind in _NAMING.items()]
        loading = [_option(name, kind, default) for name, (kind, default) in _LOADING.items()]
        loading[0] = loading[0].replace(default=backend)

        @functools.wraps(command)
        def run(**options: Any) -> None:
            named = choose_pair(*(options.pop(name) for name in _NAMING))
            choice = with_loading(named, **{name: options.pop(name) for name in _LOADING})
            command(choice=choice, **options)

        signature = inspect.Signature([*own[:place], *naming, *own[place + 1 :], *loading], return_annotation=None)
        run.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue] - what typer reads
        return run

    return decorate


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
