"""A picture in any form → what the model sees in it: path, bytes, PIL image, array, tensor, or a list of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wideresnet import engines, images, kinds, metrics, runtime
from wideresnet.checkpoint import Card, load_model
from wideresnet.errors import ImageError, UsageError

Picture: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8] | Tensor
Many: TypeAlias = list[Picture] | tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """`label` is the class of the highest probability, `confidence` that probability, after temperature scaling.
    `abstains`: it is not sure enough for the risk that was asked for, and `label` is no answer but a guess."""

    label: str
    confidence: float
    probs: dict[str, float]
    abstains: bool = False


class Predictor:
    """A model file, ready to answer. The preprocessing is the one in the file; nothing else touches a picture."""

    @kinds.checked
    def __init__(
        self, path: str | Path, device: str = "auto", engine: engines.Name = "auto", abstain: float | None = None
    ) -> None:
        """abstain: the share of wrong answers that is put up with, in (0, 1); where the model is less sure than that
        took on the val part of its training, it abstains. Raises ModelFileError if `path` is no model file and no run
        folder, UsageError if the device or engine is not there, or no threshold for that risk."""
        file = load_model(Path(path))
        self.card: Card = file.card
        self.extra = file.extra  # what travels with the weights
        self.engine = engines.choose(file.model, file.card.preprocess, runtime.choose_device(device), engine)
        self.threshold = 0.0 if abstain is None else abstain_threshold(file.extra, abstain)  # of confidence

    @overload
    def __call__(self, picture: Picture) -> Prediction: ...
    @overload
    def __call__(self, picture: Many) -> list[Prediction]: ...
    def __call__(self, picture: Picture | Many) -> Prediction | list[Prediction]:
        """One picture → one Prediction; a list (of any forms and sizes) → a list. Raises ImageError on a bad one."""
        answers = self.answers(self.logits(picture))
        return answers if isinstance(picture, list | tuple) else answers[0]

    def logits(self, picture: Picture | Many) -> Tensor:
        """float32 [N, num_classes], N = 1 for a single picture, before temperature and softmax."""
        return self.engine.compute(self._resized(picture))

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, C, size, size], as `card.preprocess.resize` makes them → logits as `logits` has them, and the
        embeddings that the class layer reads, float32 [N, D]; see `engines.Engine`."""
        return self.engine.embed(images)

    def _resized(self, picture: Picture | Many) -> Tensor:
        pictures, preprocess = picture if isinstance(picture, list | tuple) else [picture], self.card.preprocess
        if not pictures:
            return torch.empty(0, preprocess.channels, preprocess.size, preprocess.size, dtype=torch.uint8)
        return torch.stack([preprocess.resize(as_image(one)) for one in pictures])

    def answers(self, logits: Tensor) -> list[Prediction]:
        """logits [N, num_classes] → N predictions."""
        probs = metrics.softmax(logits.numpy().astype(np.float64) / self.card.temperature)
        names = self.card.class_names
        return [
            Prediction(
                label=names[int(row.argmax())],
                confidence=float(row.max()),
                probs=dict(zip(names, row.tolist(), strict=True)),
                abstains=float(row.max()) < self.threshold,
            )
            for row in probs
        ]


def val_answers(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
    """What a model file keeps of the answers on val, so that a threshold can be chosen later for any risk."""
    return {"val/confidence": torch.from_numpy(confidence), "val/correct": torch.from_numpy(correct)}


def abstain_threshold(extra: Mapping[str, Tensor], risk: float) -> float:
    """The lowest confidence from which on no larger share than `risk` was wrong on val. Raises UsageError where val is
    not known, or gave none."""
    if not 0 < risk < 1:
        raise UsageError(f"--abstain {risk}: expected a share of wrong answers between 0 and 1, as 0.01")
    if "val/confidence" not in extra:
        raise UsageError(
            f"--abstain {risk}: the model file has no answers of a val part to choose a threshold by: it was trained "
            "without one, before there was this option, or elsewhere; train anew, with a val part"
        )
    found = metrics.risk_coverage(extra["val/confidence"].numpy(), extra["val/correct"].numpy())
    threshold = found.threshold_for(risk)
    if threshold is None:
        raise UsageError(
            f"--abstain {risk}: on val the model is never so sure; the least risk is {found.risk.min():.3g}, answering "
            f"{found.coverage[found.risk.argmin()]:.1%} of the pictures"
        )
    return threshold


def as_image(picture: Picture) -> npt.NDArray[np.uint8]:
    """Any form → upright RGB uint8 [H, W, 3]. An array is HWC, a tensor CHW (torch's order); both uint8.

    Raises ImageError, naming the picture where it has a name.
    """
    if isinstance(picture, str | Path):
        try:
            return images.decode(Path(picture))
        except ImageError as error:
            raise ImageError(f"{picture}: {error}") from error
    if isinstance(picture, bytes):
        return images.decode(picture)
    if isinstance(picture, Image.Image):
        return images.from_pil(picture)
    array = picture.permute(1, 2, 0).cpu().numpy() if isinstance(picture, Tensor) and picture.dim() == 3 else picture
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray | Tensor) else type(array).__name__
        raise ImageError(f"{what}: expected uint8, an array [H, W, 3] or a tensor [3, H, W], RGB")
    if 0 in array.shape:
        raise ImageError(f"array {list(array.shape)} has no pixels")
    return np.ascontiguousarray(array)
