"""Maps of what a network looked at: their definitions, their laws, and where they lie on the picture."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from wideresnet import networks, runtime
from wideresnet.errors import UsageError
from wideresnet.explanation import Grid, Map, maps, places
from wideresnet.model import WideResidualBlock, WideResNetClassifier
from wideresnet.preprocess import Fit, Preprocess

# Each option of the network that changes what its maps are made of.
VARIANTS: dict[str, dict[str, Any]] = {
    "tutorial": {},
    "paper": {"stem": "conv", "shortcut": "activated", "dropout_at": "after-act2"},
    "cosine": {"head": "cosine"},
    "gray": {"in_channels": 1},
    "silu": {"activation": "silu"},
    "pssilu": {"activation": "pssilu"},
    "leaky": {"activation": "leaky-relu-0.1", "shortcut": "bypass"},
    "avgpool-pad": {"shortcut": "avgpool-pad", "projection": "where-needed"},
    "same": {"padding": "same", "stride_on": "conv2"},
    "without-bn": {"norm": "none", "conv_bias": "all"},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks so small are computed as fast by one, which waits for nobody where the machine is busy."""
    with runtime.threads(1):
        yield


def network(seed: int = 0, **options: Any) -> WideResNetClassifier:
    """As it would be somewhere in training: no BN is the identity."""
    torch.manual_seed(seed)
    made = WideResNetClassifier(5, 10, 1, **options)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    made.train()
    made(torch.randn(16, made.backbone.in_channels, 16, 16))
    return made.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_grad_cam_of_both_stages_is_captums(variant: str) -> None:
    from captum.attr import LayerGradCam

    made = network(**VARIANTS[variant])
    x = torch.randn(3, made.backbone.in_channels, 18, 18)
    classes = torch.tensor([0, 4, 2])
    layers = places.layers(made, x.shape[1], 18)
    assert [layer.name for layer in layers] == ["backbone", "backbone.stage2"]
    ours = maps.grad_cam(made, x, classes, layers)
    for number, layer in enumerate(layers):
        theirs = LayerGradCam(made, made.get_submodule(layer.name)).attribute(x, classes, relu_attributions=True)
        for i, one in enumerate(ours):
            expected = theirs[i, 0].detach().numpy()
            error = np.abs(one[number].heat - expected).max() / max(np.abs(expected).max(), 1e-12)
            assert error <= 1e-5, f"{layer.name}, picture {i}: {error}"


def test_captum_agrees_on_a_network_of_torchvision_too() -> None:
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    made = networks.create("torchvision:resnet18", 4).eval()
    x, classes = torch.randn(2, 3, 96, 96), torch.tensor([1, 3])
    (layer,) = places.layers(made, 3, 96)
    assert (layer.name, layer.side, layer.grid) == ("layer4", 3, Grid(32, -15.5))
    theirs = LayerGradCam(made, made.layer4).attribute(x, classes, relu_attributions=True)
    ours = np.stack([one[0].heat for one in maps.grad_cam(made, x, classes, [layer])])
    assert np.abs(ours - theirs[:, 0].detach().numpy()).max() <= 1e-5 * theirs.abs().max().item()


def test_at_the_end_of_our_backbone_the_mean_of_the_map_is_the_score_and_hires_cam_is_the_same() -> None:
    made = network()
    x = torch.randn(2, 3, 16, 16)
    classes = torch.tensor([1, 2])
    layers = places.layers(made, 3, 16)[:1]
    ((features, gradient),) = maps.features_and_gradients(made, x, classes, layers)
    signed = (gradient.mean((2, 3), keepdim=True) * features).sum(1)  # before max(0, ·)
    score = made(x).gather(1, classes[:, None])[:, 0] - made.fc.bias[classes]
    torch.testing.assert_close(signed.sum((1, 2)), score, rtol=1e-4, atol=1e-5)
    pairs = zip(maps.grad_cam(made, x, classes, layers), maps.hires_cam(made, x, classes, layers), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a[0].heat, b[0].heat, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "why"), [("torchvision:vit_b_16", "transformers"), ("torchvision:swin_t", None)])
def test_a_network_without_a_map_of_square_cells_is_refused(name: str, why: str | None) -> None:
    with torch.device("meta"):
        made = networks.create(name, 3).eval()
    if why is None:  # its last map is turned into channels, rows, columns before it is pooled
        (layer,) = places.layers(made, 3, 224)
        assert layer.side == 7
        return
    with pytest.raises(UsageError, match=why):
        places.layers(made, 3, 224)


@pytest.mark.parametrize(
    ("name", "side", "layer", "cells"),
    [("vgg11", 32, "features.19", 2), ("vgg11", 64, "features", 2), ("alexnet", 64, "features.11", 3)],
)
def test_a_pool_that_only_lays_a_map_out_larger_is_not_where_a_network_looks(
    name: str, side: int, layer: str, cells: int
) -> None:
    with torch.device("meta"):
        made = networks.create(f"torchvision:{name}", 3).eval()
    (found,) = places.layers(made, 3, side)
    assert (found.name, found.side) == (layer, cells)
    (whole,) = places.layers(made, 3, 224)  # the pool leaves it as large as it is
    assert whole.name == "avgpool"


