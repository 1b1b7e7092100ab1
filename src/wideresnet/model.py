"""The Wide ResNet: block → stage → backbone → classifier. Imports torch alone, so it can be copied out and read alone.

Source: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv:1605.07146), "the paper" below. Every name,
shape and state-dict key of the four public objects is the tutorial's (notebooks/tutorial.*). Where published networks
differ from it, the tutorial is the default and the difference is one of `Variant`'s options; the paper's own network
(`wrn_28_10.paper`) is stem="conv", shortcut="activated", dropout_at="after-act2".

The network never normalises its input; that is `Preprocess`'s job. Shapes are written for in_channels C and
widen_factor k; a side of H pixels leaves a stride-2 stage with ceil(H / 2).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, Literal, TypedDict, Unpack, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stem = Literal["conv-bn-act", "conv"]
Shortcut = Literal["raw", "activated", "bypass", "avgpool-pad"]
Projection = Literal["where-needed", "each-stage"]
StrideOn = Literal["conv1", "conv2"]
Padding = Literal["symmetric", "same"]
DropoutAt = Literal["before-bn2", "after-act2"]
Activation = Literal[
    "relu", "leaky-relu-0.01", "leaky-relu-0.1", "leaky-relu-0.2", "silu", "gelu", "elu", "softplus", "pssilu"
]
Norm = Literal["bn", "none"]
ConvBias = Literal["none", "stem", "all"]
Head = Literal["linear", "linear-no-bias", "cosine"]


class Options(TypedDict, total=False):
    """The keyword options of the four public objects, one by one those of `Variant`; a block reads those of a block."""

    stem: Stem
    shortcut: Shortcut
    projection: Projection
    stride_on: StrideOn
    padding: Padding
    dropout_at: DropoutAt
    activation: Activation
    norm: Norm
    bn_eps: float
    bn_momentum: float
    final_bn_eps: float | None
    final_bn_momentum: float | None
    conv_bias: ConvBias
    head: Head
    num_blocks: tuple[int, int, int] | None
    widths: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Where published Wide ResNets differ; the defaults are the tutorial's. Raises ValueError, naming what can be.

    `shortcut` is what a block that changes channels or stride adds to its two convolutions:
        raw          proj(x)
        activated    proj(act(bn1(x))), the tensor that conv1 reads (He et al. 2016b; the paper's Lua code)
        bypass       in stage 1 as activated; after it proj(x), and conv1 reads x too: bn1 has no effect. So compute the
                     PyTorch ports of MixMatch, and weights trained in them need it
        avgpool-pad  x averaged over stride × stride, its missing channels zero
    """

    stem: Stem = "conv-bn-act"  # conv: the bare 3×3 convolution
    shortcut: Shortcut = "raw"
    projection: Projection = "where-needed"  # each-stage: in the first block of stage 1 at k = 1 too
    stride_on: StrideOn = "conv1"
    padding: Padding = "symmetric"  # of the strided 3×3; same: TensorFlow's, at even sides below and right alone
    dropout_at: DropoutAt = "before-bn2"  # conv1 → dropout → bn2, or bn2 → act → dropout → conv2
    activation: Activation = "relu"
    norm: Norm = "bn"  # none: identities in place of every BN
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    final_bn_eps: float | None = None  # of the last BN; None: as the others
    final_bn_momentum: float | None = None
    conv_bias: ConvBias = "none"
    head: Head = "linear"  # cosine: of features and rows of length 1 (Pang et al. 2020)
    num_blocks: tuple[int, int, int] | None = None  # of each stage; None: (depth - 4) / 6
    widths: tuple[int, int, int] | None = None  # channels of each stage; None: 16k, 32k, 64k

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Variant).items():
            if get_origin(kind) is Literal and (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, get_args(kind)))}")
        for name in ("bn_eps", "bn_momentum", "final_bn_eps", "final_bn_momentum"):
            value, most = getattr(self, name), 1 if name.endswith("momentum") else math.inf
            if value is None and name.startswith("final"):
                continue
            if not isinstance(value, int | float) or not 0 < value <= most:
                raise ValueError(f"{name}={value!r}: expected a number above 0{', up to 1' if most == 1 else ''}")
        for name in ("num_blocks", "widths"):
            if (value := getattr(self, name)) is not None:
                if not isinstance(value, tuple | list) or len(value) != 3:
                    raise ValueError(f"{name}={value!r}: expected three numbers, one a stage")
                for each in value:
                    _check_at_least_one(name, each)
                object.__setattr__(self, name, tuple(value))  # JSON has lists


