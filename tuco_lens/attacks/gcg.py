"""GCG: an attack string in the user's message, optimised so that the tuned model answers with a given target.

Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043). The gradient of the loss with respect to the one-hot
rows of the string's tokens ranks substitutions; a random sample of the best ranked is evaluated; the best one goes on.
`guide="chance"` is what it is measured against: random search at equal cost, which draws among all substitutions.

Content warning: goals and targets of such attacks are harmful text by design. A result holds only their checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tuco_lens.attacks.framing import Frame, Framing, Place, allowed_tokens, make_frames, with_attack
from tuco_lens.attacks.objective import Objective
from tuco_lens.brief import Brief
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.engine.progress import with_progress
from tuco_lens.errors import InputError

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair


Guide = Literal["gradient", "chance"]
Strength = Literal["quick", "paper"]

GRADIENT_COST: Final = 3
"""What a gradient costs, in evaluated strings: the forward pass of one string, and a backward pass of twice as much."""
LEG: Final = 60
"""Steps after which the draws begin anew from the seed: a search can be left, and gone on with, at their multiples."""


@dataclass(frozen=True)
class GcgSettings:
    """How a string is sought; with the pair, the goals and the targets, all that the result depends on."""

    n_tokens: int = 12
    """Tokens of the attack string."""
    steps: int = 60
    """Steps at most. Each costs a gradient, and `n_candidates` forward passes, per goal."""
    top_k: int = 64
    """Substitutes considered at each place of the string: those that the gradient ranks best."""
    n_candidates: int = 32
    """Strings evaluated per step, drawn without replacement among the `n_tokens` × `top_k` single substitutions."""
    batch_size: int = 64
    """Strings per forward pass, at most; fewer where they are long, or memory runs out."""
    seed: int = 0
    """Of the start and of the draws."""
    place: Place = "prefix"
    """Before the goal, as in the TuCo paper, or behind it ("suffix")."""
    system: str | None = None
    """System message of the chats."""
    early_stop: bool = True
    """End when every target is the greedy answer."""
    guide: Guide = "gradient"
    """What picks the substitutions that are drawn from: the gradient; or "chance", which draws among all of them, and
    `GRADIENT_COST` strings more in each step, so that a step costs as much."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "steps", "top_k", "n_candidates", "batch_size", "seed"):
            value, least = getattr(self, name), int(name not in ("steps", "seed"))
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}", f"it must be whole and at least {least}", "give such a number")
        for name, known in (("place", ("prefix", "suffix")), ("guide", ("gradient", "chance"))):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} is {value!r}", f"there are {known[0]!r} and {known[1]!r}", "give one of them")

    @property
    def strings_per_step(self) -> int:
        """Strings that a step evaluates, if so many survive."""
        return self.n_candidates + (GRADIENT_COST if self.guide == "chance" else 0)


STRENGTHS: Final[dict[Strength, GcgSettings]] = {
    "quick": GcgSettings(),
    "paper": GcgSettings(n_tokens=20, steps=500, top_k=256, n_candidates=512, batch_size=512),
}
"""Budgets by name: what suits two CPU cores, and that of the method's paper (Zou et al. 2023)."""


@dataclass(frozen=True)
class GcgResult(Brief):
    """An attack string and how it was found."""

    attack: str
    """The string; `message` puts it into a user's message."""
    token_ids: tuple[int, ...]
    """Its tokens within the rendered chat, [n_tokens]."""
    loss: float
    """Its loss, in nats per token: −log p of the target's tokens, mean over the tokens, then over the goals."""
    reached: bool
    """Whether every target is the greedy answer to its goal with this string."""
    losses: tuple[float, ...]
    """Loss of the start and of what each step went on with, [1 + steps run]; a step may make it worse."""
    n_evaluated: int
    """Strings whose loss was computed, the start among them."""
    last_ids: tuple[int, ...]
    """Tokens of what the last step went on with, which need not be the best, [n_tokens]."""
    settings: GcgSettings
    """How it was sought."""
    goals_sha256: str
    """Checksum of goals and targets, `[[goal, …], [target, …]]` as JSON."""

    def message(self, goal: str) -> str:
        """The user's message that puts this string to a goal."""
        return with_attack(goal, self.attack, self.settings.place)


