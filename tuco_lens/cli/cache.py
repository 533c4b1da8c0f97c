"""`tuco-lens cache`: keeps the dequantised copy of a `.gguf` file, as a folder that loads at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuco_lens.cli.terminal import say
from tuco_lens.runs.pair_choice import DType


def cache(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not exist.")],
    dtype: Annotated[DType, typer.Option("--dtype", help="Of the weights that are written.")] = "float32",
) -> None:
    """Undo the quantisation of a .gguf file once, and keep what it gives."""
    from tuco_lens.models.dequantised import save_dequantised

    say(f"wrote {save_dequantised(file, out, dtype=dtype)}; give it as --base or --tuned in place of the file")
