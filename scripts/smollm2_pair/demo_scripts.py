"""What this pair shares with `scripts/demo_pair`: the splits, held-out text, refusals, dialogues, tables of the card.

One definition of what is held out serves both pairs, so that neither is trained on what either is measured on.
"""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: both folders have an evaluate.py and a finetune.py, and the scripts here mean their own.
sys.path.append(str(Path(__file__).resolve().parents[1] / "demo_pair"))

import corpus
import held_out
import instructions
import modern_instructions
import tables
from dialogues import IGNORED, Dialogue, dialogue, head_ids, n_shared, pad

__all__ = [
    "IGNORED",
    "Dialogue",
    "corpus",
    "dialogue",
    "head_ids",
    "held_out",
    "instructions",
    "modern_instructions",
    "n_shared",
    "pad",
    "tables",
]
