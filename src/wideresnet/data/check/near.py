"""Thumbnails → pairs of pictures that show the same thing: recompressed, resized, mirrored, a little cropped.
Candidates by a descriptor of 96 numbers, from blocks of matrix products; each is then laid over the other, pixel on
pixel."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from wideresnet import runtime
from wideresnet.data.check.looks import SIDE

# Measured on flowers and CIFAR-10 (docs/numbers.md, "Data check").
CANDIDATE = 0.93  # cosine of two descriptors from which a pair is looked at
WINDOW_CANDIDATE = 0.89  # the same of a window of one and the other
COARSE = 0.89  # correlation of the softened pixels, on 16×16, as they lie
# Correlation of the pixels, and of what is finer than 5 of them, where they lie as they are: JPEG takes detail from
# what has little, and the likeness of the rest must be the greater.
HOLDS = ((0.90, 0.67), (0.98, 0.45))
LAID_COARSE = 0.95  # of the grey values on 16×16, once one is moved for it
LAID_LIKE, LAID_DETAIL = 0.97, 0.80  # what can be moved fits more by chance
# Upper quartile of the cosines of any two: flowers and CIFAR-10 0.2, its ships alone 0.45, digits 0.67.
ALIKE = 0.55
FEWEST = 30  # pictures from which that is told
_SAMPLE = 1000  # pictures of which it is told, spread evenly
_MOST = 16  # candidates of a picture in a block: where all pictures are alike, the likest
_BLOCK = 2048  # pictures compared with as many others by one core: 100 MB
_AT_ONCE = 1024  # pairs laid over each other at once
_COARSE_STEPS, _STEPS = 4, 2  # on 16×16 pixels, and on all
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
    are found, in a fifth of the time. That grows with the square of the number of rows."""
    ways: tuple[_How, ...] = ("plain", "mirror", *_WINDOWS * cropped)
    starts, found = range(0, len(rows), _BLOCK), dict[tuple[int, int], Pair]()
    pool = runtime.thread_pool()  # whose threads work on their own: torch's would wait for one another
    try:
        parts = [rows[start : start + _BLOCK] for start in starts]
        described = list(pool.map(lambda part: _described(_images(thumbnails, part), "plain"), parts))
        tasks = [(start, how) for start in starts for how in ways]
        every = torch.cat(described) if described else torch.empty(0, 96)
        for done, pairs in enumerate(pool.map(lambda task: _pairs(thumbnails, rows, every, *task), tasks)):
            for pair in pairs:
                key = (pair.first, pair.second)
                if (before := found.get(key)) is None or before.likeness < pair.likeness:
                    found[key] = pair
            watch.progress("comparing pictures", done + 1, len(tasks), "")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return sorted(found.values())


def all_alike(thumbnails: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> bool:
    """Whether any two of these pictures are so alike, as digits or aligned X-rays are, that near copies cannot be told
    from them. The copies in a set of photographs are too few among all pairs to move the quartile."""
    if len(rows) < FEWEST:
        return False
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64)]
    described = _described(_images(thumbnails, some), "plain")
    cosines = (described @ described.T)[tuple(torch.triu_indices(len(some), len(some), 1))]
    return bool(np.quantile(cosines.numpy(), 0.75) >= ALIKE)


def _pairs(
    thumbnails: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], described: Tensor, start: int, how: "_How"
) -> list[Pair]:
    """Those of a block of rows, seen that way, and of all: candidates, then what holds of them. Two whole pictures are
    alike or not whichever comes first; a window of one may be like the other."""
    block, whole, found = rows[start : start + _BLOCK], isinstance(how, str), list[Pair]()
    least = CANDIDATE if whole else WINDOW_CANDIDATE
    left, right = _alike(_described(_images(thumbnails, block), how), start, described, least, once=whole)
    for one, other in zip(left.split(_AT_ONCE), right.split(_AT_ONCE), strict=True):
        a, b = rows[one.numpy()], rows[other.numpy()]
        likeness = compared(_images(thumbnails, a), _images(thumbnails, b), how)
        for i in likeness.nonzero().flatten().tolist():
            first, second = sorted((int(a[i]), int(b[i])))
            found.append(Pair(first, second, how == "mirror", float(likeness[i])))
    return found


