"""The HTML report: one file in which a measurement can be searched, sorted and looked into, readable offline.

Several tunes that measured the same prompts are one page with a switch (`tunes.py`).
Here the page is put together and written. What stands in it as HTML is in `page.py`; what its scripts draw in
`data.py`, packed by `packing.py`; the scripts, the style and the frame are in `assets/report/`. The page fetches
nothing, and its content policy lets only its own scripts run, whatever the prompts contain.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from plotly.offline import get_plotlyjs

from tuco_lens.plots.labels import readable
from tuco_lens.report import page
from tuco_lens.report.data import report_data
from tuco_lens.report.packing import to_text
from tuco_lens.report.tunes import Tunes
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    from tuco_lens.results.measurement import Measurement

ASSETS: Final = Path(__file__).parent.parent / "assets" / "report"
SCRIPTS: Final = ("data.js", "table.js", "strip.js", "figures.js", "report.js")
"""Parts of the page's own script, in their order."""


def write_report(
    measured: Measurement | Mapping[str, Measurement], path: str | Path, *, title: str = "TuCo report"
) -> Path:
    """Writes a measurement, or those of several tunes, as one self-contained HTML page.

    Args:
        measured: What `ModelPair.measure` returned; or several of the same prompts by the names of their tunes, among
            which the page has a switch.
        path: Where to write; an existing file is replaced.
        title: Heading of the page.

    Returns:
        The path written.

    Raises:
        InputError: if the measurements of tunes are not of the same prompts and settings, or hold no maps.
        OutputError: if the file cannot be written. Nothing half-written is left.
    """
    return write_whole(Path(path), render_report(measured, title=title))


def render_report(measured: Measurement | Mapping[str, Measurement], *, title: str = "TuCo report") -> str:
    """The page that `write_report` writes, as text."""
    tunes = Tunes.of(measured)
    data, script, first = report_data(*tunes.measurements), page_script(), tunes.first
    return Template(_asset("report.html")).substitute(
        policy=content_policy(get_plotlyjs(), script),
        version=html.escape(first.settings.version),
        title=html.escape(readable(title, page.TITLE_CHARACTERS)),
        style=page.theme_style() + _asset("report.css"),
        facts=page.facts(tunes),
        tunes=page.tune_switch(tunes),
        summary=page.summaries(tunes),
        headings=page.headings(first),
        rows=page.rows(first),
        kinds=page.kind_switch(first),
        less=page.less_switch(tunes),
        precision=page.precision(data),
        empty="" if first.items else "empty",
        data=to_text(json.dumps(data.values, separators=(",", ":"), allow_nan=False).encode("ascii")),
        maps="\n".join(data.maps),
        plotly=_packed_plotly(),
        script=script,
    )


def page_script() -> str:
    """The page's own script: its parts in one function, so that none of their names are global."""
    parts = "\n".join(_asset(name) for name in SCRIPTS)
    # The data are unpacked with `await`; whatever goes wrong there or later is said on the page.
    return f'(() => {{\n"use strict";\n{_asset("trouble.js")}\n(async () => {{\n{parts}}})().catch(complain);\n}})();'


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _packed_plotly() -> str:
    """plotly.js, deflated: 2 MB of text for 4.8 MB, and the page is readable before it is unpacked."""
    return to_text(get_plotlyjs().encode("utf-8"))


def content_policy(*scripts: str) -> str:
    """Nothing is fetched and no script runs but these: a second lock, behind the escaping."""
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    # plotly sets styles inline, and makes its PNGs from data: and blob: images.
    return f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:"
