"""GCG: an attack string in the user's message, optimised so that the tuned model answers with a given target.

Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043). The gradient of the loss with respect to the one-hot
rows of the string's tokens ranks substitutions; a random sample of the best ranked is evaluated; the best one goes on.

Content warning: goals and targets of such attacks are harmful text by design. A result holds only their checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """Strings per forward pass, at most."""
    seed: int = 0
    """Of the start and of the draws."""
    place: Place = "prefix"
    """Before the goal, as in the TuCo paper, or behind it ("suffix")."""
    system: str | None = None
    """System message of the chats."""
    early_stop: bool = True
    """End when every target is the greedy answer."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "steps", "top_k", "n_candidates", "batch_size", "seed"):
            value, least = getattr(self, name), int(name not in ("steps", "seed"))
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}", f"it must be whole and at least {least}", "give such a number")
        if self.place not in ("prefix", "suffix"):
            raise InputError(f"place is {self.place!r}", "there are 'prefix' and 'suffix'", "give one of them")


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
    progress: bool = True,
) -> GcgResult:
    """Seek one attack string that makes the tuned model begin its answer to every goal with the goal's target.

    Args:
        pair: only its tuned model and tokenizer are used, and they are left as they were.
        goals: what the user asks; with several, one string is sought for them all.
        targets: how the answer to each shall begin.
        settings: length, place, budget and seed; `GcgSettings()` by default.
        progress: show a bar with steps/s, if stderr is a terminal or in a notebook.

    Returns:
        The best string of all steps: one that reaches its targets before one that does not, then by loss.

    Raises:
        InputError: for goals without targets, bad or too long texts, an active `pair.scaled`, or a chat template in
            which no string is the same tokens after decoding and encoding.
    """
    settings = settings or GcgSettings()
    if isinstance(goals, str) or isinstance(targets, str):
        raise InputError("GCG", "goals or targets are one string", "give lists")
    if not goals or len(goals) != len(targets):
        raise InputError("GCG", f"{len(goals)} goals and {len(targets)} targets", "give a target for each goal")
    if pair.active_scalings:
        raise InputError("GCG within `scaled`", "it attacks the tuned model as it is", "call it outside")
    with torch.inference_mode(False), torch.no_grad(), _eval_mode(pair.tuned), fast_path(pair.tuned):
        return _search(pair, goals, targets, settings, progress)


def _search(pair: ModelPair, goals: Sequence[str], targets: Sequence[str], how: GcgSettings, show: bool) -> GcgResult:
    draws = torch.Generator().manual_seed(how.seed)
    allowed = allowed_tokens(pair.tokenizer, pair.tuned.cfg.d_vocab)
    framing = Framing(pair.tokenizer, how.place, how.system)
    frames, start = make_frames(pair, framing, goals, targets, allowed, how.n_tokens, draws)
    objective = Objective(pair.tuned, frames, how.batch_size)
    states = [_best(objective, start[None])]
    n_evaluated = 1
    for _ in with_progress(range(how.steps), total=how.steps, show=show, unit="step", name="GCG"):
        if how.early_stop and states[-1].reached:
            break
        row = states[-1].row
        ranked = ranked_substitutes(row, objective.gradient(row), allowed, how.top_k)
        rows = _surviving_draws(row, ranked, framing, frames, how.n_candidates, draws)
        if not len(rows):
            break  # the next step would find the same
        states.append(_best(objective, rows))
        n_evaluated += len(rows)
    found = min(states, key=lambda state: (not state.reached, state.loss))
    ids, losses = tuple(found.row.tolist()), tuple(state.loss for state in states)
    checksum = hashlib.sha256(json.dumps([list(goals), list(targets)]).encode()).hexdigest()
    return GcgResult(framing.text(ids), ids, found.loss, found.reached, losses, n_evaluated, how, checksum)


class _State(NamedTuple):
    row: Int[Tensor, " slot"]
    loss: float
    reached: bool


def _best(objective: Objective, rows: Int[Tensor, "row slot"]) -> _State:
    losses, reached = objective.losses(rows)
    best = int(losses.argmin())
    return _State(rows[best], float(losses[best]), bool(reached[best]))


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
