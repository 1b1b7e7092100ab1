"""An architecture, by its name or from a model file's card → the network: pictures → logits [N, num_classes].

`wrn_28_10` and its kind are ours (`model`, `dialects`); `torchvision:NAME` and `timm:NAME` are those libraries' own
(`libraries`), under their own keys. All else in the package takes any of them for what it is, an `nn.Module`.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from wideresnet import dialects
from wideresnet import model as network
from wideresnet.errors import UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.networks import libraries
from wideresnet.networks.parts import first_conv, freeze, lr_scales, parts, parts_named

__all__ = [
    "Arch",
    "arch_name",
    "architecture_of",
    "canonical",
    "class_layer",
    "count_macs",
    "create",
    "first_conv",
    "freeze",
    "from_card",
    "libraries",
    "lr_scales",
    "parts",
    "parts_named",
    "stride",
    "without_weights",
]


Arch = str | Mapping[str, Any]
"""A name, or what `architecture_of` tells of another network that this is to be like: not each has a name."""


def create(arch: Arch, num_classes: int, *, in_channels: int = 3, dropout_p: float = 0.0) -> nn.Module:
    """The network, with weights that torch's global generator draws. Raises ValueError on a name that is none, and
    UsageError if its library is not installed."""
    if isinstance(arch, Mapping):
        own = {} if "library" in arch or "detector" in arch else {"dropout_p": dropout_p}
        return from_card({**arch, **own, "num_classes": num_classes, "in_channels": in_channels})
    if (named := libraries.named(arch)) is None:
        options = dialects.parse_arch(arch)
        return WideResNetClassifier(num_classes, **options, in_channels=in_channels, dropout_p=dropout_p)
    if dropout_p:
        raise UsageError(f"dropout_p={dropout_p}: is for our own blocks, {arch} has others; leave it out")
    library, name = named
    return from_card({"library": library, "name": name, "num_classes": num_classes, "in_channels": in_channels})


def from_card(architecture: Mapping[str, Any]) -> nn.Module:
    """The network that `architecture_of` tells of. Raises TypeError or ValueError on what tells of none."""
    if "detector" in architecture:
        from wideresnet.networks import detectors  # torchvision's, which take a second to import

        return detectors.from_card(architecture)
    if "library" not in architecture:
        return WideResNetClassifier(**architecture)
    model = libraries.build(**architecture)
    cast(Any, model).architecture = dict(architecture)
    return model


def architecture_of(model: nn.Module) -> dict[str, Any]:
    """What it takes to make this network again, for JSON."""
    return dict(cast(Any, model).architecture)


def arch_name(architecture: Mapping[str, Any]) -> str:
    """The name that `create` takes, or for a network of ours that has none, one for people."""
    if "library" in architecture:
        return f"{architecture['library']}:{architecture['name']}"
    own = {name: value for name, value in architecture.items() if name != "detector"}
    name = dialects.arch_name(own)
    return f"{name} under {architecture['detector']['head']}" if "detector" in architecture else name


def canonical(arch: str) -> str:
    """`arch` as `arch_name` would write it. Raises ValueError on a name that is none."""
    return dialects.arch_name(dialects.parse_arch(arch)) if libraries.named(arch) is None else arch


def stride(arch: str) -> int:
    """Pixels of the picture for one of the last stage's maps: 4 for ours; of the libraries', what most have."""
    return 4 if libraries.named(arch) is None else 32


def without_weights(arch: Arch, num_classes: int, *, in_channels: int = 3) -> nn.Module:
    """The network on the meta device, to look at its parts and shapes. Raises as `create`."""
    try:
        with torch.device("meta"):
            return create(arch, num_classes, in_channels=in_channels)
    except NotImplementedError:  # it computes with tensors while it is made, as torchvision's regnets do
        return create(arch, num_classes, in_channels=in_channels).to("meta")


def class_layer(model: nn.Module) -> str:
    """Name of the layer with a row for each class: the one whose tensors are of another shape for one class more.

    Raises UsageError if there are several, whose rows would have to be known one by one.
    """
    arch = architecture_of(model)
    num, channels = int(arch["num_classes"]), int(arch["in_channels"])
    now, more = (without_weights(arch, n, in_channels=channels).state_dict() for n in (num, num + 1))
    found = {key.rpartition(".")[0] for key, value in now.items() if value.shape != more[key].shape}
    if len(found) != 1:
        raise UsageError(
            f"{arch_name(arch)}: has {len(found)} layers of classes ({', '.join(sorted(found))}), not one; train it "
            "without --init and --pretrained"
        )
    return found.pop()


def num_embedded(model: nn.Module) -> int:
    """How many numbers the layer of classes reads of a picture. Raises UsageError as `class_layer`."""
    layer = model.get_submodule("fc" if isinstance(model, WideResNetClassifier) else class_layer(model))
    return int(cast(Tensor, layer.weight).shape[1])


@torch.no_grad()
def count_macs(model: nn.Module, channels: int, size: int) -> int:
    """Multiply-accumulates of the convolutions and matrices for one picture. `model`, on the meta device, is left in
    eval mode. Raises ValueError if it takes no pictures of that size, or does not answer with logits."""
    if isinstance(model, WideResNetClassifier):
        return network.count_macs(model, size, size)
    from torch.utils.flop_counter import FlopCounterMode  # imports a good part of torch

    with FlopCounterMode(display=False) as counter:
        try:
            answer = model.eval()(torch.empty(1, channels, size, size, device="meta"))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"takes no pictures of {size}×{size} pixels ({reason}); give another --size") from error
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        raise ValueError("does not answer with logits [N, num_classes]")
    flops: int = counter.get_total_flops()
    return flops // 2
