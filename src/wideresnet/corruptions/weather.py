"""Weather and light: snow, fog, a brighter day. Each takes uint8 [B, H, W, 3], its constants and a generator for each
picture, and returns the same shape.

Frost is not here: its definition lays photographs of frost over the picture, which are not ours to give.
"""

import numpy as np

from wideresnet.corruptions.blur import moved, zoomed
from wideresnet.corruptions.rounding import Bytes, Floats, Generators, normal, to_bytes, uniform

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601


def snow(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Flakes: the brightest of a zoomed noise, blown by the wind, once upright and once turned round; all whitened."""
    mean, deviation, factor, least, radius, sigma, kept = constants
    size = images.shape[1]
    layer = normal((size, size), generators) * np.float32(deviation) + np.float32(mean)
    if factor != 1:
        nearer = zoomed(size, factor).astype(np.float32)
        layer = nearer @ layer @ nearer.T
    flakes = to_bytes(255 * np.where(layer < least, 0, layer)).astype(np.float32)
    angles = [g.uniform(-135, -45) for g in generators]
    flakes = to_bytes(moved(flakes[..., None], radius, sigma, angles)).astype(np.float32)  # [B, H, W, 1]
    x = images.astype(np.float32)
    white = np.maximum(x, (x @ _GREY)[..., None] * 1.5 + 127.5)
    return to_bytes(kept * x + (1 - kept) * white + flakes + flakes[:, ::-1, ::-1])


def fog(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Clouds of that density laid over the picture, which keeps its brightest value."""
    density, decay = constants
    size = images.shape[1]
    clouds = plasma(max(2, 1 << (size - 1).bit_length()), decay, generators)[:, :size, :size, None]
    x = images.astype(np.float32) / 255
    most = x.max(axis=(1, 2, 3), keepdims=True)
    return to_bytes(255 * (x + np.float32(density) * clouds) * (most / (most + np.float32(density))))


def plasma(size: int, decay: float, generators: Generators) -> Floats:
    """float32 [B, size, size] in 0 … 1: a cloud that tiles, by the diamond-square algorithm; size a power of two.

    Each point is the mean of four neighbours and a random part, which shrinks by `decay` from level to level.
    """
    drawn = uniform((size * size - 1,), generators) * 2 - 1
    cloud, step, wildness, used = np.zeros((len(drawn), size, size), np.float32), size, 100.0**2, 0
    while step >= 2:
        half, side = step // 2, size // step
        share = drawn[:, used : used + 3 * side * side].reshape(-1, 3, side, side) * np.float32(wildness)
        corners = cloud[:, ::step, ::step]
        rows = corners + np.roll(corners, -1, 1)
        middles = (rows + np.roll(rows, -1, 2)) / 4 + share[:, 0]
        cloud[:, half::step, half::step] = middles
        across, down = corners + np.roll(corners, -1, 2), corners + np.roll(corners, -1, 1)
        cloud[:, ::step, half::step] = (middles + np.roll(middles, 1, 1) + across) / 4 + share[:, 1]
        cloud[:, half::step, ::step] = (middles + np.roll(middles, 1, 2) + down) / 4 + share[:, 2]
        used += 3 * side * side
        # The published code scales the random part twice by a number that shrinks by `decay`.
        step, wildness = half, wildness / decay**2
    cloud -= cloud.min(axis=(1, 2), keepdims=True)
    return np.asarray(cloud / cloud.max(axis=(1, 2), keepdims=True))


def brightness(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:  # noqa: ARG001 - nothing is drawn
    """Its value in HSV raised by that share of the range: hue and saturation stay, so all three grow by one factor."""
    (share,) = constants
    x = images.astype(np.float32)
    value = x.max(axis=3, keepdims=True)
    brighter = np.minimum(value + np.float32(255 * share), 255)
    return to_bytes(np.where(value > 0, x * (brighter / np.maximum(value, 1)), brighter))
