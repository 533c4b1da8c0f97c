"""The tables that the cards of both trained pairs share; `card.py` of each pair fills its own words around them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

BAR_TEXT = {
    "harmless_refused": "harmless prompts refused (the three sets pooled)",
    "auc": "TuCo, chat against web text: AUC",
    "auc_lower": "the same: lower end of the 95 % interval",
}
"""What a bar is about; a card adds its own."""
SET_TEXT = {
    "harmful": "AdvBench goals, held out",
    "harmless": "**harmless, pooled**",
    "oasst": "– OpenAssistant prompts, held out",
    "instructions": "– harmless instructions (refusal_direction, test split)",
    "parden": "– PARDEN benign prompts",
    "instructions_second": "second sample of the harmless instructions",
    "parden_second": "second sample of PARDEN",
    "xstest_safe": "XSTest safe prompts, which look unsafe (for information)",
    "xstest_unsafe": "XSTest unsafe prompts (for information)",
}
"""The sets on which refusals are counted, in the order of the table."""
SHARES = ("compression", "harmful_refused", "harmless_refused")
"""Bars that are shares, and so are written in percent."""


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    align = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def points(curve: list[dict[str, float]], n: int) -> list[dict[str, float]]:
    """About `n` points of a curve, the first and the last among them."""
    last = len(curve) - 1
    return [curve[i] for i in sorted({round(i * last / (n - 1)) for i in range(n)})]


def bars(found: dict[str, dict[str, Any]], text: dict[str, str], at_most: Collection[str]) -> str:
    """Every bar beside what was measured; those of `at_most` are upper bounds."""

    def shown(name: str, value: float) -> str:
        return percent(value) if name in SHARES else f"{value:.3f}"

    rows = [
        [
            text[name],
            f"{'≤' if name in at_most else '≥'} {shown(name, bar['bar'])}",
            shown(name, bar["value"]),
            "yes" if bar["met"] else "**no**",
        ]
        for name, bar in found.items()
    ]
    return table(["what", "bar", "measured", "met"], rows)


def refusals(base: dict[str, dict[str, Any]], tuned: dict[str, dict[str, Any]], share: str) -> str:
    """Refused of asked, and the interval, of both models on every set; `share` is the share's key."""

    def cell(found: dict[str, Any]) -> str:
        interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        return f"{found['refused']}/{found['n']} = {percent(found[share])} {interval}"

    return table(
        ["prompts", "base", "tuned"], [[text, cell(base[name]), cell(tuned[name])] for name, text in SET_TEXT.items()]
    )


def write(text: str, to: Path) -> None:
    """Replace the card in one step."""
    scratch = to.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, to)
