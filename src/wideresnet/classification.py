"""Labelled pictures + recipe → the batches, the loss and the validation that `training.fit` takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wideresnet import augment, engines, metrics, runtime
from wideresnet.data import Pictures
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Preprocess
from wideresnet.recipes import Recipe
from wideresnet.training import StepLoss


@dataclass(frozen=True, slots=True)
class Batch:
    """images float32 [B, C, size, size], augmented and normalised; labels int64 [B]; both on the device."""

    images: Tensor
    labels: Tensor


def steps_per_epoch(num_pictures: int, recipe: Recipe) -> int:
    full, rest = divmod(num_pictures, recipe.batch_size)
    return full + bool(rest and not recipe.drop_last)


def batches(
    train: Pictures, preprocess: Preprocess, recipe: Recipe, seed: int, device: torch.device
) -> Callable[[int], Iterator[Batch]]:
    """epoch (from 1) → its batches. The pictures move to the device once; all that follows happens there."""
    images, labels = train.images.to(device), train.labels.to(device)

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(train), generator=runtime.generator(seed, "order", epoch))
        draws = augment.draw(len(train), flip=recipe.flip, crop_padding=recipe.crop_padding, seed=seed, epoch=epoch)
        for index in order.split(recipe.batch_size)[: steps_per_epoch(len(train), recipe)]:
            rows = index.to(device)
            augmented = preprocess.normalise(augment.apply(images[rows], draws, index))
            yield Batch(augmented.contiguous(memory_format=engines.memory_format(device)), labels[rows])

    return epoch_batches


def loss(recipe: Recipe) -> Callable[[nn.Module, Batch], StepLoss]:
    """Cross-entropy with the recipe's label smoothing (Szegedy et al. 2016, section 7), and the pictures right."""

    def step_loss(model: nn.Module, batch: Batch) -> StepLoss:
        logits = model(batch.images)  # [B, num_classes]
        mean = F.cross_entropy(logits, batch.labels, label_smoothing=recipe.label_smoothing)
        right = (logits.detach().argmax(1) == batch.labels).sum()
        return StepLoss(mean, len(batch.labels), {"accuracy": right})

    return step_loss


def validation(
    val: Pictures | None, preprocess: Preprocess, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """model → val_loss, val_accuracy and the score that the best epoch is chosen by; nothing where there is no val."""

    def validate(model: nn.Module) -> dict[str, float]:
        if val is None:
            return {}
        assert isinstance(model, WideResNetClassifier)
        logits = engines.choose(model, preprocess, device).compute(val.images).numpy()
        labels = val.labels.numpy()
        accuracy = float((logits.argmax(1) == labels).mean())
        nll = metrics.negative_log_likelihood(logits, labels)
        return {"val_loss": nll, "val_accuracy": accuracy, "score": accuracy}

    return validate
