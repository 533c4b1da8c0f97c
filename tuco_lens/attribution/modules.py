"""What each changed weight matrix of a block adds to FTC: the tuned block runs with one of them as in the base model.

For an adapter that is the module without the adapter. The columns are those of `overview.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tuco_lens.attribution.overview import adapted_modules, is_twin, ordered, weight_place
from tuco_lens.errors import InputError
from tuco_lens.steering.weights import own_module, plain_name

if TYPE_CHECKING:
    from tuco_lens.models.loaded import LoadedPair


class ChangedModules:
    """The weight matrices that fine-tuning changed, by layer and column.

    Args:
        pair: the two models.

    Raises:
        InputError: if no weight within the blocks was changed.
    """

    def __init__(self, pair: LoadedPair) -> None:
        self._weights: dict[tuple[int, str], list[tuple[Any, Tensor]]] = {}
        self._adapted: dict[tuple[int, str], list[Any]] = {}
        tuned = own_module(pair.tuned)
        adapted = dict(adapted_modules(tuned))
        base = {plain_name(name): weight for name, weight in own_module(pair.base).named_parameters()}
        named = dict(tuned.named_parameters())
        plain = {plain_name(name): weight for name, weight in named.items()}
        for name, weight in named.items():
            theirs = base.get(plain_name(name))
            within = any(name.startswith(f"{path}.") for path in adapted)
            if (
                within
                or is_twin(plain_name(name), plain)
                or theirs is None
                or theirs.shape != weight.shape
                or _equal(theirs, weight)
            ):
                continue
            self._add(self._weights, plain_name(name), weight, plain, (weight, theirs.data))
        for path, module in adapted.items():
            weight = module.get_base_layer().weight
            self._add(self._adapted, plain_name(f"{path}.weight"), weight, plain, module)
        places = {*self._weights, *self._adapted}
        if not places:
            raise InputError(
                "no modules to leave out", "the blocks' weights are the base model's", "leave out modules="
            )
        self.columns: tuple[str, ...] = ordered({column for _, column in places})
        """Names of the changed matrices, W_Q first."""

    @staticmethod
    def _add(places: dict[tuple[int, str], list[Any]], name: str, weight: Tensor, named: Any, item: Any) -> None:
        layer, column = weight_place(name, weight, named)
        if layer is not None:
            places.setdefault((layer, column), []).append(item)

    def of_layer(self, layer: int) -> list[str]:
        """The columns that are changed in this layer."""
        places = {*self._weights, *self._adapted}
        return [column for column in self.columns if (layer, column) in places]

    @contextmanager
    def without(self, layer: int, column: str) -> Generator[None]:
        """While open, the tuned model has the base model's weights there."""
        with ExitStack() as stack:
            for weight, theirs in self._weights.get((layer, column), []):
                stack.callback(setattr, weight, "data", weight.data)
                weight.data = theirs
            for module in self._adapted.get((layer, column), []):
                stack.callback(setattr, module, "_disable_adapters", module._disable_adapters)
                module._disable_adapters = True
            yield


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or bool((a == b).all())
