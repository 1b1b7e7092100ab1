"""Listing → decoded pictures with their labels; what could not be read, by name; the digest of the data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideresnet import files, runtime
from wideresnet.data.boxes import Boxes
from wideresnet.data.decoding import Survey, survey
from wideresnet.data.listing import BadFile, Data, Listing, encoded
from wideresnet.data.streams import Readable, Stream, chained
from wideresnet.errors import DataError, ImageError
from wideresnet.images import size_of
from wideresnet.preprocess import Preprocess, channel_statistics, statistics_of_sums


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """images uint8 [N, C, size, size], in memory or read when indexed; labels int64 [N]; names and digests of N, groups
    and boxes of N or of none (as in `Listing`)."""

    images: Tensor | Stream
    labels: Tensor
    names: tuple[str, ...]
    digests: tuple[bytes, ...]  # of the upright RGB pixels before resizing: equal for any two files of one picture
    groups: tuple[str, ...] = ()
    boxes: tuple[Boxes, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def counts(self, num_classes: int) -> list[int]:
        """How many pictures each class has; with boxes, how many of these, without crowds."""
        labels = self.labels
        if self.boxes:
            labels = torch.from_numpy(np.concatenate([one.labels[~one.crowd] for one in self.boxes]))
        return torch.bincount(labels, minlength=num_classes).tolist()

    def shown(self, i: int) -> npt.NDArray[np.uint8]:
        """Picture i as a person sees it: uint8 [size, size, 3], one channel shown three times."""
        image = self.images[i].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))

    def take(self, index: Tensor) -> "Pictures":
        """Those of rows `index`. Copies pixels that are in memory; of others it reads none."""
        rows = index.tolist()
        names, digests = tuple(self.names[i] for i in rows), tuple(self.digests[i] for i in rows)
        groups = tuple(self.groups[i] for i in rows) if self.groups else ()
        boxes = tuple(self.boxes[i] for i in rows) if self.boxes else ()
        images = self.images.take(index) if isinstance(self.images, Stream) else self.images[index]
        return Pictures(images, self.labels[index], names, digests, groups, boxes)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel, as `channel_statistics` has them, without reading any picture twice."""
        if not isinstance(self.images, Stream):
            return channel_statistics(self.images)
        sums = self.images.base.sums[self.images.rows].sum(0)  # [C, 2]
        return statistics_of_sums(sums.tolist(), len(self) * self.images.shape[2] * self.images.shape[3])


def joined(parts: Sequence[Pictures]) -> Pictures:
    """All pictures of `parts`, which are kept alike, one part after another. Copies pixels that are in memory alone."""
    tensors = [part.images for part in parts if isinstance(part.images, Tensor)]
    streams = [part.images for part in parts if isinstance(part.images, Stream)]
    grouped = any(part.groups for part in parts)
    return Pictures(
        torch.cat(tensors) if tensors else chained(streams),
        torch.cat([part.labels for part in parts]),
        tuple(chain.from_iterable(part.names for part in parts)),
        tuple(chain.from_iterable(part.digests for part in parts)),
        tuple(chain.from_iterable(part.groups or ("",) * len(part) for part in parts)) if grouped else (),
        tuple(chain.from_iterable(part.boxes for part in parts)),
    )


def in_batches(images: Tensor | Stream, index: Sequence[Tensor]) -> Iterator[Readable]:
    """A batch uint8 [B, C, size, size] for each of `index`, in order, on the device where the pictures are; and which
    of its pictures can still be read, None for all."""
    if isinstance(images, Stream):
        return images.readable(index)
    return ((images[rows.to(images.device)], None) for rows in index)


def decode(
    listing: Listing, preprocess: Preprocess, *, what: str = "reading", watch: runtime.Watch = runtime.QUIET
) -> tuple[Pictures, list[BadFile]]:
    """Every picture of `listing` resized as `preprocess` has it, in order, and those that could not be read.

    Raises DataError if they do not fit into memory.
    """
    num = len(listing)
    needed = num * preprocess.channels * preprocess.size**2
    there = min(0.8 * runtime.memory_bytes(), runtime.free_memory_bytes())
    if needed > there:
        raise DataError(
            f"{num:,} pictures of {preprocess.size}×{preprocess.size} take {needed / 1e9:,.1f} GB, and there are "
            f"{there / 1e9:,.1f} GB of memory for them; choose --cache disk or off, or in training a smaller --size"
        )
    images = torch.empty(num, preprocess.channels, preprocess.size, preprocess.size, dtype=torch.uint8)
    filled = 0

    def keep(chunk: Tensor) -> None:
        nonlocal filled
        images[filled : filled + len(chunk)] = chunk
        filled += len(chunk)

    return of_survey(listing, images, survey(listing, preprocess, keep, what=what, watch=watch))


