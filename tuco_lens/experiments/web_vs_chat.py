"""Experiment 5.2: is TuCo lower on web text than on chat?

Web text: a random run of 97 tokens from each document of OpenWebText. Chat: dialogues of HH-RLHF up to the last human
turn, in the chat template.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuco_lens.data import load, token_substrings
from tuco_lens.experiments.comparing import NullOptions, Prepared, compare, n_steps
from tuco_lens.experiments.comparison import Comparison, Contrast
from tuco_lens.experiments.prompt_groups import WEB_HELD_OUT, fitting, shuffled, was_trained_on_advbench
from tuco_lens.experiments.settings import settings_of
from tuco_lens.runs.steps import RunOptions

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

N_PROMPTS: Final = 1000
"""Most prompts per group, as in the paper."""
WEB_TOKENS: Final = 97
PAPER: Final = "AUC 0.63 to 1.0 on nine models (table of §5)"


def web_vs_chat(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    held_out: bool | None = None,
    nulls: NullOptions = NullOptions(),  # noqa: B008 - frozen
    run: RunOptions = RunOptions(),  # noqa: B008
) -> Comparison:
    """Compare TuCo of chat (the positive class) with that of web text (paper §5.2).

    Args:
        pair: the pair.
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`, or else the hub.
        limit: most prompts per group; by default, and at most, 1000.
        seed: of the runs of 97 tokens, the draw of dialogues and the permuted labels.
        system: system prompt of every chat.
        held_out: measure only web text that the demo pair's base has not seen; by default for the project's own pairs.
        nulls: the null controls.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: if the data is missing, or no prompt fits the context.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    own = was_trained_on_advbench(pair) if held_out is None else held_out
    n = N_PROMPTS if limit is None else min(limit, N_PROMPTS)
    web, chat = load("openwebtext", folder=data), load("hh_rlhf", folder=data)
    texts = [str(record.prompt) for record in web][: WEB_HELD_OUT if own else None]
    windows = token_substrings(pair.tokenizer, texts, WEB_TOKENS, seed)[:n]
    dialogues, n_long = fitting(pair, shuffled(chat.prompts, seed), system=system, limit=n)
    groups = {"chat": dialogues, "web text": fitting(pair, windows, chat=False)[0]}
    settings = settings_of(
        "web_vs_chat",
        pair,
        data={each.name: each.checksum for each in (web, chat)},
        parameters={"limit": limit, "system": system, "held_out": own, **nulls.as_parameters()},
        seed=seed,
    )
    contrast = Contrast("chat against web text", "chat", "web text", PAPER)
    facts = {"dialogues left out, too long": n_long}
    total = n_steps([len(prompts) for prompts in groups.values()], nulls)
    ready = Prepared(groups, facts)
    return compare(pair, "Web text and chat", lambda _: ready, [contrast], settings, run=run, nulls=nulls, total=total)
