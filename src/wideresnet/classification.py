"""Labelled pictures + recipe → the batches, the loss and the validation that `training.fit` takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wideresnet import augment, engines, metrics, runtime
from wideresnet import data as data_room
from wideresnet.data import Pictures
from wideresnet.engines import Engine
from wideresnet.errors import UsageError
from wideresnet.preprocess import Preprocess
from wideresnet.processes import ALONE, World
from wideresnet.recipes import Recipe
from wideresnet.training import StepLoss


@dataclass(frozen=True, slots=True)
class Batch:
    """images float32 [B, C, size, size], augmented and normalised; labels int64 [B]; both on the device.

    Where images are mixed, `share` of each image is its own and the rest is from one with the label in `partners`.
    `rows`: which pictures they are, int64 [B], on the CPU.
    """

    images: Tensor
    labels: Tensor
    partners: Tensor | None = None  # int64 [B]
    share: float = 1.0
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Batch":
        partners, own = (None if one is None else one[rows] for one in (self.partners, self.rows))
        return Batch(self.images[rows], self.labels[rows], partners, self.share, own)


class Batches(Protocol):
    """An epoch, counted from 1 → its batches, from step `first` on, counted from 0. Those before are not made."""

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Batch]: ...


def steps_per_epoch(num_pictures: int, recipe: Recipe, world: World = ALONE) -> int:
    """The last, short batch counts unless the recipe drops it, or it has not a picture for each process."""
    full, rest = divmod(num_pictures, recipe.batch_size)
    return full + bool(rest >= world.size and not recipe.drop_last)


def batches(
    train: Pictures, preprocess: Preprocess, recipe: Recipe, seed: int, device: torch.device, *, world: World = ALONE
) -> Batches:
    """Of each batch the part of this process. The pictures move to the device once (those that do not fit, batch by
    batch); all that follows happens there."""
    images, labels = train.images.to(device), train.labels.to(device)
    shape = (images.shape[2], images.shape[3])

    def epoch_batches(epoch: int, first: int = 0) -> Iterator[Batch]:
        order, drawn = epoch_order(train.labels, runtime.generator(seed, "order", epoch), balanced=recipe.balanced)
        draws = augment.draw(recipe, len(train), shape, seed=seed, epoch=epoch)
        steps = steps_per_epoch(len(train), recipe, world)
        rows_of, draws_of = (
            [world.share(rows) for rows in whole.split(recipe.batch_size)[first:steps]] for whole in (order, drawn)
        )
        together = zip(rows_of, draws_of, data_room.in_batches(images, rows_of), strict=True)
        for step, (wanted, drawn_for, (pixels, left)) in enumerate(together, first):
            there = slice(None) if left is None else left
            rows, index = wanted[there], drawn_for[there]
            x = preprocess.normalise(augment.apply(pixels.to(device), draws, index))
            x = augment.erase(x, draws, index)
            mix = augment.mixing.draw(recipe.mixup, recipe.cutmix, shape, seed=seed, epoch=epoch, step=step)
            if mix is not None:
                x = augment.mixing.mix(x, mix)
            x = x.contiguous(memory_format=engines.memory_format(device))
            own = labels[rows.to(device)]
            partners, share = (None, 1.0) if mix is None else (augment.mixing.partners(own), mix.share)
            yield Batch(x, own, partners, share, rows)

    return epoch_batches


def epoch_order(labels: Tensor, generator: torch.Generator, *, balanced: bool = False) -> tuple[Tensor, Tensor]:
    """int64 [N] rows of the pictures in the order of one epoch, and for each the row of the augmentation's draws.

    Each picture once, with its own draws; or `balanced`: N/K pictures of each of the K classes that `labels` has, to
    within one. Of a larger class no picture comes twice, of a smaller one each comes as often as the others to within
    one, and each time with other draws.
    """
    num = len(labels)
    if not balanced:
        order = torch.randperm(num, generator=generator)
        return order, order
    classes = torch.unique(labels)
    shares = torch.full((len(classes),), num // len(classes))
    shares[torch.randperm(len(classes), generator=generator)[: num % len(classes)]] += 1
    taken = list[Tensor]()
    for label, share in zip(classes, shares.tolist(), strict=True):
        rows = (labels == label).nonzero().flatten()
        rounds = [torch.randperm(len(rows), generator=generator) for _ in range(-(-share // len(rows)))]
        taken += [rows[torch.cat(rounds)[:share]]] if share else []
    order = torch.cat(taken)[torch.randperm(num, generator=generator)]
    return order, torch.arange(num)


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """float32 [num_classes]: N / (K · pictures of the class), K being the classes that have any, so that the mean over
    the pictures is 1; 0 for a class without. King & Zeng 2001, and scikit-learn's "balanced"."""
    counts = torch.bincount(labels, minlength=num_classes)
    weights = len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1))
    return weights * (counts > 0)


