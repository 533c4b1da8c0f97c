"""The code blocks of README and docs: found, run, and held against the output that the page shows for them.

Nothing is skipped in silence: a language that is not known here, and a command that is not known here, are failures.
`tests/integration/test_docs_blocks.py` runs each page, and holds the laws of this file.

What a block is follows from the language of its fence, or from a comment right before it:

    python                              run, in one namespace with the page's other blocks
    sh                                  each command run, or checked as far as that is possible without the network
    text                                the output of the code before it; a line `…` stands for any number of lines
    <!-- block: formula -->             text that is no output
    <!-- block: file NAME -->           the content of a file, which is written
    <!-- block: raises NAME "words" --> python that ends in this exception, with these words in its text
    <!-- block: raises NAME "words" if PACKAGE<VERSION -->  … with such a release; with others it ends well
    <!-- block: draws images/NAME -->   python whose last line is a figure, the one that the page shows as that picture
    <!-- block: fails 2 -->             a command that ends with this status
    <!-- page: needs NAME -->           a package or a program without which the page's test is skipped
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt
from mdit_py_plugins.admon import admon_plugin
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
_LAST: Final = "_value_of_the_last_line"
_COMMENT: Final = re.compile(r"<!--\s*(block|page):\s*(.*?)\s*-->", re.DOTALL)
_RAISES: Final = re.compile(r'raises (\w+) "(.+?)"(?: if (\S+))?')
_NUMBER: Final = re.compile(r"[-+−]?\d+\.\d+(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    """The page."""
    line: int
    """The line of its fence, from 1."""
    language: str
    """What stands behind the opening fence."""
    code: str
    """What stands between the fences."""
    marker: str = ""
    """The comment before it, without `block:`."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(REPOSITORY) if self.page.is_relative_to(REPOSITORY) else self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page in order; an indented one has the language "indented"."""
    found: list[Block] = []
    marker = ""
    for token in MarkdownIt("commonmark").enable("table").use(admon_plugin).parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            language = token.info.strip() if token.type == "fence" else "indented"
            found.append(Block(page, token.map[0] + 1, language, token.content, marker))
        comment = _COMMENT.search(token.content) if token.type == "html_block" else None
        marker = comment[2] if comment is not None and comment[1] == "block" else ""
    return found


def needs_of(page: Path) -> list[str]:
    """Packages and programs that the page's blocks need and that not every environment has."""
    comments = _COMMENT.findall(page.read_text(encoding="utf-8"))
    return [text.removeprefix("needs ") for kind, text in comments if kind == "page"]


def is_output(block: Block) -> bool:
    """Whether it shows what the code before it writes."""
    return block.language == "text" and not block.marker


@dataclass
class PageRun:
    """Runs the blocks of one page in the current folder."""

    module: types.ModuleType = field(default_factory=lambda: types.ModuleType("page_of_the_docs"))
    """Its namespace is that of the page's Python; a module, since dataclasses look theirs up."""
    printed: str = ""
    """What the last block that was run wrote."""
    is_drawing: bool = False
    """Whether the pictures are about to be made, and so need not be there."""
    drawn: dict[Path, Any] = field(default_factory=dict)
    """What the page shows as pictures: figures, or objects that notebooks show as HTML, by file."""

    def run(self, block: Block) -> None:
        """Runs one block, or holds it against what was printed.

        Raises:
            AssertionError: if it does not do what the page says.
        """
        word, _, rest = block.marker.partition(" ")
        if word == "file":
            _write(Path(rest), block.code)
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "sh":
            self.printed = _shell(block, int(rest) if word == "fails" else 0)
        elif is_output(block):
            assert_same_output(block.code, self.printed, block.where)
        else:
            known = block.language == "text" and word == "formula"
            assert known, f"{block.where}: nothing is known to do with a block of {block.language or 'no language'!r}"

    def _python(self, block: Block) -> str:
        # Empty lines in front, so that tracebacks give the line of the page.
        tree = ast.parse("\n" * block.line + block.code, str(block.page))
        draws = block.marker.startswith("draws ")
        raises = _RAISES.fullmatch(block.marker)
        assert raises or draws or not block.marker, f"{block.where}: unknown marker {block.marker!r}"
        if draws:
            _name_last(tree, block.where)
        code = compile(tree, str(block.page), "exec")
        sys.modules[self.module.__name__] = self.module
        with contextlib.redirect_stdout(io.StringIO()) as out:
            if raises is None or not _holds(raises[3]):
                exec(code, self.module.__dict__)
            else:
                _run_until(raises[1], raises[2], code, self.module.__dict__, block.where)
        if draws:
            self._note_picture(block, vars(self.module)[_LAST])
        return out.getvalue()

    def _note_picture(self, block: Block, drawn: Any) -> None:
        if not hasattr(drawn, "to_html") and hasattr(drawn, "figure"):
            drawn = drawn.figure()  # a notebook shows a statistic as its figure
        assert hasattr(drawn, "to_html") or hasattr(drawn, "_repr_html_"), f"{block.where}: it draws {type(drawn)}"
        name = block.marker.removeprefix("draws ")
        place = block.page.parent / name
        assert f"]({name})" in block.page.read_text(encoding="utf-8"), f"{block.where}: {name} is not shown"
        assert place.exists() or self.is_drawing, f"{place} is not there; make it with scripts/docs_pictures.py"
        self.drawn[place] = drawn


