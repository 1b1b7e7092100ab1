"""The check in short, at the start of every training: what the pictures that are decoded already tell, in a line
each."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wideresnet.data.check.duplicates import SMALLEST, duplicates
from wideresnet.data.check.findings import IMBALANCE, number
from wideresnet.data.check.looks import SIDE
from wideresnet.data.check.quality import BLANK
from wideresnet.data.listing import ALL
from wideresnet.data.pictures import Pictures
from wideresnet.data.streams import Mapped

AT_MOST = 60_000  # pictures that are compared: five seconds' work on two cores, where an epoch takes a minute
_BATCH = 4096


def brief(parts: Mapping[str, Pictures], class_names: Sequence[str], place: str) -> list[str]:
    """Notes to a person; none on data where all is well. Takes seconds: pictures that are decoded anew each time,
    and more than `AT_MOST`, are not looked at, nor are parts of pictures searched for."""
    notes = _imbalance(parts, class_names)
    there = [pictures for pictures in parts.values() if len(pictures)]
    num = sum(map(len, there))
    at_hand = all(isinstance(p.images, Tensor) or isinstance(p.images.base, Mapped) for p in there)
    if num and num <= AT_MOST and at_hand and not any(p.boxes for p in there):
        notes += _looked_at({split: pictures for split, pictures in parts.items() if len(pictures)}, class_names)
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


def _looked_at(parts: Mapping[str, Pictures], class_names: Sequence[str]) -> list[str]:
    thumbnails, spans = zip(*map(_small, parts.values()), strict=True)
    places = [(split, row) for split, pictures in parts.items() for row in range(len(pictures))]
    span, names = np.concatenate(spans), [parts[split].names[row] for split, row in places]
    notes = []
    if blank := np.flatnonzero(span <= BLANK).tolist():
        notes.append(f"{number(len(blank), 'picture', 'is')} blank, as {names[blank[0]]}")
    side = next(iter(parts.values())).images.shape[-1]
    if side < SMALLEST:
        return notes
    digests = list(chain.from_iterable(pictures.digests for pictures in parts.values()))
    found = duplicates(digests, np.concatenate(thumbnails), span > BLANK, cropped=False)
    labels = [int(label) for pictures in parts.values() for label in pictures.labels.tolist()]
    parted = [pair for pair in found.near if places[pair.first][0] != places[pair.second][0]]
    clashing = [pair for pair in found.near if labels[pair.first] != labels[pair.second]]
    inside = [pair for pair in found.near if places[pair.first][0] == places[pair.second][0] == ALL]
    for pairs, what in (
        (parted, "nearly the same in two splits, which flatters the figures"),
        (clashing, "nearly the same and differently labelled"),
        (inside, "nearly the same, which splits that we make may part"),
    ):
        if pairs:
            a, b = (
                f"{names[row]} ({class_names[labels[row]]})" if pairs is clashing else names[row]
                for row in (pairs[0].first, pairs[0].second)
            )
            notes.append(f"{number(len(pairs), 'pair', 'is')} {what}, as {a} and {b}")
    return notes


def _small(pictures: Pictures) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Thumbnails uint8 [N, SIDE, SIDE, 3], and from the darkest to the brightest value of each, [N]."""
    num = len(pictures)
    thumbnails, spans = np.empty((num, SIDE, SIDE, 3), np.uint8), np.empty(num, np.int64)
    for start in range(0, num, _BATCH):
        rows = torch.arange(start, min(start + _BATCH, num))
        images = pictures.images[rows].cpu()  # [B, C, size, size]
        flat = images.flatten(1)
        spans[start : start + len(rows)] = (flat.amax(1).long() - flat.amin(1).long()).numpy()
        small = images.float()
        if images.shape[-1] != SIDE:
            small = F.interpolate(small, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False).round()
        shown = small.to(torch.uint8).expand(-1, 3, -1, -1) if images.shape[1] == 1 else small.to(torch.uint8)
        thumbnails[start : start + len(rows)] = shown.permute(0, 2, 3, 1).numpy()
    return thumbnails, spans