@settings(max_examples=5)
@given(seed=st.integers(0, 99), baseline=st.floats(-1, 1))
def test_integrated_gradients_sum_to_the_difference_of_the_scores(seed: int, baseline: float) -> None:
    made = network(seed, activation="silu").double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    classes = torch.tensor([seed % 5, 1])
    found = maps.integrated_gradients(made, x, classes, baseline=baseline, steps=48).sum((1, 2, 3))
    with torch.no_grad():
        difference = (made(x) - made(torch.full_like(x, baseline))).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(found, difference, rtol=1e-4, atol=1e-4)


def test_occlusion_is_the_fall_of_the_log_probability_when_its_window_is_covered() -> None:
    made = network()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    fill = torch.tensor([10, 20, 30], dtype=torch.uint8)
    classes = torch.tensor([0, 3])

    @torch.no_grad()
    def answer(some: Tensor) -> Tensor:
        return made(some.float() / 255)  # type: ignore[no-any-return]

    found = maps.occlusion(answer, images, classes, fill)
    covered = images.clone()
    covered[:, :, 5:9, 3:7] = fill[:, None, None]  # cell (3, 2) of 8: rows 6 to 8 and a cell's half around it
    before, after = (
        F.log_softmax(answer(some).double(), 1).gather(1, classes[:, None])[:, 0] for some in (images, covered)
    )
    for i in range(2):
        assert found[i].heat[3, 2] == pytest.approx(max(0.0, float(before[i] - after[i])), rel=1e-5, abs=1e-7)


def planted(num: int, side: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, and a patch of 6×6 somewhere that alone decides the class: bright for 1, dark for 0. Its corners int64
    [num, 2]."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(num, 3, side, side, generator=generator)
    labels = torch.randint(0, 2, (num,), generator=generator)
    corners = torch.randint(0, side - 5, (num, 2), generator=generator)
    for one, label, (top, left) in zip(x, labels, corners, strict=True):
        one[:, top : top + 6, left : left + 6] += 1.5 if label else -1.5
    return x, labels, corners


@pytest.fixture(scope="module")
def trained() -> WideResNetClassifier:
    """A network that tells bright patches from dark ones."""
    torch.manual_seed(0)
    made = WideResNetClassifier(2, 10, 1)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(50):
        x, labels, _ = planted(24, 32, step)
        optimiser.zero_grad()
        F.cross_entropy(made(x), labels).backward()
        optimiser.step()
    made.eval()
    x, labels, _ = planted(64, 32, 1000)
    assert (made(x).argmax(1) == labels).float().mean() > 0.95
    return made


def test_the_warmest_place_lies_in_the_patch_that_decides_the_class(trained: WideResNetClassifier) -> None:
    x, labels, corners = planted(64, 32, 2000)
    layers = places.layers(trained, 3, 32)
    heats = maps.grad_cam(trained, x, labels, layers[:1])
    fine = maps.hires_cam(trained, x, labels, layers[1:])
    chance = (6 + 4) ** 2 / 32**2
    for what in ("heat", "finer"):
        hits = 0
        for heat, finer, (top, left) in zip(heats, fine, corners.tolist(), strict=True):
            one = heat[0] if what == "heat" else maps.finer(heat[0], finer[0])
            y, x_at = divmod(int(one.on_input(32).argmax()), 32)
            hits += top - 2 <= y < top + 8 and left - 2 <= x_at < left + 8
        assert hits / 64 >= 0.9, f"{what}: {hits} of 64 in the patch and two pixels around; by chance {64 * chance:.0f}"


def test_heat_is_not_shifted_as_it_would_be_laid_from_edge_to_edge(trained: WideResNetClassifier) -> None:
    x, labels, corners = planted(64, 32, 3000)
    (last, _) = places.layers(trained, 3, 32)
    assert last.grid == Grid(4, -1.5)
    pixels = np.arange(32) + 0.5
    off: dict[str, list[float]] = {"ours": [], "edge to edge": []}
    for (one,), (top, left) in zip(maps.grad_cam(trained, x, labels, [last]), corners.tolist(), strict=True):
        if not (6 <= top <= 20 and 6 <= left <= 20):
            continue  # whose heat the edge cuts
        for name, grid in (("ours", last.grid), ("edge to edge", Grid(4, 0))):
            heat = Map(one.heat**2, grid).on_input(32)
            off[name] += [
                float((heat.sum(1) @ pixels) / heat.sum()) - top - 3,
                float((heat.sum(0) @ pixels) / heat.sum()) - left - 3,
            ]
    ours, theirs = (float(np.mean(values)) for values in off.values())
    assert abs(ours) < 0.75, f"{ours:.2f} pixels; laid from edge to edge {theirs:.2f}"
    assert abs(ours) < abs(theirs)


def test_randomising_the_weights_from_the_class_layer_on_changes_the_map(trained: WideResNetClassifier) -> None:
    x, labels, _ = planted(32, 32, 4000)
    layers = places.layers(trained, 3, 32)[:1]
    before = [one[0].heat for one in maps.grad_cam(trained, x, labels, layers)]
    parts, kept = ["fc", "bn", "stage3", "stage2", "stage1", "stem"], list[float]()
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    for number in range(1, len(parts) + 1):
        changed = maps.randomised(trained, parts[:number], seed=number)
        after = [one[0].heat for one in maps.grad_cam(changed, x, labels, layers)]
        kept.append(float(np.mean([maps.rank_correlation(a, b) or 0 for a, b in zip(before, after, strict=True)])))
    assert max(kept[2:]) < 0.5, kept
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    same = [one[0].heat for one in maps.grad_cam(maps.randomised(trained, []), x, labels, layers)]
    assert all(np.array_equal(a, b) for a, b in zip(before, same, strict=True))


@given(values=st.lists(st.integers(0, 3), min_size=3, max_size=30), seed=st.integers(0, 9))
def test_the_rank_correlation_is_scipys(values: list[int], seed: int) -> None:
    a = np.array(values, np.float32)
    b = np.random.default_rng(seed).permutation(a)
    found = maps.rank_correlation(a, b)
    if len(set(values)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(spearmanr(a, b).statistic), abs=1e-9)


@settings(max_examples=60)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(4, 40),
    fit=st.sampled_from(["crop", "squash", "pad"]),
    border=st.integers(0, 3),
    data=st.data(),
)
def test_a_point_of_heat_lies_on_the_original_where_the_network_saw_it(
    height: int, width: int, size: int, fit: Fit, border: int, data: st.DataObject
) -> None:
    preprocess = Preprocess(size=size, mean=(0.5,), std=(0.5,), fit=fit, border=border)
    side = size + 2 * border
    heat = np.zeros((side, side), np.float32)
    i, j = data.draw(st.integers(border, border + size - 1)), data.draw(st.integers(border, border + size - 1))
    heat[i, j] = 1
    placed = preprocess.placement(height, width)
    found = Map(heat, Grid(1, 0)).on_picture(placed, height, width)
    assert found.shape == (height, width)
    for y, x in itertools.product(range(0, height, 3), range(0, width, 3)):
        # The definition, pixel by pixel: bilinear between the middles of the cells.
        at_y = min(max((y + 0.5) * placed.scale_y + placed.top - 0.5, 0), side - 1)
        at_x = min(max((x + 0.5) * placed.scale_x + placed.left - 0.5, 0), side - 1)
        expected = max(0.0, 1 - abs(at_y - i)) * max(0.0, 1 - abs(at_x - j))
        assert found[y, x] == pytest.approx(expected, abs=1e-4)


