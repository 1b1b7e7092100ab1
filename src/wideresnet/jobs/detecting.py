"""The task of detection, as `classifying` is the other: network, batches, loss, validation; and a run whose training
has ended → the figures of its best model, and its report."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wideresnet import checkpoint, files, networks, report, runs, training
from wideresnet.checkpoint import Card
from wideresnet.classification import steps_per_epoch
from wideresnet.data import Pictures, Splits
from wideresnet.detection import BoxEvaluation, Detections, drawing, learning
from wideresnet.detection.evaluation import best_threshold, figures, match
from wideresnet.detection.prediction import detect
from wideresnet.jobs import transfer
from wideresnet.jobs.judging import facts, flattered, highlights
from wideresnet.jobs.transfer import Source
from wideresnet.preprocess import Preprocess
from wideresnet.processes import ALONE
from wideresnet.report import BoxClass, BoxFigures, Shown, Subject

if TYPE_CHECKING:
    from wideresnet.jobs.preparation import Prepared

BESIDE, LOOKED_AT, AUGMENTED = 8, 24, 6  # pictures in a report: beside the truth; missed, and false alarms; augmented
LARGE_PX = 480  # the longer side of the first
IN_COLOURS = 8  # classes up to which colours tell them apart, and texts would only hide the objects
CURVES = 12  # classes whose curve is drawn: those with most objects


def network(prepared: "Prepared") -> nn.Module:
    """As it is before the first step, drawn by torch's global generator; of `--init` what fits."""
    from wideresnet.networks import detectors  # torchvision's, which take seconds to import

    config, source = prepared.config, prepared.source
    assert config.detector is not None
    arch = config.arch if source is None else source.backbone
    model = detectors.create(
        arch,
        config.detector,
        len(prepared.class_names),
        in_channels=config.in_channels,
        dropout_p=config.recipe.dropout_p,
    )
    if source is not None:
        same = source.file.card.task == "detection" and source.file.card.class_names == prepared.class_names
        detectors.take_over(model, source.file.model, same_classes=same)
    return model


def notes(source: Source, class_names: Sequence[str], splits: Splits) -> list[str]:
    """What a person should know of the model that training begins with."""
    what = "its backbone"
    if source.file.card.task == "detection":
        same = source.file.card.class_names == tuple(class_names)
        what = "all that fits of it" + ("" if same else ", but for the layers of classes, which are others here")
    return [f"begins with {source.place} ({source.arch}): {what}", *transfer.seen_before(source, splits)]


def batches(prepared: "Prepared") -> Callable[[int, int], Iterator[learning.Batch]]:
    config = prepared.config
    return learning.batches(
        prepared.train, prepared.preprocess, config.recipe, config.seed, prepared.device, world=prepared.world
    )


def loss(prepared: "Prepared") -> training.Loss:  # noqa: ARG001 - as the other task's
    return learning.loss()


def validation(prepared: "Prepared") -> Callable[[nn.Module], dict[str, float]]:
    """What the loop judges an epoch by: the val part."""
    val = prepared.splits.parts.get("val")
    return learning.validation(
        val, prepared.preprocess, prepared.device, len(prepared.class_names), world=prepared.world
    )