def loss(recipe: Recipe, weights: Tensor | None = None) -> Callable[[nn.Module, Batch], StepLoss]:
    """Cross-entropy with the recipe's label smoothing (Szegedy et al. 2016, section 7), and the pictures right.

    Of mixed images the mean of both labels' losses, weighed by their shares (Zhang et al. 2018); right is the label
    that has the larger share. `weights` [num_classes] weigh each picture by its class. The mean is over the pictures,
    not over their weights, as torch's own `reduction="mean"` has it: a batch that happens to hold a rare picture would
    weigh its others less, and parts of a batch would not add up to it.
    """

    def cross_entropy(answers: Tensor, labels: Tensor) -> Tensor:
        if weights is None:
            return F.cross_entropy(answers, labels, label_smoothing=recipe.label_smoothing)
        each = F.cross_entropy(answers, labels, weights, label_smoothing=recipe.label_smoothing, reduction="none")
        return each.mean()

    def step_loss(model: nn.Module, batch: Batch) -> StepLoss:
        answers = model(batch.images)  # [B, num_classes]
        if answers.dtype.itemsize < 4:  # the loss is never computed in half precision
            answers = answers.float()
        mean, labels = cross_entropy(answers, batch.labels), batch.labels
        if batch.partners is not None:
            mean = batch.share * mean + (1 - batch.share) * cross_entropy(answers, batch.partners)
            labels = batch.labels if batch.share >= 0.5 else batch.partners
        right = (answers.detach().argmax(1) == labels).sum()
        return StepLoss(mean, len(labels), {"accuracy": right})

    return step_loss


def logits(pictures: Pictures, engine: Engine, world: World = ALONE) -> Tensor:
    """float32 [N, num_classes] for all `pictures`, each computed by one process and known to all."""
    mine = pictures if world.size == 1 else pictures.take(world.share(torch.arange(len(pictures))))
    return world.gather(engine.compute(mine.images))


def embed(pictures: Pictures, engine: Engine, world: World = ALONE) -> tuple[Tensor, Tensor | None]:
    """As `logits`, and in the same pass the embeddings float32 [N, D]; None of a network that has none."""
    mine = pictures if world.size == 1 else pictures.take(world.share(torch.arange(len(pictures))))
    try:
        answers, embeddings = engine.embed(mine.images)
    except UsageError:  # more than one layer of classes; so in every process
        return world.gather(engine.compute(mine.images)), None
    return world.gather(answers), world.gather(embeddings)


def embeddings_of_some(pictures: Pictures, engine: Engine, at_most: int, seed: int, world: World = ALONE) -> Tensor:
    """float32 [N, D] of at most so many of them, as many of each class as can be, drawn by the seed. Pictures that can
    no longer be read are left out, as in training."""
    order = torch.randperm(len(pictures), generator=runtime.generator(seed, "embeddings"))
    labels = pictures.labels[order]
    place = torch.zeros(len(order), dtype=torch.int64)  # of each among those of its class
    for label in labels.unique():
        place[labels == label] = torch.arange(int((labels == label).sum()))
    rows = order[place.argsort(stable=True)[:at_most]].sort().values
    mine = world.share(rows).split(256)
    read = data_room.in_batches(pictures.images, mine)
    return world.gather(torch.cat([engine.embed(pixels)[1] for pixels, _ in read]))


def validation(
    val: Pictures | None, preprocess: Preprocess, device: torch.device, world: World = ALONE
) -> Callable[[nn.Module], dict[str, float]]:
    """model → val_loss, val_accuracy and the score that the best epoch is chosen by; nothing where there is no val."""

    def validate(model: nn.Module) -> dict[str, float]:
        if val is None:
            return {}
        answers = logits(val, engines.choose(model, preprocess, device), world).numpy()
        labels = val.labels.numpy()
        accuracy = float((answers.argmax(1) == labels).mean())
        nll = metrics.negative_log_likelihood(answers, labels)
        return {"val_loss": nll, "val_accuracy": accuracy, "score": accuracy}

    return validate
