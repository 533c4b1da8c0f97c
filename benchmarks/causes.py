"""What it costs to say why an answer changed: time and memory of integrated gradients and of patching.

Run as `python -m benchmarks.causes`. On the demo pair, both backends, one thread; medians of ratios in one run. 16
nodes stand against 16 forward and backward passes of both models by plain autograd, one by one and in one batch, no
weight taking gradients; 256 patched cells against the forward passes of `pair.scaled(0)` with as many rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._live_bytes import LiveBytes
from benchmarks.components import time_ratio
from tuco_lens import ModelPair
from tuco_lens.models.backends import run_logits

N_TOKENS = 64
NODES, CELLS, BATCH, ROUNDS = 16, 256, 16, 4
GRADIENTS_BAR, PATCHING_BAR = 1.0, 1.15
MIB = 2**20


def difference(logits: Tensor) -> Tensor:
    """What is asked."""
    return logits[:, -1, 7] - logits[:, -1, 9]


def plain_gradients(pair: ModelPair, ids: Tensor, batch_size: int) -> None:
    """Forward and backward of both models, to the embedding's output and no weight."""
    for model in (pair.base, pair.tuned):
        wanted = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in wanted:
            weight.requires_grad_(False)
        point = model.blocks[0].hook_resid_pre
        for _ in range(NODES // batch_size):
            leaves: list[Tensor] = []

            def begin(_module: Any, _args: Any, stream: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
                leaves.append(stream.detach().requires_grad_())
                return leaves[-1]

            handle = point.register_forward_hook(begin)
            torch.autograd.grad(difference(run_logits(model, ids.expand(batch_size, -1))).sum(), leaves[-1])
            handle.remove()
        for weight in wanted:
            weight.requires_grad_(True)


@torch.no_grad()
def scaled_forwards(pair: ModelPair, ids: Tensor) -> None:
    """As many rows as there are cells, with every α at 0."""
    with pair.scaled(0):
        for _ in range(CELLS // BATCH):
            difference(run_logits(pair.tuned, ids.expand(BATCH, -1)))


def peak(call: Callable[[], Any]) -> float:
    """MiB of living tensors at the most, beside the weights."""
    with LiveBytes() as seen:
        call()
    return seen.peak / MIB


def main() -> None:
    """Print the lines of both backends."""
    torch.set_num_threads(1)
    for backend in ("hooked", "bridge"):
        pair = ModelPair.demo(backend=backend)
        ids = torch.randint(300, 4000, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
        tell_gradients(backend, pair, ids)
        tell_patching(backend, pair, ids)


def tell_gradients(backend: str, pair: ModelPair, ids: Tensor) -> None:
    """Time and memory of integrated gradients."""

    def gradients(over: Any = None, batch_size: int = BATCH) -> None:
        options: dict[str, Any] = {"steps": NODES, "over": over, "batch_size": batch_size}
        pair.integrated_gradients(ids[0].tolist(), metric=difference, **options)

    for over, rows in ((None, 1), (None, BATCH), ("component", BATCH), ("head", BATCH)):
        found = time_ratio(
            lambda over=over: gradients(over), lambda rows=rows: plain_gradients(pair, ids, rows), ROUNDS
        )
        bar = f"  (bar {GRADIENTS_BAR})" if rows == 1 else ""
        what = f"over {over or 'layer_token'}"
        print(f"{backend:7s} gradients {what:16s} {found:5.2f} × plain autograd, {rows:2d} at once{bar}", flush=True)
    for rows in (4, BATCH):
        ours, theirs = peak(lambda n=rows: gradients(batch_size=n)), peak(lambda n=rows: plain_gradients(pair, ids, n))
        print(f"{backend:7s} gradients, {rows:2d} nodes at once: peak {ours:.1f} MiB, plain autograd {theirs:.1f} MiB")


def tell_patching(backend: str, pair: ModelPair, ids: Tensor) -> None:
    """Time and memory of patching."""
    positions = range(N_TOKENS - CELLS // pair.n_layers, N_TOKENS)

    def patching(way: Any = "out") -> None:
        options: dict[str, Any] = {"over": "layer_token", "positions": positions, "batch_size": BATCH}
        pair.patching(ids[0].tolist(), difference, way=way, progress=False, **options)

    for way in ("out", "in"):
        found = time_ratio(lambda way=way: patching(way), lambda: scaled_forwards(pair, ids), ROUNDS)
        print(f"{backend:7s} patching, way {way:3s} {found:5.2f} × scaled forwards  (bar {PATCHING_BAR})", flush=True)
    ours, theirs = peak(patching), peak(lambda: scaled_forwards(pair, ids))
    print(f"{backend:7s} patching, {BATCH} cells at once: peak {ours:.1f} MiB, scaled forwards {theirs:.1f} MiB")


if __name__ == "__main__":
    main()
