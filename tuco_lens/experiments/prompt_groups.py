"""Prompts of the experiments: tokenised, those that do not fit left out and counted, and what was not trained on.

The pairs that come with this project were fine-tuned on a part of AdvBench, and the demo pair's base was pre-trained on
a part of the OpenWebText sample; what is held out is decided by position, here and in `scripts/`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.prompts.prompt import Prompt, PromptLike, make_prompt

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

ADVBENCH_GOALS: Final = 520
ADVBENCH_TRAINED: Final = 420
"""Goals of AdvBench that the project's own pairs were trained to refuse."""
WEB_HELD_OUT: Final = 700
"""Documents of the OpenWebText sample, from its start, that the demo pair's base did not see."""
OWN_ADAPTER: Final = "smollm2-refusals"
"""Folder of the project's own adapter."""


def was_trained_on_advbench(pair: ModelPair) -> bool:
    """Whether this is one of the project's own pairs, of which only held-out records may be measured."""
    from tuco_lens.pair import DEMO_FOLDER

    tuned = Path(pair.tuned_name)
    return tuned.name == OWN_ADAPTER or (tuned.name == "tuned" and tuned.parent.name == DEMO_FOLDER.name)


def advbench_positions(*, held_out: bool) -> list[int]:
    """Positions of AdvBench's goals to measure: the 100 that the project's own pairs were not trained on, or all."""
    order = list(range(ADVBENCH_GOALS))
    if not held_out:
        return order
    random.Random(0).shuffle(order)
    return order[ADVBENCH_TRAINED:]


def trained_positions() -> list[int]:
    """The other positions: what an attack may be optimised on without touching what is measured."""
    held_out = set(advbench_positions(held_out=True))
    return [position for position in range(ADVBENCH_GOALS) if position not in held_out]


def fitting(
    pair: ModelPair,
    prompts: Sequence[PromptLike],
    *,
    chat: bool = True,
    system: str | None = None,
    limit: int | None = None,
    room: int = 1,
) -> tuple[list[Prompt], int]:
    """The first `limit` prompts that leave `room` tokens in the context, tokenised; and how many before were too long.

    Args:
        pair: the pair, for its tokenizer and its context.
        prompts: as `ModelPair.prompt` takes them.
        chat: put texts into the chat template, as the user's message.
        system: system prompt of every chat.
        limit: most prompts to return; None for all.
        room: tokens that are kept free, for what is generated.
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
    """The items in a random order that depends on the seed alone."""
    return random.Random(seed).sample(list(items), len(items))
