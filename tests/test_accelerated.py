"""`accelerate`: the model's own answer whatever is changed, asked or missing; threads, processes."""

import copy
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_networks import ALGORITHMS, accelerated, error, exactly, made, wrn
from test_model import images, lively
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wideresnet import kernels
from wideresnet.kernels.plan import Algorithm
from wideresnet.model import WideResidualBlock, WideResNetClassifier


def same(fast: nn.Module, model: nn.Module, x: Tensor, bound: float = 1e-5) -> bool:
    with torch.no_grad():
        return error(fast(x), model(x).double()) <= bound


X = images(2, 3, 12, 12)


def by_torch(fast: nn.Module, model: nn.Module, x: Tensor = X) -> bool:
    """Bit for bit, which kernels' answers are not."""
    with torch.no_grad():
        return torch.equal(fast(x), model(x))


def test_an_accelerated_model_answers_as_the_model_does_and_accelerates_once(said: list[str]) -> None:
    model = wrn()
    fast = accelerated(model)
    assert same(fast, model, X)
    assert not by_torch(fast, model)
    assert kernels.accelerate(fast) is fast
    assert not said


def test_every_layout_of_the_input_gives_the_same_bits() -> None:
    fast, x = accelerated(wrn()), images(3, 3, 10, 14)
    with torch.no_grad():
        expected = fast(x)
        assert torch.equal(fast(x.to(memory_format=torch.channels_last)), expected)
        assert torch.equal(fast(x.transpose(2, 3).contiguous().transpose(2, 3)), expected)
        assert torch.equal(fast(images(6, 3, 20, 28).copy_(x.repeat(2, 1, 2, 2))[::2, :, :10, :14][:1]), fast(x[:1]))
        assert torch.equal(fast(torch.cat([x, x], 3)[..., 14:]), expected)
    with torch.inference_mode():
        assert torch.equal(fast(x.clone()), expected)
    assert torch.equal(fast.requires_grad_(False)(x), expected)


CHANGES: dict[str, Callable[[WideResNetClassifier], object]] = {
    "a weight in place": lambda m: m.fc.weight.mul_(2),
    "a statistic in place": lambda m: m.backbone.bn.running_var.mul_(2),  # type: ignore[operator]
    "load_state_dict": lambda m: m.load_state_dict(wrn(seed=1).state_dict()),
    "a parameter replaced": lambda m: setattr(m.fc, "weight", nn.Parameter(m.fc.weight + 1)),
    "a buffer replaced": lambda m: setattr(m.backbone.bn, "running_mean", torch.ones(64)),
    "its data replaced": lambda m: setattr(m.fc.weight, "data", m.fc.weight + 1),
    "a module replaced": lambda m: setattr(m, "fc", nn.Linear(64, 7)),
    "a block replaced": lambda m: m.backbone.stage1.__setitem__(0, lively(WideResidualBlock(16, 16), 5).eval()),
    "an epsilon": lambda m: setattr(m.backbone.bn, "eps", 1.0),
    "a bias taken away": lambda m: setattr(m.fc, "bias", None),
    "a pass in training mode": lambda m: (m.train(), m(X + 1), m.eval()),
    "an option": lambda m: setattr(m, "head", "cosine"),
    "a fused optimiser's step": lambda m: _step(m, fused=True),
}


def _step(model: WideResNetClassifier, *, fused: bool) -> None:
    with torch.enable_grad():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        model(X).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_is_noticed(change: str) -> None:
    model = wrn()
    fast = accelerated(model)
    assert same(fast, model, X)
    with torch.no_grad():
        before = fast(X)
        CHANGES[change](model)
        after = fast(X)
    assert after.shape != before.shape or not torch.equal(after, before)
    assert same(fast, model, X)


def _put(path: str, module: nn.Module) -> Callable[[WideResNetClassifier], object]:
    return lambda m: m.set_submodule(path, module.eval())


