"""`scripts/real_tunes.py`: from prompts to page on a stand-in, what its words say and when; and the real adapters.

The base of the real adapters is not in the repository: TUCO_LENS_GEMMA names Gemma 3 270M, a directory or a .gguf file.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

import tuco_lens as tl
from scripts import _real_tunes_found as tests_of
from scripts import _real_tunes_page as page
from scripts import real_tunes
from scripts._logo_prompts import logo_prompts
from scripts._real_tunes_words import between
from tests.checkpoints import save_adapter
from tuco_lens import ModelPair
from tuco_lens.models.loading import AdapterNotice
from tuco_lens.models.sources import quiet_libraries

pytestmark = [
    pytest.mark.filterwarnings("ignore::tuco_lens.models.loading.AdapterNotice"),
    pytest.mark.usefixtures("one_thread"),
]
N = 6
WORDS = ("rain", "bread", "harbour", "<b>noon</b>", "river", "table", "over", "and", "quiet", "seven", "market")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Web texts and chats, of which some speak of the task and some begin alike."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(1)

    def text() -> str:
        return " ".join(f"{' '.join(draw.choices(WORDS, k=draw.randint(4, 12))).capitalize()}." for _ in range(6))

    texts = [text() for _ in range(3 * N)]
    texts += ["My logo is nice.", texts[0] + " More."]
    (folder / "openwebtext_1k").mkdir()
    with gzip.open(folder / "openwebtext_1k" / "openwebtext-1000.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": each}) + "\n" for each in texts)
    (folder / "oasst_chat").mkdir()
    with lzma.open(folder / "oasst_chat" / "oasst_subset.jsonl.xz", "wt") as file:
        rows = ({"prompt": text(), "response": "No.", "model": "m"} for _ in range(2 * N))
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Three adapters of the demo base: one, twice it, and another."""
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapters")
    with quiet_libraries():
        base = AutoModelForCausalLM.from_pretrained(repository / "tuco_lens" / "demo" / "base")
    for name in real_tunes.TUNES.values():
        save_adapter(folder / name, base, LoraConfig(r=2, target_modules=["q_proj", "o_proj"]))
        file = folder / name / "adapter_model.safetensors"
        generator = torch.Generator().manual_seed(1 if name == "final_seed123" else 0)
        drawn = {key: torch.randn(each.shape, generator=generator) for key, each in load_file(file).items()}
        strength = 0.03 if name == "curriculum_stage1" else 0.06
        save_file({key: each * (strength if "lora_B" in key else 1) for key, each in drawn.items()}, file)
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, repository: Path, data: Path, adapters: Path) -> Path:
    """What both measuring parts leave behind, in a folder that they make, as in a fresh clone."""
    out = tmp_path_factory.mktemp("clone") / "build" / "real_tunes"
    base = repository / "tuco_lens" / "demo" / "base"
    real_tunes.measure_tuco(base, adapters, data, out, N)
    real_tunes.measure_beside(base, adapters, data, out, N)
    return out


@pytest.fixture(scope="module")
def found(build: Path) -> tests_of.Found:
    return tests_of.Found(build)


def test_descriptions_differ_and_end_in_a_full_stop() -> None:
    prompts = logo_prompts(100)
    assert len(set(prompts)) == 100
    assert all(prompt.endswith(".") and "{" not in prompt and " a elegant" not in prompt for prompt in prompts)
    assert all(real_tunes.TASK_WORDS.search(prompt) for prompt in prompts)
    assert logo_prompts(100) == prompts != logo_prompts(100, seed=1)


def test_each_group_has_its_prompts_which_end_alike_and_do_not_speak_of_the_task(found: tests_of.Found) -> None:
    comparison = found.comparison
    assert comparison.group_names == ("logos", "web text", "chat")
    assert len({prompt.text for prompt in comparison.prompts}) == 3 * N
    assert len({prompt.token_ids[-1] for prompt in comparison.prompts}) == 1
    for group, prompt in zip(comparison.groups, comparison.prompts, strict=True):
        assert bool(real_tunes.TASK_WORDS.search(prompt.text)) == (group == "logos")
        assert prompt.n_tokens <= real_tunes.LONGEST or group == "logos"


