"""The table of readers: what a `DATA` string may be, tried in order. A new kind of data is a new row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wideresnet.data.arrays import read_digits, read_npz
from wideresnet.data.folders import read_folder
from wideresnet.data.listing import Data
from wideresnet.errors import DataError, nearest
from wideresnet.images import SUFFIXES

EMBEDDED: dict[str, Callable[[], Data]] = {"digits": read_digits}
"""Name → the data that the installation itself carries."""


@dataclass(frozen=True, slots=True)
class Reader:
    what: str  # as an error and the documentation say it
    recognises: Callable[[str], bool]
    read: Callable[[str], Data]


READERS: tuple[Reader, ...] = (
    Reader(f"an embedded name ({', '.join(EMBEDDED)})", EMBEDDED.__contains__, lambda source: EMBEDDED[source]()),
    Reader("a folder of class folders", lambda source: Path(source).is_dir(), lambda source: read_folder(Path(source))),
    Reader(
        "an .npz file of arrays",
        lambda source: source.lower().endswith(".npz") and Path(source).exists(),
        lambda source: read_npz(Path(source)),
    ),
)


def read(source: str | Path) -> Data:
    """Lists what `source` names; decodes nothing. Raises DataError, saying what it could have been."""
    source = str(source)
    if not source:
        raise DataError("the name of the data is empty; expected a folder, a file or a name")
    if source.encode(errors="ignore").decode() != source:
        raise DataError(f"{source!r}: a name that is not UTF-8 cannot be written into a run; rename it")
    for reader in READERS:
        if reader.recognises(source):
            return reader.read(source)
    path = Path(source)
    if not path.exists() and not path.is_symlink():
        looks_like_name = path.name == source and not path.suffix
        hint = nearest(source, EMBEDDED) if looks_like_name else "; check the spelling"
        raise DataError(f"{source}: no such file or folder, and no embedded data of that name{hint}")
    kinds = ", ".join(reader.what for reader in READERS)
    single = " This is one picture: `wrn predict MODEL FILE` takes it." if path.suffix.lower() in SUFFIXES else ""
    raise DataError(f"{source}: not data that can be read; expected {kinds}.{single}")