def judge(prepared: "Prepared", state: training.State, folder: Path) -> BoxEvaluation:
    """Threshold from val; figures from test, looked at once, or from val where there is no test; the report."""
    parts, world = prepared.splits.parts, prepared.world
    file = world.from_main(checkpoint.load_model(folder / runs.MODEL, "detection") if world.is_main else None)
    assert file is not None
    model = file.model.to(prepared.device)

    def found(pictures: Pictures) -> list[Detections]:
        sides = learning.sides(pictures.boxes)
        return detect(model, pictures.images, sides, prepared.preprocess, prepared.device, world=world)

    split = next(name for name in ("test", "val", "train") if name in parts)
    asked = [name for name in dict.fromkeys((split, "val")) if name in parts]  # in all processes in one order
    answers = {name: found(parts[name]) for name in asked}
    val = parts.get("val")
    val = None if val is None or not any(boxes.classes for boxes in val.boxes) else val
    threshold = file.card.threshold if val is None else best_threshold(val.boxes, answers["val"])
    evaluation = evaluated(prepared.name, split, parts[split], answers[split], file.card, threshold=threshold)
    final = dataclasses.replace(file.card, threshold=threshold, figures=evaluation.figures())
    if world.is_main:
        checkpoint.save_model(folder / runs.MODEL, file.model.state_dict(), final, file.extra)
        chosen = f"; boxes are shown from a score of {threshold:.2f}" + (", best on val" if val is not None else "")
        augmented, labels = _augmented(prepared)
        subject = Subject(
            title=f"{evaluation.data}: {networks.arch_name(final.architecture)}",
            command=prepared.config.command,
            highlights=highlights(prepared, state),
            facts=facts(prepared, state, final, chosen),
            boxes=box_figures(evaluation, parts[split], prepared.preprocess),
            history=state.rows,
            class_names=prepared.class_names,
            splits={name: pictures.counts(len(prepared.class_names)) for name, pictures in parts.items()},
            splits_note=prepared.splits.note,
            augmented=augmented,
            augmented_labels=labels,
            notes=[*prepared.notes, *flattered(prepared, state, split)],
        )
        files.write_whole(folder / runs.REPORT, report.build(subject))
    return evaluation


def evaluated(
    data: str, split: str, pictures: Pictures, found: Sequence[Detections], card: Card, *, threshold: float
) -> BoxEvaluation:
    return BoxEvaluation(
        data=data,
        split=split,
        engine="torch",
        class_names=card.class_names,
        names=pictures.names,
        truths=pictures.boxes,
        found=tuple(found),
        threshold=threshold,
        coco=figures(pictures.boxes, found, len(card.class_names)),
        matched=tuple(match(truth, one, threshold) for truth, one in zip(pictures.boxes, found, strict=True)),
    )


def box_figures(evaluation: BoxEvaluation, pictures: Pictures, preprocess: Preprocess) -> BoxFigures:
    """What the report shows of it: tables, curves, and pictures worth looking at."""
    told = evaluation.figures()
    coco = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "Small": "ap_small", "Medium": "ap_medium", "Large": "ap_large"}
    of_class = ("count", "ap", "ap50", "precision", "recall")
    classes = [BoxClass(name=row["class_name"], **{key: row[key] for key in of_class}) for row in told["classes"]]
    there = sorted((row for row in classes if row.count), key=lambda row: -row.count)
    curves = dict(zip(evaluation.class_names, (one.precision for one in evaluation.coco.classes), strict=True))
    legend = list(enumerate(evaluation.class_names)) if len(evaluation.class_names) <= IN_COLOURS else []
    views = [_View(evaluation, pictures, preprocess, i) for i in range(len(pictures))]
    order = sorted(range(len(views)), key=lambda i: -views[i].mistakes)
    spread = [
        order[i] for i in dict.fromkeys(np.linspace(0, len(order) - 1, min(BESIDE, len(order))).round().astype(int))
    ]
    return BoxFigures(
        data=evaluation.data,
        split=evaluation.split,
        num_images=told["num_images"],
        num_boxes=told["num_boxes"],
        averages={name: told[key] for name, key in coco.items()},
        threshold=evaluation.threshold,
        classes=sorted(there, key=lambda row: 2.0 if row.ap is None else row.ap),
        colours=[("#{:02x}{:02x}{:02x}".format(*drawing.colour(label)), name) for label, name in legend],
        curves={row.name: curve for row in there[:CURVES] if (curve := curves[row.name]) is not None},
        beside=[views[i].beside() for i in spread],
        missed=_looked_at([one for view in views for one in view.missed()]),
        false_alarms=_looked_at([one for view in views for one in view.alarms()]),
    )


