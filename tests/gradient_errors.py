"""How far gradients of a whole network are from float64's: what the tests of the kernels and
benchmarks/kernel_gradients.py share.

An error is the largest difference within a tensor over the largest value of float64's. One ReLU whose input lies so
near zero that rounding moves it to the other side makes an error of 1e-2 in all that is before it, and says nothing
about who computed it. So float64 must have the same masks: `masked` gives them to it where they are known (torch's),
`apart` makes networks none of whose ReLUs is in doubt, and smooth activations have none.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wideresnet.model import WideResidualBlock, WideResNetClassifier

Gradients = dict[str, Tensor]  # parameter, or "input" → float64
INPUT = "input"


def gradients(compute: nn.Module, model: WideResNetClassifier, x: Tensor, labels: Tensor) -> Gradients:
    """Of the cross entropy of `compute(x)`, which computes `model` in whatever mode it is. Parameters that have none
    are zero: a bypassed BN's."""
    model.zero_grad(set_to_none=True)
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(compute(x), labels).backward()
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad} | {INPUT: x}
    return {name: (torch.zeros_like(p) if p.grad is None else p.grad).double() for name, p in found.items()}


def exact_gradients(model: WideResNetClassifier, x: Tensor, labels: Tensor) -> Gradients:
    """In float64; `model` and its statistics stay as they are."""
    double = copy.deepcopy(model).double()
    return gradients(double, double, x.double(), labels)


def errors(found: Gradients, exact: Gradients) -> dict[str, float]:
    """Of each tensor; where float64's gradient is zero or only its rounding, of the largest gradient of all, as what is
    left of a sum that cancels (a convolution's bias before a BN) has no size of its own."""
    largest = max(value.abs().max().item() for value in exact.values())
    sizes = {name: value.abs().max().item() for name, value in exact.items()}
    return {
        name: (found[name] - value).abs().max().item() / (sizes[name] if sizes[name] > 1e-9 * largest else largest)
        for name, value in exact.items()
    }


class _Called(nn.Module):
    """A function as a module, for the stem."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def with_activation(model: WideResNetClassifier, activation: Callable[[Tensor], Tensor]) -> WideResNetClassifier:
    """A copy of `model` with another function in the place of each activation."""
    model = copy.deepcopy(model)
    model.backbone.activation = activation
    for module in model.modules():
        if isinstance(module, WideResidualBlock):
            module.activation = activation
    if len(model.backbone.stem) > 1:
        model.backbone.stem[2] = _Called(activation)
    return model


def masked(model: WideResNetClassifier, x: Tensor, labels: Tensor) -> tuple[Gradients, Gradients]:
    """Gradients of a ReLU network by torch in its own dtype, and those of float64 with the masks of that."""
    masks: list[Tensor] = []

    def record(z: Tensor) -> Tensor:
        masks.append(z > 0)
        return F.relu(z)

    recording = with_activation(model, record)
    found = gradients(recording, recording, x, labels)
    left = iter(masks)  # float64 meets the activations in the same order
    replaying = with_activation(model, lambda z: z * next(left))
    return found, exact_gradients(replaying, x, labels)


def nearest_to_zero(model: WideResNetClassifier, x: Tensor) -> float:
    """The smallest absolute value that a ReLU of `model`, leaky or not, meets, in float64."""
    met: list[float] = []
    activation = model.backbone.activation

    def meet(z: Tensor) -> Tensor:
        met.append(z.abs().min().item())
        return activation(z)

    with torch.no_grad():
        with_activation(model, meet).double()(x.double())
    return min(met)


def apart(model: WideResNetClassifier, x: Tensor, window: float = 0.1) -> WideResNetClassifier:
    """A copy of a network in training mode, whose BNs' shifts are moved a little, each channel's by its own: so that
    zero lies in the widest gap within `window` between two values that the ReLU behind meets for this batch. About half
    of the values pass, as ever, and none is so near zero that a rounding moves it: 4e-4 for WRN-28-10 and 8 images,
    where it was 2e-8."""
    model = copy.deepcopy(model)
    double = copy.deepcopy(model).double()
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}

    def moves(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def move(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(norm, nn.BatchNorm2d)
            z = F.batch_norm(inputs[0], None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
            values = z.transpose(0, 1).flatten(1).sort(1).values  # [C, N·H·W]
            gaps, middles = values.diff(), (values[:, 1:] + values[:, :-1]) / 2
            score = torch.where(middles.abs() <= window, gaps, -middles.abs())  # without one inside, the nearest
            norms[name].bias.sub_(middles.gather(1, score.argmax(1, keepdim=True))[:, 0])
            norm.bias.copy_(norms[name].bias)  # float32's

        return move

    with torch.no_grad():
        for name, norm in double.named_modules():
            if name in norms:  # each is moved before it computes, so that the next ones see it moved
                norm.register_forward_pre_hook(moves(name))
        double(x.double())
    return model
