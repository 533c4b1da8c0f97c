"""Steering: FTC_α-scaling, its two baselines, and generation under them (paper §5.1).

`alpha.py` reads what a user gives as α and positions; `scaling.py` has the handle behind `pair.scaled`; `ftc.py`,
`logits.py` and `weights.py` are its three methods; `rows.py` reads what `pair.generate` is asked for, `generating.py`
is its loop, `sampling.py` its choice of tokens, `text_stream.py` its text, and `generation.py` its result.
`scoring.py` gives the logits of answer tokens.
"""
