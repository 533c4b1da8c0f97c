"""From what a user names to two TransformerLens models: loading, adapters, backends, and the catalogue of known pairs.

`loading.py` has the one entry, `load_pair`; `backends.py` is all that the rest of the package knows of a model's kind.
"""
