"""A picture in any form → what the model sees in it: path, bytes, PIL image, array, tensor, or a list of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wideresnet import engines, images, kinds, metrics, networks, runtime
from wideresnet.checkpoint import Card, load_model
from wideresnet.errors import ImageError
from wideresnet.model import WideResNetClassifier

Picture: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8] | Tensor
Many: TypeAlias = list[Picture] | tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """`label` is the class of the highest probability, `confidence` that probability, after temperature scaling."""

    label: str
    confidence: float
    probs: dict[str, float]


class Predictor:
    """A model file, ready to answer. The preprocessing is the one in the file; nothing else touches a picture."""

    @kinds.checked
    def __init__(self, path: str | Path, device: str = "auto", engine: engines.Name = "auto") -> None:
        """Raises ModelFileError if `path` is no model file and no run folder, UsageError if the device or engine is
        not there."""
        file = load_model(Path(path))
        self.card: Card = file.card
        self.extra = file.extra  # what travels with the weights
        self.device = runtime.choose_device(device)
        self.engine = engines.choose(file.model, file.card.preprocess, self.device, engine)
        self.model = file.model  # computed by torch: where maps and gradients are asked for

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
        pictures = picture if isinstance(picture, list | tuple) else [picture]
        resized = [self.card.preprocess.resize(as_image(one)) for one in pictures]
        return self.engine.compute(torch.stack(resized)) if resized else torch.empty(0, len(self.card.class_names))

    @torch.no_grad()
    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images uint8 [N, C, size, size] → logits [N, num_classes], embeddings float32 [N, D], which the class layer
        reads."""
        kept = list[Tensor]()
        layer = self.model.pool if isinstance(self.model, WideResNetClassifier) else None
        if layer is None:
            named = self.model.get_submodule(networks.class_layer(self.model))
            handle = named.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        else:
            handle = layer.register_forward_hook(lambda _, __, result: kept.append(result))
        try:
            logits = self.model(self.card.preprocess.normalise(images.to(self.device)))
        finally:
            handle.remove()
        embeddings = kept[0].flatten(2).mean(2) if kept[0].dim() > 2 else kept[0]  # [N, D]
        return logits.float().cpu(), embeddings.float().cpu()

    def answers(self, logits: Tensor) -> list[Prediction]:
        """logits [N, num_classes] → N predictions."""
        probs = metrics.softmax(logits.numpy() / self.card.temperature)
        names = self.card.class_names
        return [
            Prediction(names[int(row.argmax())], float(row.max()), dict(zip(names, row.tolist(), strict=True)))
            for row in probs
        ]


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
