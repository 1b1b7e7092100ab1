"""Values in 0 … 255 → bytes, as the published data sets have them; and the random numbers of each picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[Any]  # float32 or float64
Generators = Sequence[np.random.Generator]  # one a picture, so that neither batch nor order changes what is drawn


def to_bytes(x: Floats) -> Bytes:
    """Cut to 0 … 255 and truncated, not rounded: so were CIFAR-10-C and ImageNet-C made.

    What is within a thousandth below a whole number is that number: a grey picture of 200 that is blurred has sums
    like 199.99999, and would otherwise darken.
    """
    return np.asarray((np.clip(x, 0, 255) + 1e-3).astype(np.uint8))


def normal(shape: tuple[int, ...], generators: Generators) -> Floats:
    """float32 [B, *shape], standard normal."""
    drawn = np.empty((len(generators), *shape), np.float32)
    for row, generator in zip(drawn, generators, strict=True):
        generator.standard_normal(out=row, dtype=np.float32)
    return drawn


def uniform(shape: tuple[int, ...], generators: Generators) -> Floats:
    """float32 [B, *shape], in [0, 1)."""
    drawn = np.empty((len(generators), *shape), np.float32)
    for row, generator in zip(drawn, generators, strict=True):
        generator.random(out=row, dtype=np.float32)
    return drawn
