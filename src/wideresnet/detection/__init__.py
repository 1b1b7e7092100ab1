"""Boxes: the backbone under a feature pyramid and torchvision's detectors; pictures with boxes, read and checked."""

from wideresnet.detection.evaluation import ClassFigures, Detections, Figures, figures
from wideresnet.detection.model import HEADS, WideResNetFPN, faster_rcnn, fcos, retinanet
from wideresnet.detection.reading import BoxData, Boxes, BoxListing, read_boxes

__all__ = [
    "HEADS",
    "BoxData",
    "BoxListing",
    "Boxes",
    "ClassFigures",
    "Detections",
    "Figures",
    "WideResNetFPN",
    "faster_rcnn",
    "fcos",
    "figures",
    "read_boxes",
    "retinanet",
]
