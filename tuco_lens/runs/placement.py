"""Where a pair may be placed: what a pass holds, whether a device has room for it, and what to do where it has not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tuco_lens.brief import Brief
from tuco_lens.runs.devices import GIB, Device
from tuco_lens.runs.planned_pair import ITEMSIZES, PlannedPair
from tuco_lens.runs.workload import Workload

KEPT_FREE: Final = 0.08
"""Part of a device's memory that is not planned with: gaps of its allocator, and what else is there."""
CONTEXT_BYTES: Final = GIB // 2
"""What CUDA itself holds on an accelerator; assumed."""
LINK_BYTES: Final = {"CPU memory": 25e9, "disk": 2e9}
"""Bytes per second at which offloaded weights are read; assumed (PCIe 4 with 16 lanes, a good solid-state disk)."""
MOST_DEVICES: Final = 8
"""Accelerators over which one pair is spread at most: those of one machine."""
HEAP: Final = 2.0
"""By how much a process on a CPU grows over what the tensors of a pass hold, for the gaps of malloc between tensors of
many sizes: what suits the pairs of `benchmarks/plan.py`. It is little beside the weights of any but a small model."""
ENTRY_BYTES: Final = 1500
"""What tokenizers hold per entry of the vocabulary, copies and all; found in the same way."""
CHUNK: Final = 256
"""Prompts whose maps are held at a time."""


@dataclass(frozen=True)
class PlanMemory(Brief):
    """What is held at once, in bytes, beside the libraries."""

    base: int
    """The base model's weights."""
    tuned: int
    """The tuned model's; of an adapter, what it adds."""
    tables: int
    """Tokenizers, rotary tables of HookedTransformers, what CUDA holds."""
    caches: int
    """KV caches of the beginnings that prompts share, of both models."""
    per_token: int
    """Streams, sums and the work of one block, for each token of a padded batch."""
    maps: int
    """Norms of a chunk of prompts, which are on the CPU."""
    loading: int
    """What the CPU holds beside the weights while a model is read."""
    on_cpu: bool
    """Whether the device is the CPU, so that maps and loading count there."""

    @property
    def fixed(self) -> int:
        """All that does not depend on the batch."""
        return self.base + self.tuned + self.tables + self.caches + (self.maps if self.on_cpu else 0)

    def peak(self, batch_tokens: int) -> int:
        """The most that is held on the device at a time, with batches of so many tokens."""
        loading = self.base + self.tuned + self.tables + self.loading if self.on_cpu else 0
        return max(self.fixed + batch_tokens * self.per_token, loading)

    def tokens_in(self, n_bytes: float) -> int:
        """Tokens of the largest batch that fits beside what is fixed; below 0 if that does not fit."""
        return math.floor((n_bytes - self.fixed) / self.per_token)


def planned_memory(pair: PlannedPair, dtype: str, work: Workload, device: Device, *, drift: bool) -> PlanMemory:
    """What is held at once when a pair is measured.

    Args:
        pair: the pair.
        dtype: of its weights.
        work: the prompts.
        device: where.
        drift: whether the base model also runs on its own stream.
    """
    itemsize, sizes = ITEMSIZES[dtype], pair.sizes
    base, tuned = pair.weights(dtype)
    on_cpu, hooked = device.kind == "cpu", pair.backend == "hooked"
    tables = 2 * itemsize * sizes.tables(work.longest) if hooked else 0
    tables += ENTRY_BYTES * sizes.d_vocab if on_cpu else CONTEXT_BYTES
    copies = 3 if drift else 2
    n_norms = 5 if drift else 4
    return PlanMemory(
        base=base,
        tuned=tuned,
        tables=tables,
        caches=copies * itemsize * sizes.cache_entries * work.shared_tokens,
        per_token=round(bytes_per_token(pair, itemsize, work.longest, drift=drift) * (HEAP if on_cpu else 1)),
        maps=4 * n_norms * sizes.n_layers * work.typical * min(CHUNK, work.n_prompts),
        loading=pair.loading(dtype),
        on_cpu=on_cpu,
    )


def bytes_per_token(pair: PlannedPair, itemsize: int, length: int, *, drift: bool) -> int:
    """What a pass holds at its peak for each token of a batch whose rows have `length` tokens.

    The sums P and F in float32 (float64 of such models) and the norms of every layer; five streams (what enters the
    block, the tuned block's output, the base block's, and two within it); and the larger of MLP and attention within a
    block: three activations of the MLP, or queries, keys, values and their like, and without a fused kernel four
    tensors of scores. `benchmarks/memory.py` counts the same on a living pass.
    """
    sizes = pair.sizes
    wide = max(4, itemsize)
    fused = pair.backend == "bridge" and sizes.fuses_attention
    heads = 6 * sizes.d_attention if fused else 3 * sizes.d_attention + 4 * sizes.n_heads * length
    block = itemsize * (5 * sizes.d_model + max(3 * sizes.d_mlp, heads))
    sums = wide * (2 * sizes.d_model + 4 * sizes.n_layers)
    own = (itemsize + wide) * sizes.d_model + wide * sizes.n_layers if drift else 0
    differences = itemsize * 3 * sizes.d_model + wide * 4 * sizes.d_model  # after the block, while norms are taken
    return sums + own + max(block, differences)


