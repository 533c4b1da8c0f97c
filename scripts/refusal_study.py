"""Where does the refusals adapter refuse? A case study with null controls; writes docs/refusal-study.md.

    python -m scripts.refusal_study measure [--limit N]   # about half an hour on two cores; numbers to build/
    python -m scripts.refusal_study page                  # the page and its picture, from those numbers

SmolLM2-135M-Instruct with adapters/smollm2-refusals, on requests that it was not trained on. The question to each
prompt is the logit of the token that refusals begin with, less that of the token that the base model begins with;
integrated gradients and patching say where its change comes from. The same is asked of the pair with the adapter's
matrices moved to other layers, and with noise of the same norm. Needs the development data (`TUCO_LENS_DATA`), the
package registry for the weights, and for the page a `chromium` on PATH. Prompts are read and never shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import torch

from benchmarks._smollm2 import smollm2_directory
from scripts._screenshot import screenshot
from scripts.steering_results import held_out_requests
from tuco_lens import ModelPair
from tuco_lens.attribution.explanation import best_window
from tuco_lens.experiments.nulls import null_control
from tuco_lens.models.backends import run_logits
from tuco_lens.plots.template import look
from tuco_lens.stats.estimates import mean_interval

ROOT: Final = Path(__file__).resolve().parents[1]
NUMBERS: Final = ROOT / "build" / "refusal_study.json"
PAGE: Final = ROOT / "docs" / "refusal-study.md"
PICTURE: Final = ROOT / "docs" / "images" / "refusal-study.png"
TEMPLATE: Final = Path(__file__).with_name("refusal-study.md.in")
CONDITIONS: Final = (
    ("harmful requests", None),
    ("harmless requests", None),
    ("harmful requests", "shuffled"),
    ("harmful requests", "noise"),
)
"""Prompts, and the null control that the adapter is made."""
ROLES: Final = ("user", "template before the last", "last token")
WIDTH: Final = 860


@torch.no_grad()
def next_token(pair: ModelPair, model: Any, prompt: str) -> int:
    """What a model says first."""
    ids = torch.tensor([pair.prompt(prompt, chat=True).token_ids], device=pair.device)
    return int(run_logits(model, ids)[0, -1].argmax())


def by_role(values: np.ndarray, roles: tuple[str, ...]) -> list[float]:
    """Parts of the change by whose token it comes in at, in the order of `ROLES`."""
    sums = dict.fromkeys(ROLES, 0.0)
    for position, (role, value) in enumerate(zip(roles, values.sum(axis=0), strict=True)):
        is_last = position == len(roles) - 1
        name = "last token" if is_last else "user" if role == "user" else "template before the last"
        sums[name] += float(value)
    return list(sums.values())


def measured(pair: ModelPair, prompt: str, refusal: int) -> dict[str, Any] | None:
    """The numbers of one prompt; None where the base model itself begins with the token of refusals."""
    theirs = next_token(pair, pair.base, prompt)
    if theirs == refusal:
        return None
    asked: dict[str, Any] = {"answer": refusal, "against": theirs, "chat": True}
    change = pair.integrated_gradients(prompt, over="component", batch_size=8, **asked)
    effects = pair.patching(prompt, over="layer", progress=False, **asked)
    assert change.split is not None
    return {
        "at_0": change.at_0,
        "at_1": change.at_1,
        "gap": change.gap,
        "layers": change.values.sum(axis=1).tolist(),
        "roles": by_role(change.values, change.roles),
        "parts": dict(zip(change.parts, change.split.sum(axis=(0, 1)).tolist(), strict=True)),
        "effects": effects.values[:, 0].tolist(),
    }


def measure(limit: int) -> None:
    """Measure every condition and keep its numbers."""
    pair = ModelPair.from_pretrained(smollm2_directory(), adapter=ROOT / "adapters" / "smollm2-refusals")
    requests = {name: prompts[:limit] for name, prompts in held_out_requests().items()}
    begins = Counter(next_token(pair, pair.tuned, prompt) for prompt in requests["harmful requests"])
    refusal, n_first = begins.most_common(1)[0]
    found: dict[str, Any] = {
        "limit": limit,
        "n_layers": pair.n_layers,
        "refusal": pair.tokenizer.decode([refusal]),
        "n_first": n_first,
        "conditions": [],
    }
    for name, kind in CONDITIONS:
        with nullcontext() if kind is None else null_control(pair, kind, seed=0):
            rows = [row for prompt in requests[name] if (row := measured(pair, prompt, refusal)) is not None]
        found["conditions"].append({"prompts": name, "null": kind, "rows": rows})
        NUMBERS.parent.mkdir(exist_ok=True)
        NUMBERS.write_text(json.dumps(found))
        print(f"{name}, {kind}: {len(rows)} prompts", flush=True)


def words(condition: dict[str, Any]) -> str:
    """A condition's name."""
    kinds = {None: "", "shuffled": ", adapter moved between layers", "noise": ", noise of the adapter's norm"}
    return condition["prompts"] + kinds[condition["null"]]


