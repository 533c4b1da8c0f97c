"""What was measured, as data: `measurement.py`, rows of result files (`rows.py`), whole files (`files.py`).

Results know nothing of models and nothing of drawing.
"""