BLOCK = "backbone.stage1.0"
# What torch computes and `lower` would misread: some of it as weights of another size, beyond the ends of buffers.
STRANGERS: dict[str, Callable[[WideResNetClassifier], object]] = {
    "dilation": _put(f"{BLOCK}.conv1", nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False)),
    "groups": _put(f"{BLOCK}.conv1", nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False)),
    "reflected padding": _put(f"{BLOCK}.conv1", nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect", bias=False)),
    "a kernel of 5": _put(f"{BLOCK}.conv2", nn.Conv2d(16, 16, 5, padding=2, bias=False)),
    "a stem of 7": _put("backbone.stem.0", nn.Conv2d(3, 16, 7, padding=3, bias=False)),
    "a strided stem": _put("backbone.stem.0", nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)),
    "other widths": _put("backbone.stage1", nn.Sequential(WideResidualBlock(16, 8), WideResidualBlock(8, 16))),
    "a further block": lambda m: m.backbone.stage1.append(WideResidualBlock(16, 16).eval()),
    "no stage": _put("backbone.stage1", nn.Identity()),
    "statistics of the batch": _put(f"{BLOCK}.bn1", nn.BatchNorm2d(16, track_running_stats=False)),
    "a norm without scale": _put(f"{BLOCK}.bn1", nn.BatchNorm2d(16, affine=False)),
    "no norm": _put(f"{BLOCK}.bn1", nn.Identity()),
    "another norm": _put(f"{BLOCK}.bn1", nn.GroupNorm(4, 16)),
    "no head": _put("fc", nn.Identity()),
    "a deeper head": _put("fc", nn.Sequential(nn.Dropout(), nn.Linear(64, 10))),
    "another pool": lambda m: (_put("pool", nn.AdaptiveAvgPool2d(2))(m), _put("fc", nn.Linear(256, 10))(m)),
    "the stem's activation": _put("backbone.stem.2", nn.LeakyReLU(0.3)),
    "a block's activation": lambda m: setattr(m.backbone.stage1[0], "activation", nn.GELU().forward),
    "the last activation": lambda m: setattr(m.backbone, "activation", nn.GELU().forward),
    "a method": lambda m: setattr(m.backbone.stage1[0], "forward", lambda x: x),
    "a head of another kind": lambda m: setattr(m, "head", "cosine"),
    "a parametrization": lambda m: parametrizations.weight_norm(m.fc).eval(),
    "another dtype": lambda m: m.double(),
}


def test_weights_that_are_nan_are_packed_once() -> None:
    model = wrn()
    fast = accelerated(model)
    with torch.no_grad():
        model.fc.weight[0, 0] = math.nan
        fast(X)
        packed = fast._network(fast._chosen)
        fast(X)
    assert fast._network(fast._chosen) is packed


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_network_of_other_parts_is_torchs_also_if_it_becomes_one_later(stranger: str, said: list[str]) -> None:
    model, later = wrn(), wrn()
    STRANGERS[stranger](model)
    assert kernels.accelerate(model) is model
    assert len(said) == 1
    assert "torch computes" in said[0]
    fast = accelerated(later)
    assert same(fast, later, X)
    STRANGERS[stranger](later)
    x = X.to(next(later.parameters()).dtype)
    assert by_torch(fast, later, x)


def test_a_subclass_another_module_and_a_model_on_no_device_are_torchs(said: list[str]) -> None:
    class Mine(WideResNetClassifier):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    for model in (Mine(10, 10, 1), nn.Linear(2, 2), nn.Sequential(wrn()), WideResNetClassifier(10, 10, 1).to("meta")):
        assert kernels.accelerate(model) is model
    assert len(said) == 4, said
    assert "on meta, not on the CPU" in said[-1]


def test_training_mode_of_the_whole_or_of_a_part_drops_and_counts(said: list[str]) -> None:
    model = wrn(dropout_p=0.5)
    fast = accelerated(model)
    assert same(fast, model, X)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()  # Monte Carlo dropout
        assert not torch.equal(fast(X), fast(X))
        model.eval()
        assert torch.equal(fast(X), fast(X))
        before = model.backbone.bn.running_mean.clone()  # type: ignore[operator]
        assert fast.train()(X).shape == (2, 10)
    assert not torch.equal(model.backbone.bn.running_mean, before)  # type: ignore[arg-type]
    assert not said


def test_gradients_reach_weights_and_input_when_they_are_wanted(said: list[str]) -> None:
    model = wrn()
    fast, x = accelerated(model), X.clone().requires_grad_()
    fast(x).sum().backward()
    assert x.grad is not None
    assert model.fc.weight.grad is not None
    model.requires_grad_(False)
    assert fast(x).requires_grad
    assert not fast(X).requires_grad
    assert not said


