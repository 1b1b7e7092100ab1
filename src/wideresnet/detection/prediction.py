"""A detector and pictures as the network sees them → the boxes found, in pixels of the upright pictures; and a picture
in any form → the same, by a model file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from wideresnet import kinds, runtime
from wideresnet.checkpoint import Card, load_model
from wideresnet.data import Stream
from wideresnet.detection.evaluation import Detections
from wideresnet.errors import UsageError
from wideresnet.networks.targets import label_offset
from wideresnet.prediction import Many, Picture, as_image
from wideresnet.preprocess import Preprocess
from wideresnet.processes import ALONE, World

BATCH = 8  # pictures at once


@torch.inference_mode()
def detect(
    model: nn.Module,
    images: Tensor | Stream,
    sizes: Sequence[tuple[int, int]],
    preprocess: Preprocess,
    device: torch.device,
    *,
    world: World = ALONE,
) -> list[Detections]:
    """images uint8 [N, C, size, size], prepared by `preprocess` from upright pictures of these (height, width) → of
    each what is found, the surest first. The model is left in the mode in which it was. Each picture is looked at by
    one of the processes, and known to all."""
    was_training, offset = model.training, label_offset(model)
    model.eval()
    mine = world.share(torch.arange(len(sizes)))
    parts = list(mine.split(BATCH)) if len(mine) else []
    pixels = images.batches(parts) if isinstance(images, Stream) else (images[index] for index in parts)
    rows = list[Tensor]()
    try:
        for index, some in zip(parts, pixels, strict=True):
            x = preprocess.normalise(some.to(device))
            for row, answer in zip(index.tolist(), model(list(x)), strict=True):
                boxes = preprocess.placement(*sizes[row]).boxes_of(answer["boxes"].double().cpu())
                labels, scores = answer["labels"].double().cpu() - offset, answer["scores"].double().cpu()
                number = torch.full_like(scores, row)
                rows.append(torch.cat([number[:, None], labels[:, None], scores[:, None], boxes], 1))
    finally:
        model.train(was_training)
    found = world.gather(torch.cat(rows) if rows else torch.empty(0, 7, dtype=torch.float64)).numpy()
    ends = np.searchsorted(
        found[:, 0], np.arange(len(sizes) + 1)
    )  # in order: each process had the rows after another's
    return [_detections(found[ends[row] : ends[row + 1]], *size) for row, size in enumerate(sizes)]


def _detections(rows: np.ndarray, height: int, width: int) -> Detections:
    """Cut at the picture's edges; what lies outside is left out. rows [M, 7]: picture, label, score, box."""
    boxes = rows[:, 3:].clip(0, [width, height, width, height])
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1) & np.isfinite(rows).all(1)
    kept = kept.nonzero()[0]
    order = kept[np.argsort(-rows[kept, 2], kind="stable")]
    return Detections(boxes[order], rows[order, 1].astype(np.int64), rows[order, 2])


@dataclass(frozen=True, slots=True)
class Detection:
    """One object. box: left, top, right, bottom in pixels of the upright picture; score in [0, 1]."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class BoxPredictor:
    """A detector's model file, ready to answer. The preprocessing is the one in the file, as in `Predictor`."""

    @kinds.checked
    def __init__(self, path: str | Path, device: str = "auto", threshold: float | None = None) -> None:
        """threshold: the score from which a box is given; None: the model's own, chosen on val. Raises ModelFileError
        if `path` is no detector's model file and no such run folder, UsageError if the device is
        not there or the threshold cannot be."""
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"--threshold {threshold}: expected a score from 0 to 1")
        file = load_model(Path(path), "detection")
        self.card: Card = file.card
        self.extra = file.extra  # what travels with the weights
        self.threshold = file.card.threshold if threshold is None else threshold
        self.device = runtime.choose_device(device)
        self.model = file.model.to(self.device)

    @overload
    def __call__(self, picture: Picture) -> list[Detection]: ...
    @overload
    def __call__(self, picture: Many) -> list[list[Detection]]: ...
    def __call__(self, picture: Picture | Many) -> list[Detection] | list[list[Detection]]:
        """One picture → what is found, the surest first; a list (of any forms and sizes) → a list of such lists. Raises
        ImageError on a bad one."""
        many = picture if isinstance(picture, list | tuple) else [picture]
        images = [as_image(one) for one in many]
        resized = [self.card.preprocess.resize(one) for one in images]
        sizes = [(one.shape[0], one.shape[1]) for one in images]
        answers = [self.named(found) for found in self.detections(resized, sizes)]
        return answers if isinstance(picture, list | tuple) else answers[0]

    def detections(self, resized: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Of pictures that were resized from these sizes: all, below the threshold too."""
        if not resized:
            return []
        return detect(self.model, torch.stack(list(resized)), sizes, self.card.preprocess, self.device)

    def named(self, found: Detections) -> list[Detection]:
        """Those from the threshold on."""
        names = self.card.class_names
        return [
            Detection(names[label], score, (box[0], box[1], box[2], box[3]))
            for box, label, score in zip(
                found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
            )
            if score >= self.threshold
        ]
