"""Three LoRA adapters that others trained: what separates them, and what TuCo adds; writes docs/real-tunes.md.

    python -m scripts.real_tunes tuco [--limit N]     # TuCo and OutputCo of every prompt by every adapter
    python -m scripts.real_tunes beside [--limit N]   # beside them: KL, weights, and null controls
    python -m scripts.real_tunes page                 # the page and its pictures, from the two

The adapters were trained on Gemma 3 270M *instruct*; the base here is the pre-trained Gemma 3 270M, in four-bit weights
from the package registry, which `benchmarks/loading.py` puts together. Both measuring parts keep what they have in
`build/real_tunes/` after every adapter, go on there when they are started again, and may run side by side. Needs the
development data (`TUCO_LENS_DATA`) with the adapters, and for the page a `chromium` on PATH. Prompts are never shown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import tuco_lens as tl
from scripts._logo_prompts import logo_prompts
from tuco_lens import ModelPair
from tuco_lens.data import load
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.experiments.nulls import NullKind, null_control
from tuco_lens.experiments.scores import _kl  # pyright: ignore[reportPrivateUsage]
from tuco_lens.models.base_model import BaseModel, load_base

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = Path(os.environ.get("TUCO_LENS_DATA", ROOT.parent / "shared" / "data"))
BUILD: Final = ROOT / "build" / "real_tunes"
TUNES: Final = {"stage 1": "curriculum_stage1", "final": "final", "final, seed 123": "final_seed123"}
"""What the page calls them, and their folders."""
NULL_OF: Final = "final"
"""The tune that null controls are made of."""
NULLS: Final[tuple[NullKind, ...]] = ("noise", "shuffled")
TASK, WEB, CHAT = "logos", "web text", "chat"
LONGEST: Final = 48
"""Tokens of a prompt at most."""
ROWS: Final = 8
"""Prompts of one length that one pass takes."""
TASK_WORDS: Final = re.compile(r"\b(svg|logos?|icons?|emblems?|vector)\b", re.IGNORECASE)
"""Texts with one of these are left out of the other groups."""


def kept_base() -> Path:
    """The base as a folder; put together and dequantised at the first call."""
    from benchmarks.loading import gemma
    from tuco_lens.models.dequantised import save_dequantised

    folder = ROOT / "build" / "gemma-3-270m"
    return folder if folder.exists() else save_dequantised(gemma(), folder)


def prompt_groups(tokenizer: Any, data: Path, n: int) -> dict[str, list[str]]:
    """Descriptions of logos; and for each of them a cut of web text and one of a chat, as near to its length as can be.

    All end in a full stop that is the same token, since TuCo is read at the last one.
    """
    task = logo_prompts(n)
    ids = [tokenizer(text)["input_ids"] for text in task]
    lengths, end = [len(each) for each in ids], ids[0][-1]
    groups = {TASK: task}
    for group, name in ((WEB, "openwebtext"), (CHAT, "oasst_chat")):
        texts = list(dict.fromkeys(str(record.prompt) for record in load(name, folder=data).records))
        random.Random(0).shuffle(texts)
        groups[group] = _as_long(tokenizer, [text for text in texts if not TASK_WORDS.search(text)], lengths, end)
    return groups


def _as_long(tokenizer: Any, texts: Sequence[str], lengths: Sequence[int], end: int) -> list[str]:
    """One cut of a text for each of these lengths, each of another text."""
    cuts = [found for text in texts if (found := dict(_cuts(tokenizer, text, end)))]
    cuts = list({next(iter(found.values())): found for found in cuts}.values())  # some texts begin alike
    chosen: list[str] = []
    for n in lengths:
        place = min(range(len(cuts)), key=lambda i: min(abs(n - length) for length in cuts[i]))
        found = cuts.pop(place)
        chosen.append(found[min(found, key=lambda length: abs(n - length))])
    return chosen


def _cuts(tokenizer: Any, text: str, end: int) -> Iterator[tuple[int, str]]:
    """Beginnings of a text that are whole sentences, by their numbers of tokens."""
    for match in re.finditer(r"\.(?=\s|$)", text[: 8 * LONGEST]):
        cut = text[: match.end()]
        ids = tokenizer(cut)["input_ids"]
        if len(ids) <= LONGEST and ids[-1] == end:
            yield len(ids), cut


def measure_tuco(base: Path, adapters: Path, data: Path, out: Path, n: int) -> tl.TuneComparison:
    """TuCo of every prompt by every adapter, with OutputCo."""
    tokenizer = load_base(base).tokenizer
    groups = prompt_groups(tokenizer, data, n)
    tunes = {name: adapters / folder for name, folder in TUNES.items()}
    out.mkdir(parents=True, exist_ok=True)
    return tl.compare(base, tunes, groups, drift=True, backend="bridge", out=out / "compare", resume=True)


def measure_beside(base: Path, adapters: Path, data: Path, out: Path, n: int) -> dict[str, Any]:
    """Of every tune KL at the last token and the change of its weights; TuCo of the null controls of one."""
    file = out / "beside.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"limit": n, "tunes": {}, "nulls": {}}
    if found["limit"] != n:
        raise SystemExit(f"{file} is of --limit {found['limit']}; remove it first")
    loaded = load_base(base)
    groups = prompt_groups(loaded.tokenizer, data, n)
    rows = [loaded.tokenizer(text)["input_ids"] for texts in groups.values() for text in texts]
    out.mkdir(parents=True, exist_ok=True)
    theirs: torch.Tensor | None = None
    for name, folder in TUNES.items():
        if name in found["tunes"]:
            continue
        pair = _pair(loaded, adapters / folder)
        theirs = last_logits(pair.base, rows) if theirs is None else theirs
        found["tunes"][name] = _beside(pair, rows, theirs)
        file.write_text(json.dumps(found))
        print(f"{name}: KL and weights", flush=True)
    for kind in NULLS:
        if kind in found["nulls"]:
            continue
        pair = _pair(loaded, adapters / TUNES[NULL_OF])
        with null_control(pair, kind, seed=0):
            found["nulls"][kind] = pair.measure(rows, keep="last", progress=False).tuco.tolist()
        file.write_text(json.dumps(found))
        print(f"{NULL_OF}, {kind}: TuCo", flush=True)
    found["cosines"] = cosines({name: adapters / folder for name, folder in TUNES.items()})
    file.write_text(json.dumps(found))
    return found


def _pair(base: BaseModel, adapter: Path) -> ModelPair:
    return ModelPair.from_pretrained(base.model, adapter=adapter, backend="bridge", tokenizer=base.tokenizer)


def _beside(pair: ModelPair, rows: Sequence[list[int]], theirs: torch.Tensor) -> dict[str, Any]:
    from tuco_lens.attribution.overview import weight_changes

    changes = weight_changes(pair)
    kl = [_kl(mine, base) for mine, base in zip(last_logits(pair.tuned, rows), theirs, strict=True)]
    return {"kl": kl, "matrices": changes.matrices, "weights": changes.values.tolist()}


@torch.no_grad()
def last_logits(model: Any, rows: Sequence[list[int]]) -> torch.Tensor:
    """The logits behind the last token of each row, [n_rows, d_vocab]; rows of one length go together, unpadded."""
    found: dict[int, torch.Tensor] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    with fast_path(model):
        for _, same in groupby(order, key=lambda i: len(rows[i])):
            places = list(same)
            for chunk in (places[i : i + ROWS] for i in range(0, len(places), ROWS)):
                ids = torch.tensor([rows[i] for i in chunk])
                logits = model(ids, return_type="logits", use_cache=False, logits_to_keep=1)
                found.update(zip(chunk, logits[:, -1], strict=True))
    return torch.stack([found[i] for i in range(len(rows))])


def cosines(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """⟨ΔW, ΔW′⟩ over both norms, all matrices together, of every two adapters; and on the diagonal ‖ΔW‖ (Frobenius)."""
    loras = {name: _lora(folder) for name, folder in folders.items()}
    products = {one: {other: _product(loras[one], loras[other]) for other in loras} for one in loras}
    sizes = {name: products[name][name] ** 0.5 for name in products}
    return {
        one: {o: sizes[one] if o == one else value / (sizes[one] * sizes[o]) for o, value in row.items()}
        for one, row in products.items()
    }


def _lora(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and (α / r) B of every matrix."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    ends = ".lora_A.weight", ".lora_B.weight"
    names = [name.removesuffix(ends[0]) for name in weights if name.endswith(ends[0])]
    return {name: (weights[name + ends[0]].double(), scale * weights[name + ends[1]].double()) for name in names}


def _product(one: dict[str, tuple[Any, Any]], other: dict[str, tuple[Any, Any]]) -> float:
    """The sum over all matrices of ⟨B A, B′ A′⟩ = ⟨Bᵀ B′, A A′ᵀ⟩."""
    return sum(
        float(((b.T @ other[name][1]) * (a @ other[name][0].T)).sum()) for name, (a, b) in one.items() if name in other
    )


def scores(comparison: tl.TuneComparison, beside: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """TuCo, KL and OutputCo of every prompt, by tune and score."""
    return {
        name: {
            "TuCo": row,
            "KL": np.array(beside["tunes"][name]["kl"]),
            "OutputCo": np.array([item.output_co for item in comparison.measurements[name]]),
        }
        for name, row in zip(comparison.names, comparison.tuco, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("tuco", "beside", "page"))
    parser.add_argument("--limit", type=int, default=100, help="prompts of each group")
    arguments = parser.parse_args()
    if arguments.part == "page":
        from scripts._real_tunes_page import write_page

        write_page(BUILD)
        return
    part = measure_tuco if arguments.part == "tuco" else measure_beside
    part(kept_base(), DATA / "gemma3_270m_svg_adapters", DATA, BUILD, arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
