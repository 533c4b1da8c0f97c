"""Settings and fixtures of the whole suite: no network, few threads, no progress bars, and where the data sets lie."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tuco_lens import ModelPair

# The Hugging Face libraries and torch read these once, when they are imported, and so they are set here rather than in
# a fixture. One thread is a default only (`OMP_NUM_THREADS=2 make test` is respected): the models are tiny, and threads
# that wait for one another on a busy machine cost far more than they bring.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# PEFT tries to build CUDA code for BOFT, and waits for ever where a process that was killed has left its lock.
os.environ["TORCH_EXTENSIONS_DIR"] = tempfile.mkdtemp(prefix="torch_extensions-")
atexit.register(shutil.rmtree, os.environ["TORCH_EXTENSIONS_DIR"], ignore_errors=True)

# Shared machines stall for seconds: a deadline would test the neighbours, not the code.
settings.register_profile("tuco_lens", deadline=None)
settings.load_profile("tuco_lens")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads spin on each other where other work takes the processors: 22 s of processor time for 0.6 s, once."""
    import torch  # here, for the settings above count when it is imported

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts share beginnings wherever that saves a token, however short they are."""
    from tuco_lens.engine import sharing

    monkeypatch.setattr(sharing, "PASS_TOKENS", {"cpu": 1})


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data sets; the test is skipped where they are absent."""
    named = os.environ.get("TUCO_LENS_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the development data sets are not at {folder}; set TUCO_LENS_DATA to their folder")
    return folder


LONGEST = (
    "test_notebooks.py",
    "test_cli.py",
    "test_registry.py",
    "test_docs_blocks.py",
    "test_callback.py",
    "test_tunes.py",
    "test_figures_browser.py",
    "test_explorer_browser.py",
    "test_report_browser.py",
    "test_report_tunes_browser.py",
    "test_docs_browser.py",
    "test_cli_experiment.py",
    "test_crashes.py",
    "test_soak.py",
    "test_lm_eval.py",
    "test_real_input.py",
    "test_sweep.py",
)
"""Files that take longest. They come first: where several processes share the tests, none is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, and else the order of the folders."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the imports have made stays, and the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """No address of an object in a test's name: the processes that share the tests must agree on the names."""
    return argname if " at 0x" in repr(val) else None


@pytest.fixture(scope="session")
def demo_pair() -> ModelPair:
    """The embedded pair, loaded once; who changes its models puts them back."""
    from tuco_lens import ModelPair  # here, for the settings above count when torch is imported

    return ModelPair.demo()


@pytest.fixture(scope="session")
def known_pair() -> ModelPair:
    """The pair whose TuCo is known, that differs on template tokens only (`tests/known_pairs.py`)."""
    from tests.known_pairs import pair_that_differs_on_template_tokens

    return pair_that_differs_on_template_tokens()


@pytest.fixture
def known_pair_as_demo(known_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--pair demo` is that pair, loaded once."""
    from tuco_lens import ModelPair

    monkeypatch.setattr(ModelPair, "demo", classmethod(lambda cls, backend="auto": known_pair))
