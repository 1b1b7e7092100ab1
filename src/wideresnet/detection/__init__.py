"""Boxes: the backbone under a feature pyramid and torchvision's detectors; pictures with boxes, read and checked."""

from typing import TYPE_CHECKING, Any

from wideresnet.data import Boxes
from wideresnet.detection.evaluation import BoxEvaluation, ClassFigures, Detections, Figures, figures
from wideresnet.detection.prediction import BoxPredictor, Detection
from wideresnet.detection.reading import read_boxes

if TYPE_CHECKING:
    from wideresnet.networks.detectors import HEADS, WideResNetFPN, faster_rcnn, fcos, retinanet

__all__ = [
    "HEADS",
    "BoxEvaluation",
    "BoxPredictor",
    "Boxes",
    "ClassFigures",
    "Detection",
    "Detections",
    "Figures",
    "WideResNetFPN",
    "faster_rcnn",
    "fcos",
    "figures",
    "read_boxes",
    "retinanet",
]


def __getattr__(name: str) -> Any:
    """The networks, on first use: torchvision's detectors take seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wideresnet.networks import detectors

    return getattr(detectors, name)
