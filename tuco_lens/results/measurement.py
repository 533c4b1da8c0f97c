"""What a measurement returns: norms per layer and token, and TuCo and its kin read off them.

`ModelPair.measure` (`pair.py`) makes these; the definitions are in `engine/metrics.py`; figures in
`plots/`, the HTML page in `report/`. A measurement holds no vectors: its size is
layers × tokens, whatever the width of the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tuco_lens.brief import Brief, brief, in_lines
from tuco_lens.engine import metrics
from tuco_lens.engine.contributions import NormMaps
from tuco_lens.engine.metrics import Norm
from tuco_lens.errors import InputError
from tuco_lens.prompts.prompt import Prompt
from tuco_lens.results.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from tuco_lens.plots.heatmap import LayerTokenMap
    from tuco_lens.plots.layer_profile import LayerProfile, ProfileKind
    from tuco_lens.plots.template import Theme
    from tuco_lens.plots.tokens import ColoredTokens

MapKind = Literal["cumulative", "local", "drift"]
FORMAT = "tuco_lens.results.measurement.v1"
_HEADER = "measurement"


@dataclass(frozen=True)
class PromptMeasurement(Brief):
    """TuCo of one prompt, and the maps it is read from."""

    prompt: Prompt
    """The prompt as it was measured, with its tokens."""
    maps: NormMaps
    """Norms per layer and token; of the last token alone if it was measured with `keep="last"`."""
    norm: Norm = "l1"
    """The norm of the maps; the paper's TuCo is L1."""

    def __repr__(self) -> str:
        what = f"PromptMeasurement: TuCo {self.tuco:.4f}, β {self.beta:.4f}; {self.n_tokens} tokens,"
        shown = f"{what} {self.maps.ptc.shape[0]} layers: {brief(self.prompt.text)}."
        return in_lines(f"{shown} .map() .heatmap() .colored_tokens() .layer_token('local')")

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return self.prompt.n_tokens

    @property
    def has_maps(self) -> bool:
        """Whether the norms of every token were kept, and not the last token's alone."""
        return self.maps.ptc.shape[1] == self.n_tokens

    @property
    def tuco(self) -> float:
        """TuCo = ‖F_L[n]‖ / (‖P_L[n]‖ + ‖F_L[n]‖), in [0, 1]: last token, after the last layer."""
        return metrics.tuco(self.maps.cumulative_ptc, self.maps.cumulative_ftc).item()

    @property
    def preco(self) -> float:
        """PreCo = 1 − TuCo."""
        return 1.0 - self.tuco

    @property
    def beta_by_layer(self) -> Float[Tensor, " layer"]:
        """β_l over all tokens, for l = 1 … L (index i holds β_{i+1}), [n_layers]; NaN with `keep="last"`."""
        if not self.has_maps:
            return torch.full((self.maps.ptc.shape[0],), torch.nan)
        return metrics.beta_by_layer(self.maps.cumulative_ptc, self.maps.cumulative_ftc, self.norm)

    @property
    def beta(self) -> float:
        """β = max_l β_l (Prop. 4.2)."""
        return self.beta_by_layer.max().item()

    @property
    def output_co(self) -> float | None:
        """OutputCo (paper, 5.5): final hidden states of two independent runs, last token; None unless `drift=True`."""
        return None if self.maps.drift is None else self.maps.drift[-1, -1].item()

    def layer_token(self, kind: MapKind = "cumulative") -> Float[Tensor, "layer token"]:
        """The layer × token map of ‖F‖ / (‖P‖ + ‖F‖), [n_layers, n_tokens], row 0 the first block.

        Args:
            kind: "cumulative" sums PTC and FTC up to and including each block, so its last row at the
                last token is TuCo; "local" takes the one block; "drift" compares two independent runs.

        Raises:
            InputError: for "drift" if the measurement was made without `drift=True`, if only the last token was
                kept, or for an unknown kind.
        """
        self.require_maps()
        return self._ratios(kind)

    def last_token(self, kind: MapKind = "cumulative") -> Float[Tensor, " layer"]:
        """A map at the prompt's last token, [n_layers], however much was kept; `layer_token` says which maps."""
        return self._ratios(kind)[:, -1]

    def require_maps(self) -> None:
        """Raises `InputError` if only the last token's norms were kept."""
        if not self.has_maps:
            raise InputError(
                "no map", 'it was measured with keep="last"', 'measure with keep="maps", or read `last_token`'
            )

    def _ratios(self, kind: MapKind) -> Float[Tensor, "layer token"]:
        maps = self.maps
        if kind == "cumulative":
            return metrics.contribution_ratio(maps.cumulative_ftc, maps.cumulative_ptc)
        if kind == "local":
            return metrics.contribution_ratio(maps.ftc, maps.ptc)
        if kind not in get_args(MapKind):
            raise InputError(f"no map {kind!r}", "there are cumulative, local and drift", "name one of them")
        if maps.drift is None:
            raise InputError("no drift map", "it costs a third pass and was not asked for", "measure with drift=True")
        return maps.drift

    def map(self, kind: MapKind = "cumulative") -> LayerTokenMap:
        """A layer × token map with its tokens, roles and norms: to cut, to compare, to draw; see `layer_token`."""
        from tuco_lens.plots.heatmap import layer_token_map

        return layer_token_map(self, kind)

    def heatmap(self, kind: MapKind = "cumulative", *, theme: Theme = "light") -> go.Figure:
        """A layer × token map as a plotly figure (returned, not shown)."""
        return self.map(kind).figure(theme)

    def colored_tokens(self, kind: MapKind = "cumulative", layer: int = -1) -> ColoredTokens:
        """The prompt's text coloured by one row of a map; by TuCo, as it comes. Shows itself in a notebook.

        Args:
            kind: which map; see `layer_token`.
            layer: which of its rows, 0 … L-1; negative ones count from the end.

        Raises:
            InputError: for a layer or a map that does not exist.
        """
        from tuco_lens.plots.tokens import measured_tokens

        return measured_tokens(self, kind, layer)


