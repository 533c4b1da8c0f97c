"""Jobs over a data set that survive a kill: journalled steps (`steps.py`), prompt files to measure (`measure.py`).

`chunks.py` measures a chunk of prompts, here or on many workers (`workers.py`); `cluster.py` is what Python users have
of these.
What measuring will need is worked out beforehand (`plan.py`).
"""
