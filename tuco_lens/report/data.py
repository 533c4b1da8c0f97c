"""What the scripts of the report draw, as values for JSON: the table's numbers, tokens, packed maps.

`packing.py` says how the maps are packed; `assets/report/data.js` reads all of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from plotly.colors import get_colorscale

from tuco_lens.brief import Brief
from tuco_lens.plots.labels import readable
from tuco_lens.plots.template import LOOKS, SEQUENTIAL, Look
from tuco_lens.report.packing import COARSE, FINE, pack_norms, pack_shares, share_planes, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.results.measurement import MapKind, Measurement, MeasurementSettings, PromptMeasurement

TOKEN_CHARACTERS: Final = 10_000
"""Length at which a token's text is cut."""
SCALE_QUANTILE: Final = 0.99
"""Of all cells: the end of a colour scale."""
MAX_BINS: Final = 40
"""Most bars of the distribution."""
_SUBSCRIPT: Final = {"l1": "₁", "l2": "₂"}


@dataclass(frozen=True)
class Kind:
    """One kind of map: how the page calls it, and how finely it is kept."""

    name: MapKind
    """The map's name in `PromptMeasurement.layer_token`."""
    label: str
    """On the switch."""
    value: str
    """The quantity, in the legends and hover texts."""
    line: str
    """The same in the narrow legend of the profile."""
    meaning: str
    """In a sentence, below the switch."""
    norms: tuple[str, str] | None
    """What the two norms of the ratio are of; None for the drift, which is a ratio of others."""
    steps: int
    """See `packing.py`."""


KINDS: Final = (
    Kind(
        "cumulative",
        "cumulative",
        "TuCo so far",
        "so far",
        "Each cell is the share of fine-tuning in all that the layers up to this one have added to this token. "
        "The framed cell, top right, is the prompt's TuCo.",
        ("ΣPTC", "ΣFTC"),
        FINE,
    ),
    Kind(
        "local",
        "layer by layer",
        "share of the layer",
        "this layer",
        "Each cell is the share of fine-tuning in what this one layer adds to this token.",
        ("PTC", "FTC"),
        COARSE,
    ),
    Kind(
        "drift",
        "drift",
        "drift",
        "drift",
        "Each cell compares the streams of two independent runs, tuned and base; the framed cell is OutputCo.",
        None,
        COARSE,
    ),
)


def kinds_of(settings: MeasurementSettings) -> tuple[Kind, ...]:
    """The kinds of map that a measurement has."""
    return tuple(kind for kind in KINDS if settings.drift or kind.name != "drift")


@dataclass(frozen=True)
class ReportData(Brief):
    """What the page's scripts read."""

    values: dict[str, Any]
    """Everything but the maps, as plain values that JSON can hold; None stands for what is missing."""
    maps: list[str]
    """The packed maps of each prompt, tune by tune, [n_tunes × n_prompts]: unpacked when the prompt is looked at, and
    not before."""


def report_data(first: Measurement, *others: Measurement) -> ReportData:
    """All that the page's scripts draw: what is of the prompts once, and the numbers of each tune.

    Args:
        first: The measurement whose table is in the page.
        *others: Those of other tunes, of the same prompts.
    """
    vocabulary = Vocabulary()
    kinds, measurements = kinds_of(first.settings), (first, *others)
    packed = [[_packed_maps(item, kinds) for item in measurement.items] for measurement in measurements]
    values: dict[str, Any] = {
        "layers": first.settings.n_layers,
        "norm": _SUBSCRIPT[first.settings.norm],
        "kinds": [_kind_data(kind, measurements) for kind in kinds],
        "columns": columns(first),
        "distribution": distribution(first, *others),
        "prompts": [
            _prompt_data(item, scales, vocabulary) for item, (scales, _) in zip(first.items, packed[0], strict=True)
        ],
        "tokens": vocabulary.tokens,
        "colours": get_colorscale(SEQUENTIAL),
        "looks": {theme: _look_data(look) for theme, look in LOOKS.items()},
    }
    if others:
        values["diverging"] = {theme: look.diverging for theme, look in LOOKS.items()}
        values["others"] = [
            {
                "columns": columns(other),
                "distribution": distribution(other, *measurements),
                "scales": [scales for scales, _ in maps],
            }
            for other, maps in zip(others, packed[1:], strict=True)
        ]
    return ReportData(values, [text for maps in packed for _, text in maps])


def columns(measurement: Measurement) -> dict[str, list[float | None]]:
    """The columns of the table that are numbers, unrounded, each [n_prompts]."""
    items = measurement.items
    found: dict[str, Iterable[float]] = {
        "tokens": (item.n_tokens for item in items),
        "tuco": (item.tuco for item in items),
        "preco": (item.preco for item in items),
        "beta": (item.beta for item in items),
    }
    if measurement.settings.drift:
        found["output_co"] = measurement.output_co.tolist()
    return {name: [_or_none(value) for value in values] for name, values in found.items()}


