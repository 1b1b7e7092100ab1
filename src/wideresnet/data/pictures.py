"""Listing → one uint8 tensor, decoded once by all cores; what could not be read, by name; the digest of the data."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideresnet import files, runtime
from wideresnet.data.listing import Data, Listing
from wideresnet.errors import DataError, ImageError
from wideresnet.images import decode as decode_image
from wideresnet.images import size_of
from wideresnet.preprocess import Preprocess


@dataclass(frozen=True, slots=True)
class BadFile:
    """A picture that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Decoded pictures: images uint8 [N, C, size, size], labels int64 [N], names and digests of N."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    digests: tuple[bytes, ...]  # of the upright RGB pixels before resizing: equal for any two files of one picture

    def __len__(self) -> int:
        return len(self.names)

    def counts(self, num_classes: int) -> list[int]:
        """How many pictures each class has."""
        return torch.bincount(self.labels, minlength=num_classes).tolist()

    def shown(self, i: int) -> npt.NDArray[np.uint8]:
        """Picture i as a person sees it: uint8 [size, size, 3], one channel shown three times."""
        image = self.images[i].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))

    def take(self, index: Tensor) -> "Pictures":
        rows = index.tolist()
        names, digests = tuple(self.names[i] for i in rows), tuple(self.digests[i] for i in rows)
        return Pictures(self.images[index], self.labels[index], names, digests)


def decode(
    listing: Listing, preprocess: Preprocess, *, what: str = "reading", watch: runtime.Watch = runtime.QUIET
) -> tuple[Pictures, list[BadFile]]:
    """Every picture of `listing` resized as `preprocess` has it, in order, and those that could not be read.

    Raises DataError if they do not fit into memory.
    """
    num = len(listing)
    needed, there = num * preprocess.channels * preprocess.size**2, runtime.memory_bytes()
    if needed > 0.8 * there:
        raise DataError(
            f"{num:,} pictures of {preprocess.size}×{preprocess.size} take {needed / 1e9:,.1f} GB, "
            f"and this machine has {there / 1e9:,.1f} GB; choose a smaller --size"
        )
    images = torch.empty(num, preprocess.channels, preprocess.size, preprocess.size, dtype=torch.uint8)
    digests: list[bytes] = [b""] * num
    bad: dict[int, str] = {}

    def work(rows: range) -> int:
        for i in rows:
            source = listing.sources[i]
            try:
                image = decode_image(source) if isinstance(source, Path) else np.ascontiguousarray(source)
            except ImageError as error:
                bad[i] = str(error)
                continue
            digests[i] = _digest(image)
            images[i] = preprocess.resize(image)
        return len(rows)

    # Threads, not processes: Pillow and torch let go of the interpreter's lock while they work on pixels.
    chunks = [range(start, min(start + 32, num)) for start in range(0, num, 32)]
    pool, done = runtime.thread_pool(), 0
    try:
        for count in pool.map(work, chunks):
            done += count
            watch.progress(what, done, num, "")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    labels = torch.from_numpy(listing.labels)
    pictures = Pictures(images, labels, listing.names, tuple(digests))
    if bad:
        pictures = pictures.take(torch.tensor([i for i in range(num) if i not in bad], dtype=torch.int64))
    return pictures, [BadFile(listing.names[i], bad[i]) for i in sorted(bad)]


def decode_all(
    data: Data, preprocess: Preprocess, *, max_bad: int | None = 0, watch: runtime.Watch = runtime.QUIET
) -> tuple[dict[str, Pictures], list[str]]:
    """Every split of `data`, and a note to a person if pictures were left out.

    Raises DataError with the whole list of unreadable pictures if there are more than `max_bad` (None: any number).
    """
    parts, bad = {}, list[BadFile]()
    for split, listing in data.splits.items():
        what = "reading pictures" if len(data.splits) == 1 else f"reading {split} pictures"
        parts[split], unreadable = decode(listing, preprocess, what=what, watch=watch)
        bad += unreadable
    lines = "\n".join(f"  {file.name}: {file.reason}" for file in bad)
    if max_bad is not None and len(bad) > max_bad:
        raise DataError(
            f"{data.place}: {len(bad)} of {sum(map(len, data.splits.values()))} pictures cannot be read:\n{lines}\n"
            f"Mend or remove them, or go on without them: --max-bad {len(bad)} (or --max-bad all)"
        )
    return parts, [f"left out, unreadable: {len(bad)}\n{lines}"] if bad else []


def shorter_side(listings: Iterable[Listing], at_most: int = 500) -> int:
    """Median of the shorter sides in pixels, from headers alone; of `at_most` pictures spread evenly over each split.

    Unreadable ones do not count; 0 if none can be read.
    """
    sides: list[int] = []
    for listing in listings:
        if isinstance(listing.sources, np.ndarray):
            sides += [min(listing.sources.shape[1:3])] * len(listing)
            continue
        for path in listing.sources[:: max(1, len(listing) // at_most)]:
            try:
                sides.append(min(size_of(path)))
            except ImageError:
                continue
    return int(np.median(sides)) if sides else 0


def marks(pictures: Pictures) -> Tensor:
    """uint8 [N, 8], sorted: what tells later whether a picture was among these, and nothing else of it."""
    found = sorted({digest[:8] for digest in pictures.digests})
    return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).reshape(-1, 8)


def count_marked(pictures: Pictures, marked: Tensor) -> int:
    """How many of `pictures` were among those that `marks` was given."""
    known = {bytes(row) for row in marked.numpy()}
    return sum(digest[:8] in known for digest in pictures.digests)


def fingerprint(class_names: Sequence[str], parts: Mapping[str, Pictures]) -> str:
    """SHA-256 over class names, names of parts, and each picture's digest and label, in order: what this data is,
    wherever it lies."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for split, pictures in parts.items():
        digest.update(split.encode())
        digest.update(files.sha256(*pictures.digests, pictures.labels.numpy().tobytes()).encode())
    return digest.hexdigest()


def _digest(image: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
