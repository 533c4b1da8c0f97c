"""ROC curves of one or several scores, with their bands, over what null controls reach; computed in `stats/`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.plots.display import Figure
from tuco_lens.plots.labels import readable
from tuco_lens.plots.lines import (
    as_float32,
    band,
    legend_below,
    legend_text,
    line_style,
    null_style,
    shown_name,
    title_lines,
)
from tuco_lens.plots.statistic import Statistic, set_title
from tuco_lens.plots.template import Look, Theme, look
from tuco_lens.stats import (
    CONFIDENCE,
    N_RESAMPLES,
    Auc,
    Method,
    Paired,
    RocBand,
    RocPoints,
    auc,
    roc_band,
    roc_points,
)

MAX_ROC_BANDS: Final = 3
"""With more scores than these, the first one alone has its band drawn."""
NULL_POINTS: Final = 101


@dataclass(frozen=True)
class RocLine(Brief):
    """The curve of one score."""

    name: str
    """What the score is called."""
    points: RocPoints = field(repr=False)
    """The curve."""
    auc: Auc
    """The area under it, with interval and n."""
    band: RocBand | None = field(default=None, repr=False)
    """The interval of the TPR at each FPR; None for a curve without."""

    @property
    def legend(self) -> str:
        """Name, AUC, interval and n."""
        return legend_text(shown_name(self.name), self.auc.label)


@dataclass(frozen=True)
class NullBand(Brief):
    """What the curves of a null control reach."""

    name: str
    """What was made null."""
    fpr: Float[np.ndarray, " point"] = field(repr=False)
    """False positive rates from 0 to 1."""
    low: Float[np.ndarray, " point"] = field(repr=False)
    """Lower end of the TPRs of 95 % of the runs; of fewer than 40 runs the least."""
    high: Float[np.ndarray, " point"] = field(repr=False)
    """Upper end."""
    auc_low: float
    """Lower end of the AUCs of 95 % of the runs; of fewer than 40 runs the least."""
    auc_high: float
    """Upper end."""
    n_runs: int
    """Number of runs (seeds, permutations)."""
    n_positive: int
    """Scores of the positive class, of the run that has most."""
    n_negative: int
    """Scores of the negative class."""

    @property
    def legend(self) -> str:
        """Name, range of the AUC, number of runs and n."""
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''}, n = {self.n_positive} + {self.n_negative}"
        return legend_text(f"null, {shown_name(self.name)}", f"AUC {self.auc_low:.3f} to {self.auc_high:.3f}, {runs}")


@dataclass(frozen=True)
class Roc(Statistic):
    """ROC curves of scores of the same prompts; made by `roc`.

    Raises:
        InputError: if there is no curve.
    """

    lines: tuple[RocLine, ...]
    """One curve per score."""
    nulls: tuple[NullBand, ...] = ()
    """What null controls reach, drawn in grey."""
    title: str = "ROC"
    """Above the figure."""

    def __post_init__(self) -> None:
        if not self.lines:
            raise InputError("no ROC curves", "there is nothing to draw", "give at least one score")

    def only(self, *names: str) -> Roc:
        """The curves of these scores, in this order, over the same null controls.

        Raises:
            InputError: if there is no such score.
        """
        known = {line.name: line for line in self.lines}
        for name in names:
            if name not in known:
                there = ", ".join(readable(each, 40) for each in known)
                raise InputError(f"no ROC curve of {readable(name, 40)!r}", f"there are {there}", "name one of them")
        return replace(self, lines=tuple(known[name] for name in names))

    def figure(self, theme: Theme = "light") -> go.Figure:
        """Draws them: TPR against FPR, each AUC with its interval and n in the legend."""
        colours = look(theme)
        figure = Figure([*self._null_traces(colours), *self._line_traces(colours)])
        figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": colours.quiet, "width": 1, "dash": "dash"})
        figure.update_layout(
            template=colours.template,
            hovermode="closest",
            xaxis=_axis("false positive rate"),
            yaxis=_axis("true positive rate"),
            **legend_below((each.legend for each in (*self.nulls, *self.lines)), 480),
        )
        set_title(figure, *title_lines(self.title), *self._notes())
        return figure

    def _banded(self) -> list[RocLine]:
        among = self.lines if len(self.lines) <= MAX_ROC_BANDS else self.lines[:1]
        return [line for line in among if line.band is not None]

    def _notes(self) -> Iterator[str]:
        yield f"{100 * self.lines[0].auc.confidence:g} % intervals"
        banded = self._banded()
        if banded:
            yield "pointwise band" + ("" if len(banded) == len(self.lines) else f" of {shown_name(banded[0].name)}")

    def _null_traces(self, colours: Look) -> Iterator[go.Scatter]:
        for i, null in enumerate(self.nulls):
            options: dict[str, Any] = {"name": null.legend, "showlegend": True, **null_style(i)}
            if null.n_runs == 1:  # whose band has no width
                dash = ("solid", "dot")[i % 2]
                options |= {"opacity": 1, "line": {"width": 1.5, "color": colours.quiet, "dash": dash}}
            yield band(null.fpr, null.low, null.high, colours.quiet, colours, **options)

    def _line_traces(self, colours: Look) -> Iterator[go.Scatter]:
        styles = [line_style(i, colours) for i in range(len(self.lines))]
        for line, style in zip(self.lines, styles, strict=True):
            if line.band is not None and line in self._banded():
                area = line.band
                yield band(area.fpr, area.low, area.high, style["color"], colours, group=line.name)
        for line, style in zip(self.lines, styles, strict=True):
            yield go.Scatter(
                x=as_float32(line.points.fpr),
                y=as_float32(line.points.tpr),
                customdata=as_float32(line.points.threshold),
                mode="lines",
                line={**style, "width": 2},
                name=line.legend,
                meta=shown_name(line.name),
                legendgroup=line.name,
                hovertemplate=(
                    "<b>%{meta}</b><br>at or above %{customdata:.4g}<br>TPR %{y:.1%} at FPR %{x:.1%}<extra></extra>"
                ),
            )


def roc(
    scores: Mapping[str, Paired],
    *,
    nulls: Mapping[str, Sequence[Paired]] | None = None,
    title: str = "ROC",
    confidence: float = CONFIDENCE,
    method: Method = "delong",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Roc:
    """ROC curves of one or several scores of two classes, with intervals.

    Args:
        scores: by name, the scores of the positive and of the negative class.
        nulls: by name of a null control, such pairs for each of its runs (seeds, permutations of the labels).
        title: above the figure.
        confidence: of all intervals.
        method: of the AUCs' intervals, see `stats.auc`; the bands are by bootstrap.
        seed: of the bootstrap.
        n_resamples: number of resamples of the bootstrap.

    Raises:
        InputError: if there is no score, or an empty class, or a score that is not finite.
    """
    options: dict[str, Any] = {"confidence": confidence, "seed": seed, "n_resamples": n_resamples}
    lines = tuple(
        RocLine(name, roc_points(*pair), auc(*pair, method=method, **options), roc_band(*pair, **options))
        for name, pair in scores.items()
    )
    return Roc(lines, tuple(_null_band(name, runs) for name, runs in (nulls or {}).items() if runs), title)


def _null_band(name: str, runs: Sequence[Paired]) -> NullBand:
    from sklearn.metrics import auc as area

    grid = np.linspace(0, 1, NULL_POINTS)
    curves = [roc_points(*run) for run in runs]
    heights = np.stack([np.interp(grid, curve.fpr, curve.tpr) for curve in curves])  # [run, point]
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(heights, tail, axis=0, method="inverted_cdf")
    high = np.quantile(heights, 1 - tail, axis=0, method="inverted_cdf")
    ends = np.quantile([area(curve.fpr, curve.tpr) for curve in curves], [tail, 1 - tail], method="inverted_cdf")
    n_positive, n_negative = (max(np.size(run[side]) for run in runs) for side in (0, 1))
    return NullBand(name, grid, low, high, float(ends[0]), float(ends[1]), len(runs), n_positive, n_negative)


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "range": [-0.01, 1.01], "tickformat": ".0%", "dtick": 0.2}
