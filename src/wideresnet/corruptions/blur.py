"""Blur: by the lens, by frosted glass, by a moved and by a zooming camera. Each takes uint8 [B, H, W, 3], its constants
and a generator for each picture, and returns the same shape. Lengths are in pixels."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from wideresnet.corruptions.rounding import Bytes, Floats, Generators, to_bytes

_LEAST = 1e-7  # weights below it change no byte


def defocus(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """A disc of that radius for each point, its edge softened by a Gaussian of 3 × 3 (5 × 5 of a large disc)."""
    radius, softness = constants
    kernel = disc(radius, softness)
    reach, (height, width) = len(kernel) // 2, images.shape[1:3]
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(images, around, mode="reflect").astype(np.float32)
    blurred, part = np.zeros(images.shape, np.float32), np.empty(images.shape, np.float32)
    for y, x in np.argwhere(kernel > _LEAST):
        np.multiply(padded[:, y : y + height, x : x + width], np.float32(kernel[y, x]), out=part)
        blurred += part
    return to_bytes(blurred)


@lru_cache(maxsize=8)
def disc(radius: float, softness: float) -> npt.NDArray[np.float64]:
    """[2R + 1, 2R + 1], summing to 1."""
    reach, soft = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    at = np.arange(-reach, reach + 1)
    hard = (at[:, None] ** 2 + at**2 <= radius**2).astype(np.float64)
    hard /= hard.sum()
    bell = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * softness**2))
    bell /= bell.sum()
    padded = np.pad(hard, soft, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (len(bell), len(bell)))
    kernel = np.einsum("yxij,i,j->yx", windows, bell, bell)
    used = int(np.abs(np.argwhere(kernel > _LEAST) - reach).max())
    return np.asarray(kernel[reach - used : reach + used + 1, reach - used : reach + used + 1])


def glass(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Blurred by a Gaussian, pixels taken from places near by at random, so often, and blurred again."""
    from scipy.ndimage import gaussian_filter  # late: a third of a second that most commands need not wait for

    sigma, farthest, times = constants[0], max(1, round(constants[1])), max(1, round(constants[2]))

    def blurred(x: Bytes) -> Bytes:
        if int(4 * sigma + 0.5) == 0:  # the Gaussian is cut off at 4 sigma: nothing but the pixel itself
            return x
        return to_bytes(gaussian_filter(x.astype(np.float32), (0, sigma, sigma, 0), mode="nearest", truncate=4))

    size = images.shape[1]
    x = blurred(images)
    for _ in range(times):
        steps = np.stack([g.integers(-farthest, farthest, (2, size, size)) for g in generators])  # [B, 2, H, W]
        rows = shuffled(steps, farthest).reshape(len(x), size * size, 1)
        x = np.take_along_axis(x.reshape(len(x), size * size, 3), rows, 1).reshape(x.shape)
    return blurred(x)


def shuffled(steps: npt.NDArray[np.int64], farthest: int) -> npt.NDArray[np.int64]:
    """Down and right [B, 2, H, W] → [B, H, W]: of which pixel of its picture each pixel has the colour afterwards.

    The published code goes from the last pixel to the first, but for the edges, and gives each the colour that the
    pixel so many steps away has by then. (It is written as a swap; but what it swaps are views into one array, and the
    second assignment finds the first one done. So CIFAR-10-C was made.) What depends on order is this alone: whether
    the other pixel was reached before. If so, its colour is where that one's came from, and so on: chains, which are
    followed for all pixels and pictures at once, a dozen times until the longest one ends.
    """
    num, _, height, width = steps.shape
    inside = np.zeros((height, width), bool)
    inside[farthest + 1 : height - farthest + 1, farthest + 1 : width - farthest + 1] = True
    inner, place = inside.reshape(-1), np.arange(height * width)
    taken = np.where(inner, place + (steps[:, 0] * width + steps[:, 1]).reshape(num, -1), place)  # [B, H·W]
    holder, source = np.broadcast_to(place, taken.shape), taken
    while (reached := inner[source] & (source > holder)).any():
        further = np.take_along_axis(taken, source, 1)
        holder, source = np.where(reached, source, holder), np.where(reached, further, source)
    return source.reshape(num, height, width)


def motion(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """By a camera that moved straight on, in a direction within 45 degrees of the horizontal."""
    radius, sigma = constants
    angles = [g.uniform(-45, 45) for g in generators]
    return to_bytes(moved(images.astype(np.float32), radius, sigma, angles))


def moved(x: Floats, radius: float, sigma: float, angles: list[float]) -> Floats:
    """float32 [B, H, W, C], each smeared along its angle (degrees, from right to down) as ImageMagick's MotionBlur
    does: one half of a Gaussian, 2 ⌈radius⌉ + 1 pixels long, each at the nearest whole pixel; edges go on."""
    height, width = x.shape[1:3]
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    weights = weights[weights > _LEAST * weights.sum()] / weights.sum()
    reach = len(weights)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    smeared, part = np.zeros_like(x), np.empty_like(x[0])
    for row, (around, angle) in enumerate(zip(padded, angles, strict=True)):
        for i, weight in enumerate(weights.astype(np.float32)):
            top = reach + math.ceil(i * math.sin(math.radians(angle)) - 0.5)
            left = reach + math.ceil(i * math.cos(math.radians(angle)) - 0.5)
            np.multiply(around[top : top + height, left : left + width], weight, out=part)
            smeared[row] += part
    return smeared


def zoom(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """The mean of the picture and of itself ever nearer, from 1 by `step` to `farthest`."""
    farthest, step = constants
    num, height, width, channels = images.shape
    columns = images.transpose(1, 2, 0, 3).reshape(height * width, num * channels).astype(np.float32)
    blurred = _zooming(height, farthest, step) @ columns
    return to_bytes(blurred.reshape(height, width, num, channels).transpose(2, 0, 1, 3))


@lru_cache(maxsize=2)  # severities come one after another, and of large pictures one takes 100 MB
def _zooming(size: int, farthest: float, step: float) -> Any:
    """Sparse [H·W, H·W]: every pixel of the result as a sum of pixels. All zooms at once: a sixth of the time."""
    from scipy import sparse

    factors = np.arange(1, farthest, step)
    total = sparse.identity(size * size, format="csr")
    for factor in factors:
        nearer = sparse.csr_matrix(zoomed(size, float(factor)))
        total = total + sparse.kron(nearer, nearer, format="csr")
    return (total / (len(factors) + 1)).astype(np.float32)


@lru_cache(maxsize=8)
def zoomed(size: int, factor: float) -> npt.NDArray[np.float64]:
    """[size, size]: the middle of a row of pixels enlarged by `factor`, linearly, first and last pixel kept in place
    (as scipy's zoom has it), its middle `size` taken."""
    kept = math.ceil(size / factor)
    made = round(kept * factor)
    at = np.arange(made) * ((kept - 1) / max(made - 1, 1))
    low = np.minimum(at.astype(np.int64), kept - 1)
    enlarged, top = np.zeros((made, size)), (size - kept) // 2
    np.add.at(enlarged, (np.arange(made), top + low), 1 - (at - low))
    np.add.at(enlarged, (np.arange(made), top + np.minimum(low + 1, kept - 1)), at - low)
    trim = (made - size) // 2
    return enlarged[trim : trim + size]