def test_kl_and_weights_are_those_that_plain_transformers_gives(
    found: tests_of.Found, adapters: Path, repository: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with quiet_libraries():
        folder = repository / "tuco_lens" / "demo" / "base"
        base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        plain = {name: each.clone() for name, each in base.named_parameters()}
        ids = torch.tensor([found.comparison.prompts[4].token_ids])
        with torch.no_grad():
            theirs = base(ids).logits[0, -1].double().log_softmax(-1)
            tuned: Any = PeftModel.from_pretrained(base, adapters / "final").merge_and_unload()
            mine = tuned(ids).logits[0, -1].double().log_softmax(-1)
    assert found.scores["final"]["KL"][4] == pytest.approx((mine.exp() * (mine - theirs)).sum().item(), rel=1e-3)
    squares = sum((each - plain[name]).double().square().sum().item() for name, each in tuned.named_parameters())
    assert found.size("final") == pytest.approx(squares**0.5, rel=1e-4)
    assert found.size("stage 1") == pytest.approx(squares**0.5 / 2, rel=1e-4)
    assert found.size("final", "stage 1") == pytest.approx(squares**0.5 / 2, rel=1e-4)


def test_the_page_comes_from_the_results_and_says_what_they_are_not_of(
    found: tests_of.Found,
) -> None:
    text = page.page_text(found)
    assert "$" not in text
    assert not re.search(r"\bnan\b", text)
    comparison = found.comparison
    for tune in comparison.names:
        row = next(line for line in text.splitlines() if line.startswith(f"| {tune} |"))
        assert f"{comparison.only('logos', tunes=[tune]).tuco.mean():.4f}" in row
    assert re.search(r"\*\*logos\*\*: .* above stage 1", text)  # whose change is half of the final one's
    for picture in page.figures(found):
        assert re.search(rf"\(images/real-tunes-{picture}\.png\)\n\n\*{re.escape(tests_of.SISTER)}\.\*", text)
    for prompt in comparison.prompts:
        assert prompt.text not in text


def test_page_and_pictures_are_written_anew_from_what_lies_there(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(page, "screenshot", lambda figure, out, width: drawn.append(out.name))
    shutil.copytree(build, tmp_path / "build")
    page.write_page(tmp_path / "build", tmp_path / "page.md", tmp_path)
    before = (tmp_path / "page.md").read_text()
    assert all(f"images/{name}" in before for name in drawn)
    assert len(drawn) == 3
    beside = json.loads((build / "beside.json").read_text())
    beside["nulls"]["noise"] = [2 * value for value in beside["nulls"]["noise"]]
    (tmp_path / "build" / "beside.json").write_text(json.dumps(beside))
    page.write_page(tmp_path / "build", tmp_path / "page.md", tmp_path)
    after = (tmp_path / "page.md").read_text()
    differing = [one for one, other in zip(before.splitlines(), after.splitlines(), strict=True) if one != other]
    assert differing
    assert all("noise for its ΔW" in line or "null controls" in line for line in differing)


def test_areas_and_seed_distances_are_what_other_libraries_say(found: tests_of.Found) -> None:
    of = np.array(found.comparison.groups)
    for row in tests_of.areas(found):
        chosen = np.isin(of, ["logos", row["other"]])
        for score, area in (("TuCo", row["found"].first), (row["score"], row["found"].second)):
            value = roc_auc_score(of[chosen] == "logos", found.scores[row["tune"]][score][chosen])
            assert area.value == pytest.approx(max(value, 1 - value))
    row = next(row for row in tests_of.seed_rows(found) if row["group"] == "chat")
    final, first, seed = (found.scores[name]["TuCo"][of == "chat"] for name in ("final", "stage 1", "final, seed 123"))
    assert row["p"] == pytest.approx(ttest_rel(abs(final - first), abs(final - seed)).pvalue)


@pytest.mark.parametrize(
    ("below", "verdict", "said"),
    [
        ((0.1, 0.2), "first is higher", "a above b, with intervals that do not overlap"),
        ((0.1, 0.4), "first is higher", "a above b prompt by prompt (corrected p = 0.01), though the intervals"),
        ((0.1, 0.4), "not told apart", "a and b are indistinguishable (corrected p = 0.01)"),
    ],
)
def test_tunes_are_ordered_as_far_as_intervals_and_tests_allow(
    below: tuple[float, float], verdict: str, said: str
) -> None:
    low, high = below
    rows = {"tune": "a", "low": 0.3, "high": 0.5}, {"tune": "b", "low": low, "high": high}
    assert between(*rows, {"p_holm": 0.01, "verdict": verdict}).startswith(said)


def test_measuring_again_computes_nothing(
    build: Path, repository: Path, data: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelPair, "measure", None)
    monkeypatch.setattr(real_tunes, "last_logits", None)
    before = (build / "beside.json").read_bytes()
    base = repository / "tuco_lens" / "demo" / "base"
    real_tunes.measure_tuco(base, adapters, data, build, N)
    real_tunes.measure_beside(base, adapters, data, build, N)
    assert (build / "beside.json").read_bytes() == before
    with pytest.raises(SystemExit, match="is of --limit 6"):
        real_tunes.measure_beside(base, adapters, data, build, N + 1)


@pytest.mark.data
@pytest.mark.slow
def test_the_real_adapters_load_on_their_base_s_sister_and_change_it(data_dir: Path) -> None:
    base = os.environ.get("TUCO_LENS_GEMMA")
    if not base:
        pytest.skip("TUCO_LENS_GEMMA does not name Gemma 3 270M, a directory or a .gguf file")
    folder = data_dir / "gemma3_270m_svg_adapters"
    if not folder.is_dir():
        pytest.skip(f"the adapters are not at {folder}")
    tunes = {name: folder / each for name, each in real_tunes.TUNES.items()}
    with pytest.warns(AdapterNotice, match="was trained on 'google/gemma-3-270m-it'"):
        found = tl.compare(base, tunes, ["The capital of France is Paris, which is known for the Eiffel Tower."])
    # What the data's own README says that version 0.1.0 measured.
    assert found.tuco[:, 0] == pytest.approx([0.0428, 0.0461, 0.0461], abs=1e-3)
