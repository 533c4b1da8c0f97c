"""Text coloured token by token: HTML without script or network, every token escaped.

`Generation.token_strip` makes one of generated tokens and their TuCo; any values between 0 and 1 will do. The
interactive view of `tokens.py` shows a strip where it cannot run.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, replace
from functools import cache

from plotly.colors import sample_colorscale, unlabel_rgb

from tuco_lens.brief import Brief
from tuco_lens.plots.labels import readable, token_label
from tuco_lens.plots.template import MISSING, SEQUENTIAL

_STYLE = "font-family:ui-monospace,monospace;font-size:14px;line-height:1.9;overflow-wrap:anywhere"
_TOKEN = "padding:2px 1px;border-radius:2px;white-space:pre-wrap"
_SHADES = 1001
_LABEL_LENGTH, _NOTE_LENGTH, _SHOWN_LENGTH = 40, 200, 10_000


def ink(ground: tuple[int, int, int]) -> str:
    """Black or white, whichever has the higher contrast on a colour (WCAG 2.1, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


@dataclass(frozen=True)
class TokenStrip(Brief):
    """Tokens with a value each, shown as coloured text."""

    tokens: tuple[str, ...]
    """How each token reads, [n_tokens]."""
    values: tuple[float, ...]
    """A value for each, [n_tokens]; NaN is shown in grey."""
    name: str
    """What the values are, for the legend and the tooltips."""
    notes: tuple[str, ...] = ()
    """More for each token's tooltip, [n_tokens], or nothing."""
    low: float = 0.0
    """Value of the scale's first colour."""
    high: float = 1.0
    """Value of its last."""

    def clip(self, low: float, high: float) -> TokenStrip:
        """The same strip with another range of colours."""
        return replace(self, low=low, high=high)

    def html(self) -> str:
        """A self-contained piece of HTML."""
        notes = self.notes or ("",) * len(self.tokens)
        spans = [self._span(*item) for item in zip(self.tokens, self.values, notes, strict=True)]
        legend = f"{html.escape(self._name())}: {self._swatch(self.low)} to {self._swatch(self.high)}{self._missing()}"
        return f'<div style="{_STYLE}"><div>{"".join(spans)}</div><div style="font-size:12px">{legend}</div></div>'

    def _repr_html_(self) -> str:
        return self.html()

    def _span(self, token: str, value: float, note: str) -> str:
        shown_value = "missing" if math.isnan(value) else f"{value:.3f}"
        said = "".join(f"\n{readable(line, _NOTE_LENGTH)}" for line in note.splitlines())
        title = f"{token_label(token, _LABEL_LENGTH)}\n{self._name()} {shown_value}{said}"
        lines = [html.escape(readable(line, _SHOWN_LENGTH)) for line in token.split("\n")] if token else ["∅"]
        shown = "↵<br>".join(lines)
        return f'<span style="{_TOKEN};{self._colours(value)}" title="{html.escape(title)}">{shown}</span>'

    def _swatch(self, value: float) -> str:
        return f'<span style="{_TOKEN};{self._colours(value)}">{value:.2f}</span>'

    def _name(self) -> str:
        return readable(self.name, _NOTE_LENGTH)

    def _missing(self) -> str:
        n = sum(map(math.isnan, self.values))
        return f"; {n} of {len(self.values)} values missing" if n else ""

    def _colours(self, value: float) -> str:
        red, green, blue = self.colour(value)
        return f"background:rgb({red},{green},{blue});color:{ink((red, green, blue))}"

    def colour(self, value: float) -> tuple[int, int, int]:
        """Red, green and blue of a value, 0 to 255."""
        if math.isnan(value):
            return tuple(int(MISSING[i : i + 2], 16) for i in (1, 3, 5))  # pyright: ignore[reportReturnType]
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return _scale()[round(min(1.0, max(0.0, share)) * (_SHADES - 1))]


@cache
def _scale() -> list[tuple[int, int, int]]:
    """The scale's colours, looked up once: plotly takes milliseconds for each."""
    shades = sample_colorscale(SEQUENTIAL, [shade / (_SHADES - 1) for shade in range(_SHADES)])
    return [tuple(round(part) for part in unlabel_rgb(shade)) for shade in shades]  # pyright: ignore[reportReturnType]