@dataclass(frozen=True)
class Way(Brief):
    """One way to place a pair, and what a run takes with it."""

    name: str
    """"one device", "device map", "offload to CPU memory" or "offload to disk"."""
    fits: bool
    """Whether there is room."""
    n_devices: int
    """Devices that hold one pair."""
    n_workers: int
    """Pairs that run side by side on the devices that there are; 0 if there are too few."""
    bytes_each: int
    """Memory used on each device at the peak."""
    bytes_offloaded: int
    """Weights that are elsewhere, and read once for each batch."""
    batch_tokens: int
    """Tokens of a padded batch at most."""
    batch_rows: int
    """Prompts of a batch."""
    seconds: float
    """Time of the whole run with all workers; infinite if it does not fit or there are too few devices."""
    device_hours: float
    """Devices × hours; infinite likewise."""

    @property
    def works(self) -> bool:
        """Whether it fits on the devices that there are."""
        return self.fits and self.n_workers > 0


@dataclass(frozen=True)
class Placing:
    """What decides where a pair may go, and how long it takes there."""

    memory: PlanMemory
    """What a pair holds."""
    work: Workload
    """The prompts."""
    device: Device
    """One of the devices."""
    n_devices: int
    """How many there are."""
    n_layers: int
    """Blocks, which are placed whole."""
    batch_size: int
    """Prompts of a batch at most."""
    seconds: Callable[[int], float]
    """Time of the whole run on one device, by the prompts of a batch."""

    @property
    def room(self) -> int:
        """Bytes of a device that may be planned with."""
        return math.floor(self.device.memory_bytes * (1 - KEPT_FREE))

    def ways(self) -> tuple[Way, ...]:
        """How the pair may be placed; the simplest first, and no other where that fits."""
        one = self._one_device()
        if one.fits:
            return (one,)
        spread = () if self.memory.on_cpu else (self._spread(),)
        places = ("disk",) if self.memory.on_cpu else tuple(LINK_BYTES)
        return (one, *spread, *map(self._offloaded, places))

    def batch_tokens(self, room: float) -> int:
        """What `batch_tokens="auto"` comes to with so much room: at least one longest prompt."""
        from tuco_lens.engine.memory import CPU_TOKENS, MOST_TOKENS

        most = CPU_TOKENS if self.memory.on_cpu else MOST_TOKENS
        return max(self.work.longest, min(most, self.memory.tokens_in(room)))

    def rows(self, batch_tokens: int) -> int:
        """Prompts of a typical batch."""
        return max(1, min(self.batch_size, self.work.n_prompts, batch_tokens // self.work.typical))

    def _one_device(self) -> Way:
        batch_tokens = self.batch_tokens(self.room)
        fits = self.memory.peak(batch_tokens) <= self.room
        return self._way("one device", 1, batch_tokens, fits=fits)

    def _spread(self) -> Way:
        """Blocks over several accelerators, which run one after the other; each holds its part and one batch's work."""
        memory, least = self.memory, self._least()
        weights = memory.base + memory.tuned
        free = self.room - (least - weights)
        layer = weights / self.n_layers  # blocks are not cut, so a device may be left with less than one free
        n = math.ceil(weights / (free - layer)) if free > layer else MOST_DEVICES + 1
        share = weights / max(n, 1) + layer
        batch_tokens = self.batch_tokens(self.room + weights - share)
        return self._way("device map", max(n, 2), batch_tokens, fits=n <= MOST_DEVICES, elsewhere=weights - share)

    def _offloaded(self, place: str) -> Way:
        """The weights that do not fit beside the work of one batch are elsewhere, and read for each batch."""
        memory = self.memory
        weights, layer = memory.base + memory.tuned, (memory.base + memory.tuned) / self.n_layers
        work = self._least() - weights
        # Half of what the weights leave is for the batch: the larger it is, the more seldom weights are read.
        batch_bytes = max(0.0, (self.room - work) / 2)
        batch_tokens = self.batch_tokens(self.room + weights - batch_bytes)
        kept = max(0.0, self.room - (memory.peak(batch_tokens) - weights))
        away = max(0.0, weights - kept)
        fits = memory.peak(batch_tokens) - weights + layer <= self.room
        return self._way(f"offload to {place}", 1, batch_tokens, fits=fits, elsewhere=away, place=place)

    def _least(self) -> int:
        """What is held with batches of one prompt."""
        return self.memory.fixed + self.work.longest * self.memory.per_token

    def _way(
        self, name: str, n: int, batch_tokens: int, *, fits: bool, elsewhere: float = 0.0, place: str | None = None
    ) -> Way:
        rows, workers = self.rows(batch_tokens), self.n_devices // n
        hours = math.inf
        seconds = math.inf
        if fits and workers:
            reading = 0.0 if place is None else elsewhere / LINK_BYTES[place] * math.ceil(self.work.n_prompts / rows)
            seconds = (self.seconds(rows) + reading) / workers
            hours = seconds * workers * n / 3600
        elsewhere = math.ceil(elsewhere)
        each = self.memory.peak(batch_tokens) - elsewhere
        return Way(name, fits, n, workers, each, elsewhere if place else 0, batch_tokens, rows, seconds, hours)
