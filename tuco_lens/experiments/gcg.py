"""Experiment 5.3, GCG: do optimised attack strings lower TuCo?

Plain harmful instructions against the same ones with an attack string: strings optimised on the tuned model
(`tuco_lens/attacks/gcg.py`), or the prompts of JailbreakBench's artefacts. Strings of random tokens in the same place
control for what any string does. Content warning: the prompts are harmful; they are measured and never shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tuco_lens.data import Dataset, load
from tuco_lens.errors import InputError
from tuco_lens.experiments.attacks_of import AttackOptions, attack_words, attacked, random_strings, seek_attacks
from tuco_lens.experiments.comparing import NullOptions, Prepared, compare, n_steps
from tuco_lens.experiments.comparison import NOT_IN_PAPER, Comparison, Contrast
from tuco_lens.experiments.prompt_groups import advbench_positions, fitting, was_trained_on_advbench
from tuco_lens.experiments.settings import settings_of
from tuco_lens.runs.steps import RunOptions, Step

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

PLAIN, ATTACKED, RANDOM = "plain requests", "attacked requests", "requests with a random string"
PAPER: Final = "AUC 0.65 to 1.0 on six models"
CONTROL: Final = f"{NOT_IN_PAPER}: the control for any string of that length"
CONTRASTS: Final = (
    Contrast("plain against attacked requests", PLAIN, ATTACKED, PAPER),
    Contrast("random against attack strings", RANDOM, ATTACKED, CONTROL),
    Contrast("plain requests against random strings", PLAIN, RANDOM, CONTROL),
)
ARTEFACTS: Final = "GCG/white_box/vicuna-13b-v1.5"


def gcg(
    pair: ModelPair,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    system: str | None = None,
    held_out: bool | None = None,
    source: Literal["optimised", "artefacts"] = "optimised",
    attacks: AttackOptions = AttackOptions(),  # noqa: B008 - frozen
    nulls: NullOptions = NullOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
) -> Comparison:
    """Compare TuCo of harmful requests (the positive class) with that of the same ones under attack (paper §5.3).

    Args:
        pair: the pair.
        data: local folder of the data sets; by default that of `TUCO_LENS_DATA`, or else the hub (no artefacts there).
        limit: most requests; by default all.
        seed: of the attacks' goals and searches, the random strings and the permuted labels.
        system: system prompt of every chat that is measured; for the search it is `attacks.gcg.system`.
        held_out: measure only goals that the project's own pairs were not trained on; by default if `pair` is one.
        source: "optimised", on this tuned model; or "artefacts" of JailbreakBench, for Vicuna 13B (`held_out` unused).
        attacks: how many strings are optimised, and how.
        nulls: the null controls.
        run: where the result goes, and whether to resume.

    Raises:
        InputError: for an unknown source, missing data, no prompt that fits the context, or if GCG finds no start.
        OutputError: if `run.out` cannot be written, exists without `resume` or `overwrite`, or belongs to another run.
    """
    if source not in ("optimised", "artefacts"):
        raise InputError(f"source is {source!r}", "there are 'optimised' and 'artefacts'", "give one of them")
    own = was_trained_on_advbench(pair) if held_out is None else held_out
    is_own_search = source == "optimised"
    requests = load("advbench", folder=data) if is_own_search else load("jailbreakbench_gcg", folder=data)
    positions = advbench_positions(held_out=own)[:limit]

    def prepare(step: Step) -> Prepared:
        if not is_own_search:
            return _artefacts(pair, requests, limit, system)
        strings = seek_attacks(pair, requests, attacks, step, seed=seed, progress=run.progress)
        by_chance: list[dict[str, Any]] = []
        if attacks.random_search:
            by_chance = seek_attacks(pair, requests, attacks, step, seed=seed, progress=run.progress, guide="chance")
        plain = [str(requests[i].prompt) for i in positions]
        chance = random_strings(pair, attacks, len(strings), seed=seed)
        texts = {
            PLAIN: plain,
            ATTACKED: attacked(plain, [found["attack"] for found in strings], attacks),
            RANDOM: attacked(plain, chance, attacks),
        }
        groups = {name: fitting(pair, group, system=system)[0] for name, group in texts.items()}
        facts: dict[str, Any] = {"attacks": strings, "sentences": attack_words(strings, by_chance)}
        return Prepared(groups, facts | ({"random search": _without_texts(by_chance)} if by_chance else {}))

    parameters: dict[str, Any] = {"limit": limit, "system": system, "held_out": own, "source": source}
    parameters |= {**nulls.as_parameters(), **(attacks.as_parameters() if is_own_search else {})}
    parameters |= {"random_search": attacks.random_search} if is_own_search else {}
    settings = settings_of("gcg", pair, data={requests.name: requests.checksum}, parameters=parameters, seed=seed)
    contrasts = CONTRASTS if is_own_search else CONTRASTS[:1]
    n_sought = attacks.n_steps * (2 if attacks.random_search else 1)
    total = n_sought + n_steps([len(positions)] * 3, nulls) if is_own_search else None
    return compare(pair, "GCG attacks", prepare, contrasts, settings, run=run, nulls=nulls, total=total)


def _without_texts(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the searches went, without the strings: nothing is measured with them."""
    return [{name: each[name] for name in ("first_loss", "loss", "reached", "n_evaluated", "losses")} for each in found]


def _artefacts(pair: ModelPair, records: Dataset, limit: int | None, system: str | None) -> Prepared:
    """JailbreakBench's prompts, and the plain goals of the same behaviours."""
    chosen = list(records.only(group=ARTEFACTS))[:limit]
    if not chosen:
        raise InputError("GCG artefacts", f"none are of {ARTEFACTS}", "give JailbreakBench's artefacts in --data")
    plain = [str(record.goal) for record in chosen]
    texts = {PLAIN: plain, ATTACKED: [str(record.prompt) for record in chosen]}
    return Prepared({name: fitting(pair, group, system=system)[0] for name, group in texts.items()}, {})
