"""Unknown pictures: what a model keeps of its training to tell them by, and how well it tells those of other data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wideresnet import classification, metrics, prediction, runtime
from wideresnet import data as data_room
from wideresnet.data import Data, Listing, Pictures
from wideresnet.data.folders import pictures_below
from wideresnet.data.listing import ALL
from wideresnet.engines import Engine
from wideresnet.errors import DataError, UsageError
from wideresnet.evaluation import Evaluation, OodFigures
from wideresnet.prediction import Predictor
from wideresnet.preprocess import Preprocess
from wideresnet.reading import Reading

if TYPE_CHECKING:
    from wideresnet.jobs.preparation import Prepared

# Pictures of train at most: some hundred axes need no more, and a pass of all would take an epoch's third.
FIT_ON = 5_000


def fitted(
    prepared: "Prepared",
    engine: Engine,
    split: str,
    held_out: tuple[np.ndarray, Tensor | None],
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """For the card and for `extra`: fitted on the train part, its threshold from `split`, of which the logits and
    embeddings are given. Nothing where it cannot be, which is said."""
    config, (logits, embeddings) = prepared.config, held_out
    if split == "train" or embeddings is None:
        why = "no pictures are held out" if split == "train" else "it has more than one layer of classes"
        prepared.watch.line(f"note: the model will not tell unknown pictures: {why}")
        return {}, {}
    train = classification.embeddings_of_some(prepared.train, engine, FIT_ON, config.seed, prepared.world)
    try:
        score = metrics.fit_unknown(train.numpy(), logits, embeddings.numpy())
    except ValueError as error:  # too few pictures, or what is not finite; the same in every process
        prepared.watch.line(f"note: the model will not tell unknown pictures: {error}")
        return {}, {}
    if split != "val":
        prepared.watch.line(f"note: there is no val part: what counts as unknown is measured on {split}")
    return prediction.stored(score, split, len(logits))


@dataclass(frozen=True, slots=True, eq=False)
class Unknown:
    """Pictures of other data; `data` as the user wrote it, `notes` of what was left out."""

    data: str
    pictures: Pictures
    notes: tuple[str, ...]


def read(
    data: str | Path | None,
    preprocess: Preprocess,
    reading: Reading,
    *,
    cache: data_room.Cache,
    max_bad: int | None,
    watch: runtime.Watch,
) -> Unknown | None:
    """Of `data`, with or without classes, its test part, else val, else all; of None, none. Raises DataError,
    UsageError."""
    if data is None:
        return None
    if not str(data):
        raise UsageError("--ood: its name is empty; expected data, or a folder of pictures")
    # Columns are named for the known data; these pictures' labels are not asked for.
    plain = Reading(download=reading.download, max_pixels=reading.max_pixels)
    try:
        listing = _listed(data, plain, watch)
        loaded = data_room.load(listing, preprocess, cache=cache, max_bad=max_bad, watch=watch)
    except DataError as error:
        raise DataError(f"--ood: {error}") from error
    split = next((name for name in ("test", "val", ALL, "train") if len(loaded.parts.get(name, ()))), None)
    if split is None:
        raise DataError(f"--ood {data}: no picture in it; expected some that are of none of the model's classes")
    return Unknown(str(data), loaded.parts[split], tuple(f"--ood {data}: {note}" for note in loaded.notes))


def _listed(data: str | Path, reading: Reading, watch: runtime.Watch) -> Data:
    """As data with classes; a folder with pictures but no folders of them, those pictures."""
    folder = Path(data)
    paths = list(pictures_below(folder)) if folder.is_dir() else []
    if not paths or any(path.parent != folder for path in paths):
        return data_room.read(data, reading, watch)
    names = tuple(path.relative_to(folder).as_posix() for path in paths)
    pixels = data_room.most_pixels(reading.max_pixels)
    all_of_it = Listing(paths, names, np.zeros(len(paths), np.int64), max_pixels=pixels)
    return Data(folder.resolve().name, str(folder.resolve()), ("unknown",), {ALL: all_of_it})


def overlap(other: Unknown | None, known: Pictures, extra: Mapping[str, Tensor]) -> list[str]:
    """A note if pictures that are called unknown are not: the model whose `extra` that is was trained on them, or they
    are among the known ones."""
    if other is None:
        return []
    marked = [data_room.marks(known), *([extra["seen"]] if "seen" in extra else [])]
    if not (count := data_room.count_marked(other.pictures, torch.cat(marked))):
        return []
    of = f"{count:,} of its {len(other.pictures):,} pictures"
    return [f"--ood {other.data}: {of} were trained on or are among the known ones, so that they are not unknown"]


def judged(evaluation: Evaluation, known: Pictures, predictor: Predictor, other: Unknown) -> Evaluation:
    """`evaluation`, which is of the pictures `known`, with `ood`: how the model tells the `other` pictures from them,
    of each as it is: averaged over several views, answers have no energy. Raises DataError if its answers to the
    others are not finite."""
    unknown, engine, score = other.pictures, predictor.engine, predictor.unknown
    ours, own_embeddings = engine.embed(known.images) if score is not None else (engine.compute(known.images), None)
    logits, theirs = engine.embed(unknown.images) if score is not None else (engine.compute(unknown.images), None)
    sound = logits.isfinite().all(1) & (True if theirs is None else theirs.isfinite().all(1))
    if not sound.all():
        first = unknown.names[int((~sound).nonzero()[0])]
        raise DataError(f"--ood {other.data}: the network's answer to {first} is not finite; leave the picture out")
    answers, own = logits.numpy(), predictor.card.class_names
    if score is None or theirs is None or own_embeddings is None:
        of_known, of_unknown = metrics.energy(ours.numpy()), metrics.energy(answers)
    else:
        of_known = score.scores(ours.numpy(), own_embeddings.numpy())
        of_unknown = score.scores(answers, theirs.numpy())
    probs = metrics.softmax(answers.astype(np.float64) / evaluation.temperature)
    figures = OodFigures(
        data=other.data,
        names=unknown.names,
        known=of_known,
        unknown=of_unknown,
        score="energy" if score is None else prediction.SCORE,
        threshold=None if score is None else score.threshold,
        taken_for=tuple(own[label] for label in answers.argmax(axis=1)),
        confidence=probs.max(axis=1),
    )
    return dataclasses.replace(evaluation, ood=figures)
