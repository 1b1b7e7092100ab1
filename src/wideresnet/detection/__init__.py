"""Boxes: the backbone under a feature pyramid and torchvision's detectors; pictures with boxes, read and checked."""

from wideresnet.data import Boxes
from wideresnet.detection.evaluation import BoxEvaluation, ClassFigures, Detections, Figures, figures
from wideresnet.detection.prediction import BoxPredictor, Detection
from wideresnet.detection.reading import read_boxes
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
