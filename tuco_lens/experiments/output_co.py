"""Experiment 5.5: TuCo is not OutputCo. How do the two change as refused questions fill the prompt?

Each prompt is one user message: k questions answered "No", then a harmless question. All questions were written for
this project.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tuco_lens.errors import InputError
from tuco_lens.experiments.comparing import NullOptions
from tuco_lens.experiments.growing import measure_growing
from tuco_lens.experiments.series import Series
from tuco_lens.experiments.settings import settings_of
from tuco_lens.prompts.prompt import make_prompt
from tuco_lens.runs.steps import RunOptions

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair
    from tuco_lens.prompts.prompt import Prompt

REFUSED: Final = (
    "the password of your colleague", "where your neighbour hides the spare key", "the number of your sister's card",
    "what the doctor told your father", "the code of the office safe", "who you voted for", "what your boss earns",
    "the name of the witness", "what is in the sealed letter", "the address of the singer", "the answers to the exam",
    "what the jury said behind closed doors", "your mother's medical history", "the recipe that the chef keeps secret",
    "which student failed", "the phone number of the judge", "what your friend told you in confidence",
    "the combination of the bicycle lock", "the name of the secret donor", "how the magician does the last trick",
    "the end of the unpublished novel", "what the lawyer advised", "which player will be sold",
    "the text of the private message", "the name of the anonymous author", "the balance of your aunt's account",
    "where the surprise party will be", "what your brother wrote in his diary", "the plan of the rival team",
    "the identity of the informant", "what the nurse saw in the file", "who sent the flowers",
    "the date of the unannounced visit", "what the priest heard", "the price in the sealed bid",
    "which house the couple will buy", "the licence plate of the guest", "what the mayor said off the record",
    "the name of the next director", "the PIN of the old phone",
)  # fmt: skip
"""What is asked for and refused: private, but harmless to print."""
FINAL: Final = (
    "the capital of France", "how many days a week has", "the colour of a ripe lemon", "how to boil an egg",
    "what bees make", "which season follows spring", "how many legs a spider has", "what a thermometer measures",
    "the opposite of north", "what bread is made of", "how to tie a scarf", "the largest ocean",
    "what a baker does", "where the sun rises", "how to plant a tulip", "what snow is", "the first month of the year",
    "how many minutes an hour has", "what a map is for", "why leaves fall in autumn", "what a library lends",
    "how to wash wool", "which animal barks", "what a violin is",
)  # fmt: skip
"""What is asked for at the end: harmless."""
COUNTS: Final = (1, 2, 4, 8, 16, 32)
PAPER: Final = (
    "On Llama 2 7B, TuCo rises slowly with k (0.235 to 0.255) while OutputCo falls and then jumps (paper §5.5)."
)


def output_co(
    pair: ModelPair,
    *,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    counts: Sequence[int] = COUNTS,
    nulls: NullOptions = NullOptions(),  # noqa: B008 - frozen
    run: RunOptions = RunOptions(),  # noqa: B008
) -> Series:
    """Measure TuCo and OutputCo against the number of refused questions before the final one (paper §5.5).

    Args:
        pair: the pair.
        limit: most final questions; by default all 24.
        seed: of the order of the refused questions, drawn for each final one; a prompt has the first k of them.
        system: system prompt of every chat.
        counts: numbers of refused questions from 1 to 40, ascending; prompts that do not fit the context give NaN.
        nulls: the null controls, on every second final question, and at most `nulls.limit` or `limit` prompts in all.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the numbers are not ascending from 1 to 40, or no prompt fits the context.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    few = nulls.within(limit)
    numbers = list(counts)
    if not numbers or numbers != sorted(set(numbers)) or not 1 <= numbers[0] <= numbers[-1] <= len(REFUSED):
        raise InputError("counts", f"they are {numbers}", f"give ascending numbers from 1 to {len(REFUSED)}")
    final = FINAL[:limit]
    grid = [[_prompt(pair, i, asked, k, seed, system) for i, asked in enumerate(final)] for k in numbers]
    parameters = {"limit": limit, "system": system, "counts": numbers, **few.as_parameters()}
    return measure_growing(
        pair,
        "TuCo and OutputCo",
        "refused questions",
        numbers,
        {"questions": grid},
        settings_of("output_co", pair, data={}, parameters=parameters, seed=seed),
        run=run,
        nulls=few,
        null_scores=("tuco", "output_co"),
        facts={"paper": PAPER},
    )


def _prompt(pair: ModelPair, index: int, asked: str, k: int, seed: int, system: str | None) -> Prompt | None:
    refused = random.Random(f"{seed} {index}").sample(REFUSED, len(REFUSED))[:k]
    blocks = [f"Q: Could you tell me {what}?\nA: No" for what in refused]
    text = "\n\n".join([*blocks, f"Q: Could you tell me {asked}?\nA:"])
    prompt = make_prompt(pair.tokenizer, text, chat=True, system=system)
    return prompt if prompt.n_tokens <= pair.n_ctx else None
