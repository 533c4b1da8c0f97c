"""`tuco-lens generate`: continue a prompt at one α, as it comes, or at several side by side.

What is shown is in `token_view.py`, what `--alpha` takes in `alphas.py`, the generation in `steering/generating.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tuco_lens.cli.alphas import parse_alpha
from tuco_lens.cli.folders import check_output
from tuco_lens.cli.options import OverwriteOption, takes_pair, takes_reading
from tuco_lens.cli.terminal import complain, plain, say
from tuco_lens.errors import InputError, Interrupted
from tuco_lens.prompts.prompt import check_prompt
from tuco_lens.results.files import partial_path
from tuco_lens.results.journal import Journal
from tuco_lens.runs.pair_choice import PairChoice

if TYPE_CHECKING:
    from tuco_lens.cli.token_view import TokenView
    from tuco_lens.pair import ModelPair
    from tuco_lens.steering.alpha import Alpha
    from tuco_lens.steering.generating import TokenStream
    from tuco_lens.steering.generation import Generation

COLUMNS: Final = (
    *("index", "prompt", "alpha", "method", "positions", "text", "token_ids", "tokens", "probability", "tuco"),
    *("stop_reason", "temperature", "top_k", "top_p", "seed", "base", "tuned", "backend", "dtype"),
)
"""Fields of a row of `--out`; a row per α. `alpha` is a number, or a list by layer."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, as in `ModelPair.generate`."""

    temperature: float
    """0 is greedy."""
    top_k: int | None
    """Draw among this many of the likeliest tokens."""
    top_p: float | None
    """Draw among the likeliest tokens that together have at least this probability."""
    seed: int
    """Of the draws."""


@dataclass(frozen=True)
class GenerateRequest:
    """What one run was asked for."""

    pair: PairChoice
    """Base and tuned model."""
    prompt: str
    """The text."""
    reading: dict[str, Any]
    """How it is read: arguments of `ModelPair.prompt`."""
    alphas: dict[str, Alpha]
    """Every α, by how it was written."""
    method: Literal["ftc", "logits", "weights"]
    """Method of scaling."""
    positions: Literal["prompt", "generated"] | None
    """Where α acts; None for everywhere."""
    max_new_tokens: int
    """Tokens at most."""
    sampling: Sampling
    """How tokens are chosen."""
    stop: tuple[str, ...]
    """Strings that end the text."""
    show_tuco: bool
    """Show TuCo of every token."""
    out: Path | None
    """Result file."""


