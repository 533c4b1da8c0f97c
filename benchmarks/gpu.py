"""An accelerator in six minutes: is it exact, how fast, how much memory, and does it survive running out of it.

    python -m benchmarks.gpu

Needs this folder, the installed package and a GPU: the weights are random, and nothing is fetched. `--tiny` runs the
same on a CPU with tiny shapes, to see that the script itself works. Sections stop beginning once `--seconds` are over,
and say so.

Exactness is against the CPU in the same process. Ratios are to two bare transformers forwards, base and tuned, without
unembedding. The share of the peak counts the operations of both models' blocks (`ModelSizes.block_flops`). What
`torch.compile` and CUDA graphs do is reported as tried; nothing of the package uses them.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import inspect
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks._shapes import STRENGTH, word_tokenizer
from tuco_lens import ModelPair
from tuco_lens.engine.contributions import batch_norms
from tuco_lens.errors import TucoLensError
from tuco_lens.models.sizes import model_sizes
from tuco_lens.models.sources import LoadOptions, resolve_source
from tuco_lens.runs.devices import KNOWN

GIB, MIB = 2**30, 2**20
VOCAB: Final = 4096
"""Fewer words than the models have: the unembedding is not measured, and takes memory."""
SHAPES: Final = {
    "SmolLM2": (576, 1536, 30, 9, 3),
    "1B": (2048, 8192, 16, 32, 8),
    "8B": (4096, 14336, 32, 32, 8),
}
"""d_model, width of the MLP, blocks, heads, key-value heads: of SmolLM2-135M, Llama 3.2 1B, Llama 3.1 8B."""
TINY: Final = {"SmolLM2": (48, 96, 3, 4, 2), "1B": (64, 128, 2, 4, 2)}
BATCHES: Final = ((1, 32), (8, 256), (32, 512))
TINY_BATCHES: Final = ((1, 8), (4, 16))
TOLERANCE: Final = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1.5e-1}
"""Largest difference of a cell of the map from the CPU's in the same dtype; half precision rounds elsewhere there."""


class Run:
    """What the sections share: the device, the sizes, and the time that is left."""

    def __init__(self, device: str, *, tiny: bool, seconds: float, peak: float | None) -> None:
        self.device, self.tiny, self.peak = torch.device(device), tiny, peak
        self.end = time.monotonic() + seconds
        self.failures: list[str] = []
        self.shapes, self.batches = (TINY, TINY_BATCHES) if tiny else (SHAPES, BATCHES)
        self.is_cuda = self.device.type == "cuda"

    def check(self, text: str, *, ok: bool) -> None:
        """Says what was found, and keeps what is over its bar."""
        print(f"  {text}{'' if ok else '  OVER THE BAR'}", flush=True)
        if not ok:
            self.failures.append(text)

    def seconds(self, run: Callable[[], object]) -> float:
        """Time of a call, and of what it left the device to do."""
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def held(self, run: Callable[[], object]) -> int | None:
        """Most bytes on the device during a call, over those before it; None on a CPU."""
        if not self.is_cuda:
            run()
            return None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        return torch.cuda.max_memory_allocated(self.device) - before

    def ids(self, batch: int, tokens: int) -> torch.Tensor:
        """Random token ids, on the device."""
        return torch.randint(0, VOCAB, (batch, tokens), device=self.device)


def shape(name: str, run: Run, layers: int | None = None) -> LlamaConfig:
    """The configuration of one of the shapes."""
    d_model, d_mlp, n_layers, heads, groups = run.shapes[name]
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=min(n_layers, layers or n_layers),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )


