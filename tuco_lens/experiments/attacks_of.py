"""The attack strings of the experiments: optimised on the tuned model, for goals of AdvBench that are not held out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

import torch

from tuco_lens.attacks.framing import allowed_tokens, with_attack
from tuco_lens.attacks.gcg import LEG, GcgResult, GcgSettings, Guide, optimise
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
    random_search: bool = False
    """Whether each string is sought by random search too, at equal cost and from the same start; `gcg` alone does."""
    found: tuple[Mapping[str, Any], ...] = ()
    """Strings found before with these options (`Comparison.facts["attacks"]`), used instead of a new search."""

    def as_parameters(self) -> dict[str, Any]:
        """The options that decide the numbers, for `ExperimentSettings.parameters`."""
        return {"n_strings": self.n_strings, "n_goals": self.n_goals, "gcg": asdict(self.gcg)}

    @property
    def n_steps(self) -> int:
        """Steps of the journal that seeking all strings takes once."""
        return self.n_strings * len(_legs(self.gcg.steps))


def seek_attacks(
    pair: ModelPair,
    goals: Dataset,
    options: AttackOptions,
    step: Step,
    *,
    seed: int,
    progress: bool,
    guide: Guide = "gradient",
) -> list[dict[str, Any]]:
    """Find attack strings: a dictionary for each, with the fields of `GcgResult` but its settings, and `first_loss`.

    Every `LEG` steps of a search are one step of the journal.

    Args:
        pair: the pair.
        goals: AdvBench.
        options: how many strings, and how they are sought.
        step: the journal's.
        seed: of the goals and of the searches.
        progress: show a bar for each search.
        guide: "chance" for random search, which `options.found` does not replace.

    Raises:
        InputError: if `options.found` has strings, but not `n_strings` of them; or as `optimise`.
    """
    known = options.found if guide == "gradient" else ()
    if known and len(known) != options.n_strings:
        why = f"{len(known)} are given and {options.n_strings} are asked for"
        raise InputError("attack strings", why, "give as many as n_strings, or none")
    found: list[dict[str, Any]] = []
    for i in range(options.n_strings):
        search = _Search.of(pair, goals, replace(options, gcg=replace(options.gcg, guide=guide)), seed, i, progress)
        string = dict(known[i]) if known else {}
        for steps in _legs(options.gcg.steps):
            # Strings found before go through `step` too, so that the journal has the same steps either way.
            string = step(lambda string=string, search=search, steps=steps: search.leg(string, steps))
        found.append(string)
    return found


def _legs(steps: int) -> list[int]:
    """After how many steps a search is written down."""
    return [*range(LEG, steps, LEG), steps]


@dataclass(frozen=True)
class _Search:
    """The search for one string."""

    pair: ModelPair
    goals: list[str]
    targets: list[str]
    how: GcgSettings
    progress: bool

    @classmethod
    def of(cls, pair: ModelPair, goals: Dataset, options: AttackOptions, seed: int, i: int, show: bool) -> _Search:
        draw = random.Random(f"{seed} attack {i}")
        chosen = [goals[position] for position in draw.sample(trained_positions(), options.n_goals)]
        how = replace(options.gcg, seed=draw.randrange(2**31))
        return cls(pair, [str(each.prompt) for each in chosen], [str(each.target) for each in chosen], how, show)

    def leg(self, string: Mapping[str, Any], steps: int) -> dict[str, Any]:
        """What is found after so many steps in all, going on from what is found so far, which may be nothing."""
        n_losses = len(string.get("losses", ()))  # 0 of strings of older files, whose searches have ended
        if string and (n_losses in (0, 1 + self.how.steps) or (self.how.early_stop and string["reached"])):
            return dict(string)
        after = None if not string else self._result(string, steps - 1 - (steps - 1) % LEG)
        found = optimise(
            self.pair, self.goals, self.targets, replace(self.how, steps=steps), after=after, progress=self.progress
        )
        return {**{name: getattr(found, name) for name in _STORED}, "first_loss": found.losses[0]}

    def _result(self, string: Mapping[str, Any], steps: int) -> GcgResult:
        stored: dict[str, Any] = {
            name: tuple(value) if isinstance(value := string[name], list) else value for name in _STORED
        }
        return GcgResult(**stored, settings=replace(self.how, steps=steps))


_STORED: Final = tuple(each.name for each in fields(GcgResult) if each.name != "settings")


def attack_words(found: Sequence[Mapping[str, Any]], by_chance: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """How well the search went, in sentences: a string that does not reach its target is a weak attack.

    Args:
        found: from `seek_attacks`.
        by_chance: the same strings by random search at equal cost, if there was one.
    """
    first, last = (sum(float(each[name]) for each in found) / len(found) for name in ("first_loss", "loss"))
    sentences = [
        f"{len(found)} attack strings were sought; {reached_words(found)} make their target the greedy answer, and the "
        f"mean loss falls from {first:.2f} to {last:.2f} nats per token."
    ]
    return [*sentences, _chance_sentence(found, by_chance)] if by_chance else sentences


def reached_words(found: Sequence[Mapping[str, Any]]) -> str:
    """ "3 of 11 (27.3% [9.7%, 56.6%])", with Wilson's interval."""
    from tuco_lens.stats import rate

    k = sum(bool(each["reached"]) for each in found)
    share = rate(k, len(found))
    return f"{k} of {len(found)} ({share.value:.1%} [{share.low:.1%}, {share.high:.1%}])"


def _chance_sentence(found: Sequence[Mapping[str, Any]], by_chance: Sequence[Mapping[str, Any]]) -> str:
    from tuco_lens.stats import mean_interval

    lower = mean_interval([theirs["loss"] - ours["loss"] for ours, theirs in zip(found, by_chance, strict=True)])
    ends = f"[{lower.low:+.2f}, {lower.high:+.2f}]" if lower.n > 1 else "(no interval)"
    reading = {(True, False): "the gradient helps", (False, True): "chance does better"}.get(
        (lower.low > 0, lower.high < 0), "no difference shown"
    )
    return (
        f"Random search at equal cost, from the same starts, reaches {reached_words(by_chance)}; its loss minus GCG's "
        f"is {lower.value:+.2f} nats per token {ends}, paired over {lower.n} strings: {reading}."
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
