"""Writes docs/reproduction.md: each experiment of the paper beside what was measured on the project's pairs.

    mkdir -p build/experiments
    tuco-lens experiment all --pair demo --data DIR --out build/experiments/demo
    tuco-lens experiment all --base B --adapter adapters/smollm2-refusals --nulls 5 --limit 100 --data DIR --out build/experiments/smollm2
    tuco-lens experiment alpha_sweep --base tuco_lens/demo/tuned --adapter adapters/demo-opinions --data DIR --out build/experiments/opinions
    tuco-lens experiment gcg --pair demo --gcg-strength paper --attacks 4 --limit 100 --data DIR --out build/experiments/demo --overwrite
    python -m scripts.reproduction --data DIR

The runs take hours, and may be made one by one: the results that lie in `build/experiments/PAIR/` are kept in
`docs/results/PAIR/`, and the page is written from all that are kept; what is missing is said. Needs a `chromium` for
the pictures.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts._reproduction_words import Judged, direction, judge, reasons_of
from scripts._screenshot import screenshot
from tuco_lens.attacks.gcg import STRENGTHS, Strength
from tuco_lens.cli.experiment import limited_attacks
from tuco_lens.experiments import Comparison, NullOptions, Series
from tuco_lens.experiments.refusal_check import refusal_check
from tuco_lens.experiments.registry import EXPERIMENTS, Experiment, Result
from tuco_lens.experiments.report import figures_of, search_figures
from tuco_lens.experiments.tables import interval, tables_of
from tuco_lens.runs.environment import environment_words
from tuco_lens.sweep import SweepResult

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tuco_lens.plots.template import Theme

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "experiments"
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "reproduction.md"
PICTURES = ROOT / "docs" / "images"
PAIRS = {
    "demo": "the embedded pair, trained for this project (`tuco_lens/demo/CARD.md`)",
    "smollm2": "SmolLM2-135M-Instruct as base, with this project's adapter `adapters/smollm2-refusals`",
    "opinions": "the embedded pair's tuned model as base, with this project's adapter `adapters/demo-opinions`; for"
    " §5.1 alone: it was trained on some of the behaviours asked there, and is asked other questions (see its card)",
}
"""Folders of results, and what they hold."""
MODELS = {
    "demo": "--pair demo",
    "smollm2": "--base B --adapter adapters/smollm2-refusals",
    "opinions": "--base tuco_lens/demo/tuned --adapter adapters/demo-opinions",
}
"""Options that name the pair."""
MADE_FOR = {"opinions": ("alpha_sweep",)}
"""Of a pair that is not for all experiments: the names of those that it is for."""
BASES = {"smollm2": "SmolLM2-135M-Instruct"}
"""Names of base models that were read from a local folder."""
WIDTH = 900
QUESTIONS = 1000
"""Of each behaviour in Model-Written Evaluations."""
Results = dict[str, dict[str, Result]]
"""By pair and experiment."""
Verdicts = dict[str, dict[str, list[Judged]]]
"""By pair and experiment; p-values are corrected over a pair."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("TUCO_LENS_DATA", ROOT.parent / "shared" / "data"))
    arguments = parser.parse_args()
    for pair in PAIRS:
        keep(pair)
    results = kept()
    PAGE.write_text(page(results, arguments.data), encoding="utf-8")
    for pair, found in results.items():
        for name, result in found.items():
            for picture, figure in _pictures(name, pair, result).items():
                screenshot(figure("light"), PICTURES / picture, width=WIDTH)
        missing = sorted(set(_experiments(pair)) - set(found))
        print(f"{pair}: {len(found)} experiments" + (f", missing {', '.join(missing)}" if missing else ""))


