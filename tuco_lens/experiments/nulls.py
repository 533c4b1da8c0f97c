"""Null controls: pairs whose tuned model differs from the base by as much as the real one, but has learned nothing.

`noise`: the base plus Gaussian noise that has, for each weight tensor, the norm of its real change. `shuffled`: each
layer gets the real changes of another layer. Both keep the tuned model's embedding, final norm and unembedding, which
TuCo does not count. If such a pair separates two groups of prompts as well as the real one, then it is not what
fine-tuning taught that separates them. The third control, permuted labels, needs no model (`comparison.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor, nn

from tuco_lens.engine.use import using
from tuco_lens.errors import InputError
from tuco_lens.steering.weights import own_module, plain_name

if TYPE_CHECKING:
    from tuco_lens.pair import ModelPair

NullKind = Literal["noise", "shuffled"]
NULL_KINDS: Final[tuple[NullKind, ...]] = ("noise", "shuffled")
MEANING: Final[dict[str, str]] = {
    "noise": "base + random noise of each matrix's own norm",
    "shuffled": "the real changes, layers shuffled",
    "labels": "labels permuted",
}
SHORT: Final[dict[str, str]] = {"noise": "base + noise", "shuffled": "layers shuffled", "labels": "labels permuted"}
"""`MEANING` in fewer words, for legends."""

_LAYER = re.compile(r"\.(\d+)\.")


def differs(pair: ModelPair) -> bool:
    """Whether any weight of a block differs between base and tuned model; there are no null controls otherwise."""
    base = _block_weights(pair.base)
    changed = (name not in base or not _same(weight, base[name]) for name, weight in _block_weights(pair.tuned).items())
    return any(changed) or any(bool(up.any()) for _, up in _adapters(pair.tuned).values())


@contextmanager
def null_control(pair: ModelPair, kind: NullKind, seed: int) -> Generator[None]:
    """Make `pair.tuned` a null control while the context is open; then its own tensors are put back, bit for bit.

    Args:
        pair: the pair; of an adapter on one copy of the base weights, the matrices A and B are replaced by noise whose
            product has the same norm, or by those of another layer.
        kind: "noise" or "shuffled", which needs two layers: a single one keeps its own changes.
        seed: of the noise, or of the order of the layers.

    Raises:
        InputError: for an unknown kind, or if no weight changes, as when base and tuned blocks are equal.
    """
    if kind not in NULL_KINDS:
        raise InputError(f"no null control {kind!r}", f"there are {', '.join(NULL_KINDS)}", "name one of them")
    generator = torch.Generator().manual_seed(seed)
    replace = _noise if kind == "noise" else _shuffle
    with using(pair.base, pair.tuned), ExitStack() as stack, torch.no_grad():
        changed = replace(pair, generator, stack)
        if not changed:
            why = "no weight of a block differs from the base model's"
            raise InputError("no null control", why, "give a pair of which one is a fine-tune of the other")
        yield


def _noise(pair: ModelPair, generator: torch.Generator, stack: ExitStack) -> int:
    base = _block_weights(pair.base)
    n_changed = 0
    for name, weight in _block_weights(pair.tuned).items():
        if name in base and not _same(weight, base[name]):
            delta = weight.double() - base[name].double()
            _put(weight, base[name].double() + _gaussian(delta, generator), stack)
            n_changed += 1
    for down, up in _adapters(pair.tuned).values():
        size = (up.double() @ down.double()).norm()
        new_down, new_up = _gaussian(down.double(), generator), _gaussian(up.double(), generator)
        _put(down, new_down, stack)
        _put(up, new_up * (size / (new_up @ new_down).norm()), stack)
        n_changed += 1
    return n_changed


def _shuffle(pair: ModelPair, generator: torch.Generator, stack: ExitStack) -> int:
    other = _derangement(pair.n_layers, generator)
    tuned, base = _block_weights(pair.tuned), _block_weights(pair.base)
    deltas = {name: tuned[name].double() - base[name].double() for name in tuned if name in base}
    n_changed = 0
    for name, weight in tuned.items():
        delta = deltas.get(_of_layer(name, other))
        if name not in base or delta is None or delta.shape != weight.shape:
            continue
        if bool(delta.any()) or not _same(weight, base[name]):
            _put(weight, base[name].double() + delta, stack)
            n_changed += 1
    return n_changed + _shuffle_adapters(_adapters(pair.tuned), other, stack)


def _shuffle_adapters(
    adapters: Mapping[str, tuple[nn.Parameter, nn.Parameter]], other: list[int], stack: ExitStack
) -> int:
    kept = {name: (down.data, up.data) for name, (down, up) in adapters.items()}
    n_changed = 0
    for name, matrices in adapters.items():
        source = kept.get(_of_layer(name, other))
        if source is not None and all(new.shape == old.shape for new, old in zip(source, matrices, strict=True)):
            for matrix, new in zip(matrices, source, strict=True):
                _put(matrix, new, stack)
            n_changed += 1
    return n_changed


def _block_weights(model: Any) -> dict[str, nn.Parameter]:
    """Weights of the blocks, without adapter matrices, by a name that is the same in base and tuned model."""
    named = own_module(model).named_parameters()
    return {plain_name(name): weight for name, weight in named if "lora_" not in name and _LAYER.search(name)}


def _adapters(model: Any) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """The matrices A [rank, d_in] and B [d_out, rank] of every adapted projection of a block."""
    found: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
    named = dict(own_module(model).named_parameters())
    for name, down in named.items():
        if "lora_A" in name and _LAYER.search(name):
            found[name] = (down, named[name.replace("lora_A", "lora_B")])
    return found


def _same(weight: Tensor, base: Tensor) -> bool:
    return weight.data_ptr() == base.data_ptr() or torch.equal(weight, base)


def _gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with the shape and Frobenius norm of `like`, drawn on the CPU, so that a seed means the same everywhere."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)
    return noise * (like.norm() / noise.norm())


def _derangement(n: int, generator: torch.Generator) -> list[int]:
    """A random order of n layers in which none keeps its place; fewer than two stay as they are."""
    if n < 2:
        return list(range(n))
    while True:
        order: list[int] = torch.randperm(n, generator=generator).tolist()
        if all(place != layer for place, layer in enumerate(order)):
            return order


def _of_layer(name: str, other: list[int]) -> str:
    """The name of the same weight in the layer whose changes this one gets."""
    rename: Callable[[re.Match[str]], str] = lambda found: f".{other[int(found[1])]}."  # noqa: E731
    return _LAYER.sub(rename, name, count=1)


def _put(weight: nn.Parameter, new: Tensor, stack: ExitStack) -> None:
    stack.callback(setattr, weight, "data", weight.data)
    weight.data = new.to(weight.dtype)
