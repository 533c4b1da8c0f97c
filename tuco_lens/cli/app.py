"""The program `tuco-lens`: its commands, its exit statuses, and its one-line errors.

Typer parses; what it and the commands raise is turned into one line on stderr and an exit status here, and nowhere
else. `--debug`, before or behind the command, lets the traceback through.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from tuco_lens import __version__
from tuco_lens.cli.cache import cache
from tuco_lens.cli.demo import demo
from tuco_lens.cli.experiment import experiment
from tuco_lens.cli.explain import explain
from tuco_lens.cli.generate import generate
from tuco_lens.cli.measure import measure
from tuco_lens.cli.pairs import pairs
from tuco_lens.cli.plan import plan
from tuco_lens.cli.sweep import sweep
from tuco_lens.cli.terminal import PROGRAM, complain, set_up_streams
from tuco_lens.cli.tunes import compare, trajectory
from tuco_lens.errors import Interrupted, TucoLensError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """What did fine-tuning do to this response? Measures TuCo, the Tuning Contribution, of a base and tuned model."""


def build() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(name=PROGRAM, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(_root)
    app.command("compare")(compare)
    app.command("demo")(demo)
    app.command("experiment")(experiment)
    app.command("explain")(explain)
    app.command("generate")(generate)
    app.command("measure")(measure)
    app.command("pairs")(pairs)
    app.command("plan")(plan)
    app.command("cache")(cache)
    app.command("sweep")(sweep)
    app.command("trajectory")(trajectory)
    return app


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: int
    """Exit status."""
    kind: str = ""
    """"error" or "interrupted"; empty where nothing is to be said."""
    text: str = ""
    """What to say on stderr."""


def run(argv: list[str]) -> int:
    """Runs the program and returns its exit status; see `tuco_lens.cli.main`."""
    set_up_streams()
    # Libraries read these when they are imported; what they have to say, the errors of this package say better.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments, debug = _without_debug(argv)
    try:
        _invoke(arguments or ["--help"])
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # every way to end has a status
        outcome = _outcome(error)
        if debug and outcome.kind == "error":
            traceback.print_exc()
        if outcome.kind:
            complain(outcome.kind, outcome.text)
        return outcome.status
    return DONE


def _without_debug(argv: list[str]) -> tuple[list[str], bool]:
    """Takes `--debug` out, unless it is the value of the option before it or behind `--`."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    valued = {"--prompt", "--system"}
    places = [i for i, word in enumerate(options) if word == "--debug" and (i == 0 or options[i - 1] not in valued)]
    return [word for i, word in enumerate(argv) if i not in places], bool(places)


def _invoke(argv: list[str]) -> None:
    # Not the command's own `main`, which prints errors in several lines and makes "Aborted!" of Ctrl-C.
    command: Any = typer.main.get_command(build())
    with command.make_context(PROGRAM, argv) as context:
        command.invoke(context)


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, TucoLensError):
        return Outcome(BAD_INPUT, "error", str(error))
    if isinstance(error, typer.Exit):
        return Outcome(error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Outcome(
            INTERRUPTED, "interrupted", str(error) if isinstance(error, Interrupted) else "stopped by Ctrl-C"
        )
    if isinstance(error, BrokenPipeError):
        # The reader of stdout has gone (`| head`); the interpreter must not try to flush it again on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Outcome(FAILED)
    if isinstance(error, SystemExit):
        return Outcome(error.code if isinstance(error.code, int) else FAILED)
    usage = getattr(
        error, "format_message", None
    )  # all that Typer raises about the arguments, and nothing else, has it
    if usage is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else PROGRAM
        return Outcome(
            BAD_INPUT,
            "error",
            f"bad usage: {str(usage()).replace('Value error, ', '').rstrip('.')}; see {command} --help",
        )
    what = f"it failed unexpectedly: {type(error).__name__}: {error}"
    return Outcome(FAILED, "error", f"{what}; run it again with --debug for the traceback")
