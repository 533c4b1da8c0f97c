"""Steering: FTC_α-scaling, its two baselines, and generation under them (paper §5.1).

`alpha.py` reads what a user gives as α and positions; `scaling.py` has the handle behind `pair.scaled`; `ftc.py`,
`logits.py` and `weights.py` are its three methods; `kv_caches.py` keeps the base blocks' KV caches;
`generating.py` is the loop behind `pair.generate`, `sampling.py` its choice of tokens, and `generation.py` its result.
"""