@takes_pair()
@takes_reading
def generate(
    *,
    choice: PairChoice,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What to continue.")] = None,
    reading: dict[str, Any],
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            "--alpha",
            metavar="A",
            help="1 is the tuned model, 0 the base model's blocks; or by layer, such as 0-3:0.5,4:1.2. "
            "May repeat: the texts then stand side by side.",
            show_default="1",
        ),
    ] = None,
    method: Annotated[
        Literal["ftc", "logits", "weights"],
        typer.Option("--method", help="What α scales: the FTC, or one of two baselines."),
    ] = "ftc",
    positions: Annotated[
        Literal["prompt", "generated"] | None,
        typer.Option("--positions", help="Where α acts.", show_default="everywhere"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="Tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 is greedy.")] = 0.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="Draw among the K likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", metavar="P", help="Draw among the likeliest that have probability P together."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of the draws; the same for every alpha.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the text, and is cut off. May repeat.")
    ] = None,
    show_tuco: Annotated[
        bool,
        typer.Option("--show-tuco", help="TuCo of every token: by colour, or in brackets where there is no colour."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also a row per alpha: .jsonl.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Continue a prompt with the tuned model while its fine-tuning component is scaled.

    One alpha is written as it comes; several are shown side by side when all are done.
    """
    if prompt is None:
        raise InputError("no prompt", "--prompt is not given", "give a text")
    request = GenerateRequest(
        pair=choice,
        prompt=prompt,
        reading=reading,
        alphas={text: parse_alpha(text) for text in alpha or ["1"]},
        method=method,
        positions=positions,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_k, top_p, seed),
        stop=tuple(stop or ()),
        show_tuco=show_tuco,
        out=out,
    )
    if out is not None:
        check_output(out, ".jsonl", overwrite=overwrite)
    run_generate(request)


def run_generate(request: GenerateRequest) -> None:
    """Generates, shows and writes what was asked for.

    Raises:
        TucoLensError: if an argument, the prompt, a checkpoint or the output is not usable.
        Interrupted: on Ctrl-C; nothing is written then.
    """
    check_prompt(request.prompt, **request.reading)
    _check_options(request)
    from tuco_lens.cli.token_view import TokenView

    pair = request.pair.load()
    stream, view = _stream(pair, request), TokenView(show_tuco=request.show_tuco)
    if len(request.alphas) == 1:
        generations = _show_as_it_comes(stream, view)
    else:
        generations = _show_side_by_side(stream, view, [f"α = {plain(text)}" for text in request.alphas])
    if request.show_tuco:
        view.legend()
    if any(generation.stop_reason == "context" for generation in generations):
        complain("note", f"the context of {pair.n_ctx} tokens is full")
    if request.out is not None:
        _write(request.out, generations, pair, request)


def _check_options(request: GenerateRequest) -> None:
    """What `generate` would refuse, before the models load."""
    from tuco_lens.steering.generating import GenerateOptions
    from tuco_lens.steering.sampling import SamplingOptions

    GenerateOptions(request.max_new_tokens, SamplingOptions(**asdict(request.sampling)), request.stop)
    by_layer = any(not isinstance(alpha, float) for alpha in request.alphas.values())
    if request.method != "ftc" and (by_layer or request.positions is not None):
        why = "it acts on the whole model, not by layer or position"
        raise InputError(f"--method {request.method}", why, "give numbers as --alpha, or --method ftc")


def _stream(pair: ModelPair, request: GenerateRequest) -> TokenStream:
    stream: Any = pair.generate(
        request.prompt,
        alphas=list(request.alphas.values()),
        method=request.method,
        positions=request.positions,
        **request.reading,
        max_new_tokens=request.max_new_tokens,
        **asdict(request.sampling),
        stop=request.stop,
        batch_size=len(request.alphas),
        tuco=request.show_tuco or request.out is not None,
        stream=True,
    )
    return stream


def _show_as_it_comes(stream: TokenStream, view: TokenView) -> list[Generation]:
    n_tokens = 0
    try:
        for token in stream:
            view.write(view.piece(token))
            n_tokens += 1
    except KeyboardInterrupt:
        view.end_line()
        raise Interrupted(f"stopped after {n_tokens} tokens; nothing was written to a file") from None
    view.end_line()
    return stream.generations


def _show_side_by_side(stream: TokenStream, view: TokenView, headings: list[str]) -> list[Generation]:
    pieces: dict[int, list[Any]] = {}
    try:
        for token in stream:
            pieces.setdefault(token.row, []).append(view.piece(token))
    except KeyboardInterrupt:
        raise Interrupted("nothing was shown or written") from None
    from tuco_lens.cli.token_view import note_of

    generations = stream.generations
    view.table(headings, [pieces[row] for row in sorted(pieces)], [note_of(generation) for generation in generations])
    return generations


def _write(out: Path, generations: list[Generation], pair: ModelPair, request: GenerateRequest) -> None:
    models = {"base": pair.base_name, "tuned": pair.tuned_name, "backend": pair.backend, "dtype": pair.dtype}
    with Journal.open(partial_path(out), {}, resume=False) as journal:
        for index, generation in enumerate(generations):
            alpha = generation.alpha
            journal.append(
                {
                    "index": index,
                    "prompt": generation.prompt.text,
                    "alpha": list(alpha) if isinstance(alpha, tuple) else alpha,
                    "method": request.method,
                    "positions": request.positions,
                    "text": generation.text,
                    "token_ids": list(generation.token_ids),
                    "tokens": list(generation.tokens),
                    "probability": generation.probability.tolist(),
                    "tuco": None if generation.tuco is None else generation.tuco.tolist(),
                    "stop_reason": generation.stop_reason,
                    **asdict(request.sampling),
                    **models,
                }
            )
        journal.finish(out, COLUMNS)
    say(f"wrote {out}")