def _name_last(tree: ast.Module, where: str) -> None:
    """Gives the value of the last line a name."""
    last = tree.body[-1]
    assert isinstance(last, ast.Expr), f"{where}: its last line is not an expression"
    named = ast.Assign([ast.Name(_LAST, ast.Store())], last.value)
    tree.body[-1] = ast.fix_missing_locations(ast.copy_location(named, last))


def _holds(condition: str | None) -> bool:
    if condition is None:
        return True
    requirement = Requirement(condition)
    return Version(importlib.metadata.version(requirement.name)) in requirement.specifier


def _run_until(name: str, words: str, code: Any, namespace: dict[str, Any], where: str) -> None:
    ended = "nothing"
    try:
        exec(code, namespace)
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    assert ended.startswith(f"{name}: "), f"{where}: it raised {ended}, and not {name}"
    assert words in ended, f"{where}: {words!r} is not in {ended!r}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# --- Commands ---------------------------------------------------------------------------------------------------------


def commands_of(code: str) -> list[str]:
    """The commands of a shell block: without comments, continued lines put together."""
    lines = code.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def _shell(block: Block, status: int) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        found = [_command(shlex.split(command), block.where) for command in commands_of(block.code)]
    assert found, f"{block.where}: a block without a command"
    expected = [0] * (len(found) - 1) + [status]
    assert found == expected, f"{block.where}: ended with {found}, not with {expected}: {out.getvalue()[-2000:]}"
    return out.getvalue()


def _command(words: list[str], where: str) -> int:
    """Runs one command, or checks what can be checked of it; returns its exit status."""
    program = Path(words[0]).name if words[0].startswith(".venv/") else words[0]
    if program == "python" and words[1:3] == ["-m", "tuco_lens.evals"]:
        return _harness(words[3:])
    checks = {"tuco-lens": _tuco_lens, "make": _make, "pip": _pip, "python": _python_file}
    checks |= {"pre-commit": _known_tool, "mkdocs": _known_tool, "export": _export}
    checks |= dict.fromkeys(("ray", "kubectl", "sbatch"), _known_tool)
    assert program in checks, f"{where}: nothing is known to do with the command {words[0]!r}"
    return checks[program](words[1:])


def _tuco_lens(arguments: list[str]) -> int:
    from tuco_lens.cli.app import run

    with warnings.catch_warnings():  # it also puts back `showwarning`, which the program replaces
        return run(arguments)


