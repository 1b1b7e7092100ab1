"""`WideResNetFPN`, the backbone's stages as a feature pyramid, and torchvision's detectors on it; by name, or from a
model file's card.

The detectors are torchvision's own, with its heads, losses and choice of boxes; here are the pyramid, anchors for small
pictures, and one table of heads. They are given normalised batches as they are: their own resizing is switched off.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, RPNHead, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from wideresnet import dialects, kinds
from wideresnet.errors import UsageError
from wideresnet.model import WideResidualBlock, WideResNetBackbone, WideResNetClassifier
from wideresnet.networks.targets import Target
from wideresnet.recipes import Detector

MOST_BOXES = 100  # of one picture, as COCO counts them
RATIOS = (0.5, 1.0, 2.0)  # height to width, of anchors
_REGIONS = 128  # of a picture, that Faster R-CNN's second step learns from: as in the paper's batches (section 3.1)
_HIDDEN = 256  # of Faster R-CNN's two layers for a region: a quarter of the paper's, for few classes on small pictures


class WideResNetFPN(nn.Module):
    """Backbone → feature pyramid, by the contract of torchvision's `BackboneWithFPN`.

    x [N, in_channels, H, W] → ordered maps "1", "2", "3" of the stages asked for, each [N, out_channels, H/s, W/s] with
    s = `strides[i]` (rounded up at each halving), then extra levels "4", "5"…, each half as large as the one before.
    A pre-activation stage ends in a sum; here each gets the BN and the activation that it owes its reader: stage 3 the
    backbone's own, which a classifier has trained, the others new ones. Raises ValueError on stages that are none and
    on numbers that cannot be. Source: Lin et al. 2017; extra levels as in Tian et al. 2019.
    """

    def __init__(
        self,
        backbone: WideResNetBackbone,
        out_channels: int = 128,
        *,
        stages: Sequence[int] = (1, 2, 3),
        extra_levels: int = 2,
    ) -> None:
        super().__init__()
        stages = tuple(stages)
        if not stages or stages != tuple(sorted({*stages} & {1, 2, 3})):
            raise ValueError(f"stages={stages}: expected some of 1, 2, 3, in this order")
        for name, value, least in (("out_channels", out_channels, 1), ("extra_levels", extra_levels, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: expected a whole number from {least}")
        self.body, self.stages, self.out_channels = backbone, stages, out_channels
        widths = [_width(getattr(backbone, f"stage{stage}")) for stage in stages]
        self.norms = nn.ModuleDict(
            {str(s): _like(backbone.bn, width) for s, width in zip(stages, widths, strict=True) if s != 3}
        )
        extra = ExtraLevels(out_channels, extra_levels) if extra_levels else None
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra)
        if 3 not in stages:
            for unused in (backbone.stage3, backbone.bn):
                unused.requires_grad_(False)
        own = [backbone.stem_stride * 2 ** (stage - 1) for stage in stages]
        self.strides = (*own, *(own[-1] * 2**level for level in range(1, extra_levels + 1)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict[str, Tensor]()
        x = self.body.stem(x)
        for stage in range(1, self.stages[-1] + 1):  # what no map comes from is not computed
            x = getattr(self.body, f"stage{stage}")(x)
            if stage in self.stages:
                norm = self.body.bn if stage == 3 else self.norms[str(stage)]
                maps[str(stage)] = self.body.activation(norm(x))
        found: dict[str, Tensor] = self.fpn(maps)
        return found


class ExtraLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Levels above the pyramid's last: each a 3×3 convolution with stride 2 of the one before, activated but for the
    first, as torchvision's P6 and P7."""

    def __init__(self, channels: int, num: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(num)]
        for conv in convs:  # as torchvision's
            nn.init.kaiming_uniform_(conv.weight, a=1)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.convs = nn.ModuleList(convs)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:  # noqa: ARG002 - torchvision's own signature
        for number, conv in enumerate(self.convs):
            results.append(conv(F.relu(results[-1]) if number else results[-1]))
            names.append(str(int(names[-1]) + 1))
        return results, names


