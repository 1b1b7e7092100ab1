"""Pictures with boxes + recipe → the batches, the loss and the validation that `training.fit` takes; the twin of
`classification`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wideresnet import augment, engines, runtime
from wideresnet import data as data_room
from wideresnet.classification import steps_per_epoch
from wideresnet.data import Boxes, Pictures
from wideresnet.detection import augment as windows
from wideresnet.detection.evaluation import Figures, figures
from wideresnet.detection.prediction import detect
from wideresnet.networks.targets import Target, label_offset
from wideresnet.preprocess import Preprocess
from wideresnet.processes import ALONE, World
from wideresnet.recipes import Recipe
from wideresnet.training import StepLoss


@dataclass(frozen=True, slots=True)
class Batch:
    """images float32 [B, C, size, size], augmented and normalised, on the device; of each its boxes, float32 [M, 4] in
    pixels of `images`, and labels, int64 [M]; rows: which pictures they are, int64 [B], on the CPU."""

    images: Tensor
    targets: tuple[Target, ...]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.images[rows], self.targets[rows], self.rows[rows])


def seen(boxes: Boxes, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """What is trained on of one picture: boxes float64 [M, 4] in pixels of what the network sees, without crowds; and
    their labels."""
    own = ~boxes.crowd
    placed = preprocess.placement(boxes.height, boxes.width).of_boxes(torch.from_numpy(boxes.boxes[own]))
    return placed, torch.from_numpy(boxes.labels[own])


def batches(
    train: Pictures, preprocess: Preprocess, recipe: Recipe, seed: int, device: torch.device, *, world: World = ALONE
) -> Callable[[int, int], Iterator[Batch]]:
    """As `classification.batches`. Windows take the place of `zoom`'s crops."""
    images = train.images.to(device)
    size = images.shape[2]
    there = [seen(boxes, preprocess) for boxes in train.boxes]
    fill = torch.tensor([round(255 * min(max(mean, 0), 1)) for mean in preprocess.mean], dtype=torch.uint8)
    colours = replace(recipe, zoom=1.0)

    def epoch_batches(epoch: int, first: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(train), generator=runtime.generator(seed, "order", epoch))
        draws = augment.draw(colours, len(train), (size, size), seed=seed, epoch=epoch)
        drawn = windows.draw(len(train), recipe.zoom, seed=seed, epoch=epoch)
        steps = steps_per_epoch(len(train), recipe, world)
        rows_of = [world.share(rows) for rows in order.split(recipe.batch_size)[first:steps]]
        for wanted, (pixels, left) in zip(rows_of, data_room.in_batches(images, rows_of), strict=True):
            rows = wanted if left is None else wanted[left]
            own = [there[row] for row in rows.tolist()]
            window = windows.place(drawn, rows, [boxes for boxes, _ in own], size)
            mirrored = draws.mirrored[rows]
            x = windows.look(pixels.to(device), window, mirrored, fill)
            if draws.jitter_order is not None and draws.jitter_factors is not None:
                x = augment.jitter(x, draws.jitter_order[rows], draws.jitter_factors[rows])
            x = augment.erase(preprocess.normalise(x), draws, rows)
            targets = [
                {name: value.to(device) for name, value in _target(one, at, bool(mirror), size).items()}
                for one, at, mirror in zip(own, window, mirrored, strict=True)
            ]
            yield Batch(x.contiguous(memory_format=engines.memory_format(device)), tuple(targets), rows)

    return epoch_batches


def _target(own: tuple[Tensor, Tensor], window: Tensor, mirrored: bool, size: int) -> Target:
    boxes, labels = own
    moved, kept = windows.through(boxes, window, mirrored, size)
    return {"boxes": moved[kept].float(), "labels": labels[kept]}


def loss() -> Callable[[nn.Module, Batch], StepLoss]:
    """The sum of the detector's own losses, as torchvision computes them; each of them by its name too."""

    def step_loss(model: nn.Module, batch: Batch) -> StepLoss:
        offset = label_offset(model)
        targets = [{**target, "labels": target["labels"] + offset} for target in batch.targets]
        losses: dict[str, Tensor] = model(list(batch.images), targets)
        mean = torch.stack([*losses.values()]).sum()
        sums = {name.removeprefix("loss_"): value.detach() * len(batch) for name, value in losses.items()}
        return StepLoss(mean, len(batch), sums)

    return step_loss


def validation(
    val: Pictures | None, preprocess: Preprocess, device: torch.device, num_classes: int, world: World = ALONE
) -> Callable[[nn.Module], dict[str, float]]:
    """model → val_ap, val_ap50 and the score that the best epoch is chosen by; nothing where there is no val, or no box
    in it."""

    def validate(model: nn.Module) -> dict[str, float]:
        if val is None or not any((~boxes.crowd).any() for boxes in val.boxes):
            return {}
        found = judged(val, model, preprocess, device, num_classes, world=world)
        ap, ap50 = found.ap or 0.0, found.ap50 or 0.0
        return {"val_ap": ap, "val_ap50": ap50, "score": ap}

    return validate


def judged(
    pictures: Pictures,
    model: nn.Module,
    preprocess: Preprocess,
    device: torch.device,
    num_classes: int,
    *,
    world: World = ALONE,
) -> Figures:
    answers = detect(model, pictures.images, sides(pictures.boxes), preprocess, device, world=world)
    return figures(pictures.boxes, answers, num_classes)


def sides(boxes: Sequence[Boxes]) -> list[tuple[int, int]]:
    return [(one.height, one.width) for one in boxes]
