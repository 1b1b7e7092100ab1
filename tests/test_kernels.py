"""Our own kernels against torch in float64: every option, instruction set and algorithm; whole networks and layers."""

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_networks import ALGORITHMS, BEST, BOUNDS, LIBRARY, error, exactly, made, wrn
from test_model import images
from torch import Tensor, nn

from wideresnet import model as network
from wideresnet.kernels import library, plan
from wideresnet.kernels.library import Op
from wideresnet.kernels.plan import Algorithm

# --- Whole networks


def _options() -> st.SearchStrategy[dict[str, Any]]:
    literals = ("stem", "shortcut", "projection", "stride_on", "padding", "activation", "norm", "conv_bias", "head")
    named = {name: st.sampled_from(get_args(getattr(network, _type_of(name)))) for name in literals}
    widths = st.sampled_from([None, (24, 40, 56), (17, 33, 65), (16, 16, 16), (5, 7, 9)])
    blocks = st.sampled_from([None, (2, 1, 3)])
    return st.fixed_dictionaries({**named, "widths": widths, "num_blocks": blocks}).filter(
        lambda o: o["shortcut"] != "avgpool-pad" or o["widths"] != (5, 7, 9)
    )


def _type_of(option: str) -> str:
    return {"conv_bias": "ConvBias", "stride_on": "StrideOn"}.get(option, option.capitalize())


@settings(max_examples=100, derandomize=True)
@given(
    options=_options(),
    size=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 4]), st.integers(1, 40), st.integers(1, 40)),
    widen_factor=st.sampled_from([1, 2, 3]),
    num_classes=st.sampled_from([1, 2, 5, 10, 17]),
    threads=st.integers(1, 4),
    isa=st.sampled_from(list(LIBRARY.isas)),
    algorithm=st.sampled_from(ALGORITHMS),
    seed=st.integers(0, 1000),
)
@example({}, (1, 3, 1, 40), 1, 10, 3, BEST, "fast", 0)
@example({}, (5, 3, 1, 1), 3, 10, 4, BEST, "exact", 0)
def test_every_network_answers_as_float64_does(
    options: dict[str, Any],
    size: tuple[int, int, int, int],
    widen_factor: int,
    num_classes: int,
    threads: int,
    isa: str,
    algorithm: Algorithm,
    seed: int,
) -> None:
    depth = 10 if options.get("num_blocks") is None else 16
    model = wrn(depth, widen_factor, num_classes, seed, in_channels=size[1], **options)
    x = images(*size, seed=seed)
    expected = exactly(model, x)
    found = made(model, isa, algorithm)(x, threads)
    scale = expected.abs().max()
    if num_classes < 5:  # a few logits may all be near zero, sums that cancel: the terms are the measure
        exact = copy.deepcopy(model).double()
        with torch.no_grad():
            features, weight = exact.backbone(x.double()).mean((2, 3)).abs(), exact.fc.weight.abs()
            if model.head == "cosine":
                features, weight = F.normalize(features), F.normalize(weight)
            scale = (features @ weight.T).max().clamp(min=scale)
    lost = ((found - expected).abs().max() / scale).item()
    assert found.shape == expected.shape
    assert lost <= BOUNDS[algorithm], f"{lost:.2e}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("depth", "widen_factor"), [(16, 2), (28, 2), (16, 4)])
def test_one_picture_has_the_same_answer_alone_and_in_any_batch(
    depth: int, widen_factor: int, algorithm: Algorithm
) -> None:
    model, x = wrn(depth, widen_factor), images(5, 3, 32, 32)
    computes = made(model, algorithm=algorithm)
    together = computes(x, 2)
    alone = torch.cat([computes(each, 2) for each in x.split(1)])
    assert error(alone, together.double()) <= 1e-5
    if algorithm == "direct":  # one algorithm, and no sum that depends on another picture
        assert torch.equal(alone, together)