def optimise(
    pair: ModelPair,
    goals: Sequence[str],
    targets: Sequence[str],
    settings: GcgSettings | None = None,
    *,
    after: GcgResult | None = None,
    progress: bool = True,
) -> GcgResult:
    """Seek one attack string that makes the tuned model begin its answer to every goal with the goal's target.

    Args:
        pair: only its tuned model and tokenizer are used, and they are left as they were.
        goals: what the user asks; with several, one string is sought for them all.
        targets: how the answer to each shall begin.
        settings: length, place, budget and seed; `GcgSettings()` by default.
        after: a search for the same goals that had a multiple of `LEG` for its steps, and else the same settings, to go
            on with; the result is that of a search that was never left.
        progress: show a bar with steps/s, if stderr is a terminal or in a notebook.

    Returns:
        The best string of all steps: one that reaches its targets before one that does not, then by loss.

    Raises:
        InputError: for goals without targets, bad or too long texts, an active `pair.scaled`, a chat template in which
            no string is the same tokens after decoding and encoding, or an `after` that is of another search.
    """
    settings = settings or GcgSettings()
    if isinstance(goals, str) or isinstance(targets, str):
        raise InputError("GCG", "goals or targets are one string", "give lists")
    if not goals or len(goals) != len(targets):
        raise InputError("GCG", f"{len(goals)} goals and {len(targets)} targets", "give a target for each goal")
    if pair.active_scalings:
        raise InputError("GCG within `scaled`", "it attacks the tuned model as it is", "call it outside")
    if after is not None:
        _check_leg(after, settings, _checksum(goals, targets))
    with torch.inference_mode(False), torch.no_grad(), _eval_mode(pair.tuned), fast_path(pair.tuned):
        return _search(pair, goals, targets, settings, after, progress)


def _check_leg(after: GcgResult, how: GcgSettings, checksum: str) -> None:
    same = replace(after.settings, steps=how.steps) == how and after.goals_sha256 == checksum
    if not same or after.settings.steps % LEG or after.settings.steps > how.steps:
        why = f"it had other goals or settings, or its {after.settings.steps} steps are no multiple of {LEG} below"
        raise InputError("GCG cannot go on with this search", why, "give one of its own, or begin anew")


def _checksum(goals: Sequence[str], targets: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(goals), list(targets)]).encode()).hexdigest()


def _search(
    pair: ModelPair,
    goals: Sequence[str],
    targets: Sequence[str],
    how: GcgSettings,
    after: GcgResult | None,
    show: bool,
) -> GcgResult:
    draws = torch.Generator().manual_seed(how.seed)
    allowed = allowed_tokens(pair.tokenizer, pair.tuned.cfg.d_vocab)
    framing = Framing(pair.tokenizer, how.place, how.system)
    frames, start = make_frames(pair, framing, goals, targets, allowed, how.n_tokens, draws)
    objective = Objective(pair.tuned, frames, how.batch_size)
    so_far = _SoFar.beginning(_best(objective, start[None])) if after is None else _SoFar.behind(after)
    steps = range(0 if after is None else after.settings.steps, how.steps)
    for step in with_progress(steps, total=len(steps), show=show, unit="step", name="GCG"):
        if how.early_stop and so_far.last.reached:
            break
        if step and not step % LEG:
            draws.manual_seed(how.seed + step)
        row = so_far.last.row
        ranked = _substitutes(row, objective, allowed, how)
        rows = _surviving_draws(row, ranked, framing, frames, how.strings_per_step, draws)
        if not len(rows):
            break  # the next step would find the same
        so_far.add(_best(objective, rows), len(rows))
    return so_far.result(framing, how, _checksum(goals, targets))


