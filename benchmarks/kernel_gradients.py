"""Gradients of whole networks through our kernels against float64, beside torch's own float32 (docs/numbers.md).

    PYTHONPATH=tests python benchmarks/kernel_gradients.py networks [NAME...] [--layers]
    PYTHONPATH=tests python benchmarks/kernel_gradients.py options

`networks`: the tutorial's network in each size, a batch of 8 in training mode; --layers adds a table of every layer of
each. `options`: WRN-16-1 in each dialect. How errors are counted, and what is done about ReLUs whose input lies next to
zero, is in tests/gradient_errors.py. Torch's are given in both layouts, NCHW and channels last, whose BN loses more. An
error of ours in brackets is torch's: the kernels left that network to it, and stderr says why. The columns are

    smooth   the network with SiLU in the place of ReLU
    apart    ReLU, BNs' shifts moved by less than 0.1 so that no input of a ReLU lies next to zero: masks as they are in
             training, and the same in all
    plain    ReLU, images as they come: a mask may flip, in ours or in torch's. Not the largest error then, but the
             median over tensors and the share of those above 1e-4; torch's with float64 on its own masks besides
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gradient_errors import apart, errors, exact_gradients, gradients, masked, nearest_to_zero
from inference import NETWORKS
from torch import Tensor
from training_engines import fallbacks

from wideresnet import kernels, runtime
from wideresnet.model import WideResNetClassifier

KINDS = ("smooth", "apart", "plain")
THREE = "ours, torch, channels last"
FLIPPED = 1e-4  # a mask that flips costs more
# What the 57 dialects are made of; smooth activations, whose gradients need no masks, with each of the other options.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "the tutorial's": {},
    "the paper's": {"stem": "conv", "shortcut": "activated", "dropout_at": "after-act2"},
    "shortcut bypass": {"stem": "conv", "shortcut": "bypass"},
    "shortcut avgpool-pad": {"shortcut": "avgpool-pad"},
    "projection each-stage": {"projection": "each-stage"},
    "stride on conv2": {"stride_on": "conv2"},
    "padding same": {"padding": "same"},
    "biases in the stem": {"stem": "conv", "conv_bias": "stem"},
    "biases everywhere": {"conv_bias": "all"},
    "head cosine": {"head": "cosine"},
    "head without bias": {"head": "linear-no-bias"},
    "eps 1e-3, momentum 0.01": {"bn_eps": 1e-3, "bn_momentum": 0.01, "final_bn_eps": 2e-5},
    "widths 16, 40, 72": {"widths": (16, 40, 72)},
    "no BN": {"norm": "none"},
}
ACTIVATIONS = ("gelu", "elu", "softplus", "pssilu", "leaky-relu-0.01", "leaky-relu-0.1", "leaky-relu-0.2")


@dataclass(frozen=True, slots=True)
class Compared:
    """Errors of each tensor: of ours, of torch's float32 in both layouts; why torch computed ours, where it did."""

    ours: Mapping[str, float]
    torch: Mapping[str, float]
    channels_last: Mapping[str, float]
    fell_back: tuple[str, ...]

    @property
    def three(self) -> tuple[Mapping[str, float], ...]:
        return self.ours, self.torch, self.channels_last


def network(name: str, **options: Any) -> WideResNetClassifier:
    """In training mode; BN's scales and shifts as after training."""
    _, depth, widen_factor = name.split("_")
    torch.manual_seed(0)
    model = WideResNetClassifier(10, int(depth), int(widen_factor), **options).train()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.2)
        norm.bias.data.normal_(0, 0.2)
    return model


