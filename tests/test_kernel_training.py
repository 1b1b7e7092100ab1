"""`accelerate` in training, whoever asks: autograd's ways of asking, modes and parts that change, what torch computes
instead. Whether the numbers are right in every network test_kernel_gradients.py asks, and of whole trainings, their
copies, threads and processes test_kernel_trainings.py.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_networks import accelerated, wrn
from test_kernel_gradients import (
    labels,
    norm_of,
    one_thread,  # noqa: F401  (a fixture)
    same_buffers,
)
from test_model import images
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wideresnet.kernels.accelerated import Accelerated
from wideresnet.kernels.gradients import Trainer
from wideresnet.model import WideResNetClassifier

X = images(3, 3, 9, 10)
Gradients = dict[str, Tensor | None]


def smooth(seed: int = 0, **options: Any) -> WideResNetClassifier:
    """In training mode; without a ReLU that may flip between us and torch."""
    return wrn(activation="silu", seed=seed, **options).train()


def pair(**options: Any) -> tuple[Accelerated, WideResNetClassifier]:
    """A network by us, and its copy by torch."""
    model = smooth(**options)
    expected = copy.deepcopy(model)
    return accelerated(model), expected


def loss(compute: nn.Module, x: Tensor = X) -> Tensor:
    return F.cross_entropy(compute(x), labels(x))


def of(compute: nn.Module) -> Gradients:
    """The gradients that there are now, by the names of the network alone."""
    return {name.removeprefix("model."): p.grad for name, p in compute.named_parameters()}


def close(found: Gradients, expected: Gradients, bound: float = 5e-5) -> None:
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        got = found[name]
        assert (got is None) == (wanted is None), name
        if got is not None and wanted is not None:
            lost = ((got - wanted).abs().max() / wanted.abs().max()).item()
            assert lost <= bound, f"{name}: {lost:.1e}"


def copied(found: Gradients) -> Gradients:
    return {name: None if g is None else g.clone() for name, g in found.items()}


def by_kernels(fast: Accelerated) -> Trainer:
    """What computed; torch leaves none."""
    assert fast._trainer is not None
    return fast._trainer


# --- Autograd's ways of asking


def test_two_backward_passes_add_up_and_so_do_micro_batches_of_other_sizes() -> None:
    fast, expected = pair()
    for compute in (fast, expected):
        for x in (X, X[:2], X):
            loss(compute, x).backward()
    close(of(fast), of(expected))
    same_buffers(fast.model, expected)


@pytest.mark.parametrize("first", [0, 1])
def test_two_graphs_alive_at_once_are_walked_in_either_order(first: int) -> None:
    fast, expected = pair()
    for compute in (fast, expected):
        losses = [loss(compute), 3 * loss(compute, images(2, 3, 13, 8, seed=1))]
        losses[first].backward()
        losses[1 - first].backward()
    close(of(fast), of(expected))


def test_a_graph_that_is_retained_gives_the_same_bits_again() -> None:
    fast, _ = pair(dropout_p=0.3)
    value = loss(fast)
    value.backward(retain_graph=True)
    first = copied(of(fast))
    loss(fast, X[:2]).detach()  # a pass in between has memory of its own
    for retain in (True, False):
        fast.zero_grad()
        value.backward(retain_graph=retain)
        assert all(torch.equal(a, b) for a, b in zip(first.values(), of(fast).values(), strict=True))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_autograd_grad_gives_what_is_asked_for_and_no_more() -> None:
    fast, expected = pair()
    x, names = X.clone().requires_grad_(), ("backbone.stage2.0.conv1.weight", "backbone.stem.1.bias")
    found, wanted = (
        torch.autograd.grad(loss(each, x), [x, *(dict(each.named_parameters())[prefix + n] for n in names)])
        for each, prefix in ((fast, "model."), (expected, ""))
    )
    close(dict(zip("xab", found, strict=True)), dict(zip("xab", wanted, strict=True)))
    assert all(g is None for g in of(fast).values())


def test_the_jacobian_is_torchs_row_by_row() -> None:
    fast, expected = pair()
    found, wanted = (torch.autograd.functional.jacobian(each, X[:2]) for each in (fast, expected))
    close({"jacobian": found}, {"jacobian": wanted})


def test_second_derivatives_and_batches_of_gradients_are_refused_by_name() -> None:
    fast, _ = pair()
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match=r"no second derivatives \(create_graph=True\).*--engine torch"):
        torch.autograd.grad(loss(fast, x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="one gradient at a time"):
        torch.autograd.grad(fast(x), x, torch.eye(30).view(30, 3, 10), is_grads_batched=True)


def test_a_weight_or_an_input_changed_before_its_backward_pass_has_torchs_error() -> None:
    for change in ("weight", "input"):
        fast, _ = pair()
        x = X.clone()
        value = loss(fast, x)
        with torch.no_grad():
            (fast.model.backbone.stage1[0].conv1.weight if change == "weight" else x).mul_(2)  # type: ignore[operator, union-attr]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_has_the_same_gradients(reentrant: bool) -> None:
    fast, expected = pair(dropout_p=0.2)
    torch.manual_seed(0)
    loss(fast).backward()
    plain = copied(of(fast))
    fast.zero_grad()
    torch.manual_seed(0)
    x = X.clone().requires_grad_()
    F.cross_entropy(checkpoint(fast, x, use_reentrant=reentrant), labels(x)).backward()
    close(of(fast), plain, 1e-4)  # with the input's; the same masks
    assert x.grad is not None
    assert norm_of(fast.model, "bn").num_batches_tracked == 3  # as torch's: a pass that is made again counts
    assert expected.training


def test_functional_calls_and_torch_func_use_the_weights_that_they_are_given(said: list[str]) -> None:
    fast, expected = pair()
    fast.eval()
    expected.eval()

    def given(compute: nn.Module) -> dict[str, Tensor]:
        return {name: (p.detach() * 1.1).requires_grad_() for name, p in compute.named_parameters()}

    weights, wanted = given(fast), given(expected)
    for compute, its in ((fast, weights), (expected, wanted)):
        F.cross_entropy(torch.func.functional_call(compute, its, (X,)), labels(X)).backward()
    close({n.removeprefix("model."): w.grad for n, w in weights.items()}, {n: w.grad for n, w in wanted.items()})
    assert not said

    def value(its: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(fast, its, (X,)), labels(X))

    functional = torch.func.grad(value)({name: w.detach() for name, w in weights.items()})
    close({n.removeprefix("model."): g for n, g in functional.items()}, {n: w.grad for n, w in wanted.items()})
    assert said == ["kernels: torch.func transforms the call; torch computes"]


def test_torch_compile_of_a_network_around_is_not_disturbed() -> None:
    fast, expected = pair()

    def around(compute: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: compute(x * 2).tanh()

    for compute in (fast, expected):
        torch.compile(around(compute), backend="eager")(X).square().sum().backward()
    close(of(fast), of(expected))
    fast.zero_grad()
    expected.zero_grad()
    for compute in (fast, expected):
        loss(compute).backward()
    close(of(fast), of(expected))
    by_kernels(fast)


# --- Modes and parts


def test_a_mode_changed_between_the_passes_changes_no_gradient() -> None:
    fast, expected = pair()
    for compute in (fast, expected):
        value = loss(compute)
        compute.eval()
        torch.set_num_threads(2)  # the fixture sets it back
        value.backward()
        torch.set_num_threads(1)
    close(of(fast), of(expected))


@pytest.mark.parametrize("when", ["before the first step", "after it"])
def test_data_replaced_and_layouts_changed_are_noticed(when: str, said: list[str]) -> None:
    """`tensor.data`, on which the parameter stays the same one: the kernels went on with the memory that was let go."""
    changes: tuple[Callable[[nn.Module], object], ...] = (
        lambda m: nn.utils.vector_to_parameters(1.3 * nn.utils.parameters_to_vector(m.parameters()), m.parameters()),
        lambda m: m.share_memory(),
        lambda m: m.to(memory_format=torch.channels_last),
    )
    for number, change in enumerate(changes):
        fast, expected = pair()
        if when == "after it":
            for compute in (fast, expected):
                loss(compute).backward()
        with torch.no_grad():
            for network in (fast.model, expected):
                change(network)
                for parameter in network.parameters():
                    parameter.mul_(1.1)
        fast.zero_grad()
        expected.zero_grad()
        for compute in (fast, expected):
            loss(compute).backward()
        close(of(fast), of(expected))
        assert len(said) == (number == 2)
    assert "stem.0.weight is not contiguous" in said[0]
    assert "torch.contiguous_format" in said[0]
    fast.eval()
    with torch.no_grad():  # only training needs it
        assert not torch.equal(fast(X), fast.model(X))


def test_a_part_put_in_place_of_another_computes_in_its_own_mode_at_once() -> None:
    """The first call after it asked the old part for its mode and hooks."""
    for first in ("a pass", "none"):
        fast, expected = pair()
        fast.eval()
        expected.eval()
        with torch.no_grad():
            if first == "a pass":
                fast(X)
            for network in (fast.model, expected):
                network.backbone.bn = nn.BatchNorm2d(64)  # in training mode, alone
            torch.testing.assert_close(fast(X), expected(X), rtol=1e-4, atol=1e-4)
        same_buffers(fast.model, expected)
        by_kernels(fast)


def test_a_gradient_in_eval_mode_leaves_the_fast_answers_as_they_were() -> None:
    """They were the slow algorithm's, if the first call of all wanted a gradient."""
    model = wrn()
    fast, other = accelerated(model), accelerated(copy.deepcopy(model))
    fast(X.clone().requires_grad_()).sum().backward()
    with torch.no_grad():
        assert torch.equal(fast(X), other(X))
        assert fast._chosen == "fast"
        packed, trainer = fast._network("fast"), fast._trainer
    for _ in range(2):
        fast(X.clone().requires_grad_()).sum().backward()
        with torch.no_grad():
            fast(X)
    assert fast._network("fast") is packed
    assert fast._trainer is trainer


