"""The logit lens on contributions: tokens and logits are those of plain transformers, and parts add up to the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.architectures import make_ids, make_pair
from tests.integration.test_components import BACKENDS, CASES, PROMPT, to_pair
from tests.oracle import oracle
from tests.pairs import tiny_pair
from tuco_lens import ModelPair
from tuco_lens.attribution.logit_lens import LogitLens
from tuco_lens.errors import InputError

D_VOCAB = 128


def all_logits(lens: LogitLens) -> np.ndarray:
    """[layer, position, d_vocab], from a lens that keeps the whole vocabulary."""
    assert lens.promoted.shape[2] == D_VOCAB
    logits = np.zeros(lens.promoted.shape)
    np.put_along_axis(logits, lens.promoted, lens.promoted_logits, axis=2)
    return logits


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_last_layers_stream_says_what_the_model_says(name: str, backend: str) -> None:
    models = make_pair(name)
    expected = oracle(*models, make_ids()[:1]).logits[0]
    lens = to_pair(*models, backend).logit_lens(PROMPT, of="resid_post", k=D_VOCAB)
    found = all_logits(lens)[-1]
    if name == "gemma2":
        found = 2 * np.tanh(found / 2)
    span = float(expected.max() - expected.min())
    assert found == pytest.approx(expected.numpy(), abs=1e-5 * span)
    assert lens.values[-1] == pytest.approx(expected.softmax(-1).amax(-1).numpy(), rel=1e-4)
    assert lens.promoted[-1, :, 0].tolist() == expected.argmax(-1).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_logits_of_parts_add_up(backend: str) -> None:
    pair = to_pair(*make_pair("gpt2"), backend)
    kinds: Any = ("ptc", "ftc", "cumulative_ptc", "cumulative_ftc", "resid_post")
    ptc, ftc, ptc_sum, ftc_sum, stream = (all_logits(pair.logit_lens(PROMPT, of=kind, k=D_VOCAB)) for kind in kinds)
    assert ptc.cumsum(0) == pytest.approx(ptc_sum, abs=1e-4)
    assert ftc.cumsum(0) == pytest.approx(ftc_sum, abs=1e-4)
    steps = stream - ptc_sum - ftc_sum  # the embedding and the biases, the same at every layer
    assert steps == pytest.approx(np.broadcast_to(steps[:1], steps.shape), abs=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_logit_of_ftc_is_its_vector_on_the_unembedding_at_the_real_scale(backend: str) -> None:
    base, tuned = make_pair("llama")
    truth = oracle(base, tuned, make_ids()[:1])
    model: Any = tuned
    scale = (truth.stream[-1, 0].square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()  # [pos, 1]
    weight, unembedding = model.model.norm.weight.double(), model.lm_head.weight.double()
    wanted = ((truth.ftc[:, 0] / scale * weight) @ unembedding.T).detach()  # [layer, pos, d_vocab]
    lens = to_pair(base, tuned, backend).logit_lens(PROMPT, k=4, positions=[3, -1])
    for column, position in enumerate((3, 23)):
        top, low = wanted[:, position].topk(4), (-wanted[:, position]).topk(4)
        assert lens.promoted[:, column].tolist() == top.indices.tolist()
        assert lens.suppressed[:, column].tolist() == low.indices.tolist()
        assert lens.promoted_logits[:, column] == pytest.approx(top.values.numpy(), rel=1e-3)
        assert lens.suppressed_logits[:, column] == pytest.approx(-low.values.numpy(), rel=1e-3)
        assert lens.values[:, column] == pytest.approx(top.values[:, 0].numpy(), rel=1e-3)
    assert lens.positions == (3, 23)


def test_the_result_is_cut_saved_and_tabled(tmp_path: Path) -> None:
    lens = ModelPair.demo().logit_lens("Hello there", chat=True, k=3)
    part = lens.layers(2, 5).columns(-4)
    assert (part.values == lens.values[2:5, -4:]).all()
    assert (part.first_layer, part.tokens, part.positions) == (2, lens.tokens[-4:], lens.positions[-4:])
    frame = part.to_frame()
    assert len(frame) == 3 * 4 * 3
    assert frame["layer"].unique().tolist() == [2, 3, 4]
    assert frame["promoted"].iloc[0] == lens.text(lens.promoted[2, -4, 0])
    loaded = LogitLens.load(part.save(tmp_path / "lens.safetensors"))
    assert loaded.to_frame().equals(frame)
    assert loaded.summary() == part.summary()
    assert "promotes" in part.summary()
    with pytest.raises(InputError, match="no layers left"):
        lens.layers(9)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_cells_hold_the_token_that_is_promoted_most_and_hostile_ones_as_text(theme: Any) -> None:
    lens = tiny_pair("bridge").logit_lens("<b>$x$", k=2)
    markup = {str(lens.promoted[0, 0, 0]): "<b>$\u202e"}
    hostile = LogitLens(**{**vars(lens), "texts": {**lens.texts, **markup}})
    figure = hostile.figure(theme)
    heatmap: Any = figure.data[0]
    assert heatmap.z == pytest.approx(lens.values, rel=1e-6)
    assert heatmap.text[0][0] == "&lt;b&gt;&#36;\\u202e"
    drawn = json.dumps(figure.to_plotly_json(), default=lambda value: value.tolist(), ensure_ascii=False)
    assert "<b>$" not in drawn
    assert "\u202e" not in drawn
    assert np.isfinite(heatmap.zmax)


def test_bad_input_is_one_line() -> None:
    pair = tiny_pair("bridge")
    for options, why in [({"of": "mlp"}, "there are ftc, ptc"), ({"k": 0}, "k is 0"), ({"positions": [99]}, "99")]:
        with pytest.raises(InputError, match=why):
            pair.logit_lens("one", **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_hooks_act_and_none_is_left(backend: str) -> None:
    pair = tiny_pair(backend)
    hook = pair.tuned.blocks[1].hook_resid_post.register_forward_hook(lambda _m, _a, out: out * 1.5)
    with torch.no_grad():
        wanted = pair.tuned(torch.tensor([pair.prompt("one two").token_ids]))[0].topk(1).indices[:, 0].tolist()
    assert pair.logit_lens("one two", of="resid_post").promoted[-1, :, 0].tolist() == wanted
    hook.remove()
    blocks = [*pair.base.blocks, *pair.tuned.blocks]
    assert not any(m._forward_hooks for block in blocks for m in block.modules() if m is not block)
