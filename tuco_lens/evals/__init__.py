"""Evaluation: any task of lm-evaluation-harness at any α, by the harness' own model interface (extra `evals`).

`register` makes the model `tuco` known to the harness; `python -m tuco_lens.evals` does so and is `lm_eval` otherwise.
`lm_eval_model.py` is the model, `arguments.py` reads what `--model_args` says, and `scaled_model.py` shows the scaled
tuned model as a transformers model, which is all that the harness runs. docs/lm-eval.md says how it is used.
"""

from __future__ import annotations

import importlib
import importlib.util

from tuco_lens.errors import LoadError

__all__ = ["MODEL_NAME", "register"]

MODEL_NAME = "tuco"
"""What `--model` and `simple_evaluate(model=...)` are given."""


def register() -> None:
    """Make the model `tuco` known to lm-evaluation-harness in this process; without effect the second time.

    Raises:
        LoadError: if the harness is not installed.
    """
    require_harness()
    from lm_eval.api.registry import model_registry

    importlib.import_module("lm_eval.models")  # the harness adds its own models only where there are none yet

    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target="tuco_lens.evals.lm_eval_model:TucoLM")


def require_harness() -> None:
    """Raises LoadError if the package `lm_eval` is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise LoadError(
            "cannot run lm-evaluation-harness",
            "the package 'lm_eval' is not installed",
            "install it with `pip install 'tuco_lens[evals]'`",
        )