# --- What torch computes


def test_a_single_value_a_channel_has_bns_own_error() -> None:
    fast, expected = pair()
    messages = []
    for compute in (fast, expected):
        with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
            compute(images(1, 3, 4, 4))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    for x in (images(1, 3, 5, 4), images(2, 3, 1, 1)):  # a batch of one, and maps of one pixel
        fast.zero_grad()
        expected.zero_grad()
        for compute in (fast, expected):
            loss(compute, x).backward()
    close(of(fast), of(expected), 0.05)  # two values a channel are ±1, whatever they were: mostly rounding is left


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("norm", ["bn", "none"])
def test_nan_and_infinity_make_the_loss_torchs_and_leave_the_next_step_alone(value: float, norm: str) -> None:
    fast, expected = pair(norm=norm)
    x = X.clone()
    x[1, 0, 4, 4] = value
    found, wanted = loss(fast, x), loss(expected, x)
    if norm == "bn" or not math.isfinite(wanted.item()):
        assert found.isnan() == wanted.isnan()
    if norm == "bn":
        for name, buffer in fast.model.named_buffers():
            assert torch.equal(buffer.isfinite(), expected.get_buffer(name).isfinite()), name
    found.backward()
    fast.zero_grad()
    for compute in (fast, expected):
        loss(compute).backward()
        compute.zero_grad()
        loss(compute).backward()
    expected.zero_grad()
    loss(expected).backward()
    close(of(fast), of(expected))