def test_hooks_are_called_at_every_call_from_the_first(said: list[str]) -> None:
    model, calls = wrn(), []
    fast = accelerated(model)
    hook = model.backbone.stage2.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        fast(X)
        fast(X)
        hook.remove()
        fast(X)
    assert len(calls) == 2
    assert said == ["kernels: the model has hooks; torch computes"]


def test_autocast_float64_and_shapes_that_do_not_fit_have_the_models_own_answer_or_error() -> None:
    model = wrn()
    fast = accelerated(model)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert fast(X).dtype == torch.bfloat16
    assert by_torch(fast, model, X[:0])
    for wrong in (X[:, :2], X[0], X.double(), X.to("meta")):
        messages = []
        for each in (model, fast):
            with torch.no_grad(), pytest.raises((ValueError, RuntimeError, NotImplementedError)) as caught:
                each(wrong)
            messages.append((type(caught.value), str(caught.value)))
        assert messages[0] == messages[1]


def test_a_copy_a_pickle_and_a_saved_state_go_on_by_themselves() -> None:
    model = wrn()
    fast = accelerated(model)
    with torch.no_grad():
        expected = fast(X)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(other(X), expected)
            other.model.fc.weight.zero_()
            assert torch.equal(fast(X), expected)
            assert torch.equal(other(X), other.model.fc.bias.expand(2, 10))
        fresh = accelerated(wrn(seed=3))
        fresh.load_state_dict(fast.state_dict())
        assert torch.equal(fresh(X), expected)


# --- Values beyond the ordinary


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("options", [{}, {"activation": "silu"}, {"shortcut": "avgpool-pad", "widths": (24, 40, 56)}])
def test_nan_and_infinity_in_one_picture_are_torchs_and_leave_the_others_alone(
    value: float, options: dict[str, Any]
) -> None:
    model, x = wrn(**options), images(3, 3, 13, 13)
    x[1, 0, 6, 6] = value
    fast = accelerated(model)
    with torch.no_grad():
        found, expected = fast(x), model(x)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    assert error(found[[0, 2]], expected[[0, 2]].double()) <= 1e-5


def passing(model: WideResNetClassifier) -> WideResNetClassifier:
    """Its first channel goes through every shortcut as it is, all else is zero; the logits are 0 … 9 times its mean."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and name.endswith(("proj", "stem.0")):
                module.weight[0, 0, module.kernel_size[0] // 2, module.kernel_size[0] // 2] = 1
        model.fc.weight[:, 0] = torch.arange(10.0)
    return model


def test_an_overflow_of_the_transforms_is_not_hidden_by_a_relu() -> None:
    """At 1.6e37 one frequency of F(4×4) overflows, 25 times the pixel: −∞, behind a ReLU 0, and finite logits without
    what the pixel did."""
    model, x = passing(wrn(norm="none", stem="conv")), torch.zeros(1, 3, 16, 16)
    block = model.backbone.stage1[0]
    assert isinstance(block, WideResidualBlock)
    x[0, 0, 5, 5] = 1.6e37
    with torch.no_grad():
        block.conv1.weight[:, 0, 0, 0] = -1e-30
        block.conv1.weight[0, 0, 2, 2] = 0.5
        block.conv2.weight[0, 0, 1, 1] = 1
        assert not made(model)(x, 2).isfinite().any()
        torch.testing.assert_close(accelerated(model)(x), model(x))


@pytest.mark.parametrize("magnitude", [1e30, 1e36, 5e36, 1e37, 3e37, 1e38])
def test_large_activations_take_the_safe_path(magnitude: float) -> None:
    model = wrn(norm="none")
    with torch.no_grad():
        model.fc.weight.mul_(1e-6)
        # Over a map of 16 pixels at most, so that the sum of the mean does not overflow either
        x = images(2, 3, 7, 7) * (magnitude / 100)
        found, expected = accelerated(model)(x), model(x)
    assert torch.equal(found.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    assert not finite.any() or error(found[finite], expected[finite].double()) <= 1e-5


def test_padding_channels_that_are_nan_reach_no_real_channel() -> None:
    """0 · ∞ where stage 1 of 24 channels is −∞: its averaging shortcut made channels 25 to 32 of stage 2 of it."""
    model, x = wrn(shortcut="avgpool-pad", widths=(24, 40, 56), stem="conv", norm="none"), images(1, 3, 8, 8)
    x[0, :, 3, 3] = 1e38
    block = model.backbone.stage1[0]
    assert isinstance(block, WideResidualBlock)
    with torch.no_grad():
        block.conv1.weight.abs_().mul_(1000)  # +∞ around the pixel,
        block.conv2.weight.abs_().mul_(-1)  # −∞ of it, which the next ReLU makes 0
        expected = model(x)
        assert expected.isfinite().all()
        torch.testing.assert_close(accelerated(model)(x), expected)


@pytest.mark.parametrize(("offset", "algorithm"), [(10, "fast"), (300, "exact"), (3000, "direct")])
def test_a_model_on_which_transforms_lose_too_much_takes_a_slower_algorithm_and_says_so(
    offset: float, algorithm: Algorithm, said: list[str]
) -> None:
    """Channels in pairs that differ by little of a large sum: the pairs' filters cancel what is common to both."""
    model, x = wrn(10, 2, norm="none", stem="conv", conv_bias="stem"), images(2, 3, 16, 16)
    block = model.backbone.stage1[0]
    assert isinstance(block, WideResidualBlock)
    assert block.proj is not None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "backbone.stem.0.bias":
                parameter.fill_(offset)
        for conv in (block.conv1, block.proj):
            conv.weight[:, 1::2] = -conv.weight[:, ::2]
        fast = accelerated(model)
        found, expected = fast(x), exactly(model, x)
        torchs = error(model(x), expected)
    assert fast._chosen == algorithm
    assert error(found, expected) <= torchs + 1e-5
    slower = [f"kernels: {name} algorithms lose too much on this model; a slower one computes" for name in ALGORITHMS]
    assert said == slower[: ALGORITHMS.index(algorithm)]