@dataclass(frozen=True)
class MeasurementSettings(Brief):
    """What a measurement was made with: needed to compare two of them, and to repeat one."""

    base: str
    """Name of the base checkpoint, as given."""
    tuned: str
    """Name of the tuned checkpoint or adapter, as given."""
    backend: str
    """"hooked" or "bridge"."""
    dtype: str
    """dtype of the weights, such as "float32"."""
    norm: Norm
    """Norm of all maps."""
    chat: bool
    """Whether plain text went through the chat template."""
    drift: bool
    """Whether the base model also ran on its own stream."""
    n_layers: int
    """L."""
    d_model: int
    """Width of the residual stream."""
    version: str
    """Version of tuco_lens."""
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How chats were rendered and texts tokenised, where that was asked for: see `TemplateOptions`."""


@dataclass(frozen=True)
class Measurement(Brief):
    """TuCo of many prompts, in input order."""

    items: tuple[PromptMeasurement, ...]
    """One entry per prompt."""
    settings: MeasurementSettings
    """The pair and the options."""

    def __repr__(self) -> str:
        from tuco_lens.plots.cards import measurement_text

        return measurement_text(self)

    def _repr_html_(self) -> str:
        from tuco_lens.plots.cards import measurement_table

        return measurement_table(self)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> PromptMeasurement:
        return self.items[index]

    def __iter__(self) -> Iterator[PromptMeasurement]:
        return iter(self.items)

    @property
    def tuco(self) -> Float[Tensor, " prompt"]:
        """TuCo of each prompt, [n_prompts]."""
        return torch.tensor([item.tuco for item in self.items])

    @property
    def preco(self) -> Float[Tensor, " prompt"]:
        """PreCo of each prompt, [n_prompts]."""
        return 1.0 - self.tuco

    @property
    def beta(self) -> Float[Tensor, " prompt"]:
        """β of each prompt, [n_prompts]."""
        return torch.tensor([item.beta for item in self.items])

    @property
    def output_co(self) -> Float[Tensor, " prompt"]:
        """OutputCo of each prompt, [n_prompts].

        Raises:
            InputError: if the measurement was made without `drift=True`.
        """
        return torch.tensor([item.last_token("drift")[-1].item() for item in self.items])

    def layer_token(self, index: int, kind: MapKind = "cumulative") -> Float[Tensor, "layer token"]:
        """The layer × token map of prompt `index`; see `PromptMeasurement.layer_token`."""
        return self.items[index].layer_token(kind)

    def map(self, index: int, kind: MapKind = "cumulative") -> LayerTokenMap:
        """The layer × token map of prompt `index`, to cut, to compare and to draw; see `PromptMeasurement.map`."""
        return self.items[index].map(kind)

    def heatmap(self, index: int, kind: MapKind = "cumulative", *, theme: Theme = "light") -> go.Figure:
        """The layer × token map of prompt `index` as a plotly figure (returned, not shown)."""
        return self.items[index].heatmap(kind, theme=theme)

    def layer_profile(
        self, kind: ProfileKind = "cumulative", *, quantiles: tuple[float, float] = (0.25, 0.75)
    ) -> LayerProfile:
        """Median and quantile band over the prompts, by layer; for groups of prompts `plots.layer_profile`.

        Args:
            kind: "cumulative", "local" or "drift" for that map at each prompt's last token; "beta" for β_l.
            quantiles: ends of the band, in [0, 1].

        Raises:
            InputError: if there are no prompts, or for drift that was not measured.
        """
        from tuco_lens.plots.layer_profile import layer_profile

        return layer_profile(self, kind, quantiles=quantiles)

    def report(self, path: str | Path, *, title: str = "TuCo report") -> Path:
        """Write one self-contained HTML page with a table and a heatmap per prompt; returns its path."""
        from tuco_lens.report import write_report

        return write_report(self, path, title=title)

    def to_frame(self) -> pd.DataFrame:
        """A row per prompt: index, prompt, n_tokens, tuco, preco, beta, and output_co if it was measured."""
        import pandas as pd

        return pd.DataFrame([result_row(index, item) for index, item in enumerate(self.items)])

    def save(self, path: str | Path) -> Path:
        """Write everything to one `.safetensors` file (no pickle); `Measurement.load` reads it back.

        Raises:
            OutputError: if the file cannot be written. Nothing half-written is left.
        """
        return write_whole(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes: the same bytes for the same measurement."""
        from safetensors.torch import save

        # One entry, for safetensors writes several in any order, and one measurement is one file, byte for byte.
        header = {
            "format": FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "prompts": [dataclasses.asdict(item.prompt) for item in self.items],
            "widths": [item.maps.ptc.shape[1] for item in self.items],
        }
        tensors = {
            name: torch.cat([getattr(item.maps, name) for item in self.items], dim=1).contiguous()
            for name in self._map_names()
        }
        return save(tensors, metadata={_HEADER: json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, damaged, or not a measurement of this version's format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                header = _header(file.metadata() or {})
                if header.get("format") != FORMAT:
                    raise InputError(
                        f"{path} is not a measurement", f"its format is not {FORMAT}", "give a file of Measurement.save"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot read {path}", str(error), "give a file of Measurement.save") from error
        settings = MeasurementSettings(**header["settings"])
        prompts = [_prompt_from_json(record) for record in header["prompts"]]
        # Of all tokens, or of the last one alone; the files of the first form do not say it, and have all.
        widths = header.get("widths") or [prompt.n_tokens for prompt in prompts]
        return cls(tuple(_split_maps(prompts, widths, tensors, settings.norm)), settings)

    def _map_names(self) -> list[str]:
        if not self.items:
            return []
        return [each.name for each in dataclasses.fields(NormMaps) if each.name != "drift" or self.settings.drift]


def result_row(index: int, item: PromptMeasurement) -> dict[str, Any]:
    """The row of a prompt in tables and result files: index, prompt, n_tokens, tuco, preco, beta (, output_co)."""
    row: dict[str, Any] = {
        "index": index,
        "prompt": item.prompt.text,
        "n_tokens": item.n_tokens,
        "tuco": item.tuco,
        "preco": item.preco,
        "beta": item.beta,
    }
    return row if item.output_co is None else {**row, "output_co": item.output_co}


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of its tensors; the first form had an entry for each part."""
    if _HEADER in metadata:
        return json.loads(metadata[_HEADER])
    return {name: text if name == "format" else json.loads(text) for name, text in metadata.items()}


def _prompt_from_json(record: dict[str, Any]) -> Prompt:
    fields: dict[str, Any] = {n: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for n, v in record.items()}
    return Prompt(**fields)


def _split_maps(
    prompts: Sequence[Prompt], widths: Sequence[int], tensors: dict[str, Tensor], norm: Norm
) -> Iterator[PromptMeasurement]:
    columns = {name: cast("tuple[Tensor, ...]", tensor.split(list(widths), dim=1)) for name, tensor in tensors.items()}
    for i, prompt in enumerate(prompts):
        yield PromptMeasurement(prompt, NormMaps(**{name: parts[i] for name, parts in columns.items()}), norm)
