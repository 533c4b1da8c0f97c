"""Groups of prompts told apart by TuCo: AUCs with intervals, beside those of simpler scores and of null controls.

The experiments that compare groups (`web_vs_chat.py`, `gcg.py`, `conjugate.py`, `jailbreak_success.py`) return a
`Comparison`. The statistics are in `tuco_lens/stats/`, the scores in `scores.py`, the null controls in `nulls.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.experiments.scores import SCORE_KEYS
from tuco_lens.experiments.settings import ExperimentSettings
from tuco_lens.results.files import write_whole
from tuco_lens.runs.steps import from_json, to_json

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme
    from tuco_lens.stats import Auc

FORMAT: Final = "tuco_lens.comparison.v1"
PERMUTATIONS: Final = 1000
FPR: Final = 0.05
"""False positive rate at which the TPR is read (paper §5.4)."""
NOT_IN_PAPER: Final = "not in the paper"
"""How what the paper reports of a contrast begins, where the contrast is this project's own."""

Values = Float[np.ndarray, " prompt"]


@dataclass(frozen=True)
class Contrast(Brief):
    """Two groups that are compared, and what the paper reports."""

    name: str
    """For example "chat against web text"."""
    positive: str
    """The group that the paper expects to have the higher TuCo."""
    negative: str
    """The other group."""
    paper: str
    """What the paper reports, in words; begins with `NOT_IN_PAPER` where it reports nothing."""

    @property
    def is_papers(self) -> bool:
        """Whether the paper compares the two; a control of this project's own is no claim that could fail."""
        return not self.paper.startswith(NOT_IN_PAPER)


