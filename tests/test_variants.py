"""The options that published networks need: each against its definition, and all of them together."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_jobs import shapes
from torch import Tensor, nn

import wideresnet as wrn
from wideresnet import model as network
from wideresnet.dialects import find_dialect
from wideresnet.model import WideResidualBlock, WideResNetBackbone, WideResNetClassifier, count_macs


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def lively(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 1:
                low = 0.5 if key.endswith(("weight", "running_var")) else -0.3
                value.copy_(torch.rand(value.shape, generator=generator) * (1.5 - low if low > 0 else 0.6) + low)
    return model.eval()


def normed(block: nn.Module, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    state = block.state_dict()
    mean, var, scale, shift = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, scale, shift, eps=eps)


def weight(block: nn.Module, name: str) -> Tensor:
    found: Tensor = block.state_dict()[f"{name}.weight"]
    return found


def test_a_bypassed_block_reads_its_raw_input_twice_and_its_first_norm_has_no_effect() -> None:
    block, x = lively(WideResidualBlock(4, 6, 2, shortcut="bypass")), images(2, 4, 8, 8)
    out = F.conv2d(F.relu(normed(block, "bn2", F.conv2d(x, weight(block, "conv1"), stride=2, padding=1))), weight(
        block, "conv2"
    ), padding=1)  # fmt: skip
    torch.testing.assert_close(block(x), out + F.conv2d(x, weight(block, "proj"), stride=2))
    before = block(x)
    assert isinstance(block.bn1, nn.BatchNorm2d)
    nn.init.constant_(block.bn1.weight, 9.0)
    assert torch.equal(block(x), before)


def test_a_bypassed_norm_goes_on_counting_in_training_as_it_does_in_the_ports() -> None:
    block = WideResidualBlock(4, 6, 2, shortcut="bypass").train()
    block(images(2, 4, 8, 8) + 3)
    assert isinstance(block.bn1, nn.BatchNorm2d)
    assert block.bn1.running_mean is not None
    assert block.bn1.running_mean.min() > 0.3


def test_a_block_that_keeps_its_channels_is_never_bypassed() -> None:
    block, x = lively(WideResidualBlock(4, 4, 1, shortcut="bypass")), images(2, 4, 8, 8)
    plain = lively(WideResidualBlock(4, 4, 1))
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block(x), plain(x))


def test_of_a_network_that_bypasses_stage_1_is_activated_instead() -> None:
    backbone = WideResNetBackbone(10, 2, shortcut="bypass")
    found = {name: m.shortcut for name, m in backbone.named_modules() if isinstance(m, WideResidualBlock)}
    assert found == {"stage1.0": "activated", "stage2.0": "bypass", "stage3.0": "bypass"}


@pytest.mark.parametrize("side", [8, 9])
def test_an_averaged_shortcut_pools_the_raw_input_and_adds_channels_of_zeros_behind(side: int) -> None:
    block, x = lively(WideResidualBlock(4, 6, 2, shortcut="avgpool-pad")), images(2, 4, side, side)
    assert block.proj is None
    out = F.relu(normed(block, "bn1", x))
    out = F.conv2d(out, weight(block, "conv1"), stride=2, padding=1)
    out = F.conv2d(F.relu(normed(block, "bn2", out)), weight(block, "conv2"), padding=1)
    pooled = F.avg_pool2d(x, 2, ceil_mode=True)
    skip = torch.cat([pooled, torch.zeros(2, 2, *pooled.shape[2:])], 1)
    torch.testing.assert_close(block(x), out + skip)


def test_the_stride_may_be_the_second_convolutions() -> None:
    block = WideResidualBlock(4, 6, 2, stride_on="conv2")
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
    assert block(images(2, 4, 9, 9)).shape == (2, 6, 5, 5)


@given(height=st.integers(1, 12), width=st.integers(1, 12), stride=st.integers(2, 3))
def test_same_padding_is_tensorflows(height: int, width: int, stride: int) -> None:
    """https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2, for a kernel of 3."""
    block, x = WideResidualBlock(1, 1, stride, padding="same"), images(1, 1, height, width)
    pads = [max(3 - (stride if side % stride == 0 else side % stride), 0) for side in (height, width)]
    (top, left), (below, right) = ([pad // 2 for pad in pads], [pad - pad // 2 for pad in pads])
    expected = F.conv2d(F.pad(x, (left, right, top, below)), block.conv1.weight, stride=stride)
    assert torch.equal(block.conv1(x), expected)
    assert expected.shape[2:] == (-(-height // stride), -(-width // stride))


ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu,
    "leaky-relu-0.01": lambda x: torch.where(x > 0, x, 0.01 * x),
    "leaky-relu-0.1": lambda x: torch.where(x > 0, x, 0.1 * x),
    "leaky-relu-0.2": lambda x: torch.where(x > 0, x, 0.2 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "softplus": lambda x: (1 + x.exp()).log(),
    "pssilu": lambda x: x * (torch.sigmoid(x) - 1e-8) / (1 - 1e-8),
}


@pytest.mark.parametrize("name", get_args(network.Activation))
def test_each_activation_is_its_formula_in_every_place(name: Any) -> None:
    backbone = WideResNetBackbone(10, 1, activation=name)
    x = images(2, 3, 4, 4) * 6 - 3
    blocks = [m for m in backbone.modules() if isinstance(m, WideResidualBlock)]
    places: list[Any] = [backbone.activation, backbone.stem[2], *(block.activation for block in blocks)]
    for activation in places:
        torch.testing.assert_close(activation(x.clone()), ACTIVATIONS[name](x))


def test_a_learnt_activation_is_one_for_the_whole_network() -> None:
    model = WideResNetClassifier(10, 10, 1, activation="pssilu")
    learnt = {id(p) for key, p in model.named_parameters(remove_duplicate=False) if key.endswith("alpha")}
    assert len(learnt) == 1
    model(images(2, 3, 8, 8)).sum().backward()
    alphas = [p for key, p in model.named_parameters() if key.endswith("alpha")]
    assert len(alphas) == 1
    assert alphas[0].grad is not None
    assert alphas[0].grad.abs().item() > 0


def test_norms_have_the_eps_and_momentum_asked_for_and_the_last_its_own() -> None:
    options: Any = {"bn_eps": 1e-3, "bn_momentum": 0.01, "final_bn_eps": 1e-4, "final_bn_momentum": 0.9}
    backbone = WideResNetBackbone(10, 1, **options)
    found = {name: (m.eps, m.momentum) for name, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert found.pop("bn") == (1e-4, 0.9)
    assert set(found.values()) == {(1e-3, 0.01)}


@pytest.mark.parametrize(("conv_bias", "num"), [("none", 0), ("stem", 1), ("all", 1 + 3 * 2 + 2)])
def test_convolutions_have_biases_where_asked_for_and_they_begin_at_nothing(conv_bias: Any, num: int) -> None:
    backbone = WideResNetBackbone(10, 1, conv_bias=conv_bias)
    biases = [m.bias for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biases) == num
    assert all((bias == 0).all() for bias in biases)


def test_a_projection_in_each_stage_is_there_where_stage_1_widens_nothing() -> None:
    assert WideResNetBackbone(16, 1).stage1[0].proj is None
    backbone = WideResNetBackbone(16, 1, projection="each-stage")
    projects = {name: m.proj is not None for name, m in backbone.named_modules() if isinstance(m, WideResidualBlock)}
    assert projects == {f"stage{s}.{i}": i == 0 for s in (1, 2, 3) for i in (0, 1)}


def test_without_norms_there_is_none_anywhere_and_inputs_are_left_alone() -> None:
    model = WideResNetClassifier(10, 10, 1, norm="none", stem="conv")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    block, x = model.backbone.stage1[0], images(2, 16, 4, 4) - 0.5
    kept = x.clone()
    block(x)
    assert torch.equal(x, kept)


def test_a_cosine_head_gives_the_cosines_of_features_and_rows() -> None:
    model = lively(WideResNetClassifier(10, 10, 1, head="cosine"))
    x = images(4, 3, 8, 8)
    assert isinstance(model, WideResNetClassifier)
    features = model.pool(model.backbone(x)).flatten(1)
    torch.testing.assert_close(model(x), F.cosine_similarity(features[:, None], model.fc.weight[None], dim=2))
    assert model.fc.bias is None


def test_numbers_of_blocks_and_widths_may_differ_from_stage_to_stage() -> None:
    backbone = WideResNetBackbone(16, 1, num_blocks=(3, 1, 2), widths=(8, 24, 12))
    assert [len(stage) for stage in (backbone.stage1, backbone.stage2, backbone.stage3)] == [3, 1, 2]
    assert [x.shape[1] for x in backbone.stages(images(1, 3, 8, 8))] == [8, 24, 12]
    assert backbone.out_channels == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "activation='swish': expected one of 'relu'"),
        ({"bn_eps": 0}, "bn_eps=0: expected a number above 0"),
        ({"bn_momentum": 2}, "bn_momentum=2: expected a number above 0, up to 1"),
        ({"num_blocks": (3, 1, 2)}, "depth=28: num_blocks=.* make a depth of 16"),
        ({"widths": (8, 24)}, "widths=.* expected three numbers"),
        ({"widths": (8, 0, 12)}, "widths=0 is not an int from 1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_can(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNetClassifier(10, **options)


def test_an_option_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(TypeError, match="unknown option 'activatoin'; options are stem, shortcut"):
        WideResNetClassifier(10, 10, 1, activatoin="relu")  # type: ignore[call-arg]


def test_multiplications_are_counted_where_the_second_convolution_takes_the_stride() -> None:
    """By hand: 9·3·16 at 8×8; stages of 16, 32 and 64 channels, the first convolution of each at its input's size."""
    model = WideResNetClassifier(10, 10, 1, stride_on="conv2")
    stage1 = 2 * 9 * 16 * 16 * 64
    stage2 = 9 * 16 * 32 * 64 + 9 * 32 * 32 * 16 + 16 * 32 * 16
    stage3 = 9 * 32 * 64 * 16 + 9 * 64 * 64 * 4 + 32 * 64 * 4
    assert count_macs(model, 8, 8) == 9 * 3 * 16 * 64 + stage1 + stage2 + stage3 + 640