class WideResidualBlock(nn.Module):
    """y = shortcut(x) + conv2(act(bn2(conv1(act(bn1(x)))))), the paper's B(3,3) with pre-activation.

    x [N, in_ch, H, W] → y [N, out_ch, ceil(H/stride), ceil(W/stride)]: a sum, not yet normalised or activated.
    The shortcut is x itself, or a 1×1 convolution `proj` where channels or stride change. `dropout` is None at
    dropout_p = 0. Raises ValueError on channels or stride < 1, dropout_p outside [0, 1), an unknown option.
    """

    def __init__(
        self, in_ch: int, out_ch: int, stride: int = 1, dropout_p: float = 0.0, **options: Unpack[Options]
    ) -> None:
        super().__init__()
        for name, value in (("in_ch", in_ch), ("out_ch", out_ch), ("stride", stride)):
            _check_at_least_one(name, value)
        _check_dropout(dropout_p)
        variant = _variant(options)
        self.shortcut, self.dropout_at = variant.shortcut, variant.dropout_at
        self.stride, self.out_ch = stride, out_ch
        stride1, stride2 = (stride, 1) if variant.stride_on == "conv1" else (1, stride)

        self.bn1 = _norm(in_ch, variant)
        self.conv1 = _conv3x3(in_ch, out_ch, stride1, variant)
        self.dropout = nn.Dropout(p=dropout_p) if dropout_p > 0 else None
        self.bn2 = _norm(out_ch, variant)
        self.conv2 = _conv3x3(out_ch, out_ch, stride2, variant)
        self.activation = _unlisted(_activation(variant))
        self.proj = None
        self.changes = stride != 1 or in_ch != out_ch  # so x alone cannot be added
        if variant.shortcut == "avgpool-pad" and in_ch > out_ch:
            raise ValueError(f"shortcut='avgpool-pad' adds channels; {in_ch} cannot become {out_ch}")
        if variant.projection == "each-stage" or (self.changes and variant.shortcut != "avgpool-pad"):
            self.proj = nn.Conv2d(in_ch, out_ch, kernel_size=1, stride=stride, bias=variant.conv_bias == "all")
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))  # [N, in_ch, H, W]
        skip = x
        if self.proj is not None:
            skip = self.proj(out if self.shortcut == "activated" else x)  # [N, out_ch, H/stride, W/stride]
        elif self.changes:
            skip = F.avg_pool2d(x, self.stride, ceil_mode=True)
            skip = F.pad(skip, (0, 0, 0, 0, 0, self.out_ch - skip.shape[1]))

        # The bypassed bn1 is computed all the same: in training its statistics go on, as they do in the ports.
        out = self.conv1(x if self.shortcut == "bypass" and self.changes else out)  # [N, out_ch, H/stride, W/stride]
        if self.dropout is not None and self.dropout_at == "before-bn2":
            out = self.dropout(out)
        out = self.activation(self.bn2(out))
        if self.dropout is not None and self.dropout_at == "after-act2":
            out = self.dropout(out)
        out = self.conv2(out)
        y: Tensor = out + skip
        return y


def make_wide_layer(
    in_ch: int, out_ch: int, num_block: int, stride: int, dropout_p: float, **options: Unpack[Options]
) -> nn.Sequential:
    """A stage: `num_block` blocks, the first of which changes channels and takes the stride.

    [N, in_ch, H, W] → [N, out_ch, ceil(H/stride), ceil(W/stride)]. Raises ValueError as the block does.
    """
    _check_at_least_one("num_block", num_block)
    first = WideResidualBlock(in_ch, out_ch, stride, dropout_p, **options)
    further: Options = {**options, "projection": "where-needed"}
    rest = (WideResidualBlock(out_ch, out_ch, 1, dropout_p, **further) for _ in range(1, num_block))
    return nn.Sequential(first, *rest)


