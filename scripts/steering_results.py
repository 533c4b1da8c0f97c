"""Steering on real prompts: refusals against α on the demo pair, and α sweeps on two pairs; writes the docs page.

    python -m scripts.steering_results refusals      # demo pair: held-out harmful and harmless requests against α
    python -m scripts.steering_results sweep         # demo pair: the 23 behaviours of the paper, all questions
    python -m scripts.steering_results sweep-smollm2 # SmolLM2-135M-Instruct, adapter: 3 behaviours, 200 questions
    python -m scripts.steering_results page          # docs/steering-results.md and its pictures, from the three

Needs the development data (`TUCO_LENS_DATA`), for the third part the package registry, and for the page a `chromium` on
PATH. Results are kept in `build/steering/`, so that the parts can be run one by one. Prompts are read and never shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from tuco_lens import ModelPair
from tuco_lens.experiments.refusals import is_refusal
from tuco_lens.plots.sweep import SIGNIFICANT, accuracy_figure
from tuco_lens.steering.scaling import METHODS
from tuco_lens.sweep import PAPER_ALPHAS, Question, SweepResult, load_tasks, sweep

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TUCO_LENS_DATA", ROOT.parent / "shared" / "data"))
BUILD = ROOT / "build" / "steering"
PAGE = ROOT / "docs" / "steering-results.md"
PICTURES = ROOT / "docs" / "images"
REFUSAL_ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
NEW_TOKENS = 30
SMOLLM2_BEHAVIOURS = ("agreeableness", "politically-liberal", "subscribes-to-utilitarianism")
SMOLLM2_QUESTIONS = 200
SMOLLM2_MORE_ALPHAS = (0.5,)
"""Beside the paper's, for a larger step away from 1."""
ADAPTER_STEPS, ADAPTER_BATCH, ADAPTER_LR = 40, 6, 2e-3
WIDTH = 900


def held_out_requests() -> dict[str, list[str]]:
    """Harmful and harmless requests that the demo pair was not trained on; see scripts/demo_pair/held_out.py."""
    folder = str(ROOT / "scripts" / "demo_pair")
    sys.path.insert(0, folder)  # the scripts import each other by bare names, as scripts do
    try:
        import held_out  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(folder)
    sets = held_out.prompt_sets()
    return {"harmful requests": sets["harmful"], "harmless requests": sets["instructions_second"]}


def refusals() -> None:
    """Share of refusals by set, method and α, with Wilson intervals."""
    pair = ModelPair.demo(backend="bridge")
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        for name, prompts in held_out_requests().items():
            found = pair.generate(
                prompts,
                alphas=REFUSAL_ALPHAS,
                method=method,
                chat=True,
                max_new_tokens=NEW_TOKENS,
                batch_size=45,
                tuco=False,
            )
            assert isinstance(found, list)
            for alpha in REFUSAL_ALPHAS:
                hits = [is_refusal(item.text) for item in found if item.alpha == alpha]
                interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
                row = {"group": name, "method": method, "alpha": alpha, "n": len(hits)}
                rows.append(row | {"accuracy": sum(hits) / len(hits), "low": interval.low, "high": interval.high})
    _write("refusals.json", json.dumps(rows, indent=1))


def sweep_demo() -> None:
    """The paper's 23 behaviours, all questions, on the demo pair."""
    tasks = load_tasks(DATA / "mwe", ("mwe",), chat=True)
    result = sweep(ModelPair.demo(backend="bridge"), tasks, batch_size=32)
    result.save(BUILD / "sweep-demo.json")


def sweep_smollm2() -> None:
    """Three behaviours on SmolLM2-135M-Instruct, with a LoRA adapter that is taught them here, on other questions."""
    from benchmarks._smollm2 import smollm2_directory

    base = smollm2_directory()
    tasks = load_tasks(DATA / "mwe", SMOLLM2_BEHAVIOURS, chat=True)
    shuffled = [random.Random(0).sample(list(task.questions), len(task.questions)) for task in tasks]
    asked = [replace(t, questions=tuple(q[:SMOLLM2_QUESTIONS])) for t, q in zip(tasks, shuffled, strict=True)]
    taught = [question for questions in shuffled for question in questions[SMOLLM2_QUESTIONS:]]
    with tempfile.TemporaryDirectory() as folder:
        train_adapter(base, taught, Path(folder))
        pair = ModelPair.from_pretrained(base, adapter=folder, device="cpu")
        result = sweep(pair, asked, alphas=(*SMOLLM2_MORE_ALPHAS, *PAPER_ALPHAS), batch_size=16)
    result.save(BUILD / "sweep-smollm2.json")


