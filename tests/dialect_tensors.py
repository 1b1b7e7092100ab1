"""Tensors and images made from names alone, the same on every machine: what tests/dialects/*.json were computed with.

A file there names the keys of another project's network and gives the logits that this project's own code computed,
in float64, once every key had its `tensor` and the input was `image`. So neither their code nor their data lies here.

Bytes of SHAKE-256 are uniform numbers; what is done to them is rounded once, to float16, so that float16, float32 and
float64 hold the same values.
"""

import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_RANGES = {  # last part of the key → from, to
    **dict.fromkeys(("bias", "running_mean", "moving_mean"), (-0.3, 0.3)),
    **dict.fromkeys(("running_var", "moving_variance"), (0.5, 2.0)),
}
_IMAGES = {"mu": (0.3, 0.6), "mean": (0.3, 0.6), "sigma": (0.2, 0.3), "std": (0.2, 0.3)}  # of pixels
_PSSILU = {"alpha": (0.8, 1.2), "beta": (0.05, 0.3)}
_SCALE = (0.5, 1.5)  # of BN, and of what has no other range
_TILT = 0.3  # at most the mean of a weight_orig in units of its std: some spectral norms pass their bound, some do not


def tensor(key: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor under `key`, as a trained network might have it; integers are BN's counters, 1000."""
    if not dtype.is_floating_point:
        return torch.full(tuple(shape), 1000, dtype=dtype)
    last = re.split(r"[./]", key)[-1]
    learnt = last in _PSSILU and "/" not in key
    low, high = _PSSILU[last] if learnt else _range(key, last, shape)
    # PSSiLU is one module under the key of every block, so its values are one.
    values = low + (high - low) * _uniform(last if learnt else key, math.prod(shape))
    if last in _IMAGES:
        values = np.round(values * 64) / 64  # at most six decimals: the import reads seven digits
    return torch.from_numpy(values.astype(np.float16).astype(np.float64)).reshape(tuple(shape)).to(dtype)


def image(channels: int, side: int) -> Tensor:
    """Two images, float32 [2, channels, side, side] in [0, 1)."""
    values = _uniform(f"image {channels} {side}", 2 * channels * side * side)
    return torch.from_numpy(values.astype(np.float32)).reshape(2, channels, side, side)


def _range(key: str, last: str, shape: Sequence[int]) -> tuple[float, float]:
    if named := (_RANGES | _IMAGES).get(last):
        return named
    if last.endswith(("_u", "_v")):  # a singular vector: of length 1, nearly
        scale = 1 / math.sqrt(math.prod(shape) * 13 / 12)  # 13/12 is the mean square over (0.5, 1.5)
        return 0.5 * scale, 1.5 * scale
    if len(shape) in (2, 4):  # std √(2 / fan-in) for convolutions (He et al. 2015), √(1 / fan-in) for the head
        fan_in = math.prod(shape[:-1] if last == "kernel" else shape[1:])
        std = math.sqrt((2 if len(shape) == 4 else 1) / fan_in)
        bound = std * math.sqrt(3)
        mean = _TILT * std * float(_uniform(f"shift {key}", 1)[0]) if last.endswith("_orig") else 0.0
        return mean - bound, mean + bound
    return _RANGES["bias"] if "/" in key and last == "beta" else _SCALE


def _uniform(seed: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`count` numbers in [0, 1), multiples of 2⁻¹⁶."""
    numbers = np.frombuffer(hashlib.shake_256(seed.encode()).digest(2 * count), dtype="<u2")
    return numbers.astype(np.float64) / 65536
