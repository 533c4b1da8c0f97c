"""What a notebook shows for a pair and for a measurement when their names are typed: a card, and a table with bars.

The same in text is their `repr`; both say what the object is and what one does next. Prompts are hostile text, and
are escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tuco_lens.brief import brief, cut
from tuco_lens.models.backends import device_of, dtype_of
from tuco_lens.models.offload import stored_bytes
from tuco_lens.plots.labels import readable

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.results.measurement import Measurement

_ROWS: Final = 10
_PROMPT: Final = 90
_CARD: Final = "border:1px solid #8884;border-radius:6px;padding:.6em .9em;display:inline-block;font:13px system-ui"
_CELL: Final = "padding:1px 8px;text-align:left;vertical-align:top"
_PAIR_NEXT: Final = ".measure(prompts)  .run_with_cache(prompt)  .generate(prompt, alpha=0.8)  .scaled(0.8)  .explore()"
_NEXT: Final = "opacity:.75;font-family:ui-monospace,monospace"


def pair_facts(pair: ModelPair) -> list[tuple[str, str]]:
    """What a pair is, name by name."""
    cfg, dtype = pair.tuned.cfg, str(dtype_of(pair.tuned)).removeprefix("torch.")
    return [
        ("base", readable(pair.base_name, _PROMPT)),
        ("tuned", readable(pair.tuned_name, _PROMPT)),
        ("models", f"{type(pair.tuned).__name__} (backend {pair.backend!r})"),
        ("size", f"{cfg.n_layers} layers × {cfg.d_model}, vocabulary {cfg.d_vocab}, context {cfg.n_ctx} tokens"),
        ("weights", f"{_bytes(pair) / 1e6:,.1f} MB of {dtype} on {device_of(pair.tuned)}, both models together"),
    ]


def _bytes(pair: ModelPair) -> int:
    """Of all weights; those that the two models share, or that are tied, once."""
    return sum((stored_bytes(pair.base) | stored_bytes(pair.tuned)).values())


def pair_text(pair: ModelPair) -> str:
    """The `repr` of a pair."""
    facts = [f"  {name:8}{value}" for name, value in pair_facts(pair)]
    return "\n".join(["ModelPair", *facts, f"  {_PAIR_NEXT}"])


def pair_card(pair: ModelPair) -> str:
    """A pair as a piece of HTML."""
    return _card("ModelPair", _table(pair_facts(pair)), _PAIR_NEXT)


def measurement_text(measurement: Measurement) -> str:
    """The `repr` of a measurement."""
    settings = measurement.settings
    return "\n".join(
        [
            f"Measurement of {_spread(measurement)}",
            f"  base {brief(settings.base)}, tuned {brief(settings.tuned)}",
            f"  {_how(measurement)}",
            "  .tuco  .to_frame()  [0]  .map(0)  .report('report.html')  .save('m.safetensors')",
        ]
    )


def measurement_table(measurement: Measurement) -> str:
    """A measurement as a piece of HTML: its first prompts, and a bar for the TuCo of each."""
    rows = [
        (str(i), f"{item.tuco:.4f}", item.tuco, str(item.prompt.n_tokens), cut(item.prompt.text))
        for i, item in enumerate(measurement.items[:_ROWS])
    ]
    head = ("", "TuCo", "", "tokens", "prompt")
    more = len(measurement) - len(rows)
    note = f"<div>… and {more} more</div>" if more else ""
    body = f"<div>{html.escape(_how(measurement))}</div>{_table(rows, head)}{note}"
    return _card(f"Measurement of {_spread(measurement)}", body, ".to_frame()  [0]  .map(0)  .report('report.html')")


def _spread(measurement: Measurement) -> str:
    n, values = len(measurement), measurement.tuco
    count = f"{n} prompt{'' if n == 1 else 's'}"
    if n == 0:
        return count
    return f"{count}: TuCo {values.median():.4f} (median), {values.min():.4f} to {values.max():.4f}"


def _how(measurement: Measurement) -> str:
    settings = measurement.settings
    parts = [settings.backend, settings.dtype, f"{settings.n_layers} layers", f"norm {settings.norm}"]
    parts += ["chat template"] * settings.chat + ["drift"] * settings.drift + sorted(settings.template)
    return ", ".join(parts)


def _card(title: str, body: str, after: str) -> str:
    return (
        f'<div style="{_CARD}"><b>{html.escape(title)}</b>{body}<div style="{_NEXT}">{html.escape(after)}</div></div>'
    )


def _table(rows: Iterable[Sequence[str | float]], head: Sequence[str] = ()) -> str:
    def line(tag: str, row: Sequence[str | float]) -> str:
        inside = (html.escape(readable(each, _PROMPT)) if isinstance(each, str) else _bar(each) for each in row)
        cells = "".join(f'<{tag} style="{_CELL}">{each}</{tag}>' for each in inside)
        return f"<tr>{cells}</tr>"

    return f"<table>{line('th', head) if head else ''}{''.join(line('td', row) for row in rows)}</table>"


def _bar(share: float) -> str:
    width = 0.0 if math.isnan(share) else 100 * min(max(share, 0.0), 1.0)
    return f'<div style="background:#0072B2;height:.8em;width:{width:.1f}px"></div>'
