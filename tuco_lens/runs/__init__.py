"""Jobs over a data set that survive a kill: journalled steps (`steps.py`), prompt files to measure (`measure.py`)."""
