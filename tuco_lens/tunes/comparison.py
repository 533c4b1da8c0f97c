"""`TuneComparison`: several tunes of one base on the same prompts, and what tells them apart.

`compare.py` makes it; `words.py` puts it in words. Differences are paired, prompt by prompt, so that what prompts vary
in drops out; their p-values are corrected together (Holm). Two tunes that differ in their seed alone are the natural
null for "two tunes differ".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from tuco_lens.brief import brief, in_lines
from tuco_lens.errors import InputError
from tuco_lens.results.files import folder_for
from tuco_lens.tunes import folder as store
from tuco_lens.tunes.measured import OfPrompts, check_alike, group_masks, mean_table, result_rows

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.difference import MapDifference
    from tuco_lens.plots.grid import Grid
    from tuco_lens.plots.groups import Groups
    from tuco_lens.plots.layer_profile import LayerProfile, ProfileKind
    from tuco_lens.plots.template import Theme
    from tuco_lens.results.measurement import MapKind, Measurement

KIND: Final = "comparison"


@dataclass(frozen=True, eq=False)  # `==` of arrays has no single truth value
class TuneComparison(OfPrompts):
    """TuCo of the same prompts by several tunes of one base.

    Raises:
        InputError: if there is no tune, or they were not measured on the same tokens, norm and layers.
    """

    measurements: Mapping[str, Measurement]
    """What was measured of each tune, by its name; the prompts of all are the same, in one order."""
    groups: tuple[str, ...]
    """The group of each prompt, [n_prompts]."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tunes that could not be loaded or measured, and why."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What decided the numbers, as JSON values: the base, the tunes, the prompts, the options."""

    def __post_init__(self) -> None:
        check_alike(self.measurements, self.groups)

    def __repr__(self) -> str:
        tunes = ", ".join(map(brief, self.names))
        what = f"TuneComparison of {len(self.names)} tunes on {len(self.groups)} prompts: {tunes}"
        after = ".summary()  .table  .differences  .heatmap()  .distributions()  .layer_profile()  .only(group)"
        return f"{in_lines(what)}\n  {after}"

    @property
    def names(self) -> tuple[str, ...]:
        """The tunes, in the order that they were given."""
        return tuple(self.measurements)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per tune and group: tune, group, n, mean, low, high (95 %, over prompts), q10, median, q90 of TuCo.

        With several groups there is a row for all of them together too, called "all".
        """
        return mean_table(self.measurements, self.groups, "tune")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """A row per two tunes and group: how far their TuCo differs, prompt by prompt.

        Columns: first, second, group, n, difference (mean of first − second), low, high (95 %), p (paired t-test),
        p_holm (corrected for all rows), verdict: "first is higher", "second is higher" or "not told apart".
        """
        import pandas as pd

        from tuco_lens.stats import holm
        from tuco_lens.tunes.words import verdict

        pairs = itertools.combinations(range(len(self.names)), 2)
        rows = [self._difference(i, j, group) for i, j in pairs for group in group_masks(self.groups)]
        names = ["first", "second", "group", "n", "difference", "low", "high", "p"]
        frame = pd.DataFrame(rows, columns=pd.Index(names))
        tested = frame["p"].notna().to_numpy()
        corrected = np.full(len(frame), np.nan)
        corrected[tested] = holm(frame["p"].to_numpy(dtype=np.float64)[tested])
        frame["p_holm"] = corrected
        frame["verdict"] = [verdict(*row) for row in frame[["difference", "p_holm"]].itertuples(index=False)]
        return frame

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """A row per two tunes and group: whether they rank prompts alike.

        Columns: first, second, group, n, rho (Spearman's), low, high (95 %), p. NaN where a tune's values do not vary.
        """
        import pandas as pd

        pairs = itertools.combinations(range(len(self.names)), 2)
        rows = [self._agreement(i, j, group) for i, j in pairs for group in group_masks(self.groups)]
        return pd.DataFrame(rows, columns=pd.Index(["first", "second", "group", "n", "rho", "low", "high", "p"]))

    def only(self, *groups: str, tunes: Sequence[str] | None = None) -> TuneComparison:
        """The comparison of these groups of prompts (all by default) and tunes (all by default).

        Raises:
            InputError: for a group or a tune that is not there.
        """
        wanted = groups or self.group_names
        _require_known("group", wanted, self.group_names)
        _require_known("tune", tunes or (), self.names)
        kept = [i for i, group in enumerate(self.groups) if group in wanted]
        chosen = {
            name: replace(self.measurements[name], items=tuple(self.measurements[name][i] for i in kept))
            for name in (tunes or self.names)
        }
        return replace(self, measurements=chosen, groups=tuple(self.groups[i] for i in kept))

    def first(self, n: int) -> TuneComparison:
        """The comparison of the first `n` prompts, as many as a page can hold maps of."""
        chosen = {name: replace(each, items=each.items[:n]) for name, each in self.measurements.items()}
        return replace(self, measurements=chosen, groups=self.groups[:n])

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per tune and prompt, as in a result file."""
        return result_rows(self.measurements, self.groups, "tune")

    def to_frame(self) -> pd.DataFrame:
        """A row per tune and prompt: tune, group, and the columns of a result file."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def summary(self) -> str:
        """What was found, in words that say no more than the corrected tests allow."""
        from tuco_lens.tunes.words import comparison_summary

        return comparison_summary(self)

    def heatmap(self) -> Grid:
        """TuCo of every prompt by every tune, prompts by group: a statistic that draws itself."""
        from tuco_lens.tunes.figures import prompt_grid

        return prompt_grid(self.measurements, self.groups, "tune")

    def distributions(self) -> Groups:
        """TuCo by tune: histogram, ECDF and box plot; of one group with `only`."""
        from tuco_lens.tunes.figures import tuco_groups

        return tuco_groups(self)

    def layer_profile(self, kind: ProfileKind = "cumulative") -> LayerProfile:
        """A line per tune: median and quartiles over prompts, by layer; see `Measurement.layer_profile`."""
        from tuco_lens.plots.layer_profile import layer_profile

        return layer_profile(self.measurements, kind)

    def layer_grid(self) -> Grid:
        """Tune × layer: mean over prompts of TuCo so far at the last token."""
        from tuco_lens.tunes.figures import layer_grid

        return layer_grid(self.measurements, "tune")

    def agreement_grid(self) -> Grid:
        """Spearman's ρ of every two tunes over all prompts, with its interval in the hover text."""
        from tuco_lens.tunes.figures import agreement_grid

        return agreement_grid(self)

    def map_difference(self, first: str, second: str, index: int, kind: MapKind = "cumulative") -> MapDifference:
        """The layer × token map of one prompt by one tune, less that by another.

        Raises:
            InputError: for an unknown tune, or if only the last tokens were kept.
        """
        from tuco_lens.plots.difference import difference

        _require_known("tune", (first, second), self.names)
        maps = [self.measurements[name].map(index, kind) for name in (first, second)]
        return difference(maps[0], maps[1], names=(first, second))

    def report(self, path: str | Path, *, title: str = "Tunes compared") -> Path:
        """Write one self-contained HTML page with a switch between the tunes; returns its path.

        Raises:
            InputError: if only the last tokens were kept.
        """
        from tuco_lens.report import write_report

        return write_report(self.measurements, path, title=title)

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Tune × prompt as a plotly figure (returned, not shown)."""
        return self.heatmap().figure(theme)

    def save(self, folder: str | Path) -> Path:
        """Write everything to a folder, which is made if need be; `TuneComparison.load` reads it back.

        Raises:
            OutputError: if it cannot be written.
        """
        where = Path(folder)
        with folder_for(where):
            tunes = {name: store.save_measurement(where, name, each) for name, each in self.measurements.items()}
            return self.write_index(where, tunes)

    def write_index(self, folder: Path, tunes: Mapping[str, Mapping[str, str]]) -> Path:
        """Write the index of a folder that has the measurements already, as `tunes` says."""
        content = {"settings": self.settings, "groups": self.groups, "tunes": tunes, "left_out": self.left_out}
        return store.write_index(folder / f"{KIND}.json", KIND, content)

    @classmethod
    def load(cls, folder: str | Path) -> TuneComparison:
        """Read what `save` or `tl.compare(out=…)` wrote.

        Raises:
            InputError: if it is missing, damaged or of another kind.
        """
        where, content = store.read_index(folder, KIND)
        measurements = {name: store.load_measurement(where, entry) for name, entry in content["tunes"].items()}
        return cls(measurements, tuple(content["groups"]), content["left_out"], content["settings"])

    def _difference(self, i: int, j: int, group: str) -> tuple[Any, ...]:
        from tuco_lens.stats import paired_difference

        one, other = self._both(i, j, group)
        if not len(one):
            return (self.names[i], self.names[j], group, 0, *[np.nan] * 4)
        found = paired_difference(one, other)
        return (self.names[i], self.names[j], group, found.n, found.value, found.low, found.high, found.p)

    def _agreement(self, i: int, j: int, group: str) -> tuple[Any, ...]:
        from tuco_lens.stats import trend

        one, other = self._both(i, j, group)
        found = trend(one, other) if len(one) else None
        if found is None or not found.is_defined:
            return (self.names[i], self.names[j], group, len(one), *[np.nan] * 4)
        return (self.names[i], self.names[j], group, found.n, found.value, found.low, found.high, found.p)

    def _both(self, i: int, j: int, group: str) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
        """TuCo by two tunes, of the prompts of a group that both have a value of."""
        there = group_masks(self.groups)[group] & np.isfinite(self.tuco[i]) & np.isfinite(self.tuco[j])
        return self.tuco[i, there], self.tuco[j, there]


def _require_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"no {what} {name!r}", f"there are {', '.join(map(repr, known))}", "name one of them")
