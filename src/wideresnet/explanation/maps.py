"""A network and its input → what speaks for a class, place by place. Three ways that have little in common, so that one
can check another: through the last maps (Grad-CAM), through the gradient along a path (integrated gradients), and
through the answers alone (occlusion). Pure: the network is left as it was.

A class's score is its logit, before softmax, unless said otherwise. x float32 [N, C, side, side], normalised; classes
int64 [N], the class that is explained for each picture.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wideresnet import networks, runtime
from wideresnet.explanation.places import Floats, Grid, Layer, Map
from wideresnet.preprocess import Placement

STEPS = 32  # of the path of integrated gradients, at the points of Gauss and Legendre
CELLS = 8  # a side of the maps of occlusion and of integrated gradients as shown
_AT_ONCE = 1 << 18  # pixels of input that a backward pass is computed for at once


def grad_cam(network: nn.Module, x: Tensor, classes: Tensor, layers: Sequence[Layer]) -> list[list[Map]]:
    """For each picture its map at each of `layers`: max(0, Σ_k α_k A_k), A_k the k-th of the layer's channels and α_k
    the mean over its cells of ∂score/∂A_k. Source: Selvaraju et al. 2017, equations 1 and 2.

    At the end of our backbone, where a linear layer reads the mean of A, the mean of that sum before max(0, ·) is a
    constant times score − bias: there it is the score itself, place by place (Zhou et al. 2016).
    """
    return _maps(network, x, classes, layers, lambda a, d: (d.mean((2, 3), keepdim=True) * a).sum(1))


def hires_cam(network: nn.Module, x: Tensor, classes: Tensor, layers: Sequence[Layer]) -> list[list[Map]]:
    """The same without the mean over cells: max(0, Σ_k ∂score/∂A_k · A_k). Source: Draelos & Carin 2020, section 4. At
    the end of our backbone it is Grad-CAM."""
    return _maps(network, x, classes, layers, lambda a, d: (d * a).sum(1))


def finer(heat: Map, fine: Map) -> Map:
    """`fine`, of an earlier layer, where `heat` is warm: their product, cell by cell of `fine`.

    Alone, the maps of stage 2 hardly know the class (docs/decisions.md, "explanations"); so do Selvaraju et al. 2017
    (section 3.2) multiply Grad-CAM into what is finer than it.
    """
    grid, (rows, columns) = fine.grid, fine.heat.shape
    cells = Placement(grid.scale, grid.scale, grid.offset, grid.offset)
    return Map(fine.heat * heat.on_picture(cells, rows, columns), grid)


def _maps(
    network: nn.Module,
    x: Tensor,
    classes: Tensor,
    layers: Sequence[Layer],
    of: Callable[[Tensor, Tensor], Tensor],
) -> list[list[Map]]:
    found: list[list[Map]] = []
    for rows in _rows(x):
        pairs = features_and_gradients(network, x[rows], classes[rows], layers)
        heats = [of(features, gradient).clamp(min=0) for features, gradient in pairs]  # [n, h, w] of each layer
        found += [
            [Map(_array(heat), layer.grid) for heat, layer in zip(of_one, layers, strict=True)]
            for of_one in zip(*heats, strict=True)
        ]
    return found


def features_and_gradients(
    network: nn.Module, x: Tensor, classes: Tensor, layers: Sequence[Layer]
) -> list[tuple[Tensor, Tensor]]:
    """Of each layer its maps A [N, K, h, w], and ∂score/∂A of each picture's own class."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, result: Tensor) -> None:
            kept[name] = result

        return hook

    handles = [network.get_submodule(layer.name).register_forward_hook(keep(layer.name)) for layer in layers]
    try:
        # From the picture on, so that there is a gradient in networks whose weights are not trained too.
        with torch.enable_grad():
            score = network(x.detach().requires_grad_()).gather(1, classes[:, None]).sum()
            features = [kept[layer.name] for layer in layers]
            gradients = torch.autograd.grad(score, features)
    finally:
        for handle in handles:
            handle.remove()
    return [(one.detach(), gradient) for one, gradient in zip(features, gradients, strict=True)]


