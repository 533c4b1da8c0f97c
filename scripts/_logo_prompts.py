"""Descriptions of logos and of SVG drawings: the task that the adapters of `real_tunes.py` were trained for.

Written for that script, and put together from the tables below; none of it comes from the adapters' training data.
"""

from __future__ import annotations

import random
from typing import Final

SUBJECTS: Final = (
    *("a fox", "an owl", "a sailing boat", "a mountain ridge", "a coffee cup", "a bicycle wheel"),
    *("a lighthouse", "a maple leaf", "a paper plane", "a beehive", "a rocket", "a whale", "an anchor"),
    *("a lotus flower", "a chess knight", "a pine tree", "a crescent moon", "a wheat ear"),
    *("a camera lens", "a violin", "a hummingbird", "an open book", "a cogwheel", "a wave", "a mushroom"),
)
TRADES: Final = (
    *("a coffee roaster", "a bicycle repair shop", "a travel agency", "a bakery", "a law firm"),
    *("a software start-up", "a yoga studio", "a brewery", "a children's library"),
    *("a solar energy company", "a music school", "a fish market", "a garden centre", "a chess club"),
    *("a mountain rescue team", "a photo studio"),
)
STYLES: Final = (
    *("minimalist", "flat", "geometric", "hand-drawn", "retro", "line-art", "monochrome", "playful", "bold", "elegant"),
)
COLOURS: Final = (
    *("navy blue and white", "orange and dark green", "black on white", "teal and sand", "crimson and grey"),
    *("violet and gold", "pale yellow and brown", "two shades of blue", "lime and charcoal", "coral and cream"),
)
SHAPES: Final = (
    *("inside a circle", "on a shield", "above a thin horizontal line", "within a rounded square", "in a hexagon"),
    *("over three small dots", "between two curved strokes", "on a plain background"),
)
FORMS: Final = (
    "Draw a {style} logo for {trade}: {subject} {shape}, in {colours}.",
    "Write the SVG code of a {style} logo that shows {subject} {shape}, coloured in {colours}.",
    "A {style} SVG icon of {subject} {shape}, made of simple paths and filled with {colours}.",
    "Design a logo for {trade}, with {subject} {shape}; the style is {style} and the colours are {colours}.",
    "Create an SVG with a view box of 256 by 256 that draws {subject} {shape} as a {style} emblem in {colours}.",
)


def logo_prompts(n: int, seed: int = 0) -> list[str]:
    """Descriptions that differ, all ending in a full stop; every form comes up equally often."""
    draw = random.Random(seed)
    tables = {"subject": SUBJECTS, "trade": TRADES, "style": STYLES, "colours": COLOURS, "shape": SHAPES}
    found: dict[str, None] = {}
    while len(found) < n:
        chosen = {name: draw.choice(table) for name, table in tables.items()}
        found.setdefault(_with_article(FORMS[len(found) % len(FORMS)].format(**chosen)))
    return list(found)


def _with_article(text: str) -> str:
    return text.replace("a elegant", "an elegant").replace("A elegant", "An elegant")
