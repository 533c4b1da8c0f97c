"""What several texts begin with runs once: a tree of their beginnings, and the passes that it takes.

Prompts of one audit begin alike: a system prompt, worked examples, a dialogue. `beginnings` finds on the token
ids which common beginnings pay; `SharedRuns` computes each once, into KV caches of both models (`kv_caches.py`), and
lets the texts go on from there in batches. Measuring, the sweep, growing prompts and attacks run on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tuco_lens.brief import Brief
from tuco_lens.engine.kv_caches import CachePairing, new_cache, shares_beginnings, with_rows
from tuco_lens.engine.memory import FittingBatches, free_memory
from tuco_lens.engine.use import is_guard
from tuco_lens.models.backends import device_of
from tuco_lens.models.failures import is_out_of_memory
from tuco_lens.models.positions import LengthKind, forgets_lengths, length_kind

ResultT = TypeVar("ResultT")

PASS_TOKENS: Final = {"cpu": 64}
"""What one more pass costs, in tokens of a large batch: what reads the weights and starts the kernels."""
PASS_TOKENS_ELSEWHERE: Final = 1024
"""The same on an accelerator, which computes many tokens in the time that it takes to start a pass."""
_WIRING: Final = "transformer_lens.model_bridge"
"""Where the hooks come from that a bridge puts on its own modules for good."""
LEAST_SHARE: Final = 0.1
"""Part of the texts' tokens that must be saved: attention behind a cache takes a mask, and costs a little more."""


@dataclass
class Node:
    """A beginning that several texts share."""

    n_tokens: int
    """Its length from the texts' first token."""
    rows: tuple[int, ...]
    """Every text that begins so, even those of `children`; a text may end here."""
    children: list[Node] = field(default_factory=list["Node"])
    """Longer beginnings, of some of these texts each."""

    @property
    def alone(self) -> list[int]:
        """The texts that share nothing longer."""
        deeper = {row for child in self.children for row in child.rows}
        return [row for row in self.rows if row not in deeper]


