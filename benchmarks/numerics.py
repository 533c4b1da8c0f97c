"""How small a TuCo each dtype resolves: the table of docs/numerics.md and the floors of tuco_lens/models/numerics.py.

The demo pair's fine-tuning is scaled down, W_base + s (W_tuned - W_base), so that TuCo falls over
several powers of ten. Each strength is measured in each dtype against the float64 oracle of the
test suite, twice: against the float32 weights (what rounding a checkpoint and computing with it
does together), and against the rounded weights themselves (what the arithmetic alone does: the
case of a checkpoint that was published in that dtype).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from tests.oracle import oracle
from tuco_lens import ModelPair
from tuco_lens.models.numerics import NoiseFloorWarning
from tuco_lens.pair import DEMO_FOLDER

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6, 3e-7, 1e-7)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TEXTS = (
    "It was a bright cold morning, and the village was still asleep when the first carts came down the hill.",
    "<|im_start|>user\nGive me three tips for a good night's sleep.<|im_end|>\n<|im_start|>assistant\n",
    "The committee will publish its report on rivers, bridges and roads before the end of the year.",
)


def scaled(base: LlamaForCausalLM, tuned: LlamaForCausalLM, strength: float) -> LlamaForCausalLM:
    """W_base + s (W_tuned - W_base), in float64 and rounded to float32 once."""
    mixed = copy.deepcopy(base)
    with torch.no_grad():
        for parameter, start, end in zip(mixed.parameters(), base.parameters(), tuned.parameters(), strict=True):
            parameter.copy_((start.double() + strength * (end.double() - start.double())).float())
    return mixed


def rounded(model: LlamaForCausalLM, dtype: torch.dtype) -> LlamaForCausalLM:
    return copy.deepcopy(model).to(dtype).float()


def exact(base: LlamaForCausalLM, tuned: LlamaForCausalLM, prompts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([oracle(base, tuned, ids[None]).tuco() for ids in prompts])


def measured(base: Any, tuned: Any, tokenizer: Any, dtype: torch.dtype, prompts: list[torch.Tensor]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseFloorWarning)
        pair = ModelPair.from_pretrained(base, tuned, tokenizer=tokenizer, backend="bridge", device="cpu", dtype=dtype)
        return pair.measure([ids.tolist() for ids in prompts], progress=False).tuco.double()


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")
    base, tuned = (
        LlamaForCausalLM.from_pretrained(DEMO_FOLDER / name, dtype=torch.float32).eval() for name in ("base", "tuned")
    )
    prompts = [torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS]
    print("| strength | TuCo (float64) | " + " | ".join(f"{str(d)[6:]}: total, arithmetic" for d in DTYPES) + " |")
    print("|---" * (len(DTYPES) + 2) + "|")
    for strength in STRENGTHS:
        weaker = scaled(base, tuned, strength)
        truth = exact(base, weaker, prompts)
        cells = []
        for dtype in DTYPES:
            found = measured(base, weaker, tokenizer, dtype, prompts)
            own = exact(rounded(base, dtype), rounded(weaker, dtype), prompts)
            total = ((found - truth).abs() / truth).max().item()
            arithmetic = ((found - own).abs() / own.clamp_min(1e-300)).max().item()
            cells.append(f"{total:.1e}, {arithmetic:.1e}")
        print(f"| {strength:g} | {truth.median().item():.2e} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
