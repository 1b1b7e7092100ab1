"""Listing → what one pass over its pictures, each decoded once in its own size, tells of them: digest, size, colours,
a thumbnail to compare by, how dark, bright and sharp it is; or why it cannot be read."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from wideresnet import runtime
from wideresnet.data import workers
from wideresnet.data.decoding import CHUNK, MANY, by_all_cores, digest_of, upright
from wideresnet.data.listing import Listing, Source, encoded
from wideresnet.errors import ImageError
from wideresnet.images import shape_of

SIDE = 32  # of a thumbnail: what CIFAR's pictures have, and enough to tell two photographs apart
_LOOKED_AT = (
    128  # pixels of the shorter side that quality is judged on: what a network is shown, not what a camera made
)

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Look:
    """One picture. `height` and `width` upright, in pixels; `colours` and `format` as its file has them, in words;
    `turned`: its EXIF says that it is to be. low, high: the 1st and 99th percentile of its grey values, span their
    whole range; sharpness: deviation of its Laplacian over that of its grey values."""

    digest: bytes
    height: int
    width: int
    colours: str
    format: str
    turned: bool
    low: int
    high: int
    span: int
    sharpness: float


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """N pictures in order: `thumbnails` uint8 [N, SIDE, SIDE, 3], RGB, squashed, zero where one cannot be read; the
    look of it is then the reason."""

    each: Sequence[Look | str]
    thumbnails: _Pixels

    def __len__(self) -> int:
        return len(self.each)


def look(listing: Listing, what: str = "looking", watch: runtime.Watch = runtime.QUIET) -> Looks:
    """Every picture of `listing`, by all cores. Memory stays at 3 KB a picture."""
    each, num = list[Look | str](), len(listing)
    thumbnails = np.zeros((num, SIDE, SIDE, 3), np.uint8)
    with workers.workers_watched(), runtime.threads(1):
        for looks, small in by_all_cores(_Chunks(listing), num, CHUNK, by_processes=num >= MANY):
            thumbnails[len(each) : len(each) + len(small)] = small
            each += looks
            watch.progress(what, len(each), num, "")
    return Looks(each, thumbnails)


class _Chunks(Dataset[tuple[list[Look | str], _Pixels]]):
    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def __getitem__(self, rows: range) -> tuple[list[Look | str], _Pixels]:
        thumbnails, looks = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8), list[Look | str]()
        for out, i in zip(thumbnails, rows, strict=True):
            source = self.listing.sources[i]
            try:
                image = upright(source, self.listing.max_pixels)
                header = _ARRAY if isinstance(source, np.ndarray) else _header(source, self.listing.max_pixels)
            except ImageError as error:
                looks.append(str(error))
                continue
            found, out[...] = _look(image, *header)
            looks.append(found)
        return looks, thumbnails


_ARRAY = ("array", "array", False)


def _header(source: Source, max_pixels: int) -> tuple[str, str, bool]:
    """(colours, format, turned) of a picture that was decoded. Raises ImageError if it has gone meanwhile."""
    content = encoded(source)
    try:
        content = content.read_bytes() if isinstance(content, Path) else content
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    turned = shape_of(content, max_pixels)[2] != 1
    with Image.open(io.BytesIO(content)) as file:
        args = file.tile[0].args if file.tile else ""
        samples = args[0] if isinstance(args, tuple) and args else args
        return _colours(file.mode, str(samples), file.has_transparency_data), file.format or "?", turned


def _colours(mode: str, samples: str, transparent: bool) -> str:
    """Pillow's words for how the pixels lie, in words of people."""
    if ";16" in mode or ";16" in samples or ";12" in samples or mode == "I":
        return "16 bits a sample"
    if mode == "P":
        return "palette with transparency" if transparent else "palette"
    if mode == "1":
        return "black and white"
    if transparent:
        return "grey with transparency" if mode in ("L", "LA", "La") else "RGB with transparency"
    return {"L": "grey", "RGB": "RGB", "CMYK": "CMYK"}.get(mode, mode)


def _look(image: _Pixels, colours: str, kind: str, turned: bool) -> tuple[Look, _Pixels]:
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if (times := min(height, width) // _LOOKED_AT) > 1:
        picture = picture.reduce(times)
    gray = picture.convert("L")
    counts = np.cumsum(gray.histogram())
    num = int(counts[-1])
    least, low, high, most = np.searchsorted(counts, [1, max(1, num // 100), num - num // 100, num])
    found = Look(
        digest=digest_of(image),
        height=height,
        width=width,
        colours=colours,
        format=kind,
        turned=turned,
        low=int(low),
        high=int(high),
        span=int(most - least),
        sharpness=_sharpness(np.asarray(gray, dtype=np.float32)),
    )
    return found, thumbnail(picture)


def thumbnail(picture: Image.Image) -> _Pixels:
    """uint8 [SIDE, SIDE, 3]; each pixel the mean of those that it stands for."""
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(picture)


def _sharpness(gray: npt.NDArray[np.float32]) -> float:
    """0 for a picture without an inside."""
    if min(gray.shape) < 3:
        return 0.0
    inner = gray[1:-1, 1:-1]
    laplacian = 4 * inner - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    return float(laplacian.std() / (inner.std() + 1.0))  # + 1: a plane of one colour has none


def reasons(looks: Mapping[str, Looks]) -> list[tuple[str, int, str]]:
    """(split, row, why) of each picture that cannot be read."""
    return [(s, i, one) for s, these in looks.items() for i, one in enumerate(these.each) if isinstance(one, str)]
