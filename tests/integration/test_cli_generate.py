"""`tuco-lens generate`: what it shows and writes, on and off a terminal, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.pairs import thin_pair
from tuco_lens.cli.alphas import parse_alpha
from tuco_lens.cli.app import run
from tuco_lens.cli.generate import COLUMNS
from tuco_lens.cli.token_view import COLOUR_RANGE, Piece, TokenView
from tuco_lens.errors import InputError
from tuco_lens.pair import ModelPair
from tuco_lens.steering.alpha import layer_alphas
from tuco_lens.steering.generating import TokenStream
from tuco_lens.steering.generation import Generation

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "Name three rivers."
HOSTILE = "[bold red]x[/] \x1b[31m\x1b]0;title\x07 \u202eabc \x9b2J\r\n:skull:"


@pytest.fixture(scope="module")
def tiny_pair() -> ModelPair:
    return thin_pair(64)


@pytest.fixture(autouse=True)
def load_once(tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--pair demo` is the tiny pair, and rich sees no terminal and no settings of this one."""
    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": tiny_pair))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def generate(*arguments: object) -> int:
    return run(["generate", "--pair", "demo", "--prompt", PROMPT, *map(str, arguments)])


def expected(pair: ModelPair, **options: Any) -> Any:
    return pair.generate(PROMPT, **{"max_new_tokens": 64, **options})


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """To be put in the place of stdout within the test: between fixture and test, pytest puts its own there."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    return Terminal()


def test_one_alpha_writes_the_text_and_nothing_else(tiny_pair: ModelPair, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--alpha", "-0.5", "--max-new-tokens", 9) == 0
    captured = capsys.readouterr()
    assert captured.out == expected(tiny_pair, alpha=-0.5, max_new_tokens=9).text + "\n"
    assert captured.err == ""
    assert generate("--max-new-tokens", 5) == 0
    assert capsys.readouterr().out == expected(tiny_pair, max_new_tokens=5).text + "\n"


def test_the_text_comes_token_by_token(tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Stdout(io.StringIO):
        def flush(self) -> None:
            written.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Stdout())
    assert generate("--max-new-tokens", 6) == 0
    text = expected(tiny_pair, max_new_tokens=6).text
    assert len(set(written)) >= 4
    assert all((text + "\n").startswith(part) for part in written)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("--alpha 0:0.5,1:1.5", {"alpha": [0.5, 1.5]}),
    ("--alpha 0-1:0.5", {"alpha": 0.5}),
    ("--alpha 0.5 --method logits", {"alpha": 0.5, "method": "logits"}),
    ("--alpha 0.5 --method weights", {"alpha": 0.5, "method": "weights"}),
    ("--alpha 0.5 --positions prompt", {"alpha": 0.5, "positions": "prompt"}),
    ("--alpha 0.5 --positions generated", {"alpha": 0.5, "positions": "generated"}),
    ("--chat --system Briefly.", {"chat": True, "system": "Briefly."}),
    ("--temperature 1.5 --top-k 50 --seed 3", {"temperature": 1.5, "top_k": 50, "seed": 3}),
    ("--temperature 1.5 --top-p 0.9 --seed -2", {"temperature": 1.5, "top_p": 0.9, "seed": -2}),
    ("--stop e --stop xx", {"stop": ["e", "xx"]}),
]


@pytest.mark.parametrize(("arguments", "options"), OPTIONS, ids=[case[0] for case in OPTIONS])
def test_options_do_what_they_say(
    arguments: str, options: dict[str, Any], tiny_pair: ModelPair, tmp_path: Path
) -> None:
    out = tmp_path / "o.jsonl"
    assert generate(*arguments.split(), "--max-new-tokens", 8, "--out", out) == 0
    found, (row,) = expected(tiny_pair, max_new_tokens=8, **options), rows_of(out)
    assert (row["text"], row["stop_reason"]) == (found.text, found.stop_reason)
    assert row["token_ids"] == list(found.token_ids)
    assert row["tuco"] == pytest.approx(found.tuco.tolist(), abs=1e-6)
    assert row["probability"] == pytest.approx(found.probability.tolist(), abs=1e-6)
    assert layer_alphas(row["alpha"], 2) == found.scaling.alphas


def test_a_row_per_alpha_has_every_column(tiny_pair: ModelPair, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    assert generate("--alpha", 0, "--alpha", "1:0.5", "--out", out, "--max-new-tokens", 4) == 0
    rows = rows_of(out)
    assert [tuple(row) for row in rows] == [COLUMNS] * 2
    assert [row["alpha"] for row in rows] == [0.0, [1.0, 0.5]]
    assert [row["index"] for row in rows] == [0, 1]
    assert rows[0]["prompt"] == PROMPT
    assert rows[0]["tuco"] == [0.0] * 4
    assert (rows[0]["method"], rows[0]["positions"], rows[0]["top_k"]) == ("ftc", None, None)
    assert (rows[0]["backend"], rows[0]["dtype"]) == (tiny_pair.backend, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]
    before = out.read_bytes()
    assert generate("--out", out) == 2
    assert out.read_bytes() == before
    assert generate("--out", out, "--overwrite", "--max-new-tokens", 2) == 0
    assert len(rows_of(out)) == 1


@pytest.mark.parametrize("width", [120, 80, 40])
def test_several_alphas_stand_side_by_side_within_the_width_or_below_each_other(
    width: int, monkeypatch: pytest.MonkeyPatch, tiny_pair: ModelPair, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert generate("--alpha", 0, "--alpha", 1, "--alpha", "0-1:2", "--max-new-tokens", 12) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    headings = [[name for name in ("α = 0 ", "α = 1 ", "α = 0-1:2") if name in line + " "] for line in lines]
    assert max(map(len, headings)) == (3 if width >= 80 else 1)
    whole = "".join("".join(lines).split())
    assert whole.count("12tokens") == 3
    assert "TuCo" not in whole  # nobody asked for it
    first_words = expected(tiny_pair, alpha=1, max_new_tokens=12).text.split()[0]
    assert first_words[:8] in whole


def test_off_a_terminal_tuco_stands_in_brackets_behind_each_token(
    tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--show-tuco", "--max-new-tokens", 5) == 0
    found = expected(tiny_pair, max_new_tokens=5)
    stream = tiny_pair.generate(PROMPT, max_new_tokens=5, stream=True)
    assert isinstance(stream, TokenStream)
    text = "".join(f"{token.text}[{token.tuco:.2f}]" for token in stream)
    assert capsys.readouterr().out == f"{text}\n[ ]: TuCo of the token before it\n"
    monkeypatch.setenv("COLUMNS", "200")
    assert generate("--show-tuco", "--alpha", 0, "--alpha", 1, "--max-new-tokens", 5) == 0
    out = capsys.readouterr().out
    assert out.count("[0.00]") == 5
    assert f"mean TuCo {found.tuco.mean().item():.3f}" in " ".join(out.split())


def test_on_a_terminal_tokens_are_coloured_by_tuco_with_a_legend(tiny_pair: ModelPair, terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        assert generate("--show-tuco", "--max-new-tokens", 5) == 0
    shown = terminal.getvalue()
    text, legend = shown.split("TuCo: ")
    assert expected(tiny_pair, max_new_tokens=5).text in re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert len(re.findall(r"48;2;\d+;\d+;\d+m", text)) >= 5
    assert f"{COLOUR_RANGE[0]:.1f}" in legend
    assert f"{COLOUR_RANGE[1]:.1f}" in legend
    assert "[0." not in re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with redirect_stdout(terminal):
        assert generate("--show-tuco", "--max-new-tokens", 3) == 0
    assert "\x1b" not in terminal.getvalue()
    assert "[ ]: TuCo" in terminal.getvalue()


@pytest.mark.parametrize("show_tuco", [True, False])
def test_nothing_that_the_model_says_commands_the_terminal_or_is_taken_for_markup(
    show_tuco: bool, terminal: Terminal
) -> None:
    token: Any = type("Token", (), {"text": HOSTILE, "tuco": 0.3})
    with redirect_stdout(terminal):
        view = TokenView(show_tuco=show_tuco)
        piece = view.piece(token)
        view.write(piece)
        view.table(["α = [red]1[/]", "b"], [[piece], [Piece("x", None)]], ["[i]n[/i]", ""])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    assert shown.startswith("[bold red]x[/] \\x1b[31m\\x1b]0;title\\x07 \\u202eabc \\x9b2J\\r\n:skull:")
    assert "[red]1[/]" in shown
    assert "[i]n[/i]" in shown
    ours = re.findall(r"\x1b\[[0-9;]*m", terminal.getvalue())
    assert all(re.fullmatch(r"\x1b\[(0|1|38;2;[\d;]+)m", code) for code in ours)


def test_a_full_context_is_said_on_stderr(tiny_pair: ModelPair, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--max-new-tokens", 500) == 0
    captured = capsys.readouterr()
    assert captured.err == f"tuco-lens: note: the context of {tiny_pair.n_ctx} tokens is full\n"


@pytest.mark.parametrize(
    ("alphas", "words"), [((), "stopped after 2 tokens"), ((0, 1), "nothing was shown or written")]
)
def test_ctrl_c_ends_with_130_and_leaves_no_hook_and_no_file(
    alphas: tuple[int, ...],
    words: str,
    tiny_pair: ModelPair,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in tiny_pair.tuned.modules())

    before, n_passes = hooks(), 0

    def interrupt(*_: object, **__: object) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 3:
            raise KeyboardInterrupt

    handle = tiny_pair.tuned.blocks[0].register_forward_hook(interrupt)
    try:
        assert generate(*(word for a in alphas for word in ("--alpha", a)), "--out", tmp_path / "o.jsonl") == 130
    finally:
        handle.remove()
    captured = capsys.readouterr()
    assert captured.err.startswith(f"tuco-lens: interrupted: {words}")
    assert captured.err.count("\n") == 1
    assert captured.out.endswith("\n") or not captured.out
    assert hooks() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "by_layer"),
    [
        ("0.5", (0.5,) * 6),
        ("-2", (-2.0,) * 6),
        ("1e-3", (1e-3,) * 6),
        ("0-3:0.5,4:1.2", (0.5, 0.5, 0.5, 0.5, 1.2, 1.0)),
        (" 5 : -1 , 0 - 1 : 2 ", (2.0, 2.0, 1.0, 1.0, 1.0, -1.0)),
    ],
)
def test_alpha_is_a_number_or_ranges_of_layers_that_include_their_ends(text: str, by_layer: tuple[float, ...]) -> None:
    assert layer_alphas(parse_alpha(text), 6) == by_layer


@pytest.mark.parametrize("text", ["", "x", "0.5,0.6", "0-3", "0-3:", ":0.5", "3-1:0.5", "0:1,0:1", "0-2:1,2:1", "-1:1"])
def test_what_is_no_alpha_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--alpha"):
        parse_alpha(text)


TEXT = "--pair demo --prompt hi"
BAD: list[tuple[str, str, str]] = [
    ("no such option", f"{TEXT} --frob", "No such option: --frob.*; see tuco-lens generate --help"),
    ("no pair", "--prompt hi", "no pair: .*; give --base and --tuned, or --pair demo"),
    ("unknown pair", "--pair nope --prompt hi", "no pair has that name"),
    ("demo elsewhere", f"{TEXT} --device cuda", "it runs in float32 on the CPU; leave out"),
    ("no prompt", "--pair demo", "no prompt: --prompt is not given; give a text"),
    ("empty prompt", "--pair demo --prompt=", "the prompt: it is empty"),
    ("system without chat", f"{TEXT} --system s", "ask for chat"),
    ("alpha of words", f"{TEXT} --alpha much", "--alpha much: it is neither a number nor layers .*; write such as 0.8"),
    ("alpha not finite", f"{TEXT} --alpha nan", "alpha is nan: it is not a finite number; give one"),
    ("alpha infinite by layer", f"{TEXT} --alpha 0:inf", "alpha is inf: it is not a finite number"),
    ("layers backwards", f"{TEXT} --alpha 3-1:0.5", "--alpha 3-1:0.5: 3-1 runs backwards; write 1-3"),
    ("layer twice", f"{TEXT} --alpha 0-1:0.5,1:1", "it names a layer twice; name each layer once"),
    ("no such layer", f"{TEXT} --alpha 2:0.5", "layer 2 is out of range: there are 2; give 0 to 1"),
    ("no layer at all", f"{TEXT} --alpha 0-9999999999:1", "there is no layer 9999999999; name layers of the model"),
    ("unknown method", f"{TEXT} --method fct", "'fct' is not one of 'ftc', 'logits', 'weights'"),
    ("baseline by layer", f"{TEXT} --method logits --alpha 0:0.5", "--method logits: it acts on the whole model"),
    ("baseline by part", f"{TEXT} --method weights --positions prompt", "give numbers as --alpha, or --method ftc"),
    ("unknown positions", f"{TEXT} --positions user", "'user' is not one of 'prompt', 'generated'"),
    ("no tokens", f"{TEXT} --max-new-tokens 0", "--max-new-tokens"),
    ("cold", f"{TEXT} --temperature -1", "temperature is -1.0: it must be at least 0 and finite"),
    ("top-k without temperature", f"{TEXT} --top-k 5", "top_k or top_p without a temperature"),
    ("top-p over 1", f"{TEXT} --temperature 1 --top-p 2", "top_p is 2.0: it must be over 0 and at most 1"),
    ("seed", f"{TEXT} --seed 99999999999999999999", r"it must be a whole number below 2\*\*32"),
    ("empty stop", f"{TEXT} --stop=", "an empty stop string: it stands everywhere; leave it out"),
    ("ending", f"{TEXT} --out O/o.csv", r"o\.csv: its ending is '\.csv'; name a file that ends in \.jsonl"),
    ("no ending", f"{TEXT} --out O/o", "its ending is 'missing'"),
    ("no folder", f"{TEXT} --out O/none/o.jsonl", "there is no folder .*; make the folder"),
    ("too long", "--pair demo --prompt LONG", r"the context|tokens"),
]


@pytest.mark.parametrize(("arguments", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_one_line_on_stderr_with_status_2_and_nothing_on_stdout(
    arguments: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [part.replace("O/", f"{tmp_path}{os.sep}").replace("LONG", "river " * 80) for part in arguments.split()]
    assert run(["generate", *parts]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(words, captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


def test_asking_for_help_or_a_mistake_in_alpha_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from tuco_lens.cli.app import run; status = run(sys.argv[1:]);"
        "sys.exit(status + 50 * bool({'torch', 'transformers', 'pandas', 'transformer_lens'} & set(sys.modules)))"
    )
    for arguments, status in ((["--help"], 0), (["--pair", "demo", "--prompt", "x", "--alpha", "x"], 2)):
        done = subprocess.run([sys.executable, "-c", code, "generate", *arguments], capture_output=True, check=False)
        assert done.returncode == status, done.stderr


def test_the_result_type_names_every_way_to_end() -> None:
    """`note_of` has a word for each."""
    from typing import get_args

    from tuco_lens.cli.token_view import note_of
    from tuco_lens.steering.generation import StopReason

    for reason in get_args(StopReason):
        generation: Any = Generation.__new__(Generation)
        for name, value in (("token_ids", (1, 2)), ("layer_profile", None), ("stop_reason", reason)):
            object.__setattr__(generation, name, value)
        assert note_of(generation).startswith("2 tokens (")