@settings(max_examples=40)
@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 40))
def test_what_lies_beyond_what_is_seen_changes_no_input(height: int, width: int, size: int) -> None:
    preprocess = Preprocess(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    left, top, right, bottom = places.seen(preprocess, height, width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reach = 2 + -(-min(height, width) // size)  # of resizing, around a pixel
    other = 255 - image
    kept = np.s_[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach]
    other[kept] = image[kept]
    assert torch.equal(preprocess.resize(image), preprocess.resize(other))
    if height == width:
        assert (left, top, right, bottom) == (0, 0, width, height)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_middle_of_a_cell_is_the_middle_of_what_it_looks_at(padding: Any) -> None:
    """By the gradient of one cell in a network of equal weights, whose field of view no edge cuts."""
    block = WideResidualBlock(1, 1, 2, padding=padding, norm="none", shortcut="avgpool-pad")
    for parameter in block.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    made = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), block.conv1, block.conv2)
    for parameter in made.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    x = torch.ones(1, 1, 32, 32, requires_grad=True)
    made(x)[0, 0, 8, 8].backward()
    assert x.grad is not None
    seen_rows = x.grad[0, 0].sum(1)
    middle = float((seen_rows @ (torch.arange(32) + 0.5)) / seen_rows.sum())
    grid = places._grid(places._steps(made, 1, 32), 32)
    assert grid.scale * 8.5 + grid.offset == pytest.approx(middle, abs=1e-4)


def test_heat_follows_a_mirrored_map() -> None:
    """A law of the placing, not of the network, whose strides know left from right."""
    heat = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    placed = Preprocess(size=32, mean=(0.5,), std=(0.5,), fit="squash").placement(50, 70)
    found = Map(heat, Grid(4, 0)).on_picture(placed, 50, 70)
    mirrored = Map(heat[:, ::-1].copy(), Grid(4, 0)).on_picture(placed, 50, 70)
    np.testing.assert_allclose(found[:, ::-1], mirrored, atol=1e-5)