choices = {
    name: st.sampled_from(get_args(getattr(network, kind)))
    for name, kind in {
        "stem": "Stem",
        "shortcut": "Shortcut",
        "projection": "Projection",
        "stride_on": "StrideOn",
        "padding": "Padding",
        "dropout_at": "DropoutAt",
        "activation": "Activation",
        "norm": "Norm",
        "conv_bias": "ConvBias",
        "head": "Head",
    }.items()
}


@settings(max_examples=60)
@given(options=st.fixed_dictionaries(choices), side=st.integers(1, 9), widen_factor=st.integers(1, 2))
def test_any_options_together_train_save_load_and_take_any_size(options: Any, side: int, widen_factor: int) -> None:
    model = WideResNetClassifier(3, 10, widen_factor, 0.1, **options).train()
    x = images(2, 3, side, side + 1)
    model(x).square().sum().backward()
    unused = {"bn1"} if options["shortcut"] == "bypass" else set()
    assert not [k for k, p in model.named_parameters() if p.grad is None and not unused & set(k.split("."))]
    again = WideResNetClassifier(**model.architecture)
    again.load_state_dict(model.state_dict())
    logits = model.eval()(x)
    assert torch.equal(again.eval()(x), logits)
    assert torch.equal(copy.deepcopy(model)(x), logits)


@pytest.mark.parametrize(
    "options", [{"activation": "pssilu", "padding": "same"}, {"shortcut": "bypass"}, {"head": "cosine"}]
)
def test_variants_are_exported_for_any_size_and_batch(options: Any) -> None:
    model = lively(WideResNetClassifier(10, 10, 1, **options))
    dims = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (images(2, 3, 32, 32),), dynamic_shapes=(dims,)).module()
    x = images(3, 3, 21, 40)
    torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize("form", ["robustbench-dai2021pssilu", "kekmodel-fixmatch", "jem", "ddu-mod", "deepmind-swish"])
def test_a_published_variant_trains_and_goes_on_like_any_other(form: str, tmp_path: Path) -> None:
    shapes(tmp_path / "data", {"a": 20, "b": 20}, size=16)
    done = wrn.train(tmp_path / "data", arch=f"wrn_10_1.{form}", epochs=2, out=tmp_path / "run", watch=wrn.Watch())
    assert wrn.load(done.folder).card.architecture["shortcut"] == find_dialect(form).options["shortcut"]
    fine = wrn.train(tmp_path / "data", from_model=done.folder, epochs=1, out=tmp_path / "fine", watch=wrn.Watch())
    assert 0 <= fine.evaluation.accuracy <= 1
