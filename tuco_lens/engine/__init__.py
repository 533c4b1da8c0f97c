"""The exact decomposition: the base block beside every tuned block, its norms and vectors, and batches of prompts.

`lockstep.py` runs the blocks, `contributions.py` sums what they add, `metrics.py` defines the paper's quantities.
`batches.py` takes any number of prompts; `sharing.py` runs what they begin with once, in the caches of `kv_caches.py`,
and `memory.py` says how large a batch may be.
"""
