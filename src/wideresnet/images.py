"""Bytes of a picture → upright RGB uint8 array. The only place that decodes; it never resizes.

What a file is, its content says, never its name. `docs/images.md` has the table of what happens to which kind of file.
Nothing here changes Pillow's global state, so any number of threads may decode at once. (An application that switches
on Pillow's own LOAD_TRUNCATED_IMAGES gets what it asked for: cut pictures, gray below the cut.)
"""

import contextlib
import errno
import io
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

# Imported by name, so that these and no others (EPS would start a program) are there to be chosen from.
from PIL import (  # noqa: F401 - a plugin registers itself in being imported
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from wideresnet import files
from wideresnet.errors import ImageError

Pixels: TypeAlias = npt.NDArray[np.uint8]

_READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_READ |= {".ppm", ".pgm", ".pbm", ".pnm"}
_NAMED = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".ico"}  # pictures too: said to be unreadable, not passed over
SUFFIXES = frozenset(_READ | _NAMED)
"""File endings, in lower case, that a folder scan takes as pictures."""

MAX_PIXELS = 89_478_485  # 1/4 GiB at 3 bytes a pixel, where Pillow too begins to suspect a bomb; 9459 × 9459
"""Pictures of more pixels are refused from their header, before anything is decoded, where nobody says otherwise."""

MOST_PIXELS = 2 * MAX_PIXELS  # the highest limit: beyond it Pillow refuses by itself, for the whole application
_AT_ONCE = 1 << 22  # pixels

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# What Pillow raises on files that are not as they should be: found by damaging files at random and by reading it.
_BROKEN = (
    OSError,  # a truncated file, a codec's error, a disk's
    SyntaxError,  # its plugins' word for a header that is wrong, and for a wrong checksum
    ValueError,  # sizes and chunks that cannot be; text that unpacks to more than 1 MiB
    EOFError,  # no first frame
    IndexError,  # a PNG without pixels
    TypeError,  # a TIFF entry of another type than its meaning has
    AssertionError,  # a promise of the header not kept further on
    OverflowError,  # an offset beyond 2^63, in a BigTIFF
    struct.error,  # EXIF cut short
    MemoryError,  # a header that asks its codec for an absurd buffer; the picture itself is bounded by MAX_PIXELS
    UserWarning,  # only where the application has turned Pillow's warnings into errors
    Image.DecompressionBombWarning,  # likewise
)

# Pillow warns of what is decided here (EXIF that is ignored, large pictures). A filter set once, at the end of the
# list where the application's own go before it; `catch_warnings` around each call would not be thread-safe.
for _category in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\.", append=True)