def of_survey(listing: Listing, images: Tensor | Stream, found: Survey) -> tuple[Pictures, list[BadFile]]:
    """The pictures of `listing` that could be read, and the others by name. images [N, …]: of all rows."""
    pictures = Pictures(
        images, torch.from_numpy(listing.labels), listing.names, found.digests, listing.groups, listing.boxes
    )
    if found.bad:
        pictures = pictures.take(found.good)
    return pictures, [BadFile(listing.names[i], found.bad[i]) for i in sorted(found.bad)]


def decode_all(
    data: Data, preprocess: Preprocess, *, max_bad: int | None = 0, watch: runtime.Watch = runtime.QUIET
) -> tuple[dict[str, Pictures], list[str]]:
    """Every split of `data`, and a note to a person if pictures were left out.

    Raises DataError with the whole list of unreadable pictures if there are more than `max_bad` (None: any number).
    """
    parts, bad = {}, list(data.bad)
    check_bad(data, bad, max_bad)
    for split, listing in data.splits.items():
        parts[split], unreadable = decode(listing, preprocess, what=reading(data, split), watch=watch)
        bad += unreadable
    return parts, check_bad(data, bad, max_bad)


def reading(data: Data, split: str) -> str:
    """What a person who waits is told."""
    return "reading pictures" if len(data.splits) == 1 else f"reading {split} pictures"


def check_bad(data: Data, bad: Sequence[BadFile], max_bad: int | None) -> list[str]:
    """A note to a person if pictures were left out. Raises DataError with all of them if they are too many."""
    lines = "\n".join(f"  {file.name}: {file.reason}" for file in bad)
    if max_bad is not None and len(bad) > max_bad:
        num = sum(map(len, data.splits.values())) + len(data.bad)
        raise DataError(
            f"{data.place}: {len(bad)} of {num} pictures cannot be read:\n{lines}\n"
            f"Mend or remove them, or go on without them: --max-bad {len(bad)} (or --max-bad all)"
        )
    return [f"left out, unreadable: {len(bad)}\n{lines}"] if bad else []


def shorter_side(listings: Iterable[Listing], at_most: int = 500) -> int:
    """Median of the shorter sides in pixels, from headers alone; of `at_most` pictures spread evenly over each split.

    Unreadable ones do not count; 0 if none can be read.
    """
    sides: list[int] = []
    for listing in listings:
        if isinstance(listing.sources, np.ndarray):
            sides += [min(listing.sources.shape[1:3])] * len(listing)
            continue
        for source in listing.sources[:: max(1, len(listing) // at_most)]:
            try:
                sides.append(min(size_of(encoded(source), listing.max_pixels)))
            except ImageError:
                continue
    return int(np.median(sides)) if sides else 0


def marks(pictures: Pictures) -> Tensor:
    """uint8 [N, 8], sorted: what tells later whether a picture was among these, and nothing else of it."""
    found = sorted({digest[:8] for digest in pictures.digests})
    return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).reshape(-1, 8)


def known_marks(marked: Tensor) -> frozenset[bytes]:
    """What `marks` has given: the first 8 bytes of each digest."""
    return frozenset(bytes(row) for row in marked.numpy())


def count_marked(pictures: Pictures, marked: Tensor) -> int:
    """How many of `pictures` were among those that `marks` was given."""
    known = known_marks(marked)
    return sum(digest[:8] in known for digest in pictures.digests)


def fingerprint(class_names: Sequence[str], parts: Mapping[str, Pictures]) -> str:
    """SHA-256 over class names, names of parts, and each picture's digest, label, group and boxes, in order: what this
    data is, wherever it lies."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, pictures in parts.items():
        digest.update(split.encode())
        digest.update(files.sha256(*pictures.digests, pictures.labels.numpy().tobytes()).encode())
        if pictures.groups:  # splits that are made follow from them too
            digest.update(json.dumps(pictures.groups).encode())
        if pictures.boxes:
            digest.update(files.sha256(*(one.content for one in pictures.boxes)).encode())
    return digest.hexdigest()