@torch.no_grad()
def two_models(config: LlamaConfig, device: torch.device | str, dtype: str) -> tuple[Any, Any]:
    """A base, and a tuned model that is the base with noise on every tensor; made where they stay."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            base = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)
    tuned = copy.deepcopy(base)
    for parameter in tuned.parameters():
        parameter.add_(torch.randn_like(parameter) * parameter.std() * STRENGTH)
    return base, tuned


def pair_of(models: tuple[Any, Any]) -> ModelPair:
    """Their pair on the bridge, which shares their weights."""
    return ModelPair.from_pretrained(*models, tokenizer=word_tokenizer(VOCAB), backend="bridge")


def card(run: Run) -> None:
    """Which device, and its peak."""
    if not run.is_cuda:
        print(f"  CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
        return
    found = torch.cuda.get_device_properties(run.device)
    print(f"  {found.name}, {found.total_memory / GIB:.1f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}")
    if run.peak is None:
        run.peak = _known_peak(found.name, found.total_memory)
    print(f"  peak in bfloat16: {'not known' if run.peak is None else f'{run.peak / 1e12:.0f} 10^12 operations/s'}")


def _known_peak(name: str, memory: int) -> float | None:
    """That of the known card whose name is in the driver's, and whose memory is nearest."""
    plain = name.lower().replace(" ", "")
    fitting = [each for each in KNOWN.values() if each.name.split("-")[0] in plain]
    return min(fitting, key=lambda each: abs(each.memory_bytes - memory)).half_flops if fitting else None


def exactness(run: Run) -> None:
    """Maps on the device beside those of the CPU, in each dtype, and beside float32 on the CPU."""
    config = shape("SmolLM2", run, layers=6)
    ids = run.ids(4, 64 if not run.tiny else 16)
    exact = two_models(config, "cpu", "float32")
    for dtype in ("float32", "bfloat16", "float16"):
        on_cpu = tuple(copy.deepcopy(model).to(getattr(torch, dtype)) for model in exact)
        on_device = tuple(copy.deepcopy(model).to(run.device) for model in on_cpu)
        rounded = tuple(copy.deepcopy(model).float() for model in on_cpu)  # the same weights, computed exactly
        maps = [_tuco_map(pair_of(models), ids) for models in (on_cpu, on_device, rounded)]
        here, there, sure = maps
        worst = float((there - here).abs().max())
        off = [float((each - sure).abs().max()) for each in (there, here)]
        beside = f"to float32 with the same weights: device {off[0]:.1e}, CPU {off[1]:.1e}"
        text = f"{dtype:9} device to CPU {worst:.1e}; {beside}"
        run.check(f"{text} (bar {TOLERANCE[dtype]:.0e})", ok=worst <= TOLERANCE[dtype])


def _tuco_map(pair: ModelPair, ids: torch.Tensor) -> torch.Tensor:
    """‖F‖ / (‖P‖ + ‖F‖) of every layer, row and token."""
    norms = batch_norms(pair.base, pair.tuned, ids.to(pair.device))
    return norms.cumulative_ftc / (norms.cumulative_ptc + norms.cumulative_ftc)


def speed(run: Run) -> None:
    """Ratio to two bare forwards, tokens per second, share of the peak and memory, in each shape."""
    dtype = "float32" if run.tiny else "bfloat16"
    print(f"  {dtype}; {'shape':8} {'batch':>5} {'tokens':>6} {'ratio':>6} {'tokens/s':>10} {'of peak':>8} {'MiB':>8}")
    for name in run.shapes:
        config = shape(name, run)
        sizes = model_sizes(resolve_source(_shell(config), "base", LoadOptions()), config, LoadOptions())
        needed = 2 * 2 * sizes.n_parameters
        if run.is_cuda and needed > 0.8 * torch.cuda.mem_get_info(run.device)[0]:
            print(f"  {name}: left out, two models take {needed / GIB:.1f} GiB")
            continue
        models = two_models(config, run.device, dtype)
        pair = pair_of(models)
        for batch, tokens in run.batches:
            _speed_of(run, name, sizes, models, pair, run.ids(batch, tokens))
        del models, pair
        free(run)