def _width(stage: nn.Sequential) -> int:
    last = stage[-1]
    assert isinstance(last, WideResidualBlock)
    return last.out_ch


def _like(norm: nn.Module, channels: int) -> nn.Module:
    if not isinstance(norm, nn.BatchNorm2d):
        return nn.Identity()
    return nn.BatchNorm2d(channels, eps=norm.eps, momentum=norm.momentum)


def _group_norm(channels: int) -> nn.Module:
    """As FCOS's own head has it, for batches of detectors are small: up to 32 groups, of two channels at least, since
    one alone has no deviation on a map of one value."""
    return nn.GroupNorm(
        max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0 and (g == 1 or channels >= 2 * g)), channels
    )


class AsGiven(GeneralizedRCNNTransform):  # type: ignore[misc]
    """In the place of torchvision's own resizing and normalising: pictures come as the network sees them. (Its option
    to leave out the resizing holds in training alone.)

    They are padded, to the right and below, to a whole number of the coarsest level's strides: anchors are placed by
    dividing a picture's side by its map's, and would else lie beside what they stand for.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(1, 1, [0.0], [1.0], size_divisible=stride)

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        return image, target


def retinanet(fpn: WideResNetFPN, num_classes: int) -> RetinaNet:
    """RetinaNet (Lin et al. 2017b): three sizes and three shapes of anchors a level, the smallest four strides long."""
    sizes = tuple(tuple(round(4 * stride * 2 ** (i / 3)) for i in range(3)) for stride in fpn.strides)
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    head = RetinaNetHead(fpn.out_channels, anchors.num_anchors_per_location()[0], num_classes, _group_norm)
    model = RetinaNet(fpn, num_classes, anchor_generator=anchors, head=head, detections_per_img=MOST_BOXES)
    model.transform = AsGiven(max(fpn.strides))
    return model


def fcos(fpn: WideResNetFPN, num_classes: int) -> FCOS:
    """FCOS (Tian et al. 2019): no anchors; a level finds the objects of four to eight of its strides, the first all
    smaller ones, the last all larger ones."""
    anchors = AnchorGenerator(tuple((stride,) for stride in fpn.strides), ((1.0,),) * len(fpn.strides))
    head = FCOSHead(fpn.out_channels, 1, num_classes)
    model = FCOS(
        fpn,
        num_classes,
        anchor_generator=anchors,
        head=head,
        score_thresh=0.05,
        detections_per_img=MOST_BOXES,
    )
    model.transform = AsGiven(max(fpn.strides))
    return model


def faster_rcnn(fpn: WideResNetFPN, num_classes: int) -> FasterRCNN:
    """Faster R-CNN (Ren et al. 2015) with Lin et al. 2017's pyramid: one size of anchors a level, eight strides long.

    torchvision counts the background as class 0: its answers are one higher than the classes here.
    """
    sizes = tuple((8 * stride,) for stride in fpn.strides)
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    rpn = RPNHead(fpn.out_channels, anchors.num_anchors_per_location()[0])
    pool = MultiScaleRoIAlign([str(stage) for stage in fpn.stages], output_size=7, sampling_ratio=2)
    model = FasterRCNN(
        fpn,
        rpn_anchor_generator=anchors,
        rpn_head=rpn,
        box_roi_pool=pool,
        box_head=TwoMLPHead(fpn.out_channels * 7**2, _HIDDEN),
        box_predictor=FastRCNNPredictor(_HIDDEN, num_classes + 1),
        box_batch_size_per_image=_REGIONS,
        box_detections_per_img=MOST_BOXES,
    )
    model.transform = AsGiven(max(fpn.strides))
    return model


HEADS: Mapping[str, Callable[[WideResNetFPN, int], nn.Module]] = MappingProxyType(
    {"fcos": fcos, "retinanet": retinanet, "faster_rcnn": faster_rcnn}
)
"""Name → what puts such a detector on a pyramid, for so many classes."""


def create(
    arch: str | Mapping[str, Any], detector: Detector, num_classes: int, *, in_channels: int = 3, dropout_p: float = 0.0
) -> nn.Module:
    """A detector for so many classes on the backbone that `arch` names or tells of, with weights that torch's global
    generator draws. Raises ValueError on a name that is none of ours."""
    options = dialects.parse_arch(arch) if isinstance(arch, str) else _of_backbone(arch)
    options |= {"in_channels": in_channels, "dropout_p": dropout_p}
    return from_card({**options, "num_classes": num_classes, "detector": asdict(detector)})


def from_card(architecture: Mapping[str, Any]) -> nn.Module:
    """The detector that its `architecture` tells of. Raises TypeError or ValueError on what tells of none."""
    try:
        detector: Detector = kinds.fitted(architecture["detector"], Detector, "detector")
    except UsageError as error:
        raise ValueError(str(error)) from error
    backbone = WideResNetBackbone(**_of_backbone(architecture), stem_stride=detector.stem_stride)
    fpn = WideResNetFPN(backbone, detector.out_channels, stages=detector.stages, extra_levels=detector.extra_levels)
    if detector.norm != "batch":
        _normalise_by(fpn.body, detector.norm)
    if detector.norm == "group":  # frozen, they would stay as nobody has trained them
        _normalise_by(fpn.norms, "group")
    model = HEADS[detector.head](fpn, int(architecture["num_classes"]))
    cast(Any, model).architecture = {**architecture, "detector": asdict(detector)}
    return model


def _of_backbone(architecture: Mapping[str, Any]) -> dict[str, Any]:
    if "library" in architecture:
        raise ValueError(f"{architecture['library']}:{architecture['name']}: a detector stands on our own networks")
    return {name: value for name, value in architecture.items() if name not in ("num_classes", "detector")}


def _normalise_by(module: nn.Module, norm: str) -> None:
    """Every BN in it replaced, for batches too small for its statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            made = (
                FrozenBatchNorm2d(child.num_features, child.eps)
                if norm == "frozen"
                else _group_norm(child.num_features)
            )
            setattr(module, name, made)
        else:
            _normalise_by(child, norm)