@pytest.mark.parametrize("isa", LIBRARY.isas)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_threads_and_groups_and_repetition_change_no_bit(
    isa: str, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = wrn(16, 1, widths=(24, 40, 56)), images(7, 3, 20, 12)
    computes = made(model, isa, algorithm)
    expected = computes(x, 1)
    assert torch.equal(computes(x, 1), expected)
    for threads in (2, 3, 5, 32):  # more than there are processors, too
        assert torch.equal(computes(x, threads), expected), threads
    for images_at_a_time in (1, 2, 3):
        monkeypatch.setattr(plan, "group", lambda *_, n=images_at_a_time, **__: n)
        assert torch.equal(made(model, isa, algorithm)(x, 2), expected), images_at_a_time


def test_a_large_map_is_averaged_as_exactly_as_a_small_one() -> None:
    """One running sum of 16,384 pixels lost 3e-6 of the range."""
    model, x = wrn(), images(1, 3, 512, 512)
    assert error(made(model, algorithm="direct")(x, 2), exactly(model, x)) < 1e-6


def test_four_shapes_are_kept_and_all_answer_right() -> None:
    model = wrn()
    computes = made(model)
    for side in (4, 9, 16, 17, 23, 4, 9):
        x = images(2, 3, side, side + 1, seed=side)
        assert error(computes(x, 2), exactly(model, x)) <= 1e-5
    assert len(computes._plans) == 4


def test_small_vectors_take_no_large_pages() -> None:
    """The scales of a WRN-28-2 took 83 MB, a large page each."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc")
    before = int(statm.read_text().split()[1])
    kept = [LIBRARY.alloc(64) for _ in range(200)]
    pages = int(statm.read_text().split()[1]) - before
    assert pages * os.sysconf("SC_PAGE_SIZE") < 20e6, len(kept)


# --- One layer


def conv_op(
    isa: str, conv: nn.Conv2d, x: Tensor, threads: int = 2, *, act: bool = False, res: Tensor | None = None,
    in_place: bool = False, kind: int = library.WINOGRAD, same: bool = False, **fields: Any,
) -> Tensor:  # fmt: skip
    """`conv` of relu(x · 1.25 + 0.125) if `act`, else of x, through one Op; x and the answer as torch has them."""
    lanes = LIBRARY.lanes(isa)

    def padded(nchw: Tensor) -> Tensor:
        nhwc = nchw.permute(0, 2, 3, 1)
        return F.pad(nhwc, (0, -nhwc.shape[3] % lanes)).contiguous()

    n, c, h, w = x.shape
    k, stride, size = conv.out_channels, conv.stride[0], conv.kernel_size[0]
    step = plan.Step(kind=kind, x="", y="", out_ch=k, in_ch=c, size=size, stride=stride, same=same)
    top, left = step.padding(h, w)
    ho, wo = -(-h // stride), -(-w // stride)
    given = {"tile": 4, "block_tiles": 28, "block_panels": 1, "split": 1, "group": n, **fields}
    op = Op(
        kind=kind, n=n, h=h, w=w, c=c, ho=ho, wo=wo, k=k, size=size, stride=stride, pad_top=top, pad_left=left, **given
    )
    x_nhwc, y = padded(x), torch.full((n, ho, wo, -(-k // lanes) * lanes), math.nan)
    op.x, op.x_step, op.y_step = x_nhwc.data_ptr(), x_nhwc[0].numel(), y[0].numel()
    scale, shift = padded(torch.full((1, c, 1, 1), 1.25)), padded(torch.full((1, c, 1, 1), 0.125))
    if act:
        op.act_in, op.scale, op.shift = library.ACTIVATIONS.index("relu"), scale.data_ptr(), shift.data_ptr()
    if res is not None:
        added = padded(res)
        if in_place:
            y = added
        op.res, op.res_step = added.data_ptr(), added[0].numel()
    op.y = y.data_ptr()
    weight = LIBRARY.pack(isa, op, conv.weight.detach(), None, threads)
    op.weight = weight.data_ptr()
    ops = (Op * 1)(op)
    LIBRARY.run(isa, ops, threads, torch.full((LIBRARY.work_floats(isa, ops, threads),), math.nan))
    return y[..., :k].permute(0, 3, 1, 2)


def conv3x3(channels: int, out: int, stride: int = 1, *, same: bool = False) -> nn.Conv2d:
    if same:
        return network.SameConv2d(channels, out, 3, stride, bias=False)
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)


# Algorithm → fields of wrn_op, stride, and its bounds: largest error of the range, and root mean square of the root
# mean square. Measured, at 640 channels, the worst: F(4×4) 1.6e-5 and 3.8e-6, F(2×2) 1.0e-6 and 6.7e-7, stride 2 5.1e-6
# and 1.7e-6, direct 2.1e-6 and 9.1e-7; torch 3e-7 and 1.9e-7. They grow with the root of the channels.
LAYERS: dict[str, tuple[dict[str, Any], int, float, float]] = {
    "F(4×4)": ({}, 1, 5e-5, 1e-5),
    "F(4×4), filters transformed at run time": ({"raw_filters": 1, "block_tiles": 64}, 1, 5e-5, 1e-5),
    "F(4×4), blocks shared": ({"share": 1, "block_tiles": 128}, 1, 5e-5, 1e-5),
    "F(2×2)": ({"tile": 2}, 1, 3e-6, 2e-6),
    "direct": ({"kind": library.DIRECT}, 1, 3e-6, 2e-6),
    "stride 2": ({}, 2, 2e-5, 5e-6),
    "stride 2, direct": ({"kind": library.DIRECT}, 2, 3e-6, 2e-6),
}


def layer_errors(name: str, channels: int, isa: str = BEST, *, same: bool = False) -> tuple[float, float, float, float]:
    """Largest and root-mean-square error of a layer, each of its range; then torch's own in float32."""
    fields, stride, *_ = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        conv = conv3x3(channels, channels, stride, same=same)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    x = images(2, channels, 9, 10).relu()
    with torch.no_grad():
        expected, torchs = copy.deepcopy(conv).double()(x.double()), conv(x)
    found = conv_op(isa, conv, x, same=same, **fields)
    rms = expected.square().mean().sqrt()
    errors = [each.double() - expected for each in (found, torchs)]
    lost = [value for e in errors for value in (e.abs().max() / expected.abs().max(), e.square().mean().sqrt() / rms)]
    largest, rms_error, torchs_largest, torchs_rms = (value.item() for value in lost)
    return largest, rms_error, torchs_largest, torchs_rms


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("channels", [16, 64, 160, 640])
def test_a_layer_loses_no_more_than_its_algorithm_may(name: str, channels: int) -> None:
    largest, rms, *_ = layer_errors(name, channels)
    assert largest <= LAYERS[name][2], f"{largest:.2e}"
    assert rms <= LAYERS[name][3], f"{rms:.2e}"
    if LAYERS[name][1] == 2 and channels == 64:
        assert layer_errors(name, channels, same=True)[0] <= LAYERS[name][2]


@settings(max_examples=120, derandomize=True)
@given(
    name=st.sampled_from(list(LAYERS)),
    isa=st.sampled_from(list(LIBRARY.isas)),
    size=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 18), st.integers(1, 18)),
    out=st.integers(1, 70),
    threads=st.integers(1, 5),
    block=st.sampled_from([1, 3, 28]),
    same=st.booleans(),
    in_place=st.booleans(),
)
def test_a_layer_of_any_shape_adds_its_residual_in_place_or_not(
    name: str, isa: str, size: tuple[int, int, int, int], out: int, threads: int, block: int, same: bool, in_place: bool
) -> None:
    fields, stride, bound, _ = LAYERS[name]
    same = same and stride == 2
    conv, x = conv3x3(size[1], out, stride, same=same), images(*size)
    with torch.no_grad():
        expected = copy.deepcopy(conv).double()(F.relu(x.double() * 1.25 + 0.125))
    res = images(*expected.shape, seed=1)
    given = {
        **fields,
        "block_tiles": block,
        "split": block,
        "group": 1 + threads % size[0],
        "block_panels": 1 + 98 * (block == 3),
    }
    found = conv_op(isa, conv, x, threads, act=True, res=res, in_place=in_place, same=same, **given)
    assert error(found, expected + res) <= bound


