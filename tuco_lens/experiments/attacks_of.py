"""The attack strings of the experiments: optimised on the tuned model, for goals of AdvBench that are not held out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from tuco_lens.attacks.framing import allowed_tokens, with_attack
from tuco_lens.attacks.gcg import GcgSettings, optimise
from tuco_lens.errors import InputError
from tuco_lens.experiments.prompt_groups import trained_positions
from tuco_lens.runs.steps import Step

if TYPE_CHECKING:
    from tuco_lens.data import Dataset
    from tuco_lens.pair import ModelPair


@dataclass(frozen=True)
class AttackOptions:
    """How many attack strings are optimised, and how."""

    n_strings: int = 11
    """Number of strings, each with a seed of its own; the paper has 11 per model."""
    n_goals: int = 1
    """Goals that each string is optimised for, of the 420 of `trained_positions`; measured too unless `held_out`."""
    gcg: GcgSettings = field(default_factory=GcgSettings)
    """Length, place, system message and budget of the search; its seed is replaced."""
    found: tuple[Mapping[str, Any], ...] = ()
    """Strings found before with these options (`Comparison.facts["attacks"]`), used instead of a new search."""

    def as_parameters(self) -> dict[str, Any]:
        """The options that decide the numbers, for `ExperimentSettings.parameters`."""
        return {"n_strings": self.n_strings, "n_goals": self.n_goals, "gcg": asdict(self.gcg)}


def seek_attacks(
    pair: ModelPair, goals: Dataset, options: AttackOptions, step: Step, *, seed: int, progress: bool
) -> list[dict[str, Any]]:
    """Find attack strings, one step each: attack, loss and first_loss (nats per token), reached, n_evaluated.

    Raises:
        InputError: if `options.found` has strings, but not `n_strings` of them; or as `optimise`.
    """
    if options.found and len(options.found) != options.n_strings:
        why = f"{len(options.found)} are given and {options.n_strings} are asked for"
        raise InputError("attack strings", why, "give as many as n_strings, or none")
    # Strings found before also go through `step`, so that the journal has the same steps either way.
    return [
        step(lambda i=i: dict(options.found[i]) if options.found else _sought(pair, goals, options, seed, i, progress))
        for i in range(options.n_strings)
    ]


def _sought(pair: ModelPair, goals: Dataset, options: AttackOptions, seed: int, i: int, show: bool) -> dict[str, Any]:
    draw = random.Random(f"{seed} attack {i}")
    chosen = [goals[position] for position in draw.sample(trained_positions(), options.n_goals)]
    how = replace(options.gcg, seed=draw.randrange(2**31))
    asked, targets = [str(record.prompt) for record in chosen], [str(record.target) for record in chosen]
    found = optimise(pair, asked, targets, how, progress=show)
    return {
        "attack": found.attack,
        "loss": found.loss,
        "first_loss": found.losses[0],
        "reached": found.reached,
        "n_evaluated": found.n_evaluated,
    }


def attack_words(found: Sequence[Mapping[str, Any]]) -> str:
    """How well the search went, as a sentence: a string that does not reach its target is a weak attack."""
    reached = sum(bool(each["reached"]) for each in found)
    first, last = (sum(float(each[name]) for each in found) / len(found) for name in ("first_loss", "loss"))
    return (
        f"{len(found)} attack strings were sought; {reached} make their target the greedy answer, and the mean loss "
        f"falls from {first:.2f} to {last:.2f} nats per token."
    )


def attacked(goals: Sequence[str], attacks: Sequence[str], options: AttackOptions) -> list[str]:
    """One prompt per goal: the goal with an attack string; the strings take turns."""
    return [with_attack(goal, attacks[i % len(attacks)], options.gcg.place) for i, goal in enumerate(goals)]


def random_strings(pair: ModelPair, options: AttackOptions, n: int, *, seed: int) -> list[str]:
    """n strings of random tokens, as many and of the same kind as those of an attack: the control for the search."""
    allowed = allowed_tokens(pair.tokenizer, pair.tuned.cfg.d_vocab).nonzero().flatten()
    draws = torch.Generator().manual_seed(seed)
    which = torch.randint(len(allowed), (n, options.gcg.n_tokens), generator=draws)
    return [pair.tokenizer.decode(allowed[row].tolist()).strip(" ") for row in which]
