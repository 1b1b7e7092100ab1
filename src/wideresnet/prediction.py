"""A picture in any form → what the model sees in it: path, bytes, PIL image, array, tensor, or a list of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from wideresnet import engines, images, kinds, metrics, networks, runtime
from wideresnet.checkpoint import Card, ModelFile, load_model
from wideresnet.errors import ImageError, ModelFileError, UsageError

Picture: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[np.uint8] | Tensor
Many: TypeAlias = list[Picture] | tuple[Picture, ...]
SCORE, UNKNOWN = "vim", "unknown/"  # of `Card.unknown`, and what its tensors in `extra` begin with


@dataclass(frozen=True, slots=True)
class Prediction:
    """`label` is the class of the highest probability, `confidence` that probability, after temperature scaling.
    `abstains`: it is not sure enough for the risk that was asked for, and `label` is no answer but a guess.
    `unknown_score`, 0…1: the share of held-out pictures of the training's kind that look less unlike them, to a
    hundredth; None of a model file without what it takes to tell (docs/unknown.md)."""

    label: str
    confidence: float
    probs: dict[str, float]
    abstains: bool = False
    unknown_score: float | None = None

    @property
    def is_unknown(self) -> bool | None:
        """Whether the picture looks less like those of training than 95 % of the held-out ones do."""
        return None if self.unknown_score is None else self.unknown_score >= metrics.ACCEPTED_SHARE


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
        try:
            self.unknown = unknown_score(file)  # what tells unknown pictures
            # Of confidence, from which on it answers.
            self.threshold = 0.0 if abstain is None else abstain_threshold(file.extra, abstain)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        self.device = runtime.choose_device(device)
        self.engine = engines.choose(file.model, file.card.preprocess, self.device, engine)
        self.model = file.model  # computed by torch: where maps and gradients are asked for

    @overload
    def __call__(self, picture: Picture) -> Prediction: ...
    @overload
    def __call__(self, picture: Many) -> list[Prediction]: ...
    def __call__(self, picture: Picture | Many) -> Prediction | list[Prediction]:
        """One picture → one Prediction; a list (of any forms and sizes) → a list. Raises ImageError on a bad one."""
        answers = self.predictions(self._resized(picture))
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

    def predictions(self, images: Tensor) -> list[Prediction]:
        """uint8 [N, C, size, size], as `card.preprocess.resize` makes them → N predictions."""
        if self.unknown is None:
            return self.answers(self.engine.compute(images))
        return self.answers(*self.engine.embed(images))

    def answers(self, logits: Tensor, embeddings: Tensor | None = None) -> list[Prediction]:
        """logits [N, num_classes], embeddings [N, D] → N predictions, without embeddings none with a score of the
        unknown."""
        shares: list[float] | list[None] = [None] * len(logits)
        if self.unknown is not None and embeddings is not None:
            shares = self.unknown.shares(self.unknown.scores(logits.numpy(), embeddings.numpy())).tolist()
        probs = metrics.softmax(logits.numpy().astype(np.float64) / self.card.temperature)
        names = self.card.class_names
        return [
            Prediction(
                label=names[int(row.argmax())],
                confidence=float(row.max()),
                probs=dict(zip(names, row.tolist(), strict=True)),
                abstains=float(row.max()) < self.threshold,
                unknown_score=share,
            )
            for row, share in zip(probs, shares, strict=True)
        ]


def stored(score: metrics.UnknownScore, split: str, num_images: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a model file keeps of it: `Card.unknown`, and tensors of `extra`. split and num_images: of the held-out
    pictures that the threshold is of."""
    told = {"score": SCORE, "weight": score.weight, "threshold": score.threshold, "accepted": metrics.ACCEPTED_SHARE}
    arrays = {"mean": score.mean, "axes": score.axes, "quantiles": score.quantiles}
    tensors = {f"{UNKNOWN}{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return {**told, "split": split, "num_images": num_images}, tensors


def unknown_score(file: ModelFile) -> metrics.UnknownScore | None:
    """What `stored` has kept; None where there is nothing, or a later version's. Raises ModelFileError on what does not
    fit together."""
    if file.card.unknown.get("score") != SCORE:
        return None
    mean, axes, quantiles = (file.extra.get(f"{UNKNOWN}{name}", torch.empty(0)) for name in _PARTS)
    weight = file.card.unknown.get("weight")
    dims = mean.shape[0] if mean.dim() == 1 else 0
    fits = (
        (mean.dtype, axes.dtype, quantiles.dtype) == (torch.float32, torch.float32, torch.float64)
        and axes.dim() == 2
        and 1 <= axes.shape[1] <= axes.shape[0] == dims == networks.num_embedded(file.model)
        and quantiles.shape == (100,)
        and isinstance(weight, float)
        and 0 <= weight < math.inf
        and all(bool(each.isfinite().all()) for each in (mean, axes, quantiles))
        and bool((quantiles.diff() >= 0).all())
        and bool(((axes.T @ axes - torch.eye(axes.shape[1])).abs() < 1e-3).all())
    )
    if not fits or not isinstance(weight, float):
        raise ModelFileError(
            f"a model file whose parts that tell unknown pictures ({UNKNOWN}…) do not fit together; take another copy"
        )
    return metrics.UnknownScore(mean.numpy(), axes.numpy(), weight, quantiles.numpy())


_PARTS = ("mean", "axes", "quantiles")


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
    confidence, correct = extra["val/confidence"], extra.get("val/correct", torch.empty(0))
    fits = confidence.dim() == 1 and len(confidence) > 0 and confidence.shape == correct.shape
    if not (fits and correct.dtype == torch.bool and bool(((confidence > 0) & (confidence <= 1 + 1e-9)).all())):
        raise ModelFileError(
            "the model file's answers of val (val/confidence, val/correct) do not fit together; train anew, or leave "
            "--abstain out"
        )
    found = metrics.risk_coverage(confidence.numpy(), correct.numpy())
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
