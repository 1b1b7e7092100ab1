"""`evaluate`: a model + labelled pictures → figures, and a report of them."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import engines, files, kinds, networks, recipes, report, runtime
from wideresnet.checkpoint import Card
from wideresnet.data import Data, Pictures
from wideresnet.data.listing import ALL, SPLITS
from wideresnet.errors import DataError, ModelFileError, UsageError, nearest
from wideresnet.evaluation import Evaluation
from wideresnet.jobs import corrupting, unknown
from wideresnet.jobs.matching import check_classes, check_map, renamed, with_labels_of
from wideresnet.jobs.sharing import load
from wideresnet.prediction import Predictor
from wideresnet.reading import Reading


@kinds.checked
@data_room.workers_watched()
def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    against: str | Path | None = None,
    abstain: float | None = None,
    class_map: Mapping[str, str] = MappingProxyType({}),
    tta: engines.TTA = "none",
    ood: str | Path | None = None,
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
    picture the model has seen is counted. Classes are matched by name; class_map renames those of the data, and of
    `against`: {"old": "new"}. against: another model, judged on the same pictures, each as it was trained to see them.
    abstain: also what the model does that answers only where it is sure enough, as `Predictor` has it. `tta="flip"`
    averages the answers to each picture and its mirror image, and is named beside every figure. cache: as in `train`;
    no figure changes with it. The columns: see `Reading`; engine, and download for data and for a model of the hub: see
    `load`. `corruptions=True` judges it besides on `corruption_pictures` of them (None: all) in noise, blurred, in
    snow…: `Evaluation.corruptions`. ood: other data, or a folder of pictures, which are of none of the model's classes:
    how well it tells them from its own, `Evaluation.ood`. Writes an HTML report if `report_file` is given. Raises
    ModelFileError, UsageError, DataError (a class that the model does not know, unreadable pictures).
    """
    check_report(report_file)
    corrupting.check(corruption_pictures)
    if tta not in (known := get_args(engines.TTA)):
        raise UsageError(f"--tta {tta}{nearest(tta, known)}")
    predictor = load(model, device, engine=engine, abstain=abstain, download=download)
    rival = None if against is None else load(against, device, engine=engine, download=download)
    card = predictor.card
    if rival is not None:
        check_classes(rival.card, card, str(against), class_map)
    reading = Reading(
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        download=download,
        max_pixels=max_pixels,
    )
    other = unknown.read(ood, card.preprocess, reading, cache=cache, max_bad=max_bad, watch=watch)
    listing = data_room.read(data, reading, watch)
    check_map(class_map, [*listing.class_names, *(() if rival is None else rival.card.class_names)])

    seen_by = partial(_seen_by, listing, card, class_map, cache=cache, max_bad=max_bad, watch=watch)
    parts, found, notes, chosen_by = seen_by(predictor)
    notes = [*notes, *found, *(() if other is None else other.notes)]
    split = split or next(name for name in ("test", "val", ALL, "train") if name in parts)
    if split not in parts:
        raise UsageError(f"--split {split}: {listing.place} has {', '.join(parts)}{nearest(split, parts)}")
    pictures = parts[split]
    if not len(pictures):
        raise DataError(f"{listing.place}: no picture in {split}")
    notes += [*trained_on(pictures, predictor.extra), *unknown.overlap(other, pictures, predictor.extra)]
    chosen = split == "val" and chosen_by
    notes += _caveats(card, tta, chosen=chosen, abstains=abstain is not None)
    if other is not None and chosen_by and card.unknown.get("split") == split == "test":
        notes.append("the threshold for unknown pictures was measured on these very pictures: there was no val part")

    judged = partial(_judged, data=Path(listing.place).name, split=split, class_names=card.class_names, tta=tta)
    evaluation = judged(predictor, str(model), pictures)
    asked = None if abstain is None else (abstain, predictor.threshold)
    evaluation = dataclasses.replace(evaluation, chosen=chosen, abstain=asked)
    if rival is not None and against is not None:
        alike = rival.card.preprocess == card.preprocess
        theirs = pictures if alike else seen_by(rival)[0][split]
        notes += [f"{against}: {note}" for note in trained_on(theirs, rival.extra)]
        evaluation = dataclasses.replace(evaluation, against=judged(rival, str(against), theirs, class_map=class_map))
        notes += [f"with {model} alone: corruptions, unknown pictures"] * (corruptions or other is not None)
    for note in notes:
        watch.line(f"note: {note}")
    if other is not None:
        evaluation = unknown.judged(evaluation, pictures, predictor, other)
    if corruptions:
        seen = engines.with_tta(predictor.engine, tta, card.temperature), card.preprocess
        evaluation = corrupting.judged(evaluation, pictures, *seen, at_most=corruption_pictures, watch=watch)
    if report_file is not None:
        subject = report.Subject(
            title=f"{listing.name}: {networks.arch_name(card.architecture)}",
            command=command
            or shlex.join(
                [
                    *_words(evaluation, str(data), class_map),
                    *corrupting.words(corruptions, corruption_pictures),
                    *reading.words,
                    *([] if engine == "auto" else ["--engine", engine]),
                    *([] if device == "auto" else ["--device", device]),
                    *([] if max_bad == 0 else ["--max-bad", "all" if max_bad is None else str(max_bad)]),
                ]
            ),
            facts=[
                ("Model", str(model)),
                ("Network", networks.arch_name(card.architecture)),
                ("Data", listing.place),
                ("Pictures", f"resized to {card.preprocess.size}×{card.preprocess.size}, {card.preprocess.fit}"),
                ("Computed by", evaluation.engine),
                ("Test-time augmentation", tta),
            ],
            evaluation=evaluation,
            pictures=pictures.shown,
            ood_pictures=None if other is None else other.pictures.shown,
            corrupted=corrupting.examples(evaluation, pictures, card.preprocess),
            splits={name: part.counts(len(card.class_names)) for name, part in parts.items()},
            splits_note="; ".join(found) or "as found in the data",
            notes=notes,
        )
        files.write_whole(Path(report_file), report.build(subject))
    return evaluation


