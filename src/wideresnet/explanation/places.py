"""Where a map's cells lie: on what the network sees, from its strides, kernels and padding; and from there on the
original picture. Which of a network's maps are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wideresnet.errors import UsageError
from wideresnet.model import WideResNetClassifier
from wideresnet.preprocess import Placement, Preprocess

Floats = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True, slots=True)
class Grid:
    """A point u of a map, in cells, the first one's outer corner being 0, lies at u · scale + offset of what the
    network sees, in pixels; the same for rows and columns.

    A 3×3 convolution of stride 2 and padding 1 looks, for its cell i, at pixels 2i−1 to 2i+1: the middle of the cell is
    that of pixel 2i, so scale 2 and offset −0.5. Laid over the picture from edge to edge, as is usual, a map of a Wide
    ResNet's stage 3 (twice so: scale 4, offset −1.5) would lie 1.5 pixels of 32 too far right and down.
    """

    scale: float
    offset: float


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """heat float32 [h, w], finite, ≥ 0: how much each cell speaks for the class; in no unit."""

    heat: Floats
    grid: Grid

    def on_input(self, side: int) -> Floats:
        """[side, side], at the pixels of what the network sees."""
        return self.on_picture(Placement(1, 1, 0, 0), side, side)

    def on_picture(self, placement: Placement, height: int, width: int, shape: tuple[int, int] | None = None) -> Floats:
        """[height, width], at the pixels of the original picture, between cells bilinearly; `shape`: at as many pixels
        laid evenly over it. What the network does not see has the heat of the nearest cell; see `seen`."""
        rows, columns = shape or (height, width)
        down = _weights(rows, height / rows, placement.scale_y, placement.top, (self.grid, self.heat.shape[0]))
        across = _weights(columns, width / columns, placement.scale_x, placement.left, (self.grid, self.heat.shape[1]))
        return np.asarray(down @ self.heat @ across.T)


def _weights(num: int, step: float, scale: float, offset: float, cells: tuple[Grid, int]) -> Floats:
    """[num, cells]: a row's are the weights of the cells around one pixel; they sum to 1."""
    grid, count = cells
    points = (np.arange(num) + 0.5) * step * scale + offset  # on what the network sees
    at = ((points - grid.offset) / grid.scale - 0.5).clip(0, count - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count))), dtype=np.float32)


def seen(preprocess: Preprocess, height: int, width: int) -> Box:
    """The pixels of a picture of height × width whose middle lies in what the network sees of it: all but what a crop
    takes away."""
    placed = preprocess.placement(height, width)
    sides = []
    for side, scale, offset in ((width, placed.scale_x, placed.left), (height, placed.scale_y, placed.top)):
        inside = (np.arange(side) + 0.5) * scale + offset - preprocess.border
        found = np.flatnonzero((inside >= 0) & (inside <= preprocess.size))
        # Of a picture enlarged beyond its crop no pixel's middle may lie inside; the one that holds the centre does.
        sides.append((found[0], found[-1] + 1) if len(found) else (side // 2, side // 2 + 1))
    (left, right), (top, bottom) = sides
    return int(left), int(top), int(right), int(bottom)


@dataclass(frozen=True, slots=True)
class Layer:
    """A module of the network whose output is a map [N, C, side, side], and where its cells lie."""

    name: str
    side: int
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A module as it computed: what went in and came out."""

    name: str
    module: nn.Module
    before: tuple[int, ...]
    after: tuple[int, ...]


def layers(network: nn.Module, channels: int, side: int) -> tuple[Layer, ...]:
    """The maps that are asked for input of side × side: the last one, that the class layer reads, and of ours also the
    finer one that stage 2 gives. Of another network it is the last map that has places of its own.

    Raises UsageError where the last thing with places is no map of square cells, as in transformers.
    """
    steps = _steps(network, channels, side)
    if isinstance(network, WideResNetClassifier):
        names = ["backbone", "backbone.stage2"]
    else:
        last = next((step for step in reversed(steps) if _has_places(step.after) and not _enlarges(step)), None)
        if last is None or len(last.after) != 4 or last.after[2] != last.after[3] or not last.name:
            raise UsageError(
                f"{type(network).__name__}: its last layers have no map of square cells, where Grad-CAM looks; "
                "networks that end in convolutions have (wrn_16_4, torchvision:resnet18), transformers have not"
            )
        names = [last.name]
    found = []
    for name in names:
        at = next(number for number, step in enumerate(steps) if step.name == name)
        found.append(Layer(name, steps[at].after[2], _grid(steps[: at + 1], side)))
    return tuple(found)


def _has_places(shape: tuple[int, ...]) -> bool:
    """Whether a tensor [N, C, …] or [N, tokens, C] has values for more than one place."""
    return min(shape[1:]) > 1 if len(shape) == 3 else len(shape) > 3 and max(shape[2:]) > 1


def _enlarges(step: _Step) -> bool:
    """Whether it only lays a map out larger, as VGG's pool does to 7×7 whatever it is given: such cells are not places
    of their own, and of a map of one cell they are all alike."""
    maps = len(step.before) == len(step.after) == 4 and step.before[:2] == step.after[:2]
    return maps and step.after[2] * step.after[3] > step.before[2] * step.before[3]


@torch.no_grad()
def _steps(network: nn.Module, channels: int, side: int) -> list[_Step]:
    """Every module of `network`, in the order in which they are done, with its shapes for one picture."""
    steps: list[_Step] = []

    def watch(name: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, given: Sequence[object], result: object) -> None:
            if isinstance(result, Tensor) and given and isinstance(given[0], Tensor):
                steps.append(_Step(name, module, tuple(given[0].shape), tuple(result.shape)))

        return module.register_forward_hook(hook)

    handles = [watch(*named) for named in network.named_modules()]
    try:
        parameter = next(network.parameters())
        network(torch.zeros(1, channels, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return steps


def _grid(steps: Sequence[_Step], side: int) -> Grid:
    """Of the last step's map. From the input on, each change of side by what strides there; where several do so beside
    each other (a block and its shortcut), the middle of them. Where a side changes by anything else, a map is taken to
    lie from edge to edge."""
    last = steps[-1].after[2]
    scale, offset, at = 1.0, 0.0, side
    while at != last:
        striding = [step for step in steps if len(step.before) == 4 and step.before[2] == at > step.after[2] > 1]
        moves = [move for step in striding if (move := _move(step)) is not None]
        if not moves:
            return Grid(side / last, 0.0)
        stride, after = moves[0][0], moves[0][2]
        same = [move[1] for move in moves if move[2] == after]
        scale, offset, at = scale * stride, offset + scale * sum(same) / len(same), after
    return Grid(scale, offset)


def _move(step: _Step) -> tuple[int, float, int] | None:
    """Stride, offset and the side after; None for what does not stride by a kernel."""
    kernel, stride, padding = (
        _first(getattr(step.module, name, None)) for name in ("kernel_size", "stride", "padding")
    )
    if len(step.after) != 4 or kernel is None or stride is None:
        return None
    if not padding:  # none, or computed by the module itself as TensorFlow's "SAME", most of it below and right
        padding = max(0, (step.after[2] - 1) * stride + kernel - step.before[2]) // 2
    return stride, kernel / 2 - padding - stride / 2, step.after[2]


def _first(value: object) -> int | None:
    """Of rows, where a module has it for rows and columns."""
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int) else None
