"""Pictures that a training has lost while it went on without them: what its checkpoints keep of each, as JSON, and that
→ the data as it was, so that going on finds the same pictures in the same order."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wideresnet.data.boxes import Boxes
from wideresnet.data.decoding import Survey
from wideresnet.data.listing import Data, Listing
from wideresnet.data.pictures import Pictures
from wideresnet.data.streams import Stream

Lost = Mapping[str, Any]
"""part: of the data; row: there; name; reason; label: its class's number; digest (hexadecimal) and sums: of Survey;
boxes, where it has some."""


def losses(pictures: Pictures) -> list[dict[str, Any]]:
    """Of all pictures that are read from where these are."""
    return pictures.images.losses if isinstance(pictures.images, Stream) else []


def facts_of(row: int, parts: Mapping[str, Listing], surveys: Mapping[str, Survey]) -> dict[str, Any]:
    """Of the picture in `row` of all parts, one after another."""
    for part, listing in parts.items():
        if row < len(listing):
            found = surveys[part]
            label, sums = int(listing.labels[row]), found.sums[row].tolist()
            own = {"boxes": listing.boxes[row].to_dict()} if listing.boxes else {}
            return {"part": part, "row": row, "label": label, "digest": found.digests[row].hex(), "sums": sums, **own}
        row -= len(listing)
    raise IndexError(row)


def with_lost(data: Data, lost: Sequence[Lost]) -> Data:
    """`data` with those that are not listed any more where they were; they cannot be read."""
    parts = dict(data.splits)
    for one in sorted(lost, key=lambda one: int(one["row"])):
        listing, row = parts[one["part"]], int(one["row"])
        if one["name"] in listing.names:
            continue
        parts[one["part"]] = dataclasses.replace(
            listing,
            sources=[*listing.sources[:row], Path(one["name"]), *listing.sources[row:]],
            names=(*listing.names[:row], one["name"], *listing.names[row:]),
            labels=np.insert(listing.labels, row, one["label"]),
            groups=(*listing.groups[:row], "", *listing.groups[row:]) if listing.groups else (),
            boxes=(*listing.boxes[:row], Boxes.from_dict(one["boxes"]), *listing.boxes[row:]) if listing.boxes else (),
        )
    gone = {one["name"] for one in lost}
    return dataclasses.replace(data, splits=parts, bad=tuple(file for file in data.bad if file.name not in gone))


def as_known(found: Survey, listing: Listing, part: str, lost: Sequence[Lost]) -> Survey:
    """`found`, in which those of `lost` are what they were, whatever lies there now: who reads them will see."""
    digests, sums, bad = list(found.digests), found.sums.clone(), dict(found.bad)
    for one in lost:
        row = listing.names.index(one["name"]) if one["part"] == part and one["name"] in listing.names else -1
        if row >= 0:
            digests[row], sums[row] = bytes.fromhex(one["digest"]), torch.tensor(one["sums"])
            bad.pop(row, None)
    return Survey(tuple(digests), sums, bad)
