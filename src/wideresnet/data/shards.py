"""Tar shards as WebDataset writes them → `Data`: their headers are read once, and nothing is unpacked.

A sample is the members of one key: KEY.jpg (or another ending of a picture) beside its label, KEY.cls (a number or a
name), KEY.txt (a name) or KEY.json ({"label": …}); others are passed over. A picture becomes a `Span` of its shard, so
that it can be read at random. A shard's split is the word train, val or test in its name, or its folder's.
"""

import json
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wideresnet.data import patterns
from wideresnet.data.listing import Data, Listing, Span, class_order
from wideresnet.errors import DataError
from wideresnet.images import SUFFIXES

_LABELS = ("cls", "json", "txt")  # of several the first counts
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = 512  # a tar is made of these, and closed by empty ones
_LABEL_AT_MOST = 1 << 20  # bytes; more is no label


def are_shards(source: str) -> bool:
    """A .tar (compressed ones too, to be told why not), a pattern of them, or a folder that holds them and no class
    folders: those may lie beside the archive that they came from."""
    endings = (".tar", *_COMPRESSED)
    return patterns.are_files(source, endings) or (source.lower().endswith(endings) and Path(source).is_file())


def read_shards(source: str) -> Data:
    """Lists the pictures of all shards that `source` names; decodes none. Classes are the labels: numbers in their
    order, names by code point. Raises DataError naming the shard and the member."""
    shards = patterns.paths(source, (".tar", *_COMPRESSED))
    for shard in shards:
        if shard.name.lower().endswith(_COMPRESSED):
            raise DataError(
                f"{shard}: compressed, so that no picture in it can be read without all before it; unpack it to a .tar "
                f"first (pictures are compressed already): gunzip, bunzip2, unxz or unzstd {shard.name}"
            )
    splits: dict[str, list[_Sample]] = {}
    skipped = 0
    for shard, split in zip(shards, patterns.splits_of(source, shards), strict=True):
        samples, without_picture = _samples(shard)
        splits.setdefault(split, []).extend(samples)
        skipped += without_picture
    class_names = _classes([sample for samples in splits.values() for sample in samples], source)
    index = {name: label for label, name in enumerate(class_names)}
    listings = {
        split: Listing(
            sources=[sample.picture for sample in samples],
            names=tuple(sample.name for sample in samples),
            labels=np.array([index[sample.label] for sample in samples], dtype=np.int64),
        )
        for split, samples in splits.items()
    }
    notes = (f"passed over: {skipped} samples without a picture",) if skipped else ()
    name, place = patterns.name_and_place(source)
    return Data(name, place, class_names, listings, notes)


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str  # shard/member, for a person
    picture: Span
    label: str


@dataclass(slots=True)
class _Members:
    """What a tar holds under one key."""

    pictures: list[tuple[str, Span]] = field(default_factory=list)  # (member, where)
    labels: dict[str, bytes] = field(default_factory=dict)  # ending → content


def _samples(shard: Path) -> tuple[list[_Sample], int]:
    """The samples of one shard in order, and how many keys had no picture. Raises DataError."""
    keys: dict[str, _Members] = {}
    for name, span, content in _members(shard):
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        members = keys.setdefault(f"{folder}/{stem}", _Members())
        if content is None:
            members.pictures.append((name, span))
        else:
            members.labels[ending.lower()] = content
    samples = []
    for members in keys.values():
        if len(members.pictures) > 1:
            names = " and ".join(name for name, _ in members.pictures)
            raise DataError(f"{shard}: {names}: two pictures under one key; a sample has one")
        for name, span in members.pictures:
            samples.append(_Sample(f"{shard.name}/{name}", span, _label(members.labels, f"{shard}: {name}")))
    return samples, len(keys) - len(samples)


def _members(shard: Path) -> Iterator[tuple[str, Span, bytes | None]]:
    """(member's name, where it lies, its content if it is a label) of each picture and label; other members are passed
    over. Raises DataError if the shard is cut short: every picture must be there whole, and an empty block at the end.
    """
    end = 0
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep millions
                stop = member.offset_data + member.size if member.isfile() else member.offset_data
                if stop > size:
                    raise DataError(
                        f"{shard}: cut short in {member.name}: {stop - size:,} of its {member.size:,} bytes are "
                        "missing, and all that came after. Copy or make the shard again"
                    )
                end = -(-stop // _BLOCK) * _BLOCK
                ending = member.name.rpartition("/")[2].partition(".")[2].lower()
                if not member.isfile() or not ending:
                    continue
                span = Span(shard, member.offset_data, member.size)
                if f".{ending}" in SUFFIXES:
                    yield member.name, span, None
                elif ending in _LABELS:
                    if member.size > _LABEL_AT_MOST:
                        raise DataError(f"{shard}: {member.name} is {member.size:,} bytes; expected a label")
                    file = tar.extractfile(member)
                    yield member.name, span, file.read() if file is not None else b""
    except tarfile.TarError as error:
        where = f"after byte {end:,}" if end else "from its beginning"
        raise DataError(f"{shard}: not a tar, or damaged {where}: {error}. Copy or make the shard again") from error
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror or error}") from error
    with shard.open("rb") as file:
        file.seek(end)
        closing = file.read(_BLOCK)
    if closing != bytes(_BLOCK):
        raise DataError(
            f"{shard}: cut short after byte {end:,}: the empty blocks that close a tar are missing, and maybe samples "
            "before them. Copy or make the shard again"
        )


def _label(labels: Mapping[str, bytes], where: str) -> str:
    """The label's text. Raises DataError if there is none, or none that can be read."""
    ending = next((ending for ending in _LABELS if ending in labels), None)
    if ending is None:
        raise DataError(f"{where}: no label beside it; expected KEY.cls, KEY.txt or KEY.json of the same key")
    try:
        text = labels[ending].decode()
        if ending == "json":
            values = json.loads(text)
            if not isinstance(values, dict) or not isinstance(values.get("label"), str | int):
                raise DataError(f'{where}: its .json has no "label" that is a number or a name')
            text = str(values["label"])
    except ValueError as error:
        raise DataError(f"{where}: its .{ending} is not text as expected: {error}") from error
    text = unicodedata.normalize("NFC", text.strip())
    if not text:
        raise DataError(f"{where}: its .{ending} is empty; expected a number or a name")
    return text


def _classes(samples: Sequence[_Sample], source: str) -> tuple[str, ...]:
    """Numbers in their order, or names by code point. Raises DataError if some are numbers and some names."""
    if not samples:
        raise DataError(f"{source}: no pictures; expected KEY.jpg beside KEY.cls, KEY.txt or KEY.json in each shard")
    first: dict[str, _Sample] = {}
    for sample in samples:
        first.setdefault(sample.label, sample)
    numbers = {label for label in first if re.fullmatch(r"\d+", label)}
    if 0 < len(numbers) < len(first):
        name, number = next(label for label in first if label not in numbers), next(iter(first.keys() & numbers))
        raise DataError(
            f"{source}: the label of {first[number].name} is the number {number}, that of {first[name].name} the name "
            f"{name!r}; expected numbers everywhere, or names"
        )
    return tuple(sorted(numbers, key=lambda label: (int(label), label))) if numbers else class_order(set(first))