def finite_tucos(measurement: Measurement) -> list[float]:
    """The TuCo of each prompt that has one, in input order."""
    return [item.tuco for item in measurement.items if math.isfinite(item.tuco)]


def distribution(measurement: Measurement, *others: Measurement) -> dict[str, list[float]] | None:
    """The histogram of TuCo: `edges`, [n_bins + 1], and `counts`, [n_bins]; None if no prompt has a TuCo.

    Twice the cube root of n bins (Rice's rule), `MAX_BINS` at most, from the least to the largest TuCo of all the
    measurements, so that their histograms can be compared.
    """
    tucos, *more = map(finite_tucos, (measurement, *others))
    if not tucos:
        return None
    pooled = sum(more, tucos)
    low, high = min(pooled), max(pooled)
    if low == high:
        low, high = low - 0.005, high + 0.005
    n_bins = min(MAX_BINS, math.ceil(2 * max(map(len, (tucos, *more))) ** (1 / 3)))
    counts, edges = np.histogram(tucos, bins=n_bins, range=(low, high))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


class Vocabulary:
    """Tokens that occur in the prompts, each once: (shown text, id)."""

    def __init__(self) -> None:
        self.tokens: list[tuple[str, int]] = []
        self._places: dict[tuple[str, int], int] = {}

    def places(self, prompt: Prompt) -> list[int]:
        """Where the tokens of a prompt stand in `tokens`, [n_tokens]."""
        return [self._place(pair) for pair in zip(prompt.tokens, prompt.token_ids, strict=True)]

    def _place(self, pair: tuple[str, int]) -> int:
        if pair not in self._places:
            self._places[pair] = len(self.tokens)
            self.tokens.append((shown_token(pair[0]), pair[1]))
        return self._places[pair]


def shown_token(token: str) -> str:
    """A token as the strip shows it: as it reads, its line breaks kept and marked; `∅` if it is empty."""
    return "↵\n".join(readable(line, TOKEN_CHARACTERS) for line in token.split("\n")) or "∅"


def colour_top(values: Sequence[Float[np.ndarray, "layer token"]]) -> tuple[float, bool]:
    """Where the colour scale of a kind of map ends, and whether any value lies above; the scale starts at 0.

    All prompts and tunes share it, so that they can be compared. It ends at the `SCALE_QUANTILE` of all cells: the
    share of some first layers is far above all others, and would leave these with few colours.
    """
    flat = np.concatenate([array[np.isfinite(array)] for array in values]) if values else np.zeros(0)
    if not flat.any():
        return 1.0, False
    top = float(np.quantile(flat, SCALE_QUANTILE)) or float(flat.max())
    return top, bool(flat.max() > top)


def _kind_data(kind: Kind, measurements: Sequence[Measurement]) -> dict[str, Any]:
    items = [item for measurement in measurements for item in measurement.items]
    top, above = colour_top([_array(item.layer_token(kind.name)) for item in items])
    return {
        "name": kind.name,
        "value": kind.value,
        "line": kind.line,
        "meaning": kind.meaning,
        "norms": kind.norms,
        "steps": kind.steps,
        "top": top,
        "above": above,
    }


def _prompt_data(item: PromptMeasurement, scales: Sequence[Sequence[float]], vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "text": item.prompt.text,
        "dropped": item.prompt.n_dropped,
        "tokens": vocabulary.places(item.prompt),
        "roles": [(role, len(list(run))) for role, run in groupby(item.prompt.roles)],
        "scales": scales,
    }


def _packed_maps(item: PromptMeasurement, kinds: Sequence[Kind]) -> tuple[list[list[float]], str]:
    """All maps of a prompt: the numbers that scale each of them, and the codes of all as one text."""
    parts = [_packed_map(item, kind) for kind in kinds]
    return [scale for scale, _ in parts], to_text(*(plane for _, planes in parts for plane in planes))


def _packed_map(item: PromptMeasurement, kind: Kind) -> tuple[list[float], list[bytes]]:
    """A map and the sum of its two norms: the numbers that scale them, and their codes, plane by plane."""
    shares = pack_shares(_array(item.layer_token(kind.name)), kind.steps)
    planes = share_planes(shares, kind.steps)
    if kind.norms is None:
        return [shares.top], planes
    norms = pack_norms(_array(_norm_sum(item, kind.name)))
    return [shares.top, norms.low, norms.high], [*planes, norms.codes.tobytes()]


def _norm_sum(item: PromptMeasurement, kind: MapKind) -> Float[Tensor, "layer token"]:
    maps = item.maps
    return maps.cumulative_ptc + maps.cumulative_ftc if kind == "cumulative" else maps.ptc + maps.ftc


def _array(values: Float[Tensor, "layer token"]) -> Float[np.ndarray, "layer token"]:
    return values.detach().cpu().float().numpy()


def _look_data(look: Look) -> dict[str, Any]:
    return {
        "template": look.template.to_plotly_json(),
        "colorway": look.colorway,
        "quiet": look.quiet,
        "missing": look.missing,
        "mark": look.mark,
    }


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
