"""`tuco-lens explain`: why the tuned model answers one prompt as it does, in a line, on a page, in a file.

What is told is made by `ModelPair.explain` (`attribution/explanation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tuco_lens.cli.folders import check_output
from tuco_lens.cli.options import OverwriteOption, ProgressOption, takes_pair, takes_reading
from tuco_lens.cli.terminal import complain, plain, say
from tuco_lens.errors import InputError, Interrupted
from tuco_lens.prompts.prompt import check_prompt
from tuco_lens.runs.pair_choice import PairChoice

Patch = Literal["component", "head", "layer", "layer_token", "module", "none"]


@takes_pair()
@takes_reading
def explain(
    *,
    choice: PairChoice,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What is answered.")] = None,
    reading: dict[str, Any],
    answer: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            metavar="TOKEN",
            help="The answer that is explained. May repeat: their mean logit.",
            show_default="what the tuned model says",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="TOKEN",
            help="What it is compared with. May repeat.",
            show_default="what the base model says, if no answer is given",
        ),
    ] = None,
    patch: Annotated[
        Patch, typer.Option("--patch", help="What FTC is taken out of, one by one, to see what causes the answer.")
    ] = "component",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all numbers: .safetensors.")] = None,
    overwrite: OverwriteOption = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Passes per batch, at most.")
    ] = 16,
    progress: ProgressOption = True,
) -> None:
    """Say why the tuned model answers a prompt as it does: how much, where, from which words, by what cause."""
    if prompt is None:
        raise InputError("no prompt", "--prompt is not given", "give a text")
    check_prompt(prompt, **reading)
    for path, ending in ((html, ".html"), (out, ".safetensors")):
        if path is not None:
            check_output(path, ending, overwrite=overwrite)
    pair = choice.load()
    asked: dict[str, Any] = {"answer": _one_or_many(answer), "against": _one_or_many(against)}
    cells = None if patch == "none" else patch
    how: dict[str, Any] = {"patch": cells, "batch_size": batch_size, "progress": progress}
    try:
        found = pair.explain(prompt, **asked, **how, **reading)
    except KeyboardInterrupt:
        raise Interrupted("nothing was written") from None
    say(plain(found.summary()))
    for reason in found.missing.values():
        complain("note", plain(reason))
    if html is not None:
        say(f"wrote {found.page(html)}")
    if out is not None:
        say(f"wrote {found.save(out)}")


def _one_or_many(tokens: Sequence[str] | None) -> str | Sequence[str] | None:
    return tokens[0] if tokens is not None and len(tokens) == 1 else tokens
