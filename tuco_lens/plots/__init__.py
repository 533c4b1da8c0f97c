"""Figures. Each function returns a plotly figure and shows nothing; the numbers come from `measurement.py`.

`heatmap.py` draws layer × token maps, `labels.py` makes token text safe to draw; `template.py` is the common look.
"""

from __future__ import annotations

from tuco_lens.plots.heatmap import layer_token_heatmap, measurement_heatmap
from tuco_lens.plots.template import TEMPLATE

__all__ = ["TEMPLATE", "layer_token_heatmap", "measurement_heatmap"]
