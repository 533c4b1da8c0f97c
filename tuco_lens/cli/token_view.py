"""Generated text on the terminal: as it comes, or several texts side by side; coloured by TuCo where asked for.

Where there is no colour (a file, a pipe, `NO_COLOR`), TuCo stands in brackets behind each token. The model's text goes
through `terminal.harmless`, and never through rich's markup.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tuco_lens.cli.terminal import harmless

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tuco_lens.steering.generation import GeneratedToken, Generation

COLOUR_RANGE: Final = (0.0, 0.6)
"""TuCo of the first and last colour: the same in every run, so that runs can be compared."""
_MIN_COLUMN: Final = 24
"""Characters; where columns would be narrower, the texts stand one below the other."""


@dataclass(frozen=True)
class Piece:
    """What one token added to the text."""

    text: str
    """Safe for the terminal."""
    tuco: float | None
    """The token's TuCo; None to show none."""


class TokenView:
    """Shows pieces of text on stdout.

    Args:
        show_tuco: with TuCo, by colour or in brackets.
    """

    def __init__(self, *, show_tuco: bool) -> None:
        from rich.console import Console

        self.show_tuco = show_tuco
        self.console: Console = Console(file=sys.stdout, highlight=False)
        self.is_coloured = show_tuco and self.console.color_system is not None and not self.console.no_color

    def piece(self, token: GeneratedToken) -> Piece:
        """A token as it is to be shown."""
        return Piece(harmless(token.text), token.tuco if self.show_tuco else None)

    def write(self, piece: Piece) -> None:
        """Shows a piece at once."""
        if self.is_coloured:
            self.console.print(self._text([piece]), end="", soft_wrap=True)
        else:
            sys.stdout.write(_bracketed(piece))
        sys.stdout.flush()

    def end_line(self) -> None:
        """Ends the text."""
        sys.stdout.write("\n")
        sys.stdout.flush()

    def legend(self) -> None:
        """Says what the colours or brackets are."""
        if not self.is_coloured:
            sys.stdout.write("[ ]: TuCo of the token before it\n")
            return
        from rich.text import Text

        low, high = COLOUR_RANGE
        line = Text("TuCo: ")
        for i in range(7):
            value = low + (high - low) * i / 6
            line.append(f" {value:.1f} ", _style(value))
        self.console.print(line, soft_wrap=True)

    def table(self, headings: Sequence[str], texts: Sequence[Sequence[Piece]], notes: Sequence[str]) -> None:
        """Shows texts side by side, or one below the other where the columns would be too narrow.

        Args:
            headings: of each text, such as its α.
            texts: its pieces.
            notes: a line below each.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        cells = [self._text(text) for text in texts]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        if self.console.width // len(texts) >= _MIN_COLUMN:
            for heading, note in zip(headings, notes, strict=True):
                table.add_column(Text(heading), footer=Text(note), overflow="fold", ratio=1)
            table.show_footer = table.expand = True
            table.add_row(*cells)
        else:
            table.add_column()
            table.add_column(overflow="fold")
            for heading, cell, note in zip(headings, cells, notes, strict=True):
                table.add_row(Text(heading), Text.assemble(cell, "\n", note), end_section=True)
            table.show_header = False
        self.console.print(table)

    def _text(self, pieces: Sequence[Piece]) -> Text:
        from rich.text import Text

        text = Text()
        for piece in pieces:
            if self.is_coloured and piece.tuco is not None:
                text.append(piece.text, _style(piece.tuco))
            else:
                text.append(_bracketed(piece))
        return text


def note_of(generation: Generation) -> str:
    """How a text ended, and its mean TuCo."""
    reasons = {"eos": "ended", "stop": "stop string", "length": "--max-new-tokens", "context": "context full"}
    count = f"{generation.n_tokens} tokens ({reasons[generation.stop_reason]})"
    return count if generation.tuco is None else f"{count}, mean TuCo {generation.tuco.mean().item():.3f}"


def _bracketed(piece: Piece) -> str:
    return piece.text if piece.tuco is None else f"{piece.text}[{piece.tuco:.2f}]"


def _style(value: float) -> str:
    from tuco_lens.plots.token_strip import TokenStrip, ink

    low, high = COLOUR_RANGE
    ground = TokenStrip((), (), "TuCo", low=low, high=high).colour(value)
    red, green, blue = ground
    return f"{ink(ground)} on #{red:02x}{green:02x}{blue:02x}"
