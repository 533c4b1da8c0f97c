"""tuco_lens: what did fine-tuning do to this response?

Measures the Tuning Contribution (TuCo, ICML 2025): the exact split of a fine-tuned model's forward pass into a
pre-training and a fine-tuning component, layer by layer and token by token. Start with `ModelPair` (in `pair.py`).
Names are imported when first used, so that `import tuco_lens` takes milliseconds and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuco_lens.engine.contributions import ContributionCache as ContributionCache
    from tuco_lens.errors import InputError as InputError
    from tuco_lens.errors import LoadError as LoadError
    from tuco_lens.errors import OutputError as OutputError
    from tuco_lens.errors import PairMismatchError as PairMismatchError
    from tuco_lens.errors import TucoLensError as TucoLensError
    from tuco_lens.pair import ModelPair as ModelPair
    from tuco_lens.prompts.prompt import Prompt as Prompt
    from tuco_lens.results.measurement import Measurement as Measurement
    from tuco_lens.results.measurement import PromptMeasurement as PromptMeasurement
    from tuco_lens.runs import cluster as cluster
    from tuco_lens.tunes.callback import TucoCallback as TucoCallback
    from tuco_lens.tunes.compare import compare as compare
    from tuco_lens.tunes.comparison import TuneComparison as TuneComparison
    from tuco_lens.tunes.trajectory import Trajectory as Trajectory
    from tuco_lens.tunes.trajectory import trajectory as trajectory

__version__ = "0.1.0"

_HOMES = {
    "ModelPair": "pair",
    "Measurement": "results.measurement",
    "PromptMeasurement": "results.measurement",
    "ContributionCache": "engine.contributions",
    "Prompt": "prompts.prompt",
    "TucoCallback": "tunes.callback",
    "compare": "tunes.compare",
    "TuneComparison": "tunes.comparison",
    "trajectory": "tunes.trajectory",
    "Trajectory": "tunes.trajectory",
    "TucoLensError": "errors",
    "LoadError": "errors",
    "PairMismatchError": "errors",
    "InputError": "errors",
    "OutputError": "errors",
}
_MODULES = {"cluster": "runs.cluster"}
__all__ = [*_HOMES, *_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"tuco_lens.{_MODULES[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tuco_lens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tuco_lens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
