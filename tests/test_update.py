"""One pass over all weights: SGD and the running average as torch computes them, on an optimizer that stays torch's."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wideresnet import engines, kernels, runtime, training
from wideresnet.model import WideResNetClassifier
from wideresnet.recipes import RECIPES, change
from wideresnet.training import StepLoss, update_average

pytestmark = pytest.mark.skipif(kernels.isa() == "none", reason=f"kernels: {kernels.state()}")
SHAPES = [(16, 3, 3, 3), (1,), (0,), (5000,), (7, 13), (3, 1, 1, 1)]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every time that something was said, the same line too."""
    lines: list[str] = []
    monkeypatch.setattr(runtime, "say_once", lines.append)
    return lines


def weights(seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def sgd(parameters: list[nn.Parameter], **options: Any) -> torch.optim.SGD:
    """Two groups, as `make_optimizer` has them: the second without weight decay."""
    given = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, **options}
    second = {"params": parameters[2:], "weight_decay": 0.0, "lr": given["lr"] / 2}
    return torch.optim.SGD([{"params": parameters[:2]}, second], **given)


def draw_gradients(parameters: list[nn.Parameter], step: int) -> None:
    random = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random)


def trained(steps: int, step: Callable[[torch.optim.SGD], None], **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and momenta after so many steps."""
    parameters = weights()
    optimizer = sgd(parameters, **options)
    for number in range(steps):
        draw_gradients(parameters, number)
        step(optimizer)
    return [p.detach() for p in parameters], [optimizer.state[p]["momentum_buffer"] for p in parameters]


@given(
    steps=st.integers(1, 5),
    lr=st.floats(0, 1),
    momentum=st.floats(0.01, 1),
    weight_decay=st.floats(0, 0.1),
    nesterov=st.booleans(),
)
def test_weights_and_momenta_are_those_of_torch_s_own_sgd(steps: int, **options: Any) -> None:
    ours, torchs = trained(steps, kernels.update, **options), trained(steps, torch.optim.SGD.step, **options)
    for mine, theirs in zip(ours, torchs, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # a few roundings of numbers of about 1


@given(share=st.floats(0, 1), steps=st.integers(1, 4))
def test_the_average_follows_the_weights_as_torch_s_lerp_does_those_that_are_not_trained_too(
    share: float, steps: int
) -> None:
    parameters = weights()
    averages: dict[Tensor, Tensor] = {parameter: torch.full_like(parameter, 2.0).detach() for parameter in parameters}
    expected = {parameter: average.clone() for parameter, average in averages.items()}
    optimizer = sgd(parameters)
    for step in range(steps):
        draw_gradients(parameters, step)
        parameters[0].grad = None
        kernels.update(optimizer, averages, share)
        for parameter, average in expected.items():
            average.lerp_(parameter.detach(), share)
    for parameter, average in averages.items():
        torch.testing.assert_close(average, expected[parameter], rtol=1e-6, atol=1e-6)


def test_what_has_no_gradient_stays_and_gets_no_momentum() -> None:
    parameters = weights()
    before = parameters[0].detach().clone()
    optimizer = sgd(parameters)
    draw_gradients(parameters, 0)
    parameters[0].grad = None
    kernels.update(optimizer)
    assert torch.equal(parameters[0], before)
    assert "momentum_buffer" not in optimizer.state[parameters[0]]
    assert "momentum_buffer" in optimizer.state[parameters[1]]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_bits_are_the_same_each_time_and_for_any_number_of_threads(threads: int) -> None:
    with runtime.threads(2):
        expected = trained(3, kernels.update)
    with runtime.threads(threads):
        again = trained(3, kernels.update)
    for mine, theirs in zip(again, expected, strict=True):
        assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("first", ["torch", "kernels"])
def test_torch_s_own_step_goes_on_from_our_momentum_and_we_from_torch_s(first: str) -> None:
    turns = itertools.cycle([first, "torch" if first == "kernels" else "kernels"])

    def alternating(optimizer: torch.optim.SGD) -> None:
        if next(turns) == "kernels":
            kernels.update(optimizer)
        else:
            optimizer.step()

    ours, torchs = trained(6, alternating), trained(6, torch.optim.SGD.step)
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_autograd_notices_that_weights_have_changed() -> None:
    x = torch.ones(3, requires_grad=True)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    average = torch.zeros(3)
    loss = (x * weight).sum()
    weight.grad = torch.ones(3)
    versions = weight._version, average._version
    kernels.update(optimizer, {weight: average}, 0.5)
    assert weight._version > versions[0]
    assert average._version > versions[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def channels_last(parameter: nn.Parameter) -> None:
    parameter.data = parameter.detach().to(memory_format=torch.channels_last)


def gradient_across(parameter: nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.grad = parameter.grad.transpose(0, 1).contiguous().transpose(0, 1)


def nothing(_: nn.Parameter) -> None:
    """The weights are as they should be."""


@pytest.mark.parametrize(
    ("spoil", "options", "why"),
    [
        (channels_last, {}, "contiguous float32"),
        (gradient_across, {}, "contiguous float32"),
        (nothing, {"momentum": 0.0, "nesterov": False}, "without momentum"),
        (nothing, {"dampening": 0.5, "nesterov": False}, "dampening"),
        (nothing, {"maximize": True}, "uphill"),
    ],
)
def test_what_does_not_fit_torch_does_and_it_is_said(
    spoil: Callable[[nn.Parameter], None], options: dict[str, Any], why: str, said: list[str]
) -> None:
    ours, torchs = weights(), weights()
    averages = [torch.zeros_like(parameter) for parameter in ours]
    for parameters in (ours, torchs):
        draw_gradients(parameters, 0)
        spoil(parameters[0])
    kernels.update(sgd(ours, **options), dict(zip(ours, averages, strict=True)), 0.5)
    sgd(torchs, **options).step()
    for mine, theirs, average in zip(ours, torchs, averages, strict=True):
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(average, theirs.detach() / 2)
    assert len(said) == 1
    assert why in said[0]
    assert said[0].endswith("; torch updates the weights")


def square(model: nn.Module, batch: Tensor) -> StepLoss:
    return StepLoss(model(batch).square().mean(), len(batch))


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"clip_norm": 0.1, "sam_rho": 0.05, "layer_decay": 0.5}])
def test_a_training_s_steps_are_those_of_torch_whichever_updates(changes: dict[str, Any], said: list[str]) -> None:
    recipe = change(RECIPES["fast"], {"lr": 0.1, **changes})
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    tensors = []
    names: list[engines.Found] = ["kernels", "torch"]
    for name in names:
        torch.manual_seed(0)
        model = WideResNetClassifier(3, 10, 1)
        model.backbone.stage1.requires_grad_(False)
        state = training.start(model, recipe, engine=name)
        for step in range(1, 4):
            # Through the model itself, so that the two differ in the update alone.
            training.update(state, state.model, x, square, recipe, lr=0.1, seed=0, step=step)
        tensors.append(training.to_tensors(state))
    ours, torchs = tensors
    assert said == []
    assert ours.keys() == torchs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, torchs[key], rtol=1e-4, atol=1e-5)
    assert any(key.startswith("average/") for key in ours) == ("ema_decay" in changes)


def test_the_average_of_a_step_left_alone_stays() -> None:
    recipe = change(RECIPES["fast"], {"ema_decay": 0.9})
    torch.manual_seed(0)
    state = training.start(WideResNetClassifier(3, 10, 1), recipe, engine="kernels")
    assert state.average is not None
    before = copy.deepcopy(state.average.state_dict())
    x = torch.randn(4, 3, 8, 8)

    training.update(state, state.model, x, square, recipe, lr=0.1, seed=0)
    assert all(torch.equal(before[key], value) for key, value in state.average.state_dict().items())
    training.update(state, state.model, x, square, recipe, lr=0.1, seed=0, step=1)
    expected = WideResNetClassifier(3, 10, 1)
    expected.load_state_dict(before)
    update_average(expected, state.model, 0.9, 1)
    for key, value in state.average.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key])
