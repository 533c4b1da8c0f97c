"""Many tunes of one base: compared on the same prompts, followed over training steps, watched while they train.

`compare.py` measures and `comparison.py` is what it returns; `trajectory.py` is the same over the checkpoints of a run
(`checkpoints.py` finds them); `callback.py` measures a model while it trains (`live.py` makes a pair of it). A result's
folder is written and read by `folder.py`; what a comparison and a trajectory have in common is in `measured.py`.
"""

from __future__ import annotations
