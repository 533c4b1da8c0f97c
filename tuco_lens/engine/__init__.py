"""The exact decomposition: the base block beside every tuned block, its norms and vectors, and batches of prompts.

`lockstep.py` runs the blocks, `contributions.py` sums what they add, `metrics.py` defines the paper's quantities.
"""