class WideResNetBackbone(nn.Module):
    """Stem and three stages of n = (depth - 4) / 6 blocks, then BN and activation (the paper's table 1).

    x [N, in_channels, H, W], H and W from 1 → features [N, 64k, ceil(H/4), ceil(W/4)], k = widen_factor;
    `out_channels` = 64k. Raises ValueError, naming valid values near, if depth is not 6n+4 with n ≥ 1,
    widen_factor or in_channels < 1, dropout_p outside [0, 1) or an option is unknown. stem_stride 2 or 4, for larger
    pictures: the stem's convolution takes a stride of 2, for 4 a maximum over 3×3 another (He et al. 2016a, table 1).
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 2,
        dropout_p: float = 0.0,
        in_channels: int = 3,
        *,
        stem_stride: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        variant = _variant(options)
        _check_depth(depth, variant)
        _check_at_least_one("widen_factor", widen_factor)
        _check_at_least_one("in_channels", in_channels)
        if not isinstance(stem_stride, int) or isinstance(stem_stride, bool) or stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride={stem_stride!r}: expected 1, 2 or 4")
        base, n = 16, (depth - 4) // 6
        n1, n2, n3 = variant.num_blocks or (n, n, n)
        ch1, ch2, ch3 = variant.widths or (base * widen_factor, 2 * base * widen_factor, 4 * base * widen_factor)

        conv = nn.Conv2d(in_channels, base, 3, stride=min(stem_stride, 2), padding=1, bias=variant.conv_bias != "none")
        self.stem = nn.Sequential(conv)
        if variant.stem == "conv-bn-act":
            self.stem = nn.Sequential(conv, _norm(base, variant), _activation(variant))
        in_stage1: Options = {**options, "shortcut": "activated"} if variant.shortcut == "bypass" else options
        self.stage1 = make_wide_layer(base, ch1, n1, 1, dropout_p, **in_stage1)
        self.stage2 = make_wide_layer(ch1, ch2, n2, 2, dropout_p, **options)
        self.stage3 = make_wide_layer(ch2, ch3, n3, 2, dropout_p, **options)
        self.bn = _norm(ch3, variant, final=True)
        activation = _activation(variant)
        self.activation = _unlisted(activation)
        self.in_channels, self.out_channels, self.stem_stride = in_channels, ch3, stem_stride
        _initialise(self.stem)
        for module in self.modules():  # one activation for all: those that learn, learn together
            if isinstance(module, WideResidualBlock):
                module.activation = self.activation
        if variant.stem == "conv-bn-act":
            self.stem[2] = activation
        if stem_stride == 4:
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three stages' maps, for necks and for explaining: raw sums, before the BN and ReLU of their reader.

        [N, 16k, H, W], [N, 32k, H/2, W/2], [N, 64k, H/4, W/4], k = widen_factor, at stem_stride 1. A pre-activation
        stage ends in a sum, so a neck should put its own BN and ReLU in front; `forward` does so with the last (`bn`).
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            near = f"[N, {self.in_channels}, H, W], one image being [1, {self.in_channels}, H, W]"
            raise ValueError(f"input of shape {list(x.shape)}: expected {near}")
        x1 = self.stage1(self.stem(x))  # of [N, 16, H, W]
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        return x1, x2, x3

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.activation(self.bn(self.stages(x)[-1]))  # [N, 64k, H/4, W/4]
        return features


class WideResNetClassifier(nn.Module):
    """Backbone → global average → linear. x [N, in_channels, H, W] → logits [N, num_classes].

    The input is normalised already and of any height and width from 1. Raises ValueError on num_classes < 1, and
    as the backbone does.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int = 28,
        widen_factor: int = 2,
        dropout_p: float = 0.0,
        *,
        in_channels: int = 3,
        **options: Unpack[Options],
    ) -> None:
        super().__init__()
        _check_at_least_one("num_classes", num_classes)
        self.backbone = WideResNetBackbone(depth, widen_factor, dropout_p, in_channels, **options)
        variant = _variant(options)
        sizes = {"num_classes": num_classes, "depth": depth, "widen_factor": widen_factor, "dropout_p": dropout_p}
        self.architecture: dict[str, Any] = {**sizes, "in_channels": in_channels, **asdict(variant)}  # makes it again
        self.head, self.pool = variant.head, nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.backbone.out_channels, num_classes, bias=variant.head == "linear")
        if variant.head == "linear":
            nn.init.zeros_(self.fc.bias)  # ours; the original leaves its framework's uniform

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.pool(self.backbone(x)).flatten(1))

    def classify(self, x: Tensor) -> Tensor:
        """The features' mean over the map [N, 64k] → logits [N, num_classes]."""
        if self.head == "cosine":
            return F.linear(F.normalize(x), F.normalize(self.fc.weight))
        logits: Tensor = self.fc(x)
        return logits


