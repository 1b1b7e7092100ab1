"""Thumbnails → pairs of pictures that show the same thing: recompressed, resized, mirrored, a little cropped.
Candidates by a descriptor of 96 numbers, from blocks of matrix products; each is then laid over the other, pixel on
pixel."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wideresnet import runtime
from wideresnet.data.check.looks import SIDE

# Measured on flowers and CIFAR-10 (docs/numbers.md, "Data check").
CANDIDATE = 0.85  # cosine of two descriptors from which a pair is looked at
WINDOW_CANDIDATE = 0.88  # the same of a window of one and the other
LIKE = 0.93  # correlation of the pixels, once laid over each other
DETAIL = 0.60  # the same of what is finer than 5 pixels of the thumbnail
_MOST = 16  # candidates of a picture in a block: where all pictures are alike, the likest
_BLOCK = 4096
_AT_ONCE = 2048  # pairs laid over each other at once
_STEPS = (6, 5)  # on 16×16 pixels, then on all
_WINDOW = 0.92  # of a side
_WINDOWS = ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))  # the centre, and the corners
_FARTHEST = 0.3  # of half a side: how far a border of one may lie within the other


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Rows first < second of one picture and of another like it, whose mirror image it may be; likeness: correlation of
    their pixels, at most 1."""

    first: int
    second: int
    mirrored: bool
    likeness: float


def near_pairs(
    thumbnails: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    *,
    cropped: bool = True,
    watch: runtime.Watch = runtime.QUIET,
) -> list[Pair]:
    """Pairs among `rows` of thumbnails uint8 [N, SIDE, SIDE, 3], in order; of a pair and its mirror image the likelier.
    cropped: also look for pictures that are a part of another; else only those so little cropped that it hardly shows
    are found, in a sixth of the time. That grows with the square of the number of rows."""
    if len(rows) < 2:
        return []
    parts = [torch.from_numpy(thumbnails[part]) for part in _parts(rows)]
    descriptors = torch.cat([_described(_float(part)) for part in parts])
    windows = [torch.cat([_described(_window(_float(part), *at)) for part in parts]) for at in _WINDOWS * cropped]
    found: dict[tuple[int, int], Pair] = {}
    for left, right, mirrored in _candidates(descriptors, windows, watch):
        one, other = rows[left.numpy()], rows[right.numpy()]
        for a, b, likeness in _verified(thumbnails, one, other, mirrored):
            pair = Pair(min(a, b), max(a, b), mirrored, likeness)
            if (before := found.get((pair.first, pair.second))) is None or before.likeness < likeness:
                found[pair.first, pair.second] = pair
    return sorted(found.values())