def _images(thumbnails: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> Tensor:
    """float32 [B, 3, SIDE, SIDE]."""
    return torch.from_numpy(thumbnails[rows]).permute(0, 3, 1, 2).float()


def _gray(images: Tensor) -> Tensor:
    """float32 [N, 3, H, W] → [N, 1, H, W], as ITU-R 601 weighs colours."""
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _features(images: Tensor) -> Tensor:
    """float32 [N, 3, SIDE, SIDE] → [N, 96]: grey at 8×8, how blue and how red at 4×4, each without its mean."""
    gray = _gray(images)
    colours = torch.cat([images[:, 2:] - gray, images[:, :1] - gray], 1)  # [N, 2, SIDE, SIDE]
    parts = [F.avg_pool2d(gray, SIDE // 8), F.avg_pool2d(colours, SIDE // 4)]
    centred = [(part - part.mean((2, 3), keepdim=True)).flatten(1) for part in parts]
    # 4×4 stands for four times as many pixels as 8×8: doubled, each counts by its pixels.
    return torch.cat([centred[0], 2 * centred[1]], 1)


_At = tuple[int, int]


def _moved(num: int, at: _At) -> Tensor:
    """float32 [num, 4], as `_grid` takes it, for a window at a corner or the centre, as -1, 0 and 1 say."""
    shift = 1 - _WINDOW
    return torch.tensor([-shift, -shift, at[0] * shift, at[1] * shift]).repeat(num, 1)


def _window(images: Tensor, at: _At) -> Tensor:
    """A part of each, to be compared with whole pictures."""
    return _sampled(images, _grid(_moved(len(images), at), images.shape[-1]))


def _coarse(images: Tensor) -> Tensor:
    """[N, 768], of length 1: 16×16 softened pixels, colours without their means."""
    small = F.avg_pool2d(_soft(images), 2)
    return F.normalize((small - small.mean((2, 3), keepdim=True)).flatten(1))


_How = Literal["plain", "mirror"] | _At
"""How the left picture of a pair is to be seen: as it is, in the mirror, or through a window."""


def _seen(images: Tensor, how: _How) -> Tensor:
    if how == "plain":
        return images
    return images.flip(3) if how == "mirror" else _window(images, how)


@cache
def _matrix(how: _How) -> Tensor:
    """[3 · SIDE², 96]: pixels, seen that way, to a descriptor; all of it is linear, and one product takes a tenth of
    the time of its steps."""
    return _features(_seen(torch.eye(3 * SIDE**2).view(-1, 3, SIDE, SIDE), how))


def _described(images: Tensor, how: _How) -> Tensor:
    """[N, 96], of length 1."""
    return F.normalize(images.flatten(1) @ _matrix(how))


def _alike(block: Tensor, start: int, others: Tensor, least: float, *, once: bool) -> tuple[Tensor, Tensor]:
    """Places of pairs whose cosine is at least `least`: of `block`, which begins at place `start`, and of `others`,
    which begin at 0; once: left < right alone, where the other half is the same."""
    found = []
    for at in range(start if once else 0, len(others), _BLOCK):
        cosines = block @ others[at : at + _BLOCK].T  # [B, B]
        if start == at:
            own = torch.ones_like(cosines, dtype=torch.bool).tril_()
            cosines.masked_fill_(own if once else own.triu_(), -1.0)
        rows = (cosines.amax(1) >= least).nonzero().flatten()  # few: what follows reads a fraction
        found.append(_likest(cosines[rows], rows, least) + torch.tensor([[start], [at]]))
    left, right = torch.cat(found, 1)
    return left, right


def _likest(cosines: Tensor, rows: Tensor, least: float) -> Tensor:
    """int64 [2, P]: of `rows` and the columns whose cosine is at least `least`, of a row at most `_MOST`."""
    if not len(rows):
        return torch.empty(2, 0, dtype=torch.int64)
    values, columns = cosines.topk(min(_MOST, cosines.shape[1]), 1)
    kept = values >= least
    return torch.stack([rows[:, None].expand_as(columns)[kept], columns[kept]])


def compared(left: Tensor, right: Tensor, how: _How = "plain") -> Tensor:
    """float32 [P, 3, SIDE, SIDE] twice → [P]: the correlation of those that show the same, 0 of the others."""
    num = len(left)
    near = ((_coarse(_seen(left, how)) * _coarse(right)).sum(1) >= COARSE).nonzero().flatten()
    likeness = torch.zeros(num)
    if len(near):
        likeness[near] = _laid_and_compared(left[near], right[near], how)
    return likeness


def _laid_and_compared(left: Tensor, right: Tensor, how: _How) -> Tensor:
    left = left.flip(3) if how == "mirror" else left
    moved = torch.zeros(len(left), 4) if isinstance(how, str) else _moved(len(left), how)
    likeness, rest = torch.zeros(len(left)), torch.arange(len(left))
    if isinstance(how, str):
        alike, detail = _correlations(left, right, torch.ones(len(left), 1, *left.shape[2:]))
        holds = torch.stack([(alike >= like) & (detail >= fine) for like, fine in HOLDS]).any(0)
        likeness[holds] = alike[holds]
        rest = (~holds).nonzero().flatten()
    gray_a, gray_b = (_soft(_gray(images[rest])) for images in (left, right))
    small_a, small_b = F.avg_pool2d(gray_a, 2), F.avg_pool2d(gray_b, 2)
    moved = _laid_over(small_a, small_b, moved[rest], _COARSE_STEPS)
    grid = _grid(moved, small_a.shape[-1])
    fits = _correlation(_sampled(small_a, grid), small_b, _inside(grid)) >= LAID_COARSE
    rest, moved = rest[fits], _laid_over(gray_a[fits], gray_b[fits], moved[fits], _STEPS)
    grid = _grid(moved, left.shape[-1])
    alike, detail = _correlations(_sampled(left[rest], grid), right[rest], _inside(grid))
    holds = (alike >= LAID_LIKE) & (detail >= LAID_DETAIL) & (_inside(grid).mean((1, 2, 3)) > 0.7)
    likeness[rest[holds]] = alike[holds]
    return likeness


def _correlations(a: Tensor, b: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """[P, 3, S, S] twice, inside [P, 1, S, S] of 0 and 1 → [P]: of all pixels, colours without their means; and of what
    is finer than 5 pixels, in grey."""

    def detail(images: Tensor) -> Tensor:
        gray = _gray(images)
        fine = gray - F.avg_pool2d(gray, 5, 1, 2, count_include_pad=False)
        # An edge weighs no more than what else there is: two drawings of one thing share their edges and no more.
        most = 2 * fine.abs().flatten(1).median(1).values.view(-1, 1, 1, 1)
        return fine.clamp(-most, most)

    return _correlation(a, b, inside), _correlation(detail(a), detail(b), inside)


def _correlation(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    area = inside.sum((2, 3), keepdim=True).clamp(min=1)
    a = (a - (a * inside).sum((2, 3), keepdim=True) / area) * inside
    b = (b - (b * inside).sum((2, 3), keepdim=True) / area) * inside
    both = (a * b).sum((1, 2, 3))
    # A pixel's worth of noise beneath: what is blank is like nothing.
    return both / ((a.square().sum((1, 2, 3)) + 64) * (b.square().sum((1, 2, 3)) + 64)).sqrt()


def _laid_over(a: Tensor, b: Tensor, moved: Tensor, steps: int) -> Tensor:
    """`moved` [P, 4], as `_grid` takes it, a few steps nearer to where `a` lies on `b`, [P, 1, s, s] both.

    Gauss-Newton on grey values of mean 0 and one contrast (Evangelidis & Psarakis 2008).
    """
    slopes = torch.cat([a, *_slopes(a)], 1)  # [P, 3, s, s]
    for _ in range(steps):
        moved = (moved + _step(slopes, b, moved)).clamp(-_FARTHEST, _FARTHEST)
    return moved


def _inside(grid: Tensor) -> Tensor:
    """[P, 1, s, s], 1 where there is something to be sampled, else 0."""
    return (grid.abs() <= 1.0).all(-1)[:, None].float()


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _soft(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _slopes(gray: Tensor) -> tuple[Tensor, Tensor]:
    """Along x and y, by half a side."""
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    half = gray.shape[-1] / 2
    x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2 * half
    y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2 * half
    return x, y


def _grid(moved: Tensor, side: int) -> Tensor:
    """[P, side, side, 2], as `grid_sample` takes it; moved: scales of x and y, less 1, and shifts, in half sides."""
    at = (torch.arange(side) + 0.5) * (2 / side) - 1
    x = (1 + moved[:, 0])[:, None] * at + moved[:, 2][:, None]  # [P, side]
    y = (1 + moved[:, 1])[:, None] * at + moved[:, 3][:, None]
    return torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)


def _step(slopes: Tensor, b: Tensor, moved: Tensor) -> Tensor:
    """What to add to `moved`, [P, 4]."""
    side = b.shape[-1]
    grid = _grid(moved, side)
    sampled = _sampled(slopes, grid)
    inside = _inside(grid).flatten(1)  # [P, s²]
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