def _seen_by(
    listing: Data,
    card: Card,
    class_map: Mapping[str, str],
    one: Predictor,
    *,
    cache: data_room.Cache,
    max_bad: int | None,
    watch: runtime.Watch,
) -> tuple[dict[str, Pictures], list[str], list[str], bool]:
    """The parts as that model sees them, labels in `card`'s order; how they were made; what was left out; whether they
    are those of training."""
    loaded = data_room.load(listing, one.card.preprocess, cache=cache, max_bad=max_bad, watch=watch)
    watch.line(f"{sum(map(len, loaded.parts.values())):,} pictures, {loaded.kept}")
    fingerprint = data_room.fingerprint(listing.class_names, loaded.parts)
    parts, made = parts_of_training(loaded.parts, fingerprint, card)  # by the classes of the data, as training did
    labelled = with_labels_of(parts, listing, card.class_names, class_map)
    return labelled, made, loaded.notes, card.trained.get("fingerprint") == fingerprint


def _judged(
    one: Predictor,
    named: str,
    pictures: Pictures,
    *,
    data: str,
    split: str,
    class_names: tuple[str, ...],
    tta: engines.TTA,
    class_map: Mapping[str, str] = MappingProxyType({}),
) -> Evaluation:
    """Its answers, in the order of `class_names`, to which class_map leads from its own. Raises ModelFileError if they
    are not numbers."""
    computed_by = engines.with_tta(one.engine, tta, one.card.temperature)
    logits = computed_by.compute(pictures.images).numpy()
    check_finite(logits, pictures.names, named)
    own = renamed(one.card.class_names, class_names, class_map)
    return Evaluation(
        data=data,
        split=split,
        engine=computed_by.reason,
        class_names=class_names,
        names=pictures.names,
        labels=pictures.labels.numpy(),
        logits=np.ascontiguousarray(logits[:, [own.index(name) for name in class_names]]),  # sums to the last bit
        temperature=one.card.temperature,
        tta=tta,
        model=named,
        groups=pictures.groups,
        seen=count_seen(pictures, one.extra),
    )


def _caveats(card: Card, tta: engines.TTA, *, chosen: bool, abstains: bool) -> list[str]:
    told = []
    if chosen:
        told.append("training chose by these pictures (epoch, temperature, thresholds), which flatters the figures")
    if tta == "flip" and not recipes.flips_are_safe(card.class_names):
        told.append("--tta flip: by their names, some classes look like others, or like none, in the mirror")
    if tta == "flip" and abstains:
        told.append("the threshold of --abstain was chosen without --tta")
    return told


def _words(e: Evaluation, data: str, class_map: Mapping[str, str]) -> list[str]:
    """Of a command that repeats it."""
    words = ["wrn", "evaluate", e.model, data, "--split", e.split]
    words += [] if e.tta == "none" else ["--tta", e.tta]
    words += [] if e.ood is None else ["--ood", e.ood.data]
    words += [] if e.against is None else ["--against", e.against.model]
    words += [] if e.abstain is None else ["--abstain", str(e.abstain[0])]
    for old, new in class_map.items():
        words += ["--map", f"{old}={new}"]
    return words


def check_finite(logits: np.ndarray, names: Sequence[str], model: str) -> None:
    """Raises ModelFileError, naming the first picture, if a network's answers are not numbers."""
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        raise ModelFileError(
            f"{model}: its answers to {len(broken):,} of {len(names):,} pictures are not finite, first to "
            f"{names[broken[0]]}; its weights are too large for float32: take another epoch or model"
        )


def check_report(file: str | Path | None) -> None:
    """Raises UsageError, before any work, where a report cannot be written, or would take another file's place."""
    if file is None:
        return
    if not Path(file).absolute().parent.is_dir():
        raise UsageError(f"--report {file}: expected a file in a folder that exists")
    files.check_replaceable(Path(file), ".html", "--report")


def trained_on(pictures: Pictures, extra: Mapping[str, Tensor]) -> list[str]:
    """A note if the model whose `extra` that is was trained on some of them."""
    if not (seen := count_seen(pictures, extra)):
        return []
    return [f"{seen} of these {len(pictures)} pictures were trained on, which flatters the figures"]


def count_seen(pictures: Pictures, extra: Mapping[str, Tensor]) -> int:
    """How many of them the model whose `extra` that is was trained on, as far as it knows."""
    return data_room.count_marked(pictures, extra["seen"]) if "seen" in extra else 0


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