@dataclass(frozen=True, eq=False)  # `==` of arrays has no single truth value
class Comparison(Brief):
    """Scores of groups of prompts, and the contrasts between them."""

    title: str
    """What was compared."""
    contrasts: tuple[Contrast, ...]
    """Which groups are compared."""
    scores: Mapping[str, Mapping[str, Values]]
    """By group, then by key of `SCORES`, [n_prompts]; NaN where a prompt does not have the score."""
    nulls: Mapping[str, tuple[Mapping[str, Values], ...]]
    """By null control, for each of its seeds: TuCo by group, of at most `NullOptions.limit` prompts of each."""
    settings: ExperimentSettings
    """The pair, the data and the options."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    """What else was counted or found, by name; "sentences" are part of the summary."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per contrast and score.

        Columns: contrast, score, n_positive, n_negative, auc, low, high (95 %), p (Mann–Whitney), reversed, tpr,
        tpr_low, tpr_high (TPR at an FPR of 5 %); and difference, difference_low, difference_high, difference_p: AUC of
        TuCo minus that of this score, on the prompts that have both. Every score but TuCo is read in the direction that
        separates better, which favours it (`reversed`: lower in the positive group). NaN where a value is undefined.
        """
        import pandas as pd

        return pd.DataFrame(
            [self._row(contrast, key) for contrast in self.contrasts for key in SCORE_KEYS if self._has(contrast, key)]
        )

    @cached_property
    def null_table(self) -> pd.DataFrame:
        """A row per contrast, null control and seed: contrast, null, seed, n_positive, n_negative, auc, low, high.

        For permuted labels, auc is the median of the permutations, and 95 % of them lie between low and high.
        """
        import pandas as pd

        rows = [row for contrast in self.contrasts for row in self._null_rows(contrast)]
        columns = ["contrast", "null", "seed", "n_positive", "n_negative", "auc", "low", "high"]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def to_frame(self) -> pd.DataFrame:
        """A copy of `table`, the AUCs. The scores of single prompts are in `scores_frame`."""
        return self.table.copy()

    def scores_frame(self) -> pd.DataFrame:
        """A row per prompt: group, index within the group, and every score."""
        import pandas as pd

        frames = [
            pd.DataFrame({"group": group, "index": range(len(scores["tuco"])), **scores})
            for group, scores in self.scores.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def auc_of(self, contrast: str, score: str = "tuco") -> Auc:
        """The AUC of one score in one contrast, with its interval; of a score other than TuCo, in its better direction.

        Raises:
            InputError: for an unknown contrast or score, or an empty group.
        """
        found = next((each for each in self.contrasts if each.name == contrast), None)
        if found is None or score not in SCORE_KEYS:
            known = [each.name for each in self.contrasts]
            raise InputError(f"no AUC of {score!r} in {contrast!r}", f"contrasts are {known}", "name one of them")
        return self._auc(found, score)[0]

    def summary(self) -> str:
        """What was found, in words that say no more than the intervals allow."""
        from tuco_lens.experiments.words import comparison_summary

        return comparison_summary(self)

    def figure(self, contrast: str | None = None, theme: Theme = "light") -> go.Figure:
        """ROC curves of every score in a contrast (by default the first), over the bands of the null controls."""
        from tuco_lens.experiments.figures import comparison_roc

        return comparison_roc(self, self._named(contrast), theme)

    def groups_figure(self, theme: Theme = "light") -> go.Figure:
        """TuCo by group: histogram, ECDF and box plot."""
        from tuco_lens.experiments.figures import comparison_groups

        return comparison_groups(self, theme)

    def save(self, path: str | Path) -> Path:
        """Write everything to one JSON file; `Comparison.load` reads it back.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        content = {
            "format": FORMAT,
            "title": self.title,
            "contrasts": [dataclasses.asdict(contrast) for contrast in self.contrasts],
            "scores": _lists(self.scores),
            "nulls": {kind: [_lists({"tuco": seed})["tuco"] for seed in seeds] for kind, seeds in self.nulls.items()},
            "settings": self.settings.to_json(),
            "facts": dict(self.facts),
        }
        return write_whole(Path(path), json.dumps(to_json(content), separators=(",", ":"), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a file that `save` wrote.

        Raises:
            InputError: if the file is missing, damaged, or not a comparison of this version's format.
        """
        content = read_result(path, FORMAT)
        return cls(
            title=content["title"],
            contrasts=tuple(Contrast(**each) for each in content["contrasts"]),
            scores={group: _arrays(scores) for group, scores in content["scores"].items()},
            nulls={kind: tuple(_arrays(seed) for seed in seeds) for kind, seeds in content["nulls"].items()},
            settings=ExperimentSettings.of_json(content["settings"]),
            facts=content["facts"],
        )

    def _named(self, contrast: str | None) -> Contrast:
        for each in self.contrasts:
            if contrast in (None, each.name):
                return each
        raise InputError(f"no contrast {contrast!r}", f"there are {[c.name for c in self.contrasts]}", "name one")

    def _has(self, contrast: Contrast, key: str) -> bool:
        return all(key in self.scores[group] for group in (contrast.positive, contrast.negative))

    def _values(self, contrast: Contrast, key: str) -> tuple[Values, Values]:
        return self.scores[contrast.positive][key], self.scores[contrast.negative][key]

    def _auc(self, contrast: Contrast, key: str) -> tuple[Auc, bool]:
        """The AUC, and whether it is that of the reversed score."""
        from tuco_lens.stats import auc

        positive, negative = (_finite(values) for values in self._values(contrast, key))
        found = auc(positive, negative)
        if key == "tuco" or not found.value < 0.5:
            return found, False
        return auc(-positive, -negative), True

    def _row(self, contrast: Contrast, key: str) -> dict[str, Any]:
        from tuco_lens.stats import tpr_at_fpr

        row: dict[str, Any] = {"contrast": contrast.name, "score": key}
        positive, negative = (_finite(values) for values in self._values(contrast, key))
        row |= {"n_positive": len(positive), "n_negative": len(negative)}
        if not len(positive) or not len(negative):
            return row | _MISSING | _NO_DIFFERENCE
        found, is_reversed = self._auc(contrast, key)
        row |= {"auc": found.value, "low": found.low, "high": found.high, "p": found.p, "reversed": is_reversed}
        sign = -1 if is_reversed else 1
        tpr = tpr_at_fpr(sign * positive, sign * negative, FPR)
        row |= {"tpr": tpr.value, "tpr_low": tpr.low, "tpr_high": tpr.high}
        return row | (_NO_DIFFERENCE if key == "tuco" else self._difference(contrast, key, sign))

    def _difference(self, contrast: Contrast, key: str, sign: int) -> dict[str, float]:
        """AUC of TuCo minus that of another score times `sign`, on the prompts that have both."""
        from tuco_lens.stats import auc_difference

        pairs: list[tuple[Values, Values]] = []
        for tuco, other in zip(self._values(contrast, "tuco"), self._values(contrast, key), strict=True):
            both = np.isfinite(tuco) & np.isfinite(other)
            pairs.append((tuco[both], sign * other[both]))
        if not all(len(tuco) for tuco, _ in pairs):
            return _NO_DIFFERENCE
        (tuco_positive, positive), (tuco_negative, negative) = pairs
        found = auc_difference((tuco_positive, tuco_negative), (positive, negative))
        return {
            "difference": found.value,
            "difference_low": found.low,
            "difference_high": found.high,
            "difference_p": found.p,
        }

    def _null_rows(self, contrast: Contrast) -> Iterator[dict[str, Any]]:
        from tuco_lens.stats import auc

        for kind, seeds in self.nulls.items():
            for seed, groups in enumerate(seeds):
                positive, negative = _finite(groups[contrast.positive]), _finite(groups[contrast.negative])
                if len(positive) and len(negative):
                    found = auc(positive, negative)
                    yield _null_row(contrast, kind, seed, (len(positive), len(negative)), found)
        positive, negative = (_finite(values) for values in self._values(contrast, "tuco"))
        if len(positive) and len(negative):
            low, middle, high = permuted_aucs(positive, negative, seed=self.settings.seed)
            yield {
                "contrast": contrast.name,
                "null": "labels",
                "seed": self.settings.seed,
                "n_positive": len(positive),
                "n_negative": len(negative),
                "auc": middle,
                "low": low,
                "high": high,
            }


_MISSING: Final[dict[str, Any]] = {
    **dict.fromkeys(("auc", "low", "high", "p"), np.nan),
    "reversed": False,
    **dict.fromkeys(("tpr", "tpr_low", "tpr_high"), np.nan),
}
_NO_DIFFERENCE: Final[dict[str, float]] = dict.fromkeys(
    ("difference", "difference_low", "difference_high", "difference_p"), np.nan
)


def permuted_aucs(positive: Values, negative: Values, *, seed: int) -> tuple[float, float, float]:
    """The 2.5 %, 50 % and 97.5 % quantiles of the AUC over permutations of the labels; ties count one half."""
    from scipy.stats import rankdata

    ranks: Values = rankdata(np.concatenate([positive, negative]))
    draw = np.random.default_rng(seed)
    n, m = len(positive), len(negative)
    sums = np.array([draw.permutation(ranks)[:n].sum() for _ in range(PERMUTATIONS)])
    low, middle, high = np.quantile((sums - n * (n + 1) / 2) / (n * m), [0.025, 0.5, 0.975])
    return float(low), float(middle), float(high)


def read_result(path: str | Path, form: str) -> dict[str, Any]:
    """The content of a saved result of the format `form`.

    Raises:
        InputError: if the file is missing, damaged, or of another form.
    """
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}", str(error), "give a file that an experiment saved") from error
    if not isinstance(content, dict) or content.get("format") != form:  # pyright: ignore[reportUnknownMemberType]
        raise InputError(f"{path} is not what was asked for", f"its format is not {form}", "give the right file")
    return from_json(content)


def _null_row(contrast: Contrast, kind: str, seed: int, counts: tuple[int, int], found: Auc) -> dict[str, Any]:
    row: dict[str, Any] = {"contrast": contrast.name, "null": kind, "seed": seed}
    row |= {"n_positive": counts[0], "n_negative": counts[1]}
    return row | {"auc": found.value, "low": found.low, "high": found.high}


def _finite(values: Values) -> Values:
    return values[np.isfinite(values)]


def _lists(groups: Mapping[str, Any]) -> dict[str, Any]:
    return {
        group: {key: np.asarray(values, dtype=np.float64).tolist() for key, values in scores.items()}
        for group, scores in groups.items()
    }


def _arrays(scores: Mapping[str, Any]) -> dict[str, Values]:
    return {key: np.array(values, dtype=np.float64) for key, values in scores.items()}
