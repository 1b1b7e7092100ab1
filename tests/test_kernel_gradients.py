"""Training through our kernels against torch: gradients in float64 over every option, BN's buffers and frozen
parts. How the autograd function behaves, whoever calls it, test_kernel_training.py asks."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gradient_errors import INPUT, apart, errors, exact_gradients, gradients, nearest_to_zero
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_networks import BEST, LIBRARY, accelerated, wrn
from test_kernels import _options
from test_model import images
from torch import Tensor, nn

from wideresnet import runtime
from wideresnet.kernels import library
from wideresnet.model import WideResNetClassifier

# Of a tensor's largest gradient, against float64. Measured: 2e-6 to 1e-5, torch's own 1e-6 to 5e-6; F(4×4) costs four
# times torch's own rounding.
BOUND = 5e-5
SIDES = (5, 17, 18, 31, 33)


@contextmanager
def by(isa: str = BEST, threads: int = 1) -> Iterator[None]:
    """The kernels of this instruction set, with so many threads."""
    before, best = torch.get_num_threads(), library.isa
    torch.set_num_threads(threads)
    library.isa = lambda: isa
    try:
        yield
    finally:
        library.isa = best
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch's references are faster with one where the machine is busy; tests that are about threads say how many."""
    with by(threads=1):
        yield


@pytest.fixture(autouse=True)
def never_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison with a network that torch computed would say nothing."""
    monkeypatch.setattr(runtime, "say_once", pytest.fail)


def norm_of(model: nn.Module, name: str) -> nn.BatchNorm2d:
    norm = model.get_submodule(f"backbone.{name}")
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def stem_of(model: nn.Module) -> tuple[nn.Conv2d, Tensor]:
    """Its convolution, and the bias of that."""
    conv = model.get_submodule("backbone.stem.0")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv, conv.bias


def labels(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % 5


def worst(model: WideResNetClassifier, x: Tensor, isa: str = BEST, threads: int = 1) -> tuple[float, str]:
    """The largest error of any gradient, and whose it is. Parts that are frozen have none."""
    exact = exact_gradients(model, x, labels(x))
    with by(isa, threads):
        found = gradients(accelerated(model), model, x, labels(x))
    lost = errors(found, exact)
    largest = max(value.abs().max().item() for value in exact.values())
    for name, value in exact.items():
        if value.numel() == 1:  # PSSiLU's α and β: a sum over all pixels that may cancel has no size of its own
            lost[name] *= value.abs().item() / largest
    name = max(lost, key=lambda each: lost[each])
    return lost[name], name


# --- Whole networks


@settings(max_examples=60, derandomize=True)
@given(
    options=_options().map(lambda o: {**o, "activation": "silu" if "relu" in o["activation"] else o["activation"]}),
    size=st.tuples(st.integers(3, 4), st.sampled_from([1, 3]), st.sampled_from(SIDES), st.sampled_from(SIDES)),
    widen_factor=st.sampled_from([1, 2]),
    threads=st.integers(1, 3),
    isa=st.sampled_from(list(LIBRARY.isas)),
    seed=st.integers(0, 1000),
)
@example({"stem": "conv", "shortcut": "bypass"}, (3, 3, 5, 33), 2, 2, BEST, 0)
@example({"padding": "same", "stride_on": "conv2"}, (3, 3, 18, 17), 1, 2, BEST, 0)
def test_every_gradient_of_every_smooth_network_is_float64s(
    options: dict[str, Any], size: tuple[int, int, int, int], widen_factor: int, threads: int, isa: str, seed: int
) -> None:
    depth = 10 if options.get("num_blocks") is None else 16
    options = {"activation": "silu"} | options
    model = wrn(depth, widen_factor, 5, seed, in_channels=size[1], **options).train()
    lost, name = worst(model, images(*size, seed=seed), isa, threads)
    assert lost <= BOUND, f"{name}: {lost:.2e}"


KINKED: tuple[dict[str, Any], ...] = (
    {},
    {"activation": "leaky-relu-0.01", "stem": "conv", "shortcut": "activated"},
    {"activation": "leaky-relu-0.1", "padding": "same", "conv_bias": "all"},
    {"activation": "leaky-relu-0.2", "stride_on": "conv2", "widths": (17, 33, 65)},
    {"stem": "conv", "shortcut": "bypass", "widths": (24, 40, 56)},
    {"shortcut": "avgpool-pad", "widths": (17, 33, 35)},
    {"projection": "each-stage", "head": "cosine"},
    {"num_blocks": (2, 1, 3), "conv_bias": "stem", "head": "linear-no-bias"},
)


@pytest.mark.parametrize("isa", LIBRARY.isas)
@pytest.mark.parametrize("options", KINKED)
def test_every_gradient_behind_a_relu_is_float64s_where_no_mask_is_in_doubt(options: dict[str, Any], isa: str) -> None:
    depth = 16 if "num_blocks" in options else 10
    for seed, side in enumerate(SIDES[:2] if isa == "scalar" else SIDES):
        x = images(3, 3, side, 18, seed=seed)
        model = apart(wrn(depth, seed=seed, **options).train(), x)
        lost, name = worst(model, x, isa, 1 + seed % 2)
        assert lost <= BOUND, f"{side}: {name}: {lost:.2e}"


@pytest.mark.parametrize("depth", [16, 22, 28])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_errors_grow_little_with_depth(depth: int, activation: str) -> None:
    x = images(3, 3, 16, 16)
    model = wrn(depth, activation=activation).train()
    lost, name = worst(apart(model, x) if activation == "relu" else model, x)
    assert lost <= BOUND, f"{name}: {lost:.2e}"


@pytest.mark.parametrize("activation", ["relu", "leaky-relu-0.1"])
def test_without_bn_gradients_are_float64s_too(activation: str) -> None:
    """There are no shifts to move, so a seed whose ReLUs meet nothing near zero is looked for."""
    for seed in range(30):
        model, x = wrn(activation=activation, norm="none", conv_bias="all", seed=seed).train(), images(1, 3, 7, 7)
        if nearest_to_zero(model, x) > 3e-6:
            break
    lost, name = worst(model, x)
    assert lost <= BOUND, f"{name}: {lost:.2e}"


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_a_batch_of_tiny_pictures_has_float64s_gradients(side: int) -> None:
    """More borders than middles. So few values a channel are badly conditioned: torch's own error is the measure."""
    model, x = wrn(activation="silu", bn_eps=0.1).train(), images(6, 3, side, 5 - side)
    exact = exact_gradients(model, x, labels(x))
    torchs = max(errors(gradients(model, copy.deepcopy(model), x, labels(x)), exact).values())
    lost, name = worst(model, x)
    assert lost <= BOUND + 10 * torchs, f"{name}: {lost:.2e}, torch's {torchs:.2e}"


