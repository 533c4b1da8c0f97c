"""The lockstep engine on toy models whose blocks are written out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tuco_lens.engine import metrics
from tuco_lens.engine.contributions import BlockStep, NormAccumulator, lockstep

H = torch.tensor([1.0, -2.0, 0.5, 3.0]).expand(1, 1, 4)
F = Callable[[Tensor], Tensor]


class ToyBlock(nn.Module):
    """x + f(x), between the two hook points that every TransformerLens block has."""

    def __init__(self, f: F) -> None:
        super().__init__()
        self.f = f
        self.hook_resid_pre = nn.Identity()
        self.hook_resid_post = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_resid_pre(x)
        return self.hook_resid_post(x + self.f(x))


class ToyModel(nn.Module):
    def __init__(self, *fs: F) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(f) for f in fs)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def add(vector: Tensor) -> F:
    return lambda x: vector.expand_as(x)


def test_the_papers_example_with_four_layers_gives_tuco_one_half_and_beta_one() -> None:
    zero = torch.zeros_like(H)
    base = ToyModel(add(zero), add(zero), add(H), add(-H / 2))
    tuned = ToyModel(add(H), add(-H / 2), add(H), add(-H / 2))
    norms = NormAccumulator("l1")
    with lockstep(base, tuned, norms):
        tuned(torch.zeros_like(H))
    result = norms.result()
    assert metrics.tuco(result.cumulative_ptc[:, 0], result.cumulative_ftc[:, 0]).item() == pytest.approx(0.5)
    assert metrics.beta(result.cumulative_ptc[:, 0], result.cumulative_ftc[:, 0]).item() == 1.0


def test_the_base_block_is_fed_the_tuned_models_stream() -> None:
    # Were it fed its own, the second layer would add 0 to the base and FTC_1 would be wrong.
    base = ToyModel(lambda x: 0 * x, lambda x: x)
    tuned = ToyModel(lambda x: x, lambda x: -x)
    steps: list[BlockStep] = []
    with lockstep(base, tuned, steps.append):
        tuned(H)
    assert torch.equal(steps[1].base_post - steps[1].resid_pre, 2 * H)
    assert torch.equal(steps[1].tuned_post - steps[1].base_post, -4 * H)


def test_the_stream_is_read_after_the_users_hooks_even_those_added_later() -> None:
    base, tuned = ToyModel(lambda x: x), ToyModel(lambda x: 3 * x)
    hook_point = tuned.blocks[0].hook_resid_pre
    hook_point.register_forward_hook(lambda m, i, o: o + 1)
    steps: list[BlockStep] = []
    with lockstep(base, tuned, steps.append):
        hook_point.register_forward_hook(lambda m, i, o: o * 2)
        tuned(H)
    assert torch.equal(steps[0].resid_pre, (H + 1) * 2)
    assert torch.equal(steps[0].base_post, (H + 1) * 4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["tuned block", "base block", "user hook", "visit"])
def test_no_hook_is_left_after_an_exception(error: type[BaseException], where: str) -> None:
    def fail(*_: object) -> Tensor:
        raise error

    base = ToyModel(lambda x: x, fail if where == "base block" else lambda x: x)
    tuned = ToyModel(lambda x: x, fail if where == "tuned block" else lambda x: x)
    if where == "user hook":
        tuned.blocks[1].hook_resid_post.register_forward_hook(fail)
    before = n_hooks(base) + n_hooks(tuned)
    with pytest.raises(error), lockstep(base, tuned, fail if where == "visit" else lambda step: None):
        tuned(H)
    assert n_hooks(base) + n_hooks(tuned) == before


def test_models_of_different_depth_and_one_model_twice_are_refused_without_a_hook() -> None:
    one, two = ToyModel(lambda x: x), ToyModel(lambda x: x, lambda x: x)
    for base, tuned in ((one, two), (one, one)):
        with pytest.raises(ValueError), lockstep(base, tuned, lambda step: None):
            pass
        assert n_hooks(base) + n_hooks(tuned) == 0


def test_sums_in_half_precision_are_kept_in_float32() -> None:
    base, tuned = ToyModel(lambda x: x), ToyModel(lambda x: 2 * x)
    norms = NormAccumulator("l1")
    with lockstep(base, tuned, norms):
        tuned(H.to(torch.bfloat16))
    assert norms.result().cumulative_ftc.dtype == torch.float32