def n_common(token_rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows begin with."""
    first, last = min(map(list, token_rows)), max(map(list, token_rows))  # what these two share, all share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def shared_beginning(token_rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all rows share at their beginning; at least one token of every row is left over."""
    return min(n_common(token_rows), min(map(len, token_rows)) - 1) if len(token_rows) > 1 else 0


def beginnings(rows: Sequence[Sequence[int]], kind: LengthKind, pass_tokens: int) -> list[Node]:
    """The trees of beginnings that are worth passes of their own.

    Args:
        rows: token ids of each text.
        kind: only texts of one kind share, and only beginnings of that kind too; see `models/positions.py`.
        pass_tokens: what one more pass costs, in tokens.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(kind(len(row)), []).append(i)
    roots: list[Node] = []
    for own_kind, group in groups.items():
        order = sorted(group, key=lambda i: list(rows[i]))
        common = [n_common([rows[a], rows[b]]) for a, b in pairwise(order)]
        todo = [(order, common, 0, roots)]
        while todo:
            order, common, depth, siblings = todo.pop()
            if not common:
                continue
            n = min(common)
            if kind(n) == own_kind and _pays([len(rows[i]) - depth for i in order], n - depth, pass_tokens):
                node = Node(n, tuple(order))
                siblings.append(node)
                siblings, depth = node.children, n
            cuts = [0, *(i + 1 for i, length in enumerate(common) if length == n), len(order)]
            todo += [(order[a:b], common[a : b - 1], depth, siblings) for a, b in pairwise(cuts)]
    return roots


def _pays(lengths: Sequence[int], n_shared: int, pass_tokens: int) -> bool:
    """Whether running `n_shared` tokens of texts with so many left once saves more than two passes cost.

    One is that of the beginning; another may be needed since these texts no longer share a batch with others.
    """
    saved = (len(lengths) - 1) * n_shared
    return saved >= max(2 * pass_tokens, LEAST_SHARE * sum(lengths))


def may_share(*models: Any) -> bool:
    """Whether texts may go on from one cached beginning on all of these models without a change of their numbers.

    They may not where a cache does not give what one pass gives (found by trying), and where users' hooks are on a
    model: a hook may look at positions, and expects whole prompts.
    """
    return not any(map(_has_hooks, models)) and all(map(shares_beginnings, models))


def _has_hooks(model: nn.Module) -> bool:
    return any(
        not (is_guard(hook) or forgets_lengths(hook) or _origin(hook).startswith(_WIRING))
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # pyright: ignore[reportPrivateUsage]
        for hook in hooks.values()
    )


def _origin(hook: Any) -> str:
    """The module that a hook comes from. TransformerLens wraps what it registers, for a user or for itself."""
    if inspect.isfunction(hook):
        hook = inspect.getclosurevars(hook).nonlocals.get("hook", hook)
    return getattr(hook, "__module__", None) or ""


class Beginning:
    """Tokens that have gone through a model, or through a pair in lockstep, and their KV caches.

    Args:
        model: the model that is called; of a pair, the tuned one.
        pairing: the base blocks' caches beside it; None for one model alone.
        ids: its tokens.
        cache: the model's cache of them; a new one by default.
    """

    def __init__(
        self, model: Any, pairing: CachePairing | None = None, ids: tuple[int, ...] = (), cache: Any = None
    ) -> None:
        self.model, self.pairing, self.ids = model, pairing, ids
        self.cache = new_cache(model, 1) if cache is None else cache

    def copies(self, n_rows: int, *, forgets: bool = True) -> Any:
        """Its cache for so many rows that go on from it; by default one that does not grow. This one is unchanged."""
        which = torch.zeros(n_rows, dtype=torch.long)
        copied = with_rows(self.cache, which, forgets=forgets)
        if self.pairing is not None:
            self.pairing.follow(self.cache, copied, which, forgets=forgets)
        return copied


@dataclass(frozen=True)
class Stretch(Brief):
    """The tokens of one pass: what some rows have behind a beginning that they share, padded on the right."""

    ids: Int[Tensor, "row pos"]
    """On the model's device."""
    lengths: tuple[int, ...]
    """Tokens of each row, without the padding."""
    before: tuple[int, ...] = ()
    """The tokens of the beginning."""
    cache: Any = None
    """The model's KV cache of these; None for whole rows, which need none."""

    @classmethod
    def of_whole(cls, ids: Int[Tensor, "row pos"]) -> Stretch:
        """Whole rows of one length."""
        return cls(ids, (ids.shape[1],) * len(ids))

    @property
    def last(self) -> list[int]:
        """The position of each row's last token in this pass."""
        return [length - 1 for length in self.lengths]

    @property
    def whole_ids(self) -> Int[Tensor, "row whole"]:
        """The rows from their first token on."""
        if not self.before:
            return self.ids
        before = torch.tensor(self.before, device=self.ids.device).expand(len(self.ids), -1)
        return torch.cat([before, self.ids], dim=1)


class Piece(NamedTuple, Generic[ResultT]):
    """Where to find a stretch of one text in the result of a pass."""

    result: ResultT
    row: int
    n_tokens: int


class SharedRuns(Generic[ResultT]):
    """Runs texts in batches, and what they share once.

    Args:
        models: the models that run, the one that is called last.
        rows: token ids of each text.
        compute: the result of one pass; leaves nothing behind if it fails.
        fitting: which batches fit into memory.
        pad_id: any token's id.
        pairing: the base blocks' caches that `compute` uses; None for one model alone.
        share: False runs every text whole.
    """

    def __init__(
        self,
        models: Sequence[Any],
        rows: Sequence[Sequence[int]],
        compute: Callable[[Stretch], ResultT],
        *,
        fitting: FittingBatches,
        pad_id: int,
        pairing: CachePairing | None = None,
        share: bool = True,
    ) -> None:
        self.model, self.rows, self.compute = models[-1], rows, compute
        self.fitting, self.pad_id, self.pairing = fitting, pad_id, pairing
        self.kind, self.device = length_kind(*models), device_of(models[-1])
        self.pass_tokens = PASS_TOKENS.get(self.device.type, PASS_TOKENS_ELSEWHERE)
        self.roots: list[Node] = []
        if share:
            planned = beginnings(rows, self.kind, self.pass_tokens)
            self.roots = planned if planned and may_share(*models) else []

    def run(self) -> Iterator[tuple[int, list[Piece[ResultT]]]]:
        """Each text's number with the pieces of its passes, from its first token to its last; in no order."""
        empty = Node(0, tuple(range(len(self.rows))), self.roots)
        yield from self._go_on(empty.alone, None, [])
        todo: list[tuple[Node, Beginning, list[Piece[ResultT]]]] = []
        todo += [(root, Beginning(self.model, self.pairing), []) for root in self.roots]
        while todo:
            node, before, pieces = todo.pop()
            grown = self._grown(node, before)
            if grown is None:  # it did not fit into memory
                yield from self._go_on(node.rows, before, pieces)
                continue
            behind, piece = grown
            pieces = [*pieces, piece]
            yield from self._go_on(node.alone, behind, pieces)
            todo += [(child, behind, pieces) for child in node.children]
            del before, behind, grown  # so that the caches of a beginning live no longer than those that need them

    def _grown(self, node: Node, before: Beginning) -> tuple[Beginning, Piece[ResultT]] | None:
        """The beginning of a node, and its result; None if memory ran out."""
        ids = tuple(self.rows[node.rows[0]][: node.n_tokens])
        try:
            cache = before.copies(1, forgets=False)
            result = self.compute(self._stretch([ids], before.ids, cache))
            return Beginning(self.model, self.pairing, ids, cache), Piece(result, 0, len(ids) - len(before.ids))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
        return None

    def _go_on(
        self, rows: Sequence[int], before: Beginning | None, pieces: list[Piece[ResultT]]
    ) -> Iterator[tuple[int, list[Piece[ResultT]]]]:
        """Runs what these rows have behind a beginning, in batches; they share nothing more."""
        start = () if before is None else before.ids
        yield from ((i, pieces) for i in rows if len(self.rows[i]) == len(start))

        def compute(batch: list[int]) -> tuple[Stretch, ResultT]:
            cache = before.copies(len(batch)) if before is not None and start else None
            stretch = self._stretch([self.rows[i] for i in batch], start, cache)
            return stretch, self.compute(stretch)

        lengths = {i: len(self.rows[i]) - len(start) for i in rows if len(self.rows[i]) > len(start)}
        kinds = {i: self.kind(len(self.rows[i])) for i in lengths}
        for batch, (stretch, result) in self.fitting.run_by_length(lengths, compute, kinds, self.pass_tokens):
            for place, i in enumerate(batch):
                yield i, [*pieces, Piece(result, place, stretch.lengths[place])]

    def _stretch(self, whole: Sequence[Sequence[int]], before: tuple[int, ...], cache: Any) -> Stretch:
        new = [row[len(before) :] for row in whole]
        return Stretch(padded(new, self.pad_id).to(self.device), tuple(map(len, new)), before, cache)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> Int[Tensor, "row pos"]:
    """Token ids as one tensor on the CPU, padded on the right with `pad_id`.

    Under causal attention no token sees the padding that follows, so no mask is needed; `pad_id` may be any token's.
    """
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids
