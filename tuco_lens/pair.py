"""`ModelPair`: a base and a tuned model side by side, the object that users hold.

It adds measuring, scaling and generating to `LoadedPair` (`models/loaded.py`) and to the methods that say where TuCo
comes from (`attribution/methods.py`). The engine is in `engine/contributions.py`, batching in `engine/batches.py`,
scaling and generation in `steering/`, results in `results/measurement.py`. `pair.base` and `pair.tuned` are ordinary
TransformerLens models, and hooks that a user adds to them take effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from tuco_lens import __version__
from tuco_lens.attribution.methods import AttributedPair
from tuco_lens.engine.batches import Keep, MeasureOptions, measured_maps
from tuco_lens.engine.contributions import ContributionCache, decompose, require_decomposition
from tuco_lens.engine.memory import BatchTokens
from tuco_lens.engine.metrics import Norm
from tuco_lens.engine.progress import with_progress
from tuco_lens.engine.use import guard
from tuco_lens.models.failures import explained
from tuco_lens.models.loading import load_pair
from tuco_lens.models.numerics import warn_below_floor
from tuco_lens.prompts.chats import TemplateOptions, given_options
from tuco_lens.prompts.prompt import Prompt, PromptLike, Truncate, as_prompt_list, is_one_prompt
from tuco_lens.results.measurement import Measurement, MeasurementSettings, PromptMeasurement
from tuco_lens.steering.alpha import Alpha, Positions
from tuco_lens.steering.generating import GenerateOptions, TokenStream
from tuco_lens.steering.generation import Generation
from tuco_lens.steering.rows import requested_rows
from tuco_lens.steering.sampling import SamplingOptions, refuse_beams
from tuco_lens.steering.scaling import Method, Scaling, method_of, scaling_settings

if TYPE_CHECKING:
    from tuco_lens.attribution.overview import PairOverview
    from tuco_lens.explorer.widgets import Explorer
    from tuco_lens.models.placement import DeviceMap, MaxMemory
    from tuco_lens.plots.template import Theme

DEMO_FOLDER = Path(__file__).parent / "demo"


@dataclass(frozen=True)
class ModelPair(AttributedPair):
    """A base model and a fine-tune of it that are measured and steered together."""

    def __repr__(self) -> str:
        from tuco_lens.plots.cards import pair_text

        return pair_text(self)

    def _repr_html_(self) -> str:
        from tuco_lens.plots.cards import pair_card

        return pair_card(self)

    def __post_init__(self) -> None:
        guard(self.base, self.tuned)

    @classmethod
    def from_pretrained(
        cls,
        base: Any,
        tuned: Any = None,
        *,
        adapter: str | Path | None = None,
        backend: str = "auto",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: Literal["auto"] | DeviceMap | None = None,
        max_memory: MaxMemory | None = None,
        offload_folder: str | Path | None = None,
        tokenizer: Any = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> ModelPair:
        """Load a base model and a fine-tune of it, and check that they are a pair.

        Args:
            base: hub id, local directory, local `.gguf` file, or a loaded transformers model.
            tuned: the tuned model, in the same forms. Give either this or `adapter`.
            adapter: a PEFT adapter for `base` (hub id or local directory); the base weights are then in memory once.
            backend: "hooked" (HookedTransformer), "bridge" (TransformerBridge), or "auto": hooked if the installed
                TransformerLens can do it for these models and there is no adapter, else bridge, with a `BackendNotice`.
            device: where the weights go; by default where a loaded model is, else CUDA if there is one, else the CPU.
            dtype: of the weights; by default the wider of the two models' own, but float32 on the CPU unless one is
                given loaded.
            device_map: spread each model over accelerators, CPU memory and disk, in place of `device`: "auto", or where
                each module goes by its name in transformers (a number, "cpu" or "disk"). One map holds for both models.
                Weights that do not lie where they are computed with are brought in module by module. Bridge only.
            max_memory: with "auto", what the pair may take of each device, such as `{0: "70GiB", "cpu": "100GiB"}`; by
                default what is free. What fits nowhere stays on disk.
            offload_folder: where weights are written whose layout in the checkpoint is another (mixtures of experts,
                `.gguf` files, pickles); all others are read from the checkpoint itself. Removed with the pair.
            tokenizer: a transformers tokenizer, its hub id or its directory, instead of the tuned checkpoint's.
            trust_remote_code: passed on to transformers.
            allow_pickle: also read weights stored as pickles, which can run code when read.

        Raises:
            LoadError: if a model cannot be loaded, holds NaN or infinite weights, or fails `check_identity`.
            PairMismatchError: if the two are not a pair; the message names the values that differ.
        """
        loaded = load_pair(
            base,
            tuned,
            adapter=adapter,
            backend=backend,
            device=device,
            dtype=dtype,
            device_map=device_map,
            max_memory=max_memory,
            offload_folder=offload_folder,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
        pair = cls(**vars(loaded))
        with explained(f"cannot measure {pair.base_name!r} and {pair.tuned_name!r}", pair.config, pair.backend):
            pair.check_identity()
        return pair

    @classmethod
    def demo(cls, *, backend: str = "auto") -> ModelPair:
        """The package's own pair of small models (see `tuco_lens/demo/CARD.md`), in about a second, without network."""
        pair = cls.from_pretrained(DEMO_FOLDER / "base", DEMO_FOLDER / "tuned", backend=backend, device="cpu")
        return replace(pair, base_name="demo/base", tuned_name="demo/tuned")

    def _read(self, prompts: Iterable[PromptLike], first: int | None = 0, **how: Any) -> Iterator[Prompt]:
        """Read each prompt as `prompt` does, lazily; errors number the prompts from `first`, if there is one."""
        for place, prompt in enumerate(prompts):
            yield self.prompt(prompt, index=None if first is None else first + place, **how)

    def measure(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        chat: bool = False,
        system: str | None = None,
        norm: Norm = "l1",
        drift: bool = False,
        keep: Keep = "maps",
        batch_size: int = 64,
        batch_tokens: BatchTokens = "auto",
        share_prefixes: bool = True,
        truncate: Truncate | None = None,
        progress: bool = True,
        **template: Unpack[TemplateOptions],
    ) -> Measurement:
        """Measure TuCo of each prompt: fine-tuning's share of what the blocks add to the stream at its last token.

        TuCo = ‖F_L[n]‖ / (‖P_L[n]‖ + ‖F_L[n]‖), with P_L and F_L the sums of PTC and FTC over all L blocks.

        Args:
            prompts: one prompt or a list of them; see `prompt` for what one may be.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            norm: "l1" (the paper's) or "l2".
            drift: also run the base model on its own, for the drift map and OutputCo (a third pass).
            keep: "maps" of all layers and tokens, or "last": of the last token alone, which is faster and needs no
                memory per token, but gives no maps and no β.
            batch_size: prompts per batch at most.
            batch_tokens: tokens per padded batch at most; halved and retried when memory runs out. "auto" takes what is
                good on a CPU; on an accelerator it grows to what fits, and is remembered for the pair.
            share_prefixes: compute what prompts begin with once, wherever that pays. It changes no number beyond
                rounding, and is not done where it would: see "Shared beginnings" in `docs/performance.md`.
            truncate: "left" or "right" cuts prompts longer than the context; otherwise they are an error.
            progress: show a bar with prompts/s, if stderr is a terminal or in a notebook.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Returns:
            A `Measurement` in input order: norms only, so its size does not depend on d_model.

        Raises:
            InputError: for an unusable prompt (with its index) or option, before anything is measured.
        """
        listed = as_prompt_list(prompts)
        ready = list(self._read(listed, chat=chat, system=system, truncate=truncate, drift=drift, **template))
        chunk_size = max(1, len(ready))
        options = MeasureOptions(norm, drift, keep, batch_size, batch_tokens, chunk_size, share_prefixes)
        items = tuple(with_progress(self._measured(ready, options), total=len(ready), show=progress))
        warn_below_floor([item.tuco for item in items], self.dtype)
        return Measurement(items, self.settings(norm=norm, chat=chat, drift=drift, **template))

    def measure_stream(
        self,
        prompts: Iterable[PromptLike],
        *,
        chat: bool = False,
        system: str | None = None,
        norm: Norm = "l1",
        drift: bool = False,
        keep: Keep = "maps",
        batch_size: int = 64,
        batch_tokens: BatchTokens = "auto",
        chunk_size: int = 256,
        share_prefixes: bool = True,
        truncate: Truncate | None = None,
        start_index: int = 0,
        **template: Unpack[TemplateOptions],
    ) -> Iterator[PromptMeasurement]:
        """Measure any number of prompts, reading `chunk_size` of them at a time; yields in input order.

        Prompts of one chunk share beginnings and batches. The other options are those of `measure`; `start_index` is
        the index of the first prompt in error messages.
        """
        ready = self._read(prompts, start_index, chat=chat, system=system, truncate=truncate, drift=drift, **template)
        options = MeasureOptions(norm, drift, keep, batch_size, batch_tokens, chunk_size, share_prefixes)
        return self._measured(ready, options)

    def _measured(self, prompts: Iterable[Prompt], options: MeasureOptions) -> Iterator[PromptMeasurement]:
        for prompt, maps in measured_maps(self.base, self.tuned, prompts, options, pad_id=self.pad_id):
            yield PromptMeasurement(prompt, maps, options.norm)

    def run_with_cache(
        self,
        prompt: PromptLike,
        *,
        chat: bool = False,
        system: str | None = None,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        **template: Unpack[TemplateOptions],
    ) -> tuple[Float[Tensor, "pos d_vocab"], ContributionCache]:
        """Run the tuned model on one prompt and keep the vectors of the decomposition.

        Args:
            prompt: see `prompt`.
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            layers: the blocks to keep, 0 … L-1; all by default. Negative ones count from the end.
            positions: the token positions to keep; all by default. Negative ones count from the end.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Returns:
            The tuned model's logits at every position, and the `ContributionCache`.

        Raises:
            InputError: for an invalid prompt, layer or position.
        """
        made = self.prompt(prompt, chat=chat, system=system, **template)
        return decompose(self.base, self.tuned, made.token_ids, layers=layers, positions=positions)

    def scaled(self, alpha: Alpha, *, positions: Positions = None, method: Method = "ftc") -> Scaling:
        """Scale the contribution of fine-tuning in every call of `pair.tuned` while this is on.

        FTC_α-scaling (paper §5.1): x_{l+1} = x_l + PTC(x_l, l) + α·FTC(x_l, l), x being the scaled stream. α = 1 is the
        tuned model, bit for bit; α = 0 is the base model's blocks on the tuned embedding and unembedding. KV caches
        work if prompt and continuation both run inside. `measure` inside sees the scaled model, whose FTC is α·FTC.

        Args:
            alpha: a number, a value per layer, a mapping of layers or ranges of layers to values (others keep 1), or a
                function of the layer. Negative values and values above 1 are allowed.
            positions: where α acts: "prompt" or "generated" (after the pass that began the KV cache), a slice, range or
                list of positions; all by default. Negative ones count from the prompt's end; left padding counts.
            method: "ftc"; or a baseline, with one α for the whole model: "logits", l_tuned + (α − 1)(l_tuned − l_base),
                or "weights", W_base + α(W_tuned − W_base).

        Returns:
            A `Scaling`: use it in a `with`, or call `apply` and `remove`. Of nested ones, only the innermost acts.

        Raises:
            InputError: for an α that is not finite or does not fit the layers or the method, and for unknown positions.
        """
        settings = scaling_settings(alpha, self.n_layers, positions=positions, method=method)
        return Scaling(self, settings, lambda: method_of(self, settings), open_ended=True)

    def generate(
        self,
        prompts: PromptLike | Sequence[PromptLike],
        *,
        alpha: Alpha | None = None,
        alphas: Sequence[Alpha] | None = None,
        method: Method = "ftc",
        positions: Positions = None,
        chat: bool = False,
        system: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        batch_size: int = 8,
        use_cache: bool = True,
        tuco: bool = True,
        num_beams: int = 1,
        stream: bool = False,
        **template: Unpack[TemplateOptions],
    ) -> Generation | list[Generation] | TokenStream:
        """Continue prompts with the tuned model, scaled or not, and measure fine-tuning's contribution to each token.

        Args:
            prompts: one prompt or a list of them; see `prompt` for what one may be.
            alpha: as in `scaled`; by default that of the open `scaled`, or 1 if there is none.
            alphas: several α instead of one, side by side in one batch.
            method: "ftc", "logits" or "weights", as in `scaled`.
            positions: where α acts: as in `scaled`, or on the tokens of one role ("system", "user", "assistant", …).
            chat: put plain text through the chat template, as one user message.
            system: a system message in front, for chats.
            max_new_tokens: most tokens to generate.
            temperature: 0 is greedy.
            top_k: draw among this many of the likeliest tokens.
            top_p: draw among the likeliest tokens that together have at least this probability.
            seed: of the draws; every α of a prompt gets the same ones.
            stop: strings that end the text, and are cut off.
            batch_size: rows per batch at most; a row is one prompt at one α. Halved when memory runs out.
            use_cache: keep keys and values of both models. Without it the result is the same, only slower.
            tuco: record TuCo and the layer profile of every token, from the pass that generated it.
            num_beams: must be 1.
            stream: return a `TokenStream` instead, which yields every token as it is generated.
            **template: prefill, continue_final, tools, template_kwargs, special_tokens; see `TemplateOptions`.

        Returns:
            A `Generation` for one prompt and no `alphas`, else a list: prompt by prompt, each at every α in turn.

        Raises:
            InputError: for an invalid prompt, α, position or option, and for beam search.
        """
        refuse_beams(num_beams)
        sampling = SamplingOptions(temperature, top_k, top_p, seed)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        options = GenerateOptions(max_new_tokens, sampling, stops, batch_size, use_cache, tuco)
        many = alphas is not None or not is_one_prompt(prompts)
        ready = list(self._read(as_prompt_list(prompts), 0 if many else None, chat=chat, system=system, **template))
        rows = requested_rows(self, ready, alpha=alpha, alphas=alphas, method=method, positions=positions)
        tokens = TokenStream(self, rows, options, hold=not stream)
        return tokens if stream else (tokens.finished() if many else tokens.finished()[0])

    def explore(
        self,
        prompt: str = "Tell me about the sea.",
        *,
        chat: bool = False,
        alpha: Alpha = 1.0,
        max_new_tokens: int = 16,
        theme: Theme = "light",
    ) -> Explorer:
        """Explore prompts and α in a notebook: map, coloured tokens, continuations and next tokens, with controls.

        Args:
            prompt: the text to begin with.
            chat: put it through the chat template, as one user message.
            alpha: the α to begin with, as in `scaled`.
            max_new_tokens: most tokens of the greedy continuations.
            theme: "light" or "dark", for the map; everything else follows the notebook's.

        Returns:
            An `Explorer`, which displays itself as a cell's last value; its `view` has what is shown, as data.

        Raises:
            InputError: for an invalid α, number of tokens or theme. An unusable text is shown as an error, not raised.
            LoadError: if ipywidgets or anywidget is not installed.
        """
        from tuco_lens.explorer.widgets import Explorer

        return Explorer(self, prompt, chat=chat, alpha=alpha, max_new_tokens=max_new_tokens, theme=theme)

    def overview(self, measurement: Measurement) -> PairOverview:
        """How far fine-tuning moved each weight matrix, beside the mean norm of FTC on measured prompts, by layer.

        Raises:
            InputError: if the measurement has no prompts, or comes from a pair with another number of layers.
        """
        from tuco_lens.attribution.overview import pair_overview

        return pair_overview(self, measurement)

    def settings(
        self, *, norm: Norm = "l1", chat: bool = False, drift: bool = False, **template: Unpack[TemplateOptions]
    ) -> MeasurementSettings:
        """The settings that a measurement of this pair with these options records."""
        return MeasurementSettings(
            base=self.base_name,
            tuned=self.tuned_name,
            backend=self.backend,
            dtype=self.dtype,
            norm=norm,
            chat=chat,
            drift=drift,
            n_layers=self.n_layers,
            d_model=self.d_model,
            version=__version__,
            template=given_options(template),
        )

    def check_identity(self) -> float:
        """The relative L1 residual of x_0 + P_L + F_L = x_L on one short pass; raises `LoadError` if it is large."""
        return require_decomposition(self.base, self.tuned, f"{self.base_name} and {self.tuned_name}")
