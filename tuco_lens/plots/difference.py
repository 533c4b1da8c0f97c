"""The difference of two layer × token maps, aligned by token: two prompts, or one prompt under two α or two pairs.

The maps themselves are in `heatmap.py`. The map at an α is that of a measurement made within `pair.scaled(α)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.heatmap import (
    MAX_EXACT_CELLS,
    WORDS,
    LayerTokenMap,
    colour_bar,
    hover_template,
    largest,
    lay_out,
    map_height,
)
from tuco_lens.plots.labels import plotly_text, readable
from tuco_lens.plots.statistic import Statistic, check_range, float32, missing_note, set_title, window
from tuco_lens.plots.template import Theme, look
from tuco_lens.plots.token_axis import TokenAxis, add_band

if TYPE_CHECKING:
    from torch import Tensor

    from tuco_lens.engine.metrics import Norm
    from tuco_lens.results.measurement import MapKind

NAME_CHARACTERS: Final = 24
"""Length at which the names of the two maps are cut."""


@dataclass(frozen=True)
class AlignedToken:
    """A column of a difference: a token of both maps, or of one alone."""

    text: str
    """The token."""
    first: int | None
    """Its position in the first map's prompt; None if only the second has it."""
    second: int | None
    """Its position in the second map's prompt; None if only the first has it."""
    token_id: int | None = None
    """Its id, where the maps know it."""
    role: str | None = None
    """The span it belongs to, in the first map if it is in both."""

    @property
    def mark(self) -> str:
        """The sign with which its values enter the difference: "+" only in the first, "−" only in the second, or ""."""
        if self.second is None:
            return "+"
        return "−" if self.first is None else ""

    @property
    def position(self) -> str:
        """Its place in words: "3 in both", "3 and 5", "3 in the first only"."""
        if self.second is None:
            return f"{self.first} in the first only"
        if self.first is None:
            return f"{self.second} in the second only"
        return f"{self.first} in both" if self.first == self.second else f"{self.first} and {self.second}"


@dataclass(frozen=True, eq=False)
class MapDifference(Statistic):
    """One layer × token map less another one, with a column per aligned token."""

    first: Float[Tensor, "layer column"] = field(repr=False)
    """The first map's values; NaN where it lacks the token."""
    second: Float[Tensor, "layer column"] = field(repr=False)
    """The second map's values; NaN where it lacks the token."""
    columns: tuple[AlignedToken, ...] = field(repr=False)
    """What the columns are."""
    names: tuple[str, str] = ("first", "second")
    """What the two maps are called."""
    kind: MapKind = "cumulative"
    """Which maps they are."""
    norm: Norm = "l1"
    """The norm that they were made with."""
    first_layer: int = 0
    """Number of the first row's layer."""
    first_column: int = 0
    """Number of the first column among those of the whole difference."""
    limit: float | None = None
    """The scale's ends are −limit and limit; None for the largest absolute value."""

    @property
    def values(self) -> Float[Tensor, "layer column"]:
        """First less second; NaN where one lacks the token."""
        return self.first - self.second

    @property
    def n_layers(self) -> int:
        """Rows."""
        return self.first.shape[0]

    def layers(self, first: int | None = None, last: int | None = None) -> MapDifference:
        """The same difference from layer `first` up to, and without, `last`; as `LayerTokenMap.layers`."""
        rows = window(first, last, start=self.first_layer, size=self.n_layers, what="layers")
        kept = {"first": self.first[rows], "second": self.second[rows]}
        return replace(self, **kept, first_layer=self.first_layer + rows.start)

    def tokens(self, first: int | None = None, last: int | None = None) -> MapDifference:
        """The same difference from column `first` up to, and without, `last`; columns count from 0, as aligned."""
        kept = window(first, last, start=self.first_column, size=len(self.columns), what="columns")
        parts = {"first": self.first[:, kept], "second": self.second[:, kept]}
        return replace(self, **parts, columns=self.columns[kept], first_column=self.first_column + kept.start)

    def clip(self, limit: float) -> MapDifference:
        """The same difference with colours from −limit to limit: 0 always has the middle one.

        Raises:
            InputError: unless `limit` is finite and above 0.
        """
        check_range(-limit, limit)
        return replace(self, limit=limit)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws it: orange where the first map is lower, blue where it is higher, grey columns for tokens of one map.

        The axis marks a token that only the first map has with +, one that only the second has with −: the signs with
        which they enter the difference. Pointing at a cell tells the difference and both values.
        """
        colours = look(theme)
        z = float32(self.values)
        values, lines = self._hover()
        limit = largest(abs(z)) if self.limit is None else self.limit
        figure = Figure(
            go.Heatmap(
                z=z,
                x=self.axis.names,
                y=np.arange(self.first_layer, self.first_layer + self.n_layers, dtype=np.float32),
                customdata=values,
                meta=self._shown_names,
                hovertemplate=hover_template("difference %{z:+.4f}", *lines),
                hoverongaps=False,
                zmin=-limit,
                zmax=limit,
                colorscale=colours.diverging,
                colorbar=colour_bar(f"difference of {WORDS[self.kind].value} ({self.norm.upper()})"),
            )
        )
        height = map_height(self.n_layers)
        lay_out(figure, self.axis, colours, rows=(self.first_layer, self.n_layers), height=height)
        figure.update_xaxes(self.axis.layout(marks=[column.mark for column in self.columns]))
        legend = add_band(figure, self.axis, colours, height)
        title = f"Difference of {WORDS[self.kind].value} ({self.kind}), {self.norm.upper()}"
        set_title(figure, title, " less ".join(self._shown_names), *self._counts(), self._missing(), legend)
        return figure

    @property
    def axis(self) -> TokenAxis:
        """The columns, for figures."""
        ids, roles = ([getattr(c, name) for c in self.columns] for name in ("token_id", "role"))
        return TokenAxis(
            tuple(column.text for column in self.columns),
            tuple(column.position for column in self.columns),
            None if None in ids else tuple(ids),
            None if None in roles else tuple(roles),
        )

    @property
    def _shown_names(self) -> list[str]:
        return [plotly_text(readable(name, NAME_CHARACTERS)) for name in self.names]

    def _hover(self) -> tuple[np.ndarray | None, list[str]]:
        """Both values; of a large difference none, since it follows the bounds of a map's size."""
        if self.first.numel() > MAX_EXACT_CELLS:
            return None, []
        both = np.stack([float32(self.first), float32(self.second)], axis=-1)  # [layer, column, 2]
        # A name that is put into a template could be read as a part of it: %{…}.
        lines = [f"%{{meta[{i}]}} %{{customdata[{i}]:.4f}}" for i in (0, 1)]
        return both, lines

    def _counts(self) -> list[str]:
        """How many tokens both have and each alone, unless both have all."""
        marks = [column.mark for column in self.columns]
        signs = zip("+−", self._shown_names, strict=True)
        alone = [f"{sign} {marks.count(sign)} {name} only" for sign, name in signs if sign in marks]
        return [f"{marks.count('')} tokens in both", *alone] if alone else []

    def _missing(self) -> str:
        both = [i for i, column in enumerate(self.columns) if not column.mark]
        return missing_note(float32(self.values[:, both]))


