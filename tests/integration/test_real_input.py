"""Two hundred real prompts through the embedded pair: excerpts of web text and chats, neither trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from tests.held_out import web_and_chat
from tuco_lens import ModelPair


@pytest.mark.data
@pytest.mark.slow
def test_chats_have_a_higher_tuco_than_web_text(data_dir: Path) -> None:
    pair = ModelPair.demo()
    web, chats = web_and_chat(pair.tokenizer)
    measurement = pair.measure([*web, *chats])
    assert len(measurement) == 200
    tuco = measurement.tuco
    assert tuco.isfinite().all()
    assert (tuco > 0).all()
    assert (tuco < 1).all()
    # The card says more (0.9 with an interval); the margin here is for other machines' rounding only.
    assert roc_auc_score([0] * len(web) + [1] * len(chats), tuco.numpy()) >= 0.85
    roles = {role for item in measurement.items[100:] for role in item.prompt.roles}
    assert roles == {"user", "assistant", "template"}
