"""Scores against a growing number (of shots, of refused questions): means, changes and slopes, with intervals.

`many_shot.py` and `output_co.py` return a `Series`. Each final question is asked at every number, so changes are
paired: intervals are over questions, since the points of one question are not independent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from tuco_lens.brief import Brief
from tuco_lens.experiments.comparison import read_result
from tuco_lens.experiments.settings import ExperimentSettings
from tuco_lens.results.files import write_whole
from tuco_lens.runs.steps import to_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme
    from tuco_lens.stats import Estimate

FORMAT: Final = "tuco_lens.series.v1"
ALL: Final = "all"
"""Name of all sets together."""

Grid = Float[np.ndarray, "x prompt"]


@dataclass(frozen=True, eq=False)  # `==` of arrays has no single truth value
class Series(Brief):
    """Scores of final questions, each asked after 1, 2, 4 … of something."""

    title: str
    """What was measured."""
    x_name: str
    """What grows, for example "shots"."""
    x: tuple[int, ...]
    """Numbers of `x_name`, ascending, [x]."""
    scores: Mapping[str, Mapping[str, Grid]]
    """By set, then by score, [x, prompt]; NaN where a prompt does not fit the context, or does not have the score."""
    settings: ExperimentSettings
    """The pair, the data and the options."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """What else was counted or found, by name."""
    nulls: Mapping[str, tuple[Mapping[str, Mapping[str, Grid]], ...]] = dataclasses.field(
        default_factory=dict[str, tuple[Mapping[str, Mapping[str, Grid]], ...]]
    )
    """By null control, for each of its seeds: by set, then by score (not all of them), [x, prompt], of some of the
    prompts. Empty in older files."""

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets."""
        return tuple(self.scores)

    @property
    def score_keys(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(next(iter(self.scores.values())))

    def grid(self, score: str, name: str = ALL) -> Grid:
        """A score of one set, or of all sets side by side, [x, prompt]."""
        return self.scores[name][score] if name != ALL else _side_by_side(self.scores, score)

    def to_frame(self) -> pd.DataFrame:
        """A row per set, score and number: set, score, x, n (prompts), mean, low, high (95 %, over prompts)."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"set": name, "score": score, "x": x, **_mean_columns(row, score)}
                for name in (ALL, *self.sets)
                for score in self.score_keys
                for x, row in zip(self.x, self.grid(score, name), strict=True)
            ]
        )

    def change_frame(self) -> pd.DataFrame:
        """A row per set and score: how the score changes, prompt by prompt.

        Numbers at which fewer than half as many prompts have a value as at the number with the most are left out, and
        then prompts that lack a value at any of the other numbers.

        Columns: set, score, n (prompts), first and last (numbers), change, change_low, change_high (mean of
        last − first) and change_p (Student's, two-sided), slope, slope_low, slope_high (mean change per doubling).
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {"set": name, "score": score, **self._change(score, name)}
                for name in (ALL, *self.sets)
                for score in self.score_keys
            ]
        )

    def null_frame(self) -> pd.DataFrame:
        """A row per null control, seed and score: how the score changes over all sets, between the same numbers.

        Columns: null, seed, and those of `change_frame` without set. Prompts that lack a value at any of the numbers
        of `change_frame` are left out.
        """
        import pandas as pd

        rows = [
            {"null": kind, "seed": seed, "score": score, **self._null_change(found, score)}
            for kind, seeds in self.nulls.items()
            for seed, found in enumerate(seeds)
            for score in next(iter(found.values()))
        ]
        return pd.DataFrame(rows, columns=pd.Index(["null", "seed", "score", *_CHANGE_COLUMNS]))

    def change(self, score: str, name: str = ALL) -> Estimate | None:
        """Mean change from the first to the last number, as in `change_frame`; None where it is undefined."""
        from tuco_lens.stats import mean_interval

        _, complete = self._complete(score, name)
        return mean_interval(complete[-1] - complete[0]) if complete.shape[1] and len(complete) > 1 else None

    def summary(self) -> str:
        """What was found, in words that say no more than the intervals allow."""
        from tuco_lens.experiments.words import series_summary

        return series_summary(self)

    def figure(self, score: str = "tuco", theme: Theme = "light") -> go.Figure:
        """One score against the number: a line with its band for each set and for all."""
        from tuco_lens.experiments.figures import series_figure

        return series_figure(self, score, theme)

    def save(self, path: str | Path) -> Path:
        """Write everything to one JSON file; `Series.load` reads it back.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        stored: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        stored["scores"] = _lists(self.scores)
        stored["nulls"] = {kind: [_lists(seed) for seed in seeds] for kind, seeds in self.nulls.items()}
        stored["settings"] = self.settings.to_json()
        content = to_json({"format": FORMAT, **stored})
        return write_whole(Path(path), json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Series:
        """Read a file that `save` wrote.

        Raises:
            InputError: if the file is missing, damaged, or not a series of this version's format.
        """
        content = read_result(path, FORMAT)
        del content["format"]
        content["x"] = tuple(content["x"])
        content["settings"] = ExperimentSettings.of_json(content["settings"])
        content["scores"] = _arrays(content["scores"])
        nulls = content.get("nulls", {})
        content["nulls"] = {kind: tuple(_arrays(seed) for seed in seeds) for kind, seeds in nulls.items()}
        return cls(**content)

    def _complete(self, score: str, name: str) -> tuple[Float[np.ndarray, " x"], Grid]:
        """The numbers of `mostly_seen`, and the scores of the prompts that have a value at each of them."""
        seen = self._seen(score, name)
        return np.array(self.x, dtype=np.float64)[seen], _complete_prompts(self.grid(score, name)[seen])

    def _seen(self, score: str, name: str) -> Bool[np.ndarray, " x"]:
        return mostly_seen(np.isfinite(self.grid(score, name)).sum(axis=1))

    def _change(self, score: str, name: str) -> dict[str, Any]:
        return _change_columns(*self._complete(score, name))

    def _null_change(self, found: Mapping[str, Mapping[str, Grid]], score: str) -> dict[str, Any]:
        seen = self._seen(score, ALL)
        complete = _complete_prompts(_side_by_side(found, score)[seen])
        return _change_columns(np.array(self.x, dtype=np.float64)[seen], complete)


_CHANGE_COLUMNS: Final = (
    "n", "first", "last", "change", "change_low", "change_high", "change_p", "slope", "slope_low", "slope_high",
)  # fmt: skip


def _side_by_side(scores: Mapping[str, Mapping[str, Grid]], score: str) -> Grid:
    return np.concatenate([of_set[score] for of_set in scores.values()], axis=1)


def _complete_prompts(grid: Grid) -> Grid:
    return grid[:, np.isfinite(grid).all(axis=0)]


def _change_columns(x: Float[np.ndarray, " x"], complete: Grid) -> dict[str, Any]:
    """The change of complete prompts, and its slope; NaN where there are no two numbers, or no prompt."""
    from tuco_lens.stats import mean_interval, paired_difference

    row: dict[str, Any] = {"n": complete.shape[1]}
    if not complete.shape[1] or len(x) < 2:
        return row | dict.fromkeys(_CHANGE_COLUMNS[1:], np.nan)
    change = paired_difference(complete[-1], complete[0])
    doublings = np.log2(x) - np.log2(x).mean()
    slope = mean_interval(doublings @ complete / (doublings @ doublings))
    row |= {"first": int(x[0]), "last": int(x[-1])}
    for key, estimate in (("change", change), ("slope", slope)):
        row |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return row | {"change_p": change.p}


def _lists(scores: Mapping[str, Mapping[str, Grid]]) -> dict[str, dict[str, Any]]:
    return {name: {score: grid.tolist() for score, grid in grids.items()} for name, grids in scores.items()}


def _arrays(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Grid]]:
    return {name: {key: np.array(grid, dtype=np.float64) for key, grid in of.items()} for name, of in scores.items()}


def mostly_seen(n: Int[np.ndarray, " x"]) -> Bool[np.ndarray, " x"]:
    """Which numbers have at least half as many prompts with a value as the one with the most; n is their count."""
    return (n > 0) & (2 * n >= n.max(initial=0))


def _mean_columns(values: Float[np.ndarray, " prompt"], score: str) -> dict[str, Any]:
    from tuco_lens.experiments.scores import SCORE_KEYS
    from tuco_lens.stats import mean_interval, rate

    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"n": 0, "mean": np.nan, "low": np.nan, "high": np.nan}
    # A share gets Wilson's interval, which stays between 0 and 1.
    is_share = score not in SCORE_KEYS and np.isin(finite, (0.0, 1.0)).all()
    estimate = rate(int(finite.sum()), len(finite)) if is_share else mean_interval(finite)
    return {"n": estimate.n, "mean": estimate.value, "low": estimate.low, "high": estimate.high}
