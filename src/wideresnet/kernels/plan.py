"""A WideResNetClassifier in eval mode → the operations that compute it, and their blocking for one input shape.

Two steps: `lower` reads the network once, folding what can be folded, and `choose` has algorithm and blocks of each
convolution from shapes and threads alone, never from a timing: two runs agree bit for bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wideresnet.kernels import library
from wideresnet.model import PSSiLU, SameConv2d, WideResidualBlock, WideResNetBackbone, WideResNetClassifier

Slot = str  # where a map lies: input, logits, pooled, the end of a stage, or one of a stage's buffers, used in turn
Affine = tuple[Tensor, Tensor]  # scale and shift of each channel, float64
_ENDS = ("stage1", "stage2", "stage3")
WHOLE = ("input", *_ENDS, "logits", "pooled")  # slots that hold the whole batch; the others one group of images


@dataclass(frozen=True, slots=True)
class Activation:
    name: str  # of library.ACTIVATIONS
    alpha: float = 0.0  # leaky: slope; pssilu: α
    beta: float = 0.0

    @property
    def cheap(self) -> bool:
        """Applied by a convolution as it loads (2.25 times a pixel) and stores; others take a pass of their own."""
        return self.name in ("none", "relu", "leaky")


NOTHING = Activation("none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """y = act_out(conv(act_in(x · scale + shift)) + bias) + res, or what else `kind` says."""

    kind: int
    segment: int = 0  # the stage
    x: Slot
    y: Slot
    res: Slot | None = None
    out_ch: int
    in_ch: int
    size: int = 1
    stride: int = 1
    same: bool = False  # padded as TensorFlow's "SAME"
    act_in: Activation = NOTHING
    act_out: Activation = NOTHING
    cosine: bool = False
    weight: Tensor | None = None
    out_scale: Tensor | None = None
    bias: Tensor | None = None
    affine: Affine | None = None  # on load

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """Above and to the left."""
        return padding(height, width, self.size, self.stride, same=self.same)


def padding(height: int, width: int, size: int, stride: int, *, same: bool) -> tuple[int, int]:
    """Of a convolution's input, above and to the left; same: as TensorFlow pads."""
    if not same:
        return size // 2, size // 2
    top, left = (max((-(-side // stride) - 1) * stride + size - side, 0) // 2 for side in (height, width))
    return top, left


# Attributes that a module of the network may not change: `lower` takes them for granted.
FIXED = {
    nn.Conv2d: ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: ("num_features", "affine", "track_running_stats"),
    nn.Linear: ("in_features",),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.LeakyReLU: ("negative_slope",),
    nn.GELU: ("approximate",),
    nn.ELU: ("alpha",),
    nn.Softplus: ("beta", "threshold"),
    WideResidualBlock: ("shortcut", "changes", "stride", "out_ch", "dropout_at"),
    WideResNetClassifier: ("head",),
}


def _signature(module: object) -> tuple[object, ...]:
    names = next((names for kind, names in FIXED.items() if isinstance(module, kind)), ())
    return type(module), "forward" in vars(module), *(getattr(module, name) for name in names)


def _activates(module: WideResidualBlock | WideResNetBackbone) -> object:
    """The module that its activation is, or whose `forward` it is."""
    return getattr(module.activation, "__self__", module.activation)


def misfit(model: WideResNetClassifier) -> str | None:
    """What in `model` is not as its own `architecture` has it, so that `lower` would misread it; None if all is.

    A module may have been put in place of another, or a method: torch runs what stands there, whatever it is.
    """
    with torch.device("meta"):
        meant = WideResNetClassifier(**model.architecture)
    found, expected = dict(model.named_modules()), dict(meant.named_modules())
    if differs := [*(found.keys() - expected.keys()), *(expected.keys() - found.keys())]:
        return f"{min(differs)} is {'not part' if min(differs) in found else 'part'} of its architecture"
    for name, module in found.items():
        other = expected[name]
        pairs: list[tuple[object, object]] = [(module, other)]
        if isinstance(module, WideResidualBlock | WideResNetBackbone):  # its activation need not be a listed module
            pairs.append((_activates(module), _activates(other)))
        if any(_signature(a) != _signature(b) for a, b in pairs):
            return f"{name or 'the model'} is not as its architecture has it"
        shapes = ({key: p.shape for key, p in each.named_parameters(recurse=False)} for each in (module, other))
        if not isinstance(module, nn.Linear) and len({tuple(each.items()) for each in shapes}) > 1:
            return f"{name}'s parameters are not as its architecture has them"
    return None


def _affine(norm: nn.Module, channels: int) -> Affine:
    """BN in eval mode as x · scale + shift, computed in float64."""
    if not isinstance(norm, nn.BatchNorm2d):
        return torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = norm.weight.double() / (var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - mean.double() * scale


def activation(model: WideResNetClassifier) -> Activation:
    name = model.architecture["activation"]
    if name.startswith("leaky-relu-"):
        return Activation("leaky", float(name.removeprefix("leaky-relu-")))
    if name == "pssilu":
        learnt = model.backbone.activation
        assert isinstance(learnt, PSSiLU)
        return Activation(name, float(learnt.alpha.abs()), float(learnt.beta.abs()))
    return Activation(name)


@torch.no_grad()
def lower(model: WideResNetClassifier) -> tuple[Step, ...]:
    """The network's steps, in order, in three segments, one a stage."""
    act, backbone = activation(model), model.backbone
    steps = list(_stem(backbone.stem, act))
    x = "x"
    for segment, stage in enumerate((backbone.stage1, backbone.stage2, backbone.stage3)):
        local = steps if segment == 0 else []
        for block in stage:
            x = _block(block, x, act, local)
        last = local[-1]
        local[-1], x = replace(last, y=_ENDS[segment]), _ENDS[segment]
        if segment > 0:
            steps += [replace(step, segment=segment) for step in local]
    return *steps, replace(_head(model, x, act), segment=2)


def _conv(conv: nn.Conv2d, norm: nn.Module | None = None, **given: Any) -> Step:
    """A convolution and, where there is one behind it, its BN: scales of the filters and a bias."""
    winograd = conv.kernel_size == (3, 3) and conv.stride in ((1, 1), (2, 2))
    bias = None if conv.bias is None else conv.bias.double()
    if norm is not None:
        scale, shift = _affine(norm, conv.out_channels)
        given["out_scale"], bias = scale, shift if bias is None else shift + scale * bias
    fields = {"kind": library.WINOGRAD if winograd else library.DIRECT, "weight": conv.weight, "bias": bias, **given}
    return Step(
        in_ch=conv.in_channels,
        out_ch=conv.out_channels,
        size=conv.kernel_size[0],
        stride=conv.stride[0],
        same=isinstance(conv, SameConv2d),
        **fields,
    )


def _stem(stem: nn.Sequential, activation: Activation) -> Iterator[Step]:
    conv, norm = stem[0], stem[1] if len(stem) > 1 else None
    assert isinstance(conv, nn.Conv2d)
    act = activation if norm is not None else NOTHING
    yield _conv(conv, norm, kind=library.STEM, x="input", y="x", act_out=act if act.cheap else NOTHING)
    if not act.cheap:
        yield _activate("x", "x", conv.out_channels, act)


def _activate(x: Slot, y: Slot, channels: int, act: Activation, affine: Affine | None = None) -> Step:
    return Step(kind=library.ACTIVATE, x=x, y=y, in_ch=channels, out_ch=channels, act_in=act, affine=affine)


def _block(block: nn.Module, x: Slot, activation: Activation, steps: list[Step]) -> Slot:
    """Appends a block's steps; returns where its sum lies."""
    assert isinstance(block, WideResidualBlock)
    in_ch = block.conv1.in_channels
    affine = _affine(block.bn1, in_ch)
    as_it_is: dict[str, Any] = {"x": x}
    activated = {"x": x, "affine": affine, "act_in": activation}
    if not activation.cheap:
        steps.append(_activate(x, "activated", in_ch, activation, affine))
        activated = {"x": "activated"}
    y = "x" if x not in ("x", "skip") else x  # over its own shortcut, where that is no other stage's
    skip = x
    if block.proj is not None:
        skip = y = "skip" if x == "x" else "x"
        steps.append(_conv(block.proj, y=skip, **(activated if block.shortcut == "activated" else as_it_is)))
    elif block.changes:
        skip = y = "skip" if x == "x" else "x"
        steps.append(Step(kind=library.POOL_PAD, x=x, y=skip, in_ch=in_ch, out_ch=block.out_ch, stride=block.stride))
    bypassed = block.shortcut == "bypass" and block.changes
    act_out = activation if activation.cheap else NOTHING
    steps.append(_conv(block.conv1, block.bn2, y="h", act_out=act_out, **(as_it_is if bypassed else activated)))
    if not activation.cheap:
        steps.append(_activate("h", "h", block.out_ch, activation))
    steps.append(_conv(block.conv2, x="h", y=y, res=skip))
    return y


def _head(model: WideResNetClassifier, x: Slot, activation: Activation) -> Step:
    channels, weight, bias = model.backbone.out_channels, model.fc.weight, model.fc.bias
    cosine = model.head == "cosine"
    if cosine:
        weight = nn.functional.normalize(weight.double()).to(weight.dtype)
    return Step(
        kind=library.HEAD,
        x=x,
        y="logits",
        in_ch=channels,
        out_ch=model.fc.out_features,
        act_in=activation,
        affine=_affine(model.backbone.bn, channels),
        weight=weight,
        bias=None if bias is None else bias.double(),
        cosine=cosine,
    )


def pooling(head: Step) -> Step:
    """The mean over the map that `head` classifies: beside it, for who wants both."""
    return replace(head, kind=library.POOL, y="pooled", out_ch=head.in_ch, weight=None, bias=None, cosine=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one convolution is computed: the fields of wrn_op that say so."""

    kind: int
    tile: int = 4
    share: bool = False
    raw_filters: bool = False
    block_tiles: int = 1
    block_panels: int = 1
    split: int = 1


Algorithm = Literal["fast", "exact", "direct"]  # F(4×4); F(2×2), ten times as exact; no transforms at all


def choose(step: Step, images: int, ho: int, wo: int, *, threads: int, algorithm: Algorithm) -> Choice:
    """Which algorithm and blocks for one convolution: a cost model in numbers measured on two cores of a Zen 5
    (docs/kernels.md has the sweeps); what it chooses changes the time and, but for the algorithm, no bit of the result.
    """
    direct = Choice(library.DIRECT, split=max(1, 4 * threads // images))
    if step.kind != library.WINOGRAD or algorithm == "direct":
        return replace(direct, kind=library.DIRECT if step.kind == library.WINOGRAD else step.kind)
    tile = 4 if algorithm == "fast" else 2
    if step.stride == 2 and algorithm == "exact":
        return direct
    tiles = images * -(-ho // tile) * -(-wo // tile)
    products = 81 if step.stride == 2 else (tile + 2) ** 2
    filters = products * step.in_ch * step.out_ch * 4  # bytes
    if step.stride == 2 and tiles < 32 and filters > 3e6:
        return direct  # 9 times its weights would come from memory for a handful of tiles
    # Filters beyond the second cache are read once by all threads together where each has few tiles for them, and
    # always where they come from memory. With fewer tiles still, a quarter of the bytes is read, and transformed anew.
    one_small_image = tiles <= 4 and filters > 1.5e6
    one_image = 16 * threads < tiles <= 32 * threads and 1.5e6 < filters < 8e6
    raw = step.stride == 1 and tile == 4 and (one_small_image or one_image)
    share = filters > 16e6 or (filters > 1.5e6 and tiles <= 16 * threads)
    return Choice(
        library.WINOGRAD,
        tile,
        share=share,
        raw_filters=raw,
        block_tiles=128 if share else 64 if raw else 28,
        block_panels=1 if share or step.stride == 2 else 2 if step.in_ch < 128 else 99,
    )


def choose_trained(shape: Mapping[str, int], images: int, *, threads: int) -> dict[str, int]:
    """Blocks of a convolution in training, forward or backward, whose weights are packed anew at every step; `shape`:
    fields of its wrn_op."""
    if shape["size"] == 1:
        return {"split": max(1, 4 * threads // images), "block_tiles": 256, "block_panels": 99}
    return {"block_tiles": 64, "block_panels": 1 if _transformed_bytes(shape) > 16e6 else 2}


def choose_weight_gradient(shape: Mapping[str, int]) -> dict[str, int]:
    """Blocks of the products that a weight's gradient is summed from; small sums are each thread's own."""
    if shape["size"] == 1:
        return {"share": 0, "block_tiles": 256}
    share = _transformed_bytes(shape) > 4e6
    return {"share": int(share), "block_tiles": 512 if share else 64}


def _transformed_bytes(shape: Mapping[str, int]) -> int:
    """Of a 3×3 convolution's filters in Winograd's domain, and of the sums of their gradient."""
    return (81 if shape["stride"] == 2 else 36) * shape["c"] * shape["k"] * 4


def group(images: int, pixels: int, channels: int, *, threads: int) -> int:
    """How many images go through a stage at a time: as many as leave their maps in the second cache. Wide networks read
    their filters more seldom with more, which counts for more."""
    each = max(1, 1_200_000 // (2 * pixels * channels * 4))
    wide = 36 * channels**2 * 4 > 3e6
    return min(images, 64 if wide else threads * each)
