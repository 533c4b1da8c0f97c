"""The model `tuco` of lm-evaluation-harness: a pair's tuned model under a scaling, for any task of the harness.

It is the harness' own `hf` model around another forward pass (`scaled_model.py`): context handling, BOS rules, chat
templates, the order of requests and the cutting of texts are inherited. The scaling is on while the harness asks for
answers, and off before and after, however that ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string

from tuco_lens import __version__
from tuco_lens.engine.fast_path import fast_path
from tuco_lens.errors import InputError
from tuco_lens.evals import MODEL_NAME
from tuco_lens.evals.arguments import (
    PairArguments,
    check_alpha,
    check_batch_size,
    check_names,
    checkpoints,
    own_tokenizer,
    positive,
)
from tuco_lens.evals.scaled_model import ScaledModel, generation_defaults
from tuco_lens.models.backends import blocks
from tuco_lens.models.positions import stands_alone
from tuco_lens.pair import ModelPair
from tuco_lens.steering.alpha import Alpha
from tuco_lens.steering.scaling import METHODS, Method, scaling_settings

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_OWN = (
    *("base", "tuned", "adapter", "pair", "alpha", "method", "backend", "dtype", "device", "batch_size", "max_length"),
    *("trust_remote_code", "allow_pickle"),
)
_IDENTITY_KEY = "tuco_lens model"
"""Where a file of cached answers says whose they are; the harness' own keys are hashes."""


@register_model(MODEL_NAME)
class TucoLM(HFLM):
    """A pair's tuned model under a scaling; α = 1 is what the harness' model `hf` makes of the tuned checkpoint.

    Args:
        base: Base model: hub id, local directory, local `.gguf`, or a loaded transformers model.
        tuned: The same of the tuned model. Either this or `adapter`.
        adapter: A PEFT adapter of the base model.
        pair: In place of these, a loaded `ModelPair`, "demo", or a name that `tuco-lens pairs` lists.
        alpha: α, or a list of one per layer.
        method: "ftc", "logits" or "weights"; see `ModelPair.scaled`.
        backend: "hooked", "bridge" or "auto".
        dtype: Of the weights; by default (also "auto") float32 on the CPU, else the checkpoint's own.
        device: Where the weights go; "cuda…" on a machine without it is the CPU, as with `hf`.
        batch_size: Requests per batch, at most; or "auto", as the harness means it.
        max_length: Longest text, in tokens; by default the model's context.
        trust_remote_code: Whether a checkpoint's own code may run.
        allow_pickle: Whether pickled weights may be read.
        **harness: Arguments with which the harness' model `hf` is called: `arguments.HARNESS_ARGUMENTS`.

    Raises:
        InputError: for an argument that does not exist or cannot be.
        LoadError: if the pair cannot be loaded.
    """

    def __init__(
        self,
        base: Any = None,
        tuned: Any = None,
        adapter: Any = None,
        pair: str | ModelPair | None = None,
        alpha: Alpha = 1.0,
        method: Method = "ftc",
        backend: str = "auto",
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        **harness: Any,
    ) -> None:
        check_names(harness, _OWN)
        alpha, rows = check_alpha(alpha), check_batch_size(batch_size)
        if method not in METHODS:
            raise InputError(f"no method {method!r}", f"there are {', '.join(METHODS)}", "name one of them")
        named = checkpoints(pair, base, tuned, adapter)
        if isinstance(pair, ModelPair):
            self.pair, checkpoint = pair, None
        else:
            own_dtype = None if dtype == "auto" else dtype
            wanted = PairArguments(*named, backend, own_dtype, device, trust_remote_code, allow_pickle)
            self.pair = wanted.load()
            checkpoint = wanted.base if wanted.tuned is None else wanted.tuned
        if stands_alone(self.pair.base, self.pair.tuned):
            rows = 1  # beside a longer request an answer would have another score
        self.settings = scaling_settings(alpha, self.pair.n_layers, method=method)
        self._alpha = alpha
        model = ScaledModel(self.pair, generation_defaults(self.pair, checkpoint, trust_remote_code=trust_remote_code))
        tokenizer = own_tokenizer(self.pair.tokenizer, harness.get("add_bos_token"))
        longest = None if max_length is None else self._within_context(positive("max_length", max_length))
        with _without_hints():
            self._inherited(super()).__init__(
                pretrained=model,
                backend="causal",
                tokenizer=tokenizer,
                batch_size=rows,
                max_length=longest,
                **harness,
            )

    @staticmethod
    def _inherited(parent: Any) -> Any:
        """`super()`, whose methods have no types in the harness."""
        return parent

    def _within_context(self, max_length: int) -> int:
        if max_length > self.pair.n_ctx:
            why = f"the context of {self.pair.tuned_name} is {self.pair.n_ctx} tokens"
            raise InputError(f"max_length is {max_length}", why, "give one within it, or leave it out")
        return max_length

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> TucoLM:
        """The model that `--model_args` describes; see `create_from_arg_obj`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> TucoLM:
        """The model that `--model_args` describes; the harness' `--batch_size` and `--device` count where it does not.

        The harness' command line always gives these two, with defaults of its own.
        """
        general = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**general, **arg_dict})

    @contextmanager
    def _answering(self) -> Generator[None]:
        """The scaling, and the fast path of the bridge, for the length of one of the harness' calls."""
        scaling = self.pair.scaled(self._alpha, method=self.settings.method)
        with scaling, fast_path(self.pair.base, self.pair.tuned):
            yield

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of continuations, in nats, and whether each is what greedy decoding gives."""
        with self._answering():
            return self._inherited(super()).loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in nats."""
        with self._answering():
            return self._inherited(super()).loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that continue the requests' contexts."""
        with self._answering():
            return self._inherited(super()).generate_until(requests, disable_tqdm=disable_tqdm)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness' file of answers (`--use_cache`), and refuse one of another model or another α.

        The harness tells answers apart by the request alone.

        Raises:
            InputError: if its answers are not this model's.
        """
        answers = cache_hook.dbdict
        if answers is not None:
            own = json.dumps(self._identity(), sort_keys=True)
            if len(answers) and answers.get(_IDENTITY_KEY) != own:
                why = f"its answers are those of {answers.get(_IDENTITY_KEY, 'another model')}, and this is {own}"
                raise InputError("--use_cache", why, "give each model and each alpha a file of its own")
            answers[_IDENTITY_KEY] = own
        super().set_cache_hook(cache_hook)

    def _identity(self) -> dict[str, Any]:
        return {
            "base": self.pair.base_name,
            "tuned": self.pair.tuned_name,
            "backend": self.pair.backend,
            "alpha": self.settings.alpha,
            "method": self.settings.method,
        }

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results about the model: its own four entries, and this package's."""
        n_parameters = sum(parameter.numel() for parameter in self.pair.tuned.parameters())
        own = {"model_num_parameters": n_parameters, "model_dtype": self.pair.dtype}
        unknown = {"model_revision": "", "model_sha": ""}
        return own | unknown | self._identity() | {"n_layers": len(blocks(self.pair.tuned)), "tuco_lens": __version__}


@contextmanager
def _without_hints() -> Generator[None]:
    """Keep the harness from warning that a model which is loaded already takes no arguments: this one takes all."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
