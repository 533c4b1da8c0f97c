"""Figures. A statistic (a frozen dataclass) has `.figure(theme)`, which returns a plotly figure and shows nothing.

`heatmap.py` draws layer × token maps, `difference.py` two of them compared, `layer_profile.py` many prompts by layer;
`groups.py` groups of prompts, `roc.py` how well scores tell them apart, `curves.py` numbers against α, shots or tokens,
`steps.py` against the steps of a training, `grid.py` numbers with two labels, such as tune and prompt, `overview.py` a
pair's weights; `export.py` writes images;
`statistic.py` is what statistics share, `template.py` the common look, `labels.py` makes token text safe to draw.
"""

from __future__ import annotations

from tuco_lens.plots.curves import Curve, Curves, generation_curve
from tuco_lens.plots.difference import AlignedToken, MapDifference, difference
from tuco_lens.plots.export import write_image
from tuco_lens.plots.grid import Grid
from tuco_lens.plots.groups import Groups
from tuco_lens.plots.heatmap import LayerTokenMap, layer_token_map
from tuco_lens.plots.layer_profile import LayerProfile, layer_profile
from tuco_lens.plots.roc import Roc
from tuco_lens.plots.statistic import Statistic
from tuco_lens.plots.steps import Steps
from tuco_lens.plots.template import TEMPLATE, TEMPLATE_DARK, look

__all__ = [
    "TEMPLATE",
    "TEMPLATE_DARK",
    "AlignedToken",
    "Curve",
    "Curves",
    "Grid",
    "Groups",
    "LayerProfile",
    "LayerTokenMap",
    "MapDifference",
    "Roc",
    "Statistic",
    "Steps",
    "difference",
    "generation_curve",
    "layer_profile",
    "layer_token_map",
    "look",
    "write_image",
]