@pytest.mark.parametrize("isa", LIBRARY.isas)
@pytest.mark.parametrize("side", [3, 9])
def test_blocks_sharing_and_raw_filters_change_no_bit_of_a_layer(isa: str, side: int) -> None:
    """So that a table of blocks may change without a result that does."""
    conv, x = conv3x3(70, 40), images(2, 70, side, 2 * side)
    expected = conv_op(isa, conv, x)
    choices: tuple[dict[str, Any], ...] = (
        {"block_tiles": 1},
        {"block_tiles": 5, "block_panels": 99},
        {"share": 1, "block_tiles": 4},
        {"raw_filters": 1, "block_tiles": 64},
        {"raw_filters": 1, "block_tiles": 3, "share": 1},
    )
    for fields in choices:
        for threads in (1, 3):
            assert torch.equal(conv_op(isa, conv, x, threads, **fields), expected), fields


# --- Activations alone

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.5),
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "softplus": F.softplus,
    "pssilu": lambda x: x * (torch.sigmoid(0.5 * x) - 0.125) / (1 - 0.125),
}


def activated(isa: str, name: str, x: Tensor) -> Tensor:
    lanes, n = LIBRARY.lanes(isa), len(x)
    padded, y = F.pad(x[:, None], (0, lanes - 1)), torch.full((n, lanes), math.nan)
    op = Op(kind=library.ACTIVATE, act_in=library.ACTIVATIONS.index(name), alpha=0.5, beta=0.125, n=1, group=1)
    op.h, op.w, op.c, op.ho, op.wo, op.k = n, 1, 1, n, 1, 1
    op.x, op.y = padded.data_ptr(), y.data_ptr()
    ops = (Op * 1)(op)
    LIBRARY.run(isa, ops, 2, torch.zeros(LIBRARY.work_floats(isa, ops, 2)))
    assert not y[:, 1:].any()  # what pads a vector stays zero
    return y[:, 0]


@pytest.mark.parametrize("isa", LIBRARY.isas)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_exact_to_a_few_units_in_the_last_place(isa: str, name: str) -> None:
    x = torch.cat([torch.linspace(-100, 100, 40001), torch.logspace(-44, 1, 2000), -torch.logspace(-44, 1, 2000)])
    expected = ACTIVATIONS[name](x.double())
    lost = ((activated(isa, name, x) - expected).abs() / expected.abs().clamp(min=1)).max().item()
    assert lost < 1e-6, f"{lost:.2e}"  # gelu 9e-7 (torch 8e-7), the others below 2e-7


@pytest.mark.parametrize("isa", LIBRARY.isas)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_of_extremes_is_torchs(isa: str, name: str) -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 1e4, -1e4, 1e30, -1e30, 1e38, -1e38, -math.inf, math.nan])
    torch.testing.assert_close(activated(isa, name, x), ACTIVATIONS[name](x), equal_nan=True, rtol=1e-6, atol=1e-7)
    assert activated(isa, name, torch.tensor([math.inf])).item() == math.inf  # torch's own GELU: NaN
