"""From what a user names to two TransformerLens models: loading, adapters, backends, and the catalogue of known pairs.

`load_pair` in `loading.py` loads a pair; how a forward pass of each backend is called is in `backends.py`.
"""
