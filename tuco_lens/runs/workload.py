"""How many tokens the prompts of a run are, and how many of them have to be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.files import PromptSource
from tuco_lens.runs.planned_pair import PlannedPair

MOST_SAMPLED: Final = 2048
"""Prompts that are tokenised; those after them are taken to be like them."""
_CHUNK: Final = 256
"""Prompts of a chunk, which share beginnings."""


@dataclass(frozen=True)
class Workload(Brief):
    """The prompts of a run, in tokens."""

    n_prompts: int
    """How many."""
    n_sampled: int
    """Of how many the tokens were counted; 0 where a length was assumed."""
    mean_tokens: float
    """Tokens of a prompt."""
    longest: int
    """Tokens of the longest prompt that was counted."""
    computed: float
    """Part of the tokens that has to be computed: what prompts of a chunk share runs once."""
    shared_tokens: int
    """Most tokens of shared beginnings that are held in KV caches at a time."""

    @property
    def typical(self) -> int:
        """Tokens of a prompt, as a whole number."""
        return max(1, round(self.mean_tokens))

    @property
    def n_tokens(self) -> int:
        """All tokens."""
        return round(self.n_prompts * self.mean_tokens)

    @property
    def n_computed(self) -> int:
        """Tokens that go through the blocks."""
        return round(self.n_tokens * self.computed)


def assumed(n_prompts: int, n_tokens: int) -> Workload:
    """So many prompts of one length that share nothing."""
    return Workload(n_prompts, 0, float(n_tokens), n_tokens, 1.0, 0)


def workload(
    pair: PlannedPair, prompts: PromptSource, reading: Mapping[str, Any], n_prompts: int | None, kind: str
) -> Workload:
    """The prompts of files, counted with the pair's tokenizer.

    Args:
        pair: whose tokenizer is read.
        prompts: the files.
        reading: how prompts are read.
        n_prompts: how many to plan for; by default as many as there are.
        kind: the type of the device, such as "cpu", by which short beginnings are not worth a pass of their own.

    Raises:
        InputError: if a file or prompt cannot be read.
        LoadError: if there is no tokenizer.
    """
    from tuco_lens.prompts.prompt import make_prompt

    n_found = prompts.scan(**reading).n_prompts
    tokenizer = _tokenizer(pair)
    rows = [
        make_prompt(tokenizer, prompt, index=index, **reading).token_ids
        for index, prompt in enumerate(islice(prompts, MOST_SAMPLED))
    ]
    lengths = [len(row) for row in rows]
    saved, held = _shared(rows, kind)
    total = sum(lengths)
    return Workload(n_prompts or n_found, len(rows), total / len(rows), max(lengths), 1 - saved / total, held)


def _tokenizer(pair: PlannedPair) -> Any:
    from tuco_lens.models.adapter import open_adapter
    from tuco_lens.models.sources import Source, local_path
    from tuco_lens.models.tokenizer import find_tokenizer

    tuned = pair.tuned
    if not isinstance(tuned, Source):  # of an adapter on the hub only the base model's, which it mostly has too
        tuned = open_adapter(tuned.name, pair.options) if local_path(tuned.name).is_dir() else pair.base
    return find_tokenizer(None, pair.base, tuned, pair.options)


def _shared(rows: Sequence[Sequence[int]], kind: str) -> tuple[int, int]:
    """Tokens that need not be computed, and the most that caches hold at a time."""
    from tuco_lens.engine.sharing import PASS_TOKENS, PASS_TOKENS_ELSEWHERE, beginnings

    cost = PASS_TOKENS.get(kind, PASS_TOKENS_ELSEWHERE)
    saved, held = 0, 0
    for start in range(0, len(rows), _CHUNK):
        todo = [(root, 0, 0) for root in beginnings(rows[start : start + _CHUNK], lambda _: 0, cost)]
        while todo:
            node, before, above = todo.pop()
            saved += (len(node.rows) - 1) * (node.n_tokens - before)
            held = max(held, above + node.n_tokens)
            todo += [(child, node.n_tokens, above + node.n_tokens) for child in node.children]
    return saved, held


def check_counts(n_prompts: int | None, n_tokens: int) -> None:
    """Raises `InputError` for numbers below 1."""
    for what, number in (("--n", n_prompts), ("--tokens", n_tokens)):
        if number is not None and number < 1:
            raise InputError(what, f"it is {number}", "give a whole number above 0")
