"""What stands on a backbone so that it finds boxes: one frozen value, and what follows from the data where it is not
given."""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from wideresnet.errors import UsageError, nearest
from wideresnet.recipes.recipe import RecipeChanges
from wideresnet.recipes.suited import Defaults

Head = Literal["fcos", "retinanet", "faster_rcnn"]
Norm = Literal["batch", "group", "frozen"]

FEW = 8  # pictures in one process's part of a batch, below which BN's statistics are too uncertain to train with


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """head: which of torchvision's detectors. stem_stride: pixels of the picture for one of stage 1's. stages: which of
    them go into the pyramid, whose maps are `out_channels` wide; extra_levels: coarser maps above them. norm: what
    normalises the backbone: BN over the batch; BN as it was trained before, its statistics and weights frozen; or
    GroupNorm, which no batch size matters to (Wu & He 2018). Raises UsageError on a value that cannot be."""

    head: Head = "fcos"
    stem_stride: int = 4
    stages: tuple[int, ...] = (2, 3)
    out_channels: int = 64
    extra_levels: int = 2
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        for name, kinds in (("head", get_args(Head)), ("norm", get_args(Norm))):
            if (value := getattr(self, name)) not in kinds:
                raise UsageError(f"--{name} {value}{nearest(str(value), kinds)}")
        if self.stem_stride not in (1, 2, 4):
            raise UsageError(f"--stem-stride {self.stem_stride}: expected 1, 2 or 4")
        if not self.stages or self.stages != tuple(sorted({*self.stages} & {1, 2, 3})):
            raise UsageError(f"--stages {self.stages}: expected some of 1, 2, 3, in this order")
        if self.head == "fcos" and self.out_channels % 64:
            raise UsageError(f"--out-channels {self.out_channels}: the head of fcos needs a multiple of 64")
        for name, least, most in (("out_channels", 1, 4096), ("extra_levels", 0, 5)):
            if not least <= (value := getattr(self, name)) <= most:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected a whole number from {least} to {most}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture for one of each map's, finest first."""
        own = [self.stem_stride * 2 ** (stage - 1) for stage in self.stages]
        return (*own, *(own[-1] * 2**level for level in range(1, self.extra_levels + 1)))


class DetectorChanges(TypedDict, total=False):
    """What a user may choose of a detector; absent or None leaves the default.

    Parameters
    ----------
    head
        fcos (no anchors), retinanet (anchors) or faster_rcnn (two steps).
    stem_stride
        Pixels of the picture for one of the backbone's first stage: 1, 2 or 4; by default 4 from 256 pixels.
    stages
        Which stages the pyramid takes its maps from, as 2 3.
    out_channels
        Channels of its maps.
    extra_levels
        Coarser maps above them, for larger objects.
    norm
        What normalises the backbone: batch (BN), group (GroupNorm, for small batches) or frozen (BN as --init has it).
    """

    head: Head | None
    stem_stride: int | None
    stages: tuple[int, ...] | None
    out_channels: int | None
    extra_levels: int | None
    norm: Norm | None


class BoxChanges(RecipeChanges, DetectorChanges, total=False):
    """What a user may set of a detector's training."""


def detector_defaults(num_pictures: int, longer_side: int, device: str) -> Defaults:
    """As `defaults`, of a detector: `num_pictures` to train on, median `longer_side` in pixels.

    Pictures keep their size up to 320 pixels on a CPU, 640 elsewhere, in whole 64s, which the coarsest map divides.
    Epochs: what about fifteen minutes on two cores carry, 20,000 pictures (docs/numbers.md), from 12 to 150.
    """
    largest, budget = (320, 20_000) if device == "cpu" else (640, 60_000)
    size = min(largest, max(64, 64 * -(-longer_side // 64)))
    epochs = min(150, max(12, round(budget / max(num_pictures, 1))))
    return Defaults(
        "wrn_16_2" if device == "cpu" else "wrn_28_4", size, epochs, 8 if num_pictures < 4_000 else 16, 5e-4
    )


def make_detector(
    changes: DetectorChanges, *, size: int, batch_size: int, has_init: bool, begun: Detector | None = None
) -> Detector:
    """What the data and the batch say of it, or the detector that it is begun with (`begun`); then what the user says.
    batch_size: one process's part. has_init: whether there is a trained network to begin with."""
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if begun is not None:
        frozen = begun.norm == "batch" and batch_size < FEW
        return replace(begun, **{**({"norm": "frozen"} if frozen else {}), **given})
    stride = 4 if size >= 256 else 2 if size >= 128 else 1
    norm = "batch" if batch_size >= FEW else "frozen" if has_init else "group"
    return Detector(**{"stem_stride": stride, "norm": norm, **given})