def decode(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A picture's file, or its bytes, → uint8 [H, W, 3], upright, sRGB, its own array.

    EXIF orientation applied (XMP's where EXIF has none; illegal ones ignored); a valid ICC profile of the pixels' own
    colour space converted to sRGB (others ignored); CMYK, palettes, gray → RGB; samples of 16 bits → round(v / 257);
    transparency laid on white, round((c·a + 255·(255 − a)) / 255); first frame or page. One deviation: 16-bit TIFF
    with premultiplied alpha comes from Pillow without its low bytes, so that it may be off by one.

    Raises ImageError with the reason, without the path.
    """
    with _reasons(), _file(source) as file:
        image = _open(file, max_pixels)
        if image.format == "PNG":
            _check_sums(image, file)
        _scale_gray_key(image)
        return _put_together(_deep(image, file), image)


def from_pil(image: Image.Image) -> Pixels:
    """What `decode` gives for a picture's file, for the picture opened by Pillow: its EXIF and ICC profile count too.

    Only where Pillow has dropped the low bytes of 16-bit colours may it be off by one. Raises ImageError.
    """
    if 0 in image.size:
        raise ImageError(f"has no pixels ({image.width}×{image.height})")
    with _reasons():
        return _put_together(_deep(image, None), image)


def size_of(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of what `decode` gives, from the header alone. Raises ImageError as `decode` does."""
    return shape_of(source, max_pixels)[:2]


def shape_of(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """`size_of`, and the EXIF orientation, 1 to 8, that `decode` turns the stored pixels by. A PNG with text or EXIF
    after its pixels is loaded, as its orientation may be there."""
    with _reasons(), _file(source) as file:
        image = _open(file, max_pixels)
        if image.format == "PNG" and _metadata_follows_pixels(file):
            image.load()
        width, height = image.size
        # Pillow turns a TIFF's size itself, by the TIFF's own tag.
        turned = isinstance(image, TiffImagePlugin.TiffImageFile) and ExifTags.Base.Orientation in image.tag_v2
        orientation = _orientation(image)
        swapped = not turned and TURNS[orientation][0]
    return (width, height, orientation) if swapped else (height, width, orientation)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow makes of a broken file becomes an ImageError that says why."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError(f"has more pixels than the limit of {MOST_PIXELS:,}") from error
    except _BROKEN as error:
        if isinstance(error, MemoryError):  # raised again where the largest picture finds none: no file is to blame
            np.empty(3 * MAX_PIXELS, np.uint8)
        what = " ".join(str(error).split()) or type(error).__name__
        if "MAX_TEXT_CHUNK" in what:
            raise ImageError("holds a text or a profile that unpacks to more than 1 MiB (a bomb?)") from error
        raise ImageError(f"broken or cut short: {what}") from error


@contextlib.contextmanager
def _file(source: bytes | Path) -> Iterator[BinaryIO]:
    """The source as an open file. Looks before it opens: a pipe would block, a device might act."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        mode = source.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("a folder, not a file" if stat.S_ISDIR(mode) else "a pipe, socket or device, not a file")
        file = source.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError(_why_not_opened(source, error)) from error
    with file:
        yield file


def _why_not_opened(path: Path, error: OSError | ValueError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT and path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist"
    reasons = {
        errno.ENOENT: "no such file",
        errno.ENOTDIR: "no such file",
        errno.ELOOP: "a link that leads back to itself",
        errno.EACCES: "may not be read (permission denied)",
    }
    return reasons.get(code or 0) or f"cannot be opened: {getattr(error, 'strerror', None) or error}"


def _open(file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    """The picture in `file` with its header read, of a format and a size that we take."""
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0)
        raise ImageError(files.kind_of(file.read(512))) from error
    width, height = image.size
    # No bitstream of WebP can be so large, but its decoder believes a header that says so.
    if image.format == "WEBP" and max(width, height) > 16383:
        raise ImageError(f"a WebP of {width}×{height} pixels, which no WebP can have; its header is broken")
    if width * height > max_pixels:
        raise ImageError(f"has {width}×{height} pixels, more than the limit of {max_pixels:,} (--max-pixels)")
    return image


# ——— samples → 8-bit colours (an image of mode L, RGB or CMYK) and alpha, uint8 [H, W] or None ———

_Parts = tuple[Image.Image, Pixels | None]


def _rawmode(image: Image.Image) -> str:
    """How the samples lie in the file, in Pillow's words ("RGB;16B"); known until the image is loaded."""
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _low_bytes(rawmode: str) -> str | None:
    """The raw mode that reads the low byte of each 16-bit sample where Pillow's own choice reads the high one."""
    colours, _, order = rawmode.partition(";16")
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # N is libtiff's: the machine's own
    return f"{colours};16{other[order]}" if colours in {"RGB", "RGBA", "RGBX", "CMYK"} and order in other else None


def _with_rawmode(image: ImageFile.ImageFile, rawmode: str) -> Pixels:
    tiles = image.tile
    image.tile = [t._replace(args=(rawmode, *t.args[1:]) if isinstance(t.args, tuple) else rawmode) for t in tiles]
    return np.asarray(image)


def _wide(image: Image.Image, file: BinaryIO | None) -> tuple[npt.NDArray[np.integer], int] | None:
    """Samples [H, W, bands] of a picture of more than 8 bits and the value that is white; None, untouched, for others.

    Pillow clips 16-bit gray in converting it, and reads of 16-bit colours the high byte alone. Read twice, once
    as if it lay in the other byte order, the picture gives both bytes; that needs its `file`.
    """
    rawmode = _rawmode(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if planar and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8:
        raise ImageError("a TIFF of 16-bit planes, which Pillow does not read right; save its samples interleaved")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        white = 4095 if rawmode == "I;12" else 65535
        gray = np.asarray(image)[..., None]
        white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        return (white - gray if white_is_zero else gray), white
    if file is None or not isinstance(image, ImageFile.ImageFile):
        return None
    if rawmode == "LA;16B":
        return np.ascontiguousarray(_with_rawmode(image, "RGBA")).view(">u2"), 65535  # four bytes a pixel, as they lie
    if low := _low_bytes(rawmode):
        high = np.asarray(image).astype(np.uint16)
        return (high << 8) | _with_rawmode(_open(file, sys.maxsize), low), 65535  # not larger than it was before
    return None


def _deep(image: Image.Image, file: BinaryIO | None) -> _Parts | None:
    """The parts of a picture of more than 8 bits a sample, each rounded to 8; None, untouched, for others."""
    wide = _wide(image, file)
    if wide is None:
        return None
    values, white = wide
    table = np.round(np.arange(65536) * (255 / white)).clip(0, 255).astype(np.uint8)  # never a tie: `white` is odd
    samples = table[values]
    key = image.info.get("transparency")
    alpha = None if key is None else np.where((values == np.array(key)).all(-1), 0, 255).astype(np.uint8)
    if samples.shape[2] in (2, 4) and image.mode != "CMYK":
        samples, alpha = samples[..., :-1], samples[..., -1]
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[samples.shape[2]]
    return Image.frombytes(mode, image.size, samples.tobytes()), alpha


def _scale_gray_key(image: ImageFile.ImageFile) -> None:
    """Pillow stretches gray of 2 and 4 bits to 8, but not the value that is transparent; this does."""
    factor = {"L;2": 85, "L;4": 17}.get(_rawmode(image))
    if factor and "transparency" in image.info:
        image.info["transparency"] *= factor


def _shallow(image: Image.Image) -> _Parts:
    """The parts of a picture of at most 8 bits a sample."""
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise ImageError(f"has {kind} samples, and nothing says which value is white; save it with 8 or 16 bits")
    if image.mode == "P" and image.palette is None:
        raise ImageError("a picture of palette colours without its palette")
    if image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data:
        image.load()
        return image, None
    gray = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if gray else "RGB"), None
    image = image.convert("LA") if image.mode == "La" else image
    rgba = image.convert("RGBA")  # by way of RGBA always: it takes each kind of transparency into account
    return rgba.getchannel("R") if gray else rgba.convert("RGB"), np.asarray(rgba.getchannel("A"))


# ——— colours and alpha → upright RGB ———


def _put_together(deep: _Parts | None, image: Image.Image) -> Pixels:
    """Rows by rows: of the largest picture that is read no second copy is made in between (256 MiB each)."""
    image.load()  # only then a TIFF has its size
    width, height = image.size
    step, rgb = max(1, _AT_ONCE // width), np.empty((height, width, 3), np.uint8)
    for top in range(0, height, step):
        box = (0, top, width, min(top + step, height))
        colours, alpha = deep or _shallow(image if step >= height else image.crop(box))
        if deep and step < height:
            colours, alpha = colours.crop(box), None if alpha is None else alpha[top : box[3]]
        band = _to_srgb(colours, image.info.get("icc_profile"))
        if alpha is not None:
            _lay_on_white(band, alpha)
        rgb[top : box[3]] = band
    return _turn(rgb, _orientation(image))


_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}  # mode → a profile's word for its colour space


def _to_srgb(colours: Image.Image, profile: object) -> Pixels:
    """uint8 [H, W, 3], its own. A profile that is broken or of another colour space than the pixels is ignored."""
    if isinstance(profile, bytes) and (transform := _transform(profile, colours.mode)):
        colours = transform.apply(colours)
    return np.array(colours if colours.mode == "RGB" else colours.convert("RGB"))


@lru_cache(maxsize=16)  # pictures of one camera share a profile; applying a transform changes nothing in it
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts `mode` under `profile` to sRGB; None if there is nothing to convert, or no way to."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, srgb, mode, "RGB")
        if mode == "CMYK":
            return transform
        probe = _probe(mode)
        moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):  # what ImageCms raises for a profile it cannot use
        return None
    # There are many ways to write sRGB, each rounding a little differently; it shall leave the pixels untouched.
    return transform if np.abs(moved).max() > 1 else None


def _probe(mode: str) -> Image.Image:
    """An image of every gray, or of a 17 × 17 × 17 grid of colours."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    levels = np.round(np.linspace(0, 255, 17)).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3))


def _lay_on_white(rgb: Pixels, alpha: Pixels) -> None:
    """In place: round((c·a + 255·(255 − a)) / 255), in uint16, which it just fits."""
    opacity = alpha[..., None].astype(np.uint16)
    rgb[...] = (rgb * opacity + 255 * (255 - opacity) + 127) // 255


# EXIF orientation → (swap rows and columns, then reverse the rows, then reverse the columns)
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where EXIF is absent, corrupt or illegal."""
    try:
        # Of the base class: PNG's own loads the pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _turn(rgb: Pixels, orientation: int) -> Pixels:
    swapped, upside_down, mirrored = TURNS[orientation]
    rgb = rgb.transpose(1, 0, 2) if swapped else rgb
    return np.ascontiguousarray(rgb[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _check_sums(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """A PNG's checksums from its first pixels on. Pillow looks at them in `verify` alone, which uses the picture up:
    to open it again takes a third of the time of a small one. Refuses what `verify` does."""
    for kind, length in files.png_chunks(file, image.tile[0].offset - 8):
        if kind == b"IEND":
            return
        if not kind.isalnum():
            raise SyntaxError(f"broken PNG file (chunk {kind!r})")
        if ImageFile.LOAD_TRUNCATED_IMAGES and kind[:1].islower():  # which no pixel needs
            continue
        found, left = zlib.crc32(kind), length
        while left and (block := file.read(min(left, 1 << 20))):  # a forged length asks for no memory
            found, left = zlib.crc32(block, found), left - len(block)
        if len(told := file.read(4)) < 4:
            break
        if found != int.from_bytes(told, "big"):
            raise SyntaxError(f"broken PNG file (bad header checksum in {kind!r})")
    raise OSError("truncated PNG file")


def _metadata_follows_pixels(file: BinaryIO) -> bool:
    """Whether a PNG has text or EXIF after its first pixels, where an open picture has not seen it yet."""
    kinds = [kind for kind, _ in files.png_chunks(file, 8)]
    after = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else []
    return not {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}.isdisjoint(after)