def images(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Noise, and labels."""
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(count) % 10


def compare(model: WideResNetClassifier, x: Tensor, labels: Tensor) -> Compared:
    exact = exact_gradients(model, x, labels)
    runtime._said.clear()  # each comparison says for itself
    ours = errors(gradients(kernels.accelerate(model), model, x, labels), exact)
    fell_back = tuple(fallbacks())
    theirs = errors(gradients(model, model, x, labels), exact)
    model.to(memory_format=torch.channels_last)
    channels_last = errors(gradients(model, model, x.contiguous(memory_format=torch.channels_last), labels), exact)
    return Compared(ours, theirs, channels_last, fell_back)


def networks(names: list[str], layers: bool) -> None:
    """Largest errors; of plain the median and the share above FLIPPED."""
    heads = [f"smooth: {THREE}", f"apart: {THREE}", "nearest to zero", f"plain, median: {THREE}"]
    heads += [f"above {FLIPPED:.0e}: {THREE}", "torch, its own masks"]
    every, (x, labels) = {}, images(8, 32)
    print(f"| network | {' | '.join(heads)} |\n|{' --- |' * (1 + len(heads))}")
    for name in names:
        relu = apart(network(name), x)
        found = every[name] = {
            "smooth": compare(network(name, activation="silu"), x, labels),
            "apart": compare(relu, x, labels),
            "plain": compare(network(name), x, labels),
        }
        plain = [list(each.values()) for each in found["plain"].three]
        cells = [
            largest(found["smooth"]),
            largest(found["apart"]),
            f"{nearest_to_zero(relu, x):.1e}",
            ", ".join(f"{statistics.median(each):.1e}" for each in plain),
            ", ".join(f"{sum(error > FLIPPED for error in each) / len(each):.0%}" for each in plain),
            f"{max(errors(*masked(network(name), x, labels)).values()):.1e}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for name in names if layers else ():
        heads = [f"{kind}: {THREE}" for kind in KINDS]
        print(f"\n{name}\n\n| layer | {' | '.join(heads)} |\n|{' --- |' * (1 + len(heads))}")
        for layer, members in by_layer(every[name]["smooth"].ours):
            print(f"| {layer} | {' | '.join(largest(every[name][kind], members) for kind in KINDS)} |")


def by_layer(tensors: Mapping[str, float]) -> Iterator[tuple[str, list[str]]]:
    """Layer → its tensors, in the network's order."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.removesuffix(".weight").removesuffix(".bias"), []).append(name)
    yield from layers.items()


def largest(found: Compared, names: Iterable[str] | None = None) -> str:
    """Of the tensors named, or of all. Ours is in brackets where torch computed it."""
    ours, *theirs = (f"{max(each[name] for name in names or each):.1e}" for each in found.three)
    return ", ".join([f"({ours})" if found.fell_back else ours, *theirs])


def options() -> None:
    """Largest errors, and where ours is largest."""
    print(f"| options | smooth: {THREE} | largest in | apart: {THREE} | largest in |\n|{' --- |' * 5}")
    for title, given in OPTIONS.items():
        relu = network("wrn_16_1", **given)
        # Without BN there is nothing to move.
        cells = worst(network("wrn_16_1", **given, activation="silu")), "– | –" if "norm" in given else worst(relu)
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
    for activation in ACTIVATIONS:
        model = network("wrn_16_1", activation=activation)
        cells = ("– | –", worst(model)) if activation.startswith("leaky") else (worst(model), "– | –")
        print(f"| {activation} | {' | '.join(cells)} |", flush=True)


def worst(model: WideResNetClassifier) -> str:
    """Two cells: the largest errors, and where ours is. Of a network whose activation has a kink, `apart`."""
    x, labels = images(8, 32)
    kinked = "relu" in model.architecture["activation"]
    found = compare(apart(model, x) if kinked else model, x, labels)
    return f"{largest(found)} | {max(found.ours, key=found.ours.__getitem__)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = commands.add_parser("networks")
    sizes.add_argument("names", nargs="*", default=list(NETWORKS))
    sizes.add_argument("--layers", action="store_true")
    commands.add_parser("options")
    arguments = parser.parse_args()
    if arguments.command == "networks":
        networks(arguments.names or list(NETWORKS), arguments.layers)
    else:
        options()


if __name__ == "__main__":
    main()
