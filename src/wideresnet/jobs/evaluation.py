"""`evaluate`: a model + labelled pictures → figures, and a report of them."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import engines, files, kinds, networks, recipes, report, runtime
from wideresnet.checkpoint import Card
from wideresnet.data import Data, Pictures
from wideresnet.data.listing import ALL, SPLITS
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.evaluation import Evaluation
from wideresnet.jobs import corrupting
from wideresnet.jobs.sharing import load
from wideresnet.reading import Reading


@kinds.checked
@data_room.workers_watched()
def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    tta: engines.TTA = "none",
    corruptions: bool = False,
    corruption_pictures: int | None = corrupting.AT_MOST,
    cache: data_room.Cache = "auto",
    device: str = "auto",
    engine: engines.Name = "auto",
    max_bad: int | None = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    download: bool = False,
    max_pixels: int | None = None,
    report_file: str | Path | None = None,
    command: str | None = None,
    watch: runtime.Watch = runtime.PRINT,
) -> Evaluation:
    """Judges `model` on `data`: its test part, or val, or all of it where it has no parts.

    Where the data has no parts and is what the model was trained on, the parts are those of training, so that no
    picture the model has seen is counted. Classes are matched by name. `tta="flip"` averages the answers to each
    picture and its mirror image, and is named beside every figure. `corruptions=True` judges it besides on
    `corruption_pictures` of them (None: all) in noise, blurred, in snow…: `Evaluation.corruptions`. cache: as in
    `train`; no figure changes with it. The columns: see `Reading`; engine, and download for data and for a model of
    the hub: see `load`. Writes an HTML report if `report_file` is given. Raises ModelFileError, UsageError, DataError
    (a class that the model does not know, unreadable pictures).
    """
    check_report(report_file)
    corrupting.check(corruption_pictures)
    if tta not in (known := get_args(engines.TTA)):
        raise UsageError(f"--tta {tta}{nearest(tta, known)}")
    predictor = load(model, device, engine=engine, download=download)
    card = predictor.card
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
        max_pixels=max_pixels,
    )
    computed_by = engines.with_tta(predictor.engine, tta, card.temperature)
    listing = data_room.read(data, reading, watch)
    loaded = data_room.load(listing, card.preprocess, cache=cache, max_bad=max_bad, watch=watch)
    watch.line(f"{sum(map(len, loaded.parts.values())):,} pictures, {loaded.kept}")
    notes = loaded.notes
    fingerprint = data_room.fingerprint(listing.class_names, loaded.parts)
    parts = _with_labels_of(loaded.parts, listing, card.class_names)
    parts, found = parts_of_training(parts, fingerprint, card)
    notes += found
    split = split or next(name for name in ("test", "val", ALL, "train") if name in parts)
    if split not in parts:
        raise UsageError(f"--split {split}: {listing.place} has {', '.join(parts)}{nearest(split, parts)}")
    pictures = parts[split]
    if not len(pictures):
        raise DataError(f"{listing.place}: no picture in {split}")
    notes += trained_on(pictures, predictor.extra)
    if tta == "flip" and not recipes.flips_are_safe(card.class_names):
        notes.append("--tta flip: by their names, some classes look like others, or like none, in the mirror")
    for note in notes:
        watch.line(f"note: {note}")
    evaluation = Evaluation(
        data=Path(listing.place).name,
        split=split,
        engine=computed_by.reason,
        class_names=card.class_names,
        names=pictures.names,
        labels=pictures.labels.numpy(),
        logits=computed_by.compute(pictures.images).numpy(),
        temperature=card.temperature,
        tta=tta,
    )
    if corruptions:
        evaluation = corrupting.judged(
            evaluation, pictures, computed_by, card.preprocess, at_most=corruption_pictures, watch=watch
        )
    if report_file is not None:
        given = [] if tta == "none" else ["--tta", tta]
        given += corrupting.words(corruptions, corruption_pictures)
        subject = report.Subject(
            title=f"{listing.name}: {networks.arch_name(card.architecture)}",
            command=command or shlex.join(["wrn", "evaluate", str(model), str(data), *given]),
            facts=[
                ("Model", str(model)),
                ("Network", networks.arch_name(card.architecture)),
                ("Data", listing.place),
                ("Pictures", f"resized to {card.preprocess.size}×{card.preprocess.size}, {card.preprocess.fit}"),
                ("Computed by", computed_by.reason),
                ("Test-time augmentation", tta),
            ],
            evaluation=evaluation,
            pictures=pictures.shown,
            corrupted=corrupting.examples(evaluation, pictures, card.preprocess),
            splits={name: part.counts(len(card.class_names)) for name, part in parts.items()},
            splits_note="; ".join(found) or "as found in the data",
            notes=notes,
        )
        files.write_whole(Path(report_file), report.build(subject))
    return evaluation


def check_report(file: str | Path | None) -> None:
    """Raises UsageError, before any work, where a report cannot be written, or would take another file's place."""
    if file is None:
        return
    if not Path(file).absolute().parent.is_dir():
        raise UsageError(f"--report {file}: expected a file in a folder that exists")
    files.check_replaceable(Path(file), ".html", "--report")


def trained_on(pictures: Pictures, extra: Mapping[str, Tensor]) -> list[str]:
    """A note if the model whose `extra` that is was trained on some of them."""
    if "seen" not in extra or not (seen := data_room.count_marked(pictures, extra["seen"])):
        return []
    return [f"{seen} of these {len(pictures)} pictures were trained on, which flatters the figures"]


def _with_labels_of(parts: dict[str, Pictures], data: Data, class_names: tuple[str, ...]) -> dict[str, Pictures]:
    """The same pictures, their labels counted in the model's order of classes. Raises DataError on an unknown class."""
    new_label = torch.tensor([class_names.index(name) if name in class_names else -1 for name in data.class_names])
    relabelled = {}
    for split, pictures in parts.items():
        labels = new_label[pictures.labels]
        if (labels < 0).any():
            row = int((labels < 0).nonzero()[0])
            name = data.class_names[pictures.labels[row]]
            where = f"{data.place}: {pictures.names[row]}"
            if _are_numbers(data.class_names) != _are_numbers(class_names):
                raise DataError(
                    f"{where}: class {name!r} is none of the model's. Labels are numbers in one and names in the "
                    f"other: here {_some(data.class_names)}, in the model {_some(class_names)}. Write the model's"
                )
            raise DataError(f"{where}: class {name!r} is none of the model's{nearest(name, class_names)}")
        relabelled[split] = dataclasses.replace(pictures, labels=labels)
    return relabelled


def _are_numbers(class_names: tuple[str, ...]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in class_names)


def _some(class_names: tuple[str, ...]) -> str:
    return ", ".join(class_names[:3]) + (", …" if len(class_names) > 3 else "")


def parts_of_training(
    parts: dict[str, Pictures], fingerprint: str, card: Card
) -> tuple[dict[str, Pictures], list[str]]:
    """The parts made in training, if these are the pictures of training and have no parts of their own."""
    if set(parts) >= set(SPLITS) or card.trained.get("fingerprint") != fingerprint:
        return parts, []
    folds, fold, seed = card.trained.get("folds", 0), card.trained.get("fold", 0), card.trained["seed"]
    if fold and "test" in parts:  # which no fold was trained on
        return parts, []
    if fold:
        parts = data_room.hold_out(parts, card.class_names, fold=fold, folds=folds, seed=seed)
    made = data_room.divide(parts, seed, keep_val=card.trained["recipe"]["select"] == "best")
    return dict(made.parts), [f"this is the data of training; its own split is used: {made.note}"]
