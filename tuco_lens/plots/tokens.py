"""Text coloured by a value per token with circuitsvis, without network: `PromptMeasurement.colored_tokens`.

circuitsvis' own display asks a server on the internet whether it is there, loads its script from another, and puts
tokens into the page as markup. Here its component is called with the script of the installed wheel, written into the
page, and with tokens that cannot be read as markup. Every output also holds a static `TokenStrip` (`token_strip.py`),
which is what shows where no script runs: on GitHub, in a notebook that is not trusted, in an exported page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError, LoadError
from tuco_lens.plots.display import Carrier, script_json
from tuco_lens.plots.labels import readable
from tuco_lens.plots.statistic import window
from tuco_lens.plots.token_strip import TokenStrip
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tuco_lens.results.measurement import MapKind, PromptMeasurement

POSITIVE: Final = "#56B4E9"
"""Colour of the largest value; white is 0. On every shade between, black text has a contrast over 4.5."""
NEGATIVE: Final = "#E69F00"
"""Colour of the smallest value, where that is below 0."""
_MISSING: Final = "#d9d9d9"
_SHOWN_CHARACTERS: Final = 10_000
_NAME_CHARACTERS: Final = 200
_WORD_JOINER: Final = "\u2060"

_STYLE: Final = """
.tuco-lens-live:not(:empty)+.tuco-lens-static>div>div:first-child{display:none}
.tuco-lens-live{font:14px/1.9 ui-monospace,monospace;overflow-wrap:anywhere}
.tuco-lens-live span>span{max-width:100%;box-sizing:border-box;white-space:normal}
.tuco-lens-live .colored-tokens>div{white-space:pre-line;max-width:min(30em,80vw);font-size:13px;line-height:1.4}
.tuco-lens-live strong{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden}
"""
# CircuitsVis.render takes the id of an element. Ids are given here, since one output may be in a document twice.
_CALL: Final = """
(function (name, props) {
  function shown(text, number) { return Object.assign([text], {valueOf: function () { return number; }}); }
  props.values = props.values.map(function (pair) { return shown(pair[0], pair[1]); });
  function draw() {
    document.querySelectorAll("." + name + " .tuco-lens-live:not([id])").forEach(function (place) {
      place.id = "tuco-lens-" + Math.random().toString(36).slice(2);
      window.tucoLensCircuitsVis.render(place.id, window.tucoLensCircuitsVis.ColoredTokens, props);
    });
  }
  if (window.tucoLensCircuitsVis) draw();
  else (window.tucoLensWaiting = window.tucoLensWaiting || []).push(draw);
})"""
_LIBRARY: Final = "window.tucoLensCircuitsVis"
_DRAW_WAITING: Final = "(window.tucoLensWaiting || []).splice(0).forEach(function (draw) { draw(); });"
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
</head>
<body style="margin:16px;color-scheme:light;background:#ffffff;color:#222222">
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class ColoredTokens(Brief):
    """Tokens with a value each, shown as coloured text whose tooltips say the value."""

    token_texts: tuple[str, ...]
    """How each token reads, [n_tokens]."""
    values: tuple[float, ...]
    """A value for each, [n_tokens]; NaN is shown in grey, and counted in the legend."""
    name: str
    """What the values are, for legend and tooltips."""
    notes: tuple[str, ...] = ()
    """More for each token's tooltip, [n_tokens], or nothing."""
    low: float = 0.0
    """Value of the strongest colour below 0; 0 where no value is below."""
    high: float = 1.0
    """Value of the strongest colour above 0."""

    def clip(self, low: float, high: float) -> ColoredTokens:
        """The same tokens with another range of colours, which must hold 0: that is white.

        Raises:
            InputError: unless low ≤ 0 < high, both finite.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= 0 < high):
            why = "the colours go from white, at 0, both ways"
            raise InputError(f"colours from {low} to {high}", why, "give low ≤ 0 < high")
        return replace(self, low=low, high=high)

    def tokens(self, first: int | None = None, last: int | None = None) -> ColoredTokens:
        """The tokens from index `first` up to, and without, index `last`; negative ones count from the end.

        Raises:
            InputError: if none is left.
        """
        kept = window(first, last, start=0, size=len(self.token_texts), what="tokens")
        return replace(
            self, token_texts=self.token_texts[kept], values=self.values[kept], notes=self.notes and self.notes[kept]
        )

    def strip(self) -> TokenStrip:
        """The same in static HTML, without script."""
        return _SignedStrip(self.token_texts, self.values, self.name, self.notes, self.low, self.high)

    def html(self, *, script: bool = True) -> str:
        """A piece of HTML for a page of your own; it fetches nothing.

        Args:
            script: with circuitsvis' script (1.3 MB), which a page needs once, before or behind the pieces without.
                A piece in a page that has none shows the static strip.
        """
        scripts = [script_source()] if script else []
        return self._body([*scripts, self._call()])

    def page(self) -> str:
        """A complete, self-contained HTML page; its content policy lets only its own two scripts run."""
        scripts = [script_source(), self._call()]
        title = html.escape(f"{len(self.token_texts)} tokens by {readable(self.name, _NAME_CHARACTERS)}")
        return _PAGE.format(policy=_policy(scripts), title=title, body=self._body(scripts))

    def save(self, path: str | Path) -> Path:
        """Write the page; returns its path.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        return write_whole(Path(path), self.page())

    def _repr_html_(self) -> str:
        return self.html(script=_CARRIER.is_due())

    def _body(self, scripts: Sequence[str]) -> str:
        tags = "\n".join(f"<script>{source}</script>" for source in scripts)
        return (
            f'<div class="{self._class_name()}"><style>{_STYLE}{self._missing_style()}</style>'
            f'<div class="tuco-lens-live"></div><div class="tuco-lens-static">{self.strip().html()}</div>\n{tags}</div>'
        )

    def _call(self) -> str:
        notes = self.notes or ("",) * len(self.token_texts)
        props = {
            "tokens": [_inert(token) for token in self.token_texts],
            "values": [self._shown(*pair) for pair in zip(self.values, notes, strict=True)],
            "minValue": self.low,
            "maxValue": self.high,
            "negativeColor": NEGATIVE,
            "positiveColor": POSITIVE,
        }
        return f"{_CALL}({script_json(self._class_name())}, {script_json(props)});"

    def _shown(self, value: float, note: str) -> tuple[str, float]:
        """What the tooltip says below the token, and the number that is coloured."""
        text = "missing" if math.isnan(value) else f"{value:.4g}"
        number = 0.0 if math.isnan(value) else min(max(value, self.low), self.high)  # JSON has no infinity
        lines = [f"{self.name} {text}", *note.splitlines()]
        return "\n".join(readable(line, _NAME_CHARACTERS) for line in lines), number

    def _class_name(self) -> str:
        """Made of what is shown, so that the same tokens give the same HTML."""
        return "tuco-lens-" + hashlib.sha256(repr(astuple(self)).encode("utf-8", "backslashreplace")).hexdigest()[:16]

    def _missing_style(self) -> str:
        missing = [i for i, value in enumerate(self.values, 1) if math.isnan(value)]
        name = self._class_name()
        places = ",".join(f".{name} .colored-tokens>span:nth-of-type({i})>span" for i in missing)
        return f"{places}{{background:{_MISSING}!important}}" if missing else ""