def count_macs(model: WideResNetClassifier, height: int = 32, width: int = 32) -> int:
    """Multiply-accumulates of the convolutions and the linear layer for one image of height×width.

    BN, activations, biases and pooling are not counted (pytorchcv counts them: +0.1 %).
    """
    macs: int = model.fc.in_features * model.fc.out_features
    for conv in (m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)):  # stem; then conv1, conv2, proj
        if conv.kernel_size == (3, 3):  # proj writes maps as large as conv2's
            height, width = (-(-side // conv.stride[0]) for side in (height, width))
        macs += conv.weight.numel() * height * width
    return macs


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": what does not divide evenly is added below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        return super().forward(F.pad(x, (width // 2, -(-width // 2), height // 2, -(-height // 2))))


class PSSiLU(nn.Module):
    """x · (σ(|α| x) − |β|) / (1 − |β|), α and β learnt (Dai, Mahloujifar & Mittal 2021, "Parameterizing Activation
    Functions for Adversarial Robustness", equation 4); begins as SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([1.0]))
        self.beta = nn.Parameter(torch.tensor([1e-8]))

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - beta) / (1 - beta)


def _variant(options: Options) -> Variant:
    known = [field.name for field in fields(Variant)]
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; options are {', '.join(known)}")
    return Variant(**options)


def _conv3x3(in_ch: int, out_ch: int, stride: int, variant: Variant) -> nn.Conv2d:
    bias = variant.conv_bias == "all"
    if variant.padding == "same" and stride > 1:
        return SameConv2d(in_ch, out_ch, kernel_size=3, stride=stride, bias=bias)
    return nn.Conv2d(in_ch, out_ch, kernel_size=3, stride=stride, padding=1, bias=bias)


def _norm(channels: int, variant: Variant, *, final: bool = False) -> nn.Module:
    if variant.norm == "none":
        return nn.Identity()
    eps, momentum = variant.bn_eps, variant.bn_momentum
    if final:
        eps, momentum = variant.final_bn_eps or eps, variant.final_bn_momentum or momentum
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def _activation(variant: Variant) -> nn.Module:
    """In place where torch can take the gradient from the result, and where the input is a BN's own result."""
    inplace = variant.norm != "none"
    if variant.activation.startswith("leaky-relu-"):
        return nn.LeakyReLU(float(variant.activation.removeprefix("leaky-relu-")), inplace=inplace)
    made: dict[str, nn.Module] = {
        "relu": nn.ReLU(inplace=inplace),
        "silu": nn.SiLU(),
        "gelu": nn.GELU(),
        "elu": nn.ELU(inplace=inplace),
        "softplus": nn.Softplus(),
        "pssilu": PSSiLU(),
    }
    return made[variant.activation]


def _unlisted(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """What learns nothing stays out of the list of modules, which is the tutorial's."""
    return activation if any(True for _ in activation.parameters()) else activation.forward


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, fan-out, for convolutions (the original's `MSRinit`: std = sqrt(2 / (9·out_ch))), biases 0.

    BN is 1 and 0 as torch makes it: ours, where the original leaves its framework's uniform for the scale.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def _check_depth(depth: int, variant: Variant) -> None:
    if variant.num_blocks is not None:
        if depth != (right := 4 + 2 * sum(variant.num_blocks)):
            raise ValueError(f"depth={depth!r}: num_blocks={variant.num_blocks} make a depth of {right}")
        return
    if isinstance(depth, int) and depth >= 10 and (depth - 4) % 6 == 0:
        return
    nearest = "10, 16, 22, 28, 40"
    if isinstance(depth, Real) and math.isfinite(depth):
        around = {max(1, whole((depth - 4) / 6)) for whole in (math.floor, math.ceil)}
        nearest = " and ".join(str(6 * n + 4) for n in sorted(around))
    raise ValueError(f"depth={depth!r} is not an int of the form 6n+4, n ≥ 1; nearest: {nearest}")


def _check_at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        nearest = max(1, math.floor(value)) if isinstance(value, Real) and math.isfinite(value) else 1
        raise ValueError(f"{name}={value!r} is not an int from 1; nearest: {nearest}")


def _check_dropout(dropout_p: float) -> None:
    if not 0 <= dropout_p < 1:  # NaN fails both
        nearest = "0.9" if dropout_p >= 1 else "0"
        paper = "the paper: 0.3 on CIFAR, 0.4 on SVHN"
        raise ValueError(f"dropout_p={dropout_p} is outside [0, 1); nearest: {nearest} ({paper})")
