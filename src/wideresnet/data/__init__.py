"""`DATA` string → pictures: read (list what is there), load (decode by all cores; keep them in memory, on disk or
nowhere), divide into parts."""

from wideresnet.data import cache, check
from wideresnet.data.boxes import Boxes
from wideresnet.data.downloads import DOWNLOADS
from wideresnet.data.listing import BadFile, Data, Listing
from wideresnet.data.loading import Cache, Loaded, choose, load
from wideresnet.data.losses import losses
from wideresnet.data.pictures import (
    Pictures,
    count_marked,
    decode,
    decode_all,
    fingerprint,
    in_batches,
    known_marks,
    marks,
    shorter_side,
)
from wideresnet.data.readers import EMBEDDED, most_pixels, read
from wideresnet.data.splits import Splits, divide, fold_rows, hold_out, keep_labels, twins, without_test
from wideresnet.data.streams import Stream
from wideresnet.data.workers import workers_watched

__all__ = [
    "DOWNLOADS",
    "EMBEDDED",
    "BadFile",
    "Boxes",
    "Cache",
    "Data",
    "Listing",
    "Loaded",
    "Pictures",
    "Splits",
    "Stream",
    "cache",
    "check",
    "choose",
    "count_marked",
    "decode",
    "decode_all",
    "divide",
    "fingerprint",
    "fold_rows",
    "hold_out",
    "in_batches",
    "keep_labels",
    "known_marks",
    "load",
    "losses",
    "marks",
    "most_pixels",
    "read",
    "shorter_side",
    "twins",
    "without_test",
    "workers_watched",
]