def take_over(model: nn.Module, weights: nn.Module, *, same_classes: bool) -> None:
    """Sets a detector's weights to those that `fitting` finds."""
    model.load_state_dict(fitting(model, weights, same_classes=same_classes), strict=False)


def fitting(model: nn.Module, weights: nn.Module, *, same_classes: bool) -> dict[str, Tensor]:
    """What a detector can take from a classifier's backbone, or from another detector: all that fits, but for the
    layers of classes where these are not the same. Raises ValueError where a tensor of the backbone is of another
    shape, or statistics that are to be kept are not there."""
    if isinstance(weights, WideResNetClassifier):
        theirs = {f"backbone.body.{key}": value for key, value in weights.backbone.state_dict().items()}
    else:
        theirs = weights.state_dict()
    own = model.state_dict()
    if missing := [key for key in own if key.startswith("backbone.body.") and key not in theirs and "running" in key]:
        raise ValueError(f"{missing[0]} is not there: its backbone has no BN whose statistics could be kept")
    unlike = {key for key, value in theirs.items() if key in own and own[key].shape != value.shape}
    if bad := sorted(key for key in unlike if key.startswith("backbone.body.")):
        raise ValueError(f"{bad[0]} is {list(theirs[bad[0]].shape)} there, and {list(own[bad[0]].shape)} here")
    left = unlike if same_classes else unlike | _of_classes(cast(Any, model).architecture)
    return {key: value for key, value in theirs.items() if key in own and key not in left}


def _of_classes(architecture: Mapping[str, Any]) -> set[str]:
    """The tensors that are of another shape for one class more."""
    num = int(architecture["num_classes"])
    with torch.device("meta"):
        now, more = (from_card({**architecture, "num_classes": n}).state_dict() for n in (num, num + 1))
    return {key for key, value in now.items() if value.shape != more[key].shape}