class _SignedStrip(TokenStrip):
    """A strip in the colours of circuitsvis: white at 0, and a colour either way."""

    def colour(self, value: float) -> tuple[int, int, int]:
        if math.isnan(value):
            return _rgb(_MISSING)
        end, strongest = (self.high, POSITIVE) if value >= 0 else (self.low, NEGATIVE)
        share = min(1.0, value / end) if end else 0.0
        red, green, blue = (round(255 + share * (part - 255)) for part in _rgb(strongest))
        return red, green, blue


def colored_tokens(
    tokens: Sequence[str],
    values: Sequence[float] | Float[Tensor, " token"],
    *,
    name: str = "value",
    notes: Sequence[str] = (),
) -> ColoredTokens:
    """Tokens coloured by any value: white at 0, blue above, orange below.

    Args:
        tokens: text of each token, shown as it is, markup and control characters included, [n_tokens].
        values: a value for each, [n_tokens]; NaN for a missing one.
        name: what the values are.
        notes: more for each token's tooltip, [n_tokens], or nothing.

    Returns:
        What a notebook shows as coloured text. The colours end at the largest and the smallest value; see `clip`.

    Raises:
        InputError: if there are no tokens, or the numbers of tokens, values and notes differ.
    """
    numbers = tuple(float(value) for value in values)
    if not tokens:
        raise InputError("no tokens", "there is nothing to colour", "give at least one token and its value")
    for what, count in {"values": len(numbers), "notes": len(notes) or len(tokens)}.items():
        if count != len(tokens):
            raise InputError(
                "cannot colour the tokens", f"{len(tokens)} tokens and {count} {what}", "give one for each"
            )
    finite = [number for number in numbers if math.isfinite(number)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    return ColoredTokens(tuple(tokens), numbers, name, tuple(notes), low, high if high > 0 else 1.0)


def measured_tokens(item: PromptMeasurement, kind: MapKind = "cumulative", layer: int = -1) -> ColoredTokens:
    """A measured prompt coloured by one row of one of its maps: by TuCo, if it is the last of the cumulative one.

    Args:
        item: the measured prompt.
        kind: which map; see `PromptMeasurement.layer_token`.
        layer: which of its rows, 0 … L-1; negative ones count from the end.

    Raises:
        InputError: for a layer or a map that does not exist.
    """
    from tuco_lens.plots.heatmap import WORDS

    values = item.layer_token(kind)  # [layer, token]
    n_layers = len(values)
    if not -n_layers <= layer < n_layers:
        raise InputError(f"layer {layer} is out of range", f"there are {n_layers}", f"give 0 to {n_layers - 1}")
    index = layer % n_layers
    is_tuco = kind == "cumulative" and index == n_layers - 1
    name = "TuCo" if is_tuco else f"{WORDS[kind].value}, layer {index}"
    notes = [f"{role}, position {position}" for position, role in enumerate(item.prompt.roles)]
    return colored_tokens(item.prompt.tokens, values[index], name=name, notes=notes)


@cache
def script_source() -> str:
    """circuitsvis' script, from the installed package, as the content of a `<script>`.

    Raises:
        LoadError: if it is not installed.
    """
    spec = importlib.util.find_spec("circuitsvis")  # not imported, for that would load torch
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    file = Path(folders[0] if folders else "circuitsvis") / "dist" / "cdn" / "iife.js"
    try:
        bundle = file.read_text(encoding="utf-8")
    except OSError as error:
        why = error.strerror or str(error)
        raise LoadError("the script of circuitsvis", why, "install it with `pip install circuitsvis`") from error
    # Developer tools would fetch the source map. In strings, where alone these occur, the backslash changes nothing.
    bundle = bundle.rsplit("//# sourceMappingURL", 1)[0].replace("</script", "<\\/script").replace("<!--", "<\\!--")
    bundled = f"(function () {{{bundle}\nreturn CircuitsVis;}})()"
    return f"{_LIBRARY} = {_LIBRARY} || {bundled};\n{_DRAW_WAITING}"


_CARRIER: Final = Carrier()


def _inert(token: str) -> str:
    """A token for circuitsvis, which uses the one string as text, in tooltips, and as markup.

    Neither `<` nor `&` begins anything in HTML unless a letter, `/`, `!`, `?` or `#` follows; so an invisible character
    is put behind each. A newline breaks the line behind the sign for it.
    """
    shown = "↵\n".join(readable(line, _SHOWN_CHARACTERS) for line in token.split("\n")) if token else "∅"
    return shown.replace("<", "<" + _WORD_JOINER).replace("&", "&" + _WORD_JOINER)


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}"


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
