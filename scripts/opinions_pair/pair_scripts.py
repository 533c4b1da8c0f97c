"""What this pair shares with the others: training and packaging of `smollm2_pair`, text and tables of `demo_pair`."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: that folder has a finetune.py and an evaluate.py too, and the scripts here mean their own.
sys.path.append(str(Path(__file__).resolve().parents[1] / "smollm2_pair"))

from demo_scripts import Dialogue, corpus, dialogue, held_out, tables
from lora import Schedule, adapted, train
from package import CONFIG, WEIGHTS, package

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Dialogue",
    "Schedule",
    "adapted",
    "corpus",
    "dialogue",
    "held_out",
    "package",
    "tables",
    "train",
]