def difference(
    first: LayerTokenMap, second: LayerTokenMap, *, names: tuple[str, str] = ("first", "second")
) -> MapDifference:
    """The first map less the second, aligned by token.

    Tokens are matched in their order, as many in a row as possible (Ratcliff and Obershelp, `difflib`); by their ids
    where both maps know them, else by their text. For two tokenizers, take the ids away:
    `dataclasses.replace(a_map, token_ids=None)`.

    Args:
        first: a map of one prompt; a part of a map will do.
        second: a map of the same kind, norm and layers.
        names: what the figure calls them, such as "α = 1" and "α = 0.5".

    Raises:
        InputError: if kind, norm or layers differ, or if the two have no token in common.
    """
    _check_alike(first, second)
    pairs = list(_aligned(_keys(first, second), _keys(second, first)))
    if not any(i is not None and j is not None for i, j in pairs):
        raise InputError("no difference", "the two maps have no token in common", "compare prompts that share words")
    columns = tuple(_column(first, second, i, j) for i, j in pairs)
    return MapDifference(
        _picked(first.values, [i for i, _ in pairs]),
        _picked(second.values, [j for _, j in pairs]),
        columns,
        names,
        first.kind,
        first.norm,
        first.first_layer,
    )


def _check_alike(first: LayerTokenMap, second: LayerTokenMap) -> None:
    facts: dict[str, tuple[Any, Any]] = {
        "kind": (first.kind, second.kind),
        "norm": (first.norm, second.norm),
        "layers": (_layers(first), _layers(second)),
    }
    for name, (one, other) in facts.items():
        if one != other:
            why = f"the first map has the {name} {one}, the second {other}"
            raise InputError("no difference", why, "give maps of one kind, norm and range of layers")


def _layers(some: LayerTokenMap) -> str:
    return f"{some.first_layer} to {some.first_layer + some.n_layers - 1}"


def _keys(one: LayerTokenMap, other: LayerTokenMap) -> Sequence[int | str]:
    known = one.token_ids is not None and other.token_ids is not None
    return one.token_ids if known and one.token_ids else one.token_texts


def _aligned(first: Sequence[int | str], second: Sequence[int | str]) -> Iterator[tuple[int | None, int | None]]:
    """Column by column, the index in each; of tokens that were replaced, first those of the first."""
    for same, i, i_end, j, j_end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if same == "equal":
            yield from zip(range(i, i_end), range(j, j_end), strict=True)
            continue
        yield from ((column, None) for column in range(i, i_end))
        yield from ((None, column) for column in range(j, j_end))


def _column(first: LayerTokenMap, second: LayerTokenMap, i: int | None, j: int | None) -> AlignedToken:
    source, index = (first, i) if i is not None else (second, j or 0)
    return AlignedToken(
        source.token_texts[index],
        None if i is None else first.first_token + i,
        None if j is None else second.first_token + j,
        source.token_ids[index] if source.token_ids else None,
        source.roles[index] if source.roles else None,
    )


def _picked(values: Float[Tensor, "layer token"], columns: Sequence[int | None]) -> Float[Tensor, "layer column"]:
    """These columns, NaN where there is none."""
    padded = torch.cat([values, torch.full_like(values[:, :1], torch.nan)], dim=1)
    return padded[:, [-1 if column is None else column for column in columns]]