def train_adapter(base: Path, questions: Sequence[Question], target: Path) -> None:
    """A rank-4 LoRA that gives the answers of these questions; the loss is on the answer's token alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=ADAPTER_LR)
    draw = random.Random(0)
    for _ in range(ADAPTER_STEPS):
        loss = torch.tensor(0.0)
        for question in draw.sample(list(questions), ADAPTER_BATCH):
            user = [{"role": "user", "content": question.prompt}]
            ids = tokenizer.apply_chat_template(user, add_generation_prompt=True, return_dict=True)["input_ids"]
            answer = tokenizer(question.answers[question.target].strip(), add_special_tokens=False)["input_ids"][0]
            logits = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor([answer])) / ADAPTER_BATCH
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)


def _write(name: str, text: str) -> None:
    (BUILD / name).write_text(text, encoding="utf-8")


def page() -> None:
    """Write the docs page and draw its pictures from what the other parts measured."""
    from scripts._screenshot import screenshot

    frame = pd.DataFrame(json.loads((BUILD / "refusals.json").read_text(encoding="utf-8")))
    ftc = frame[frame["method"] == "ftc"]
    figure = accuracy_figure(ftc, by="group")
    figure.update_layout(title="Refusals against α, 95 % bands", yaxis_title_text="refused (%)")
    screenshot(figure, PICTURES / "refusals-alpha.png", width=WIDTH)
    results = {"demo": SweepResult.load(BUILD / "sweep-demo.json")}
    results["smollm2"] = SweepResult.load(BUILD / "sweep-smollm2.json")
    screenshot(results["demo"].accuracy_figure(by="group"), PICTURES / "sweep-demo-accuracy.png", width=WIDTH)
    screenshot(results["demo"].delta_figure(), PICTURES / "sweep-demo-delta.png", width=WIDTH)
    template = Path(__file__).with_name("steering-results.md.in").read_text(encoding="utf-8")
    text = template.format(
        new_tokens=NEW_TOKENS,
        refusals=_table(_refusal_table(ftc)),
        methods=_table(_method_table(frame)),
        demo=_table(_delta_table(results["demo"])),
        smollm2=_table(_delta_table(results["smollm2"])),
        smollm2_accuracy=_table(_accuracy_table(results["smollm2"])),
        n_questions=SMOLLM2_QUESTIONS,
        adapter_steps=ADAPTER_STEPS,
        adapter_batch=ADAPTER_BATCH,
        refusals_words=_refusal_words(ftc),
        demo_words=_sweep_words(results["demo"]),
        smollm2_words=_sweep_words(results["smollm2"]),
    )
    PAGE.write_text(text, encoding="utf-8")


def _share(row: Any) -> str:
    return f"{100 * row.accuracy:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def _refusal_table(frame: pd.DataFrame) -> pd.DataFrame:
    rows = [{"α": f"{row.alpha:g}", "what": row.group, "share": _share(row)} for row in frame.itertuples()]
    table = pd.DataFrame(rows).pivot_table(index="α", columns="what", values="share", aggfunc="first", sort=False)
    return table.reset_index()


def _method_table(frame: pd.DataFrame) -> pd.DataFrame:
    harmful = frame[frame["group"] == "harmful requests"]
    rows = [{"α": f"{row.alpha:g}", "method": row.method, "share": _share(row)} for row in harmful.itertuples()]
    table = pd.DataFrame(rows).pivot_table(index="α", columns="method", values="share", aggfunc="first", sort=False)
    return table.reset_index()


def _refusal_words(ftc: pd.DataFrame) -> str:
    """What the table shows of the harmful requests, said no stronger than its intervals allow."""
    rows = {row.alpha: row for row in ftc[ftc["group"] == "harmful requests"].itertuples()}
    none, tuned = rows[0.0], rows[1.0]
    last = rows[max(rows)]
    risen = "the intervals do not meet" if none.high < tuned.low else "the intervals meet"
    after = "do not meet" if last.high < tuned.low or last.low > tuned.high else "meet"
    return (
        f"Of {tuned.n} harmful requests {_share(none)} are refused at α = 0 and {_share(tuned)} at α = 1: {risen}. "
        f"At α = {last.alpha:g} it is {_share(last)}; this interval and that of α = 1 {after}."
    )


def _sweep_words(result: SweepResult) -> str:
    """How many tasks change significantly, in either direction."""
    frame = result.cross_validated("task")
    parts: list[str] = []
    for goal, word in (("max", "maximise"), ("min", "minimise")):
        moved = frame[frame[f"{goal}_p_holm"] < SIGNIFICANT]
        up, down = int((moved[f"{goal}_delta"] > 0).sum()), int((moved[f"{goal}_delta"] < 0).sum())
        parts.append(f"with α chosen to {word} accuracy, {up} rise and {down} fall")
    return f"Of {len(frame)} tasks, at a corrected p below {SIGNIFICANT:g}: {'; '.join(parts)}."


def _delta_table(result: SweepResult) -> pd.DataFrame:
    def cell(row: Any, goal: str) -> str:
        interval = f"[{100 * row[f'{goal}_low']:+.1f}, {100 * row[f'{goal}_high']:+.1f}]"
        return f"{100 * row[f'{goal}_delta']:+.1f} {interval}, p {row[f'{goal}_p_holm']:.2g}"

    return pd.DataFrame(
        {
            "task": row["task"],
            "n": row["n"],
            "at α = 1": f"{100 * row['accuracy']:.1f} %",
            "Δ maximise": cell(row, "max"),
            "Δ minimise": cell(row, "min"),
        }
        for _, row in result.cross_validated("task").iterrows()
    )


def _accuracy_table(result: SweepResult) -> pd.DataFrame:
    frame = result.to_frame()
    rows = [{"task": row.task, "α": f"{row.alpha:g}", "share": _share(row)} for row in frame.itertuples()]
    return (
        pd.DataFrame(rows)
        .pivot_table(index="task", columns="α", values="share", aggfunc="first", sort=False)
        .reset_index()
    )


def _table(frame: pd.DataFrame) -> str:
    head = [str(name) for name in frame.columns]
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *([str(v) for v in row] for row in frame.to_numpy().tolist())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


PARTS: dict[str, Callable[[], None]] = {
    "refusals": refusals,
    "sweep": sweep_demo,
    "sweep-smollm2": sweep_smollm2,
    "page": page,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    part = PARTS[parser.parse_args().part]
    BUILD.mkdir(parents=True, exist_ok=True)
    part()


if __name__ == "__main__":
    main()
