"""A picture and boxes → the same with the boxes drawn on it; and what lies in one box, with what is around it."""

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array = npt.NDArray[np.uint8]

_GOLDEN = 0.618034  # of the colour circle: neighbours in class order are far apart


def colour(label: int) -> tuple[int, int, int]:
    """Of a class, the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * _GOLDEN) % 1, 0.85, 0.95 if label % 2 else 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(
    image: Array,
    boxes: npt.NDArray[np.float64],
    labels: Sequence[int],
    texts: Sequence[str],
    *,
    longer_side: int | None = None,
    dashed: Sequence[bool] = (),
) -> Array:
    """uint8 [H, W, 3], resized so that its longer side is `longer_side` if that is given; boxes float64 [M, 4] in
    pixels of `image`, each with a text ("" for none); dashed: those that are no clear answer, as crowds."""
    height, width = image.shape[:2]
    share = 1.0 if longer_side is None else longer_side / max(height, width)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if share != 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 250))
    font = _font(max(10, round(max(picture.size) / 55)))
    # The largest first: a small one is never hidden under it.
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable") if len(boxes) else ()
    for row in order:
        left, top, right, bottom = (boxes[row] * share).tolist()
        right, bottom = max(left, right - 1), max(top, bottom - 1)  # the last pixel that it holds
        if dashed and dashed[row]:
            _dashes(pen, (left, top, right, bottom), colour(labels[row]), line)
        else:
            pen.rectangle((left, top, right, bottom), outline=colour(labels[row]), width=line)
    for row in order:
        if texts[row]:
            left, top, _, _ = (boxes[row] * share).tolist()
            _text(pen, (left, top), texts[row], colour(labels[row]), font)
    return np.asarray(picture)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans, which has Turkish, Greek and Cyrillic too; Pillow's own has none of these."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _dashes(
    pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: tuple[int, int, int], line: int
) -> None:
    left, top, right, bottom = box
    step = 4 * line + 2
    for start in np.arange(left, right, 2 * step):
        for y in (top, bottom):
            pen.line((start, y, min(start + step, right), y), fill=colour, width=line)
    for start in np.arange(top, bottom, 2 * step):
        for x in (left, right):
            pen.line((x, start, x, min(start + step, bottom)), fill=colour, width=line)


def _text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Above the box, or within where there is no room; never beyond the picture."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)[:40]
    left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(at[0], pen.im.size[0] - width))
    y = at[1] - height if at[1] >= height else at[1]
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    ink = (0, 0, 0) if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 else (255, 255, 255)
    pen.text((x + 2 - left, y + 2 - top), shown, fill=ink, font=font)


def crop(
    image: Array, box: npt.NDArray[np.float64], *, around: float = 0.5, side: int = 176
) -> tuple[Array, npt.NDArray[np.float64]]:
    """What lies in `box`, and `around` times its longer side about it, enlarged or made smaller to `side` pixels; and
    where the box lies there, [1, 4]."""
    height, width = image.shape[:2]
    middle, half = (box[:2] + box[2:]) / 2, (0.5 + around) * max(box[2:] - box[:2])
    half = max(float(half), 4.0)
    left, top = (max(0, int(value)) for value in middle - half)
    right, bottom = min(width, int(middle[0] + half) + 1), min(height, int(middle[1] + half) + 1)
    share = side / max(right - left, bottom - top)
    size = max(1, round((right - left) * share)), max(1, round((bottom - top) * share))
    cut = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right])).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(cut), ((box - np.array([left, top, left, top])) * share)[None]
