"""The parts of the report that are HTML: facts, summary, table, and the words around the figures.

They are readable without any script. Every text that comes from a prompt, a checkpoint or the user goes through
`foreign` (or `html.escape(readable(…))`) on its way into the page.
"""

from __future__ import annotations

import html
import math
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from tuco_lens.models.numerics import NOISE_FLOORS
from tuco_lens.plots.labels import readable
from tuco_lens.plots.template import LOOKS, Look
from tuco_lens.report.data import finite_tucos, kinds_of
from tuco_lens.report.packing import norm_error, share_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuco_lens.prompts.prompt import Prompt
    from tuco_lens.report.data import ReportData
    from tuco_lens.report.tunes import Tunes
    from tuco_lens.results.measurement import Measurement, PromptMeasurement

SHOWN_CHARACTERS: Final = 240
"""Length at which a prompt is cut in the table."""
TITLE_CHARACTERS: Final = 1000
"""Length at which the title and the names of checkpoints are cut."""
TUNE_CHARACTERS: Final = 60
"""Length at which the names of tunes are cut on the switch."""
MOST_BUTTONS: Final = 6
"""Most tunes that have a button each; more are a list to choose from."""
QUANTILES: Final = (0.05, 0.25, 0.75, 0.95)
"""Of TuCo, in the summary, beside the median."""
_HEADINGS: Final = {
    "tokens": ("tokens", "Length of the prompt"),
    "tuco": ("TuCo", "Share of fine-tuning in what the layers add to the last token"),
    "preco": ("PreCo", "1 − TuCo"),
    "beta": ("β", "Largest share of fine-tuning after any layer, over all tokens"),
    "output_co": ("OutputCo", "Difference of the final hidden states of two independent runs, last token"),
}


def theme_style() -> str:
    """The colours that page and figures share, as CSS variables: light, and dark on screens that ask for it."""
    light, dark = (_variables(LOOKS[theme]) for theme in ("light", "dark"))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _variables(look: Look) -> str:
    return f"--ink: {look.ink}; --paper: {look.paper}; --mark: {look.mark}; --missing: {look.missing};"


def facts(tunes: Tunes) -> str:
    """The pair and the options, as a list of terms."""
    settings = tunes.first.settings
    found = {"tune": tunes.names} if tunes.names else {}
    found |= {
        "base": (settings.base,),
        "tuned": tuple(each.settings.tuned for each in tunes.measurements),
        "backend": (settings.backend,),
        "dtype": (settings.dtype,),
        "norm": (settings.norm.upper(),),
        "layers": (str(settings.n_layers),),
        "width": (str(settings.d_model),),
        "chat template on texts": ("yes" if settings.chat else "no",),
        "tuco_lens": (settings.version,),
    }
    return "\n".join(
        f"<div><dt>{name}</dt><dd>{by_tune([foreign(value, TITLE_CHARACTERS) for value in values], 'span')}</dd></div>"
        for name, values in found.items()
    )


def by_tune(parts: Sequence[str], tag: Literal["div", "span"]) -> str:
    """One piece of HTML for each tune, of which the page shows that of the chosen one: the first, without scripts."""
    if len(parts) == 1:
        return parts[0]
    return "".join(f'<{tag} data-tune="{i}"{" hidden" if i else ""}>{part}</{tag}>' for i, part in enumerate(parts))


def tune_switch(tunes: Tunes) -> str:
    """Radio buttons, one for each tune, or a list to choose from where there are many; nothing where there is one."""
    if len(tunes) == 1:
        return ""
    note = f"The table below is of the tune {foreign(tunes.names[0], TITLE_CHARACTERS)} alone."
    return f'\n<noscript><p class="note">{note}</p></noscript>\n{_switch(tunes.names)}'


def _switch(names: Sequence[str]) -> str:
    # Without autocomplete a reload would keep the choice that the page no longer shows.
    control = 'name="tune" autocomplete="off"'
    if len(names) > MOST_BUTTONS:
        options = (f'<option value="{i}">{_shown(name)}</option>' for i, name in enumerate(names))
        choice = f"<select {control}>{''.join(options)}</select>"
        return f'<div class="tunes scripted" id="tunes"><label>tune {choice}</label></div>'
    buttons = (
        f'<label><input type="radio" {control} value="{i}"{"" if i else " checked"}> <bdi>{_shown(name)}</bdi></label>'
        for i, name in enumerate(names)
    )
    return f'<fieldset class="kinds tunes scripted" id="tunes"><legend>tune</legend>{" ".join(buttons)}</fieldset>'


def less_switch(tunes: Tunes) -> str:
    """A list of the tunes whose map can be taken off that of the chosen one; nothing where there is one tune."""
    if len(tunes) == 1:
        return ""
    options = [f'<option value="{i}">{_shown(name)}</option>' for i, name in enumerate(tunes.names)]
    choice = (
        f'<select name="less" autocomplete="off"><option value="">no other tune</option>{"".join(options)}</select>'
    )
    return f'\n<label class="less">less {choice}</label>'


def _shown(name: str) -> str:
    return html.escape(readable(name, TUNE_CHARACTERS)) or "∅"


def summaries(tunes: Tunes) -> str:
    """Count and spread of TuCo, and what has to be known of the numbers, of each tune."""
    parts = [f'<dl class="summary">\n{summary(each)}\n</dl>\n{notes(each)}' for each in tunes.measurements]
    return by_tune(parts, "div")


