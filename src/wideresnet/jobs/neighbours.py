"""A model and the data it was trained on → its training pictures in its own feature space, for the nearest of them.
What that takes is computed once and kept in the run's folder."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wideresnet import data as data_room
from wideresnet import files, runs, runtime
from wideresnet.data.decoding import digest_of, upright
from wideresnet.errors import DataError, ImageError, ModelFileError, TrainingStopped, UsageError
from wideresnet.explanation import Neighbour
from wideresnet.prediction import Predictor
from wideresnet.reading import Reading

KEPT = "features.safetensors"  # in the run's folder
_ENTRY = "wideresnet"
_VERSION = 2  # 1 did not say of which names and labels it is
_AT_ONCE = 1 << 20  # pixels embedded at once


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """N pictures that a model was trained on. embeddings float16 [N, D], each of about length 1; digests as `Pictures`
    has them; notes: what to know of how they were found; data: where the pictures are, None if they are gone."""

    embeddings: Tensor
    names: tuple[str, ...]
    labels: tuple[str, ...]
    digests: tuple[bytes, ...]
    notes: tuple[str, ...]
    data: data_room.Data | None

    def nearest(self, embedding: Tensor, own: bytes, num: int, predictor: Predictor) -> tuple[Neighbour, ...]:
        """Of a picture's embedding [D] and its digest; nearest first, of equally near ones the earlier."""
        distances = 1 - F.normalize(self.embeddings.float()) @ F.normalize(embedding, dim=0)
        order = distances.sort(stable=True).indices[:num].tolist()
        return tuple(
            Neighbour(
                self.names[i],
                self.labels[i],
                max(0.0, float(distances[i])),
                self._image(i, predictor),
                self.digests[i] == own,
            )
            for i in order
        )

    def _image(self, i: int, predictor: Predictor) -> Any:
        """As the network sees it; None where no picture of its name is the one that it was, in whatever split."""
        for listing in () if self.data is None else self.data.splits.values():
            if self.names[i] not in listing.names:
                continue
            try:
                image = upright(listing.sources[listing.names.index(self.names[i])], listing.max_pixels)
            except ImageError:
                continue
            if digest_of(image) == self.digests[i]:
                resized = predictor.card.preprocess.resize(image).permute(1, 2, 0)
                return resized.expand(-1, -1, 3).contiguous().numpy()
        return None


def reference(
    predictor: Predictor, model: Path, data: str | Path | None, reading: Reading, watch: runtime.Watch
) -> tuple[Reference | None, list[str]]:
    """The pictures that the model at `model` was trained on, of `data`, or of its run's; None, and a note with the
    reason, where they are not to be had. What `reading` leaves open is read as the run was. Raises DataError and
    UsageError if `data` is given and cannot be read, and UsageError for columns of no data."""
    if data is not None:
        made = _computed(predictor, _moved(model, data, reading, watch), watch)
        return made, list(made.notes)
    if reading.columns and not model.is_dir():
        words = " ".join(dataclasses.replace(reading, download=False, max_pixels=None).words)
        raise UsageError(f"{words}: {model} is a model file, which does not say where its data is; give --data DATA")
    try:
        if not model.is_dir():
            raise UsageError(f"{model} is a model file, which does not say where its data is")
        return _of_run(predictor, model, reading, watch)
    except (DataError, ModelFileError, UsageError) as error:
        return None, [f"no nearest pictures: {error}; --data DATA gives what it was trained on"]


def _moved(model: Path, data: str | Path, reading: Reading, watch: runtime.Watch) -> data_room.Data:
    """The data of the run at `model` where it lies now, with the columns of then; other data, if it has none such."""
    try:
        own = runs.read_config(model).reading if model.is_dir() else Reading()
    except ModelFileError:
        own = Reading()
    try:
        return data_room.read(data, _as_then(own, reading), watch)
    except UsageError:
        if not own.columns:
            raise
    return data_room.read(data, _as_then(Reading(max_pixels=own.max_pixels), reading), watch)


def _as_then(own: Reading, given: Reading) -> Reading:
    """`own`, but for what was given now; what may be downloaded is never a matter of then."""
    limit = own.max_pixels if given.max_pixels is None else given.max_pixels
    columns: dict[str, Any] = given.columns
    return dataclasses.replace(own, download=given.download, max_pixels=limit, **columns)


