"""The Wide ResNet: block → stage → backbone → classifier. Imports torch alone, so it can be copied out and read alone.

Source: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv:1605.07146), "the paper" below. Every name,
shape and state-dict key of the four public objects is the tutorial's (notebooks/tutorial.*). Where the tutorial and
the paper differ, the tutorial is the default and the paper is an option:

    option      the tutorial (default)                the paper and its Lua code (`wrn_28_10.paper`)
    stem        "conv-bn-act": conv, BN, ReLU         "conv": the bare 3×3 convolution
    shortcut    "raw": the projection reads x         "activated": it reads relu(bn1(x)); without one, x itself
    dropout_at  "before-bn2": conv1 → dropout → bn2   "after-act2": bn2 → ReLU → dropout → conv2

The network never normalises its input; that is `Preprocess`'s job. Shapes are written for in_channels C and
widen_factor k; a side of H pixels leaves a stride-2 stage with ceil(H / 2).
"""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

Stem = Literal["conv-bn-act", "conv"]
Shortcut = Literal["raw", "activated"]
DropoutAt = Literal["before-bn2", "after-act2"]


class WideResidualBlock(nn.Module):
    """y = shortcut(x) + conv2(relu(bn2(conv1(relu(bn1(x)))))), the paper's B(3,3) with pre-activation.

    x [N, in_ch, H, W] → y [N, out_ch, ceil(H/stride), ceil(W/stride)]: a sum, not yet normalised or activated.
    The shortcut is x itself, or a 1×1 convolution `proj` where channels or stride change. `dropout` is None at
    dropout_p = 0. Raises ValueError on channels or stride < 1, dropout_p outside [0, 1), an unknown option.
    """

    def __init__(
        self,
        in_ch: int,
        out_ch: int,
        stride: int = 1,
        dropout_p: float = 0.0,
        *,
        shortcut: Shortcut = "raw",
        dropout_at: DropoutAt = "before-bn2",
    ) -> None:
        super().__init__()
        for name, value in {"in_ch": in_ch, "out_ch": out_ch, "stride": stride}.items():
            _check_at_least_one(name, value)
        _check_dropout(dropout_p)
        _check_one_of("shortcut", shortcut, Shortcut)
        _check_one_of("dropout_at", dropout_at, DropoutAt)
        self.shortcut, self.dropout_at = shortcut, dropout_at

        self.bn1 = nn.BatchNorm2d(in_ch)
        self.conv1 = nn.Conv2d(in_ch, out_ch, kernel_size=3, stride=stride, padding=1, bias=False)
        self.dropout = nn.Dropout(p=dropout_p) if dropout_p > 0 else None
        self.bn2 = nn.BatchNorm2d(out_ch)
        self.conv2 = nn.Conv2d(out_ch, out_ch, kernel_size=3, stride=1, padding=1, bias=False)
        self.proj = None
        if stride != 1 or in_ch != out_ch:
            self.proj = nn.Conv2d(in_ch, out_ch, kernel_size=1, stride=stride, bias=False)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x), inplace=True)  # [N, in_ch, H, W]
        skip = x
        if self.proj is not None:
            skip = self.proj(out if self.shortcut == "activated" else x)  # [N, out_ch, H/stride, W/stride]

        out = self.conv1(out)  # [N, out_ch, H/stride, W/stride]
        if self.dropout is not None and self.dropout_at == "before-bn2":
            out = self.dropout(out)
        out = F.relu(self.bn2(out), inplace=True)
        if self.dropout is not None and self.dropout_at == "after-act2":
            out = self.dropout(out)
        out = self.conv2(out)
        y: Tensor = out + skip
        return y


def make_wide_layer(
    in_ch: int,
    out_ch: int,
    num_block: int,
    stride: int,
    dropout_p: float,
    *,
    shortcut: Shortcut = "raw",
    dropout_at: DropoutAt = "before-bn2",
) -> nn.Sequential:
    """A stage: `num_block` blocks, the first of which changes channels and takes the stride.

    [N, in_ch, H, W] → [N, out_ch, ceil(H/stride), ceil(W/stride)]. Raises ValueError as the block does.
    """
    _check_at_least_one("num_block", num_block)
    first = WideResidualBlock(in_ch, out_ch, stride, dropout_p, shortcut=shortcut, dropout_at=dropout_at)
    rest = (
        WideResidualBlock(out_ch, out_ch, 1, dropout_p, shortcut=shortcut, dropout_at=dropout_at)
        for _ in range(1, num_block)
    )
    return nn.Sequential(first, *rest)