def keep(pair: str) -> None:
    """What was run since, beside what was kept; without attack strings and folders, which nothing on the page needs."""
    for name in _experiments(pair):
        if (BUILD / pair / f"{name}.json").exists():
            content = json.loads((BUILD / pair / f"{name}.json").read_text(encoding="utf-8"))
            for found in content.get("facts", {}).get("attacks", ()):
                found |= {"attack": "", "token_ids": [], "last_ids": []}
            content["settings"]["base"] = BASES.get(pair, content["settings"]["base"])
            (RESULTS / pair).mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
            (RESULTS / pair / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def kept() -> Results:
    """The results that the page is written from."""
    return {pair: dict(_results(RESULTS / pair)) for pair in PAIRS}


def page(results: Results, data: Path) -> str:
    """The page; its pictures are drawn elsewhere."""
    verdicts = {pair: judge(found) for pair, found in results.items()}
    template = Path(__file__).with_name("reproduction.md.in").read_text(encoding="utf-8")
    return template.format(
        pairs="\n".join(f"- **{pair}**: {what}." for pair, what in PAIRS.items()),
        glance=_table(["experiment", "claim", *PAIRS], list(_glance(results, verdicts))),
        sections="\n\n".join(_section(each, results, verdicts) for each in EXPERIMENTS.values()),
        refusals=refusal_check(data).summary(),
    )


def _experiments(pair: str) -> tuple[str, ...]:
    """Names of the experiments that a pair is for."""
    return MADE_FOR.get(pair, tuple(EXPERIMENTS))


def _results(folder: Path) -> Iterator[tuple[str, Result]]:
    for name, experiment in EXPERIMENTS.items():
        if (folder / f"{name}.json").exists():
            yield name, experiment.load(folder / f"{name}.json")


def _glance(results: Results, verdicts: Verdicts) -> Iterator[list[str]]:
    """A row per contrast, series or sweep: what is claimed, and in a word what each pair shows."""
    for name, experiment in EXPERIMENTS.items():
        found = {pair: results[pair].get(name) for pair in PAIRS}
        first = next((result for result in found.values() if result is not None), None)
        if isinstance(first, Comparison):
            for contrast in first.contrasts:
                cells = [_cell(name, pair, found[pair], verdicts[pair], contrast.name) for pair in PAIRS]
                yield [f"§{experiment.section} {contrast.name}", contrast.paper, *cells]
        elif first is not None:
            cells = [_cell(name, pair, found[pair], verdicts[pair]) for pair in PAIRS]
            yield [f"§{experiment.section} {experiment.question}", experiment.claim, *cells]


def _cell(name: str, pair: str, result: Any, verdicts: Mapping[str, list[Judged]], contrast: str | None = None) -> str:
    if name not in _experiments(pair):
        return "–"
    judged = verdicts.get(name, [])
    return _other_cell(result, judged) if contrast is None else _auc_cell(result, judged, contrast)


def _auc_cell(result: Any, verdicts: list[Judged], name: str) -> str:
    if not isinstance(result, Comparison):
        return "not run"
    judged = next(each for each in verdicts if each.name == name)
    row = result.table[(result.table["contrast"] == name) & (result.table["score"] == "tuco")].iloc[0]
    auc = f"AUC {interval(row['auc'], row['low'], row['high'])}, n = {row['n_positive']} + {row['n_negative']}"
    return f"{judged.held}; {judged.p_words}; {auc}{_nulls(result, name)}"


def _nulls(result: Comparison, name: str) -> str:
    table = result.null_table
    rows = table[(table["contrast"] == name) & (table["null"] != "labels")]
    if not len(rows):
        return ""
    counts = f"{rows['n_positive'].max()} + {rows['n_negative'].max()}"
    return f"; {len(rows)} nulls {rows['auc'].min():.3f} to {rows['auc'].max():.3f}, n = {counts}"


def _other_cell(result: Any, verdicts: list[Judged]) -> str:
    if result is None:
        return "not run"
    (judged,) = verdicts
    held = f"{judged.held}; {judged.p_words}"
    if not isinstance(result, Series):
        return held
    nulls = result.null_frame()
    found = nulls[nulls["score"] == "tuco"]["change"]
    reached = f"; {len(found)} nulls {found.min():+.4f} to {found.max():+.4f}" if len(found) else ""
    return f"{held}; TuCo: {direction(result, 'tuco')[1]}{reached}"


def _section(experiment: Experiment, results: Results, verdicts: Verdicts) -> str:
    parts = [f"## {experiment.question}", f"Paper, §{experiment.section}: {experiment.claim}"]
    for pair in (pair for pair in PAIRS if experiment.name in _experiments(pair)):
        result = results[pair].get(experiment.name)
        parts.append(f"### {experiment.question.rstrip('?')}: {pair}")
        if result is None:
            parts.append("Not run on this pair.")
            continue
        parts.append("\n".join(f"- {each.line}" for each in verdicts[pair][experiment.name] if each.is_papers))
        parts.append(result.summary())
        reasons = reasons_of(experiment.name, result)
        if reasons:
            parts += ["Measured beside it:", "\n".join(f"- {reason}" for reason in reasons)]
        shown, *searches = _pictures(experiment.name, pair, result)
        parts.append(f"![{experiment.question} {pair}](images/{shown})")
        parts += [f"![The search for attack strings: {pair}](images/{picture})" for picture in searches]
        parts.append('<details markdown="1"><summary>Tables</summary>')
        for caption, headings, rows in tables_of(result):
            parts += [f"{caption}:", _table(headings, rows)]
        where = f"[The result file](results/{pair}/{experiment.name}.json)"
        parts += ["</details>", f"`{_command(experiment.name, pair, result)}`", f"{where}."]
        settings: Any = getattr(result, "settings", None)
        parts += [f"Run with {environment_words(settings.environments)}."] if settings.environments else []
    return "\n\n".join(parts)


def _pictures(name: str, pair: str, result: Result) -> dict[str, Callable[[Theme], go.Figure]]:
    """By file name, the figures that the page shows: the one that says most, and how attack strings were sought."""
    figures = figures_of(result)
    shown = [figures[1 if isinstance(result, Comparison) and len(figures) > 1 else 0]]  # a ROC, behind the groups
    shown += search_figures(result) if isinstance(result, Comparison) else []
    return {f"reproduction-{name}-{pair}{f'-{i}' if i else ''}.png": figure for i, figure in enumerate(shown)}


def _command(name: str, pair: str, result: Result) -> str:
    return " ".join([f"tuco-lens experiment {name} {MODELS[pair]} --data DIR", *_options(result), "--out OUT"])


def _options(result: Any) -> Iterator[str]:
    """The options of the run that are not the command's defaults."""
    if isinstance(result, SweepResult):
        sizes = {len(task.targets) for task in result.tasks}  # those that are held out are not equally many
        yield from [f"--limit {max(sizes)}"] if len(sizes) == 1 and max(sizes) < QUESTIONS else []
        return
    parameters = result.settings.parameters
    limit, sought = parameters.get("limit"), parameters.get("gcg", {})
    strength = _strength(sought)
    given = {
        "--limit": (limit, None),
        "--nulls": (parameters.get("null_seeds"), NullOptions().seeds),
        "--attacks": (parameters.get("n_strings"), limited_attacks(limit)),
        "--gcg-strength": (strength, "quick"),
        "--attack-steps": (sought.get("steps"), STRENGTHS[strength].steps),
    }
    yield from (f"{option} {value}" for option, (value, usual) in given.items() if value not in (None, usual))
    if parameters.get("random_search", False) != (strength == "paper"):
        yield "--random-search" if parameters.get("random_search") else "--no-random-search"


def _strength(sought: Mapping[str, Any]) -> Strength:
    """The named budget that a search had, but for its steps."""
    names = ("n_tokens", "top_k", "n_candidates")
    same = (name for name, how in STRENGTHS.items() if all(sought.get(each) == getattr(how, each) for each in names))
    return next(same, "quick")


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


if __name__ == "__main__":
    main()
