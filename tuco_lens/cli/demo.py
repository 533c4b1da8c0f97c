"""`tuco-lens demo`: the whole job on the pair and the prompts that the package brings along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tuco_lens.cli.options import ProgressOption
from tuco_lens.cli.terminal import plain, say, show_table
from tuco_lens.errors import OutputError
from tuco_lens.results.files import check_writable, partial_path
from tuco_lens.results.journal import Journal
from tuco_lens.results.rows import columns
from tuco_lens.runs.chunks import file_row
from tuco_lens.runs.pair_choice import DEMO, PairChoice

PROMPTS = Path(__file__).resolve().parent.parent / DEMO / "prompts.jsonl"
PROMPT_WIDTH = 52


def demo(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of report.html and results.jsonl, which are replaced.")
    ] = Path("demo_report"),
    progress: ProgressOption = True,
) -> None:
    """Measure the bundled prompts on the embedded pair: a table, a report and a result file.

    Needs no network and no weights but those of the package.
    """
    _make_folder(out)
    report, results = out / "report.html", out / "results.jsonl"
    for path in (report, results, partial_path(results)):
        check_writable(path)
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    pair = PairChoice(DEMO, None, None).load()
    measurement = pair.measure([record.get("prompt") or record["messages"] for record in records], progress=progress)
    rows = [
        {**file_row(index, item), "group": record["group"]}
        for index, (item, record) in enumerate(zip(measurement, records, strict=True))
    ]
    with Journal.open(partial_path(results), {}, resume=False) as journal:
        for row in rows:
            journal.append(row)
        journal.finish(results, [*columns(drift=False), "group"])
    measurement.report(report, title="TuCo of the demo pair")
    headings = [("group", False), ("prompt", False), ("tokens", True), ("TuCo", True), ("β", True)]
    show_table(headings, _cells(rows, records))
    say(_means(rows))
    say(f"wrote {report} and {results}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}", error.strerror or str(error), "name another") from error


def _cells(rows: list[dict[str, Any]], records: list[dict[str, Any]]) -> Iterator[list[str]]:
    for row, record in zip(rows, records, strict=True):
        # A chat's row has the whole rendered template; the table shows what was said last.
        text: str = record.get("prompt") or record["messages"][-1]["content"]
        numbers = [str(row["n_tokens"]), f"{row['tuco']:.3f}", f"{row['beta']:.3f}"]
        yield [row["group"], plain(text, PROMPT_WIDTH), *numbers]


def _means(rows: list[dict[str, Any]]) -> str:
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["tuco"])
    means = ", ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in groups.items())
    return f"mean TuCo: {means}"
