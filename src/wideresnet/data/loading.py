"""Data → pictures to train on, kept in memory, in a file of the cache, or nowhere; the pixels are equal."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wideresnet import processes, runtime
from wideresnet.data import cache as files_of
from wideresnet.data.decoding import Survey, survey
from wideresnet.data.listing import Data, Listing
from wideresnet.data.losses import as_known, facts_of, with_lost
from wideresnet.data.pictures import Pictures, check_bad, decode_all, of_survey, reading
from wideresnet.data.streams import Decoder, Mapped, Stream
from wideresnet.data.workers import NUM_WORKERS
from wideresnet.errors import UsageError, nearest
from wideresnet.preprocess import Preprocess

Cache = Literal["auto", "memory", "disk", "off"]

FEW = 1000  # pictures that are decoded anew in about the time it takes to start; a file for them would be clutter
MEMORY_SHARE = 0.4  # of the free memory: while they are divided into parts, pictures are there twice
DISK_SHARE = 0.5  # of the free disk; it is the user's


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The pictures of each split, what a person should know of those left out, and how they are kept, in words."""

    parts: dict[str, Pictures]
    notes: list[str]
    kept: str


def choose(num: int, num_bytes: int, *, encoded: bool, memory: int, disk: int) -> Literal["memory", "disk", "off"]:
    """Where `num` pictures of `num_bytes` in all are kept if nobody says; `memory` and `disk` are what is free.

    Arrays are in memory already, and stay. Encoded pictures go to disk, from which the next run maps them, if they
    take up to half of what is free there; else, or if they are few, into memory if they take up to 0.4 of that; what
    fits neither is decoded anew in each epoch.
    """
    if not encoded:
        return "memory"
    fits = num_bytes <= MEMORY_SHARE * memory
    if num <= FEW and fits:
        return "memory"
    if num_bytes <= DISK_SHARE * disk:
        return "disk"
    return "memory" if fits else "off"


def load(
    data: Data,
    preprocess: Preprocess,
    *,
    cache: Cache = "auto",
    max_bad: int | None = 0,
    lost: Sequence[Mapping[str, Any]] = (),
    watch: runtime.Watch = runtime.QUIET,
) -> Loaded:
    """Every split of `data`, its pictures kept as `cache` says ("auto": see `choose`). lost: `losses` of a training on
    it that goes on: pictures that may be gone, and count as there; they are not kept, so "off" it is then.

    Where the disk refuses, says so and goes on without the file. Raises DataError with the whole list of unreadable
    pictures if there are more than `max_bad` (None: any number), or if memory is asked for and does not suffice.
    """
    if cache not in get_args(Cache):
        raise UsageError(f"--cache {cache}{nearest(cache, get_args(Cache))}")
    if lost:
        if cache not in ("auto", "off"):
            raise UsageError(f"--cache {cache}: {lost[0]['name']} was lost while it trained; go on with --cache off")
        data, cache = with_lost(data, lost), "off"
    check_bad(data, data.bad, max_bad)  # of rows that point nowhere, before any picture is decoded
    num = sum(map(len, data.splits.values()))
    num_bytes = num * preprocess.channels * preprocess.size**2
    encoded = not all(isinstance(listing.sources, np.ndarray) for listing in data.splits.values())

    def chosen(disk: int) -> Literal["memory", "disk", "off"]:
        return choose(num, num_bytes, encoded=encoded, memory=runtime.free_memory_bytes(), disk=disk)

    few = not encoded or (num <= FEW and chosen(0) == "memory")  # no folder is made for them
    if cache == "memory" or (cache == "auto" and few):
        return _in_memory(data, preprocess, max_bad, watch)
    keys = {split: files_of.key_of(listing, preprocess) for split, listing in data.splits.items()}
    how = cache if cache != "auto" else chosen(_room(keys))
    if how == "disk":
        try:
            return _on_disk(data, keys, preprocess, max_bad, watch)
        except OSError as error:
            how = chosen(0)
            where = "in memory" if how == "memory" else "decoding them anew each time"
            watch.line(f"note: pictures cannot be kept on disk ({error.strerror or error}); going on {where}")
    if how == "memory":
        return _in_memory(data, preprocess, max_bad, watch)
    return _streamed(data, keys, preprocess, max_bad, lost=lost, watch=watch)


def _in_memory(data: Data, preprocess: Preprocess, max_bad: int | None, watch: runtime.Watch) -> Loaded:
    parts, notes = decode_all(data, preprocess, max_bad=max_bad, watch=watch)
    return Loaded(parts, notes, f"in memory ({_size(parts, preprocess)})")


