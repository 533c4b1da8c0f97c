"""Statistics of scores: how well they tell two classes apart, and how sure that is; shares, means and trends.

Experiments and figures take every interval from here; scipy and scikit-learn do the sums. `areas.py` has the AUC and
the paired difference of two, `roc.py` the ROC curve and its band, `estimates.py` shares and means, `trends.py` the rank
correlation, `resampling.py` the bootstrap's draws. Figures are in `plots/groups.py`, `plots/roc.py`, `plots/curves.py`.

What holds for every function: a higher score speaks for the positive class, and ties count half. Scores may be lists,
arrays or CPU tensors. An empty class, NaN or an infinite value is an `InputError`. One seed gives one set of numbers.
"""

from __future__ import annotations

from tuco_lens.stats.areas import Auc, AucDifference, Method, Paired, auc, auc_difference
from tuco_lens.stats.classes import CONFIDENCE, N_RESAMPLES
from tuco_lens.stats.estimates import (
    Estimate,
    PairedDifference,
    Rate,
    Summary,
    holm,
    mean_interval,
    paired_difference,
    rate,
    rate_interval,
    summarise,
)
from tuco_lens.stats.roc import RocBand, RocPoints, TprAtFpr, roc_band, roc_points, tpr_at_fpr
from tuco_lens.stats.trends import Trend, trend

__all__ = [
    "CONFIDENCE",
    "N_RESAMPLES",
    "Auc",
    "AucDifference",
    "Estimate",
    "Method",
    "Paired",
    "PairedDifference",
    "Rate",
    "RocBand",
    "RocPoints",
    "Summary",
    "TprAtFpr",
    "Trend",
    "auc",
    "auc_difference",
    "holm",
    "mean_interval",
    "paired_difference",
    "rate",
    "rate_interval",
    "roc_band",
    "roc_points",
    "summarise",
    "tpr_at_fpr",
    "trend",
]
