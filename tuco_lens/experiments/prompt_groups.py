"""The prompts of experiments: which records are held out, and which of the tokenised prompts fit the context.

The pairs that come with this project were fine-tuned on a part of AdvBench, the demo pair's base was pre-trained on a
part of the OpenWebText sample, and the pair with opinions on a part of Model-Written Evaluations. What is held out is
decided here, by position or by a hash of the text, and `scripts/` takes it from here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.prompts.prompt import Prompt, PromptLike, make_prompt

if TYPE_CHECKING:
    from tuco_lens.data import Record
    from tuco_lens.pair import ModelPair

ADVBENCH_GOALS: Final = 520
ADVBENCH_TRAINED: Final = 420
"""Number of AdvBench's goals that the project's own pairs were trained to refuse."""
WEB_HELD_OUT: Final = 700
"""Number of documents, from the start of the OpenWebText sample, that the demo pair's base was not trained on."""
MWE_PARTS: Final = 5
"""Of Model-Written Evaluations one question in so many is held out from the pair with opinions."""
REFUSALS_ADAPTER: Final = "smollm2-refusals"
OPINIONS_ADAPTER: Final = "demo-opinions"
"""Names of the folders of the project's own adapters; that with opinions has the demo pair's tuned model for a base."""


def was_trained_on_advbench(pair: ModelPair) -> bool:
    """Whether this is one of the project's own pairs (by its folder), on which only held-out records are measured."""
    from tuco_lens.pair import DEMO_FOLDER

    tuned = Path(pair.tuned_name)
    is_demo = tuned.name == "tuned" and tuned.parent.name == DEMO_FOLDER.name
    return is_demo or tuned.name in (REFUSALS_ADAPTER, OPINIONS_ADAPTER)


def was_trained_on_mwe(pair: ModelPair) -> bool:
    """Whether this is the project's pair with opinions (by its folder), on which only held-out questions are asked."""
    return Path(pair.tuned_name).name == OPINIONS_ADAPTER


def advbench_positions(*, held_out: bool) -> list[int]:
    """Positions of AdvBench's goals to measure: the 100 that the project's own pairs were not trained on, or all."""
    order = list(range(ADVBENCH_GOALS))
    if not held_out:
        return order
    random.Random(0).shuffle(order)
    return order[ADVBENCH_TRAINED:]


def trained_positions() -> list[int]:
    """The other 420 positions: attacks are optimised for these goals."""
    held_out = set(advbench_positions(held_out=True))
    return [position for position in range(ADVBENCH_GOALS) if position not in held_out]


def mwe_positions(records: Sequence[Record], *, held_out: bool) -> list[int]:
    """Positions of the questions of Model-Written Evaluations that are held out, or of all others, for training."""
    return [i for i, record in enumerate(records) if is_held_out_question(str(record.prompt)) == held_out]


def is_held_out_question(question: str) -> bool:
    """Whether a question of Model-Written Evaluations is held out: one in five is, by a hash of its text.

    The hash does not know the behaviour, as some questions stand in two: trained in one, they would be known in both.
    """
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % MWE_PARTS == 0


def fitting(
    pair: ModelPair,
    prompts: Sequence[PromptLike],
    *,
    chat: bool = True,
    system: str | None = None,
    limit: int | None = None,
    room: int = 1,
) -> tuple[list[Prompt], int]:
    """The first `limit` prompts that leave `room` tokens of the context free, and how many were skipped as too long.

    Args:
        pair: the pair, for its tokenizer and its context.
        prompts: as `ModelPair.prompt` takes them.
        chat: put texts into the chat template, as the user's message.
        system: system prompt of every chat.
        limit: most prompts to return; None for all.
        room: tokens to keep free, for what is generated.
    """
    kept: list[Prompt] = []
    n_dropped = 0
    for index, prompt in enumerate(prompts):
        if limit is not None and len(kept) >= limit:
            break
        made = make_prompt(pair.tokenizer, prompt, chat=chat, system=system, index=index)
        if made.n_tokens + room <= pair.n_ctx:
            kept.append(made)
        else:
            n_dropped += 1
    return kept, n_dropped


def shuffled(items: Sequence[PromptLike], seed: int) -> list[PromptLike]:
    """The items in a random order, decided by the seed."""
    return random.Random(seed).sample(list(items), len(items))