def _shell(config: LlamaConfig) -> LlamaForCausalLM:
    """A model of one parameterless block: only a name for error messages."""
    small = copy.deepcopy(config)
    small.update({"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8})
    small.update({"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 8})
    return LlamaForCausalLM(small)


@torch.no_grad()
def _speed_of(run: Run, name: str, sizes: Any, models: tuple[Any, Any], pair: ModelPair, ids: torch.Tensor) -> None:
    def floor() -> None:
        for model in models:
            model.model(ids, use_cache=False)

    def measure() -> None:
        batch_norms(pair.base, pair.tuned, ids)

    for each in (floor, measure):
        each()
    rounds = 3 if run.tiny else 9
    times = [[run.seconds(each) for each in (measure, floor)] for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in times)
    seconds = statistics.median(a for a, _ in times)
    batch, tokens = ids.shape
    flops = 2 * ids.numel() * sizes.block_flops(tokens)
    of_peak = "–" if run.peak is None else f"{flops / seconds / run.peak:.1%}"
    held = run.held(measure)
    memory = "–" if held is None else f"{held / MIB:.0f}"
    columns = f"{batch:5} {tokens:6} {ratio:6.3f} {ids.numel() / seconds:10.0f} {of_peak:>8} {memory:>8}"
    print(f"  {' ' * 8}  {name:8} {columns}", flush=True)


def out_of_memory(run: Run) -> None:
    """A batch that does not fit is halved, the run goes on, and the numbers are those of small batches."""
    models = two_models(shape("SmolLM2", run, layers=6), run.device, "float32")
    rows, tokens = (256, 256) if not run.tiny else (12, 16)
    for_device = run.ids(rows, tokens).tolist()
    small = pair_of(models).measure(for_device, batch_size=2, progress=False, share_prefixes=False)
    pair, sizes = pair_of(models), list[int]()
    watched = pair.tuned.blocks[0].register_forward_pre_hook(_note_rows(sizes), with_kwargs=True)
    try:
        with _scarce(run, pair):
            every = pair.measure(
                for_device, batch_size=rows, batch_tokens=rows * tokens, progress=False, share_prefixes=False
            )
    finally:
        watched.remove()
    worst = max(abs(a.tuco - b.tuco) for a, b in zip(small, every, strict=True))
    halved = max(sizes) > sizes[-1]
    text = f"batches of {max(sizes)} rows were cut to {min(sizes)}; largest difference of TuCo {worst:.1e} (bar 1e-04)"
    run.check(text, ok=halved and worst <= 1e-4)


def _note_rows(sizes: list[int]) -> Callable[..., None]:
    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.append(len(args[0] if args else kwargs["hidden_states"]))

    return note


@contextlib.contextmanager
def _scarce(run: Run, pair: ModelPair) -> Generator[None]:
    """While open, large batches do not fit; a CPU is made to say so."""
    if run.is_cuda:
        free(run)
        total = torch.cuda.get_device_properties(run.device).total_memory
        allowed = torch.cuda.memory_reserved(run.device) + 256 * MIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), run.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, run.device)
        return

    def refuse(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args[0] if args else kwargs["hidden_states"]) > 4:
            raise torch.OutOfMemoryError("made by this benchmark")

    handle = pair.tuned.blocks[-1].register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def offload(run: Run) -> None:
    """A pair of which the device holds half: the same numbers, and what it costs."""
    if "device_map" not in inspect.signature(ModelPair.from_pretrained).parameters:
        print("  not tried: this version of the package places a pair on one device")
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("base", "tuned")]
        models = two_models(shape("SmolLM2" if run.tiny else "1B", run), "cpu", "float32")
        for path, model in zip(paths, models, strict=True):
            model.save_pretrained(path)
            word_tokenizer(VOCAB).save_pretrained(path)
        half = sum(parameter.numel() for parameter in models[0].parameters()) * 4
        rooms: dict[int | str, int] = {0: half, "cpu": 64 * GIB} if run.is_cuda else {"cpu": half}
        how: dict[str, Any] = {"backend": "bridge", "dtype": "float32"}
        whole = ModelPair.from_pretrained(*paths, **how, device=str(run.device))
        try:
            parts = ModelPair.from_pretrained(
                *paths, **how, device_map="auto", max_memory=rooms, offload_folder=str(Path(folder) / "away")
            )
        except TucoLensError as error:
            run.check(f"refused: {error}", ok=False)
            return
        ids = run.ids(*run.batches[1])
        a, b = (_tuco_map(pair, ids) for pair in (whole, parts))
        times = [run.seconds(lambda pair=pair: batch_norms(pair.base, pair.tuned, ids)) for pair in (whole, parts)]
        ratio = times[1] / times[0]
        run.check(f"half elsewhere: equal bit for bit {bool(a.equal(b))}, {ratio:.2f} of the time", ok=bool(a.equal(b)))


def generation(run: Run) -> None:
    """Scaled, cached generation beside transformers' own of the tuned model alone."""
    models = two_models(shape("SmolLM2", run), run.device, "float32" if run.tiny else "bfloat16")
    pair, n_new = pair_of(models), 8 if run.tiny else 64
    ids = run.ids(1, 16)
    plain = {"do_sample": False, "min_new_tokens": n_new, "max_new_tokens": n_new, "pad_token_id": 0}

    def bare() -> None:
        models[1].generate(ids, attention_mask=torch.ones_like(ids), **plain)

    def scaled() -> None:
        pair.generate(ids[0].tolist(), alpha=0.8, max_new_tokens=n_new)

    for each in (bare, scaled):
        each()
    times = [[run.seconds(each) for each in (scaled, bare)] for _ in range(3)]
    ratio = statistics.median(a / b for a, b in times)
    print(f"  α = 0.8 with TuCo of every token: {ratio:.2f} of transformers' time for the tuned model", flush=True)
    new = [pair.generate(ids[0].tolist(), alpha=0.8, max_new_tokens=8, use_cache=cached) for cached in (True, False)]
    same = list(new[0].token_ids) == list(new[1].token_ids)
    run.check(f"cached and uncached texts are equal: {same}", ok=same or not run.tiny)


def compiled(run: Run) -> None:
    """The MLP of every block by `torch.compile`, without and with CUDA graphs: gain, and what changes."""
    models = two_models(shape("SmolLM2", run), run.device, "float32" if run.tiny else "bfloat16")
    pair = pair_of(models)
    ids = run.ids(*run.batches[1])
    expected = _tuco_map(pair, ids)

    def measure() -> None:
        batch_norms(pair.base, pair.tuned, ids)

    before = statistics.median(run.seconds(measure) for _ in range(3))
    for mode in ("default", "reduce-overhead"):
        what = "torch.compile" if mode == "default" else "torch.compile with CUDA graphs"
        torch.compiler.reset()
        counters.clear()
        try:
            with _compiled_mlps((pair.base, pair.tuned), mode):
                changed = float((_tuco_map(pair, ids) - expected).abs().max())
                after = statistics.median(run.seconds(measure) for _ in range(3))
        except Exception as error:  # whatever a compiler meets; it is only tried
            print(f"  {what} of the MLPs: failed, {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}")
            continue
        frames = counters["frames"]["ok"]  # none: whatever ran was not compiled
        gain = f"{after / before:.3f} of the time, maps change by {changed:.1e}, {frames} frames compiled"
        print(f"  {what} of the MLPs: {gain}", flush=True)


@contextlib.contextmanager
def _compiled_mlps(models: Sequence[Any], mode: str) -> Generator[None]:
    """While open, transformers' MLP modules run compiled; no hook point is within them on the fast path."""
    found = [
        module for model in models for module in model.original_model.modules() if type(module).__name__ == "LlamaMLP"
    ]
    for module in found:
        module.forward = torch.compile(module.forward, mode=mode)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def free(run: Run) -> None:
    """Give back what earlier sections held."""
    gc.collect()
    if run.is_cuda:
        torch.cuda.empty_cache()


SECTIONS: Final = (card, exactness, out_of_memory, generation, offload, speed, compiled)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="Tiny shapes on the CPU: to see that this script works.")
    parser.add_argument("--device", default=None, help="By default the first GPU.")
    parser.add_argument("--seconds", type=float, default=330.0, help="No section begins after these.")
    parser.add_argument("--peak", type=float, help="Peak in bfloat16 of a card that is not known, 10^12 operations/s.")
    asked = parser.parse_args(arguments)
    device = asked.device or ("cpu" if asked.tiny else "cuda")
    if device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU; --tiny runs on the CPU")
    if device == "cpu":
        torch.set_num_threads(1)  # two wait for one another where others work too
    torch.backends.cuda.matmul.allow_tf32 = False  # "float32" shall mean it
    peak = None if asked.peak is None else asked.peak * 1e12
    run = Run(device, tiny=asked.tiny, seconds=asked.seconds, peak=peak)
    for section in SECTIONS:
        print(f"{section.__name__.replace('_', ' ')}: {inspect.getdoc(section)}", flush=True)
        if time.monotonic() > run.end:
            print("  left out: the time is over")
            continue
        section(run)
        free(run)
    print("all within their bars" if not run.failures else f"{len(run.failures)} over their bars")
    return 1 if run.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