# --- Threads, processes, other libraries


def test_several_models_at_once_from_several_threads_answer_as_each_alone() -> None:
    models = [accelerated(wrn(seed=seed, widen_factor=1 + seed % 2)) for seed in range(3)]
    inputs = [images(n, 3, 9 + n, 12, seed=n) for n in (1, 2, 3)]
    with torch.inference_mode():
        expected = [[model(x) for x in inputs] for model in models]
    wrong: list[str] = []

    def call(number: int) -> None:
        torch.set_num_threads(1 + number % 3)
        with torch.inference_mode():
            for turn in range(12):
                m, i = (number + turn) % 3, turn // 3 % 3
                if not torch.equal(models[m](inputs[i]), expected[m][i]):
                    wrong.append(f"model {m}, input {i}")

    before = torch.get_num_threads()
    callers = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(before)
    assert not wrong


def python(program: str, *words: str, **environment: str) -> str:
    """What the program printed; the test fails if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


FORK = """
import os, sys, threading, torch
from kernel_networks import wrn
from kernel_networks import accelerated
from test_accelerated import X
fast = accelerated(wrn())
other_threads = fast if sys.argv[1] == "the same model" else accelerated(wrn(seed=1))
torch.set_num_threads(2)
with torch.inference_mode():
    expected = fast(X)
    fast(X)  # what torch makes at its first comparison of two tensors, a child must not meet half made
stop = threading.Event()
def compute():  # a child has none of its parent's threads, and may not wait for their locks
    with torch.inference_mode():
        while not stop.is_set():
            other_threads(X)
other = threading.Thread(target=compute)
other.start()
for turn in range(4):
    child = os.fork()
    if child == 0:
        with torch.inference_mode():
            os._exit(0 if torch.equal(fast(X), expected) and torch.equal(fast(X[:1]), fast(X[:1])) else 1)
    assert os.waitpid(child, 0)[1] == 0, turn
stop.set()
other.join()
print("four children")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("computing", ["the same model", "another model"])
def test_a_child_forked_while_another_thread_computes_answers_the_same(computing: str) -> None:
    assert "four children" in python(FORK, computing)


def test_many_threads_and_then_few_answer_the_same() -> None:
    model = wrn(16, 2)
    computes, x = made(model), images(2, 3, 16, 16)
    expected = computes(x, 1)
    for threads in (32, 2, 17, 1, 2):
        assert torch.equal(computes(x, threads), expected), threads
