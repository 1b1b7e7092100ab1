"""`DATA` string → pictures on the device: read (list what is there), decode (once, by all cores), split, batches."""

from wideresnet.data.listing import Data, Listing
from wideresnet.data.pictures import BadFile, Pictures, decode, decode_all, fingerprint, shorter_side
from wideresnet.data.readers import EMBEDDED, read
from wideresnet.data.splits import Splits, divide, twins

__all__ = [
    "EMBEDDED",
    "BadFile",
    "Data",
    "Listing",
    "Pictures",
    "Splits",
    "decode",
    "decode_all",
    "divide",
    "fingerprint",
    "read",
    "shorter_side",
    "twins",
]