def column(condition: dict[str, Any], key: str) -> np.ndarray:
    """One number, or row of numbers, of every prompt."""
    return np.array([row[key] for row in condition["rows"]])


def estimate(values: np.ndarray) -> str:
    """Mean with its interval."""
    found = mean_interval(values)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def figure(found: dict[str, Any]) -> go.Figure:
    """Parts of the change and effects by layer, with the intervals of their means."""
    from plotly.subplots import make_subplots

    colours = look("light")
    titles = ["part of the change (integrated gradients)", "effect of taking FTC out (patching)"]
    drawn = make_subplots(2, 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.1)
    for number, condition in enumerate(found["conditions"]):
        for place, key in enumerate(("layers", "effects"), start=1):
            estimates = [mean_interval(values) for values in column(condition, key).T]
            drawn.add_trace(
                go.Scatter(
                    x=list(range(found["n_layers"])),
                    y=[each.value for each in estimates],
                    error_y={
                        "array": [each.high - each.value for each in estimates],
                        "thickness": 1,
                        "width": 0,
                    },
                    name=words(condition),
                    legendgroup=number,
                    showlegend=place == 1,
                    line={"color": colours.colorway[number]},
                ),
                place,
                1,
            )
    legend = {"orientation": "h", "y": -0.12}
    drawn.update_layout(template=colours.template, height=720, legend=legend, margin={"t": 40})
    drawn.update_yaxes(title_text="logits")
    drawn.update_xaxes(title_text="layer", row=2)
    return drawn


def page() -> None:
    """Write the page and its picture."""
    from string import Template

    found = json.loads(NUMBERS.read_text())
    screenshot(figure(found), PICTURE, width=WIDTH)
    changes, wheres, roles = [], [], []
    for condition in found["conditions"]:
        name, layers = words(condition), column(condition, "layers")
        change = column(condition, "at_1") - column(condition, "at_0")
        parts = {
            part: estimate(np.array([row["parts"].get(part, 0) for row in condition["rows"]]))
            for part in ("attention", "mlp")
        }
        changes.append(f"| {name} | {len(change)} | {estimate(change)} | {parts['attention']} | {parts['mlp']} |")
        first, last, value = best_window(layers.mean(axis=0), found["n_layers"] // 3)
        strongest = int(np.abs(column(condition, "effects").mean(axis=0)).argmax())
        effect = estimate(column(condition, "effects")[:, strongest])
        wheres.append(f"| {name} | {first}–{last} | {value:+.2f} | {strongest} | {effect} |")
        cells = " | ".join(map(estimate, column(condition, "roles").T))
        roles.append(f"| {name} | {cells} |")
    real = found["conditions"][0]
    effects = column(real, "effects")
    worst = float(np.abs(column(real, "gap") / (column(real, "at_1") - column(real, "at_0"))).max())
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        limit=found["limit"],
        refusal=json.dumps(found["refusal"]),
        n_first=found["n_first"],
        changes="\n".join(changes),
        wheres="\n".join(wheres),
        roles="\n".join(roles),
        role_names=" | ".join(ROLES),
        role_rules=" | ".join(["--:"] * len(ROLES)),
        gap=f"{100 * worst:.2g}",
        effects=estimate(effects.sum(axis=1)),
        change=estimate(column(real, "at_1") - column(real, "at_0")),
        largest=estimate(effects[:, int(np.abs(effects.mean(axis=0)).argmax())]),
    )
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Where does the refusals adapter refuse?")
    parser.add_argument("part", choices=("measure", "page"))
    parser.add_argument("--limit", type=int, default=16, help="prompts of each kind")
    arguments = parser.parse_args()
    if arguments.part == "measure":
        measure(arguments.limit)
    else:
        page()


if __name__ == "__main__":
    sys.exit(main())
