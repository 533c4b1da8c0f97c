"""What `--model_args` says, checked before anything is loaded: which pair, which α, and how it is run.

The values come from the harness' own parser, which makes numbers, booleans and lists of text where it can. What is
read here is used by `lm_eval_model.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from tuco_lens.errors import InputError
from tuco_lens.steering.alpha import Alpha, finite_alpha

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

DEMO = "demo"
HARNESS_ARGUMENTS = (
    "add_bos_token",
    "prefix_token_id",
    "truncation",
    "logits_cache",
    "softmax_dtype",
    "max_batch_size",
    "think_end_token",
    "enable_thinking",
    "chat_template_args",
)
"""Arguments that mean what they mean for the harness' model `hf`, and are handed on to it."""


@dataclass(frozen=True)
class PairArguments:
    """Which pair is loaded, and how; the names are those of `ModelPair.from_pretrained`."""

    base: Any
    """Base model."""
    tuned: Any
    """Tuned model; None with an adapter."""
    adapter: Any
    """PEFT adapter; None with a tuned model."""
    backend: str = "auto"
    """Which TransformerLens model."""
    dtype: str | None = None
    """dtype of the weights."""
    device: str | None = None
    """Where the weights go."""
    trust_remote_code: bool = False
    """Whether a checkpoint's own code may run."""
    allow_pickle: bool = False
    """Whether pickled weights may be read."""

    def load(self) -> ModelPair:
        """Loads the pair.

        Raises:
            LoadError: as `ModelPair.from_pretrained`.
        """
        from tuco_lens.pair import DEMO_FOLDER, ModelPair

        pair = ModelPair.from_pretrained(
            self.base,
            self.tuned,
            adapter=self.adapter,
            backend=self.backend,
            dtype=self.dtype,
            device=_usable(self.device),
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        if self.tuned == str(DEMO_FOLDER / "tuned"):  # results name the pair, and not where the package lies
            return replace(pair, base_name="demo/base", tuned_name="demo/tuned")
        return pair


def checkpoints(pair: str | ModelPair | None, base: Any, tuned: Any, adapter: Any) -> tuple[Any, Any, Any]:
    """Base, tuned and adapter, as they are named one by one or by the name of a pair; none for a loaded pair.

    Raises:
        InputError: if none or several are named, or no pair has that name.
    """
    if pair is not None:
        if any(given is not None for given in (base, tuned, adapter)):
            name = pair if isinstance(pair, str) else "a loaded pair"
            raise InputError(f"pair={name}", "it names both models already", "leave out base, tuned and adapter")
        return _known_pair(pair) if isinstance(pair, str) else (None, None, None)
    if base is None:
        raise InputError("no pair", "neither base nor pair is given", "give base= and tuned=, or pair=demo")
    if (tuned is None) == (adapter is None):
        what, why = ("no pair", "neither tuned nor") if tuned is None else ("two pairs", "both tuned and")
        raise InputError(what, f"{why} adapter is given", "give one of tuned= and adapter= with base=")
    return base, tuned, adapter


def _known_pair(name: str) -> tuple[Any, Any, Any]:
    if name == DEMO:
        from tuco_lens.pair import DEMO_FOLDER

        return str(DEMO_FOLDER / "base"), str(DEMO_FOLDER / "tuned"), None
    from tuco_lens.models.catalogue import load_catalogue

    for known in load_catalogue():
        if known.name == name:
            return known.base, known.tuned, known.adapter
    raise InputError(f"pair={name}", "no pair has that name", "give demo, or a name that `tuco-lens pairs` lists")


def check_alpha(alpha: object) -> Alpha:
    """α as it was given, one finite number or one for every layer; their count is checked when the model is there.

    Raises:
        InputError: for anything else.
    """
    if isinstance(alpha, bool):
        raise InputError(f"alpha is {alpha!r}", "it is not a number", "give one, such as 0.8")
    if isinstance(alpha, Sequence) and not isinstance(alpha, str):
        return [finite_alpha(value, f" of layer {layer}") for layer, value in enumerate(cast("Sequence[Any]", alpha))]
    return finite_alpha(alpha)


def check_batch_size(given: object) -> int | str:
    """A number of rows, or "auto" or "auto:N", by which the harness finds one.

    Raises:
        InputError: for anything else.
    """
    text = str(given)
    if text == "auto" or text.startswith("auto:"):
        return text
    return positive("batch_size", given)


def positive(name: str, given: object) -> int:
    """`given` as a whole number above 0; raises InputError otherwise."""
    text = str(given)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError(f"{name} is {given!r}", "it is not a whole number above 0", "give one, such as 8")
    return int(text)


def check_names(given: Mapping[str, Any], own: Sequence[str]) -> None:
    """Raises InputError if an argument is none of this model's.

    Args:
        given: The arguments that the model's constructor does not name itself.
        own: Those that it does.
    """
    unknown = sorted(given.keys() - set(HARNESS_ARGUMENTS))
    if unknown:
        names = ", ".join((*own, *HARNESS_ARGUMENTS))
        raise InputError(f"no argument {unknown[0]!r}", "the model tuco has none of that name", f"give among {names}")


def own_tokenizer(tokenizer: Any, add_bos_token: bool | None) -> Any:
    """A copy of the pair's tokenizer, since the harness may give it a pad token; with the BOS rule that is asked for.

    The harness hands `add_bos_token` to transformers when it loads a tokenizer, and again at every call. The pair's is
    loaded already, and is set to it.
    """
    own = copy.deepcopy(tokenizer)
    if add_bos_token is not None and hasattr(type(own), "add_bos_token"):
        own.add_bos_token = add_bos_token
    return own


def _usable(device: str | None) -> str | None:
    """The device asked for. The harness' command line names cuda:0 of itself, also on a machine without one."""
    import torch

    return None if str(device).startswith("cuda") and not torch.cuda.is_available() else device