class WideResNetBackbone(nn.Module):
    """Stem and three stages of n = (depth - 4) / 6 blocks, then BN and ReLU (the paper's table 1).

    x [N, in_channels, H, W], H and W from 1 → features [N, 64k, ceil(H/4), ceil(W/4)], k = widen_factor;
    `out_channels` = 64k. Raises ValueError, naming valid values near, if depth is not 6n+4 with n ≥ 1,
    widen_factor or in_channels < 1, dropout_p outside [0, 1) or an option is unknown.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 2,
        dropout_p: float = 0.0,
        in_channels: int = 3,
        *,
        stem: Stem = "conv-bn-act",
        shortcut: Shortcut = "raw",
        dropout_at: DropoutAt = "before-bn2",
    ) -> None:
        super().__init__()
        _check_depth(depth)
        _check_at_least_one("widen_factor", widen_factor)
        _check_at_least_one("in_channels", in_channels)
        _check_one_of("stem", stem, Stem)
        n = (depth - 4) // 6
        base = 16
        ch1, ch2, ch3 = base * widen_factor, 2 * base * widen_factor, 4 * base * widen_factor

        conv = nn.Conv2d(in_channels, base, kernel_size=3, stride=1, padding=1, bias=False)
        if stem == "conv":
            self.stem = nn.Sequential(conv)
        else:
            self.stem = nn.Sequential(conv, nn.BatchNorm2d(base), nn.ReLU(inplace=True))
        self.stage1 = make_wide_layer(base, ch1, n, 1, dropout_p, shortcut=shortcut, dropout_at=dropout_at)
        self.stage2 = make_wide_layer(ch1, ch2, n, 2, dropout_p, shortcut=shortcut, dropout_at=dropout_at)
        self.stage3 = make_wide_layer(ch2, ch3, n, 2, dropout_p, shortcut=shortcut, dropout_at=dropout_at)
        self.bn = nn.BatchNorm2d(ch3)
        self.in_channels = in_channels
        self.out_channels = ch3
        _initialise(self.stem)

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three stages' maps, for necks and for explaining: raw sums, before the BN and ReLU of their reader.

        [N, 16k, H, W], [N, 32k, H/2, W/2], [N, 64k, H/4, W/4], k = widen_factor. A pre-activation stage ends in
        an addition, so a neck should put its own BN and ReLU in front; `forward` does so with the last (`bn`).
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            near = f"[N, {self.in_channels}, H, W], one image being [1, {self.in_channels}, H, W]"
            raise ValueError(f"input of shape {list(x.shape)}: expected {near}")
        x = self.stem(x)  # [N, 16, H, W]
        x1 = self.stage1(x)
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        return x1, x2, x3

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)[-1]
        return F.relu(self.bn(x), inplace=True)  # [N, 64k, H/4, W/4]


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
        stem: Stem = "conv-bn-act",
        shortcut: Shortcut = "raw",
        dropout_at: DropoutAt = "before-bn2",
    ) -> None:
        super().__init__()
        _check_at_least_one("num_classes", num_classes)
        self.backbone = WideResNetBackbone(
            depth, widen_factor, dropout_p, in_channels, stem=stem, shortcut=shortcut, dropout_at=dropout_at
        )
        self.architecture: dict[str, Any] = {  # what it takes to make this network again
            "num_classes": num_classes,
            "depth": depth,
            "widen_factor": widen_factor,
            "dropout_p": dropout_p,
            "in_channels": in_channels,
            "stem": stem,
            "shortcut": shortcut,
            "dropout_at": dropout_at,
        }
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.backbone.out_channels, num_classes)
        nn.init.zeros_(self.fc.bias)  # ours; the original leaves its framework's uniform

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)  # [N, 64k, H/4, W/4]
        x = self.pool(x).flatten(1)  # [N, 64k]
        logits: Tensor = self.fc(x)
        return logits


def count_macs(model: WideResNetClassifier, height: int = 32, width: int = 32) -> int:
    """Multiply-accumulates of the convolutions and the linear layer for one image of height×width.

    BN, ReLU and pooling are not counted (pytorchcv counts them: +0.1 %).
    """
    backbone = model.backbone
    macs: int = model.fc.in_features * model.fc.out_features

    def convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
        return (m for m in module.modules() if isinstance(m, nn.Conv2d))

    for conv in convolutions(backbone.stem):
        macs += conv.weight.numel() * height * width
    for stage in (backbone.stage1, backbone.stage2, backbone.stage3):
        # Each convolution of a stage, the strided ones too, writes maps of the stage's own output size.
        stride = max(conv.stride[0] for conv in convolutions(stage))
        height, width = -(-height // stride), -(-width // stride)
        macs += sum(conv.weight.numel() for conv in convolutions(stage)) * height * width
    return macs


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, fan-out, for convolutions (the original's `MSRinit`: std = sqrt(2 / (9·out_ch))).

    BN is 1 and 0 as torch makes it: ours, where the original leaves its framework's uniform for the scale.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


def _check_depth(depth: int) -> None:
    if isinstance(depth, int) and depth >= 10 and (depth - 4) % 6 == 0:
        return
    nearest = "10, 16, 22, 28, 40"
    if isinstance(depth, Real) and math.isfinite(depth):
        blocks = (depth - 4) / 6
        around = sorted({max(1, math.floor(blocks)), max(1, math.ceil(blocks))})
        nearest = " and ".join(str(6 * n + 4) for n in around)
    raise ValueError(f"depth={depth!r} is not an int of the form 6n+4, n ≥ 1; nearest: {nearest}")


def _check_at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        nearest = max(1, math.floor(value)) if isinstance(value, Real) and math.isfinite(value) else 1
        raise ValueError(f"{name}={value!r} is not an int from 1; nearest: {nearest}")


def _check_dropout(dropout_p: float) -> None:
    if not 0 <= dropout_p < 1:  # NaN fails both
        nearest = "0.9" if dropout_p >= 1 else "0"
        raise ValueError(
            f"dropout_p={dropout_p} is outside [0, 1); nearest: {nearest} (the paper: 0.3 on CIFAR, 0.4 on SVHN)"
        )


def _check_one_of(name: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, get_args(kind)))}")