class _State(NamedTuple):
    row: Int[Tensor, " slot"]
    loss: float
    reached: bool


@dataclass
class _SoFar:
    """A search as far as it has come."""

    last: _State
    """What the next step begins with."""
    best: _State
    """What is found: one that reaches its targets before one that does not, then by loss, then the earlier one."""
    losses: list[float]
    n_evaluated: int

    @classmethod
    def beginning(cls, start: _State) -> _SoFar:
        return cls(start, start, [start.loss], 1)

    @classmethod
    def behind(cls, after: GcgResult) -> _SoFar:
        # Where reaching the target ends a search, the last string is the one that has; where not, nobody asks.
        last = _State(torch.tensor(after.last_ids), after.losses[-1], after.reached)
        best = _State(torch.tensor(after.token_ids), after.loss, after.reached)
        return cls(last, best, [*after.losses], after.n_evaluated)

    def add(self, state: _State, n_evaluated: int) -> None:
        self.last = state
        self.best = min(self.best, state, key=lambda each: (not each.reached, each.loss))
        self.losses.append(state.loss)
        self.n_evaluated += n_evaluated

    def result(self, framing: Framing, how: GcgSettings, checksum: str) -> GcgResult:
        ids = tuple(self.best.row.tolist())
        return GcgResult(
            attack=framing.text(ids),
            token_ids=ids,
            loss=self.best.loss,
            reached=self.best.reached,
            losses=tuple(self.losses),
            n_evaluated=self.n_evaluated,
            last_ids=tuple(self.last.row.tolist()),
            settings=how,
            goals_sha256=checksum,
        )


def _best(objective: Objective, rows: Int[Tensor, "row slot"]) -> _State:
    losses, reached = objective.losses(rows)
    best = int(losses.argmin())
    return _State(rows[best], float(losses[best]), bool(reached[best]))


def _substitutes(
    row: Int[Tensor, " slot"], objective: Objective, allowed: Bool[Tensor, " d_vocab"], how: GcgSettings
) -> Int[Tensor, "slot rank"]:
    """What each slot's token may be exchanged for: what the gradient ranks best, or whatever is allowed."""
    if how.guide == "chance":
        return ranked_substitutes(row, torch.zeros(len(row), len(allowed)), allowed, len(allowed))
    return ranked_substitutes(row, objective.gradient(row), allowed, how.top_k)


def ranked_substitutes(
    row: Int[Tensor, " slot"], gradient: Float[Tensor, "slot d_vocab"], allowed: Bool[Tensor, " d_vocab"], top_k: int
) -> Int[Tensor, "slot rank"]:
    """The allowed tokens other than the present one that lower the loss most, to first order."""
    scores = (-gradient).masked_fill(~allowed, -torch.inf).scatter(1, row[:, None], -torch.inf)
    return scores.topk(min(top_k, int(allowed.sum()) - 1), dim=1).indices


def _surviving_draws(
    row: Int[Tensor, " slot"],
    ranked: Int[Tensor, "slot rank"],
    framing: Framing,
    frames: Sequence[Frame],
    n_candidates: int,
    draws: torch.Generator,
) -> Int[Tensor, "row slot"]:
    kept = row.new_empty(0, len(row))
    for which in torch.randperm(ranked.numel(), generator=draws).split(n_candidates):
        rows = row.repeat(len(which), 1)
        rows[torch.arange(len(which)), which // ranked.shape[1]] = ranked.flatten()[which]
        kept = torch.cat([kept, framing.surviving(rows, frames)])
        if len(kept) >= n_candidates:
            break
    return kept[:n_candidates]


@contextmanager
def _eval_mode(model: Any) -> Generator[None]:
    """Dropout and the like off while open; every module's own mode back afterwards."""
    # A bridge's own modules leave out what transformers has around the blocks, such as the dropout of embeddings.
    every = {*model.modules(), *getattr(model, "original_model", model).modules()}
    modes = [(module, module.training) for module in every]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