# --- BN: its statistics and its modes


def same_buffers(model: nn.Module, expected: nn.Module) -> None:
    wanted = dict(expected.named_buffers())
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, wanted[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.003, None, 0.0])
@pytest.mark.parametrize("options", [{}, {"stem": "conv", "shortcut": "bypass"}, {"shortcut": "avgpool-pad"}])
def test_logits_and_running_statistics_are_torchs_step_after_step(
    options: dict[str, Any], momentum: float | None
) -> None:
    model = wrn(**options).train()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = momentum
    expected = copy.deepcopy(model)
    fast = accelerated(model)
    for step in range(3):
        x = images(2 + step, 3, 9 + step, 11, seed=step)
        with torch.set_grad_enabled(step != 1):  # as it is without gradients
            torch.testing.assert_close(fast(x), expected(x), rtol=1e-4, atol=1e-4)
        same_buffers(model, expected)
    assert model.backbone.bn.num_batches_tracked == 3


def test_inference_mode_in_training_mode_goes_on_with_the_statistics() -> None:
    model = wrn().train()
    expected, fast = copy.deepcopy(model), accelerated(model)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images(2, 3, 9, 9)), expected(images(2, 3, 9, 9)), rtol=1e-4, atol=1e-4)
    same_buffers(model, expected)
    assert not any(value.is_inference() for value in model.buffers())


def test_a_variance_far_from_its_mean_is_right_and_unbiased() -> None:
    """Σx² − (Σx)²/n of float32 squares loses with the square of mean / deviation: measured 4e-5 at 30, 3e-3 at 300;
    torch 2e-7 and 1e-6. The gradients' bound is wide: torch itself has 1e-5, 2e-3."""
    model = wrn(stem="conv", conv_bias="stem", activation="silu").train()
    (conv, bias), norm = stem_of(model), norm_of(model, "stage1.0.bn1")
    x = images(3, 3, 17, 18)
    with torch.no_grad():
        bias.copy_(30 * conv(x).std((0, 2, 3)))
        read = copy.deepcopy(conv).double()(x.double())
        norm.momentum = 1.0
        accelerated(model)(x)
    mean, var = read.mean((0, 2, 3)), read.var((0, 2, 3), correction=1)
    assert (mean / var.sqrt()).min() > 25
    assert norm.running_var is not None
    lost = ((norm.running_var - var) / var).abs().max().item()
    assert lost < 1e-4, f"{lost:.1e}"
    torch.testing.assert_close(norm.running_mean, mean.float(), rtol=1e-6, atol=0)
    lost_gradient, name = worst(model, x)
    assert lost_gradient < 1e-3, f"{name}: {lost_gradient:.1e}"


