"""The HTML report: one file with the table of a measurement and a layer × token map per prompt, readable offline.

The page is put together from `assets/report.html`, `.css` and `.js`. plotly.js is in it once, and the maps are drawn in
the browser when they come into view, with the layout of `plots/heatmap.py`; so 200 prompts stay a small file. The page
fetches nothing, and its content policy lets only its own two scripts run, whatever the prompts contain.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import statistics
import tempfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

import torch
from plotly.offline import get_plotlyjs

from tuco_lens.errors import OutputError
from tuco_lens.plots.heatmap import HOVER_CHARACTERS, TICK_CHARACTERS, measurement_heatmap
from tuco_lens.plots.labels import plotly_text, readable, token_label

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tuco_lens.measurement import Measurement, PromptMeasurement

ASSETS: Final = Path(__file__).parent / "assets"
SHOWN_CHARACTERS: Final = 160
"""Length at which a prompt is cut in the table."""
TITLE_CHARACTERS: Final = 1000
"""Length at which a prompt is cut in the tool tip of the table."""
SIGNIFICANT_DIGITS: Final = 4


def write_report(measurement: Measurement, path: str | Path, *, title: str = "TuCo report") -> Path:
    """Writes a measurement as one self-contained HTML page.

    Args:
        measurement: What `ModelPair.measure` returned.
        path: Where to write; an existing file is replaced.
        title: Heading of the page.

    Returns:
        The path written.

    Raises:
        OutputError: if the file cannot be written. Nothing half-written is left.
    """
    path = Path(path)
    page = render_report(measurement, title=title)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tuco_lens-") as folder:
            part = Path(folder) / "report.html"
            part.write_text(page, encoding="utf-8", newline="\n")
            part.replace(path)
    except OSError as error:
        remedy = "choose a file in a folder that you can write to"
        raise OutputError(f"cannot write the report {path}", error.strerror or str(error), remedy) from error
    return path


def render_report(measurement: Measurement, *, title: str = "TuCo report") -> str:
    """The page that `write_report` writes, as text."""
    plotly, script = get_plotlyjs(), _asset("report.js")
    return Template(_asset("report.html")).substitute(
        policy=_content_policy(plotly, script),
        version=html.escape(measurement.settings.version),
        title=html.escape(readable(title, TITLE_CHARACTERS)),
        style=_asset("report.css"),
        facts="\n".join(_facts(measurement)),
        summary="\n".join(_summary(measurement)),
        rows="\n".join(_row(index, item) for index, item in enumerate(measurement.items)),
        maps="\n".join(_details(index, item) for index, item in enumerate(measurement.items)),
        data=_script_json(_data(measurement)),
        plotly=plotly,
        script=script,
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _content_policy(*scripts: str) -> str:
    """Nothing is fetched and no script runs but these: a second lock, behind the escaping."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    # plotly sets styles inline, and makes its PNGs from data: and blob: images.
    return f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:"


def _facts(measurement: Measurement) -> list[str]:
    settings = measurement.settings
    facts = {
        "base": settings.base,
        "tuned": settings.tuned,
        "backend": settings.backend,
        "dtype": settings.dtype,
        "norm": settings.norm.upper(),
        "layers": str(settings.n_layers),
        "prompts": str(len(measurement)),
        "tuco_lens": settings.version,
    }
    return [f"<div><dt>{name}</dt><dd>{_bdi(value, TITLE_CHARACTERS)}</dd></div>" for name, value in facts.items()]


def _summary(measurement: Measurement) -> list[str]:
    tucos = [item.tuco for item in measurement.items if math.isfinite(item.tuco)]
    cells = {
        "median TuCo": _number(statistics.median(tucos)) if tucos else "–",
        "lowest TuCo": _number(min(tucos)) if tucos else "–",
        "highest TuCo": _number(max(tucos)) if tucos else "–",
    }
    return [f"<div><span>{name}</span><b>{value}</b></div>" for name, value in cells.items()]


def _row(index: int, item: PromptMeasurement) -> str:
    tip = html.escape(readable(item.prompt.text, TITLE_CHARACTERS))
    numbers = "".join(f"<td>{_number(value)}</td>" for value in (item.tuco, item.preco, item.beta))
    return (
        f'<tr><td><a href="#prompt-{index}">{index}</a></td>'
        f'<td class="text" title="{tip}">{_bdi(item.prompt.text, SHOWN_CHARACTERS)}</td>'
        f"<td>{item.n_tokens}</td>{numbers}</tr>"
    )


def _details(index: int, item: PromptMeasurement) -> str:
    opened = " open" if index == 0 else ""
    tuco = _number(item.tuco)
    return (
        f'<details id="prompt-{index}"{opened}><summary><b>{index}</b>'
        f'<span class="text">{_bdi(item.prompt.text, SHOWN_CHARACTERS)}</span><b>TuCo {tuco}</b></summary>'
        f'<div class="map" data-index="{index}" data-tuco="{tuco}"></div></details>'
    )


def _data(measurement: Measurement) -> dict[str, Any]:
    """What report.js draws: the layout that the maps share, and tokens and numbers of each."""
    if not measurement.items:
        return {"figure": None, "prompts": []}
    largest = max(_finite_max(item.layer_token()) for item in measurement.items)
    figure = measurement_heatmap(measurement[0], zmax=largest or 1.0)
    spec = json.loads(figure.to_json() or "")
    for key in ("z", "x", "y", "text", "customdata"):
        del spec["data"][0][key]
    del spec["layout"]["title"]  # the page has the words, and narrow screens no room for them twice
    spec["layout"]["margin"] = {"l": 48, "r": 8, "t": 24, "b": 40}
    spec["layout"]["height"] -= 40
    return {"figure": spec, "prompts": [_prompt_data(item) for item in measurement.items]}


def _prompt_data(item: PromptMeasurement) -> dict[str, Any]:
    maps = item.maps
    tokens = item.prompt.tokens
    return {
        "labels": [plotly_text(token_label(token, TICK_CHARACTERS)) for token in tokens],
        "tokens": [plotly_text(token_label(token, HOVER_CHARACTERS)) for token in tokens],
        "roles": [plotly_text(role) for role in item.prompt.roles],
        "z": _rounded(item.layer_token()),
        "norms": _rounded(maps.cumulative_ptc + maps.cumulative_ftc),
    }


def _rounded(values: Float[Tensor, "layer token"]) -> list[list[float | None]]:
    """Rows of numbers at `SIGNIFICANT_DIGITS`; None, which is JSON, for what is not finite."""
    digits = SIGNIFICANT_DIGITS
    return [[float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in row] for row in values.tolist()]


def _finite_max(values: Float[Tensor, "layer token"]) -> float:
    finite = values[torch.isfinite(values)]
    return finite.max().item() if finite.numel() else 0.0


def _script_json(value: Any) -> str:
    """JSON to stand in a script element: pure ASCII, and no `<` that could end the element or open a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "missing"


def _bdi(text: str, limit: int) -> str:
    """Foreign text, escaped, made visible, cut, and kept from reordering the text around it."""
    return f"<bdi>{html.escape(readable(text, limit))}</bdi>"