def _of_run(predictor: Predictor, folder: Path, reading: Reading, watch: runtime.Watch) -> tuple[Reference, list[str]]:
    config = runs.read_config(folder)
    of = {"model": files.sha256((folder / runs.MODEL).read_bytes()), "data": config.data}
    try:
        listing = data_room.read(config.data, _as_then(config.reading, reading), watch)
    except (DataError, UsageError) as error:
        kept = _read(folder / KEPT, of)
        if kept is None:
            raise
        return kept, [*kept.notes, f"the nearest pictures are not there to be shown: {error}"]
    of["listing"] = _listed(predictor, listing)
    kept = _read(folder / KEPT, of)
    if kept is not None:
        return dataclasses.replace(kept, data=listing), list(kept.notes)
    made = _computed(predictor, listing, watch)
    notes = list(made.notes)
    try:
        if not os.access(folder, os.W_OK):
            raise TrainingStopped(f"{folder} cannot be written to")
        _write(folder / KEPT, made, of)
    except TrainingStopped as error:
        notes.append(f"the features of its training pictures are not kept for the next time: {error}")
    return made, notes


def _listed(predictor: Predictor, listing: data_room.Data) -> str:
    """What changes whenever a picture, a name or a label of `listing` may have; nothing is decoded for it."""
    parts = [
        part
        for split, one in listing.splits.items()
        for part in (split.encode(), data_room.cache.key_of(one, predictor.card.preprocess).encode(), *_of_rows(one))
    ]
    return files.sha256(json.dumps(listing.class_names).encode(), *parts)


def _of_rows(one: data_room.Listing) -> tuple[bytes, bytes]:
    return json.dumps(one.names).encode(), one.labels.tobytes()


def _computed(predictor: Predictor, listing: data_room.Data, watch: runtime.Watch) -> Reference:
    """Those of `listing` that the model says it was trained on; if none, its train part, or all that it has."""
    loaded = data_room.load(listing, predictor.card.preprocess, max_bad=None, watch=watch)
    seen = predictor.extra.get("seen", torch.empty(0, 8, dtype=torch.uint8))
    known = data_room.known_marks(seen)
    rows, found = dict[str, list[int]](), set[bytes]()
    for split in sorted(loaded.parts, key=lambda split: split != "train"):  # train first: elsewhere they are copies
        digests = [one[:8] for one in loaded.parts[split].digests]
        rows[split] = [i for i, one in enumerate(digests) if one in known and one not in found]
        found |= known.intersection(digests)
    notes = [note for note in loaded.notes if note]
    if not found:
        which = ["train"] if "train" in loaded.parts else list(loaded.parts)
        rows = {split: list(range(len(loaded.parts[split]))) for split in which}
        notes.append(f"the nearest pictures are of {listing.place}, of which the model was trained on none")
    elif len(found) < len(known):
        notes.append(f"of {len(known):,} pictures that it was trained on {len(found):,} are in {listing.place}")
    parts = [loaded.parts[split].take(torch.tensor(some, dtype=torch.int64)) for split, some in rows.items() if some]
    if not parts:
        raise DataError(f"{listing.place}: no picture that can be read")
    embeddings, total, side = list[Tensor](), sum(map(len, parts)), predictor.card.preprocess.size
    for part in parts:
        for images in part.images.split(max(1, min(256, _AT_ONCE // side**2))):
            embeddings.append(F.normalize(predictor.embed(images)[1]).half())
            watch.progress("features of the training pictures", sum(map(len, embeddings)), total, "")
    labels = [int(label) for part in parts for label in part.labels]
    return Reference(
        torch.cat(embeddings),
        tuple(name for part in parts for name in part.names),
        tuple(listing.class_names[label] for label in labels),
        tuple(one for part in parts for one in part.digests),
        tuple(notes),
        listing,
    )


def _write(path: Path, made: Reference, of: Mapping[str, str]) -> None:
    from safetensors.torch import save

    tensors = {
        "embeddings": made.embeddings,
        "digests": torch.frombuffer(bytearray(b"".join(made.digests)), dtype=torch.uint8).reshape(
            len(made.digests), -1
        ),
    }
    words = {"names": made.names, "labels": made.labels, "notes": made.notes}
    entry = {"version": _VERSION, **of, **words, "digest": _digest(tensors)}
    files.write_whole(path, save(tensors, metadata={_ENTRY: json.dumps(entry)}))


def _read(path: Path, of: Mapping[str, str]) -> Reference | None:
    """None where nothing is kept, or of another model or other data, or damaged: it is computed anew then."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {})[_ENTRY])
            if {name: entry[name] for name in ("version", *of)} != {"version": _VERSION, **of}:
                return None
            tensors = {name: file.get_tensor(name) for name in ("embeddings", "digests")}
        names, labels, notes = (tuple(entry[name]) for name in ("names", "labels", "notes"))
        whole = entry["digest"] == _digest(tensors) and len(names) == len(labels) == len(tensors["embeddings"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    digests = tuple(bytes(row) for row in tensors["digests"].numpy())
    return Reference(tensors["embeddings"], names, labels, digests, notes, None) if whole else None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return files.sha256(*(value.contiguous().numpy().tobytes() for value in tensors.values()))
