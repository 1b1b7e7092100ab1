"""Listing → its pictures in order, a chunk at a time, decoded and resized by all cores; and what is known of each
without its pixels: its digest, the sums that mean and deviation follow from, or why it cannot be read."""

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wideresnet import runtime
from wideresnet.data import workers
from wideresnet.data.listing import Listing, Source, encoded
from wideresnet.errors import ImageError
from wideresnet.images import decode as decode_image
from wideresnet.preprocess import Preprocess

DIGEST_BYTES = 16
_CHUNK, _CHUNK_BYTES = 32, 1 << 21  # pictures decoded by one core at once, at most, and so many bytes of them
# From so many files on, processes decode: threads wait for the interpreter's lock between one small picture and the
# next, so that two of them are slower than one (docs/decisions.md). Fewer are decoded in the time that processes begin.
_MANY = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What is known of N pictures without their pixels.

    digests: of the upright RGB pixels before resizing, equal for any two files of one picture; empty for one that
    cannot be read. sums: int64 [N, C, 2], of the resized pixels and of their squares. bad: row → the reason.
    """

    digests: tuple[bytes, ...]
    sums: Tensor
    bad: Mapping[int, str]

    @property
    def good(self) -> Tensor:
        """Rows of the pictures that can be read, int64."""
        return torch.tensor([i for i in range(len(self.digests)) if i not in self.bad], dtype=torch.int64)


def survey(
    listing: Listing,
    preprocess: Preprocess,
    keep: Callable[[Tensor], None],
    *,
    what: str = "reading",
    watch: runtime.Watch = runtime.QUIET,
) -> Survey:
    """Decodes every picture once. `keep` is given the pixels in order, uint8 [n, C, size, size], zero where a picture
    cannot be read; what it does not keep is gone, so that memory stays flat. What it raises ends the work."""
    digests: list[bytes] = []
    sums: list[Tensor] = []
    bad: dict[int, str] = {}
    with (
        workers.workers_watched(),
        runtime.threads(1),
    ):  # the cores are busy: more threads here would be waited for
        for images, per_picture, found in _chunks(listing, preprocess):
            for one in found:
                if isinstance(one, str):
                    bad[len(digests)] = one
                digests.append(b"" if isinstance(one, str) else one)
            sums.append(torch.from_numpy(per_picture))
            keep(torch.from_numpy(images))
            watch.progress(what, len(digests), len(listing), "")
    empty = torch.empty(0, preprocess.channels, 2, dtype=torch.int64)
    return Survey(tuple(digests), torch.cat([empty, *sums]), bad)


def upright(source: Source | npt.NDArray[np.uint8], max_pixels: int) -> npt.NDArray[np.uint8]:
    """One picture of a listing, uint8 [H, W, 3], before it is resized. Raises ImageError."""
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source)
    return decode_image(encoded(source), max_pixels)


def sums_of(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] → int64 [N, C, 2]: the sum of each channel's values, and of their squares."""
    num, channels = images.shape[:2]
    planes = images.flatten(0, 1).flatten(1)  # [N·C, H·W]
    sums = torch.empty(num * channels, 2, dtype=torch.int64)
    at_once = max(1, (1 << 20) // max(1, planes.shape[1]))
    exact = torch.int32 if planes.shape[1] * 255**2 < 2**31 else torch.int64  # a third of the time, where it holds them
    for part, out in zip(planes.split(at_once), sums.split(at_once), strict=True):
        values = part.to(torch.int32)
        out[:, 0] = values.sum(1, dtype=exact)
        out[:, 1] = values.mul_(values).sum(1, dtype=exact)
    return sums.reshape(num, channels, 2)


# Pixels uint8 [n, C, size, size], sums int64 [n, C, 2], and of each picture its digest or why it has none.
_Chunk = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[bytes | str]]


class _Chunks(Dataset[_Chunk]):
    def __init__(self, listing: Listing, preprocess: Preprocess) -> None:
        self.listing, self.preprocess = listing, preprocess

    def __getitem__(self, rows: range) -> _Chunk:
        p = self.preprocess
        images = torch.zeros(len(rows), p.channels, p.size, p.size, dtype=torch.uint8)
        found: list[bytes | str] = []
        for out, i in zip(images, rows, strict=True):
            try:
                image = upright(self.listing.sources[i], self.listing.max_pixels)
            except ImageError as error:
                found.append(str(error))
                continue
            found.append(digest(image))
            out.copy_(p.resize(image))
        return images.numpy(), sums_of(images).numpy(), found


def _chunks(listing: Listing, preprocess: Preprocess) -> Iterator[_Chunk]:
    """In order, a few pictures at a time; many files by processes, else by threads, with equal results."""
    chunks, num, iterator = _Chunks(listing, preprocess), len(listing), None
    size = max(1, min(_CHUNK, _CHUNK_BYTES // (preprocess.channels * preprocess.size**2)))
    order = [range(start, min(start + size, num)) for start in range(0, num, size)]
    if num >= _MANY and not isinstance(listing.sources, np.ndarray) and workers.can_begin():
        with contextlib.suppress(OSError):  # no process, file or semaphore to be had
            iterator = workers.begun(workers.loader(chunks, order, workers.NUM_WORKERS, persistent=False))
    if iterator is None:
        yield from _by_threads(chunks, order)
        return
    try:
        yield from iterator
    finally:
        workers.end(iterator)


def _by_threads(chunks: _Chunks, order: Sequence[range]) -> Iterator[_Chunk]:
    """Pillow and torch let go of the interpreter's lock while they work on pixels. A few chunks ahead and no more:
    where a slow disk keeps them, the others would wait in memory."""
    pool, ahead = runtime.thread_pool(), deque[Future[_Chunk]]()
    try:
        for rows in order:
            ahead.append(pool.submit(chunks.__getitem__, rows))
            if len(ahead) > 3 * runtime.num_cores():
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def digest(image: npt.NDArray[np.uint8]) -> bytes:
    """Of the upright picture [H, W, 3], before it is resized: what `Pictures.digests` holds."""
    found = hashlib.blake2b(str(image.shape).encode(), digest_size=DIGEST_BYTES)
    found.update(np.ascontiguousarray(image).data)
    return found.digest()