def integrated_gradients(
    network: nn.Module, x: Tensor, classes: Tensor, *, baseline: float = 0.0, steps: int = STEPS
) -> Tensor:
    """[N, C, side, side]: (x − b) · ∫₀¹ ∂score/∂x at b + t(x − b) dt, b a picture of `baseline` all over; 0 is the mean
    colour of the training pictures.

    Complete: its sum is score(x) − score(b), but for an error that falls with the number of steps. Source:
    Sundararajan et al. 2017, equation 1 and proposition 1.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(x)
    for rows in _rows(x):
        for t, weight in zip((points + 1) / 2, weights / 2, strict=True):
            at = (baseline + float(t) * (x[rows] - baseline)).requires_grad_()
            with torch.enable_grad():
                score = network(at).gather(1, classes[rows, None]).sum()
            total[rows] += float(weight) * torch.autograd.grad(score, at)[0]
    return (x - baseline) * total


def in_cells(attributions: Tensor, cells: int = CELLS) -> list[Map]:
    """Of each picture's attributions [N, C, side, side], what they sum to in `cells` × `cells` squares: pixel by pixel
    they are a grain in which nobody sees anything. Squares that speak against the class are 0."""
    side = attributions.shape[2]
    sums = F.adaptive_avg_pool2d(attributions.sum(1, keepdim=True), min(cells, side))[:, 0]
    return [Map(_array(one.clamp(min=0)), Grid(side / len(one), 0.0)) for one in sums]


def occlusion(
    answer: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    fill: Tensor,
    *,
    border: int = 0,
    cells: int = CELLS,
) -> list[Map]:
    """How much less likely the class becomes when a window is covered: for each of `cells` × `cells` squares,
    max(0, log p − log p with the window of two squares' width around it filled). Source: Zeiler & Fergus 2014, section
    2.2, who take p itself, which does not move while the network is sure.

    answer: uint8 [N, C, size, size] → logits, by whatever computes; images uint8 [N, C, size, size]; fill [C] uint8;
    border: pixels that are laid around them afterwards.
    """
    size = images.shape[2]
    cells = min(cells, size)
    edges = [(max(0, round((i - 0.5) * size / cells)), round((i + 1.5) * size / cells)) for i in range(cells)]
    before = _log_probs(answer(images), classes)
    found = []
    for number, image in enumerate(images):
        covered = image[None].repeat(cells * cells, 1, 1, 1)
        for place in range(cells * cells):
            (top, bottom), (left, right) = edges[place // cells], edges[place % cells]
            covered[place, :, top:bottom, left:right] = fill[:, None, None]
        after = _log_probs(answer(covered), classes[number].expand(len(covered)))
        drops = (before[number] - after).clamp(min=0).reshape(cells, cells)
        found.append(Map(_array(drops), Grid(size / cells, border)))
    return found


def covered(images: Tensor, heats: Sequence[Floats], share: float, fill: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures with `share` of their pixels filled: the warmest, and in the other tensor the coldest.

    images uint8 [N, C, size, size]; heats [size, size] each; of equal ones, which are taken is as good as drawn.
    """
    results = []
    for sign in (-1, 1):
        filled = images.clone()
        for image, heat in zip(filled, heats, strict=True):
            mixed = torch.randperm(heat.size, generator=runtime.generator(0, "covered")).numpy()
            order = mixed[np.argsort(sign * heat.ravel()[mixed], kind="stable")][: round(share * heat.size)]
            image.flatten(1)[:, torch.from_numpy(order)] = fill[:, None]
        results.append(filled)
    return results[0], results[1]


def probability(logits: Tensor, classes: Tensor, temperature: float = 1.0) -> Tensor:
    """[N], of each picture's own class."""
    return _log_probs(logits / temperature, classes).exp()


def _log_probs(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.double().log_softmax(1).gather(1, classes[:, None].to(logits.device))[:, 0]


def randomised(network: nn.Module, parts: Iterable[str], seed: int = 0) -> nn.Module:
    """A copy in which `parts` (`networks.parts`: "fc", "bn", "stage3"…) are as in a network that was never trained.

    A map that stays the same does not show what the network learned: Adebayo et al. 2018, section 3.1, who do so from
    the class layer to the first, one part more each time.
    """
    parameters = networks.parts(network)
    layers = {name.rpartition(".")[0] for part in parts for name in parameters[part]}  # with BN's statistics too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = networks.from_card(networks.architecture_of(network)).state_dict()
    copied = copy.deepcopy(network)
    for name, value in copied.state_dict().items():
        if name.rpartition(".")[0] in layers:
            value.copy_(untrained[name])
    return copied.eval()


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's: whether two maps rank the same places high; None where one of them is the same everywhere."""
    ranks = [_ranks(one.ravel()) for one in (a, b)]
    deviations = [one - one.mean() for one in ranks]
    norm = float(np.prod([np.linalg.norm(one) for one in deviations]))
    return None if norm == 0 else float(deviations[0] @ deviations[1] / norm)


def _ranks(values: Floats) -> np.ndarray:
    """Of equal values the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[place], dtype=np.float64)


def _rows(x: Tensor) -> Iterator[slice]:
    at_once = max(1, _AT_ONCE // (x.shape[2] * x.shape[3]))
    return (slice(start, start + at_once) for start in range(0, len(x), at_once))


def _array(heat: Tensor) -> Floats:
    return np.asarray(heat.detach().float().cpu().numpy())
