"""What computers do to pictures: contrast, bending, large pixels, JPEG. Each takes uint8 [B, H, W, 3], its constants
and a generator for each picture, and returns the same shape."""

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from wideresnet.corruptions.rounding import Bytes, Floats, Generators, to_bytes, uniform


def contrast(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """Distances from each channel's mean, that share of them kept."""
    (share,) = constants
    x = images.astype(np.float64)
    mean = x.mean(axis=(1, 2), keepdims=True)
    return to_bytes((x - mean) * share + mean)


def elastic(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Sheared by three points that move at random, then bent by a smooth random field; in shares of the picture's side.

    strength: what the field is multiplied by; smoothness: sigma of the Gaussian that smooths it; shear: how far each
    point moves at most in either direction.
    """
    strength, smoothness, shear = (constant * images.shape[1] for constant in constants)
    size = images.shape[1]
    moves = uniform((3, 2), generators).astype(np.float64) * (2 * shear) - shear
    at_y, at_x = _sheared(size, moves)
    x = sampled(images.astype(np.float32), at_y, at_x, "reflect")
    if strength == 0:
        return to_bytes(x)
    smooth = _smoothing(size, smoothness)
    field = np.float32(strength) * (smooth @ (uniform((2, size, size), generators) * 2 - 1) @ smooth.T)  # [B, 2, H, W]
    rows = np.arange(size, dtype=np.float32)
    return to_bytes(sampled(x, rows[:, None] + field[:, 0], rows + field[:, 1], "symmetric"))


def _sheared(size: int, moves: Floats) -> tuple[Floats, Floats]:
    """Where each pixel (y, x) comes from, float32 [B, H, W] each, if three points around the middle move by `moves`
    [B, 3, 2], (x, y)."""
    middle, reach = size // 2, max(1, size // 3)
    before = middle + reach * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])  # [3, 2]
    after = np.concatenate([before + moves, np.ones((len(moves), 3, 1))], axis=2)  # [B, 3, 3]
    back = np.linalg.solve(after, np.broadcast_to(before, (len(moves), 3, 2)))  # (x', y', 1) @ back = (x, y)
    at = np.arange(size)
    x = at * back[:, 0, :, None, None] + at[:, None] * back[:, 1, :, None, None] + back[:, 2, :, None, None]
    return x[:, 1].astype(np.float32), x[:, 0].astype(np.float32)


@lru_cache(maxsize=8)
def _smoothing(size: int, sigma: float) -> npt.NDArray[np.float32]:
    """[size, size]: a Gaussian cut off at 3 sigma, the row of pixels mirrored at its ends."""
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(np.eye(size), sigma, axis=0, mode="reflect", truncate=3), np.float32)


def sampled(x: Floats, at_y: Floats, at_x: Floats, beyond: str) -> Floats:
    """float32 [B, H, W, C] at places [B, H, W] each, between pixels linearly.

    beyond: the picture mirrored at its ends, the last pixel once ("reflect") or twice ("symmetric"), as numpy's pad.
    """
    num, height, width, channels = x.shape
    top, left = np.floor(at_y), np.floor(at_x)
    down, right = (at_y - top)[..., None], (at_x - left)[..., None]
    first = (np.arange(num) * (height * width))[:, None, None]
    rows = [_within(top.astype(np.int64) + i, height, beyond) * width + first for i in (0, 1)]
    columns = [_within(left.astype(np.int64) + i, width, beyond) for i in (0, 1)]
    flat = x.reshape(-1, channels)
    above, below = (flat[row + columns[0]] * (1 - right) + flat[row + columns[1]] * right for row in rows)
    return np.asarray(above * (1 - down) + below * down)


def _within(at: npt.NDArray[np.int64], size: int, beyond: str) -> npt.NDArray[np.int64]:
    if beyond == "symmetric":
        at = at % (2 * size)
        return np.minimum(at, 2 * size - 1 - at)
    period = max(1, 2 * (size - 1))
    at = at % period
    return np.minimum(at, period - at) if size > 1 else np.zeros_like(at)


def pixelate(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """Shrunk to that share of its side, by boxes, and enlarged again."""
    size = images.shape[1]
    few, box = max(1, int(size * constants[0])), Image.Resampling.BOX
    whole, small = (size, size), (few, few)
    return np.stack([np.asarray(Image.fromarray(x).resize(small, box).resize(whole, box)) for x in images])


def jpeg(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """Saved as JPEG of that quality, by Pillow, and read again."""
    quality, read = round(constants[0]), []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(content)))
    return np.stack(read)
