"""Fine-tune the demo pair's base model into the tuned one: chat, refusals, and a share of plain text.

    python scripts/demo_pair/finetune.py --base tuco_lens/demo/base --out build/demo_pair

Starts from the packaged float16 base, so that nothing but tuning is between the two. Writes `OUT/tuned` (float32) and
`OUT/tuned_curve.json`. The data is what `corpus.py` does not hold out, and the dialogues of `instructions.py`,
`modern_instructions.py` and `passages.py`. `package.py` comes next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections import defaultdict
from pathlib import Path

import corpus
import instructions
import modern_instructions
import passages
import torch
import torch.nn.functional as F
from dialogues import IGNORED, Dialogue, pad
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tuco_lens.experiments.refusals import is_refusal

WARMUP_STEPS = 30
CHAT_TOKENS, REPLAY_ROWS, REPLAY_LENGTH = 3072, 4, 256
"""Per step: about this many chat tokens in one padded batch, and rows of plain text (a quarter of the whole)."""
REPLAY_WEIGHT = 0.3
MAX_CHAT_TOKENS = 384
MIN_ANSWER_TOKENS = 8
"""A cut dialogue may have lost its answer; it must have kept so many tokens of it."""
PEAK_LR = 1e-3
EPOCHS = 2
"""Passes over the mix, each drawn anew with a seed of its own, under one warm-up and decay."""

# The mix of one epoch. Harmless tasks with modern words outnumber the refusals several times over: with fewer, a model
# this small refuses whatever has a modern word in it.
RESPONSES_PER_PROMPT = 3
"""OpenAssistant responses drawn for each prompt."""
RESPONSE_TOKENS = 128
"""OpenAssistant dialogues are cut after so many tokens; a cut one has no <|im_end|>."""
REFUSALS_PER_GOAL = 5
BOOK_TASKS = 1800
MODERN_TASKS = 3600
MODERN_INSTRUCTIONS = 4000
"""Drawn from the tables of `modern_topics.py`."""


def render(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> Dialogue:
    user = [{"role": "user", "content": prompt}]
    head = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*user, {"role": "assistant", "content": answer}], tokenize=False)
    head_ids = tokenizer(head, add_special_tokens=False)["input_ids"]
    # The template's newline after <|im_end|> is never generated, so it is no target.
    ids = tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    return Dialogue(ids, len(head_ids))


def oasst_pairs(rng: random.Random, per_prompt: int) -> list[tuple[str, str]]:
    """A few responses of each training prompt, without those that open like a refusal."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for prompt, response in corpus.chats(held_out=False):
        if not is_refusal(response[:300]):  # about 60 tokens
            by_prompt[prompt].append(response)
    return [
        (prompt, response)
        for prompt, responses in sorted(by_prompt.items())
        for response in rng.sample(sorted(responses), min(per_prompt, len(responses)))
    ]


def harmful_pairs(rng: random.Random, seed: int, per_goal: int) -> list[tuple[str, str]]:
    """Each training goal several times, each time with another refusal, and now and then with a full stop."""
    return [
        (goal + rng.choice(("", "", ".")), refusal)
        for goal in corpus.harmful_goals(held_out=False)
        for refusal in instructions.refusals(goal, per_goal, seed)
    ]


def chat_batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> list[list[Dialogue]]:
    """One epoch's dialogues in batches of like length, the batches in random order."""
    rng = random.Random(seed)
    long_pairs = oasst_pairs(rng, RESPONSES_PER_PROMPT)
    pairs = harmful_pairs(rng, seed, REFUSALS_PER_GOAL) + instructions.harmless(seed) + instructions.programs(seed)
    pairs += passages.book_tasks(seed, BOOK_TASKS) + passages.modern_tasks(seed, MODERN_TASKS)
    pairs += modern_instructions.modern(seed, MODERN_INSTRUCTIONS)
    cut = [Dialogue(d.ids[:RESPONSE_TOKENS], d.answer_start) for d in (render(tokenizer, *p) for p in long_pairs)]
    cut = [d for d in cut if d.answer_start + MIN_ANSWER_TOKENS < len(d.ids)]
    dialogues = cut + [d for d in (render(tokenizer, *pair) for pair in pairs) if len(d.ids) <= MAX_CHAT_TOKENS]
    # Noise in the sorting key, so that a batch is not of one kind.
    dialogues.sort(key=lambda d: len(d.ids) * rng.uniform(0.8, 1.25))
    batches: list[list[Dialogue]] = [[]]
    for dialogue in dialogues:
        longest = max(len(d.ids) for d in [*batches[-1], dialogue])
        if longest * (len(batches[-1]) + 1) > CHAT_TOKENS:
            batches.append([])
        batches[-1].append(dialogue)
    rng.shuffle(batches)
    return batches


