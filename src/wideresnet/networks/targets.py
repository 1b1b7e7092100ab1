"""What a detector is asked and told in: the form of its targets and labels. Without torchvision's detectors, which take
long to import."""

from typing import Any, cast

from torch import Tensor, nn

from wideresnet import kinds
from wideresnet.recipes import Detector

Target = dict[str, Tensor]
"""boxes float32 [M, 4] (left, top, right, bottom), labels int64 [M]: what torchvision's detectors learn from."""


def detector_of(model: nn.Module) -> Detector:
    """What stands on its backbone."""
    detector: Detector = kinds.fitted(cast(Any, model).architecture["detector"], Detector, "detector")
    return detector


def label_offset(model: nn.Module) -> int:
    """What torchvision adds to a class's number: 1 where it counts the background as class 0."""
    return int(detector_of(model).head == "faster_rcnn")
