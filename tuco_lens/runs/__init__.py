"""Jobs over a data set that survive a kill: journalled steps (`steps.py`), prompt files to measure (`measure.py`).

What measuring will need is worked out beforehand (`plan.py`).
"""
