"""The check in short, at the start of every training: what the pictures that are decoded already tell, in a line
each."""

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wideresnet.data.check.duplicates import SMALLEST, duplicates
from wideresnet.data.check.findings import IMBALANCE, number
from wideresnet.data.check.looks import SIDE
from wideresnet.data.check.quality import BLANK
from wideresnet.data.listing import ALL, Listing
from wideresnet.data.pictures import Pictures, shorter_side
from wideresnet.data.streams import Mapped

AT_MOST = 60_000  # pictures that are compared: five seconds' work on two cores, where an epoch takes a minute
_MOST_BYTES = 16 * 2**20  # of float pixels at a time, whatever their size


def brief(
    parts: Mapping[str, Pictures], class_names: Sequence[str], place: str, originals: Collection[Listing] = ()
) -> list[str]:
    """Notes to a person; none on data where all is well. Takes seconds: pictures that are decoded anew each time,
    and more than `AT_MOST`, are not looked at, nor are parts of pictures searched for. originals: the listings of the
    parts; where those pictures are small, or were enlarged, they are not compared."""
    notes = _imbalance(parts, class_names)
    there = [pictures for pictures in parts.values() if len(pictures)]
    num = sum(map(len, there))
    at_hand = all(isinstance(p.images, Tensor) or isinstance(p.images.base, Mapped) for p in there)
    if num and num <= AT_MOST and at_hand and not any(p.boxes for p in there):
        side = int(there[0].images.shape[-1])
        own = shorter_side(originals) if originals else side
        compare = own >= max(SMALLEST, side)
        notes += _looked_at({split: p for split, p in parts.items() if len(p)}, class_names, compare=compare)
    return [f"{note}; `wrn data check {shlex.quote(place)}` shows more" for note in notes]


def _imbalance(parts: Mapping[str, Pictures], class_names: Sequence[str]) -> list[str]:
    trained = parts.get("train", parts.get(ALL))
    if trained is None or trained.boxes:
        return []
    known = {name: count for name, count in zip(class_names, trained.counts(len(class_names)), strict=True) if count}
    if len(known) < 2:
        return []
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[most] < IMBALANCE * known[least]:
        return []
    return [f"{most} has {known[most]:,} pictures and {least} has {known[least]:,}: --class-weights or --balanced help"]


def _looked_at(parts: Mapping[str, Pictures], class_names: Sequence[str], *, compare: bool) -> list[str]:
    thumbnails, spans = zip(*map(_small, parts.values()), strict=True)
    places = [(split, row) for split, pictures in parts.items() for row in range(len(pictures))]
    span, names = np.concatenate(spans), [parts[split].names[row] for split, row in places]
    notes = []
    if blank := np.flatnonzero(span <= BLANK).tolist():
        notes.append(f"{number(len(blank), 'picture', 'is')} blank, as {names[blank[0]]}")
    if not compare:
        return notes
    digests = list(chain.from_iterable(pictures.digests for pictures in parts.values()))
    found = duplicates(digests, np.concatenate(thumbnails), span > BLANK, cropped=False)
    labels = [int(label) for pictures in parts.values() for label in pictures.labels.tolist()]
    parted, clashing, inside = list[tuple[int, int]](), list[tuple[int, int]](), list[tuple[int, int]]()
    for _, both in found.of_near():  # a pair counts once, by those of its copies that make the case
        parted += islice(((a, b) for a, b in both if places[a][0] != places[b][0]), 1)
        clashing += islice(((a, b) for a, b in both if labels[a] != labels[b]), 1)
        inside += islice(((a, b) for a, b in both if places[a][0] == places[b][0] == ALL), 1)
    for pairs, what in (
        (parted, "nearly the same in two splits, which flatters the figures"),
        (clashing, "nearly the same and differently labelled"),
        (inside, "nearly the same, which splits that we make may part"),
    ):
        if pairs:
            a, b = (
                f"{names[row]} ({class_names[labels[row]]})" if pairs is clashing else names[row] for row in pairs[0]
            )
            notes.append(f"{number(len(pairs), 'pair', 'is')} {what}, as {a} and {b}")
    return notes


def _small(pictures: Pictures) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Thumbnails uint8 [N, SIDE, SIDE, 3], and from the darkest to the brightest value of each, [N]."""
    num = len(pictures)
    thumbnails, spans = np.empty((num, SIDE, SIDE, 3), np.uint8), np.empty(num, np.int64)
    at_once = _rows_at_once(pictures.images.shape)
    for start in range(0, num, at_once):
        rows = torch.arange(start, min(start + at_once, num))
        images = pictures.images[rows].cpu()  # [B, C, size, size]
        flat = images.flatten(1)
        spans[start : start + len(rows)] = (flat.amax(1).long() - flat.amin(1).long()).numpy()
        small = images.float()
        if images.shape[-1] != SIDE:
            small = F.interpolate(small, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False).round()
        shown = small.to(torch.uint8).expand(-1, 3, -1, -1) if images.shape[1] == 1 else small.to(torch.uint8)
        thumbnails[start : start + len(rows)] = shown.permute(0, 2, 3, 1).numpy()
    return thumbnails, spans


def _rows_at_once(shape: Sequence[int]) -> int:
    """Of pictures [N, C, size, size]."""
    return max(1, _MOST_BYTES // (4 * math.prod(shape[1:])))
