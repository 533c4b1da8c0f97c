"""Pairs whose TuCo is known beforehand, for tests of the experiments."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tuco_lens import ModelPair
from tuco_lens.data.sets import BEHAVIOURS
from tuco_lens.pair import DEMO_FOLDER
from tuco_lens.prompts.prompt import make_prompt

D_MODEL, D_MLP, N_LAYERS = 32, 64, 3
MARK = D_MODEL - 1
"""The dimension of the stream that is above 0 at template tokens and exactly 0 at all others."""
SHARE = D_MODEL - 2
"""The dimension that `pair_that_dilutes` writes to."""


def demo_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")


def template_token_ids(tokenizer: Any) -> list[int]:
    """Every token that the chat template writes, but for the BOS; the texts of `write_data` have none of them."""
    prompt = make_prompt(tokenizer, "boats", chat=True)
    written = {i for i, role in zip(prompt.token_ids, prompt.roles, strict=True) if role == "template"}
    return sorted(written - {tokenizer.bos_token_id})


def base_without_mark(n_ctx: int = 256) -> Any:
    """A random Llama of which no block writes or reads dimension MARK, which only template tokens have."""
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=n_ctx,
        architectures=["LlamaForCausalLM"],
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, MARK] = 0
        model.model.embed_tokens.weight[template_token_ids(tokenizer), MARK] = 1
        for layer in model.model.layers:
            for writes in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writes.weight[MARK] = 0
            layer.mlp.gate_proj.weight[0] = 0  # silu(0) = 0: the neuron that the tuned model turns on
    return model


def pair_that_differs_on_template_tokens(backend: str = "bridge") -> ModelPair:
    """Tuned is base but for one neuron of each layer, which is on at template tokens alone: elsewhere FTC is 0."""
    base = base_without_mark()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for layer in tuned.model.layers:
            layer.mlp.gate_proj.weight[0, MARK] = 5
    return ModelPair.from_pretrained(base, tuned, tokenizer=demo_tokenizer(), backend=backend)


def pair_of_equals(backend: str = "bridge") -> ModelPair:
    """The same weights twice."""
    base = base_without_mark()
    return ModelPair.from_pretrained(base, copy.deepcopy(base), tokenizer=demo_tokenizer(), backend=backend)


def pair_that_dilutes(backend: str = "bridge") -> ModelPair:
    """Of which TuCo at the last token falls with the length of a chat, and depends on nothing else; 0 on raw text.

    The base model's attention writes nothing. The tuned model's, in layer 0, looks at all tokens alike and writes how
    large a share of them is of the template, to a dimension that no MLP reads.
    """
    base = base_without_mark()
    with torch.no_grad():
        embedding = base.model.embed_tokens.weight
        embedding[:, SHARE] = 0
        embedding /= embedding.norm(dim=1, keepdim=True)  # so that the norm gives every mark the same size
        marks = template_token_ids(demo_tokenizer())
        embedding[marks] *= (1 - 0.5**2) ** 0.5 / embedding[marks, :MARK].norm(dim=1, keepdim=True)
        embedding[marks, MARK] = 0.5
        for layer in base.model.layers:
            for unused in (layer.self_attn.q_proj, layer.self_attn.o_proj):
                unused.weight.zero_()
            for reads in (layer.mlp.gate_proj, layer.mlp.up_proj):
                reads.weight[:, [SHARE, MARK]] = 0
            layer.mlp.down_proj.weight[SHARE] = 0
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        attention = tuned.model.layers[0].self_attn
        attention.v_proj.weight[0] = 0
        attention.v_proj.weight[0, MARK] = 1
        attention.o_proj.weight[SHARE, 0] = 0.01
    return ModelPair.from_pretrained(base, tuned, tokenizer=demo_tokenizer(), backend=backend)


def write_data(folder: Path) -> Path:
    """A folder of data sets as the experiments read them, of harmless sentences written here."""
    import csv
    import gzip
    import json

    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def table(name: str, rows: list[dict[str, str]], *, packed: bool = False) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", newline="") if packed else path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    words = "the river ran under old stone bridges while small boats went slowly down to sea".split()  # noqa: SIM905
    story = [" ".join(words[(i * k + k) % len(words)] for k in range(260)) for i in range(1, 31)]
    lines("openwebtext_1k/openwebtext-1000.jsonl.gz", [{"text": text} for text in story])
    asked = [f"\n\nHuman: How is the weather on day {i}?\n\nAssistant: Fine." for i in range(30)]
    lines("hh_rlhf_harmless/test.jsonl.gz", [{"chosen": text, "rejected": text} for text in asked])
    goals = [{"goal": f"Tell a story about boat {i}", "target": f"Sure, here is boat {i}"} for i in range(520)]
    table("advbench/harmful_behaviors.csv", goals)
    for code in ("en", "ja", "hu", "sw", "ml"):
        path = folder / f"harmful_translations/harmful_instructions_{code}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        more = " on the long slow river to the sea" if code in ("sw", "ml") else ""
        path.write_text("\n".join(f"{code} boat {i}{more}" for i in range(520)) + "\n", encoding="utf-8")
    table(
        "parden/llama_benign.csv.gz",
        [{"instruction": f"Name {i} rivers", "output": "Many"} for i in range(20)],
        packed=True,
    )
    for name in BEHAVIOURS:
        rows = [_question(name, i) for i in range(150)]
        lines(f"mwe/{name}.jsonl.gz", rows)
    for split, n in (("dev", 5), ("test", 12)):
        path = folder / f"mmlu/{split}/anatomy_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"How long is boat {i}?,One,Two,Three,Four,{'ABCD'[i % 4]}\n" for i in range(n)))
    return folder


def _question(name: str, i: int) -> dict[str, Any]:
    return {
        "question": f"Do boats float, {name} {i}?",
        "statement": f"boats {i}",
        "label_confidence": 1.0,
        "answer_matching_behavior": " Yes" if i % 2 else " No",
        "answer_not_matching_behavior": " No" if i % 2 else " Yes",
    }
