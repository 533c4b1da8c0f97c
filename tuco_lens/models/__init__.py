"""From what a user names to two TransformerLens models: loading, adapters, backends, and the catalogue of known pairs.

`load_pair` in `loading.py` is the only entry; all that other rooms know of a model's kind is in `backends.py`.
"""
