"""Networks that look like one of ours and are none: told by name, with the reason."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Refused:
    """A network known by keys that it alone has; all of `patterns` must be there, and `where` hold."""

    name: str
    patterns: tuple[str, ...]
    reason: str
    where: Callable[[Tensors], bool] = lambda _: True

    def matches(self, tensors: Tensors) -> bool:
        there = all(any(fnmatch.fnmatchcase(key, pattern) for key in tensors) for pattern in self.patterns)
        return there and self.where(tensors)


def _post_activation(tensors: Tensors) -> bool:
    """meliketoy's names, but the BN under the last one's name belongs to the stem, and a block's bn1 to its conv1."""
    return tensors["bn1.weight"].numel() == tensors["conv1.weight"].shape[:1].numel()


REFUSED: tuple[Refused, ...] = (
    Refused(
        "torch-uncertainty",
        ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "linear.weight"),
        "it activates after the addition and has no last BN: another network under meliketoy's names",
        _post_activation,
    ),
    Refused(
        "keras-contrib",
        ("conv2d/bias", "conv2d_1/kernel", "batch_normalization/gamma"),
        "it activates after its convolutions and pools between its stages: no pre-activation network",
    ),
    Refused(
        "a bottleneck ResNet, as torchvision's and timm's wide_resnet50_2",
        ("layer4.*", "*.conv3.weight"),
        "another family, made for ImageNet: train it with --arch torchvision:wide_resnet50_2 or timm:wide_resnet50_2",
    ),
    Refused("a ResNet of four stages", ("layer4.*",), "a Wide ResNet has three stages"),
    Refused(
        "WideResNetVar (TorchSSL, USB)",
        ("block4.*",),
        "it has a fourth stage, and a stride in its first that no key shows",
    ),
    Refused(
        "RobustBench's MeanSparse",
        ("*meansparse*",),
        "it sets values near the mean to the mean after each BN, which no option here does",
    ),
    Refused("robustarch (RobustBench Peng2023)", ("*.se.*",), "it has squeeze-and-excitation and grouped convolutions"),
    Refused("a network with squeeze-and-excitation", ("*.se_module.*",), "no Wide ResNet of the table has it"),
    Refused("functional-zoo's WRN-50-2", ("*conv_dim*",), "a bottleneck ResNet for ImageNet, its BN folded away"),
    Refused(
        "DUE with a Gaussian process, or SNGP",
        ("rff.*",),
        "its head is a Gaussian process, no linear layer",
    ),
    Refused("a suncet network", ("fc.fc1.weight",), "its head is a perceptron of several layers, no linear one"),
)


def refused(tensors: Tensors) -> Refused | None:
    return next((row for row in REFUSED if row.matches(tensors)), None)
