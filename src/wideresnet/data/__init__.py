"""`DATA` string → pictures in memory: read (list what is there), decode (once, by all cores), divide into parts."""

from wideresnet.data.listing import Data, Listing
from wideresnet.data.pictures import (
    BadFile,
    Pictures,
    count_marked,
    decode,
    decode_all,
    fingerprint,
    marks,
    shorter_side,
)
from wideresnet.data.readers import EMBEDDED, read
from wideresnet.data.splits import Splits, divide, twins

__all__ = [
    "EMBEDDED",
    "BadFile",
    "Data",
    "Listing",
    "Pictures",
    "Splits",
    "count_marked",
    "decode",
    "decode_all",
    "divide",
    "fingerprint",
    "marks",
    "read",
    "shorter_side",
    "twins",
]