def _room(keys: Mapping[str, str]) -> int:
    """Free bytes of the disk where the cache lies; what it has of these pictures needs none, and is counted so."""
    try:
        there = [files_of.path_of(key, files_of.PIXELS) for key in keys.values()]
        kept = sum(path.stat().st_size for path in there if path.exists())
        return shutil.disk_usage(files_of.folder()).free + round(kept / DISK_SHARE)
    except OSError:
        return 0


def _on_disk(
    data: Data, keys: Mapping[str, str], preprocess: Preprocess, max_bad: int | None, watch: runtime.Watch
) -> Loaded:
    parts, bad, how = {}, list(data.bad), "from the cache"
    for split, listing in data.splits.items():
        path = files_of.path_of(keys[split], files_of.PIXELS)
        found = _read(path, keys[split], listing, preprocess, watch)
        if found is None:
            how = "cached on disk for the next run"

            def make(keep: Callable[[Tensor], None], split: str = split) -> Survey:
                return survey(data.splits[split], preprocess, keep, what=reading(data, split), watch=watch)

            files_of.write(path, keys[split], data.place, preprocess, make)
            found = files_of.read(path, keys[split], listing, preprocess)
        what, pixels = found
        images = Stream(Mapped(pixels, what.sums), torch.arange(len(listing)))
        parts[split], unreadable = of_survey(listing, images, what)
        bad += unreadable
    return Loaded(parts, check_bad(data, bad, max_bad), f"{how} ({_size(parts, preprocess)})")


def _streamed(
    data: Data,
    keys: Mapping[str, str],
    preprocess: Preprocess,
    max_bad: int | None,
    *,
    lost: Sequence[Mapping[str, Any]],
    watch: runtime.Watch,
) -> Loaded:
    """One pass without keeping pixels tells what parts and statistics follow from; it is small, and kept."""
    surveys = {split: _surveyed(data, split, keys[split], preprocess, watch) for split in data.splits}
    surveys = {split: as_known(surveys[split], data.splits[split], split, lost) for split in data.splits}
    sources = [source for listing in data.splits.values() for source in listing.sources]
    names = [name for listing in data.splits.values() for name in listing.names]
    limit = next(iter(data.splits.values())).max_pixels  # of all
    num_bad = len(data.bad) + sum(len(found.bad) for found in surveys.values())
    base = Decoder(
        sources,
        names,
        preprocess,
        torch.cat([found.sums for found in surveys.values()]),
        max_pixels=limit,
        # Of several processes each sees its own part: what they lose together, and where, no one of them knows.
        may_lose=0 if processes.current().size > 1 else None if max_bad is None else max(0, max_bad - num_bad),
        facts=lambda row: facts_of(row, data.splits, surveys),
        say=watch.line,
    )
    base.lost = {one["name"]: dict(one) for one in lost}
    parts, bad, start = {}, list(data.bad), 0
    for split, listing in data.splits.items():
        images = Stream(base, torch.arange(start, start + len(listing)))
        parts[split], unreadable = of_survey(listing, images, surveys[split])
        bad, start = bad + unreadable, start + len(listing)
    kept = f"decoded anew each time by {NUM_WORKERS} processes ({_size(parts, preprocess)})"
    return Loaded(parts, check_bad(data, bad, max_bad), kept)


def _surveyed(data: Data, split: str, key: str, preprocess: Preprocess, watch: runtime.Watch) -> Survey:
    listing = data.splits[split]
    made = list[Survey]()

    def make(keep: Callable[[Tensor], None]) -> Survey:
        made.append(survey(listing, preprocess, keep, what=reading(data, split), watch=watch))
        return made[0]

    try:
        for suffix in (files_of.SURVEY, files_of.PIXELS):
            found = _read(files_of.path_of(key, suffix), key, listing, preprocess, watch)
            if found is not None:
                return found[0]
        files_of.write(files_of.path_of(key, files_of.SURVEY), key, data.place, preprocess, make)
    except OSError as error:
        watch.line(f"note: digests cannot be kept on disk ({error.strerror or error}); the next run makes them anew")
    return made[0] if made else make(lambda _: None)


def _read(
    path: Path, key: str, listing: Listing, preprocess: Preprocess, watch: runtime.Watch
) -> tuple[Survey, npt.NDArray[np.uint8]] | None:
    return files_of.kept(path, lambda: files_of.read(path, key, listing, preprocess), watch)


def _size(parts: Mapping[str, Pictures], preprocess: Preprocess) -> str:
    num_bytes = sum(map(len, parts.values())) * preprocess.channels * preprocess.size**2
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
