"""The page of `real_tunes.py`: its text, from tables and words, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

import numpy as np
import plotly.graph_objects as go

from scripts._real_tunes_found import (
    SISTER,
    Found,
    areas,
    means,
)
from scripts._real_tunes_tables import (
    agreement_table,
    area_table,
    difference_table,
    means_table,
    noise_table,
    seed_table,
    spearman_table,
    step_table,
    weight_table,
)
from scripts._real_tunes_words import (
    area_words,
    gain_words,
    layer_words,
    noise_words,
    null_area_words,
    order_lines,
    seed_words,
    short_lines,
    spearman_words,
    weight_words,
)
from scripts._screenshot import screenshot
from scripts.real_tunes import LONGEST, ROOT, TASK
from scripts.steering_results import _table as table
from tuco_lens.plots.statistic import set_title
from tuco_lens.plots.template import look
from tuco_lens.stats.words import Interval

PAGE: Final = ROOT / "docs" / "real-tunes.md"
PICTURES: Final = ROOT / "docs" / "images"
TEMPLATE: Final = Path(__file__).with_name("real-tunes.md.in")
WIDTH: Final = 860


def write_page(build: Path, page: Path = PAGE, pictures: Path = PICTURES) -> None:
    """Write the page and its pictures from what was measured."""
    found = Found(build)
    for name, figure in figures(found).items():
        screenshot(figure, pictures / f"real-tunes-{name}.png", width=WIDTH)
    page.write_text(page_text(found), encoding="utf-8")


def page_text(found: Found) -> str:
    """The page."""
    lengths = [prompt.n_tokens for prompt in found.comparison.prompts]
    by_group = np.array([found.of(group, np.array(lengths)) for group in found.comparison.group_names])
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        n=found.beside["limit"],
        shortest=min(lengths),
        longest=max(lengths),
        most=LONGEST,
        unlike=int(np.abs(by_group - by_group[0]).max()),
        ending=json.dumps(found.comparison.prompts[0].tokens[-1]),
        sister=SISTER,
        short="\n".join(f"- {line}" for line in short_lines(found)),
        means=table(means_table(found)),
        order="\n".join(f"- {line}" for line in order_lines(found.comparison)),
        differences=table(difference_table(found.comparison)),
        agreement=table(agreement_table(found.comparison)),
        layers=layer_words(found.comparison),
        steps=table(step_table(found)),
        null_of_two=table(seed_table(found)),
        seeds=seed_words(found),
        weights=table(weight_table(found)),
        weights_words=weight_words(found),
        noise=table(noise_table(found)),
        noise_words=noise_words(found),
        spearman=table(spearman_table(found)),
        spearman_words=spearman_words(found),
        areas=table(area_table(found)),
        areas_words=area_words(found),
        null_areas=null_area_words(found),
        gains=gain_words(found),
    )


def figures(found: Found) -> dict[str, go.Figure]:
    """The pictures of the page, by the ends of their names."""
    return {
        "means": means_figure(found),
        "layers": layers_figure(found),
        "areas": areas_figure(found),
    }


def _dots(names: Sequence[str], estimates: Mapping[str, Sequence[Interval]], title: str, x: str) -> go.Figure:
    """A row per name, and in it a dot with its interval per series."""
    style = look("light")
    drawn = go.Figure()
    for number, (series, row) in enumerate(estimates.items()):
        shift = 0.16 * (number - (len(estimates) - 1) / 2)
        drawn.add_trace(
            go.Scatter(
                x=[each.value for each in row],
                y=[place + shift for place in range(len(row))],
                error_x={
                    "array": [each.high - each.value for each in row],
                    "arrayminus": [each.value - each.low for each in row],
                    "symmetric": False,
                },
                mode="markers",
                name=series,
                marker={"color": style.colorway[number], "size": 9},
            )
        )
    drawn.update_yaxes(tickvals=list(range(len(names))), ticktext=list(names), range=[len(names) - 0.5, -0.5])
    drawn.update_xaxes(title_text=x)
    legend = {"orientation": "h", "y": -0.18}
    drawn.update_layout(template=style.template, height=160 + 75 * len(names), legend=legend, margin={"l": 150})
    return _titled(drawn, title)


def _titled(figure: go.Figure, title: str) -> go.Figure:
    """With a title, and below it what the numbers are of."""
    set_title(figure, title, SISTER)
    return figure


def means_figure(found: Found) -> go.Figure:
    """Mean TuCo by group and tune."""
    groups = found.comparison.group_names
    drawn = _dots(groups, means(found), "Mean TuCo with its 95 % interval over prompts", "TuCo at the last token")
    return drawn.update_xaxes(rangemode="tozero")


def layers_figure(found: Found) -> go.Figure:
    """TuCo so far by layer and tune."""
    figure = found.comparison.only(TASK).layer_profile().figure()
    return _titled(figure, f"TuCo so far at the last token, {TASK}: median and quartiles over prompts")


def areas_figure(found: Found) -> go.Figure:
    """AUC of logos against other prompts by score and tune."""
    rows: dict[str, dict[str, Interval]] = {}
    for row in areas(found):
        name = f"{row['tune']},<br>{TASK} against {row['other']}"
        rows.setdefault("TuCo", {})[name] = row["found"].first
        rows.setdefault(row["score"], {})[name] = row["found"].second
    names = list(rows["TuCo"])
    series = {score: [each[name] for name in names] for score, each in rows.items()}
    title = "How well a score tells logos from other prompts: AUC, 95 % interval"
    drawn = _dots(names, series, title, "AUC, read the way that tells more")
    return drawn.update_xaxes(range=[0.5, 1.005])