def _harness(arguments: list[str]) -> int:
    import datasets.config
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    from tuco_lens.evals.__main__ import main

    folder = Path.cwd() / "harness"
    held = [
        (sys, "argv", ["lm_eval", *arguments]),
        (lm_eval.evaluator, "add_env_info", lambda results: None),  # it asks the machine, by programs that take seconds
        # Reading the thousands of tasks that the harness brings along takes seconds; the pages have their own.
        (TaskManager, "__init__", functools.partialmethod(TaskManager.__init__, include_defaults=False)),
        (datasets.config, "HF_DATASETS_CACHE", folder),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in held:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _make(arguments: list[str]) -> int:
    """The target must exist. Of what it would do, `tuco-lens` is run; the rest installs, or is this very suite."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "-C", REPOSITORY, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        words = shlex.split(line, comments=True) if line.startswith(".venv/bin/tuco-lens ") else []
        if words and _tuco_lens(words[1:]) != 0:
            return 1
    return 0


def _pip(arguments: list[str]) -> int:
    """What is installed is this package, with extras that exist."""
    assert arguments[0] == "install"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments[1:]:
        if word in ("-e", "-c", "constraints.txt"):
            continue
        requirement = Requirement(re.sub(r"^\.(?=\[|$)", "tuco-lens", word))
        assert requirement.name.replace("_", "-") == project["name"], f"it installs {requirement.name}"
        unknown = requirement.extras - set(project["optional-dependencies"])
        assert not unknown, f"pyproject.toml has no extras {sorted(unknown)}"
    return 0


def _python_file(arguments: list[str]) -> int:
    """Benchmarks, scripts and tests take their time: that they exist is all that is checked."""
    if arguments[0] == "-m" and arguments[1] == "pytest":
        files = [word.partition("::")[0] for word in arguments[2:] if word.startswith("tests/")]
    elif arguments[0] == "-m":
        files = [arguments[1].replace(".", "/") + ".py"]
    else:
        files = arguments[:1]
    missing = [file for file in files if not (REPOSITORY / file).exists()]
    assert not missing, f"there are no files {missing}"
    return 0


def _known_tool(arguments: list[str]) -> int:
    """Tools of the environment: nothing here to run."""
    return 0


def _export(arguments: list[str]) -> int:
    return int(any("=" not in word for word in arguments))


# --- Output -----------------------------------------------------------------------------------------------------------


def assert_same_output(shown: str, printed: str, where: str = "") -> None:
    """Line by line, without empty lines and trailing spaces; numbers with a point may differ by two in the last place.

    That much rounding differs between machines. A line `…` of the page stands for any number of lines.
    """
    wanted, got = _lines(shown), _lines(printed)
    matches = _match(wanted, got)
    assert matches, f"{where}: the page shows\n{shown}\nand this was printed:\n{printed}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _match(wanted: list[str], got: list[str]) -> bool:
    if not wanted:
        return not got
    if wanted[0].strip() == "…":
        return any(_match(wanted[1:], got[i:]) for i in range(len(got) + 1))
    return bool(got) and _same_line(wanted[0], got[0]) and _match(wanted[1:], got[1:])


def _same_line(one: str, other: str) -> bool:
    if _NUMBER.sub("0", one) != _NUMBER.sub("0", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(abs(_value(a) - _value(b)) <= 2.01 * _last_place(a) for a, b in pairs)


def _value(number: str) -> float:
    return float(number.replace("−", "-"))


def _last_place(number: str) -> float:
    digits, _, exponent = number.partition("e")
    return 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


# --- What the pages use -----------------------------------------------------------------------------------------------


def furnish(folder: Path) -> None:
    """Puts the models and files that the pages name into a folder; every model is the demo pair or tiny."""
    from tests.checkpoints import save_gguf
    from tests.known_pairs import write_data
    from tuco_lens.pair import DEMO_FOLDER

    base, tuned = DEMO_FOLDER / "base", DEMO_FOLDER / "tuned"
    for name in ("B", "path/to/base", "HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.2-1B"):
        _link(folder / name, base)
    for name in ("T", "path/to/tuned", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        _link(folder / name, tuned)
    for name in ("A", "path/to/my-lora"):
        _save_adapter(folder / name, base)
    _save_adapter(folder / "path/to/other-lora", base, seed=1)
    for step in (10, 20, 30):
        _save_adapter(folder / "path/to/run" / f"checkpoint-{step}", base, size=step / 1500)
    for seed, name in enumerate(("base", "instruct")):
        save_gguf(folder / f"{name}.gguf", seed=seed)
    _write_prompts(folder)
    _write_questions(folder)
    write_data(folder / "data")


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=True)


def _save_adapter(folder: Path, base: Path, *, seed: int = 0, size: float = 0.02) -> None:
    """A random LoRA of the demo base, with the demo pair's tokenizer beside it, as a chat fine-tune has one."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=size)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base.parent / "tuned").save_pretrained(folder)


PROMPTS: Final = ("What is the capital of France?", "Write a short poem about the sea.", "Name a river.")


def _write_prompts(folder: Path) -> None:
    _write(folder / "prompts.txt", "".join(f"{prompt}\n" for prompt in PROMPTS))
    _write(folder / "prompts.jsonl", "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    _write(folder / "prompts.csv", "prompt\n" + "".join(f"{prompt}\n" for prompt in PROMPTS))


def _write_questions(folder: Path) -> None:
    """Tasks of the sweep: own questions, one behaviour in the form of MWE, one subject in the form of MMLU."""
    words = ("rain", "snow", "bread", "tea", "noon", "the sea")
    own = [{"prompt": f"Is {word} nice?", "answers": ["Yes", "No"], "target": i % 2} for i, word in enumerate(words)]
    _write(folder / "questions.jsonl", _rows(own))
    behaviour = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    for name in _mwe_names():
        rows = [{"question": f"Is {word} nice?", **behaviour} for word in words[:5]]
        _write(folder / "mwe" / f"{name}.jsonl", _rows(rows))
    for part, count in (("dev", 5), ("test", 6)):
        lines = [f"Which is number {i}?,one,two,three,four,{'ABCD'[i % 4]}\n" for i in range(count)]
        _write(folder / "mmlu" / part / f"astronomy_{part}.csv", "".join(lines))
    with tarfile.open(folder / "mmlu.tar.xz", "w:xz") as archive:
        archive.add(folder / "mmlu", "mmlu")


def _mwe_names() -> Iterator[str]:
    from tuco_lens.sweep.names import MWE_GROUPS

    for names in MWE_GROUPS.values():
        yield from names


def _rows(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