class _View:
    """One picture as the network saw it, without what pads it, and its boxes there."""

    def __init__(self, evaluation: BoxEvaluation, pictures: Pictures, preprocess: Preprocess, row: int) -> None:
        self.evaluation, self.pictures, self.row = evaluation, pictures, row
        self.truth, self.found = evaluation.truths[row], evaluation.found[row]
        self.matched = evaluation.matched[row]
        self.placement = preprocess.placement(self.truth.height, self.truth.width)
        whole = torch.tensor([[0, 0, self.truth.width, self.truth.height]], dtype=torch.float64)
        edges = self.placement.of_boxes(whole)[0].round().long().tolist()
        self.left, self.top, self.right, self.bottom = (min(max(0, edge), preprocess.size) for edge in edges)

    @property
    def wrong(self) -> np.ndarray:
        """bool [M], of the boxes found."""
        return ~self.matched.right & ~self.matched.neither

    @property
    def mistakes(self) -> int:
        return int(self.matched.missed.sum() + self.wrong.sum())

    def missed(self) -> Iterator[tuple[float, Callable[[], Shown]]]:
        """Of each object that no box was drawn for its area, and what shows it."""
        for row in self.matched.missed.nonzero()[0]:
            yield float(self.truth.areas[row]), partial(self.cut, self.truth.boxes[row], int(self.truth.labels[row]))

    def alarms(self) -> Iterator[tuple[float, Callable[[], Shown]]]:
        """Of each box that matches no object its score, and what shows it."""
        for row in self.wrong.nonzero()[0]:
            score = float(self.found.scores[row])
            yield score, partial(self.cut, self.found.boxes[row], int(self.found.labels[row]), f" {score:.2f}")

    @property
    def image(self) -> np.ndarray:
        return self.pictures.shown(self.row)[self.top : self.bottom, self.left : self.right]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Where they lie in `image`."""
        placed = self.placement.of_boxes(torch.from_numpy(boxes)) - torch.tensor([self.left, self.top] * 2)
        return np.asarray(placed)

    def beside(self) -> tuple[Shown, Shown]:
        names, name = self.evaluation.class_names, self.evaluation.names[self.row]
        truth, found = self.truth, self.found
        if len(names) <= IN_COLOURS:
            names = ("",) * len(names)
        there = drawing.draw(
            self.image,
            self.boxes(truth.boxes),
            truth.labels.tolist(),
            [names[label] for label in truth.labels],
            longer_side=LARGE_PX,
            dashed=truth.crowd.tolist(),
        )
        shown = found.scores >= self.evaluation.threshold
        answer = drawing.draw(
            self.image,
            self.boxes(found.boxes[shown]),
            found.labels[shown].tolist(),
            [
                f"{names[label]} {score:.2f}" if names[label] else ""
                for label, score in zip(found.labels[shown], found.scores[shown], strict=True)
            ],
            longer_side=LARGE_PX,
            dashed=self.wrong[shown].tolist(),
        )
        missed = int(self.matched.missed.sum())
        said = f"{int(self.matched.right.sum())} found, {missed} missed, {int(self.wrong.sum())} false alarms"
        return (there, f"{name}: {len(truth)} annotated"), (answer, said)

    def cut(self, box: np.ndarray, label: int, caption: str = "") -> Shown:
        image, own = drawing.crop(self.image, self.boxes(box[None])[0])
        drawn = drawing.draw(image, own, [label], [""])
        return drawn, f"{self.evaluation.class_names[label]}{caption}, {self.evaluation.names[self.row]}"


def _looked_at(every: Sequence[tuple[float, Callable[[], Shown]]]) -> list[Shown]:
    """The largest."""
    return [show() for _, show in sorted(every, key=lambda one: -one[0])[:LOOKED_AT]]


def _augmented(prepared: "Prepared") -> tuple[np.ndarray, list[str]]:
    """Some pictures of the first batches as the network got them, boxes drawn: uint8 [M, size, size, 3]."""
    num_batches = min(AUGMENTED, steps_per_epoch(len(prepared.train), prepared.config.recipe))
    images = []
    for batch in islice(batches(dataclasses.replace(prepared, world=ALONE))(1, 0), num_batches):
        target = batch.targets[0]
        shown = prepared.preprocess.shown(batch.images[:1])[0].permute(1, 2, 0).cpu().numpy()
        shown = np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))
        boxes, labels = target["boxes"].double().cpu().numpy(), target["labels"].tolist()
        images.append(drawing.draw(shown, boxes, labels, [""] * len(labels)))
    return np.stack(images), [""] * len(images)
