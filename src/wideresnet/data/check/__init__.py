"""What is in data, and what is wrong with it: one look at every picture, then findings. Pure but for reading pictures
and for `write_copy`."""

from wideresnet.data.check.brief import brief
from wideresnet.data.check.cleaning import TABLE, LeftOut, check_out, left_out, unrelated, write_copy
from wideresnet.data.check.duplicates import SMALLEST, Duplicates, duplicates, together
from wideresnet.data.check.findings import Finding, Item, counts, find
from wideresnet.data.check.gallery import Gallery, Place, gallery
from wideresnet.data.check.looks import Look, Looks, look
from wideresnet.data.check.suspects import FEWEST, Suspect, out_of_sample, suspects

__all__ = [
    "FEWEST",
    "SMALLEST",
    "TABLE",
    "Duplicates",
    "Finding",
    "Gallery",
    "Item",
    "LeftOut",
    "Look",
    "Looks",
    "Place",
    "Suspect",
    "brief",
    "check_out",
    "counts",
    "duplicates",
    "find",
    "gallery",
    "left_out",
    "look",
    "out_of_sample",
    "suspects",
    "together",
    "unrelated",
    "write_copy",
]
