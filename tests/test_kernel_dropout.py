"""Dropout in the kernels: a function of a seed and of an element's index, the same in both passes."""

import copy
from typing import Any

import pytest
import torch
from gradient_errors import INPUT, errors, exact_gradients, gradients
from kernel_networks import BEST, LIBRARY, accelerated, wrn
from test_kernel_gradients import BOUND, labels, never_torch, one_thread  # noqa: F401  (two fixtures)
from test_model import images
from torch import Tensor, nn

from wideresnet.kernels import library
from wideresnet.model import WideResidualBlock, WideResNetClassifier


def dropping(p: float, dropout_at: str = "before-bn2", **options: Any) -> WideResNetClassifier:
    return wrn(16, dropout_p=p, dropout_at=dropout_at, activation="silu", **options).train()


class Masked(nn.Module):
    """In the place of a dropout: the factors that were given to it."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


def masks(model: WideResNetClassifier, x: Tensor, seed: int) -> dict[str, Tensor]:
    """Block → factors of its dropout in the kernels' next pass after torch.manual_seed(seed)."""
    torch.manual_seed(seed)
    drawn = int(torch.randint(2**62, ()))
    found: dict[str, Tensor] = {}
    height, width = x.shape[2:]
    for name, block in model.named_modules():
        if isinstance(block, WideResidualBlock) and block.dropout is not None:
            height, width = -(-height // block.stride), -(-width // block.stride)
            seed_here = (drawn + len(found) * 0x9E3779B97F4A7C15) % 2**63
            found[name] = factors((len(x), block.out_ch, height, width), seed_here, block.dropout.p)
    return found


def factors(shape: tuple[int, ...], seed: int, p: float, isa: str = BEST, threads: int = 1) -> Tensor:
    """What ACTIVATE makes of ones: [n, c, h, w]."""
    n, c, h, w = shape
    padded = -(-c // LIBRARY.lanes(isa)) * LIBRARY.lanes(isa)
    ones, y = torch.ones(n, h, w, padded), torch.empty(n, h, w, padded)
    ops = (library.Op * 1)()
    op = ops[0]
    op.kind, op.n, op.h, op.w, op.c, op.ho, op.wo, op.k, op.group = library.ACTIVATE, n, h, w, c, h, w, c, n
    op.drop, op.seed, op.x, op.y = p, seed, ones.data_ptr(), y.data_ptr()
    op.x_step = op.y_step = h * w * padded
    LIBRARY.run(isa, ops, threads, torch.zeros(LIBRARY.work_floats(isa, ops, threads)))
    return y[..., :c].permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("dropout_at", ["before-bn2", "after-act2"])
@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("p", [0.01, 0.4, 0.9])
def test_both_passes_drop_the_same_elements_as_float64_with_those_masks(
    p: float, activation: str, dropout_at: str
) -> None:
    model = wrn(16, 1, 5, dropout_p=p, dropout_at=dropout_at, activation=activation, widths=(17, 32, 40)).train()
    x = images(4, 3, 13, 14)
    drawn = masks(model, x, 3)
    exact = copy.deepcopy(model)
    for name, factor in drawn.items():
        exact.get_submodule(name).dropout = Masked(factor.double())
    expected = exact_gradients(exact, x, labels(x))
    torch.manual_seed(3)
    lost = errors(gradients(accelerated(model), model, x, labels(x)), expected)
    typical = sorted(lost.values())[len(lost) // 2]
    if activation == "silu":
        assert max(lost.values()) <= BOUND, max(lost.items(), key=lambda each: each[1])
    else:  # a ReLU may flip: the median then, which other masks would make 1
        assert typical <= 0.05, typical


@pytest.mark.parametrize("p", [1e-3, 0.3, 0.9])
def test_dropout_keeps_its_share_scales_it_and_is_another_in_every_layer_and_step(p: float) -> None:
    shape, count = (4, 33, 40, 40), 4 * 33 * 40 * 40
    drawn = [factors(shape, seed, p) for seed in (1, 2, 2**61, 2**61 + 1)]
    for each in drawn:
        kept = each != 0
        assert torch.equal(each[kept], (1 / (1 - torch.tensor(p))).expand(int(kept.sum())))
        deviation = (p * (1 - p) / count) ** 0.5
        assert abs((~kept).double().mean().item() - p) < 5 * deviation
        # Neighbours, channels and pictures are independent
        for shift, axis in ((1, 1), (1, 3), (1, 2), (1, 0), (16, 1)):
            together = ((~kept) & (~kept).roll(shift, axis)).double().mean().item()
            assert abs(together - p * p) < 6 * (p * p * (1 - p * p) / count) ** 0.5 + 2 * p * deviation
    for a, b in ((0, 1), (0, 2), (2, 3)):
        both = ((drawn[a] == 0) & (drawn[b] == 0)).double().mean().item()
        assert abs(both - p * p) < 6 * (p * p * (1 - p * p) / count) ** 0.5 + 4 * p * (p * (1 - p) / count) ** 0.5


@pytest.mark.parametrize("isa", LIBRARY.isas)
def test_threads_change_no_mask(isa: str) -> None:
    expected = factors((3, 40, 7, 9), 5, 0.4, isa)
    for threads in (2, 3, 7):
        assert torch.equal(factors((3, 40, 7, 9), 5, 0.4, isa, threads), expected)


def test_dropout_follows_torchs_seed_and_is_none_in_eval_mode() -> None:
    model = dropping(0.4)
    fast, x = accelerated(model), images(2, 3, 12, 12)

    def step(seed: int | None) -> dict[str, Tensor]:
        if seed is not None:
            torch.manual_seed(seed)
        return gradients(fast, model, x, labels(x))

    first, second, again, other = step(1), step(None), step(1), step(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for changed in (second, other):
        assert not torch.equal(first[INPUT], changed[INPUT])
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    model.eval()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    without = copy.deepcopy(model)
    for block in (m for m in without.modules() if isinstance(m, WideResidualBlock)):
        block.dropout = None
    lost = errors(step(None), exact_gradients(without, x, labels(x)))
    assert max(lost.values()) <= BOUND
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rate_of_dropout_that_is_changed_is_noticed() -> None:
    model = dropping(0.4)
    fast, x = accelerated(model), images(2, 3, 12, 12)
    fast(x)
    for block in (m for m in model.modules() if isinstance(m, WideResidualBlock)):
        assert isinstance(block.dropout, nn.Dropout)
        block.dropout.p = 0.0
    assert torch.equal(fast(x), fast(x))