def test_a_channel_that_is_constant_has_no_variance_and_no_nan() -> None:
    model = wrn(stem="conv", conv_bias="stem").train()
    with torch.no_grad():
        conv, bias = stem_of(model)
        conv.weight[:8] = 0
        bias.fill_(100.0)
    expected, x = copy.deepcopy(model), images(3, 3, 9, 9)
    found, torchs = accelerated(model)(x), expected(x)
    torch.testing.assert_close(found, torchs, rtol=1e-3, atol=1e-3)
    ours, theirs = (norm_of(each, "stage1.0.bn1").running_var for each in (model, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# What is frozen → how.
FROZEN: dict[str, Callable[[WideResNetClassifier], object]] = {
    "nothing": lambda _: None,
    "the stem": lambda m: m.backbone.stem.requires_grad_(False),
    "the stem, in eval mode": lambda m: m.backbone.stem.requires_grad_(False).eval(),
    "the stem and stage 1": lambda m: (
        m.backbone.stem.requires_grad_(False).eval(),
        m.backbone.stage1.requires_grad_(False).eval(),
    ),
    "all but stage 3": lambda m: (m.requires_grad_(False), m.backbone.stage3.requires_grad_()),
    "all but fc": lambda m: m.backbone.requires_grad_(False),
    "all but fc, in eval mode": lambda m: m.backbone.requires_grad_(False).eval(),
    "all but the last BN": lambda m: (m.requires_grad_(False), m.backbone.bn.requires_grad_()),
    "all but BNs": lambda m: [p.requires_grad_(p.dim() == 1) for p in m.parameters()],
    "all but the convolutions": lambda m: [p.requires_grad_(p.dim() == 4) for p in m.parameters()],
    "all but shifts and biases": lambda m: [p.requires_grad_(n.endswith("bias")) for n, p in m.named_parameters()],
    "all but one proj": lambda m: (m.requires_grad_(False), m.backbone.stage2[0].proj.requires_grad_()),
    "all but the stem's BN": lambda m: (m.requires_grad_(False), m.backbone.stem[1].requires_grad_()),
    "stage 2 in the middle": lambda m: m.backbone.stage2.requires_grad_(False),
    "every statistic": lambda m: [each.eval() for each in m.modules() if isinstance(each, nn.BatchNorm2d)],
    "statistics of stage 2": lambda m: m.backbone.stage2.eval(),
    "everything": lambda m: m.requires_grad_(False),
}


@pytest.mark.parametrize("wants_input", [False, True])
@pytest.mark.parametrize("frozen", FROZEN)
def test_frozen_parts_have_torchs_gradients_or_none_and_torchs_statistics(frozen: str, wants_input: bool) -> None:
    given, x = images(3, 3, 9, 10), images(3, 3, 9, 10)
    model = apart(wrn(16, conv_bias="all").train(), x)
    FROZEN[frozen](model)
    exact = copy.deepcopy(model).double()
    ours, theirs = x.clone().requires_grad_(wants_input), given.double().requires_grad_(wants_input)
    logits, expected = accelerated(model)(ours), exact(theirs)
    assert logits.requires_grad == expected.requires_grad
    if logits.requires_grad:
        for each in (logits, expected):
            F.cross_entropy(each, labels(x)).backward()
    wanted = {n: p.grad for n, p in exact.named_parameters()} | {INPUT: theirs.grad}
    found = {n: p.grad for n, p in model.named_parameters()} | {INPUT: ours.grad}
    assert {n for n, g in found.items() if g is not None} == {n for n, g in wanted.items() if g is not None}
    there = {n: g for n, g in wanted.items() if g is not None}
    lost = errors({n: g.double() for n, g in found.items() if g is not None}, there) if there else {}
    assert max(lost.values(), default=0) <= BOUND, lost
    same_buffers(model, exact.float())


def test_a_bn_that_is_bypassed_has_no_gradient_but_statistics() -> None:
    model = wrn(stem="conv", shortcut="bypass").train()
    expected, x = copy.deepcopy(model), images(3, 3, 9, 9)
    for compute in (accelerated(model), expected):
        compute(x).square().sum().backward()
    without = [name for name, p in expected.named_parameters() if p.grad is None]
    assert [name for name, p in model.named_parameters() if p.grad is None] == without
    assert without == [f"backbone.stage{stage}.0.bn1.{name}" for stage in (2, 3) for name in ("weight", "bias")]
    same_buffers(model, expected)


def test_one_model_in_every_mode_one_after_the_other_is_always_torchs() -> None:
    """requires_grad, modes, sizes and a part put in place of another between the steps of one training."""
    x = images(4, 3, 12, 12)
    model = wrn(16, activation="silu").train()
    fast = accelerated(model)
    turns: list[Callable[[], object]] = [
        lambda: None,
        lambda: model.backbone.stage1.requires_grad_(False),
        model.backbone.stage2.eval,
        model.train,
        model.requires_grad_,
        lambda: setattr(model.backbone, "bn", nn.BatchNorm2d(64, eps=0.01)),
        lambda: model.set_submodule("backbone.stage2.0.conv2", nn.Conv2d(32, 32, 3, padding=1, bias=False)),
        model.eval,
        model.backbone.stem.train,
        lambda: setattr(model.backbone.bn, "eps", 0.5),
    ]
    for number, turn in enumerate(turns):
        turn()
        batch = x[: 4 - number % 3]
        exact = exact_gradients(model, batch, labels(batch))
        lost = errors(gradients(fast, model, batch, labels(batch)), exact)
        assert max(lost.values()) <= BOUND, (number, lost)