def test_autocast_hooks_and_other_dtypes_are_torchs_and_said_once(said: list[str]) -> None:
    fast, expected = pair()
    calls: list[str] = []
    for compute in (fast, expected):
        with torch.autocast("cpu", torch.bfloat16):
            assert compute(X).dtype == torch.bfloat16
    assert said == ["kernels: autocast is on; torch computes"]
    stage = fast.model.backbone.stage2
    hooks = (
        stage.register_forward_hook(lambda *_: calls.append("forward")),
        stage.register_full_backward_hook(lambda *_: calls.append("backward")),
        fast.model.fc.register_forward_pre_hook(lambda *_: calls.append("fc")),
    )
    for _ in range(2):
        loss(fast).backward()
    assert calls == ["forward", "fc", "backward"] * 2
    for hook in hooks:
        hook.remove()
    assert said[1:] == ["kernels: the model has hooks; torch computes"]
    loss(fast).backward()
    assert len(calls) == 6
    fast.double()
    assert fast(X.double()).dtype == torch.float64
    assert fast.float()(X).dtype == torch.float32
    assert len(said) == 3, said


def test_data_replaced_between_the_passes_is_an_error_and_no_crash() -> None:
    fast, _ = pair()
    model = fast.model
    value = loss(fast)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match=r"data was replaced between the forward and the backward pass"):
        value.backward()


@pytest.mark.parametrize("offset", [30.0, 3000.0])
def test_a_mean_far_larger_than_its_deviation_leaves_the_variance_as_exact_as_torchs(offset: float) -> None:
    fast, _ = pair(conv_bias="stem")
    model = fast.model
    bias = model.backbone.stem[0].bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, offset)
    exact, by_torch = copy.deepcopy(model).double(), copy.deepcopy(model)
    exact(X.double()), by_torch(X), fast(X)

    def off(other: WideResNetClassifier) -> float:
        pairs = zip(exact.buffers(), other.buffers(), strict=True)
        return max(float((b.double() - a.double()).abs().max() / a.double().abs().max()) for a, b in pairs)

    assert off(model) <= max(4 * off(by_torch), 2e-6)


def test_a_training_goes_on_after_a_pass_in_inference_mode() -> None:
    fast, _ = pair()
    model = fast.model
    with torch.inference_mode():
        fast(torch.cat([X, X]))  # a larger one, whose memory the next takes
    loss(fast).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_overflows_in_the_transforms_alone_is_computed_by_torch(said: list[str]) -> None:
    fast, _ = pair()
    model = fast.model
    model.eval()
    huge = X * 1e37
    with torch.no_grad():
        expected = model(huge)
    assert expected.isfinite().all()
    assert torch.equal(fast(huge), expected)
    assert said == ["kernels: a value that is not finite; torch computes"]
