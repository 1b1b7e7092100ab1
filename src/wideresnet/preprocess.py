"""Upright RGB uint8 of any size → what the network sees. One frozen value, made at training, kept in the model file.

Nothing else prepares an image for the network: training, evaluation, prediction and exports all hold a `Preprocess`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Fit = Literal["crop", "squash", "pad"]

MOST = 1 << 14  # pixels a side; a picture so resized takes 0.8 GB
_LUMA = (19595, 38470, 7471)  # 0.299, 0.587, 0.114 of ITU-R 601-2 in 1/65536; they sum to 1. Pillow's "L" has the same
_STRIP = 16  # of a picture longer than this many times its shorter side, the middle so long is all that a crop sees
_AT_ONCE = 1 << 20  # values; all channels of up to 590 × 590 pixels
_CHUNK_BYTES = 1 << 26  # counted at once by `channel_statistics`


_Sides = tuple[int, int]  # of rows, of columns


@dataclass(frozen=True, slots=True)
class Placement:
    """A point (y, x) of a picture lies at (y · scale_y + top, x · scale_x + left) of what the network sees, in pixels,
    the first one's outer corner being 0."""

    scale_y: float
    scale_x: float
    top: float
    left: float

    def of_boxes(self, boxes: Tensor) -> Tensor:
        """Of the picture's boxes [M, 4] (left, top, right, bottom): where they lie in what the network sees."""
        scales, offsets = self._sides(boxes)
        return boxes * scales + offsets

    def boxes_of(self, boxes: Tensor) -> Tensor:
        """The reverse."""
        scales, offsets = self._sides(boxes)
        return (boxes - offsets) / scales

    def _sides(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and offsets, of left, top, right, bottom; never in whole numbers, as the boxes may be."""
        dtype = boxes.dtype if boxes.is_floating_point() else torch.get_default_dtype()
        scales, offsets = [self.scale_x, self.scale_y] * 2, [self.left, self.top] * 2
        return torch.tensor(scales, dtype=dtype, device=boxes.device), torch.tensor(
            offsets, dtype=dtype, device=boxes.device
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a picture becomes input: resized to size × size, /255, (x − mean) / std.

    size in pixels, ≥ 1; mean and std in [0, 1] units, one entry a channel, 3 or 1 (ITU-R 601 luma); std > 0.
    fit: "crop" scales the shorter side to `size` and takes the centre, "squash" scales both sides to `size`, "pad"
    scales the longer side to `size` and fills the rest with the mean colour.
    Two that only published networks need: `border` black pixels are laid around the resized picture; `per_image` then
    standardises each image, all channels together, to mean 0 and std 1. Raises ValueError naming what cannot be.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "crop"
    per_image: bool = False
    border: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= MOST:
            raise ValueError(f"size={self.size!r}: expected a whole number of pixels, from 1 to {MOST:,}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) not in (1, 3):
                raise ValueError(f"{name}={values!r}: expected a tuple of 1 or 3 numbers, one a channel")
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise ValueError(f"{name}={values!r}: expected finite numbers")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std {len(self.std)}; expected as many")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std!r}: expected numbers above 0, as they divide")
        if not isinstance(self.border, int) or isinstance(self.border, bool) or not 0 <= self.border <= MOST:
            raise ValueError(f"border={self.border!r}: expected a whole number of pixels, from 0 to {MOST:,}")
        if not isinstance(self.per_image, bool):
            raise ValueError(f"per_image={self.per_image!r}: expected true or false")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit={self.fit!r}: expected one of {', '.join(get_args(Fit))}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def mean_colour(self) -> Tensor:
        """uint8 [channels]: what fills where there is nothing to be seen."""
        return torch.tensor([min(max(round(mean * 255), 0), 255) for mean in self.mean], dtype=torch.uint8)

    def resize(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [H, W, 3], RGB → uint8 [channels, size, size]; an image of that size comes back bit for bit.

        Bilinear with antialiasing in float32, rounded (half to even). The longer side becomes ⌊size·long/short⌋, as
        in torchvision, never less than `size` (crop) or 1 (pad). To crop a strip longer than 16 times its shorter
        side, its middle 16 are cut out first (1 × 5000 would else grow to 64 × 320000): the same to a pixel of shift.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3] with H and W ≥ 1")
        height, width = image.shape[:2]
        (cut_y, cut_x), scaled, (top, left) = self._geometry(height, width)
        x = _planes(image, self.channels)  # [channels, H, W]
        x = _scale(x[:, cut_y : height - cut_y, cut_x : width - cut_x], *scaled)
        if self.fit == "pad":
            canvas = self.mean_colour[:, None, None].repeat(1, self.size, self.size)
            canvas[:, top : top + scaled[0], left : left + scaled[1]] = x
            return canvas
        return x[:, -top : self.size - top, -left : self.size - left].contiguous()

    def placement(self, height: int, width: int) -> "Placement":
        """Where an upright picture of height × width lies in what `resize` and `normalise` make of it."""
        cuts, scaled, offsets = self._geometry(height, width)
        scale_y, scale_x = (
            after / (side - 2 * cut) for after, side, cut in zip(scaled, (height, width), cuts, strict=True)
        )
        top, left = (at - cut * scale for at, cut, scale in zip(offsets, cuts, (scale_y, scale_x), strict=True))
        return Placement(scale_y, scale_x, top + self.border, left + self.border)

    def _geometry(self, height: int, width: int) -> tuple[_Sides, _Sides, _Sides]:
        """Of rows and columns each: how many are cut off at either end; how many are made of the others; and at which
        of the square's these begin, below 0 where they reach beyond it."""
        if self.fit == "squash":
            return (0, 0), (self.size, self.size), (0, 0)
        if self.fit == "pad":
            longer = max(height, width)
            y, x = (max(1, self.size * side // longer) for side in (height, width))
            return (0, 0), (y, x), ((self.size - y) // 2, (self.size - x) // 2)
        shorter = min(height, width)
        cut_y, cut_x = (max(0, side - _STRIP * shorter) // 2 for side in (height, width))
        y, x = (self.size * side // shorter for side in (height - 2 * cut_y, width - 2 * cut_x))
        # Half to even, as torchvision's centre.
        return (cut_y, cut_x), (y, x), (-round((y - self.size) / 2), -round((x - self.size) / 2))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, channels, size, size] → float32, `border` wider on each side: (images / 255 − mean) / std.

        Images in float32 are in [0, 1] already, and are not divided.
        """
        if images.dim() != 4 or images.shape[1] != self.channels or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; expected torch.uint8 [N, {self.channels}, H, W]"
            )
        x = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
        if self.border:
            x = F.pad(x, (self.border,) * 4)
        mean, std = self._statistics(images.device)
        x = (x - mean) / std
        if self.per_image:  # no less than 1/√n, as TensorFlow's per_image_standardization has it; torch's own std
            deviation = x.std(dim=(1, 2, 3), keepdim=True).clamp(min=x[0].numel() ** -0.5)
            x = (x - x.mean(dim=(1, 2, 3), keepdim=True)) / deviation
        return x

    def shown(self, x: Tensor) -> Tensor:
        """What `normalise` was given: float32 [N, channels, H, W] → uint8, rounded and cut to bytes; for people. Of
        images standardised each by its own mean and std, which are gone, those of mean 0.5 and std 0.25."""
        if self.per_image:
            x = x / 4 + 0.5
        mean, std = self._statistics(x.device)
        return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def _statistics(self, device: torch.device) -> tuple[Tensor, ...]:
        """Mean and std, float32 [channels, 1, 1]."""
        each = (self.mean, self.std)
        return tuple(torch.tensor(values, dtype=torch.float32, device=device)[:, None, None] for values in each)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` gives back an equal value."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Raises ValueError naming every key that is missing or unknown, and every value that cannot be."""
        names = {field.name for field in fields(cls)}
        old = names - {"per_image", "border"}  # what version 0.2 wrote
        if not isinstance(values, Mapping):
            raise ValueError(f"preprocess is {type(values).__name__}; expected fields with names")
        for what, keys in (("lacks", old - values.keys()), ("has the unknown", values.keys() - names)):
            if keys:
                raise ValueError(f"preprocess {what} {', '.join(sorted(map(str, keys)))}")
        tuples = {name: tuple(values[name]) for name in ("mean", "std") if isinstance(values[name], list)}
        return cls(**{**values, **tuples})


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of the population) of each channel over all pixels, in [0, 1] units.

    images uint8 [N, C, H, W]. Exact: pixels are counted by value and the rest is whole numbers, so neither order,
    threads nor device matter. The deviation is never below 1/255, so that a constant channel does not divide by zero.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.numel() == 0:
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; expected torch.uint8 [N, C, H, W], at least one"
        )
    sums = []
    for channel in images.unbind(1):  # [N, H, W]
        counts = torch.zeros(256, dtype=torch.int64, device=images.device)
        step = max(1, _CHUNK_BYTES // channel[0].numel())
        for start in range(0, len(channel), step):
            counts += torch.bincount(channel[start : start + step].flatten(), minlength=256)
        total = sum(value * count for value, count in enumerate(counts.tolist()))
        squares = sum(value * value * count for value, count in enumerate(counts.tolist()))
        sums.append((total, squares))
    return statistics_of_sums(sums, images[:, 0].numel())


def statistics_of_sums(sums: Sequence[Sequence[int]], num_pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same from each channel's (sum of values, sum of their squares) over `num_pixels` pixels, whole numbers."""
    means = tuple(total / (num_pixels * 255) for total, _ in sums)
    variances = (num_pixels * squares - total * total for total, squares in sums)
    return means, tuple(max(math.sqrt(variance) / (num_pixels * 255), 1 / 255) for variance in variances)


def _planes(image: npt.NDArray[np.uint8], channels: int) -> Tensor:
    """uint8 [H, W, 3] → uint8 [channels, H, W]; of three channels a view of the image, which nobody writes to."""
    x = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)  # what torch takes as it is
    if channels == 3:
        return x
    red, green, blue = x.to(torch.int32)
    luma: Tensor = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 32768
    return (luma >> 16).to(torch.uint8)[None]


def _scale(x: Tensor, height: int, width: int) -> Tensor:
    """uint8 [C, H, W] → uint8 [C, height, width], its own memory.

    Of a large photograph a channel at a time: in float32 it is large.
    """
    if x.shape[1:] == (height, width):
        return torch.from_numpy(np.array(x.numpy(), order="C"))  # faster than torch's own copy
    if width == 1 and height > 1:
        # torch 2.14 is wrong here on the CPU (every row repeats the first), and right for the transposed picture.
        return _scale(x.transpose(1, 2), width, height).transpose(1, 2)
    scaled = torch.empty(x.shape[0], height, width, dtype=torch.uint8)
    values = x.shape[0] * max(x[0].numel(), height * width)
    at_once = x.shape[0] if values <= _AT_ONCE else 1  # the same bits; small ones together are half as fast again
    for planes, out in zip(x.split(at_once), scaled.split(at_once), strict=True):
        floats = planes[None].to(torch.float32)
        floats = F.interpolate(floats, (height, width), mode="bilinear", antialias=True, align_corners=False)
        out.copy_(floats[0].round_().clamp_(0, 255))
    return scaled
