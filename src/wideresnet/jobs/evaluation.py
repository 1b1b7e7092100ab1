"""`evaluate`: a model + labelled pictures → figures, and a report of them."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np

from wideresnet import data as data_room
from wideresnet import files, report, runtime
from wideresnet.data import Data, Pictures
from wideresnet.data.listing import ALL, SPLITS
from wideresnet.dialects import arch_name
from wideresnet.errors import DataError, UsageError, nearest
from wideresnet.evaluation import Evaluation
from wideresnet.prediction import Predictor


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    max_bad: int | None = 0,
    report_file: str | Path | None = None,
    command: str | None = None,
    watch: runtime.Watch = runtime.PRINT,
) -> Evaluation:
    """Judges `model` on `data`: its test part, or val, or all of it where it has no parts.

    Where the data has no parts and is what the model was trained on, the parts are those of training, so that no
    picture the model has seen is counted. Classes are matched by name. Writes an HTML report if `report_file` is
    given. Raises ModelFileError, UsageError, DataError (a class that the model does not know, unreadable pictures).
    """
    predictor = Predictor(model, device)
    card = predictor.card
    listing = _with_labels_of(data_room.read(data), card.class_names)
    parts, notes = data_room.decode_all(listing, card.preprocess, max_bad=max_bad, watch=watch)
    parts, found = _parts_of_training(parts, listing, predictor)
    notes += found
    split = split or next(name for name in ("test", "val", ALL, "train") if name in parts)
    if split not in parts:
        raise UsageError(f"--split {split}: {listing.place} has {', '.join(parts)}{nearest(split, parts)}")
    pictures = parts[split]
    if not len(pictures):
        raise DataError(f"{listing.place}: no picture in {split}")
    for note in notes:
        watch.line(f"note: {note}")
    evaluation = Evaluation(
        data=listing.name,
        split=split,
        engine=predictor.engine.reason,
        class_names=card.class_names,
        names=pictures.names,
        labels=pictures.labels.numpy(),
        logits=predictor.engine.compute(pictures.images).numpy(),
        temperature=card.temperature,
    )
    if report_file is not None:
        subject = report.Subject(
            title=f"{listing.name}: {arch_name(dict(card.architecture))}",
            command=command or f"wrn evaluate {shlex.quote(str(model))} {shlex.quote(str(data))}",
            facts=[
                ("Model", str(model)),
                ("Network", arch_name(dict(card.architecture))),
                ("Data", listing.place),
                ("Pictures", f"resized to {card.preprocess.size}×{card.preprocess.size}, {card.preprocess.fit}"),
                ("Computed by", predictor.engine.reason),
            ],
            evaluation=evaluation,
            pictures=pictures.shown,
            splits={
                name: np.bincount(part.labels.numpy(), minlength=len(card.class_names)).tolist()
                for name, part in parts.items()
            },
            splits_note="; ".join(found) or "as found in the data",
            notes=notes,
        )
        files.write_whole(Path(report_file), report.build(subject))
    return evaluation


def _with_labels_of(data: Data, class_names: tuple[str, ...]) -> Data:
    """The same listing, its labels counted in the model's order of classes. Raises DataError on an unknown class."""
    index = {name: label for label, name in enumerate(class_names)}
    used = {label for listing in data.splits.values() for label in listing.labels.tolist()}
    for label in sorted(used):
        if data.class_names[label] not in index:
            name = data.class_names[label]
            raise DataError(f"{data.place}: class {name!r} is none of the model's{nearest(name, class_names)}")
    new_label = np.array([index.get(name, -1) for name in data.class_names], dtype=np.int64)
    splits = {
        name: dataclasses.replace(listing, labels=new_label[listing.labels]) for name, listing in data.splits.items()
    }
    return dataclasses.replace(data, class_names=class_names, splits=splits)


def _parts_of_training(
    parts: dict[str, Pictures], data: Data, predictor: Predictor
) -> tuple[dict[str, Pictures], list[str]]:
    """The parts made in training, if these are the pictures of training and have no parts of their own."""
    trained = predictor.card.trained
    if set(parts) >= set(SPLITS) or trained.get("fingerprint") != data_room.fingerprint(
        data.class_names, parts.values()
    ):
        return parts, []
    keep_val = trained["recipe"]["select"] == "best"
    made = data_room.divide(parts, trained["seed"], keep_val=keep_val)
    return dict(made.parts), [f"this is the data of training; its own split is used: {made.note}"]
