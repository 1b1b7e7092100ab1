"""Noise: of each value by itself, drawn anew for every picture. Each takes uint8 [B, H, W, 3], its constants and a
generator for each picture, and returns the same shape."""

import numpy as np

from wideresnet.corruptions.rounding import Bytes, Generators, normal, to_bytes, uniform


def gaussian(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Of that deviation, in shares of the whole range."""
    (deviation,) = constants
    noise = normal(images.shape[1:], generators)
    noise *= np.float32(255 * deviation)
    noise += images
    return to_bytes(noise)


def shot(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """As a sensor counts light: Poisson, white being that many photons."""
    (photons,) = constants
    expected = np.arange(256) * (photons / 255)
    counts = [g.poisson(expected[image]) for g, image in zip(generators, images, strict=True)]
    return to_bytes(np.stack(counts) * (255 / photons))


def impulse(images: Bytes, constants: tuple[float, ...], generators: Generators) -> Bytes:
    """Salt and pepper: that share of the values is all or nothing, half of them each."""
    (share,) = constants
    drawn = uniform(images.shape[1:], generators)
    return np.where(drawn < share, np.where(drawn < share / 2, np.uint8(0), np.uint8(255)), images)