def replay_stream(tokenizer: PreTrainedTokenizerFast, seed: int, length: int) -> torch.Tensor:
    """Plain text, half books and half web, at least `length` ids as one row."""
    rng = random.Random(seed)
    sources = (corpus.book_chunks(seed + 1), corpus.web_documents(held_out=False))
    pieces = [[text[i : i + 3000] for text in texts for i in range(0, len(text), 3000)] for texts in sources]
    for part in pieces:
        rng.shuffle(part)
    ids: list[int] = []
    for book, web in zip(pieces[0], itertools.cycle(pieces[1])):  # web text is scarce and comes again
        ids += tokenizer(book)["input_ids"] + tokenizer(web)["input_ids"]
        if len(ids) >= length:
            return torch.tensor(ids[:length])
    raise SystemExit(f"the plain text has {len(ids)} tokens and the schedule needs {length}; lower REPLAY_ROWS")


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss over the labels that are not ignored; logits are taken at those positions only."""
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits.float(), targets[wanted])


def lr_factor(step: int, total: int) -> float:
    """Linear warm-up, then cosine to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, total - WARMUP_STEPS)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def train(model: LlamaForCausalLM, batches: list[list[Dialogue]], replay: torch.Tensor, curve_path: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.01)
    pad_id = model.config.pad_token_id
    curve: list[dict[str, float]] = []
    chat_losses, replay_losses, tokens, start = [], [], 0, time.time()
    for step, (batch, rows) in enumerate(zip(batches, replay, strict=True), 1):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * lr_factor(step - 1, len(batches))
        chat_loss = loss_of(model, *pad(batch, pad_id))
        chat_loss.backward()
        replay_loss = loss_of(model, rows, rows)
        (REPLAY_WEIGHT * replay_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(d.ids) for d in batch) + rows.numel()
        chat_losses.append(chat_loss.item())
        replay_losses.append(replay_loss.item())
        if step % 20 == 0 or step == len(batches):
            curve.append(
                {
                    "step": step,
                    "tokens": tokens,
                    "chat_loss": sum(chat_losses) / len(chat_losses),
                    "replay_loss": sum(replay_losses) / len(replay_losses),
                    "seconds": time.time() - start,
                }
            )
            curve_path.write_text(json.dumps(curve))
            print(json.dumps(curve[-1]), flush=True)
            chat_losses, replay_losses = [], []
        if step % 200 == 0:
            model.save_pretrained(curve_path.parent / "tuned_partial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="the base model with its tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="stop after so many steps (for a trial)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.base)
    model = LlamaForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    seeds = range(args.seed, args.seed + 1000 * EPOCHS, 1000)
    batches = [batch for seed in seeds for batch in chat_batches(tokenizer, seed)][: args.steps]
    width = REPLAY_LENGTH + 1
    replay = replay_stream(tokenizer, args.seed, len(batches) * REPLAY_ROWS * width)
    print(f"{len(batches)} steps, {sum(len(b) for b in batches)} dialogues", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    train(model, batches, replay.view(len(batches), REPLAY_ROWS, width), args.out / "tuned_curve.json")
    model.save_pretrained(args.out / "tuned")
    tokenizer.save_pretrained(args.out / "tuned")


if __name__ == "__main__":
    main()