def _parts(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


def _gray(images: Tensor) -> Tensor:
    """float32 [N, 3, H, W] → [N, 1, H, W], as ITU-R 601 weighs colours."""
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _float(thumbnails: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] → float32 [N, 3, H, W]."""
    return thumbnails.permute(0, 3, 1, 2).float()


def _described(images: Tensor) -> Tensor:
    """float32 [N, 3, SIDE, SIDE] → [N, 96], of length 1: grey at 8×8, how blue and how red at 4×4, each without its
    mean."""
    gray = _gray(images)
    colours = torch.cat([images[:, 2:] - gray, images[:, :1] - gray], 1)  # [N, 2, SIDE, SIDE]
    parts = [F.avg_pool2d(gray, SIDE // 8), F.avg_pool2d(colours, SIDE // 4)]
    centred = [(part - part.mean((2, 3), keepdim=True)).flatten(1) for part in parts]
    # 4×4 stands for four times as many pixels as 8×8: doubled, each counts by its pixels.
    return F.normalize(torch.cat([centred[0], 2 * centred[1]], 1))


def _window(images: Tensor, across: int, along: int) -> Tensor:
    """A part of each, to be compared with whole pictures; at a corner or the centre, as -1, 0 and 1 say."""
    shift = 1 - _WINDOW
    moved = torch.tensor([_WINDOW - 1, _WINDOW - 1, across * shift, along * shift]).expand(len(images), 4)
    return F.grid_sample(images, _grid(moved, images.shape[-1]), padding_mode="border", align_corners=False)


def _mirrored(descriptors: Tensor) -> Tensor:
    """Of the mirror images."""
    gray, colours = descriptors[:, :64].view(-1, 8, 8), descriptors[:, 64:].view(-1, 2, 4, 4)
    return torch.cat([gray.flip(2).flatten(1), colours.flip(3).flatten(1)], 1)


def _candidates(
    descriptors: Tensor, windows: list[Tensor], watch: runtime.Watch
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Places (left, right) int64 [P] of pairs that may be alike, and whether in the mirror. Two whole pictures are
    alike or not whichever comes first; a window of one may be like the other."""
    num = len(descriptors)
    for start in range(0, num, _BLOCK):
        block = descriptors[start : start + _BLOCK]
        for mirrored, those in ((False, block), (True, _mirrored(block))):
            yield *_alike(those, descriptors[start:], start, start, CANDIDATE), mirrored
        for window in windows:
            yield *_alike(window[start : start + _BLOCK], descriptors, start, 0, WINDOW_CANDIDATE), False
        watch.progress("comparing pictures", start + len(block), num, "")


def _alike(block: Tensor, others: Tensor, start: int, first: int, least: float) -> tuple[Tensor, Tensor]:
    """Places of pairs whose cosine is at least `least`: of `block`, which begins at place `start`, and of `others`,
    which begin at `first`; where both begin at one place, each pair once."""
    found = []
    for at in range(0, len(others), _BLOCK):
        cosines = block @ others[at : at + _BLOCK].T  # [B, B]
        if start == first + at:
            own = torch.ones_like(cosines, dtype=torch.bool)
            cosines.masked_fill_(own.tril_() if start == first else own.tril_().triu_(), -1.0)
        rows = (cosines.amax(1) >= least).nonzero().flatten()  # few: what follows reads a fraction
        found.append(_likest(cosines[rows], rows, least) + torch.tensor([[start], [first + at]]))
    left, right = torch.cat(found, 1)
    return left, right


def _likest(cosines: Tensor, rows: Tensor, least: float) -> Tensor:
    """int64 [2, P]: of `rows` and the columns whose cosine is at least `least`, of a row at most `_MOST`."""
    if not len(rows):
        return torch.empty(2, 0, dtype=torch.int64)
    values, columns = cosines.topk(min(_MOST, cosines.shape[1]), 1)
    kept = values >= least
    return torch.stack([rows[:, None].expand_as(columns)[kept], columns[kept]])


def _verified(
    thumbnails: npt.NDArray[np.uint8], one: npt.NDArray[np.int64], other: npt.NDArray[np.int64], mirrored: bool
) -> Iterator[tuple[int, int, float]]:
    """(row, row, likeness) of the candidates that hold."""
    for start in range(0, len(one), _AT_ONCE):
        a, b = one[start : start + _AT_ONCE], other[start : start + _AT_ONCE]
        left = _float(torch.from_numpy(thumbnails[a]))
        right = _float(torch.from_numpy(thumbnails[b]))
        likeness = compared(left.flip(3) if mirrored else left, right)
        for i in (likeness > 0).nonzero().flatten().tolist():
            yield int(a[i]), int(b[i]), float(likeness[i])


def compared(left: Tensor, right: Tensor) -> Tensor:
    """float32 [P, 3, S, S] twice → [P]: the correlation of those that show the same, 0 of the others. Each is laid over
    the other, for a cut one has less of it."""
    num = len(left)
    best = torch.zeros(num)
    alike, detail = _correlations(left, right, torch.ones(num, 1, *left.shape[2:]))
    best = torch.where((alike >= LIKE) & (detail >= DETAIL), alike, best)
    rest = ((best == 0) & (alike > 0.3)).nonzero().flatten()
    for a, b in ((left, right), (right, left)):
        if not len(rest):
            break
        laid, inside = _laid_over(a[rest], b[rest])
        alike, detail = _correlations(laid, b[rest], inside)
        holds = (alike >= LIKE) & (detail >= DETAIL) & (inside.mean((1, 2, 3)) > 0.7)
        best[rest[holds]] = torch.maximum(best[rest[holds]], alike[holds])
        rest = rest[~holds]
    return best


def _correlations(a: Tensor, b: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """[P, 3, S, S] twice, inside [P, 1, S, S] of 0 and 1 → [P]: of all pixels, colours without their means; and of what
    is finer than 5 pixels, in grey."""

    def detail(images: Tensor) -> Tensor:
        gray = _gray(images)
        return gray - F.avg_pool2d(gray, 5, 1, 2, count_include_pad=False)

    return _correlation(a, b, inside), _correlation(detail(a), detail(b), inside)


def _correlation(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    area = inside.sum((2, 3), keepdim=True).clamp(min=1)
    a = (a - (a * inside).sum((2, 3), keepdim=True) / area) * inside
    b = (b - (b * inside).sum((2, 3), keepdim=True) / area) * inside
    both = (a * b).sum((1, 2, 3))
    # A pixel's worth of noise beneath: what is blank is like nothing.
    return both / ((a.square().sum((1, 2, 3)) + 64) * (b.square().sum((1, 2, 3)) + 64)).sqrt()


def _laid_over(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`a` moved and scaled so that it lies on `b`, and where it does, [P, 1, S, S] of 0 and 1.

    Gauss-Newton on the grey values, of mean 0 and length 1 each (Evangelidis & Psarakis 2008), on half as many pixels
    first; its four numbers are the scales and shifts of x and y.
    """
    moved = torch.zeros(len(a), 4)  # scale x, scale y, shift x, shift y; in half sides
    for gray_a, gray_b, steps in (
        (F.avg_pool2d(_gray(a), 2), F.avg_pool2d(_gray(b), 2), _STEPS[0]),
        (_gray(a), _gray(b), _STEPS[1]),
    ):
        soft_a, soft_b = _soft(gray_a), _soft(gray_b)
        slopes = torch.cat([soft_a, *_slopes(soft_a)], 1)  # [P, 3, s, s]
        for _ in range(steps):
            moved = (moved + _step(slopes, soft_b, moved)).clamp(-_FARTHEST, _FARTHEST)
    grid = _grid(moved, a.shape[-1])
    inside = (grid.abs() <= 1.0).all(-1)[:, None].float()
    return F.grid_sample(a, grid, padding_mode="border", align_corners=False), inside


def _soft(gray: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _slopes(gray: Tensor) -> tuple[Tensor, Tensor]:
    """Along x and y, by half a side."""
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    half = gray.shape[-1] / 2
    x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2 * half
    y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2 * half
    return x, y


def _grid(moved: Tensor, side: int) -> Tensor:
    """[P, side, side, 2], as `grid_sample` takes it."""
    at = (torch.arange(side) + 0.5) * (2 / side) - 1
    x = (1 + moved[:, 0])[:, None] * at + moved[:, 2][:, None]  # [P, side]
    y = (1 + moved[:, 1])[:, None] * at + moved[:, 3][:, None]
    return torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)


def _step(slopes: Tensor, b: Tensor, moved: Tensor) -> Tensor:
    """What to add to `moved`, [P, 4]."""
    side = b.shape[-1]
    grid = _grid(moved, side)
    sampled = F.grid_sample(slopes, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1.0).all(-1).flatten(1).float()  # [P, s²]
    at = ((torch.arange(side) + 0.5) * (2 / side) - 1).repeat(side)
    across, along = at, at.view(side, side).T.flatten()
    value, x, y = sampled.flatten(2).unbind(1)  # [P, s²]

    def centred(what: Tensor) -> Tensor:
        return (what - (what * inside).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp(min=1)) * inside

    value, target = centred(value), centred(b.flatten(1))
    # `b` scaled to the contrast of `a`, as far as they agree.
    gain = (value * target).sum(1) / target.square().sum(1).clamp(min=1e-3)
    rest = gain.clamp(min=0.0)[:, None] * target - value
    columns = torch.stack([centred(x * across), centred(y * along), centred(x), centred(y)], -1)  # [P, s², 4]
    normal = columns.mT @ columns
    damped = normal + torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-3)
    step: Tensor = torch.linalg.solve(damped, (columns.mT @ rest[..., None]))[..., 0].clamp(-0.15, 0.15)
    return step
