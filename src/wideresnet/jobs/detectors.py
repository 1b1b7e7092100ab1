"""`train_detector`, `evaluate_detector`: pictures with boxes → run folder, model file, figures, report. What all
trainings share is `training.start`'s."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch

from wideresnet import data as data_room
from wideresnet import files, kinds, networks, processes, recipes, report, runs, runtime
from wideresnet.data import Data
from wideresnet.data.listing import ALL
from wideresnet.detection import BoxEvaluation, BoxPredictor, read_boxes
from wideresnet.detection.evaluation import check_installed
from wideresnet.detection.learning import sides
from wideresnet.detection.prediction import detect
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.jobs import transfer
from wideresnet.jobs.detecting import box_figures, evaluated
from wideresnet.jobs.evaluation import check_report, parts_of_training, trained_on
from wideresnet.jobs.planning import Plan, make_recipe, versions
from wideresnet.jobs.running import CHECKPOINT_EVERY_S, BoxRun
from wideresnet.jobs.training import start
from wideresnet.networks.targets import detector_of
from wideresnet.processes import World
from wideresnet.reading import Reading
from wideresnet.recipes import BoxChanges, DetectorChanges, RecipeChanges

# Fields of a recipe that change a picture without its boxes, or weigh its label; and what torchvision's detectors
# cannot be given as it is: their losses are computed within them, and would be so in half precision.
NOT_FOR_BOXES = (
    "crop_padding",
    "policy",
    "mixup",
    "cutmix",
    "label_smoothing",
    "class_weights",
    "balanced",
    "layer_decay",
    "compile",
    "sync_bn",
    "precision",
)


@processes.joined()
@kinds.checked
def train_detector(
    data: str | Path,
    *,
    arch: str | None = None,
    size: int | None = None,
    init: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    time_budget_s: float | None = None,
    max_bad: int | None = 0,
    cache: data_room.Cache = "auto",
    max_pixels: int | None = None,
    track: Sequence[str] = (),
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    watch: runtime.Watch = runtime.PRINT,
    **changes: Unpack[BoxChanges],
) -> BoxRun:
    """Trains a detector on pictures with boxes (`read_boxes`) and leaves a run folder; the options, files and errors
    are those of `train`. What is not given comes from the data (`recipes.detector_defaults`).

    size: pixels of the square that pictures are laid into, whole, the rest filled with the mean colour. init: a run
    folder or model file whose backbone, mean and std it begins with: a classifier's, or a detector's with all that
    fits. changes: fields of the recipe, and of `recipes.Detector`: head, stem_stride, stages…"""

    names = DetectorChanges.__annotations__
    detector = cast(DetectorChanges, {name: value for name, value in changes.items() if name in names})
    of_recipe = cast(RecipeChanges, {name: value for name, value in changes.items() if name not in names})

    def planned(_: runtime.Watch, world: World) -> Plan:
        return _plan(
            data,
            of_recipe,
            detector,
            arch=arch,
            size=size,
            init=init,
            seed=seed,
            device=device,
            max_bad=max_bad,
            max_pixels=max_pixels,
            world=world,
        )

    run: BoxRun = start(
        planned,
        of_recipe,
        out=out,
        time_budget_s=time_budget_s,
        cache=cache,
        track=track,
        every_s=checkpoint_every_s,
        watch=watch,
    )
    return run


def _plan(
    data: str | Path,
    changes: RecipeChanges,
    detector: DetectorChanges,
    *,
    arch: str | None,
    size: int | None,
    init: str | Path | None,
    seed: int,
    device: str,
    max_bad: int | None,
    max_pixels: int | None,
    world: World,
) -> Plan:
    """As `planning.plan`."""
    torch_device = runtime.choose_device(device)
    if size is not None and size < 32:
        raise UsageError(f"--size {size}: expected at least 32 pixels; the pyramid halves them five times and more")
    source = None if init is None else transfer.read_source(init, "classification", "detection")
    mean = std = None
    in_channels = 3
    if source is not None:
        if "library" in source.backbone:
            raise UsageError(f"--init {init}: a {source.arch}; a detector stands on our own networks")
        own, name = source.file.card.preprocess, networks.arch_name(source.backbone)
        transfer.check_arch(source, name, arch)
        arch, mean, std, in_channels = name, own.mean, own.std, own.channels
        if own.per_image or own.border:
            raise UsageError(
                f"--init {init}: it standardises each picture by itself or frames it, which is not for boxes; train "
                "without --init"
            )
    listing = read_boxes(data, max_pixels=data_room.most_pixels(max_pixels))
    check_installed()
    if "train" in listing.splits and not any(boxes.classes for boxes in listing.splits["train"].boxes):
        raise DataError(f"{listing.place}: not one box in train to learn from")
    every = [boxes for part in listing.splits.values() for boxes in part.boxes]
    longer = int(np.median([max(boxes.height, boxes.width) for boxes in every]))
    counts = {split: len(part) for split, part in listing.splits.items()}
    num_train = counts.get("train") or round(0.8 * sum(counts.values())) or 1
    default = recipes.detector_defaults(num_train, longer, torch_device.type)
    arch, size = arch or default.arch, size or default.size
    made = _recipe(changes, default, size=size, class_names=listing.class_names, num_train=num_train)
    few = made.batch_size // made.accumulate // world.size
    begun = None
    if source is not None and source.file.card.task == "detection":
        begun = detector_of(source.file.model)
    stands_on = recipes.make_detector(detector, size=size, batch_size=few, has_init=source is not None, begun=begun)
    if stands_on.norm == "frozen" and source is None:
        raise UsageError("--norm frozen keeps the statistics of a trained network; name it: --init MODEL")
    _check_network(arch, source, stands_on, in_channels)
    config = runs.Config(
        data=listing.place,
        arch=arch,
        recipe=made,
        size=size,
        fit="pad",
        in_channels=in_channels,
        mean=mean,
        std=std,
        seed=seed,
        device=str(torch_device),
        threads=torch.get_num_threads(),
        max_bad=max_bad,
        engine="torch",
        fingerprint="",
        versions=versions(arch, str(torch_device), boxes=True),
        reading=Reading(max_pixels=max_pixels),
        processes=world.size,
        machines=world.machines,
        init=None if source is None else source.place,
        init_digest=None if source is None else source.digest,
        processor=runtime.processor() if torch_device.type == "cpu" else "",
        detector=stands_on,
    )
    return Plan(config, listing, source, longer, f"torch {torch.__version__} on {torch_device.type}")


def _recipe(
    changes: RecipeChanges, default: recipes.Defaults, *, size: int, class_names: Sequence[str], num_train: int
) -> recipes.Recipe:
    given: Mapping[str, Any] = {field: value for field, value in changes.items() if value is not None}
    off = {field.name: field.default for field in dataclasses.fields(recipes.Recipe)}
    for field in NOT_FOR_BOXES:
        if given.get(field, off[field]) != off[field]:
            raise UsageError(f"--{field.replace('_', '-')} is not for boxes; leave it out")
    given = {**given, "crop_padding": 0}  # windows are instead
    return make_recipe("detect", given, default=default, size=size, class_names=class_names, num_train=num_train)


def _check_network(arch: str, source: transfer.Source | None, detector: recipes.Detector, in_channels: int) -> None:
    """An impossible network is told before any picture is read. Raises UsageError."""
    from wideresnet.networks import detectors  # torchvision's, which take seconds to import

    try:
        with torch.device("meta"):
            made = detectors.create(arch if source is None else source.backbone, detector, 2, in_channels=in_channels)
    except ValueError as error:
        raise UsageError(f"--arch {arch}: {error}") from error
    if source is None:
        return
    try:
        detectors.fitting(made, source.file.model, same_classes=True)
    except ValueError as error:
        raise UsageError(f"--init {source.place}: {error}; give another --norm") from error


@kinds.checked
@data_room.workers_watched()
def evaluate_detector(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    threshold: float | None = None,
    cache: data_room.Cache = "auto",
    device: str = "auto",
    max_bad: int | None = 0,
    max_pixels: int | None = None,
    report_file: str | Path | None = None,
    command: str | None = None,
    watch: runtime.Watch = runtime.PRINT,
) -> BoxEvaluation:
    """Judges a detector on `data` as `evaluate` does a classifier: its test part, or val, or all of it; on the data of
    training, the part held out. Classes are matched by name. threshold: as `BoxPredictor`'s. Raises ModelFileError,
    UsageError, DataError (a class that the model does not know, unreadable pictures)."""
    check_report(report_file)
    check_installed()
    predictor = BoxPredictor(model, device, threshold)
    card = predictor.card
    listing = _known(read_boxes(data, max_pixels=data_room.most_pixels(max_pixels)), card.class_names)
    loaded = data_room.load(listing, card.preprocess, cache=cache, max_bad=max_bad, watch=watch)
    watch.line(f"{sum(map(len, loaded.parts.values())):,} pictures, {loaded.kept}")
    fingerprint = data_room.fingerprint(card.class_names, loaded.parts)
    parts, found = parts_of_training(loaded.parts, fingerprint, card)
    known = [name for name in ("test", "val", ALL, "train") if name in parts and len(parts[name])]
    if not known:
        raise DataError(f"{listing.place}: no picture to judge on")
    if split is not None and split not in known:
        raise UsageError(f"--split {split}: there is {', '.join(known)}")
    chosen = split or known[0]
    pictures = parts[chosen]
    notes = [*listing.notes, *loaded.notes, *found, *trained_on(pictures, predictor.extra)]
    for note in notes:
        watch.line(f"note: {note}")
    answers = detect(predictor.model, pictures.images, sides(pictures.boxes), card.preprocess, predictor.device)
    evaluation = evaluated(listing.name, chosen, pictures, answers, card, threshold=predictor.threshold)
    if report_file is not None:
        name = networks.arch_name(card.architecture)
        subject = report.Subject(
            title=f"{listing.name}: {name}",
            command=command or shlex.join(["wrn", "detect", "evaluate", str(model), str(data)]),
            facts=[
                ("Model", str(model)),
                ("Network", name),
                ("Data", listing.place),
                ("Pictures", f"resized to {card.preprocess.size}×{card.preprocess.size}, {card.preprocess.fit}"),
            ],
            boxes=box_figures(evaluation, pictures, card.preprocess),
            class_names=card.class_names,
            splits={name: part.counts(len(card.class_names)) for name, part in parts.items()},
            splits_note="; ".join(found) or "as found in the data",
            notes=notes,
        )
        files.write_whole(Path(report_file), report.build(subject))
    return evaluation


def _known(listing: Data, class_names: tuple[str, ...]) -> Data:
    """The same, its classes counted in the model's order. Raises DataError on boxes of an unknown class."""
    new_label = np.array([class_names.index(name) if name in class_names else -1 for name in listing.class_names])
    splits = {}
    for split, part in listing.splits.items():
        boxes = []
        for name, own in zip(part.names, part.boxes, strict=True):
            labels = new_label[own.labels] if len(own) else own.labels
            if (labels < 0).any():
                unknown = listing.class_names[own.labels[(labels < 0).argmax()]]
                raise DataError(
                    f"{listing.place}: {name}: class {unknown!r} is none of the model's{nearest(unknown, class_names)}"
                )
            boxes.append(dataclasses.replace(own, labels=labels))
        splits[split] = dataclasses.replace(part, boxes=tuple(boxes))
    return dataclasses.replace(listing, class_names=class_names, splits=splits)