def summary(measurement: Measurement) -> str:
    """How many prompts, and where their TuCo lies."""
    tucos = finite_tucos(measurement)
    cells = {"prompts": str(len(measurement))}
    if not tucos:
        return _cells(cells | dict.fromkeys(("median TuCo", "lowest TuCo", "highest TuCo"), "–"))
    cells["median TuCo"] = number(float(np.median(tucos)))
    for outer, inner in ((0, 3), (1, 2)):
        low, high = (number(float(np.quantile(tucos, QUANTILES[i]))) for i in (outer, inner))
        cells[f"middle {100 * (QUANTILES[inner] - QUANTILES[outer]):.0f}\u202f%"] = f"{low} – {high}"
    cells["lowest TuCo"] = _linked(measurement, min(tucos))
    cells["highest TuCo"] = _linked(measurement, max(tucos))
    return _cells(cells)


def _cells(cells: dict[str, str]) -> str:
    return "\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cells.items())


def _linked(measurement: Measurement, value: float) -> str:
    index = next(index for index, item in enumerate(measurement.items) if item.tuco == value)
    return f'{number(value)} <a href="#prompt-{index}">#{index}</a>'


def notes(measurement: Measurement) -> str:
    """What a reader has to know of these numbers: missing ones, and those that the dtype cannot resolve."""
    n, tucos = len(measurement), finite_tucos(measurement)
    floor = NOISE_FLOORS.get(measurement.settings.dtype, 0.0)
    n_below = sum(0.0 < tuco < floor for tuco in tucos)
    found: list[str] = []
    if len(tucos) < n:
        found.append(f"{n - len(tucos)} of {n} TuCo values are missing: the models gave numbers that are not finite.")
    if n_below:
        dtype = html.escape(readable(measurement.settings.dtype, TITLE_CHARACTERS))
        found.append(
            f"{n_below} of {n} TuCo values lie under the noise floor of {dtype}, {floor:g}; float32 resolves them."
        )
    return "\n".join(f'<p class="note">{note}</p>' for note in found)


def headings(measurement: Measurement) -> str:
    """The table's head: a button in each cell, by which the rows are sorted."""
    cells = [_heading("index", "#", "Place in the input", "ascending"), _heading("text", "prompt", "Text", "none")]
    names = [name for name in _HEADINGS if name != "output_co" or measurement.settings.drift]
    cells += [_heading(name, *_HEADINGS[name], "none") for name in names]
    return "".join(cells)


def _heading(column: str, label: str, tip: str, order: str) -> str:
    attributes = f'scope="col" class="{column}" data-column="{column}" data-label="{label}" aria-sort="{order}"'
    return f'<th {attributes}><button type="button" title="{tip}">{label}</button></th>'


def rows(measurement: Measurement) -> str:
    """The table's body: a row for each prompt, in input order."""
    return "\n".join(_row(index, item) for index, item in enumerate(measurement.items))


def _row(index: int, item: PromptMeasurement) -> str:
    values = {"tuco": item.tuco, "preco": item.preco, "beta": item.beta}
    if item.output_co is not None:
        values["output_co"] = item.output_co
    numbers = "".join(f'<td class="{name}">{number(value)}</td>' for name, value in values.items())
    return (
        f'<tr><td><a href="#prompt-{index}">{index}</a></td>'
        f'<td class="text">{foreign(spoken(item.prompt), SHOWN_CHARACTERS)}</td>'
        f'<td class="tokens">{item.n_tokens}</td>{numbers}</tr>'
    )


def spoken(prompt: Prompt) -> str:
    """What the user said last, if the prompt is a chat, else its text: chats all begin alike, with their template."""
    runs = groupby(zip(prompt.roles, prompt.tokens, strict=True), key=lambda pair: pair[0])
    said = ["".join(token for _, token in run) for role, run in runs if role == "user"]
    # A character that is split between tokens cannot be put together from them.
    whole = bool(said) and said[-1].strip() != "" and said[-1] in prompt.text
    return said[-1] if whole else prompt.text


def kind_switch(measurement: Measurement) -> str:
    """Radio buttons, one for each kind of map."""
    return "\n".join(
        f'<label><input type="radio" name="kind" value="{kind.name}"{" checked" if kind.name == "cumulative" else ""}>'
        f" {kind.label}</label>"
        for kind in kinds_of(measurement.settings)
    )


def precision(data: ReportData) -> str:
    """How far the maps that `report_data` packed may be off; the numbers of the table are not packed."""
    by_prompt = [prompt["scales"] for prompt in data.values["prompts"]]
    by_prompt += [scales for other in data.values.get("others", ()) for scales in other["scales"]]
    norms = max((norm_error(scale[1], scale[2]) for scales in by_prompt for scale in scales if scale[1:]), default=0.0)
    shares: list[str] = []
    for i, kind in enumerate(data.values["kinds"]):
        error = max((share_error(scales[i][0], kind["steps"]) for scales in by_prompt), default=0.0)
        shares.append(f"{_rounded(error)} ({kind['name']})")
    return f"shares by up to {', '.join(shares)}, norms by up to {_rounded(100 * norms)}\u202f%"


def _rounded(value: float) -> str:
    return np.format_float_positional(value, precision=1, fractional=False, trim="-")


def number(value: float) -> str:
    """Four decimals, or "missing"."""
    return f"{value:.4f}" if math.isfinite(value) else "missing"


def foreign(text: str, limit: int) -> str:
    """Foreign text, escaped, made visible, cut, and kept from reordering the text around it."""
    return f"<bdi>{html.escape(readable(text, limit))}</bdi>"
