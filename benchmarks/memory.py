"""Peak memory of a measurement above the weights, at (8, 512) on SmolLM2-135M's shape.

The bar: six streams (batch × tokens × d_model × 4 bytes) and one block's own working set, which is
what the block allocates and what it is handed beside the stream (the causal mask, rotary angles).
"""

from __future__ import annotations

import torch

from benchmarks._live_bytes import LiveBytes
from benchmarks._shapes import D_MODEL, VOCAB, model_pair
from tuco_lens.engine.contributions import batch_norms
from tuco_lens.engine.fast_path import fast_path

BATCH, TOKENS = 8, 512
MIB = 2**20


@torch.no_grad()
def main() -> None:
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS))
    stream_bytes = BATCH * TOKENS * D_MODEL * 4
    print(f"one stream: {stream_bytes / MIB:.1f} MiB")
    for backend in ("bridge", "hooked"):
        pair = model_pair(backend)
        with fast_path(pair.tuned):  # as in the measurement
            block_peak = peak_of_one_block(pair.tuned, ids)
        with LiveBytes() as whole:
            batch_norms(pair.base, pair.tuned, ids)
        bar = 6 * stream_bytes + block_peak
        verdict = "" if whole.peak <= bar else "  OVER THE BAR"
        print(
            f"{backend:8} peak {whole.peak / MIB:7.1f} MiB = {whole.peak / stream_bytes:5.2f} streams;"
            f" one block alone {block_peak / MIB:7.1f} MiB; bar {bar / MIB:7.1f} MiB{verdict}",
            flush=True,
        )


def peak_of_one_block(model: object, ids: torch.Tensor) -> int:
    """Bytes that the last block of the model's own forward pass needs at its peak, its output and mask included."""
    block = list(model.blocks)[-1]
    modes: list[LiveBytes] = []
    handed: list[int] = []

    def enter(_module: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        handed.append(sum(map(tensor_bytes, [*args, *kwargs.values()])))
        modes.append(LiveBytes().__enter__())

    def leave(*_: object) -> None:
        modes[0].__exit__(None, None, None)

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True), block.register_forward_hook(leave)]
    try:
        model(ids, return_type=None)
    finally:
        for handle in handles:
            handle.remove()
    stream_bytes = ids.numel() * D_MODEL * 4
    return modes[0].peak + handed[0] - stream_bytes


def tensor_bytes(value: object) -> int:
    """Bytes behind a block's argument: a tensor, or a tuple of tensors."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    return sum(map(tensor_bytes, value)) if isinstance(value, tuple) else 0


if __name__ == "__main__":
    main()
